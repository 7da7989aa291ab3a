"""How far an ingestion is, with its rate and the time left, on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdsa_local.knowledge.ingest import Step


class Meter:
    """A callback for :func:`mdsa_local.knowledge.ingest.ingest`: one line that renews itself on a terminal, elsewhere a line every five seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._live = sys.stderr.isatty()
        self._began = self._shown = time.monotonic()

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        if step.source and now - self._shown < (0.1 if self._live else 5.0):
            return
        self._shown = now
        text = f"{self._what}: {said(step, now - self._began)}"
        if self._live:
            sys.stderr.write(f"\r\x1b[K{text}" + ("" if step.source else "\n"))
        elif now - self._began > 2.0:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def said(step: Step, seconds: float) -> str:
    """A step as text. The time left is reckoned from the bytes, because files differ in size."""
    text = f"{step.files_done} of {step.files} files, {step.chunks} passages"
    if step.chunks and seconds > 0:
        text += f", {step.chunks / seconds:.0f}/s"
    if step.source and step.bytes_done and seconds > 0:
        text += f", {(step.bytes - step.bytes_done) * seconds / step.bytes_done:.0f} s left"
    return text
