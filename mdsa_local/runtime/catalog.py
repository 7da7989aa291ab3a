"""Names of models: folders ``<name>/model.yaml`` and files ``<name>.gguf`` in the model folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mdsa_local.errors import ConfigError, ModelFileError, ModelNotFoundError, looking
from mdsa_local.runtime.backend import HUB, parse_reference
from mdsa_local.runtime.gguf import MISSING
from mdsa_local.settings import explain, read_yaml

# Hashing takes 1.4 s a gigabyte on an AMD EPYC, beside reading it: nothing for a small file, a wait before each start with a large one.
REMEMBERED_BYTES = 64 << 20
AGAIN = "Download or install the model again; one of yours that was moved or changed: mdsa models add FILE --name NAME."


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file. ``sha256`` is empty and ``size_bytes`` 0 where no model.yaml says them.

    ``decoding`` is ``quotes`` for a model that answers by quotation only; see :mod:`mdsa_local.domains.quoting`. ``source`` is where it came from.
    """

    name: str
    path: Path
    sha256: str = ""
    size_bytes: int = 0
    decoding: str = ""
    source: str = ""


class FileEntry(BaseModel):
    """One file in a model.yaml: ``file`` beside it, or ``path`` to where a file lies that was added by reference."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field("", pattern=r"^[^/\\]*$")
    path: Path | None = None
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    size_bytes: int = Field(0, ge=0)
    source: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.file) == bool(self.path) or (self.path and not self.path.is_absolute()):
            raise ValueError("give either file, a name beside model.yaml, or path, an absolute path")
        # On Windows C:NAME lies elsewhere.
        if self.file in (".", "..") or Path(self.file).name != self.file:
            raise ValueError(f"file {self.file!r} is no name beside model.yaml")
        return self

    def beside(self, folder: Path) -> Path:
        """Where the file lies for a model.yaml in ``folder``."""
        return self.path or folder / self.file


class ModelCard(BaseModel):
    """What this module reads of a model.yaml; other keys describe the model to people."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    files: Mapping[str, FileEntry]
    default: str
    decoding: Literal["", "quotes"] = ""
    source: str = ""


def find(name: str, folders: Sequence[Path]) -> ModelFile:
    """The file of ``name`` (``nano``, ``nano-int4``), from the first folder that has it; of ``hf://owner/repository/file.gguf`` the one that was
    pulled from there.

    Raises :class:`ModelNotFoundError` that lists the known names, or says how the file is pulled.
    """
    models = known(folders)
    if name.startswith(f"{HUB}://"):
        if (pulled := next((model for model in models.values() if model.source == name), None)) is not None:
            return pulled
        raise ModelNotFoundError(f"no model here was pulled from {name}", f"Fetch it, and use the name that this tells: mdsa models pull {name}")
    if name not in models:
        unknown = ModelNotFoundError.among("model", name, models)
        elsewhere = (
            f"If Ollama has it, write ollama://{name}; a file is given by a path that ends in .gguf, a server's model as openai://host:port/name."
        )
        raise ModelNotFoundError(str(unknown), f"{unknown.hint} {elsewhere}")
    return models[name]


@looking(ModelFileError)
def refuse_unknown(references: Iterable[str], folders: Sequence[Path]) -> None:
    """Raise for a model reference that can be none, before anything is done for it: :class:`ModelNotFoundError` for an unknown name or a file that is
    not there, :class:`ModelFileError` for one that cannot be seen, and as :func:`~mdsa_local.runtime.backend.parse_reference`. What other programs
    hold only they know; that is met by who asks them."""
    for reference in map(parse_reference, references):
        if reference.scheme == "name":
            model = find(reference.target, folders)
            if not model.path.is_file():
                raise _missing(model)
        elif reference.scheme == "gguf" and not Path(reference.target).is_file():
            raise ModelNotFoundError(f"no model file {reference.target}", MISSING)


def perhaps_meant(target: str, folders: Sequence[Path]) -> str:
    """A sentence for who writes ``nano:int4`` for ``nano-int4``, which is taken for a model of Ollama; empty where no model here is called so."""
    name, colon, _ = target.partition(":")
    with suppress(ConfigError):
        models = known(folders)
        if near := next((model for model in (target.replace(":", "-"), name) if colon and model in models), ""):
            return f"A name with a colon is a model of Ollama; the one in this program is called {near}."
    return ""


@looking(ModelFileError)
def at(path: Path) -> ModelFile | None:
    """What a ``model.yaml`` beside the file ``path`` says of it; None without one that names it. Raises :class:`ConfigError` for a wrong one, and
    :class:`ModelFileError` where it cannot be seen."""
    card = path.parent / "model.yaml"
    return next((model for model in on_card(card) if model.path == path), None) if card.is_file() else None


def known(folders: Sequence[Path]) -> dict[str, ModelFile]:
    """All models in ``folders`` by name; an earlier folder hides a later one. Raises :class:`ConfigError` for a wrong model.yaml."""
    models: dict[str, ModelFile] = {}
    for folder in folders:
        for model in _in_folder(folder):
            models.setdefault(model.name, model)
    return models


def giver(name: str, folders: Sequence[Path]) -> Path | None:
    """What gives a model of :func:`known` its name: the folder with its model.yaml, or the file that is called so. A wrong model.yaml gives none."""
    for folder in folders:
        for card in sorted(folder.glob("*/model.yaml")):
            with suppress(ConfigError):
                if any(model.name == name for model in on_card(card)):
                    return card.parent
        if (folder / f"{name}.gguf").exists():
            return folder / f"{name}.gguf"
    return None


def verify(model: ModelFile, seen: Path | None = None) -> None:
    """Compare size and SHA-256 with what model.yaml says. Raises :class:`ModelNotFoundError` and :class:`ModelFileError`.

    ``seen`` is a folder that remembers which files were found right: those larger than 64 MB are read again only after they changed.
    """
    try:
        status = model.path.stat()
        size = status.st_size
        if model.size_bytes and size != model.size_bytes:
            raise ModelFileError(f"{model.path}: has {size} bytes, its model.yaml says {model.size_bytes}", AGAIN)
        known = f"{model.sha256} {size} {status.st_mtime_ns}"
        stamp = seen / f"{hashlib.sha256(str(model.path).encode()).hexdigest()[:32]}" if seen and size > REMEMBERED_BYTES else None
        if stamp and stamp.is_file() and stamp.read_text(encoding="utf-8") == known:
            return
        if model.sha256:
            with model.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != model.sha256:
                raise ModelFileError(f"{model.path}: its SHA-256 is {found}, its model.yaml says {model.sha256}", AGAIN)
            if stamp:
                # Where it cannot be remembered, the file is read again next time.
                with suppress(OSError):
                    stamp.parent.mkdir(parents=True, exist_ok=True)
                    stamp.write_text(known, encoding="utf-8")
    except FileNotFoundError:
        raise _missing(model) from None
    except OSError as error:
        raise ModelFileError(f"{model.path}: cannot be read: {error.strerror or error}", "Check its permissions.") from None


def _missing(model: ModelFile) -> ModelNotFoundError:
    return ModelNotFoundError(f"{model.name}: its file {model.path} is missing", AGAIN)


def _in_folder(folder: Path) -> Iterator[ModelFile]:
    for card in sorted(folder.glob("*/model.yaml")):
        yield from on_card(card)
    for path in sorted(folder.glob("*.gguf")):
        yield ModelFile(path.stem, path)


def read_card(path: Path) -> ModelCard | None:
    """A model.yaml; None for what is no language model, such as the encoder. Raises :class:`ConfigError` for a wrong one."""
    values = read_yaml(path)
    files = values.get("files")
    entries = [entry for entry in files.values() if isinstance(entry, dict)] if isinstance(files, dict) else []
    # What is added by its path was looked into; Ollama's files have names without an ending.
    if not any(entry.get("path") or str(entry.get("file") or "").lower().endswith(".gguf") for entry in entries):
        return None
    try:
        card = ModelCard.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            f"{path}: {explain(error)}", "Expected: files: {int8: {file: NAME.gguf, sha256: HEX, size_bytes: N}}, default: int8"
        ) from None
    if card.default not in card.files:
        raise ConfigError(f"{path}: key 'default' is {card.default!r}", f"Choose one of: {', '.join(sorted(card.files))}.")
    return card


def on_card(path: Path) -> Iterator[ModelFile]:
    """The files of one model.yaml, under its name and under ``name-variant``. Raises as :func:`read_card`."""
    folder = path.parent
    if (card := read_card(path)) is None:
        return
    for variant, entry in card.files.items():
        source = entry.source or str(entry.path or card.source)
        model = ModelFile(f"{folder.name}-{variant}", entry.beside(folder), entry.sha256, entry.size_bytes, card.decoding, source)
        yield model
        if variant == card.default:
            yield replace(model, name=folder.name)
