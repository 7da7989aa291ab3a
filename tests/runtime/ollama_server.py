"""A real HTTP server on loopback that speaks as much of Ollama's protocol as the client uses.

The model's name chooses its behaviour. ``nano`` is real: it answers with the shipped GGUF through the product's own llama.cpp backend.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

from mdsa_local.domains.config import Generation
from mdsa_local.runtime.backend import Backend, Finished, Message

from .serving import Quiet, QuietServer, Serving

REFUSALS = {
    "missing": (404, "model 'missing' not found"),
    "busy": (503, "server busy, please try again.  maximum pending requests exceeded"),
    "long": (400, "the input length exceeds the context length"),
    "odd": (418, "I'm a teapot"),
    "locked": (401, "unauthorized"),
    "huge": (500, "model requires more system memory (40.0 GiB) than is available (8.0 GiB)"),
}
CAPABILITIES = {"embedder": ["embedding"], "thinker": ["completion", "thinking"], "tooler": ["completion", "tools"], "ancient": None}
PAGE = "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body>" + "<p>nginx</p>" * 500 + "</body></html>"
PIECES = ("Grüße", ", ", "world")
# What Python takes for ends of lines, and JSON does not.
SEPARATED = ("one\u2028two", "\u2029\x85", "\x0c\x1cthree")
PENALTIES = ("repeat_penalty", "presence_penalty", "frequency_penalty")
OPTIONS = {"num_predict": "max_tokens", **{name: name for name in ("temperature", "top_k", "top_p", "min_p", *PENALTIES, "stop", "seed")}}


def generate(engine: Backend, messages: list[dict[str, Any]], options: Mapping[str, Any], schema: Any) -> Iterator[str | Finished]:
    """Let the model answer as a daemon's runner would."""
    generation = Generation(json_schema=schema, **options)
    return engine.stream([Message(each["role"], each["content"]) for each in messages], generation, deadline_s=60)


class JsonHandler(Quiet, BaseHTTPRequestHandler):
    """HTTP/1.1 with JSON and chunked answers."""

    server: Server

    def do_GET(self) -> None:
        """See :meth:`get`."""
        self.get()

    def do_POST(self) -> None:
        """See :meth:`post`."""
        self.post()

    def get(self) -> None:
        """What a subclass answers to GET."""
        raise NotImplementedError

    def post(self) -> None:
        """What a subclass answers to POST."""
        raise NotImplementedError

    def as_told(self) -> bool:
        """Answer as the test told for this path, if it did."""
        if self.path not in self.server.answers:
            return False
        status, raw = self.server.answers[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
        return True

    def body(self) -> dict[str, Any]:
        """The request's JSON, remembered."""
        found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append((self.path, found))
        return cast("dict[str, Any]", found)

    def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """One JSON answer."""
        raw = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        self.wfile.write(raw)

    def page(self, status: int, text: str) -> None:
        """A web page, as a proxy sends in place of a server's answer."""
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def begin(self, kind: str) -> None:
        """The head of a chunked answer."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, raw: bytes) -> None:
        """One chunk, sent now; an empty one ends the answer."""
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def drop(self) -> None:
        """Die in mid-stream."""
        self.close_connection = True
        self.connection.close()


class OllamaHandler(JsonHandler):
    """Answers ``/api/version``, ``/api/tags``, ``/api/ps``, ``/api/show`` and ``/api/chat``."""

    def get(self) -> None:
        """What the daemon is and has: one running model with a context of 2048."""
        self.server.calls.append((self.path, {}))
        if self.as_told():
            return
        names = [{"name": name, "model": name, "size": 10**9} for name in ("llama3.2:1b", "nano")]
        running = [{**names[0], "context_length": 2048}, {**names[1], "context_length": self.server.n_context}]
        answers = {
            "/api/version": {"version": self.server.version},
            "/api/tags": {"models": names},
            "/api/ps": {"models": [each for each in running if each["name"] not in self.server.expired]},
        }
        if self.path in self.server.lacking:
            answers[self.path] = {"models": None}
        self.json(200, answers[self.path]) if self.path in answers else self.json(404, {"error": "not found"})

    def post(self) -> None:
        """``/api/show`` and ``/api/chat``."""
        body = self.body()
        if self.as_told():
            return
        kind = body["model"].partition(":")[0]
        if kind == "page":
            self.page(502, PAGE)
        elif kind == "many":
            self.json(429, {"error": "too many concurrent requests"})
        elif kind == "cold" and self.path == "/api/chat":
            # A load that takes its time.
            self.server.released.wait(10)
            self.drop()
        elif kind in REFUSALS:
            status, message = REFUSALS[kind]
            self.json(status, {"error": message})
        elif kind == "elsewhere":
            self.json(307, {}, {"Location": "http://127.0.0.1:9/api/chat"})
        elif self.path == "/api/show":
            capabilities = CAPABILITIES.get(kind, ["completion"])
            self.json(200, {"model_info": {"llama.context_length": 8192}, **({"capabilities": capabilities} if capabilities else {})})
        else:
            self.server.loaded(body)
            self._chat(kind, body)

    def _chat(self, kind: str, body: dict[str, Any]) -> None:
        if not body["messages"]:
            self.server.expired |= {body["model"]} if body["keep_alive"] in (0, "0s") else set()
            self.json(200, {"model": body["model"], "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"})
        elif kind == "hanging":
            self.server.released.wait(10)
            self.drop()
        elif kind != "nano":
            self._stream(kind, body)
        elif self.server.fits(body["messages"]) or not self.server.strict(body):
            self._generate(body)
        else:
            self.json(400, {"error": "the input length exceeds the context length"})

    def _generate(self, body: dict[str, Any]) -> None:
        assert self.server.engine
        # What Ollama does to a prompt that is too long, unless told not to.
        messages = body["messages"] if self.server.fits(body["messages"]) else body["messages"][-1:]
        options = {name: body["options"][key] for key, name in OPTIONS.items() if key in body["options"]}
        self.begin("application/x-ndjson")
        stream = generate(self.server.engine, messages, options, body.get("format"))
        with closing(cast("Any", stream)):
            for piece in stream:
                if isinstance(piece, str):
                    self._line({"message": {"role": "assistant", "content": piece}, "done": False})
                else:
                    counts = {"prompt_eval_count": piece.prompt_tokens, "eval_count": piece.tokens_generated}
                    self._line({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": piece.reason, **counts})
        self.chunk(b"")

    def _stream(self, kind: str, body: dict[str, Any]) -> None:
        self.begin("application/x-ndjson")
        if kind == "silent":
            self.server.released.wait(10)
        if kind == "thinker" and body.get("think") is not False:
            self._line({"message": {"role": "assistant", "content": "", "thinking": "hmm"}, "done": False})
        if kind == "tooler":
            call = {"function": {"name": "get_order_status", "arguments": {"order_id": 7}}}
            self._line({"message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False})
        thoughts = {"musing": ("<thi", "nk>so", " so</think>\n\n"), "unopened": ("so", " so</th", "ink>\n\n")}.get(kind, ())
        for piece in (*thoughts, *(SEPARATED if kind == "separated" else PIECES)):
            self._line({"message": {"role": "assistant", "content": piece}, "done": False})
            if kind == "broken":
                self.drop()
                return
            if kind in ("slow", "stalling"):
                self.server.released.wait(0.2 if kind == "slow" else 10)
        if kind == "failing":
            self._line({"error": "llama runner process has terminated"})
        elif kind == "garbage":
            self.chunk(b"<html>no JSON</html>\n")
        elif kind != "unfinished":
            reason = "length" if kind == "limited" else "stop"
            counts = {"prompt_eval_count": 11, "eval_count": 3}
            self._line({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason, **counts})
        self.chunk(b"")

    def _line(self, value: dict[str, Any]) -> None:
        self.chunk(json.dumps(value, ensure_ascii=False).encode() + b"\n")


class Server(QuietServer):
    """Remembers what it was asked, and how often a model would have been loaded again."""

    def __init__(self, handler: type[JsonHandler], engine: Backend | None, version: str) -> None:
        super().__init__(handler)
        self.engine, self.version = engine, version
        self.n_context = engine.n_context_tokens if engine else 2048
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.loads: list[tuple[str, dict[str, Any]]] = []
        # Paths at which there is nothing to be had.
        self.lacking: set[str] = set()
        # By path: status and body, in place of what it would answer.
        self.answers: dict[str, tuple[int, bytes]] = {}
        # Models that were told to go.
        self.expired: set[str] = set()

    def loaded(self, body: dict[str, Any]) -> None:
        """Note a load: the first request of a model, or one whose load options differ from those before."""
        options = {key: value for key, value in body["options"].items() if key.startswith("num_") and key != "num_predict"}
        state = {**options, "shift": body.get("shift")}
        last = next((found for name, found in reversed(self.loads) if name == body["model"]), None)
        if last != state:
            self.loads.append((body["model"], state))

    def fits(self, messages: list[dict[str, Any]]) -> bool:
        """Whether a prompt leaves room for an answer."""
        assert self.engine
        return self.engine.count_tokens([Message(each["role"], each["content"]) for each in messages]) < self.n_context

    def strict(self, body: dict[str, Any]) -> bool:
        """Whether the request forbids cutting. Daemons before 0.12.6 do not know the word."""
        return body.get("truncate") is False and tuple(map(int, self.version.split("."))) >= (0, 12, 6)


class Daemon(Serving[Server]):
    """The server in a thread, as a context manager."""

    def __init__(self, engine: Backend | None = None, version: str = "0.13.0", handler: type[JsonHandler] = OllamaHandler) -> None:
        super().__init__(Server(handler, engine, version))

    @property
    def chats(self) -> list[dict[str, Any]]:
        """Bodies of all requests to ``/api/chat``."""
        return [body for path, body in self.server.calls if path == "/api/chat"]
