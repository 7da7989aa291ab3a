"""What the backends behind HTTP share: requests that can be cut off, and addresses."""

from __future__ import annotations

import html
import ipaddress
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from mdsa_local.errors import BackendError, BackendTimeoutError, ConfigError, MDSAError
from mdsa_local.runtime.backend import Finished, Message
from mdsa_local.runtime.stopping import THOUGHT, unopened
from mdsa_local.settings import sendable
from mdsa_local.stoppable import Leash, never, unwanted

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 5.0
# So often it is asked whether a load is still wanted.
LOOKS_S = 0.1
# Of what stands before a server that does not answer.
GATEWAY = (502, 504)
REASON_CHARS = 300
PAGE = re.compile(r"[\s\ufeff]*(?:<!--.*?-->\s*)*<(?:!doctype html|html|head|body|title|center|h1|\?xml)\b", re.IGNORECASE | re.DOTALL)
TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
T = TypeVar("T")
# As inet_aton reads it, and so the system.
SHORT_LOOPBACK = re.compile(r"127(?:\.\d{1,3}){0,2}")
# What reading an answer of another shape, or too deep a one, ends in.
MALFORMED = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


class Wire:
    """The connection of one request. Another thread can cut it, which wakes the one that reads: closing a socket would not, shutting it down does.

    ``cut_by`` says who did: the ``deadline`` or ``close``. ``heard``: whether the server has begun to answer.
    """

    def __init__(self) -> None:
        self.cut_by: Literal["", "deadline", "close"] = ""
        self.heard = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """For httpx's ``trace`` extension: learns the socket of the connection, which is a new one for each request."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete", "proxy_stream.start_tls.complete"):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
                if self.cut_by:
                    self._shut()

    def hearing(self, parts: Iterator[T]) -> Iterator[T]:
        """``parts``, noting that they come."""
        for part in parts:
            self.heard = True
            yield part

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

    def __init__(self, name: str, where: str) -> None:
        """``name`` of the model, and ``where`` it is, for messages."""
        self._name, self._where = name, where
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
        """A wire for one request, cut after ``deadline_s``: what is raised then becomes :class:`BackendTimeoutError`. Raises :class:`BackendError`
        when closed."""
        wire, due, over = Wire(), time.monotonic() + deadline_s, threading.Event()
        with self._lock:
            if self.closed:
                raise BackendError(f"{self._name} was closed")
            self._open.add(wire)
        threading.Thread(target=_watch, args=(wire, due, over, unwanted()), name="mdsa-wire", daemon=True).start()
        try:
            yield wire
        except MDSAError as error:
            # httpx, which is to wait no longer either, may be quicker than the timer.
            if wire.cut_by != "deadline" and not (isinstance(error, BackendTimeoutError) and not wire.cut_by and time.monotonic() >= due):
                raise
            if wire.heard:
                raise BackendTimeoutError(
                    f"{self._name} was not done at the deadline", "Ask for fewer tokens, or raise the time-out (request_timeout_s)."
                ) from None
            raise silent(self._where, deadline_s) from None
        finally:
            over.set()
            with self._lock:
                self._open.discard(wire)

    def stream(self, deadline_s: float, answer: Callable[[Wire], Iterator[str | Finished]], leash: Leash) -> Iterator[str | Finished]:
        """What ``answer`` says on a wire of its own, which ``leash`` holds. Whatever it raises once the wire is cut is the cut's doing: closed, the
        answer ends as ``cancelled``, at the deadline with :class:`BackendTimeoutError`. Else raises as ``answer`` and :meth:`request`."""
        with self.request(deadline_s) as wire:
            leash.hold(wire)
            try:
                with closing(cast("Any", answer(wire))) as pieces:
                    yield from _thoughts_apart(pieces)
            except MDSAError:
                if wire.cut_by != "close":
                    raise
                yield Finished("cancelled", 0, 0)

    def close(self) -> None:
        """Cut all of them and allow no more; safe twice."""
        with self._lock:
            self.closed = True
            for wire in self._open:
                wire.cut("close")


def _thoughts_apart(pieces: Iterator[str | Finished]) -> Iterator[str | Finished]:
    """An answer whose end says whether it began with thoughts that nothing opened: by then they have been passed on."""
    text = list[str]()
    for piece in pieces:
        if isinstance(piece, str):
            text.append(piece)
        elif not piece.thinking and (size := unopened("".join(text))):
            piece = replace(piece, thinking="".join(text)[:size].rstrip().removesuffix(THOUGHT), withdrawn=size)
        yield piece


def _watch(wire: Wire, due: float, over: threading.Event, stopped: Callable[[], bool]) -> None:
    """Cut ``wire`` when it is ``due`` or ``stopped``, unless it is ``over`` before."""
    while not stopped():
        left = due - time.monotonic()
        if left <= 0:
            wire.cut("deadline")
            return
        if over.wait(min(left, threading.TIMEOUT_MAX if stopped is never else LOOKS_S)):
            return
    wire.cut("close")


def lines(parts: Iterable[bytes]) -> Iterator[str]:
    """The lines of a body that comes in ``parts``, each ended by a line feed alone: to httpx U+0085, U+2028 and U+2029 end one too, and those may
    stand in JSON as they are."""
    held = b""
    for part in parts:
        *whole, held = (held + part).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace").removesuffix("\r")
    if held:
        yield held.decode("utf-8", "replace")


def silent(where: str, waited_s: float, what: str = "did not answer in") -> BackendTimeoutError:
    """The error for a server that sent nothing for so many seconds."""
    return BackendTimeoutError(f"{where} {what} {waited_s:.3g} s", "Look whether it is busy or hung, or raise request_timeout_s.")


def reason_of(text: str, status: int = 0) -> str:
    """The message in an error's body, whatever its shape, in at most :data:`REASON_CHARS` characters; of a web page its title, or else the name of
    ``status``."""
    try:
        error = json.loads(text)
        error = error.get("error") or error.get("detail") or error.get("message") or error if isinstance(error, dict) else error
        text = str(error.get("message") or error) if isinstance(error, dict) else str(error)
    except (ValueError, RecursionError):
        pass
    if PAGE.match(text):
        title = TITLE.search(text)
        phrase = next((known.phrase for known in HTTPStatus if known == status), "")
        text = (html.unescape(title[1]) if title else "").strip() or phrase or "a web page"
    text = " ".join(text.split())
    return text if len(text) <= REASON_CHARS else f"{text[:REASON_CHARS]} …"


def count(value: Any) -> int:
    """What a server says as a number of tokens; 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def bearer(key: str, name: str) -> dict[str, str]:
    """The header that sends a key, none for an empty one; blanks and line ends around it are no part of it. Raises :class:`ConfigError`, which names
    where it was set, ``name``, and does not show it, for one that no header can hold."""
    key = key.strip()
    if not sendable(key):
        raise ConfigError(f"{name}: the key has characters that none has", "Set it again: printable ASCII characters, in one line.")
    return {"authorization": f"Bearer {key}"} if key else {}


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


def is_loopback(base_url: str) -> bool:
    """Whether an address, with or without scheme and port, is this machine."""
    try:
        host = urlsplit(base_url if "://" in base_url else f"http://{base_url}").hostname or "127.0.0.1"
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # Whatever is below it too (RFC 6761), and with the dot of the root.
        return f".{host.removesuffix('.')}".endswith(".localhost") or bool(SHORT_LOOPBACK.fullmatch(host))
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def without_password(base_url: str) -> str:
    """An address to be told, without the name and password that may stand in it."""
    scheme, mark, rest = base_url.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"
