"""Give a domain an adapter: a file beside its ``domain.yaml`` and one line in it, so that a stop at any moment leaves the old or the new."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mdsa_local.domains.config import DomainConfig
from mdsa_local.durable import replacing, write_whole
from mdsa_local.errors import ConfigError
from mdsa_local.settings import Settings, read_yaml, storage_error

FILE = "domain.yaml"


@dataclass(frozen=True, slots=True)
class Installed:
    """Where the adapter is now, the folder of its domain, whether that is a copy just made of a shipped one, and the lines there were before."""

    adapter: Path
    folder: Path
    copied: bool
    before: Mapping[str, str]


def install(adapter: Path, domain: DomainConfig, settings: Settings, model: str = "") -> Installed:
    """Copy ``adapter`` into the domain's folder and name it in ``domain.yaml``, with ``model`` too unless empty; all else in the file stays as it is.

    The file's name tells its content, so one in use is never written over; the adapter before it stays. A shipped domain is copied into
    ``$MDSA_HOME/domains`` first, where it takes the place of the shipped one. Raises :class:`StorageError` and :class:`ConfigError`.
    """
    folder, copied = _own_folder(domain, settings)
    try:
        name = f"adapter-{hashlib.sha256(adapter.read_bytes()).hexdigest()[:12]}.gguf"
        if not (folder / name).is_file():
            with replacing(folder / name) as partial:
                shutil.copyfile(adapter, partial)
        lines = {"adapter": name} | ({"model": model} if model else {})
        # As it is: read as text, its ends of lines would be changed.
        text = (folder / FILE).read_bytes().decode()
        before = {key: str(value) for key, value in read_yaml(folder / FILE).items() if key in lines}
        changed = edited(text, lines)
        _check(folder, changed, lines, settings)
        write_whole(folder / FILE, changed)
    except OSError as error:
        raise storage_error(error, folder) from None
    return Installed(folder / name, folder, copied, before)


def installable(domain: DomainConfig, settings: Settings) -> None:
    """Raise what :func:`install` would raise for want of a place, for who has hours of work before it."""
    if domain.folder is None:
        raise ConfigError(
            f"the domain {domain.name!r} has no folder to keep an adapter in", f"Make {settings.home / 'domains' / domain.name / FILE}."
        )
    place = settings.writable(domain.folder if _is_own(domain, settings) else settings.home / "domains")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise storage_error(error, place) from None


def _is_own(domain: DomainConfig, settings: Settings) -> bool:
    """Whether the domain's folder is in ``$MDSA_HOME``."""
    return domain.folder is not None and domain.folder.parent.resolve() == (settings.home / "domains").resolve()


def edited(text: str, lines: Mapping[str, str]) -> str:
    """A YAML mapping with top-level keys set to plain strings, comments, ends of lines and all else untouched."""
    end = "\r\n" if "\r\n" in text else "\n"
    for key, value in lines.items():
        line = f"{key}: {quoted(value)}"
        if found := re.search(rf"^{key}[ ]*:[^\r\n]*?(?P<comment>[ \t]+#[^\r\n]*)?(?=\r?$)", text, flags=re.MULTILINE):
            text = text[: found.start()] + line + (found["comment"] or "") + text[found.end() :]
        else:
            text = f"{text.rstrip()}{end}{line}{end}" if text.strip() else f"{line}{end}"
    return text


def quoted(value: str) -> str:
    """A string as YAML, in quotes where it needs them."""
    return value if re.fullmatch(r"[\w./][\w./-]*", value) else "'" + value.replace("'", "''") + "'"


def _own_folder(domain: DomainConfig, settings: Settings) -> tuple[Path, bool]:
    """The domain's folder in ``$MDSA_HOME``, made from the shipped one where there is none, and whether it was made now."""
    installable(domain, settings)
    assert domain.folder is not None
    if _is_own(domain, settings):
        return domain.folder, False
    own = settings.home / "domains" / domain.name
    scratch = settings.writable(settings.home / "cache")
    try:
        # Not beside its place: every folder there that holds a domain.yaml is a domain.
        with tempfile.TemporaryDirectory(dir=scratch, prefix="install-") as made:
            copy = Path(made) / domain.name
            shutil.copytree(domain.folder, copy)
            if own.is_dir():
                # The user's own files, such as documents, are there already; with its domain.yaml, which comes last, it is the domain's.
                (copy / FILE).rename(Path(made) / FILE)
                shutil.copytree(copy, own, dirs_exist_ok=True, copy_function=_where_none_is)
                (Path(made) / FILE).rename(own / FILE)
            else:
                copy.rename(own)
    except OSError as error:
        raise storage_error(error, own) from None
    return own, True


def _where_none_is(source: str, target: str) -> str:
    """Copy a file unless there is one."""
    return target if Path(target).exists() else str(shutil.copy2(source, target))


def _check(folder: Path, changed: str, lines: Mapping[str, str], settings: Settings) -> None:
    """Raise :class:`ConfigError` when ``changed`` does not say just what ``domain.yaml`` says and ``lines``."""
    advice = f"Write {' and '.join(f'{key}: {quoted(value)}' for key, value in lines.items())} into it by hand."
    with tempfile.TemporaryDirectory(dir=settings.writable(settings.home / "cache"), prefix="install-") as made:
        trial = Path(made) / FILE
        trial.write_bytes(changed.encode())
        try:
            found = read_yaml(trial)
        except ConfigError:
            found = {}
    if found != {**read_yaml(folder / FILE), **lines}:
        raise ConfigError(f"{folder / FILE}: cannot set {', '.join(lines)} without touching the rest", advice)
