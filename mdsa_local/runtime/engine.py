"""The engine: one thread that owns a context and writes many answers at once (continuous batching).

Each turn it takes in what waits and fits, fills one batch with the next token of every answer under way and a piece of the prompts still to be
read, evaluates it, and hands each request its logits. Requests come and go between any two turns.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from mdsa_local.errors import BackendError, BusyError, MDSAError
from mdsa_local.runtime.answering import LEAD_TOKENS, NO_TARGET, Request, Seat, late
from mdsa_local.runtime.backend import Finished
from mdsa_local.runtime.cores import Cores
from mdsa_local.runtime.forked import Origin
from mdsa_local.runtime.native import BATCH_TOKENS, Context, ContextOptions, Model
from mdsa_local.runtime.prefix_store import PrefixStore
from mdsa_local.runtime.prefixes import Prefixes, boundary
from mdsa_local.runtime.seating import SHARED_TOKENS, Work, joins

logger = logging.getLogger(__name__)
ABORTED, NO_ROOM = 2, 1
KEPT_PREFIXES = 8
# Longest wait for the end of a batch, or of a grammar's work on one token, which nothing can interrupt.
CLOSING_S = 15.0
# Batches in a row for one adapter while answers with another wait.
ADAPTER_TURNS = 8


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since the engine began, and what it is doing now; ``threads`` is how many it evaluated with last."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    tokens_generated: int = 0
    batches: int = 0
    finished: int = 0
    running: int = 0
    waiting: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """A seat's share of a batch: the row of its first token, how many tokens."""

    seat: Seat
    row: int
    count: int


def context_options(n_context_tokens: int, parallel: int, threads: int, *, flash_attention: bool = False) -> ContextOptions:
    """The context for ``parallel`` answers at once, each of at most ``n_context_tokens`` with its prompt.

    Cells are shared: as many as one request may fill, or, where that is little, so many that several fit; 64 more to weigh answers in.
    """
    cells = max(n_context_tokens, min(parallel * n_context_tokens, 4096)) + 64
    return ContextOptions(
        cells=-(-cells // 256) * 256,
        sequences=parallel + KEPT_PREFIXES,
        batch_tokens=BATCH_TOKENS + parallel,
        outputs=parallel + LEAD_TOKENS,
        threads=threads,
        flash_attention=flash_attention,
    )


class Engine:
    """Runs requests on one model. :meth:`submit`, :meth:`cancel`, :meth:`expire` and :meth:`close` are safe from any thread."""

    def __init__(
        self,
        model: Model,
        options: ContextOptions,
        name: str,
        parallel: int,
        queue_limit: int,
        store: PrefixStore | None = None,
        parked_bytes: int = 0,
        cores: Cores | None = None,
        weights_per_cell: float = math.inf,
    ) -> None:
        """``parallel`` answers at once where that pays by ``weights_per_cell``, see :mod:`seating`; ``queue_limit`` more wait. ``store`` and
        ``parked_bytes``: see :class:`Prefixes`. ``cores``: what to ask how many of the threads of ``options`` to use; all when None."""
        self.name, self.model, self.options = name, model, options
        self.origin = Origin(name)
        self._parallel, self._queue_limit, self._cores, self._weights_per_cell = parallel, queue_limit, cores, weights_per_cell
        self.context = Context(model, options)
        self._free = list(range(options.sequences))
        self.prefixes = Prefixes(self.context, self._free, KEPT_PREFIXES, store, parked_bytes)
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._seats: list[Seat] = []
        # Those that had to give up their memory in the middle of an answer, oldest first.
        self._paused: list[Seat] = []
        # Requests whose evaluation takes so long that it is worth interrupting.
        self._interruptible: frozenset[int] = frozenset()
        self._adapter, self._turns = "", 0
        self._closing = False
        self._failure: BackendError | None = None
        self._tell_failure: Callable[[BackendError], None] | None = None
        # Of the last requests: seconds of one, and tokens of its answer.
        self._seconds, self._length = 1.0, 64.0
        self._counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request. Raises :class:`BusyError` when the queue is full, :class:`BackendError` after :meth:`close`, a failure or a fork."""
        self.origin.refuse_forked()
        with self._changed:
            if self._closing:
                raise self._failure or BackendError(f"{self.name} was closed")
            self._refuse_when_full()
            self._waiting.append(request)
            self._changed.notify()

    def refuse_when_full(self) -> None:
        """Raise :class:`BusyError` where :meth:`submit` would now, for whoever has work to do before that."""
        self.origin.refuse_forked()
        with self._changed:
            self._refuse_when_full()

    def _refuse_when_full(self) -> None:
        # Those that the next turn will seat do not wait.
        free = max(0, self._parallel - len(self._seats) - len(self._paused))
        if len(self._waiting) >= self._queue_limit + free:
            wait_s = max(1.0, round(self._seconds * len(self._waiting) / max(1, len(self._seats)), 1))
            raise BusyError(
                f"{self.name} answers {len(self._seats)} requests and {len(self._waiting)} wait", f"Ask again in about {wait_s:g} s.", wait_s
            )

    def cancel(self, request: Request | None = None) -> None:
        """Stop a request, or all of them, even while a prompt is read: each ends as ``cancelled``."""
        if self.origin.left:
            return
        with self._changed:
            for stopped in [request] if request else self._all():
                stopped.cancelled = True
                self._interrupt(stopped)
            self._changed.notify()

    def expire(self, request: Request) -> None:
        """Stop a request whose caller has given up at its deadline."""
        with self._changed:
            request.expired = True
            self._interrupt(request)
            self._changed.notify()

    def stats(self) -> EngineStats:
        """What was done so far."""
        with self._changed:
            waiting = len(self._waiting) + len(self._paused)
            return EngineStats(**self._counts, running=len(self._seats), waiting=waiting, threads=self.context.threads)

    def close(self) -> bool:
        """End all requests as ``cancelled`` and free the context; False where it is in use after :data:`CLOSING_S` still. Safe twice, and from whom
        :meth:`when_failed` tells. In a process that was forked since it leaves the context alone."""
        if self.origin.left:
            return False
        with self._changed:
            self._closing = True
            for request in self._all():
                request.cancelled = True
                self._interrupt(request)
            self._changed.notify()
        if self._thread is threading.current_thread():
            return True
        self._thread.join(CLOSING_S)
        if stuck := self._thread.is_alive():
            logger.warning("%s: still at work %g s after it was closed; its memory stays in use", self.name, CLOSING_S)
        return not stuck

    def when_failed(self, tell: Callable[[BackendError], None]) -> None:
        """Have ``tell`` called, from the engine's thread, once that has failed and the context is free; at once when it has."""
        with self._changed:
            self._tell_failure = tell
            failure = self._failure
        if failure is not None:
            self._thread.join()
            tell(failure)

    def _all(self) -> list[Request]:
        return [*self._waiting, *(seat.request for seat in [*self._seats, *self._paused])]

    def _interrupt(self, request: Request) -> None:
        if id(request) in self._interruptible:
            self.context.abort.set()

    def _run(self) -> None:
        tell = None
        if self._cores:
            self._cores.enter()
        try:
            while self._turn():
                pass
            self.prefixes.save()
        except Exception as error:
            # The edge of this thread: whoever waits has to hear of it, or would wait for ever.
            failure = BackendError(f"{self.name}: the engine failed: {type(error).__name__}: {error}", "This is a fault of mdsa_local.")
            logger.exception("%s: the engine failed", self.name)
            tell = self._fail_all(failure)
        finally:
            if self._cores:
                self._cores.leave()
            with self._changed:
                self._closing = True
            self.context.close()
        if tell is not None:
            tell(failure)

    def _turn(self) -> bool:
        """One batch; False when the engine is to end."""
        with self._changed:
            busy = self._waiting or self._seats or self._paused or self._closing
        if not busy:
            self._rest()
        with self._changed:
            self._sweep()
            if self._closing:
                return False
            self._admit()
        if parts := self._fill():
            self._evaluate(parts)
        return True

    def _rest(self) -> None:
        """Wait for a request, or for the end."""
        self._free_adapters()
        self.context.rest()
        if self._cores:
            self._cores.leave()
        try:
            self.prefixes.ready()
            if self.prefixes.unsaved():
                self.prefixes.save()
            with self._changed:
                while not (self._waiting or self._seats or self._paused or self._closing):
                    self._changed.wait()
        finally:
            if self._cores:
                self._cores.enter()

    def _sweep(self) -> None:
        """Let go of requests that were cancelled or are late."""
        now = time.monotonic()
        for request in [request for request in self._waiting if request.dropped or request.deadline <= now]:
            self._waiting.remove(request)
            self._drop(request)
        for seat in [seat for seat in self._seats if seat.request.dropped or seat.request.deadline <= now]:
            self._drop(seat.request)
            self._leave(seat)
        for seat in [seat for seat in self._paused if seat.request.dropped or seat.request.deadline <= now]:
            self._drop(seat.request)
            self._paused.remove(seat)
            seat.close()

    def _drop(self, request: Request) -> None:
        late_ = request.expired or not request.cancelled
        request.events.put(late(self.name) if late_ else Finished("cancelled", len(request.prompt), request.made))

    def _admit(self) -> None:
        """Seat those for whom there is a seat and memory: the paused, then the queue from its head. In order, so that a long prompt is not
        overtaken for ever. With nobody seated the first always fits."""
        room = self.options.cells
        if self._paused or self._waiting:
            room -= sum(max(seat.request.need, len(seat.tokens) + seat.left) for seat in self._seats)
        while (self._paused or self._waiting) and len(self._seats) < self._parallel:
            need = max(self._paused[0].request.need, self._paused[0].left) if self._paused else self._waiting[0].need
            if self._seats and (need > room or not (self._paused or self._joins(self._waiting[0]))):
                break
            room -= need
            if self._paused:
                seat = self._paused.pop(0)
                seat.sequence = self._free.pop()
            else:
                seated = self._seat(self._waiting.popleft())
                if seated is None:
                    continue
                seat = seated
            self._seats.append(seat)
        self._free_adapters()

    def _seat(self, request: Request) -> Seat | None:
        """A seat for a request; None where it failed, and its caller is told."""
        request.began = time.monotonic()
        sequence = self._free.pop()
        try:
            request.adapter = self.context.load_adapter(request.adapter)
            self.prefixes.restore(request.prompt[: request.n_static], request.adapter)
            reused = self.prefixes.begin(sequence, request.prompt, request.adapter)
            seat = Seat(request, sequence, self.context, list(request.prompt[:reused]), reused)
        except Exception as error:
            request.events.put(self._told(error))
            self.prefixes.release(sequence)
            return None
        self._count(reused_tokens=reused)
        return seat

    def _told(self, error: Exception) -> MDSAError:
        """What the caller of a request is told of ``error``, which ends that request and no other."""
        if isinstance(error, MDSAError):
            return error
        logger.error("%s: a request failed", self.name, exc_info=error)
        return BackendError(f"{self.name}: the request failed: {type(error).__name__}: {error}", "This is a fault of mdsa_local.")

    def _joins(self, request: Request) -> bool:
        """Whether it pays to seat a request beside those who have a seat."""
        if math.isinf(self._weights_per_cell):
            return True
        others = []
        for seat in self._seats:
            prompt, made, write = len(seat.request.prompt), seat.request.made, self._expected(seat.request)
            others.append(Work(prompt - seat.reused + made + write, 0 if made else seat.left, write))
        read, write = len(request.prompt) - self.prefixes.reach(request.prompt), self._expected(request)
        return joins(Work(read + write, read, write), others, self._weights_per_cell)

    def _expected(self, request: Request) -> int:
        """How many tokens a request will still write: what others wrote, or once it is past that, as many as it has written."""
        return max(1, min(request.limit - request.made, round(max(self._length - request.made, request.made))))

    def _free_adapters(self) -> None:
        """Free adapters whose files were changed, once their last answer is written; what was read with them is of no use any more."""
        for mark in self.context.replaced_adapters() - {seat.request.adapter for seat in [*self._seats, *self._paused]}:
            self.prefixes.forget(mark)
            if self._adapter == mark:
                self._adapter = ""
                self.context.use_adapter("")
            self.context.free_adapter(mark)

    def _make_room(self) -> bool:
        """Give up something in memory: a kept prefix, else the youngest answer, which waits; False when there is but one."""
        if self.prefixes.evict():
            return True
        if len(self._seats) < 2:
            return False
        with self._changed:
            seat = self._seats.pop()
            seat.rewind(0)
            self.prefixes.release(seat.sequence)
            self._paused.insert(0, seat)
        return True

    def _fill(self) -> list[_Part]:
        """Fill the batch: the next token of every answer, then what of the prompts has room beside them."""
        self.context.clear()
        seats = self._group()
        writing = [seat for seat in seats if seat.left == 1]
        parts = [self._put(seat, 1, 1) for seat in writing]
        outputs = self.options.outputs - len(parts)
        room = SHARED_TOKENS if parts else BATCH_TOKENS
        for seat in seats:
            if seat.left == 1 or not room:
                continue
            here = len(seat.tokens)
            count = min(seat.left, room, boundary(here, seat.request.n_static) - here)
            count = min(count, outputs) if seat.step.targets else count
            wanted = count if seat.step.targets else int(count == seat.left)
            if wanted <= outputs and count:
                parts.append(self._put(seat, count, wanted))
                outputs -= wanted
                room -= count
        return parts

    def _group(self) -> list[Seat]:
        """The seats of one adapter: llama.cpp applies one to a whole batch. With several under way each has its turn of some batches."""
        adapters = list(dict.fromkeys(seat.request.adapter for seat in self._seats))
        if adapters and (self._adapter not in adapters or (len(adapters) > 1 and self._turns >= ADAPTER_TURNS)):
            following = adapters.index(self._adapter) + 1 if self._adapter in adapters else 0
            self._adapter, self._turns = adapters[following % len(adapters)], 0
            self.context.use_adapter(self._adapter)
        self._turns += 1
        return [seat for seat in self._seats if seat.request.adapter == self._adapter]

    def _put(self, seat: Seat, count: int, outputs: int) -> _Part:
        row = self.context.add(seat.sequence, len(seat.tokens), seat.step.tokens[seat.done : seat.done + count], outputs)
        return _Part(seat, row, count)

    def _evaluate(self, parts: list[_Part]) -> None:
        with self._changed:
            if any(part.seat.request.dropped for part in parts):
                return
            self.context.abort.clear()
            self._interruptible = frozenset(id(part.seat.request) for part in parts if part.count > 1)
        if self._cores:
            self.context.use_threads(self._cores.threads(self.options.threads))
        code = self.context.decode()
        with self._changed:
            self._interruptible = frozenset()
        if code == 0:
            answers = sum(part.count for part in parts if part.seat.request.made)
            self._count(batches=1, tokens_generated=answers, prompt_tokens=sum(part.count for part in parts) - answers)
            for part in parts:
                self._done(part)
        elif code == ABORTED:
            for part in parts:
                part.seat.resync()
        elif code != NO_ROOM or not self._make_room():
            error = BackendError(f"{self.name}: llama_decode failed with code {code}", "Run with logging at DEBUG to see llama.cpp's own messages.")
            for part in parts:
                part.seat.request.events.put(error)
                self._leave(part.seat, keep=False)

    def _done(self, part: _Part) -> None:
        """Go on with a seat whose tokens are in memory."""
        seat, step, request = part.seat, part.seat.step, part.seat.request
        if step.targets:
            for at, target in enumerate(step.targets[seat.done : seat.done + part.count]):
                if target != NO_TARGET:
                    step.scores.append(float(self.context.log_probabilities(part.row + at)[target]))
        seat.tokens.extend(step.tokens[seat.done : seat.done + part.count])
        seat.done += part.count
        if not request.made and len(seat.tokens) == request.n_static:
            self.prefixes.snapshot(seat.sequence, seat.tokens, request.adapter)
        if seat.left:
            return
        try:
            seat.advance(part.row + part.count - 1)
        except StopIteration:
            seconds = time.monotonic() - request.began
            self._seconds += 0.1 * (seconds - self._seconds)
            self._length += 0.1 * (request.made - self._length)
            self._count(finished=1)
            self._leave(seat)
        except Exception as error:
            request.events.put(self._told(error))
            self._leave(seat, keep=isinstance(error, MDSAError))

    def _leave(self, seat: Seat, keep: bool = True) -> None:
        """Free a seat; what it holds is kept for the next request that begins alike."""
        seat.close()
        with self._changed:
            self._seats.remove(seat)
        request = seat.request
        if keep:
            n_prompt = min(len(request.prompt), len(seat.tokens))
            self.prefixes.keep(seat.sequence, seat.tokens, n_prompt, min(request.n_static, n_prompt), request.adapter)
        else:
            self.prefixes.release(seat.sequence)

    def _count(self, **more: int) -> None:
        with self._changed:
            self._counts.update(more)

    def _fail_all(self, failure: BackendError) -> Callable[[BackendError], None] | None:
        """End everything with ``failure``, and take no more; whom to tell."""
        with self._changed:
            self._closing, self._failure = True, failure
            for request in self._all():
                request.events.put(failure)
            self._waiting.clear()
            self._seats.clear()
            self._paused.clear()
            return self._tell_failure
