"""HTTP servers on loopback, each in a thread."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Generic, Self, TypeVar


class Quiet:
    """Of a handler: HTTP/1.1, and no word of it in the output of the tests."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class QuietServer(ThreadingHTTPServer):
    """What holds an answer back waits for ``released``, which is set when the server goes."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.released = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-stream is what some tests are about."""


S = TypeVar("S", bound=QuietServer)


class Serving(Generic[S]):
    """The server in a thread, as a context manager."""

    def __init__(self, server: S) -> None:
        self.server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.released.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()
