"""How far an ingestion is, with its rate and the time left, on stderr."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from mdsa_local.__main__ import INTERRUPTED
from mdsa_local.cli.output import StatusLine, interrupted_by, note
from mdsa_local.errors import StorageError

if TYPE_CHECKING:
    from mdsa_local.knowledge.ingest import Step

STOPPING = "stopping: what is being stored is finished; Ctrl-C again drops it"
ON, AGAIN = "the same command again goes on from there", "the same command starts again"


class Meter:
    """A callback for :func:`mdsa_local.knowledge.ingest.ingest`."""

    def __init__(self, what: str) -> None:
        self._what, self._status = what, StatusLine()
        self._last: Step | None = None

    def __call__(self, step: Step) -> None:
        self._last = step
        self._status.tell(lambda seconds: f"{self._what}: {said(step, seconds)}", last=not step.source)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Where the work is broken off in the block, by Ctrl-C or because the disk takes no more, tell what of it stays."""
        try:
            with interrupted_by(_stop):
                yield
        except KeyboardInterrupt:
            note(f"\nstopped; {self._stored}")
            raise typer.Exit(INTERRUPTED) from None
        except StorageError as error:
            if self._last:
                error.hint = f"{error.hint} Of this command {self._stored}."
            raise

    @property
    def _stored(self) -> str:
        chunks = self._last.chunks if self._last else 0
        return f"{chunks} passages are stored and stay; {ON}" if chunks else f"nothing is stored; {AGAIN}"


def _stop(*_: object) -> None:
    """For the first Ctrl-C: it may be seconds until what is being stored is."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # It may have come while something was being written.
    with suppress(OSError, RuntimeError):
        note(f"\n{STOPPING}")
    raise KeyboardInterrupt


def said(step: Step, seconds: float) -> str:
    """A step as text. The time left is reckoned from the bytes, because files differ in size."""
    passages = step.chunks + step.embedded
    text = f"{step.files_done} of {step.files} files, {passages} passages"
    if passages and seconds > 0:
        text += f", {passages / seconds:.0f}/s"
    if step.source and step.bytes_done and seconds > 0:
        text += f", {(step.bytes - step.bytes_done) * seconds / step.bytes_done:.0f} s left"
    return text
