"""A real HTTP server on loopback that speaks as much of Ollama's protocol as the client uses. The model's name chooses its behaviour."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

REFUSALS = {
    "missing": (404, "model 'missing' not found"),
    "busy": (503, "server busy, please try again.  maximum pending requests exceeded"),
    "long": (400, "the input length exceeds the context length"),
    "odd": (418, "I'm a teapot"),
    "huge": (500, "model requires more system memory (40.0 GiB) than is available (8.0 GiB)"),
}
PIECES = ("Grüße", ", ", "world")


class Handler(BaseHTTPRequestHandler):
    """Answers ``/api/chat`` and ``/api/ps``."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test output clean."""

    def do_GET(self) -> None:
        """``/api/ps``: one running model with a context of 2048."""
        self.server.calls.append((self.path, {}))
        self._json(200, {"models": [{"name": "llama3.2:1b", "model": "llama3.2:1b", "context_length": 2048}]})

    def do_POST(self) -> None:
        """``/api/chat``."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append((self.path, body))
        kind = body["model"].partition(":")[0]
        if kind in REFUSALS:
            status, message = REFUSALS[kind]
            self._json(status, {"error": message})
        elif not body["messages"]:
            self._json(200, {"model": body["model"], "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"})
        else:
            self._stream(kind, body)

    def _json(self, status: int, value: dict[str, Any]) -> None:
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _stream(self, kind: str, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if kind == "silent":
            self.server.released.wait(10)
        for piece in PIECES:
            self._line({"message": {"role": "assistant", "content": piece}, "done": False})
            if kind == "broken":
                self.close_connection = True
                self.connection.close()
                return
            if kind == "slow":
                self.server.released.wait(0.2)
        if kind == "failing":
            self._line({"error": "llama runner process has terminated"})
        elif kind == "garbage":
            self._chunk(b"<html>no JSON</html>\n")
        elif kind != "unfinished":
            reason = "length" if kind == "limited" else "stop"
            counts = {"prompt_eval_count": 11, "eval_count": 3}
            self._line({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason, **counts})
        self.wfile.write(b"0\r\n\r\n")

    def _line(self, value: dict[str, Any]) -> None:
        self._chunk(json.dumps(value).encode() + b"\n")

    def _chunk(self, raw: bytes) -> None:
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    """Remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.released = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-stream is what some tests are about."""


class Daemon:
    """The server in a thread, as a context manager."""

    def __init__(self) -> None:
        self._server = Server()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def chats(self) -> list[dict[str, Any]]:
        """Bodies of all requests to ``/api/chat``."""
        return [body for path, body in self._server.calls if path == "/api/chat"]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
