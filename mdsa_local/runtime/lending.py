"""What callers get of a model that the manager may unload at any time: streams, a handle, a tokenizer. Each holds it for as long as it is used."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from numbers import Real
from typing import Protocol, runtime_checkable

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendError, BackendTimeoutError, InputError, expected
from mdsa_local.runtime.backend import Backend, Finished, Message
from mdsa_local.runtime.slots import Held, Keeper, Stopped, Target
from mdsa_local.settings import LONGEST_WAIT_S
from mdsa_local.stoppable import StoppedError, never

ROLES = "system", "user", "assistant", "tool"
Prompt = str | Sequence[Message | Mapping[str, str]]


@runtime_checkable
class Tokenizing(Protocol):
    """A backend with a tokenizer of its own."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""


class ManagedStream(Iterator[str | Finished]):
    """A stream that holds its model until it ends. :meth:`close` stops the work, from any thread, even while another waits in it."""

    def __init__(self, manager: Keeper, target: Target, messages: list[Message], generation: Generation, deadline_s: float) -> None:
        self._manager, self._target = manager, target
        self._ask = (messages, generation, deadline_s)
        self._lock = threading.Lock()
        self._held: Held | None = None
        self._inner: Iterator[str | Finished] | None = None
        self._inside = self._ended = False

    def __next__(self) -> str | Finished:
        with self._lock:
            if self._ended:
                raise StopIteration
            self._inside = True
        done = True
        try:
            if self._inner is None:
                self._begin()
            assert self._inner is not None
            event = next(self._inner)
            done = isinstance(event, Finished)
            return event
        finally:
            with self._lock:
                self._inside = False
                self._ended = self._ended or done
                if self._ended:
                    self._leave()

    def _begin(self) -> None:
        messages, generation, deadline_s = self._ask
        deadline = time.monotonic() + deadline_s
        try:
            held = self._manager.acquire(self._target, deadline, lambda: self._ended)
        except StoppedError:
            self._inner = iter(())
            return
        with self._lock:
            self._held = held
            ended = self._ended
        left_s = deadline - time.monotonic()
        if left_s <= 0 and not ended:
            raise BackendTimeoutError(
                f"{self._target.name} was loaded only after the deadline",
                "Ask again, or raise the time-out (request_timeout_s).",
            )
        inner: Iterator[str | Finished] = iter(()) if ended else held.backend.stream(messages, generation, deadline_s=left_s)
        with self._lock:
            self._inner = inner
            ended = self._ended
        if ended:
            _close(inner)

    def close(self) -> None:
        """Stop the work and let go of the model. Safe twice."""
        with self._lock:
            self._ended = True
            if not self._inside:
                self._leave()
            elif self._inner is not None and not isinstance(self._inner, Generator):
                # A generator cannot be closed while a thread is inside it: that thread will, after the step under way.
                _close(self._inner)

    def _leave(self) -> None:
        if self._inner is not None:
            _close(self._inner)
        held, self._held = self._held, None
        if held is not None:
            self._manager.release(held)

    def __del__(self) -> None:
        # A caller that lets go of a stream does not want the rest.
        self.close()


def _close(stream: Iterator[str | Finished]) -> None:
    if (close := getattr(stream, "close", None)) is not None:
        close()


class Tokenizer:
    """The tokenizer of a model, which is loaded again if it was unloaded since."""

    def __init__(self, manager: Keeper, target: Target) -> None:
        self._manager, self._target = manager, target

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. Raises :class:`BackendError` where the runtime does not say."""
        with self._manager.lease(self._target) as backend:
            return self._of(backend).encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids. Raises as :meth:`encode`."""
        with self._manager.lease(self._target) as backend:
            return self._of(backend).decode(tokens)

    def _of(self, backend: Backend) -> Tokenizing:
        if not isinstance(backend, Tokenizing):
            raise BackendError(f"{self._target.name}: its runtime gives no access to its tokenizer", "Use a GGUF file in this process.")
        return backend


class Handle:
    """A model by reference: each call holds it for as long as the call runs, loading it again if it was unloaded since."""

    def __init__(self, manager: Keeper, target: Target, n_context_tokens: int, stopped: Stopped = never, deadline: float | None = None) -> None:
        self.name = target.name
        self.n_context_tokens = n_context_tokens
        self._manager, self._target, self._stopped, self._deadline = manager, target, stopped, deadline

    def count_tokens(self, messages: Sequence[Message]) -> int:
        with self._manager.lease(self._target, self._stopped, self._deadline) as backend:
            return backend.count_tokens(messages)

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> ManagedStream:
        return ManagedStream(self._manager, self._target, list(messages), generation, deadline_s)

    def close(self) -> None:
        """Nothing: the manager unloads models."""


def checked_deadline(seconds: object) -> float:
    """What a caller gave for a deadline. Raises :class:`InputError` for what is no number of seconds that can be waited."""
    if isinstance(seconds, Real) and not isinstance(seconds, bool) and 0 < float(seconds) <= LONGEST_WAIT_S:
        return float(seconds)
    raise InputError(f"deadline_s is {seconds!r}", f"Give a number of seconds above 0 and up to {LONGEST_WAIT_S}, or None for request_timeout_s.")


def as_messages(messages: Prompt) -> list[Message]:
    """Messages from what callers write. Raises :class:`InputError` for none at all, a dict without role and content, a content that is no text,
    and an unknown role."""
    if isinstance(messages, str):
        return [Message("user", messages)]
    try:
        made = [message if isinstance(message, Message) else Message(str(message["role"]), message["content"]) for message in messages]
    except (KeyError, TypeError):
        raise InputError("a message needs a role and content", 'Write {"role": "user", "content": "..."}.') from None
    if not made:
        raise InputError("there are no messages", "Give one or more, or a question as a string.")
    for message in made:
        expected(message.content, str, "the content of a message", 'Write {"role": "user", "content": "..."}.')
    if strange := [message.role for message in made if message.role not in ROLES]:
        raise InputError(f"{strange[0]!r} is no role", f"Roles: {', '.join(ROLES)}.")
    return made
