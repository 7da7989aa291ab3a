"""Files that are whole whenever the machine stops, and that one process at a time writes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from mdsa_local.errors import InputError
from mdsa_local.settings import storage_error


def settle(partial: Path, target: Path) -> None:
    """Rename a finished file, and have the folder's entry on disk too."""
    partial.replace(target)
    if sys.platform != "win32":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """The name of a file to write beside ``target``; when all is written it takes its place.

    Raises :class:`StorageError` for what the system refuses. Whatever is raised meanwhile, what ``target`` held before is then still there, and
    nothing else is left.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        yield partial
        # Whoever wrote it need not have waited for the disk.
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        settle(partial, target)
    except OSError as error:
        raise storage_error(error, target) from None
    finally:
        with suppress(OSError):
            partial.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a small file that is either as it was or as it shall be, whenever the machine stops. Raises :class:`StorageError`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def only_one(lock: Path, target: Path) -> Iterator[None]:
    """Hold a lock while ``target`` is being written; the system lets it go when the process ends, however it ends. The file ``lock`` is there for
    that alone and removed at the end. Raises :class:`InputError` when another has it."""
    while True:
        with lock.open("ab+") as file:
            try:
                _take(file)
            except OSError:
                raise InputError(f"{target}: another process is writing it", "Wait for that one.") from None
            # Who opened it while another removed it holds what nobody else can find.
            if _is_at(file, lock):
                try:
                    yield
                finally:
                    # Before it is let go: after that it may be another's. Windows keeps what is open.
                    with suppress(OSError):
                        lock.unlink()
                return


def _take(file: BufferedRandom) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(file: BufferedRandom, path: Path) -> bool:
    """Whether an open file is the one that has a name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
