"""A real HTTP server on loopback that speaks OpenAI's chat API as llama-server, vLLM and LM Studio do.

The model's name chooses its behaviour. ``nano`` is real: it answers with the shipped GGUF through the product's own llama.cpp backend.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any, cast

from .ollama_server import PAGE, PIECES, SEPARATED, Daemon, JsonHandler, generate

REFUSALS = {
    "missing": (404, {"error": {"message": "The model `missing` does not exist."}}),
    "busy": (503, {"error": {"message": "Loading model", "type": "unavailable_error"}}),
    "limited-rate": (429, {"error": {"message": "too many requests"}}),
    "long": (400, {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size_error"}}),
    "odd": (418, {"error": "I'm a teapot"}),
    "strict": (422, {"detail": [{"msg": "Extra inputs are not permitted: top_k"}]}),
}
OPTIONS = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "stop", "seed")
MODELS = ("nano", "plain", "slow", "silent", "stalling", "hanging", "tooler", "thinker", "inline-thinker", "gemma", "uncounted")
KEY = "sesame"


class OpenAIHandler(JsonHandler):
    """Answers ``/v1/models``, ``/props`` and ``/v1/chat/completions``."""

    def get(self) -> None:
        """The models, as llama-server lists them; its context stands in ``/props``. ``lm-studio`` says nothing of its context."""
        self.server.calls.append((self.path, {}))
        if self.as_told():
            return
        if self.path in self.server.lacking:
            self.json(404, {"error": {"message": "File Not Found"}})
        elif self.path == "/props":
            self.json(200, {"default_generation_settings": {"n_ctx": self.server.n_context}})
        elif self.path == "/v1/models":
            listed = [{"id": name, "object": "model", "owned_by": "llamacpp"} for name in (*MODELS, *REFUSALS)]
            others = [{"id": "lm-studio", "owned_by": "organization_owner"}, {"id": "org/vllm", "owned_by": "vllm", "max_model_len": 1024}]
            self.json(200, {"object": "list", "data": listed + others})
        else:
            self.json(404, {"error": {"message": "File Not Found"}})

    def post(self) -> None:
        """``/v1/chat/completions``."""
        body = self.body()
        if self.as_told():
            return
        kind = body["model"]
        if kind == "locked" and self.headers.get("Authorization") != f"Bearer {KEY}":
            self.json(401, {"error": {"message": "Invalid API Key"}})
        elif kind in REFUSALS:
            self.json(*REFUSALS[kind])
        elif kind == "page":
            self.page(502, PAGE)
        elif kind == "odd-page":
            self.page(500, PAGE)
        elif kind == "elsewhere":
            self.json(307, {}, {"Location": "http://192.0.2.1/v1/chat/completions"})
        elif kind == "hanging":
            self.server.released.wait(10)
            self.drop()
        elif kind == "gemma" and body["messages"][0]["role"] == "system":
            self.json(400, {"error": {"message": "System role not supported at row 1"}})
        elif kind != "nano":
            self._script(kind)
        elif self.server.fits(body["messages"]):
            self._generate(body)
        else:
            self.json(*REFUSALS["long"])

    def _generate(self, body: dict[str, Any]) -> None:
        assert self.server.engine
        options = {key: body[key] for key in OPTIONS if key in body}
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
        self.begin("text/event-stream")
        stream = generate(self.server.engine, body["messages"], options, schema)
        with closing(cast("Any", stream)):
            for piece in stream:
                if isinstance(piece, str):
                    self._delta({"content": piece})
                else:
                    self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": piece.reason}]})
                    self._event({"choices": [], "usage": {"prompt_tokens": piece.prompt_tokens, "completion_tokens": piece.tokens_generated}})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def _script(self, kind: str) -> None:
        self.begin("text/event-stream")
        if kind == "marked":
            self.chunk(b"\xef\xbb\xbf" + b'data: {"choices": [{"index": 0, "delta": {"content": "Well, "}}]}\n\n')
        self.chunk(b": a comment keeps the connection alive\n\n")
        if kind == "silent":
            self.server.released.wait(10)
        if kind == "inline-thinker":
            for part in ("<thi", "nk>so", " so</think>\n\n"):
                self._delta({"content": part})
        if kind == "unopened":
            for part in ("so", " so</th", "ink>\n\n"):
                self._delta({"content": part})
        if kind == "thinker":
            self._delta({"reasoning_content": "hmm"})
        if kind == "tooler":
            self._delta({"tool_calls": [{"index": 0, "id": "a1", "function": {"name": "get_order_status", "arguments": ""}}]})
            for part in ('{"order', '_id": 7}'):
                self._delta({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        if kind.startswith("unnumbered"):
            number: dict[str, Any] = {"index": None} if kind == "unnumbered-null" else {}
            for name in ("first", "second"):
                self._delta({"tool_calls": [{**number, "id": name, "function": {"name": name, "arguments": '{"a"'}}]})
                self._delta({"tool_calls": [{**number, "function": {"arguments": ": 1}"}}]})
        if kind == "bad-call":
            self._delta({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "[1"}}]})
        for piece in SEPARATED if kind == "separated" else PIECES:
            self._delta({"content": piece})
            if kind == "broken":
                self.drop()
                return
            if kind in ("slow", "stalling"):
                self.server.released.wait(0.2 if kind == "slow" else 10)
        if kind == "failing":
            self._event({"error": {"message": "the engine died"}})
        elif kind == "garbage":
            self.chunk(b"data: <html>\n\n")
        elif kind != "unfinished":
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length" if kind == "limited" else "stop"}]})
            if kind == "cut-at-the-end":
                self.drop()
                return
            if kind != "uncounted":
                self._event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 3}})
            self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def _delta(self, delta: dict[str, Any]) -> None:
        self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    def _event(self, value: dict[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\r\n\r\n")


def openai_daemon(engine: Any = None) -> Daemon:
    """The server, not yet started."""
    return Daemon(engine, handler=OpenAIHandler)
