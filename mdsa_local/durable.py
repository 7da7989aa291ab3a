"""Files that are whole whenever the machine stops, and that one process at a time writes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from mdsa_local.errors import InputError
from mdsa_local.settings import storage_error

# Between two looks whether a lock is free.
PAUSE_S = 0.02


def on_disk(descriptor: int) -> None:
    """Have what was written to an open file on the disk. On macOS ``fsync`` leaves it in the drive's own memory; what more there is, not every file
    system there knows."""
    if sys.platform == "darwin":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def settle(partial: Path, target: Path) -> None:
    """Rename a finished file, and have the folder's entry on disk too."""
    partial.replace(target)
    if sys.platform != "win32":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            on_disk(folder)
        finally:
            os.close(folder)


@contextmanager
def replacing(target: Path, *, by_many: bool = False) -> Iterator[Path]:
    """The name of a file to write beside ``target``; when all is written it takes its place. ``by_many``: several may write it at once, and the last
    to end wins.

    Raises :class:`StorageError` for what the system refuses. Whatever is raised meanwhile, what ``target`` held before is then still there, and
    nothing else is left.
    """
    own = f".{os.getpid()}-{threading.get_ident()}" if by_many else ""
    partial, whole = target.with_name(f"{target.name}{own}.partial"), False
    try:
        yield partial
        # Whoever wrote it need not have waited for the disk.
        with partial.open("rb+") as file:
            on_disk(file.fileno())
        settle(partial, target)
        whole = True
    except OSError as error:
        raise storage_error(error, target) from None
    finally:
        # Else it would be another's.
        if not whole:
            with suppress(OSError):
                partial.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a small file that is either as it was or as it shall be, whenever the machine stops. Raises :class:`StorageError`."""
    with replacing(path) as partial:
        # Ends of lines as they are, on Windows too.
        partial.write_text(text, encoding="utf-8", newline="")


@contextmanager
def only_one(lock: Path, target: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a lock while ``target`` is being written; the system lets it go when the process ends, however it ends. The file ``lock`` is there for
    that alone and removed at the end. Raises :class:`InputError` when another has it and keeps it for ``patience_s``."""
    until = time.monotonic() + patience_s
    while True:
        with lock.open("ab+") as file:
            # Who opened it while another removed it holds what nobody else can find.
            if (taken := _taken(file)) and _is_at(file, lock):
                try:
                    yield
                finally:
                    # Before it is let go: after that it may be another's.
                    with suppress(OSError):
                        lock.unlink()
                    if sys.platform == "win32":
                        # It keeps what is open, by then another's too.
                        file.close()
                        with suppress(OSError):
                            lock.unlink()
                return
        if not taken:
            if time.monotonic() >= until:
                raise InputError(f"{target}: another process is writing it", "Wait for that one.")
            time.sleep(PAUSE_S)


def _taken(file: BufferedRandom) -> bool:
    """Whether the lock on a file could be had."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(file: BufferedRandom, path: Path) -> bool:
    """Whether an open file is the one that has a name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
