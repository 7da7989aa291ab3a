"""ModelManager: each model loaded once, all of them inside one memory budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendError, BackendUnavailableError, InputError, ModelMemoryError
from mdsa_local.runtime.backend import Backend, Finished, Message, Reference, backend_module, parse_reference
from mdsa_local.runtime.catalog import ModelFile, find, verify
from mdsa_local.runtime.residency import Resident, choose_evictions, describe_bytes, parse_bytes
from mdsa_local.settings import Settings

Prompt = str | Sequence[Message | Mapping[str, str]]
DEFAULT_GENERATION = Generation()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, and the bytes counted for it against the budget."""

    name: str
    size_bytes: int


@dataclass(slots=True, eq=False)
class _Slot:
    """State of one model. Read and written only under the manager's condition."""

    name: str
    size_bytes: int
    last_used: int
    state: Literal["loading", "ready", "closing"] = "loading"
    backend: Backend | None = None
    uses: int = 0


@dataclass(frozen=True, slots=True)
class _Target:
    """A resolved reference. ``key`` is equal for references to the same model."""

    scheme: str
    target: str
    name: str
    file: ModelFile | None = None

    @property
    def key(self) -> str:
        return f"{self.scheme}://{self.target}"


class ModelManager:
    """Loads models when they are asked for and unloads the least recently used idle ones to make room. Safe from any thread."""

    def __init__(self, settings: Settings | None = None, memory_budget: int | str | None = None, max_models: int | None = None) -> None:
        """``memory_budget`` in bytes or like ``"4GB"``; None takes it from the settings: half of the memory installed unless they say otherwise.
        ``max_models`` limits how many are loaded at a time; None sets no limit."""
        if max_models is not None and max_models < 1:
            raise InputError(f"max_models is {max_models}", "Give 1 or more, or None for no limit.")
        self.settings = settings or Settings.load()
        configured = self.settings.memory_budget_mb * 10**6 or psutil.virtual_memory().total // 2
        self.memory_budget_bytes = configured if memory_budget is None else parse_bytes(memory_budget)
        self._max_models = max_models
        self._changed = threading.Condition()
        self._slots: dict[str, _Slot] = {}
        self._names: dict[str, _Target] = {}
        self._verified: set[ModelFile] = set()
        self._clock = 0
        self._closed = False

    def resolve(self, ref: str) -> Path | Reference:
        """The file that ``ref`` names, or the reference itself where another program holds the model.

        Raises :class:`ModelNotFoundError` for an unknown name, :class:`UnknownNameError` for an unknown scheme.
        """
        target = self._target(ref)
        return Path(target.target) if target.scheme == "gguf" else Reference(target.scheme, target.target)

    def decoding(self, ref: str) -> str:
        """How the model wants to be decoded: ``quotes``, or an empty string for freely. Raises as :meth:`resolve`."""
        file = self._target(ref).file
        return file.decoding if file else ""

    def ensure_ready(self, ref: str) -> Backend:
        """The model, loaded. Should others need its room meanwhile, it is loaded again when used; while a call runs it stays.

        Raises :class:`ModelMemoryError` with the numbers when it is larger than the budget, :class:`BackendUnavailableError` when models
        in use leave no room until ``request_timeout_s`` has passed, and whatever its backend raises on loading.
        """
        target = self._target(ref)
        with self._lease(target) as backend:
            return _Handle(self, target, backend.n_context_tokens)

    def stream(
        self, ref: str, messages: Prompt, generation: Generation = DEFAULT_GENERATION, *, deadline_s: float | None = None
    ) -> Iterator[str | Finished]:
        """Pieces of text, then one :class:`Finished`. ``messages`` are Messages, dicts with role and content, or one question as a string.

        ``deadline_s`` is ``request_timeout_s`` unless given. Raises as :meth:`ensure_ready` and :meth:`Backend.stream`.
        """
        deadline_s = self.settings.request_timeout_s if deadline_s is None else deadline_s
        with self._lease(self._target(ref)) as backend:
            yield from backend.stream(as_messages(messages), generation, deadline_s=deadline_s)

    def generate(self, ref: str, messages: Prompt, generation: Generation = DEFAULT_GENERATION, *, deadline_s: float | None = None) -> str:
        """The whole text of :meth:`stream`."""
        return "".join(piece for piece in self.stream(ref, messages, generation, deadline_s=deadline_s) if isinstance(piece, str))

    def loaded(self) -> list[LoadedModel]:
        """The models in memory, least recently used first."""
        with self._changed:
            ready = sorted((slot for slot in self._slots.values() if slot.state == "ready"), key=lambda slot: slot.last_used)
            return [LoadedModel(slot.name, slot.size_bytes) for slot in ready]

    def close(self) -> None:
        """Unload everything; safe twice. Running streams end as ``cancelled``."""
        with self._changed:
            self._closed = True
            backends = [slot.backend for slot in self._slots.values() if slot.state == "ready" and slot.backend]
            self._slots = {key: slot for key, slot in self._slots.items() if slot.state != "ready"}
            self._changed.notify_all()
        for backend in backends:
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _target(self, ref: str) -> _Target:
        reference = parse_reference(ref)
        if reference.scheme == "name":
            # Kept, because reading every model.yaml takes milliseconds and this is on the path of each request.
            if reference.target not in self._names:
                file = find(reference.target, self.settings.model_dirs)
                self._names[reference.target] = _Target("gguf", str(file.path.resolve()), file.name, file)
            return self._names[reference.target]
        if reference.scheme == "gguf":
            path = Path(reference.target).resolve()
            return _Target("gguf", str(path), path.stem)
        return _Target(reference.scheme, reference.target, reference.target)

    @contextmanager
    def _lease(self, target: _Target) -> Iterator[Backend]:
        """Hold the model, loaded, so that it is not unloaded meanwhile."""
        slot = self._acquire(target)
        try:
            assert slot.backend is not None
            yield slot.backend
        finally:
            with self._changed:
                slot.uses -= 1
                self._changed.notify_all()

    def _acquire(self, target: _Target) -> _Slot:
        deadline = time.monotonic() + self.settings.request_timeout_s
        size: int | None = None
        while True:
            with self._changed:
                slot, victims = self._claim(target, size, deadline)
            if slot and slot.state == "ready":
                return slot
            if slot:
                return self._load(target, slot, victims)
            # Not loaded: its header is read outside the lock, then the claim is made again with what the header says.
            size = backend_module(target.scheme).estimate_bytes(target.target, self.settings)
            if size > self.memory_budget_bytes:
                raise ModelMemoryError(
                    f"{target.name} needs {describe_bytes(size)}, the memory budget is {describe_bytes(self.memory_budget_bytes)}",
                    "Choose a smaller model or quantisation, lower context_tokens, or raise memory_budget_mb.",
                )

    def _claim(self, target: _Target, size: int | None, deadline: float) -> tuple[_Slot | None, list[_Slot]]:
        """Under the lock: the model ready and held, or a slot to load it into with the slots to close first, or None when its size is unknown."""
        while True:
            if self._closed:
                raise BackendError("the model manager was closed")
            slot = self._slots.get(target.key)
            if slot and slot.state == "ready":
                self._touch(slot)
                return slot, []
            if slot is None and size is None:
                return None, []
            closing = any(other.state == "closing" for other in self._slots.values())
            if slot is None and size is not None:
                residents = [Resident(key, s.size_bytes, s.uses + (s.state != "ready"), s.last_used) for key, s in self._slots.items()]
                chosen = choose_evictions(residents, size, self.memory_budget_bytes, self._max_models)
                # While another model is on its way out, its room may do: do not evict more for it.
                if chosen is not None and not (chosen and closing):
                    return self._reserve(target, size, chosen)
            if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                if slot:
                    raise BackendUnavailableError(f"{target.name} is still {slot.state}", "Ask again in a moment, or raise request_timeout_s.")
                held = ", ".join(other.name for other in self._slots.values())
                raise BackendUnavailableError(
                    f"no room for {target.name} beside the models in use: {held}", "Ask again later, or raise memory_budget_mb."
                )

    def _reserve(self, target: _Target, size: int, chosen: Sequence[str]) -> tuple[_Slot, list[_Slot]]:
        victims = [self._slots[key] for key in chosen]
        for victim in victims:
            victim.state = "closing"
        slot = _Slot(target.name, size, 0)
        self._touch(slot)
        self._slots[target.key] = slot
        return slot, victims

    def _touch(self, slot: _Slot) -> None:
        self._clock += 1
        slot.last_used = self._clock
        slot.uses += 1

    def _load(self, target: _Target, slot: _Slot, victims: list[_Slot]) -> _Slot:
        """Close the victims, load the model, and publish it. A failed load leaves no trace."""
        backend = None
        try:
            for victim in victims:
                if victim.backend:
                    victim.backend.close()
            with self._changed:
                self._slots = {key: other for key, other in self._slots.items() if other not in victims}
                self._changed.notify_all()
            if target.file and target.file not in self._verified:
                verify(target.file, self.settings.home / "cache" / "verified")
                self._verified.add(target.file)
            backend = backend_module(target.scheme).open_backend(target.target, target.name, self.settings)
        finally:
            with self._changed:
                closed = self._closed
                if backend and not closed:
                    slot.backend, slot.state = backend, "ready"
                else:
                    self._slots.pop(target.key, None)
                self._changed.notify_all()
        if closed:
            backend.close()
            raise BackendError("the model manager was closed")
        return slot


class _Handle:
    """A model by reference: each call holds it for as long as the call runs, loading it again if it was unloaded since."""

    def __init__(self, manager: ModelManager, target: _Target, n_context_tokens: int) -> None:
        self.name = target.name
        self.n_context_tokens = n_context_tokens
        self._manager, self._target = manager, target

    def count_tokens(self, messages: Sequence[Message]) -> int:
        with self._manager._lease(self._target) as backend:
            return backend.count_tokens(messages)

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> Iterator[str | Finished]:
        with self._manager._lease(self._target) as backend:
            yield from backend.stream(messages, generation, deadline_s=deadline_s)

    def close(self) -> None:
        """Nothing: the manager unloads models."""


def as_messages(messages: Prompt) -> list[Message]:
    """Messages from what callers write. Raises :class:`InputError` for a dict without role and content."""
    if isinstance(messages, str):
        return [Message("user", messages)]
    try:
        return [message if isinstance(message, Message) else Message(str(message["role"]), str(message["content"])) for message in messages]
    except (KeyError, TypeError):
        raise InputError("a message needs a role and content", 'Write {"role": "user", "content": "..."}.') from None
