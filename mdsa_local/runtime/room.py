"""The room for models: what is in memory, who holds it, what has to go for another. Every change of a model's state is made here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from mdsa_local.errors import BackendUnavailableError, ClosedError, ModelError, ModelMemoryError
from mdsa_local.runtime.backend import Backend
from mdsa_local.runtime.residency import FOLLOWING, Resident, State, choose_evictions, describe_bytes
from mdsa_local.runtime.slots import Slot, Stopped, Target
from mdsa_local.stoppable import HEARD_S, StoppedError


class Room:
    """The models of a manager inside one budget of memory. All but :meth:`check` is for whoever holds :attr:`changed`."""

    def __init__(self, budget_bytes: int, max_models: int | None) -> None:
        """``max_models`` limits how many are loaded at a time; None sets no limit."""
        self.budget_bytes, self.max_models = budget_bytes, max_models
        self.changed = threading.Condition()
        self.slots: dict[str, Slot] = {}
        self.closed = False
        self._clock = 0

    def slot(self, target: Target) -> Slot:
        """The slot of a model, new where it was not asked for before."""
        return self.slots.setdefault(target.key, Slot(target.name))

    def move(self, slot: Slot, state: State) -> None:
        """The one place where a state changes."""
        if state not in FOLLOWING[slot.state]:
            raise AssertionError(f"{slot.name} cannot go from {slot.state} to {state}")
        slot.state = state
        self.changed.notify_all()

    def renamed(self, target: Target, found: Target) -> None:
        """Forget what was known of a place that cannot be loaded from, for the one that its reference stands for now; but that it was pinned."""
        with self.changed:
            before = self.slots.get(target.key)
            if found.key != target.key and before and before.state == "failed":
                self.slot(found).pinned |= before.pinned
                del self.slots[target.key]

    def check(self, target: Target, size: int) -> None:
        """Raise where waiting for ``size`` bytes cannot help, because of what is pinned: :class:`ModelMemoryError` with the numbers, or
        :class:`ModelError` for ``max_models``. Takes the lock itself."""
        with self.changed:
            kept = [slot for key, slot in self.slots.items() if slot.pinned and slot.resident and key != target.key]
            pinned = sum(slot.size_bytes for slot in kept)
        if self.max_models is not None and len(kept) >= self.max_models:
            raise ModelError(
                f"no room for {target.name}: max_models is {self.max_models}, pinned: {', '.join(slot.name for slot in kept)}",
                "Raise max_models, or pin fewer models.",
            )
        if size + pinned > self.budget_bytes:
            beside = f", {describe_bytes(pinned)} of it pinned" if pinned else ""
            raise ModelMemoryError(
                f"{target.name} needs {describe_bytes(size)}, the memory budget is {describe_bytes(self.budget_bytes)}{beside}",
                "Choose a smaller model or quantisation, lower context_tokens or parallel, or raise memory_budget_mb.",
            )

    def claim(self, target: Target, size: int | None, deadline: float, stopped: Stopped) -> tuple[Slot | None, list[Slot]]:
        """The model ready and held, or its slot to load it into with the slots to unload first, or None when its size is unknown. Room is waited for
        until ``deadline`` on the clock of ``time.monotonic``. Raises :class:`BackendUnavailableError` where there is none then, :class:`ClosedError`,
        and :class:`StoppedError` where ``stopped`` says so."""
        while True:
            if self.closed:
                raise closed()
            if stopped():
                raise StoppedError
            slot = self.slot(target)
            if slot.state == "ready":
                self._touch(slot)
                return slot, []
            if not slot.resident:
                if size is None:
                    return None, []
                chosen = choose_evictions(self._residents(), size, self.budget_bytes, self.max_models)
                # While another model is on its way out, its room may do: do not evict more for it.
                if chosen is not None and not (chosen and any(other.state == "unloading" for other in self.slots.values())):
                    victims = self._sent_away(chosen)
                    slot.size_bytes, slot.error = size, ""
                    self.move(slot, "loading")
                    self._touch(slot)
                    return slot, victims
            if not self.changed.wait(min(max(0.0, deadline - time.monotonic()), HEARD_S)) and time.monotonic() >= deadline:
                raise self._unavailable(target, slot)

    def take_in(self, slot: Slot, size_bytes: int, backend: Backend, load_s: float) -> list[Slot] | None:
        """Take a loaded model into service, with what to unload for what it turned out to take; None where it has no room, or all was closed."""
        slot.size_bytes = size_bytes
        chosen = choose_evictions(self._residents(slot), size_bytes, self.budget_bytes, self.max_models)
        if chosen is None or self.closed:
            return None
        slot.backend, slot.load_s = backend, load_s
        slot.loads += 1
        self.move(slot, "ready")
        return self._sent_away(chosen)

    def outgrown(self, slot: Slot) -> list[Slot]:
        """What to unload where all have grown beyond the budget together, but for ``slot``, which was used last. Nothing while others are on their
        way."""
        resident = [other for other in self.slots.values() if other.resident]
        within = sum(other.size_bytes for other in resident) <= self.budget_bytes
        if within or self.closed or any(other.state == "unloading" for other in resident):
            return []
        needed = min(slot.size_bytes, self.budget_bytes)
        return self._sent_away(choose_evictions(self._residents(slot), needed, self.budget_bytes) or ())

    def idle(self) -> list[Slot]:
        """What nobody holds and nobody pinned."""
        return [slot for slot in self.slots.values() if slot.state == "ready" and not slot.uses and not slot.pinned]

    def _unavailable(self, target: Target, slot: Slot) -> BackendUnavailableError:
        if slot.resident:
            return BackendUnavailableError(f"{target.name} is still {slot.state}", "Ask again in a moment, or raise request_timeout_s.")
        held = ", ".join(other.name for other in self.slots.values() if other.resident)
        limits = "memory_budget_mb" if self.max_models is None else f"memory_budget_mb or max_models ({self.max_models})"
        return BackendUnavailableError(f"no room for {target.name} beside the models in use: {held}", f"Ask again later, or raise {limits}.")

    def _residents(self, but: Slot | None = None) -> list[Resident]:
        return [
            Resident(key, slot.size_bytes, slot.uses + (slot.state != "ready"), slot.last_used, slot.load_s, slot.pinned)
            for key, slot in self.slots.items()
            if slot.resident and slot is not but
        ]

    def _sent_away(self, chosen: Iterable[str]) -> list[Slot]:
        victims = [self.slots[key] for key in chosen]
        for victim in victims:
            self.move(victim, "unloading")
        return victims

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.last_used = self._clock
        slot.uses += 1


def closed() -> ClosedError:
    """What a manager raises that was closed."""
    return ClosedError("the model manager was closed", "Make a new ModelManager, or a new TinyBERTOrchestrator where that was closed.")
