"""Run one command with its output in a log file, and say how it goes on when it takes longer than two seconds."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

QUIET_S = 2.0
EVERY_S = 15.0
TICK_S = 0.2
TAIL_BYTES = 16_384

_PIP_ACTIVITIES = (
    ("Building wheel for llama-cpp-python", "building llama.cpp"),
    ("Building wheel", "building packages"),
    ("Installing collected packages", "installing packages"),
    ("Collecting ", "downloading packages"),
    ("Downloading ", "downloading packages"),
)


def elapsed_text(seconds: float) -> str:
    """`75.3` becomes `1m 15s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"


def pip_activity(log: str) -> str | None:
    """What pip is doing, from the last telling line of its log; None where no line tells."""
    for line in reversed(log.splitlines()):
        text = line.strip()
        if text.startswith("Building wheel") and ": finished" in text:
            return "installing packages"
        for start, activity in _PIP_ACTIVITIES:
            if text.startswith(start):
                return activity
    return None


def tail(path: Path, size_bytes: int = TAIL_BYTES) -> str:
    """The last bytes of a file as text; an empty string where there is no file yet."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size_bytes))
        return file.read().decode("utf-8", "replace")


class Progress:
    """A spinner with the elapsed time on a terminal; elsewhere a line now and then. Silent for the first two seconds."""

    def __init__(
        self, out: TextIO, label: str, *, quiet_s: float = QUIET_S, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out, self._label, self._every_s, self._clock, self._quiet_s = out, label, every_s, clock, quiet_s
        self._terminal = out.isatty()
        self._started = self._since = clock()
        self._due_s = quiet_s
        self._spinner = itertools.cycle("|/-\\")
        self._shown = False

    def tick(self, activity: str | None = None) -> None:
        """Show the time so far; a new `activity` starts a time of its own."""
        now = self._clock()
        if activity and activity != self._label:
            self._label, self._since, self._due_s = activity, now, self._quiet_s
        elapsed_s = now - self._since
        if self._terminal and now - self._started >= self._quiet_s:
            self._draw(f"{next(self._spinner)} {self._label}: {elapsed_text(elapsed_s)}")
        elif not self._terminal and elapsed_s >= self._due_s:
            self._out.write(f"{self._label}: {elapsed_text(elapsed_s)}\n" if elapsed_s >= self._every_s else f"{self._label} ...\n")
            self._out.flush()
            self._due_s = (elapsed_s // self._every_s + 1) * self._every_s
            self._shown = True

    def close(self, result: str) -> None:
        """Replace the spinner by a last line, where anything was shown at all."""
        if not self._shown:
            return
        if self._terminal:
            self._draw("")
            self._out.write("\r")
        self._out.write(f"{result} ({elapsed_text(self._clock() - self._started)})\n")
        self._out.flush()

    def _draw(self, text: str) -> None:
        width = max(20, shutil.get_terminal_size().columns - 1)
        self._out.write("\r" + text[:width].ljust(width))
        self._out.flush()
        self._shown = True


def run_step(
    command: Sequence[str],
    *,
    label: str,
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    out: TextIO,
    activity: Callable[[str], str | None] = lambda log_tail: None,
    keep_fds: Sequence[int] = (),
    quiet_s: float = QUIET_S,
) -> int:
    """Run `command` to its end and return its exit code (128 + n after signal n).

    Its output is appended to `log`. It inherits `keep_fds`, so that a lock outlives us while the command still writes.
    """
    progress = Progress(out, label, quiet_s=quiet_s)
    with log.open("ab") as sink:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=dict(env), cwd=cwd, pass_fds=tuple(keep_fds)
        )
        try:
            while True:
                try:
                    code = child.wait(TICK_S)
                    break
                except subprocess.TimeoutExpired:
                    progress.tick(activity(tail(log)))
        except BaseException:
            child.terminate()
            child.wait()
            progress.close(f"{label}: stopped")
            raise
    progress.close(f"{label}: {'done' if code == 0 else 'failed'}")
    return code if code >= 0 else 128 - code
