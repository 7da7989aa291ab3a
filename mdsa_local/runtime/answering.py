"""One request: what its caller holds of it, and the steps by which its answer comes about, as a coroutine that the engine drives.

The coroutine yields what has to be evaluated next and is sent the row of logits behind its last token. It never waits and touches nothing but
its own sequence, so the engine may put its tokens into one batch with those of any other request.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendTimeoutError, MDSAError
from mdsa_local.runtime.backend import Finished, Reason, TokenProbability
from mdsa_local.runtime.native import Context
from mdsa_local.runtime.sampler import Sampler
from mdsa_local.runtime.stopping import THINKS, StopFilter
from mdsa_local.stoppable import HEARD_S

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A choice is weighed by its first tokens: behind them it only has to be copied, and a long one must not lose by its length.
LEAD_TOKENS = 8
# Log probability from which on a refusal stands.
REFUSED = math.log(0.5)
NO_TARGET = -1


@dataclass(slots=True, eq=False)
class Request:
    """A prompt on its way. ``n_static``: how many of its first tokens other requests will share (a system prompt), 0 for none known.

    ``limit``: most tokens to write; ``deadline`` on the clock of ``time.monotonic``; ``need``: cells of memory it will probably fill.
    ``adapter``: the path of one, and once it is loaded its mark. ``cancelled`` and ``expired`` are set under the engine's lock, ``made`` by the
    engine's thread.
    """

    prompt: Sequence[int]
    n_static: int
    generation: Generation
    limit: int
    deadline: float
    need: int
    refusal: Sequence[int] = ()
    choices: Sequence[tuple[Sequence[int], float]] = ()
    events: SimpleQueue[str | Finished | MDSAError] = field(default_factory=SimpleQueue)
    adapter: str = ""
    cancelled: bool = False
    expired: bool = False
    made: int = 0
    began: float = 0.0

    @property
    def dropped(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.cancelled or self.expired


@dataclass(slots=True, eq=False)
class Evaluate:
    """Tokens to append to the sequence. Where there are ``targets``, one for each, ``scores`` become their log probabilities behind them."""

    tokens: Sequence[int]
    targets: Sequence[int] = ()
    scores: list[float] = field(default_factory=list)


class Seat:
    """A request's place in the context: its sequence, the tokens in memory, and the step under way. Of the prompt, ``reused`` tokens were in memory
    already."""

    __slots__ = ("context", "done", "request", "reused", "sequence", "step", "steps", "tokens")

    def __init__(self, request: Request, sequence: int, context: Context, tokens: list[int], reused: int) -> None:
        self.request, self.sequence, self.context, self.tokens, self.reused = request, sequence, context, tokens, reused
        self.steps = answer(self)
        self.step, self.done = next(self.steps), 0

    @property
    def left(self) -> int:
        """Tokens of the step that are still to be evaluated."""
        return len(self.step.tokens) - self.done

    def advance(self, row: int) -> None:
        """Go on behind a finished step. Raises :class:`StopIteration` at the end of the answer and whatever the answer raises."""
        self.step, self.done = self.steps.send(row), 0

    def cut(self, n_tokens: int) -> int:
        """Forget all but the first ``n_tokens``; returns how many are left."""
        if n_tokens < len(self.tokens):
            del self.tokens[self.context.cut(self.sequence, n_tokens) :]
        return len(self.tokens)

    def resync(self) -> None:
        """After an aborted batch: what is not in memory any more is evaluated again."""
        if (length := self.context.length(self.sequence)) != len(self.tokens):
            self.rewind(self.context.cut(self.sequence, min(length, len(self.tokens)) if self.context.model.cuttable else 0))

    def rewind(self, kept: int) -> None:
        """Only the first ``kept`` tokens are in memory: the others go before what is left of the step."""
        again = self.tokens[kept:]
        # In place, because the answer holds the step and waits for its scores.
        self.step.tokens = [*again, *self.step.tokens[self.done :]]
        self.step.targets = [*(NO_TARGET for _ in again), *self.step.targets[self.done :]] if self.step.targets else ()
        self.done = 0
        del self.tokens[kept:]

    def close(self) -> None:
        """End the answer where it stands."""
        self.steps.close()


def answer(seat: Seat) -> Generator[Evaluate, int, None]:
    """The steps of one answer: read the prompt, weigh refusal and choices, write token by token.

    A refusal stands when the model gives it one half or more as a whole: token by token a fixed phrase wins too often, because its mass stays
    together while that of other answers is spread over many beginnings. Of the choices the likeliest wins, its odds added.
    """
    request, context = seat.request, seat.context
    prompt, generation = request.prompt, request.generation
    row = yield Evaluate(prompt[len(seat.tokens) :])
    begin: Sequence[int] = ()
    if request.refusal or request.choices:
        first = context.log_probabilities(row)
        if request.refusal and (yield from _weigh(seat, first, request.refusal, REFUSED)) >= REFUSED:
            request.events.put(generation.refusal)
            told: tuple[TokenProbability, ...] = ()
            if generation.probabilities is not None:
                row = yield from _again(seat)
                _, told = yield from _given(seat, row, request.refusal)
            request.events.put(Finished("stop", len(prompt), len(request.refusal), probabilities=told))
            return
        best = -math.inf
        for tokens, odds in sorted(request.choices, key=lambda choice: -choice[1]):
            weight = odds + (yield from _weigh(seat, first, tokens[:LEAD_TOKENS], best - odds))
            if weight > best:
                best, begin = weight, tokens
        # Weighing left other logits behind than the prompt's. Those say how likely the model found a beginning, too.
        if not begin or generation.probabilities is not None:
            row = yield from _again(seat)
    yield from _write(seat, row, begin)


def _weigh(seat: Seat, first: NDArray[np.float64], tokens: Sequence[int], least: float) -> Generator[Evaluate, int, float]:
    """The log probability of ``tokens`` behind the prompt, evaluated only where the first does not fall below ``least``; the memory is left as
    it was. ``first`` are the log probabilities behind the prompt."""
    likelihood = float(first[tokens[0]])
    if likelihood >= least and len(tokens) > 1:
        step = Evaluate(tokens[:-1], tokens[1:])
        yield step
        likelihood += sum(step.scores)
        if (kept := seat.cut(len(seat.request.prompt))) < len(seat.request.prompt):
            yield Evaluate(seat.request.prompt[kept:])
    return likelihood


def _again(seat: Seat) -> Generator[Evaluate, int, int]:
    """The row of logits behind the prompt, once more."""
    kept = seat.cut(len(seat.request.prompt) - 1)
    return (yield Evaluate(seat.request.prompt[kept:]))


def _given(seat: Seat, row: int, tokens: Sequence[int]) -> Generator[Evaluate, int, tuple[int, tuple[TokenProbability, ...]]]:
    """Evaluate tokens that nobody draws; returns the row behind them and, where they are asked for, what the model gave each. ``row``: that before
    them."""
    n_alternatives = seat.request.generation.probabilities
    if n_alternatives is None:
        return (yield Evaluate(tokens)), ()
    told = []
    for token in tokens:
        told.append(_probability(seat.context, row, token, n_alternatives))
        row = yield Evaluate((token,))
    return row, tuple(told)


def _write(seat: Seat, row: int, begin: Sequence[int]) -> Generator[Evaluate, int, None]:
    """Write the answer, which begins with the tokens ``begin``."""
    request, context, model = seat.request, seat.context, seat.context.model
    generation, put = request.generation, request.events.put
    # What has a form, or a beginning, is no thought.
    thinks = not (generation.grammar or begin) and b"".join(map(model.piece, request.prompt[-8:])).rstrip().endswith(THINKS.encode())
    stops, told = StopFilter(generation.stop, thinks), list[TokenProbability]()
    reason: Reason = "length"
    sampler = Sampler(context, generation)
    try:
        for token in begin[: request.limit]:
            sampler.accept(token)
            request.made += 1
            if text := stops.feed(model.piece(token)):
                put(text)
            if stops.stopped:
                break
        # Nothing may follow them, and then only what they are given is of interest.
        if begin and (generation.probabilities is not None or (request.made < request.limit and not stops.stopped)):
            row, given = yield from _given(seat, row, begin[: request.made])
            told += given
        while request.made < request.limit and not stops.stopped:
            token = sampler.sample(row)
            if model.ends(token):
                reason = "stop"
                break
            request.made += 1
            if generation.probabilities is not None:
                told.append(_probability(context, row, token, generation.probabilities))
            if text := stops.feed(model.piece(token)):
                put(text)
            if request.made < request.limit and not stops.stopped:
                row = yield Evaluate((token,))
        if stops.stopped:
            reason = "stop"
    finally:
        sampler.close()
    if rest := stops.flush():
        put(rest)
    put(Finished(reason, len(request.prompt), request.made, thinking=stops.thoughts.told, probabilities=tuple(told)))


def _probability(context: Context, row: int, token: int, n_alternatives: int) -> TokenProbability:
    logs, model = context.log_probabilities(row), context.model
    best = logs.argpartition(-n_alternatives)[-n_alternatives:].tolist() if n_alternatives else []

    def told(which: int, alternatives: tuple[TokenProbability, ...] = ()) -> TokenProbability:
        return TokenProbability(which, model.piece(which).decode("utf-8", "replace"), float(logs[which]), alternatives)

    return told(token, tuple(told(other) for other in sorted(best, key=lambda other: -logs[other])))


class Submit(Protocol):
    """What a stream needs of an engine."""

    def submit(self, request: Request) -> None:
        """Queue the request."""

    def cancel(self, request: Request) -> None:
        """Stop it, in whatever state."""

    def expire(self, request: Request) -> None:
        """Stop it: its deadline is past, and its caller knows."""


class Stream(Iterator[str | Finished]):
    """What a caller iterates: pieces of text, then one :class:`Finished`. :meth:`close` stops the work, from any thread, even while another
    waits in it: the one that waits then gets ``cancelled``."""

    def __init__(self, engine: Submit, prepare: Generator[Request, None, None], name: str) -> None:
        self._engine, self._prepare, self._name = engine, prepare, name
        self._lock = threading.Lock()
        self._request: Request | None = None
        self._ended = self._closed = False

    def __next__(self) -> str | Finished:
        if self._ended or (self._closed and self._request is None):
            raise StopIteration
        try:
            event = self._next()
        except MDSAError:
            self._ended = True
            raise
        self._ended = isinstance(event, Finished)
        return event

    def _next(self) -> str | Finished:
        if self._request is None:
            request = next(self._prepare)
            with self._lock:
                self._engine.submit(request)
                self._request = request
                closed = self._closed
            if closed:
                self._engine.cancel(request)
        request = self._request
        while True:
            left_s = request.deadline - time.monotonic()
            try:
                event = request.events.get(timeout=min(max(0.0, left_s), HEARD_S))
            except Empty:
                if left_s > HEARD_S:
                    continue
                self._engine.expire(request)
                raise late(self._name) from None
            if isinstance(event, MDSAError):
                raise event
            return event

    def close(self) -> None:
        """Stop the work. Safe twice."""
        with self._lock:
            self._closed = True
            request = self._request
        if request is not None and not self._ended:
            self._engine.cancel(request)

    def __del__(self) -> None:
        # A caller that lets go of a stream does not want the rest.
        self.close()


def late(name: str) -> BackendTimeoutError:
    """The error of a deadline."""
    return BackendTimeoutError(f"{name} did not finish before the deadline", "Ask for fewer tokens, or raise request_timeout_s.")
