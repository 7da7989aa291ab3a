"""What the backends behind HTTP share: requests that can be cut off, addresses, and an estimate of tokens."""

from __future__ import annotations

import ipaddress
import math
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from mdsa_local.errors import BackendError, BackendTimeoutError, MDSAError
from mdsa_local.runtime.backend import Finished, Message
from mdsa_local.stoppable import Leash

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 5.0
# Common tokenizers average four bytes a token on English and not much below three on other text; chat markers add a few tokens a message.
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8


class Wire:
    """The connection of one request. Another thread can cut it, which wakes the one that reads: closing a socket would not, shutting it down does.

    ``cut_by`` says who did: the ``deadline`` or ``close``.
    """

    def __init__(self) -> None:
        self.cut_by: Literal["", "deadline", "close"] = ""
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """For httpx's ``trace`` extension: learns the socket of the connection, which is a new one for each request."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete", "proxy_stream.start_tls.complete"):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
                if self.cut_by:
                    self._shut()

    def cut(self, by: Literal["deadline", "close"]) -> None:
        """End the request from any thread. The first reason stands."""
        with self._lock:
            self.cut_by = self.cut_by or by
            self._shut()

    def close(self) -> None:
        """:meth:`cut` by ``close``."""
        self.cut("close")

    def _shut(self) -> None:
        if self._socket:
            # A TLS socket's own shutdown() takes its session away from under the reading thread.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Wires:
    """The requests of one backend that are under way."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: set[Wire] = set()
        self._lock = threading.Lock()
        self.closed = False

    @property
    def under_way(self) -> int:
        """How many there are."""
        with self._lock:
            return len(self._open)

    @contextmanager
    def request(self, deadline_s: float) -> Iterator[Wire]:
        """A wire for one request, cut after ``deadline_s``. Raises :class:`BackendError` when closed."""
        wire = Wire()
        with self._lock:
            if self.closed:
                raise BackendError(f"{self._name} was closed")
            self._open.add(wire)
        timer = threading.Timer(min(max(deadline_s, 0.0), threading.TIMEOUT_MAX), wire.cut, ("deadline",))
        timer.daemon = True
        timer.start()
        try:
            yield wire
        finally:
            timer.cancel()
            with self._lock:
                self._open.discard(wire)

    def stream(self, deadline_s: float, answer: Callable[[Wire], Iterator[str | Finished]], leash: Leash) -> Iterator[str | Finished]:
        """What ``answer`` says on a wire of its own, which ``leash`` holds. Whatever it raises once the wire is cut is the cut's doing: closed, the
        answer ends as ``cancelled``, at the deadline with :class:`BackendTimeoutError`. Else raises as ``answer`` and :meth:`request`."""
        with self.request(deadline_s) as wire:
            leash.hold(wire)
            try:
                yield from answer(wire)
            except MDSAError:
                if wire.cut_by == "close":
                    yield Finished("cancelled", 0, 0)
                elif wire.cut_by == "deadline":
                    raise BackendTimeoutError(f"{self._name} was not done at the deadline", "Ask for fewer tokens, or raise the time-out.") from None
                else:
                    raise

    def close(self) -> None:
        """Cut all of them and allow no more; safe twice."""
        with self._lock:
            self.closed = True
            for wire in self._open:
                wire.cut("close")


def limits() -> httpx.Limits:
    """No connection is kept for a second request: its opening is what tells a :class:`Wire` its socket. On loopback that costs 0.1 ms."""
    import httpx

    return httpx.Limits(max_keepalive_connections=0)


def timeout(read_s: float) -> httpx.Timeout:
    """Time for one answer of the server, and at most five seconds to reach it."""
    import httpx

    read_s = max(read_s, 0.001)
    return httpx.Timeout(read_s, connect=min(CONNECT_TIMEOUT_S, read_s))


def as_json(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages for a request's body. Half a character, which UTF-8 cannot hold, becomes a question mark as it does in llama.cpp."""
    return [{"role": message.role, "content": message.content.encode("utf-8", "replace").decode()} for message in messages]


def estimated_tokens(messages: Sequence[Message]) -> int:
    """An estimate for servers without a tokenizer to ask: a third of the UTF-8 bytes and 8 a message. It errs high on ordinary text."""
    return sum(TOKENS_PER_MESSAGE + math.ceil(len(message.content.encode("utf-8", "replace")) / BYTES_PER_TOKEN) for message in messages)


def is_loopback(base_url: str) -> bool:
    """Whether an address, with or without scheme and port, is this machine."""
    try:
        host = urlsplit(base_url if "://" in base_url else f"http://{base_url}").hostname or "127.0.0.1"
        address = ipaddress.ip_address(host)
    except ValueError:
        return base_url.rpartition("://")[2].partition("/")[0].partition(":")[0] == "localhost"
    return address.is_loopback or address.is_unspecified
