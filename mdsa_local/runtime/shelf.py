"""Models in the user's folder: pulled, added by reference, quantised and removed, so that a stop at any moment leaves all of it usable.

A model is a folder with ``model.yaml`` and files. A file counts only once ``model.yaml`` names it, and that is written last and whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from mdsa_local.durable import on_disk, only_one, settle, write_whole
from mdsa_local.errors import (
    ConfigError,
    InputError,
    ModelError,
    ModelFileError,
    ModelMemoryError,
    ModelNotFoundError,
    StorageError,
    UnknownNameError,
)
from mdsa_local.runtime.catalog import FileEntry, ModelFile, find, giver, on_card, read_card
from mdsa_local.runtime.cores import within_cores
from mdsa_local.runtime.download import Fetcher, Progress, Remote, forget, need_room
from mdsa_local.runtime.gguf import HINT, MAGIC, WHOLE, GGUFInfo, read_gguf, text_metadata
from mdsa_local.runtime.hardware import memory_budget_bytes
from mdsa_local.runtime.residency import describe_bytes
from mdsa_local.settings import Settings, read_yaml, shipped, storage_error, user_path

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# llama_ftype of llama.h.
QUANTIZATIONS = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "Q5_K_M": 17}
PLAIN = ("F32", "F16", "BF16")
# Behind the name of a file that is being made; nothing goes on with such a one, as a download does with its own.
QUANTISING = ".quantising.partial"
REVISION = re.compile(r"^(hf://[^/@]+/[^/@]+)@[^/]+")
# One file of several; the first of one holds all.
PART = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$")
# So long another may take to write a card.
PATIENCE_S = 10.0


def silent(done: int, total: int) -> None:
    """Progress that is told to nobody."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on a hub: ``hf://owner/repository/path/file.gguf``, perhaps with ``@revision`` behind the repository."""

    repository: str
    revision: str
    path: str

    @classmethod
    def parse(cls, ref: str) -> HubFile:
        """Raises :class:`InputError` for anything but a GGUF file."""
        match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+?))?/([\w./ +-]+(?i:\.gguf))", ref.strip())
        if not match or ".." in match[3].split("/"):
            raise InputError(f"{ref!r} is no file on a hub", "Write hf://owner/repository/file.gguf, or a name from `mdsa models list --catalog`.")
        return cls(match[1], match[2] or "main", match[3])

    def url(self, hub_url: str) -> str:
        """Where the hub hands it out."""
        return f"{hub_url.rstrip('/')}/{self.repository}/resolve/{self.revision}/{self.path}"

    @property
    def source(self) -> str:
        """The reference, as it can be pulled again."""
        return f"hf://{self.repository}{'' if self.revision == 'main' else f'@{self.revision}'}/{self.path}"

    @property
    def file_name(self) -> str:
        """Without folders."""
        return self.path.rpartition("/")[2]


def storage_hosts(hub_url: str) -> tuple[str, ...]:
    """Where a hub keeps large files, beside itself, as :class:`~mdsa_local.runtime.download.Fetcher` takes it; known of huggingface.co alone."""
    return (".huggingface.co", ".hf.co") if urlsplit(hub_url).hostname == "huggingface.co" else ()


def pull(
    file: HubFile,
    name: str,
    variant: str,
    settings: Settings,
    fetcher: Fetcher,
    *,
    facts: Mapping[str, Any],
    sha256: str = "",
    anyway: bool = False,
    progress: Progress = silent,
) -> ModelFile:
    """Download a file as ``variant`` of the model ``name``. What an earlier call left is gone on with; a file that is there and whole is left alone,
    and one that is not stays until another can take its place.

    ``facts`` go into model.yaml. Raises :class:`ModelMemoryError` before the download when the file alone is larger than the memory budget and
    not ``anyway``, :class:`InputError` for one part of a split model, when neither the hub nor the caller says its SHA-256 and when the name is
    taken, :class:`ConfigError` for a wrong model.yaml, and as :class:`~mdsa_local.runtime.download.Fetcher`.
    """
    folder = home_folder(settings, name)
    sha256 = sha256.strip().lower()
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        # No file has it: all would be fetched, and then thrown away.
        raise InputError(f"{sha256!r} is no SHA-256", "Give its 64 hexadecimal digits.")
    if PART.search(file.file_name):
        raise InputError(f"{file.file_name} is one part of a split model", WHOLE)
    remote = fetcher.look_up(file.url(settings.hub_url))
    if sha256 and remote.sha256 and sha256 != remote.sha256:
        raise ModelFileError(f"{remote.url}: the hub says SHA-256 {remote.sha256}, you say {sha256}", "Check the address and the hash.")
    remote = Remote(remote.url, remote.size_bytes, remote.sha256 or sha256, remote.version, MAGIC)
    if not remote.sha256:
        raise InputError(f"{remote.url}: the server does not say its SHA-256", "Give it with --sha256, from a source that you trust.")
    budget = memory_budget_bytes(settings.memory_budget_mb)
    if remote.size_bytes > budget and not anyway:
        raise ModelMemoryError(
            f"{file.file_name} has {describe_bytes(remote.size_bytes)}, the memory budget is {describe_bytes(budget)}",
            "See `mdsa models fit` for what fits, raise memory_budget_mb, or say --anyway.",
        )
    target = folder / file.file_name
    entry = {"file": file.file_name, "sha256": remote.sha256, "size_bytes": remote.size_bytes}
    same = _is_named(folder, variant, entry)
    if not same:
        _refuse_another(folder, variant, file.source, settings)
    if not (same and _is_whole(target, remote, progress)):
        settings.writable(folder)
        try:
            fetcher.fetch(remote, target, progress, lambda partial: _refuse_fetched(partial, remote.url))
        finally:
            # Empty where nothing of it is worth going on with.
            with suppress(OSError):
                folder.rmdir()
    return _enter(folder, variant, {**entry, "source": file.source}, facts, settings)


def add(path: Path, name: str, settings: Settings, progress: Progress = silent) -> ModelFile:
    """Reference a GGUF file where it lies. Raises :class:`ModelFileError` for what is none, or an adapter, :class:`InputError` when the name is taken
    by another that is still where it was."""
    path = user_path(path, InputError)
    info = _refuse_no_model(path)
    folder = home_folder(settings, name)
    variant = info.quantization.lower()
    _refuse_another(folder, variant, str(path), settings)
    settings.writable(folder)
    entry = {"path": str(path), "sha256": sha256_of(path, progress), "size_bytes": info.size_bytes}
    return _enter(folder, variant, entry, {}, settings)


def remove(name: str, settings: Settings) -> tuple[list[Path], int]:
    """Remove a model, or one variant as ``model-variant``, from the user's folder; the files removed and the bytes that frees.

    An unfinished download, or what quantising left, goes by the name it was to have. A file that was added by reference stays where it lies, as does
    what a link leads to. Raises
    :class:`ModelNotFoundError` that lists what can be removed, :class:`InputError` while another process is making a file of it and for a folder that
    holds something else, :class:`ConfigError` for a wrong model.yaml, of which nobody knows what it names.
    """
    top = settings.home / "models"
    cards = {path.parent.name: path for path in sorted(top.glob("*/model.yaml"))}
    loose = {path.stem: path for path in sorted(top.glob("*.gguf"))}
    begun = {path.parent.name for path in (*unfinished(settings), *leftovers(settings))}
    variants = dict[str, tuple[str, str]]()
    for model in cards:
        # One that is wrong does not keep others from being removed.
        with suppress(ConfigError):
            variants |= {f"{model}-{variant}": (model, variant) for variant in _files(top / model)}
    if name not in (every := {*cards, *variants, *loose, *begun}):
        raise ModelNotFoundError.among("model of yours", name, every)
    try:
        with _writing_cards(top):
            if name in cards or name in begun:
                _refuse_unfinished(top / name)
            if name in cards:
                files = [entry.beside(top / name) for entry in _named(top / name).values() if entry.file]
                # The card first: a model without its card is rubbish, a card without its files is broken.
                with _or_as_before(cards[name]):
                    cards[name].unlink()
                    return files, _deleted(files, top / name)
            if name in variants:
                return _removed_variant(top / variants[name][0], variants[name][1])
            if name in loose:
                if not (loose[name].is_symlink() or loose[name].is_file()):
                    raise InputError(f"{loose[name]} is no file", "It is no model: remove it by hand.")
                return [loose[name]], _deleted([loose[name]], None)
            return [], _deleted([], top / name)
    except OSError as error:
        raise storage_error(error, top / name) from None


def quantize(
    source: ModelFile, kind: str, name: str, settings: Settings, threads: int = 0, working: Callable[[], AbstractContextManager[object]] = nullcontext
) -> ModelFile:
    """Make a smaller file of an F16, BF16 or F32 one by llama.cpp, as another variant of the model ``name``.

    What is refused is refused at once; all that takes long happens within ``working``.
    Raises :class:`InputError` for an unknown kind, for a source that is quantised already and when the name is taken, :class:`StorageError`,
    :class:`ModelError`.
    """
    from mdsa_local.runtime.library import OTHER_BUILD
    from mdsa_local.runtime.quantising import quantised

    if kind.upper() not in QUANTIZATIONS:
        raise UnknownNameError.among("quantisation", kind, QUANTIZATIONS)
    kind = kind.upper()
    info = read_gguf(source.path)
    if info.quantization not in PLAIN:
        raise InputError(f"{source.path} is {info.quantization} already", f"Quantising twice loses more: give an {', '.join(PLAIN)} file.")
    folder = home_folder(settings, name)
    made_of = f"quantised from {source.path}"
    _refuse_another(folder, kind.lower(), made_of, settings)
    settings.writable(folder)
    target = folder / f"{name}-{kind.lower()}.gguf"
    # The largest of them, Q8_0, takes 8.5 bits a weight; small tensors stay as they are.
    need_room(folder, info.n_parameters * 9 // 8)
    partial = target.with_name(f"{target.name}{QUANTISING}")
    try:
        with only_one(partial.with_name(f"{partial.name}.lock"), target), working():
            try:
                if reason := quantised(source.path, partial, QUANTIZATIONS[kind], within_cores(threads or settings.threads)):
                    raise ModelError(reason, OTHER_BUILD)
                read_gguf(partial)
                digest = sha256_of(partial)
                with partial.open("rb+") as made:
                    on_disk(made.fileno())
                settle(partial, target)
            finally:
                forget(partial)
    except OSError as error:
        raise storage_error(error, target) from None
    finally:
        with suppress(OSError):
            folder.rmdir()
    entry = {"file": target.name, "sha256": digest, "size_bytes": target.stat().st_size, "source": made_of}
    return _enter(folder, kind.lower(), entry, {}, settings)


def unfinished(settings: Settings) -> list[Path]:
    """Partial files that no running call will go on with by itself; pulling the same file again does."""
    return sorted((settings.home / "models").glob("*/*.gguf.partial"))


def leftovers(settings: Settings) -> list[Path]:
    """What quantising left where it was killed; making the same file again begins anew."""
    return sorted((settings.home / "models").glob(f"*/*.gguf{QUANTISING}"))


def home_folder(settings: Settings, name: str) -> Path:
    """The folder of a model of the user's. Raises :class:`InputError` for a name that is no safe folder name, or that of a model that ships."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name for a model", "Names have a-z, 0-9, . _ and -, begin with a letter or digit, and at most 64 characters."
        )
    if (shipped("models") / name).is_dir():
        raise InputError(f"{name} ships with mdsa_local; a model of yours would take its place in every domain", "Give another name with --name.")
    return settings.home / "models" / name


def plain_name(text: str) -> str:
    """A name for a model from the name of its file, without its quantisation."""
    stem = re.sub(r"[-._](?:I?Q\d[\w]*|B?F16|F32)$", "", re.sub(r"\.gguf$", "", text, flags=re.IGNORECASE), flags=re.IGNORECASE)
    return (re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._") or "model")[:64]


def variant_of(text: str) -> str:
    """The quantisation in the name of a file, in small letters; ``file`` where there is none."""
    match = re.search(r"(I?Q\d[\w]*|B?F16|F32)(?=\.gguf$)", text, re.IGNORECASE)
    return match[1].lower() if match else "file"


def sha256_of(path: Path, progress: Callable[[int, int], None] = silent) -> str:
    """The hash of a file, told in steps of 16 MB. Raises :class:`StorageError` when it cannot be read."""
    digest, done = hashlib.sha256(), 0
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
                done += len(chunk)
                progress(done, total)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}", "Check its permissions.") from None
    return digest.hexdigest()


def header(model: ModelFile) -> GGUFInfo:
    """What the file of a model says of itself. Raises as :func:`~mdsa_local.runtime.gguf.read_gguf`."""
    return read_gguf(model.path)


def find_source(ref: str, settings: Settings) -> ModelFile:
    """A model by name or by path. Raises :class:`ModelNotFoundError`."""
    if ref.lower().endswith(".gguf"):
        path = user_path(ref, InputError)
        return ModelFile(plain_name(path.name), path)
    return find(ref, settings.model_dirs)


def _card(folder: Path) -> dict[str, Any]:
    path = folder / "model.yaml"
    card = read_yaml(path) if path.is_file() else {}
    return {**card, "files": card["files"]} if isinstance(card.get("files"), dict) else {**card, "files": {}}


def _files(folder: Path) -> dict[str, FileEntry]:
    """The files that the card in a folder names; none without one, or where it is of no language model. Raises :class:`ConfigError`."""
    path = folder / "model.yaml"
    card = read_card(path) if path.is_file() else None
    return dict(card.files) if card else {}


def _named(folder: Path) -> dict[str, FileEntry]:
    """As :func:`_files`, for what is to be removed. Raises :class:`InputError` where the card is of no language model too."""
    by_hand = f"Remove its folder by hand: {folder}"
    try:
        files = _files(folder)
    except ConfigError as error:
        raise ConfigError(str(error), f"Mend it. Or: {by_hand}") from None
    if not files:
        raise InputError(f"{folder / 'model.yaml'} names no GGUF file, so what belongs to it is unknown", by_hand)
    return files


def _refuse_no_model(path: Path) -> GGUFInfo:
    """What the header of a model says. Raises as :func:`~mdsa_local.runtime.gguf.read_gguf`, and :class:`ModelFileError` for an adapter."""
    info = read_gguf(path)
    if text_metadata(path).get("general.type") == "adapter":
        raise ModelFileError(f"{path} is an adapter, no model by itself", "Name it in a domain.yaml beside its model: adapter: FILE.")
    return info


def _refuse_fetched(partial: Path, url: str) -> None:
    """As :func:`_refuse_no_model`, in words of where the file comes from."""
    try:
        _refuse_no_model(partial)
    except ModelFileError as error:
        hint = error.hint if error.hint != HINT else "It is as the hub has it: choose another file."
        raise ModelFileError(str(error).replace(str(partial), url, 1), hint) from None


def _is_whole(path: Path, remote: Remote, progress: Progress) -> bool:
    """Whether a file is there and right: one that was damaged since is fetched again."""
    return path.is_file() and path.stat().st_size == remote.size_bytes and sha256_of(path, progress) == remote.sha256


def _writing_cards(models: Path) -> AbstractContextManager[None]:
    """Let no other process write a card meanwhile: what it has in it would be lost. That takes milliseconds, so it is waited for. Raises
    :class:`OSError`."""
    return only_one(models / ".lock", models, PATIENCE_S)


def _is_named(folder: Path, variant: str, entry: Mapping[str, Any]) -> bool:
    """Whether the card in a folder names this very file beside it already."""
    taken = _files(folder).get(variant)
    return taken is not None and bool(taken.file) and all(getattr(taken, key) == entry.get(key) for key in ("file", "sha256", "size_bytes"))


def _refuse_another(folder: Path, variant: str, source: str, settings: Settings) -> None:
    """Raise :class:`InputError` where the model has a file of this variant from elsewhere, unless it was added and is no longer where it lay, where
    the folder holds what is no language model, and where another model has one of the names. Another revision of a file is the same file."""
    taken, card = _files(folder), _card(folder)
    if card["files"] and not taken:
        raise InputError(f"{folder} holds something else than GGUF files", "Give another name with --name.")
    for name in (folder.name, f"{folder.name}-{variant}"):
        # The name of a file is that of its model and the variant, which another model may be called.
        if (other := giver(name, settings.model_dirs)) not in (None, folder):
            raise InputError(f"{name} is the name of another model already, in {other}", "Give another name with --name.")
    if not (entry := taken.get(variant)) or (entry.path and not entry.path.exists()):
        return
    if REVISION.sub(r"\1", there := str(entry.path or entry.source or card.get("source"))) != REVISION.sub(r"\1", source):
        raise InputError(
            f"the model {folder.name} has a {variant} file already, {there}",
            f"Give another name with --name, or remove that one: mdsa models rm {folder.name}-{variant}",
        )


def _enter(folder: Path, variant: str, entry: Mapping[str, Any], facts: Mapping[str, Any], settings: Settings) -> ModelFile:
    """Name a file in the model's card, which makes it a model. Raises :class:`InputError` as :func:`_refuse_another`: another may have come first."""
    try:
        with _writing_cards(folder.parent):
            if not _is_named(folder, variant, entry):
                try:
                    _refuse_another(folder, variant, str(entry.get("source") or entry.get("path")), settings)
                except InputError:
                    # Fetched or made for nothing: nobody would ever remove it.
                    if (made := entry.get("file")) and made not in {named.file for named in _files(folder).values()}:
                        (folder / made).unlink(missing_ok=True)
                    raise
            card = _card(folder)
            files = {**card["files"], variant: dict(entry)}
            default = card.get("default") if card.get("default") in files else variant
            new = {**facts, **{key: value for key, value in card.items() if key not in ("files", "default")}, "files": files, "default": default}
            write_whole(folder / "model.yaml", yaml.safe_dump(new, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise storage_error(error, folder) from None
    return next(model for model in on_card(folder / "model.yaml") if model.name == f"{folder.name}-{variant}")


def _removed_variant(folder: Path, variant: str) -> tuple[list[Path], int]:
    card, named = _card(folder), _named(folder)
    entry = named.pop(variant)
    card["files"].pop(variant)
    files = [entry.beside(folder)] if entry.file and entry.file not in {other.file for other in named.values()} else []
    with _or_as_before(folder / "model.yaml"):
        if not card["files"]:
            _refuse_unfinished(folder)
            (folder / "model.yaml").unlink()
        else:
            default = card["default"] if card.get("default") in card["files"] else next(iter(card["files"]))
            write_whole(folder / "model.yaml", yaml.safe_dump({**card, "default": default}, sort_keys=False, allow_unicode=True))
        return files, _deleted(files, None if card["files"] else folder)


@contextmanager
def _or_as_before(card: Path) -> Iterator[None]:
    """Put a card back where a file of its model could not be deleted, as Windows keeps one that a program uses: it can be removed again later."""
    text = card.read_bytes()
    try:
        yield
    except OSError:
        with suppress(OSError):
            card.write_bytes(text)
        raise


def _refuse_unfinished(folder: Path) -> None:
    """Raise :class:`InputError` where another process is pulling or making a file in the folder: it would find its work gone at the end."""
    for partial in folder.glob("*.partial"):
        with only_one(partial.with_name(f"{partial.name}.lock"), partial):
            pass


def _deleted(files: list[Path], folder: Path | None) -> int:
    """Delete the files, and the folder with what is left of broken downloads in it, unless it holds something else; the bytes freed. Of a link only
    the link goes, which frees nothing."""
    freed = 0
    for path in [*files, *(folder.glob("*.partial*") if folder else ())]:
        if path.is_symlink():
            path.unlink()
        elif path.is_file():
            freed += path.stat().st_size
            path.unlink()
    if folder and not any(folder.iterdir()):
        folder.rmdir()
    return freed
