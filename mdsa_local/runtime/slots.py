"""What the manager knows of each model: its place, its state, who holds it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mdsa_local.errors import BackendError
from mdsa_local.runtime.backend import Backend, Reference
from mdsa_local.runtime.catalog import ModelFile
from mdsa_local.runtime.residency import State
from mdsa_local.stoppable import never


@runtime_checkable
class Measured(Protocol):
    """A backend that knows what it takes."""

    @property
    def memory_bytes(self) -> int:
        """Memory in this process, in bytes."""


@runtime_checkable
class Failing(Protocol):
    """A backend that may stop working on its own."""

    def when_failed(self, tell: Callable[[BackendError], None]) -> None:
        """Have ``tell`` called when that happens; at once when it has."""


@runtime_checkable
class Queueing(Protocol):
    """A backend with a queue of its own."""

    def refuse_when_full(self) -> None:
        """Raise :class:`~mdsa_local.errors.BusyError` where it takes nobody more."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, and the bytes counted for it against the budget."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What the manager knows of a model. ``size_bytes``: its estimate while loading, what was measured after; ``uses``: callers that hold it now;
    ``loads``: how often it was loaded; ``load_s``: how long the last time took; ``error``: why it failed."""

    name: str
    state: State
    size_bytes: int
    uses: int
    pinned: bool
    loads: int
    load_s: float
    error: str = ""


@dataclass(slots=True, eq=False)
class Slot:
    """One model. Read and written only under the manager's condition; ``state`` is written by the manager's ``_move`` alone."""

    name: str
    size_bytes: int = 0
    last_used: int = 0
    idle_since: float = 0.0
    state: State = "absent"
    backend: Backend | None = None
    uses: int = 0
    pinned: bool = False
    loads: int = 0
    load_s: float = 1.0
    error: str = ""

    @property
    def resident(self) -> bool:
        """Whether it takes memory, or may."""
        return self.state in ("loading", "ready", "unloading")


@dataclass(frozen=True, slots=True)
class Held:
    """A slot that a caller holds, and the backend that was in it then."""

    slot: Slot
    backend: Backend


@dataclass(frozen=True, slots=True)
class Target:
    """A resolved reference. ``key`` is equal for references to the same model. ``asked``: the reference, for one that may come to stand for another
    file; ``file``: what is known of that."""

    scheme: str
    target: str
    name: str
    asked: Reference | None = None
    file: ModelFile | None = None

    @property
    def key(self) -> str:
        """What tells it from other models."""
        return f"{self.scheme}://{self.target}"


Stopped = Callable[[], bool]


class Keeper(Protocol):
    """Who loads models and lends them: the manager, as what it lends sees it."""

    def acquire(self, target: Target, deadline: float | None = None, stopped: Stopped = never) -> Held:
        """The model, loaded and held until :meth:`release`; room is waited for until ``deadline`` on the clock of ``time.monotonic``. Raises
        :class:`~mdsa_local.stoppable.StoppedError` where ``stopped`` says so meanwhile."""

    def release(self, held: Held) -> None:
        """Let go of it."""

    def lease(self, target: Target, stopped: Stopped = never, deadline: float | None = None) -> AbstractContextManager[Backend]:
        """Both, around a block."""
