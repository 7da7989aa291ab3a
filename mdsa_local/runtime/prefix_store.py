"""Key-value states of static prefixes on disk: written on unload and when idle, read back after a swap or a restart.

A cache, not data: what is missing, damaged or does not fit is evaluated again. A file's name is a hash of everything the state depends on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)
MAGIC = b"mdsa-kv1"
SUFFIX, UNFINISHED = ".kv", ".part"
# What :meth:`PrefixStore.save` calls what it is writing, by the process that does.
WRITTEN_BY = re.compile(rf"[0-9a-f]{{40}}-([0-9]{{1,9}}){re.escape(UNFINISHED)}")
SAMPLES, SAMPLE_BYTES = 64, 1 << 16


class PrefixStore:
    """The states of one model under one set of options. Not for two threads at once; other processes may use the same folder."""

    def __init__(self, folder: Path, key: str, cap_bytes: int) -> None:
        """``key`` names model, template, options and library; ``cap_bytes`` limits the folder, the least recently used go first."""
        self._folder, self._key, self._cap = folder, key, cap_bytes
        for left in folder.glob(f"*{UNFINISHED}"):
            # Of a process that was killed while writing.
            if (writer := WRITTEN_BY.fullmatch(left.name)) and not psutil.pid_exists(int(writer[1])):
                with suppress(OSError):
                    left.unlink()

    def path(self, tokens: Sequence[int], adapter: str = "") -> Path:
        """Where the state of ``tokens`` under an adapter (its :func:`fingerprint`) is, or would be."""
        key = f"{self._key} {adapter}\0"
        digest = hashlib.sha256(key.encode() + array("i", tokens).tobytes()).hexdigest()
        return self._folder / f"{digest[:40]}{SUFFIX}"

    def save(self, tokens: Sequence[int], state: bytes, adapter: str = "") -> None:
        """Write a state; whole or not at all. A disk that cannot be written is logged."""
        path = self.path(tokens, adapter)
        if len(state) > self._cap:
            return
        part = path.with_name(f"{path.stem}-{os.getpid()}{UNFINISHED}")
        try:
            if path.exists():
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(MAGIC + hashlib.sha256(state).digest())
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            self._shrink()
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            logger.warning("%s: the state of a prompt's beginning cannot be kept: %s", path, error.strerror or error)

    def load(self, tokens: Sequence[int], adapter: str = "") -> bytes | None:
        """The state of ``tokens``; None when there is none, or it is damaged: it is then removed."""
        path = self.path(tokens, adapter)
        try:
            raw = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        head = len(MAGIC) + 32
        if raw[: len(MAGIC)] == MAGIC and hashlib.sha256(raw[head:]).digest() == raw[len(MAGIC) : head]:
            return raw[head:]
        logger.warning("%s is damaged; the prompt's beginning is evaluated again", path)
        self.drop(tokens, adapter)
        return None

    def drop(self, tokens: Sequence[int], adapter: str = "") -> None:
        """Remove a state, unless Windows keeps it because another process is reading it."""
        with suppress(OSError):
            self.path(tokens, adapter).unlink(missing_ok=True)

    def _shrink(self) -> None:
        files = sorted((stat.st_mtime_ns, stat.st_size, path) for path in self._folder.glob(f"*{SUFFIX}") if (stat := path.stat()))
        total = sum(size for _, size, _ in files)
        for _, size, path in files[:-1]:
            if total <= self._cap:
                return
            path.unlink(missing_ok=True)
            total -= size


def fingerprint(path: Path) -> str:
    """What tells one model file from another: size, time of change, its head and 64 samples of its bytes. Hashing gigabytes takes seconds."""
    stat = path.stat()
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        for sample in range(SAMPLES):
            file.seek(stat.st_size * sample // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
