"""A real HTTP server on loopback that hands out one file as a hub does, and misbehaves as told by the path."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler

from .serving import Quiet, QuietServer, Serving

# What is no address.
LOCATIONS = {"bracket": "http://[bad", "port": "http://127.0.0.1:99999/x"}


class Handler(Quiet, BaseHTTPRequestHandler):
    """``/owner/repo/resolve/main/KIND.gguf``. KIND chooses how the file is handed out."""

    server: Server

    def do_HEAD(self) -> None:
        """What a hub says before it redirects to the storage."""
        self._note()
        kind, size = self._kind(), len(self.server.content)
        if kind == "absent" or self.server.absent:
            self._head(404, {})
        elif kind == "gated":
            self._head(200 if self.headers.get("Authorization") == "Bearer secret" else 401, {"Content-Length": str(size)} | self._linked(size))
        elif kind == "plain":
            self._head(200, {"Content-Length": str(size), "ETag": '"v1"'})
        elif kind == "sizeless":
            self._head(200, {"ETag": '"v1"'})
        elif kind.startswith("size-"):
            self._head(200, {"X-Linked-Size": {"size-odd": "\u00b2", "size-huge": "9" * 5000}[kind], "ETag": '"v1"'})
        elif kind in LOCATIONS:
            self._head(302, {"Location": LOCATIONS[kind]})
        elif kind == "elsewhere-at-once":
            self._head(302, {"Location": "http://192.0.2.1/file.gguf"})
        else:
            announced = size + 5 if kind == "longer-than-it-is" else size - 5 if kind == "more-than-said" else size
            self._head(302, {"Location": "/storage/refuses-head"} | self._linked(announced))

    def do_GET(self) -> None:
        """The file, by way of a redirect to the storage."""
        self._note()
        kind = self._kind()
        if self.path.startswith("/storage/"):
            self._send(kind)
        elif kind == "elsewhere":
            self._head(302, {"Location": "http://192.0.2.1/file.gguf"})
        elif kind == "circle":
            self._head(302, {"Location": self.path})
        else:
            self._head(302, {"Location": f"http://localhost:{self.server.server_address[1]}/storage/{kind}.gguf"})

    def _kind(self) -> str:
        return self.path.rpartition("/")[2].removesuffix(".gguf")

    def _note(self) -> None:
        self.server.calls.append((self.command, self.path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))

    def _linked(self, size: int) -> dict[str, str]:
        return {"X-Linked-Size": str(size), "X-Linked-ETag": f'"{self.server.sha256}"'}

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **headers}.items():
            if not (key == "Content-Length" and self._kind() == "sizeless"):
                self.send_header(key, value)
        if self._kind() == "sizeless":
            self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, kind: str) -> None:
        content = self.server.content
        start = 0
        if self.headers.get("Range") and kind == "cannot-go-on":
            self._head(416, {})
            return
        if (wanted := self.headers.get("Range", "")) and kind != "no-ranges":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if kind == "wrong-content":
            content = content[:-1] + bytes([content[-1] ^ 1])
        body = content[start:] + (b"more" if kind == "more-than-said" else b"")
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if kind == "more-than-said":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "more-than-said":
            self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        elif kind in ("breaks-off", "dies") or (kind in ("no-ranges", "cannot-go-on") and len(self.server.sends) == 0):
            self.server.sends.append(start)
            self.wfile.write(body[: len(content) // 3] if kind != "dies" or start == 0 else b"")
            self.close_connection = True
            self.connection.close()
        elif kind == "slow":
            for at in range(0, len(body), 4096):
                self.wfile.write(body[at : at + 4096])
                self.wfile.flush()
                self.server.released.wait(0.02)
        else:
            self.wfile.write(body)


class Server(QuietServer):
    """Holds the content and remembers what it was asked: method, path, range, authorization."""

    def __init__(self, content: bytes) -> None:
        super().__init__(Handler)
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.calls: list[tuple[str, str, str, str]] = []
        self.sends: list[int] = []
        self.absent = False


class FileHub(Serving[Server]):
    """The server in a thread, as a context manager."""

    def __init__(self, content: bytes) -> None:
        super().__init__(Server(content))

    def file(self, kind: str) -> str:
        """Address of a file that is handed out as ``kind`` says."""
        return f"{self.url}/owner/repo/resolve/main/{kind}.gguf"
