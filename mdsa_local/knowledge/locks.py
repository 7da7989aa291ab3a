"""Locks among the threads and processes of this machine: one of them at a time, and who reads keeps away who removes what is old."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

# Who searches is done in some milliseconds; who reads a whole table is not waited for.
TRIES, PAUSE_S = 10, 0.005


class Readers:
    """Those who read tables in a folder. Who reads takes part in a shared lock; that nobody holds it proves that no version but the latest is in use.
    A second lock is the door: it is closed while somebody waits for the readers to finish, else there might always be one.

    A reader goes on without where there is no file to lock, as on a disk that cannot be written: there nothing is removed either.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._door = folder / "readers.lock", folder / "door.lock"
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._n_readers = 0
        self._held: int | None = None

    def begin(self) -> None:
        """Make the file in a folder that has no table yet, so that whoever will ever read there is known. Raises :class:`OSError`."""
        with suppress(FileExistsError):
            self._path.open("xb").close()
            os.utime(self._path, (0, 0))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep what is the latest version now until the end of the block. Takes microseconds, or as long as another needs to remove what is old."""
        depth = getattr(self._thread, "depth", 0)
        if depth == 0 and (door := _shared(self._door)) is not None:
            os.close(door)
        with self._lock:
            if self._n_readers == 0:
                self._held = _shared(self._path)
            self._n_readers += 1
        self._thread.depth = depth + 1
        try:
            yield
        finally:
            # What a generator began to read may end in another thread.
            self._thread.depth = max(0, getattr(self._thread, "depth", 0) - 1)
            with self._lock:
                self._n_readers -= 1
                if self._n_readers == 0 and self._held is not None:
                    os.close(self._held)
                    self._held = None

    @contextmanager
    def none(self, settled_s: float) -> Iterator[bool]:
        """Whether it is certain that nobody reads, and nobody begins to until the end of the block. A thread that is reading itself gets False.

        ``settled_s``: older than this the file has to be, for those who began before there was one. Raises :class:`OSError`.
        """
        with self._path.open("ab") as file, self._door.open("ab") as door:
            acquire(door)
            yield time.time() - os.fstat(file.fileno()).st_mtime > settled_s and _alone(file)


if sys.platform == "win32":
    import msvcrt

    def acquire(file: IO[bytes]) -> None:
        """Wait until nobody else has the file, until it is closed."""
        file.seek(0)
        while True:
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except PermissionError:
                time.sleep(0.05)

    # Its locks are never shared.
    def _shared(path: Path) -> int | None:
        return None

    def _alone(file: IO[bytes]) -> bool:
        return False
else:
    import fcntl

    def acquire(file: IO[bytes]) -> None:
        """Wait until nobody else has the file, until it is closed."""
        fcntl.flock(file, fcntl.LOCK_EX)

    def _shared(path: Path) -> int | None:
        """The file, locked together with others until it is closed; None where there is none."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError:
            # A file system without locks, which is without for whoever removes, too.
            os.close(descriptor)
            return None
        return descriptor

    def _alone(file: IO[bytes]) -> bool:
        for _ in range(TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(PAUSE_S)
            except OSError:
                return False
            else:
                return True
        return False
