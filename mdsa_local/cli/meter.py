"""How far an ingestion is, with its rate and the time left, on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdsa_local.cli.output import StatusLine

if TYPE_CHECKING:
    from mdsa_local.knowledge.ingest import Step


class Meter:
    """A callback for :func:`mdsa_local.knowledge.ingest.ingest`."""

    def __init__(self, what: str) -> None:
        self._what, self._status = what, StatusLine()

    def __call__(self, step: Step) -> None:
        self._status.tell(lambda seconds: f"{self._what}: {said(step, seconds)}", last=not step.source)


def said(step: Step, seconds: float) -> str:
    """A step as text. The time left is reckoned from the bytes, because files differ in size."""
    text = f"{step.files_done} of {step.files} files, {step.chunks} passages"
    if step.chunks and seconds > 0:
        text += f", {step.chunks / seconds:.0f}/s"
    if step.source and step.bytes_done and seconds > 0:
        text += f", {(step.bytes - step.bytes_done) * seconds / step.bytes_done:.0f} s left"
    return text
