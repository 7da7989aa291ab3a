"""ModelManager: each model loaded once, all of them inside one memory budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from mdsa_local.domains.config import DomainConfig, Generation
from mdsa_local.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigError,
    InputError,
    MDSAError,
    ModelFileError,
    ModelNotFoundError,
    expected,
    several,
)
from mdsa_local.runtime.backend import Backend, Reference, backend_module
from mdsa_local.runtime.forked import Origin
from mdsa_local.runtime.gguf import stamp
from mdsa_local.runtime.hardware import memory_budget_bytes
from mdsa_local.runtime.lending import Handle, ManagedStream, Prompt, Tokenizer, as_messages, checked_deadline
from mdsa_local.runtime.naming import Names
from mdsa_local.runtime.residency import State, parse_bytes
from mdsa_local.runtime.room import Room, closed
from mdsa_local.runtime.slots import Failing, Held, LoadedModel, Measured, ModelStatus, Queueing, Slot, Stopped, Target
from mdsa_local.settings import Settings
from mdsa_local.stoppable import HEARD_S, StoppedError, never, until
from mdsa_local.threads import settle

T = TypeVar("T")
DEFAULT_GENERATION = Generation()
# Schemes of models that are evaluated by threads of this process.
IN_PROCESS = ("gguf", "transformers")


class ModelManager:
    """Loads models when they are asked for and unloads idle ones to make room. Safe from any thread."""

    def __init__(self, settings: Settings | None = None, memory_budget: int | str | None = None, max_models: int | None = None) -> None:
        """``memory_budget`` in bytes or like ``"4GB"``; None takes it from the settings: 70 % of the memory that is free now unless they say
        otherwise. ``max_models`` limits how many are loaded at a time; None sets no limit."""
        expected(settings, Settings | None, "settings", "Pass Settings.load(parallel=2), for example, or None to have them read.", ConfigError)
        if max_models is not None and (not isinstance(max_models, int) or isinstance(max_models, bool) or max_models < 1):
            raise InputError(f"max_models is {max_models!r}", "Give 1 or more, or None for no limit.")
        self.settings = settings or Settings.load()
        configured = self.settings.memory_budget_mb
        self._room = Room(memory_budget_bytes(configured) if memory_budget is None else parse_bytes(memory_budget), max_models)
        self._names = Names(self.settings)
        # What models turned out to take, in place of their estimates, with the stamp of the file then: another in its place takes something else.
        self._measured: dict[str, tuple[tuple[int, int] | None, int]] = {}
        # Where the first model was loaded into a process, None before.
        self._origin: Origin | None = None
        self._threads: list[threading.Thread] = []
        # Models that a thread of these loads ahead of need.
        self._ahead: set[str] = set()
        if self.settings.keep_alive_s > 0:
            threading.Thread(target=self._expire, name="keep-alive", daemon=True).start()

    @property
    def memory_budget_bytes(self) -> int:
        """Memory of all loaded models; another budget holds from the next load on."""
        return self._room.budget_bytes

    @memory_budget_bytes.setter
    def memory_budget_bytes(self, budget: int) -> None:
        self._room.budget_bytes = budget

    def resolve(self, ref: str) -> Path | Reference:
        """The file that ``ref`` names, or the reference itself where another program holds the model.

        Raises :class:`ModelNotFoundError` for an unknown name, :class:`UnknownNameError` for an unknown scheme.
        """
        target = self._names.target(ref)
        return Path(target.target) if target.scheme == "gguf" else Reference(target.scheme, target.target)

    def decoding(self, ref: str) -> str:
        """How the model wants to be decoded: ``quotes``, or an empty string for freely. Raises as :meth:`resolve`."""
        file = self._names.target(ref).file
        return file.decoding if file else ""

    def ensure_ready(self, ref: str, *, stopped: Stopped = never, deadline: float | None = None) -> Backend:
        """The model, loaded. Should others need its room meanwhile, it is loaded again when used; while a call runs it stays. ``stopped`` is asked
        while room is waited for, and before a load begins: where it says so, :class:`~mdsa_local.stoppable.StoppedError` is raised. ``deadline``,
        on the clock of ``time.monotonic``: until when room is waited for, now and whenever tokens are counted; None: ``request_timeout_s`` each time.
        Ctrl-C is heard at once; a load that has begun goes on then, for who asks next.

        Raises :class:`ModelMemoryError` with the numbers when it is larger than the budget leaves, :class:`ModelError` when ``max_models`` are
        pinned, :class:`BackendUnavailableError` when models in use leave no room until ``request_timeout_s`` has passed, :class:`ClosedError` after
        :meth:`close`, :class:`BackendError` in a process that was forked after a model had been loaded, and whatever its backend raises on loading.
        """
        target = self._names.target(ref)
        with self.lease(target, stopped, deadline) as backend:
            return Handle(self, target, backend.n_context_tokens, stopped, deadline)

    def get_or_load(self, model_id: str = "", config: DomainConfig | None = None) -> tuple[Backend, Tokenizer]:
        """The model, loaded, and its tokenizer. Without ``model_id``: the model of the domain ``config``, else the default. Raises as
        :meth:`ensure_ready`."""
        target = self._names.target(model_id or (config.model if config else None) or self.settings.default_model)
        with self.lease(target) as backend:
            return Handle(self, target, backend.n_context_tokens), Tokenizer(self, target)

    def preload(self, refs: str | Iterable[str]) -> None:
        """Load models ahead of need, one after the other; a single one may be given as it is. Raises as :meth:`ensure_ready`."""
        # What is no list is told as a reference that is none.
        for ref in several(refs):
            self.ensure_ready(ref)

    def load_ahead(self, ref: str, stopped: Stopped = never) -> None:
        """Begin to load a model in this process that will be asked in a moment, unless it is loaded, or another call has begun to. Who asks for it
        waits for the rest, and meets the error where loading fails: nothing is raised here. ``stopped`` is asked while room is waited for, and before
        the load begins: for nobody nothing is unloaded."""
        target = self._target_if_any(ref)
        if target is None:
            return
        with self._room.changed:
            if target.scheme != "gguf" or self._room.closed or self._room.slot(target).resident or target.key in self._ahead:
                return
            self._ahead.add(target.key)
            self._begin(lambda: self._load_quietly(target, stopped), f"load-{target.name}")

    def refuse_when_full(self, ref: str) -> None:
        """Raise :class:`BusyError` where a model that is loaded has as many waiting as it takes. For whoever has work to do before asking it: costs
        microseconds, and promises nothing to who is not refused. What else is wrong with it is met by who asks it."""
        target = self._target_if_any(ref)
        if target is None:
            return
        with self._room.changed:
            slot = self._room.slots.get(target.key)
            backend = slot.backend if slot and slot.state == "ready" else None
        if isinstance(backend, Queueing):
            backend.refuse_when_full()

    def _target_if_any(self, ref: str) -> Target | None:
        """What a reference names; None where that is unknown, or this process was forked: whoever asks the model meets the error."""
        try:
            self._refuse_forked()
            return self._names.target(ref)
        except MDSAError:
            return None

    def _load_quietly(self, target: Target, stopped: Stopped) -> None:
        try:
            with suppress(MDSAError, StoppedError), self.lease(target, stopped):
                pass
        finally:
            with self._room.changed:
                self._ahead.discard(target.key)

    def pin(self, ref: str, pinned: bool = True) -> None:
        """Keep a model in memory once it is loaded, whatever else needs room; or no longer. Raises as :meth:`resolve`."""
        target = self._names.target(ref)
        with self._room.changed:
            self._room.slot(target).pinned = pinned
            self._room.changed.notify_all()

    def unload(self, ref: str) -> bool:
        """Unload a model now, pinned or not; False when it is not loaded or in use. Its memory is free on return. Ctrl-C ends the wait for that, not
        the work."""
        self._refuse_forked()
        target = self._names.target(ref)
        with self._room.changed:
            slot = self._room.slots.get(target.key)
            if not slot or slot.state != "ready" or slot.uses:
                return False
            self._room.move(slot, "unloading")
        self._unload([slot])
        return True

    def stream(self, ref: str, messages: Prompt, generation: Generation = DEFAULT_GENERATION, *, deadline_s: float | None = None) -> ManagedStream:
        """Pieces of text, then one :class:`Finished`. ``messages`` are Messages, dicts with role and content, or one question as a string.

        ``deadline_s`` is ``request_timeout_s`` unless given, and counts from the first piece asked for: waiting for room and loading are part of
        it, though a load that has begun is not broken off. ``close`` of what is returned stops the work, from any thread. Raises
        :class:`InputError` for messages or a deadline that are none, and as :meth:`ensure_ready` and :meth:`Backend.stream`.
        """
        expected(generation, Generation, "generation", "Pass Generation(max_tokens=64), for example.")
        deadline_s = self.settings.request_timeout_s if deadline_s is None else checked_deadline(deadline_s)
        return ManagedStream(self, self._names.target(ref), as_messages(messages), generation, deadline_s)

    def generate(self, ref: str, messages: Prompt, generation: Generation = DEFAULT_GENERATION, *, deadline_s: float | None = None) -> str:
        """The whole text of :meth:`stream`, without what it withdraws. Raises as that, and what :meth:`cut_off` gives where it ends as
        ``cancelled``."""
        written = list[str]()
        for piece in self.stream(ref, messages, generation, deadline_s=deadline_s):
            if isinstance(piece, str):
                written.append(piece)
            elif piece.reason == "cancelled":
                raise self.cut_off(f"the model {ref}")
            else:
                written = ["".join(written)[piece.withdrawn :]]
        return "".join(written)

    def cut_off(self, model: str) -> BackendError:
        """What it means that an answer of ``model`` ended as ``cancelled`` though nobody had stopped reading: :class:`ClosedError` after
        :meth:`close`, else :class:`BackendUnavailableError`."""
        return closed() if self._room.closed else BackendUnavailableError(f"{model} was stopped before its answer was complete", "Ask again.")

    def loaded(self) -> list[LoadedModel]:
        """The models in memory, least recently used first."""
        with self._room.changed:
            ready = sorted((slot for slot in self._room.slots.values() if slot.state == "ready"), key=lambda slot: slot.last_used)
            return [LoadedModel(slot.name, slot.size_bytes) for slot in ready]

    def status(self) -> list[ModelStatus]:
        """Every model that was asked for so far."""
        with self._room.changed:
            return [
                ModelStatus(slot.name, slot.state, slot.size_bytes, slot.uses, slot.pinned, slot.loads, slot.load_s, slot.error)
                for slot in self._room.slots.values()
            ]

    def close(self) -> None:
        """Unload everything; safe twice. Running streams end as ``cancelled``. Ctrl-C ends the wait, not the work. In a process that was forked since
        a model was loaded nothing is done: what there is of it belongs to the other process."""
        if self._left:
            return
        with self._room.changed:
            self._room.closed = True
            slots = [slot for slot in self._room.slots.values() if slot.state == "ready"]
            for slot in slots:
                self._room.move(slot, "unloading")
            # Who waits for room has to hear of it.
            self._room.changed.notify_all()
        self._unload(slots)
        with self._room.changed:
            threads = self._threads
        for thread in threads:
            while thread.is_alive():
                thread.join(HEARD_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def lease(self, target: Target, stopped: Stopped = never, deadline: float | None = None) -> Iterator[Backend]:
        """Hold the model, loaded, so that it is not unloaded meanwhile. Raises as :meth:`acquire`."""
        held = self.acquire(target, deadline, stopped)
        try:
            yield held.backend
        finally:
            self.release(held)

    def release(self, held: Held) -> None:
        """Let go of what :meth:`acquire` gave; it may be unloaded then."""
        if self._left:
            return
        with self._room.changed:
            # The backend may have failed since, and another be loaded in its place.
            if held.slot.backend is held.backend:
                if isinstance(held.backend, Measured) and held.backend.memory_bytes:
                    # It grows by the adapters it was asked with.
                    held.slot.size_bytes = held.backend.memory_bytes
                held.slot.uses -= 1
                held.slot.idle_since = time.monotonic()
                self._room.changed.notify_all()
                self._give_way(held.slot)

    def _give_way(self, slot: Slot) -> None:
        """Under the lock: begin to unload idle models where all have grown beyond the budget together. In a thread of its own: who lets go of a model
        must not wait, and may be the thread that one of them runs in."""
        if victims := self._room.outgrown(slot):
            self._begin(lambda: self._dismiss(victims), "unload")

    def _begin(self, work: Callable[[], None], name: str) -> None:
        """Under the lock: do ``work`` in a thread that :meth:`close` waits for."""
        thread = threading.Thread(target=work, name=name)
        self._threads = [*(other for other in self._threads if other.is_alive()), thread]
        try:
            thread.start()
        except RuntimeError:
            # A program that ends begins no more of them.
            work()

    def _interruptibly(self, work: Callable[[Stopped], T], name: str, left: Callable[[Future[T]], object]) -> T:
        """What ``work`` gives. Ctrl-C is raised in the main thread alone, and would break it off in the middle, or be lost inside of llama.cpp: that
        thread has it done by another. Where it is raised, ``work`` can ask whether it is wanted no more, and ``left`` gets what comes of it."""
        if threading.current_thread() is not threading.main_thread():
            return work(never)
        done, gone = Future[T](), threading.Event()
        try:
            with self._room.changed:
                self._begin(partial(settle, done, partial(work, gone.is_set)), name)
            while not wait([done], HEARD_S).done:
                pass
            return done.result()
        except BaseException:
            gone.set()
            done.add_done_callback(left)
            raise
        finally:
            # As in settle.
            del done

    @property
    def _left(self) -> bool:
        """Whether this process was forked since a model was loaded."""
        return self._origin is not None and self._origin.left

    def _refuse_forked(self) -> None:
        if self._origin is not None:
            self._origin.refuse_forked()

    def acquire(self, target: Target, deadline: float | None = None, stopped: Stopped = never) -> Held:
        """The model, loaded, and held until :meth:`release`. Room is waited for until ``deadline`` on the clock of ``time.monotonic``, for
        ``request_timeout_s`` unless given. Raises as :meth:`ensure_ready`."""
        self._refuse_forked()
        deadline = time.monotonic() + self.settings.request_timeout_s if deadline is None else deadline
        try:
            return self._acquire(target, deadline, stopped)
        except (ModelNotFoundError, ModelFileError):
            if (found := self._names.again(target)) == target:
                raise
            self._room.renamed(target, found)
        return self._acquire(found, deadline, stopped)

    def _acquire(self, target: Target, deadline: float, stopped: Stopped) -> Held:
        size: int | None = None
        while True:
            with self._room.changed:
                slot, victims = self._room.claim(target, size, deadline, stopped)
                if slot and slot.backend is not None and slot.state == "ready":
                    return Held(slot, slot.backend)
            if slot:
                if (backend := self._loaded(target, slot, victims, stopped)) is not None:
                    return Held(slot, backend)
                # What was measured is more than what its header says.
                size = None
                continue
            # Not loaded: its header is read outside the lock, then the claim is made again with what the header says.
            size = self._size(target)

    def _size(self, target: Target) -> int:
        """What the model takes, as measured or else as its header says."""
        try:
            seen, measured = self._measured.get(target.key, (None, 0))
            same = measured and seen == stamp(Path(target.target))
            size = measured if same else backend_module(target.scheme).estimate_bytes(target.target, self.settings)
            self._room.check(target, size)
        except MDSAError as error:
            with self._room.changed:
                slot = self._room.slot(target)
                if not slot.resident:
                    self._dismiss([slot], "failed", str(error))
            raise
        return size

    def _unload(self, slots: Iterable[Slot]) -> None:
        """Free models in state ``unloading``."""
        self._interruptibly(lambda _: self._dismiss(slots), "unload", lambda _: None)

    def _dismiss(self, slots: Iterable[Slot], state: State = "absent", error: str = "") -> None:
        """Close what is in ``slots``, and book each as ``state``, whatever goes wrong with one; that is raised in the end."""
        with ExitStack() as each:
            for slot in slots:
                each.callback(self._end, slot, state, error)

    def _end(self, slot: Slot, state: State, error: str) -> None:
        try:
            if slot.backend:
                slot.backend.close()
        finally:
            with self._room.changed:
                slot.backend, slot.uses, slot.error = None, 0, error
                self._room.move(slot, state)

    def _loaded(self, target: Target, slot: Slot, victims: list[Slot], stopped: Stopped) -> Backend | None:
        """What :meth:`_load` gives. Whoever breaks off the wait for it holds nothing; the model stays, where its load had begun."""
        if target.scheme in IN_PROCESS and self._origin is None:
            self._origin = Origin(target.name)

        def left(loading: Future[Backend | None]) -> None:
            if not loading.exception() and (backend := loading.result()) is not None:
                self.release(Held(slot, backend))

        return self._interruptibly(lambda gone: self._load(target, slot, victims, lambda: stopped() or gone()), f"load-{target.name}", left)

    def _load(self, target: Target, slot: Slot, victims: list[Slot], stopped: Stopped) -> Backend | None:
        """Unload the victims, load the model, publish it; None when it turned out too large for what is left, to be tried again. A server that loads
        it is not waited for once that is ``stopped``, or the manager closed; who waits for the same then loads it anew."""
        backend, failed, seen = None, "", None
        began = time.monotonic()
        try:
            self._dismiss(victims)
            self._names.verify(target)
            if stopped():
                raise StoppedError
            began, seen = time.monotonic(), stamp(Path(target.target))
            with until(lambda: stopped() or self._room.closed):
                backend = backend_module(target.scheme).open_backend(target.target, target.name, self.settings)
        except MDSAError as error:
            if self._room.closed:
                raise closed() from None
            if stopped():
                raise StoppedError from None
            failed = str(error)
            raise
        finally:
            if backend is None:
                self._dismiss([slot], "failed", failed or "stopped while loading")
        if isinstance(backend, Measured) and backend.memory_bytes:
            self._measured[target.key] = seen, backend.memory_bytes
        if not self._publish(target, slot, backend, time.monotonic() - began):
            return None
        if isinstance(backend, Failing):
            backend.when_failed(lambda failure: self._bury(slot, backend, failure))
        return backend

    def _bury(self, slot: Slot, backend: Backend, failure: BackendError) -> None:
        """Take a backend that failed out of service; the next who asks loads the model again."""
        with self._room.changed:
            if slot.backend is not backend or slot.state != "ready":
                return
            self._room.move(slot, "unloading")
        self._dismiss([slot], "failed", str(failure))

    def _publish(self, target: Target, slot: Slot, backend: Backend, seconds: float) -> bool:
        """Take a loaded model into service, unless the manager was closed meanwhile or what was measured leaves no room."""
        room = self._room
        with room.changed:
            size = backend.memory_bytes if isinstance(backend, Measured) else 0
            victims = room.take_in(slot, size or slot.size_bytes, backend, seconds)
            was_closed = room.closed
            if victims is None:
                slot.backend = backend
        if victims is not None:
            self._dismiss(victims)
            return True
        self._dismiss([slot])
        if was_closed:
            raise closed()
        room.check(target, slot.size_bytes)
        return False

    def _expire(self) -> None:
        """Unload what has been idle for ``keep_alive_s``."""
        keep_s = self.settings.keep_alive_s
        while True:
            with self._room.changed:
                if self._room.closed:
                    return
                idle = self._room.idle()
                now = time.monotonic()
                expired = [slot for slot in idle if now - slot.idle_since >= keep_s]
                for slot in expired:
                    self._room.move(slot, "unloading")
                if not expired:
                    self._room.changed.wait(min([threading.TIMEOUT_MAX, *(slot.idle_since + keep_s - now for slot in idle)]))
            self._dismiss(expired)
