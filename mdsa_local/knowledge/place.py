"""Where knowledge bases are: a folder on this machine, or a URI that LanceDB takes, such as ``s3://bucket/prefix``."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from mdsa_local.errors import ConfigError, expected
from mdsa_local.settings import default_home, user_path

# One letter before the colon is a drive of Windows.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def located(given: str | Path) -> Path | str:
    """The absolute folder, or the URI of a place elsewhere as it was given. Raises :class:`ConfigError` for LanceDB's cloud and for no bucket."""
    expected(given, str | Path, "the place of knowledge bases", "Give a folder, or the URI of an object store: s3://bucket/prefix.", ConfigError)
    text = str(given)
    if isinstance(given, Path) or not _SCHEME.match(text):
        return user_path(given)
    parts = urlsplit(text)
    if parts.scheme == "file":
        # 11 ms, for HTTP.
        from urllib.request import url2pathname

        return Path(url2pathname(parts.path)).absolute()
    if parts.scheme == "db":
        raise ConfigError(
            f"{text}: knowledge bases cannot be in LanceDB's cloud", "Give a folder, or the URI of an object store: s3://bucket/prefix."
        )
    if not parts.netloc and parts.scheme != "memory":
        raise ConfigError(f"{text}: names no bucket", "Write it like s3://bucket/prefix.")
    return text.rstrip("/") if parts.netloc else text


def lasts(place: Path | str) -> bool:
    """Whether what is stored there is found by whoever opens it next; what is only in memory is not."""
    return isinstance(place, Path) or urlsplit(place).scheme != "memory"


def own_folder(place: Path | str, home: Path | None = None) -> Path:
    """Where this machine keeps its locks, and what it has ingested: the folder itself, or one in the home (None: the default one) for a URI.

    An object store knows no locks; there, commits of several machines are kept apart by LanceDB.
    """
    if isinstance(place, Path):
        return place
    return (home or default_home(os.environ)) / "elsewhere" / hashlib.sha256(place.encode()).hexdigest()[:16]


def stamp(place: Path | str, home: Path | None = None) -> Path:
    """The file that tells which documents were last brought in step; see :mod:`mdsa_local.knowledge.sync`."""
    return own_folder(place, home) / "synced"


def forget(place: Path | str, home: Path | None = None) -> None:
    """Let the next question bring the documents in step again."""
    with suppress(FileNotFoundError):
        stamp(place, home).unlink()


@contextmanager
def out_of_step(place: Path | str, home: Path | None = None) -> Iterator[None]:
    """As :func:`forget`, for what is done meanwhile, also where that is broken off."""
    forget(place, home)
    try:
        yield
    finally:
        # Another program may have brought what was there before in step.
        forget(place, home)
