"""Parse untrusted files in a process of their own: one that hangs, swells or crashes costs one file and a clear reason."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

import psutil

from mdsa_local import child
from mdsa_local.knowledge.loaders import CONTAINED, Section, UnreadableError, family, loader


class Limits:
    """What parsing one file may take: seconds in all, seconds without a new section, memory of the process and text it writes, in bytes."""

    def __init__(self, total_s: float = 600, stalled_s: float = 60, memory_bytes: int = 512 << 20, text_bytes: int = 512 << 20) -> None:
        self.total_s, self.stalled_s, self.memory_bytes, self.text_bytes = total_s, stalled_s, memory_bytes, text_bytes


class Reader:
    """Reads files one after the other; the process is started by the first file that needs it and ended by :meth:`close`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.Queue[bytes] = queue.Queue()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    # What could not be sent would be sent again.
                    with suppress(OSError):
                        stream.close()

    def sections(self, path: Path) -> Iterator[Section]:
        """The sections of ``path``. Raises :class:`UnreadableError` or OSError, for a contained type before the first of them."""
        name = family(path)
        if name not in CONTAINED:
            yield from loader(name).read(path)
            return
        handle, spool = tempfile.mkstemp(prefix="mdsa-", suffix=".sections")
        os.close(handle)
        try:
            self._parse(name, path, Path(spool))
            with Path(spool).open(encoding="utf-8") as lines:
                for line in lines:
                    yield Section(**json.loads(line))
        finally:
            Path(spool).unlink(missing_ok=True)

    def _parse(self, name: str, path: Path, spool: Path) -> None:
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            _send(process.stdin, json.dumps([name, str(path), str(spool)]))
            reply = self._wait(process, spool)
        except _GoneError:
            reason = _last_line(process.stderr)
            self.close()
            raise UnreadableError(f"cannot be parsed: {reason}") from None
        except UnreadableError:
            self.close()
            raise
        if problem := json.loads(reply)["problem"]:
            raise UnreadableError(problem)

    def _start(self) -> None:
        process = child.started("mdsa_local.knowledge.loaders.child", str(2 * self.limits.memory_bytes), stdout=subprocess.PIPE)
        self._process, self._replies = process, queue.Queue()
        assert process.stdout is not None
        threading.Thread(target=_forward, args=(process.stdout, self._replies), daemon=True).start()

    def _wait(self, process: subprocess.Popen[bytes], spool: Path) -> bytes:
        began = moved = time.monotonic()
        written = 0
        watched = psutil.Process(process.pid)
        while True:
            with suppress(queue.Empty):
                reply = self._replies.get(timeout=0.02)
                if not reply:
                    raise _GoneError
                return reply
            now, size = time.monotonic(), spool.stat().st_size
            if size != written:
                moved, written = now, size
            with suppress(psutil.Error):
                if sum(one.memory_info().rss for one in child.family(watched)) > self.limits.memory_bytes:
                    raise UnreadableError(f"parsing it takes more than {self.limits.memory_bytes >> 20} MB of memory")
            if size > self.limits.text_bytes:
                raise UnreadableError(f"holds more than {self.limits.text_bytes >> 20} MB of text")
            if now - moved > self.limits.stalled_s or now - began > self.limits.total_s:
                raise UnreadableError(f"parsing it takes more than {now - began:.0f} s")


class _GoneError(Exception):
    """The process ended."""


def _send(stream: IO[bytes], line: str) -> None:
    """Raises :class:`_GoneError` where nobody reads any more."""
    try:
        stream.write(line.encode() + b"\n")
        stream.flush()
    except OSError:
        # BrokenPipeError; on Windows it is an invalid argument.
        raise _GoneError from None


def _forward(stream: IO[bytes], replies: queue.Queue[bytes]) -> None:
    with suppress(ValueError):
        for line in stream:
            replies.put(line)
    replies.put(b"")


def _last_line(stream: IO[bytes] | None) -> str:
    """What a process that ended said last: the exception, when it is Python's."""
    lines = stream.read().decode(errors="replace").split("\n") if stream is not None else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "its parser ended without a word")


def write(sections: Iterator[Section], spool: Path) -> None:
    """Write sections for :meth:`Reader.sections` to read."""
    with spool.open("w", encoding="utf-8") as file:
        for section in sections:
            file.write(json.dumps(asdict(section)) + "\n")
            file.flush()
