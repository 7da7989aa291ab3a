"""The Ollama backend against a real HTTP server on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdsa_local.domains.config import Generation
from mdsa_local.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    ConfigError,
    ContextOverflowError,
    InputError,
    MDSAError,
    ModelError,
    ModelMemoryError,
    ModelNotFoundError,
)
from mdsa_local.runtime.backend import Finished, Message, ToolCall
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.runtime.ollama import OllamaBackend, numbers, open_backend, reachable, survey
from mdsa_local.runtime.ollama import connect as connect_client
from mdsa_local.runtime.wire import is_loopback
from mdsa_local.settings import Settings

from .ollama_server import SEPARATED, Daemon

QUESTION = [Message("system", "Be brief."), Message("user", "Hello?")]


def ask(backend: OllamaBackend, generation: Generation | None = None, deadline_s: float = 10) -> list[str | Finished]:
    return list(backend.stream(QUESTION, generation or Generation(), deadline_s=deadline_s))


Connect = Callable[..., OllamaBackend]


@pytest.fixture
def connect(daemon: Daemon) -> Iterator[Connect]:
    """Makes backends and closes them after the test."""
    opened: list[OllamaBackend] = []

    def make(model: str, base_url: str = "", n_context_tokens: int = 0) -> OllamaBackend:
        opened.append(OllamaBackend(model, base_url or daemon.url, 10, n_context_tokens))
        return opened[-1]

    yield make
    for backend in opened:
        backend.close()


def test_a_streamed_answer(connect: Connect) -> None:
    assert ask(connect("llama3.2:1b")) == ["Grüße", ", ", "world", Finished("stop", 11, 3)]
    assert ask(connect("limited"))[-1] == Finished("length", 11, 3)


def test_only_a_line_feed_ends_a_line(connect: Connect) -> None:
    assert ask(connect("separated")) == [*SEPARATED, Finished("stop", 11, 3)]


def test_what_is_sent_never_lets_the_daemon_cut_or_reload(daemon: Daemon, connect: Connect) -> None:
    backend = connect("llama3.2:1b", n_context_tokens=2048)
    backend.load()
    ask(backend, Generation(temperature=0.7, seed=3, stop=("END",), max_tokens=5, presence_penalty=1.5, frequency_penalty=0.5))
    ask(backend)
    loads = [{key: value for key, value in body["options"].items() if key.startswith("num_") and key != "num_predict"} for body in daemon.chats]
    assert loads == [{"num_ctx": 2048}] * 3
    assert all(body["truncate"] is False and body["shift"] is False for body in daemon.chats)
    sent = daemon.chats[1]
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    assert sent["options"] | {"num_predict": 5, "temperature": 0.7, "seed": 3, "stop": ["END"]} == sent["options"]
    assert sent["options"] | {"presence_penalty": 1.5, "frequency_penalty": 0.5} == sent["options"]
    assert "seed" not in daemon.chats[2]["options"]
    assert daemon.chats[2]["options"] | {"presence_penalty": 0.0, "frequency_penalty": 0.0} == daemon.chats[2]["options"]


def test_the_context_is_read_back_after_loading(connect: Connect) -> None:
    backend = connect("llama3.2:1b")
    assert backend.n_context_tokens == 4096
    backend.load()
    assert backend.n_context_tokens == 2048
    other = connect("unlisted")
    other.load()
    assert other.n_context_tokens == 4096


@pytest.mark.parametrize("keep", ["0", 0, 0.0, "0s"])
def test_a_model_that_is_not_to_be_kept_is_loaded_to_be_looked_at(daemon: Daemon, keep: str | float) -> None:
    backend = OllamaBackend("llama3.2:1b", daemon.url, 10, keep_alive=keep)
    backend.load()
    assert backend.n_context_tokens == 2048
    ask(backend)
    assert [body["keep_alive"] for body in daemon.chats] == [10, "0s" if keep == "0s" else 0]
    backend.close()


def test_how_long_a_model_is_kept_is_told_as_it_stands(daemon: Daemon) -> None:
    for keep in ("5m", -1, "10s", 0.5, "1h0m"):
        backend = OllamaBackend("llama3.2:1b", daemon.url, 10, keep_alive=keep)
        backend.load()
        assert daemon.chats[-1]["keep_alive"] == keep
        backend.close()


def test_a_daemon_that_does_not_tell_what_runs_is_used_all_the_same(daemon: Daemon, connect: Connect) -> None:
    daemon.server.lacking.add("/api/ps")
    backend = connect("llama3.2:1b")
    backend.load()
    assert backend.n_context_tokens == 4096


@pytest.mark.parametrize(
    ("model", "kind", "message", "hint"),
    [
        ("missing", ModelNotFoundError, "missing", "ollama pull missing"),
        ("busy", BackendUnavailableError, "busy", "again"),
        ("many", BackendUnavailableError, "too many concurrent requests", "again"),
        ("long", ContextOverflowError, "exceeds the context length", "shorter"),
        ("huge", ModelMemoryError, "40.0 GiB", "smaller"),
        ("odd", BackendError, "418", "log"),
        ("locked", BackendError, "refused the key", "OLLAMA_API_KEY"),
        ("elsewhere", BackendError, "redirects elsewhere", "ollama_base_url"),
        ("broken", BackendUnavailableError, "broke off", "again"),
        ("unfinished", BackendUnavailableError, "broke off", "again"),
        ("failing", BackendUnavailableError, "broke off.*runner process has terminated", "again"),
        ("garbage", BackendError, "no answer", "ollama_base_url"),
    ],
)
def test_failures(connect: Connect, model: str, kind: type[MDSAError], message: str, hint: str) -> None:
    backend = connect(model)
    with pytest.raises(kind, match=message) as caught:
        ask(backend)
    assert type(caught.value) is kind
    assert hint in caught.value.hint
    assert caught.value.retryable == (kind is BackendUnavailableError)
    backend.close()


def test_not_running(connect: Connect) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    backend = connect("llama3.2:1b", f"http://127.0.0.1:{port}")
    for call in (backend.load, lambda: ask(backend)):
        with pytest.raises(BackendUnavailableError) as caught:
            call()
        assert "ollama serve" in caught.value.hint


def test_a_model_of_this_program_written_with_a_colon_is_hinted_at(settings: Settings) -> None:
    for ref, hinted in (("nano:int4", True), ("llama3.2:1b", False)):
        with pytest.raises(BackendUnavailableError) as caught:
            open_backend(ref, ref, settings.changed(ollama_base_url="http://127.0.0.1:9"))
        assert caught.value.hint.startswith("Start it: ollama serve. A name with" if hinted else "Start it: ollama serve")
        assert caught.value.hint.endswith("is called nano-int4.") == hinted


def test_a_page_is_no_reason(connect: Connect) -> None:
    with pytest.raises(BackendUnavailableError, match=r"status 502: 502 Bad Gateway$"):
        ask(connect("page"))


@pytest.mark.parametrize(("model", "said", "hint"), [("hanging", "Ollama at .* did not answer in 2 s", "hung"), ("stalling", "deadline", "fewer")])
def test_a_daemon_that_says_nothing_is_told_from_one_that_is_slow(connect: Connect, model: str, said: str, hint: str) -> None:
    with pytest.raises(BackendTimeoutError, match=said) as caught:
        ask(connect(model), deadline_s=2)
    assert hint in caught.value.hint
    assert "request_timeout_s" in caught.value.hint


def test_a_load_that_takes_too_long_is_no_broken_connection(daemon: Daemon) -> None:
    backend = OllamaBackend("cold", daemon.url, 1)
    with pytest.raises(BackendTimeoutError, match=r"Ollama at .* did not answer in 1 s") as caught:
        backend.load()
    assert caught.value.retryable and "request_timeout_s" in caught.value.hint
    backend.close()


def test_nobody_waits_for_a_load_that_nobody_wants(daemon: Daemon, settings: Settings) -> None:
    settings = settings.changed(ollama_base_url=daemon.url, request_timeout_s=30)
    ended: list[object] = []

    def read(stream: Iterator[object]) -> None:
        try:
            ended.append(list(stream))
        except MDSAError as error:
            ended.append(type(error))

    for close_all in (False, True):
        manager = ModelManager(settings)
        stream = manager.stream("ollama://cold", QUESTION)
        reader = threading.Thread(target=read, args=(stream,))
        reader.start()
        while ("/api/chat", "cold") not in [(path, body.get("model")) for path, body in daemon.server.calls]:
            time.sleep(0.01)
        began = time.monotonic()
        manager.close() if close_all else stream.close()
        reader.join(5)
        assert not reader.is_alive() and time.monotonic() - began < 3
        manager.close()
        daemon.server.calls.clear()
    assert ended == [[], ClosedError]


def test_no_client_installed(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ollama", None)
    with pytest.raises(BackendUnavailableError) as caught:
        ask(connect("llama3.2:1b"))
    assert "pip install ollama" in caught.value.hint


def test_no_socket_before_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    backend = OllamaBackend("llama3.2:1b", "http://127.0.0.1:11434", 10)
    assert backend.count_tokens(QUESTION) > 0
    backend.close()


def test_proxies_are_not_used_for_loopback(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert len(ask(connect("llama3.2:1b"))) == 4


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:11434", True),
        ("127.0.0.1:11434", True),
        ("localhost:11434", True),
        ("http://localhost", True),
        ("http://[::1]:11434", True),
        ("0.0.0.0", True),
        ("http://Localhost:11434", True),
        ("http://localhost.", True),
        ("http://user:secret@LOCALHOST:11434", True),
        ("http://ollama.localhost", True),
        ("http://[::ffff:127.0.0.1]:11434", True),
        ("http://127.1:11434", True),
        ("http://localhost@example.com", False),
        ("http://mylocalhost", False),
        ("http://[bad", False),
        (":11434", True),
        ("http://192.168.1.4:11434", False),
        ("https://localhost.example.com", False),
        ("example.com:11434", False),
    ],
)
def test_is_loopback(url: str, local: bool) -> None:
    assert is_loopback(url) == local


@pytest.mark.parametrize("url", ["http://[bad", "ftp://127.0.0.1", "http://127.0.0.1:port"])
def test_a_wrong_address_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match="ollama_base_url"):
        ask(OllamaBackend("llama3.2:1b", url, 10))


@given(st.text(max_size=200))
def test_the_token_estimate_errs_high(text: str) -> None:
    estimate = OllamaBackend("m", "http://127.0.0.1", 1).count_tokens([Message("user", text)])
    assert estimate >= sum(1.0 if character in "0123456789" else 0.5 if not character.isascii() else 0.0 for character in text)


def test_open_backend_uses_the_settings(daemon: Daemon, settings: Settings) -> None:
    changed = settings.changed(ollama_base_url=daemon.url, context_tokens=1024, ollama_keep_alive="-1")
    backend = open_backend("llama3.2:1b", "llama3.2:1b", changed)
    assert daemon.chats[0]["options"] == {"num_ctx": 1024}
    assert daemon.chats[0]["keep_alive"] == -1
    backend.close()


def test_two_calls_with_other_sampling_load_once(daemon: Daemon, connect: Connect) -> None:
    backend = connect("llama3.2:1b", n_context_tokens=2048)
    backend.load()
    for generation in (Generation(), Generation(temperature=1.0, seed=2, stop=("x",)), Generation(json_schema={"type": "object"})):
        ask(backend, generation)
    assert len(daemon.server.loads) == 1


def test_capabilities_are_probed(connect: Connect) -> None:
    with pytest.raises(ModelError, match=r"writes no text.*embedding"):
        connect("embedder").load()
    backend = connect("llama3.2:1b")
    backend.load()
    assert backend.probed is not None
    assert backend.probed.version == (0, 13, 0)
    for wanted in (Generation(tools=({"name": "f", "parameters": {"type": "object"}},)), Generation(think=True)):
        with pytest.raises(InputError, match="has no"):
            ask(backend, wanted)


def test_tools(daemon: Daemon, connect: Connect) -> None:
    backend = connect("tooler")
    backend.load()
    tool = {"name": "get_order_status", "description": "Status", "parameters": {"type": "object", "properties": {"order_id": {"type": "integer"}}}}
    finished = ask(backend, Generation(tools=(tool,)))[-1]
    assert daemon.chats[-1]["tools"] == [{"type": "function", "function": tool}]
    assert isinstance(finished, Finished)
    assert finished.tool_calls == (ToolCall("get_order_status", {"order_id": 7}, "call_0"),)


def test_thinking_is_off_unless_asked_for_and_kept_apart(daemon: Daemon, connect: Connect) -> None:
    backend = connect("thinker")
    backend.load()
    assert ask(backend) == ["Grüße", ", ", "world", Finished("stop", 11, 3)]
    assert daemon.chats[-1]["think"] is False
    assert ask(backend, Generation(think=True))[-1] == Finished("stop", 11, 3, thinking="hmm")
    ask(backend, Generation(json_schema={"type": "object"}))
    assert "think" not in daemon.chats[-1], "with thinking off some releases ignore the schema"
    assert daemon.chats[-1]["format"] == {"type": "object"}
    assert ask(connect("musing")) == ["Grüße", ", ", "world", Finished("stop", 11, 3, thinking="so so")], "the daemon does not tell them apart"
    assert ask(connect("unopened"))[-1] == Finished("stop", 11, 3, thinking="so so", withdrawn=len("so so</think>\n\n"))


def test_a_daemon_too_old_to_refuse_is_not_given_what_it_might_cut(connect: Connect) -> None:
    with Daemon(version="0.11.4") as old:
        backend = connect("llama3.2:1b", old.url)
        backend.load()
        assert len(ask(backend)) == 4
        with pytest.raises(ContextOverflowError, match="in silence") as caught:
            list(backend.stream([Message("user", "long " * 1000)], Generation(), deadline_s=10))
        assert "Update Ollama" in caught.value.hint
        assert len(old.chats) == 2


def test_a_daemon_that_does_not_say_what_a_model_can(connect: Connect) -> None:
    backend = connect("ancient")
    backend.load()
    assert len(ask(backend, Generation(think=True))) == 4


def test_the_key_is_sent_and_not_shown(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Settings.load({"OLLAMA_API_KEY": "sesame", "MDSA_HOME": str(settings.home)})
    assert "sesame" not in repr(loaded)
    assert connect_client("https://ollama.com", loaded.ollama_api_key.get_secret_value())._client.headers["authorization"] == "Bearer sesame"
    assert connect_client("https://ollama.com", "sesame\n")._client.headers["authorization"] == "Bearer sesame"
    monkeypatch.setenv("OLLAMA_API_KEY", "other\n")
    assert connect_client("https://ollama.com")._client.headers["authorization"] == "Bearer other"
    monkeypatch.delenv("OLLAMA_API_KEY")
    for wrong in ("ses\name", "sesamé"):
        with pytest.raises(ConfigError, match="ollama_api_key: the key has") as caught:
            connect_client("https://ollama.com", wrong)
        assert "ses" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("0.0.0.0", "127.0.0.1"),
        (":11999", "127.0.0.1:11999"),
        ("http://0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("http://[::]:1234", "http://127.0.0.1:1234"),
        ("http://10.0.0.0:1234", "http://10.0.0.0:1234"),
    ],
)
def test_listening_everywhere_is_reached_here(given: str, used: str) -> None:
    assert reachable(given) == used
    assert connect_client(given)._client.base_url.host in used


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "http://", "foo bar", "127.0.0.1:abc", "127.0.0.1:0"])
def test_what_is_no_address_is_told_and_not_taken_for_a_daemon_that_is_not_there(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        connect_client(address)
    # As the client's own module meets it, when it is imported first.
    environ = {**os.environ, "OLLAMA_HOST": address, "MDSA_HOME": str(tmp_path)}
    asked = subprocess.run([sys.executable, "-m", "mdsa_local", "doctor"], env=environ, capture_output=True, text=True)
    assert "is no address" in asked.stdout and "knowledge" in asked.stdout and "internal error" not in asked.stderr


END = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 1}


def said(daemon: Daemon, *parts: Any) -> None:
    """Have the daemon answer these parts, values of JSON or what stands for one."""
    raw = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
    daemon.server.answers["/api/chat"] = 200, b"".join(part + b"\n" for part in raw)


def part(text: str, **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text, **more}, "done": False}


def test_half_characters_are_joined_and_one_alone_is_replaced(daemon: Daemon, connect: Connect) -> None:
    call = {"function": {"name": "f", "arguments": {"a": "\ud83d"}}}
    said(daemon, part("a\ud83d", thinking="\ud83d"), part("\ude00b", thinking="\ude00"), part("\ude00c\ud83d", tool_calls=[call]), END)
    *pieces, finished = ask(connect("m"))
    assert "".join(map(str, pieces)) == "a\N{GRINNING FACE}b\ufffdc\ufffd"
    assert isinstance(finished, Finished)
    assert (finished.thinking, finished.tool_calls[0].arguments) == ("\N{GRINNING FACE}", {"a": "\ufffd"})


@pytest.mark.parametrize("body", ['["the reason"]', '"the reason"', '{"error": {"message": "the reason"}}', '{"error": ["the reason"]}'])
def test_an_error_of_any_shape_keeps_its_status_and_reason(daemon: Daemon, connect: Connect, body: str) -> None:
    for path in ("/api/chat", "/api/show", "/api/version"):
        daemon.server.answers = {path: (500, body.encode())}
        with pytest.raises(BackendError, match=r"status 500: .*the reason"):
            ask(connect("m")) if path == "/api/chat" else connect("m").load()
    said(daemon, part("a"), {"error": {"message": "the reason"}})
    with pytest.raises(BackendError, match="broke off: the reason"):
        ask(connect("m"))


def test_an_answer_that_ended_otherwise_is_no_whole_one(daemon: Daemon, connect: Connect) -> None:
    said(daemon, part("a"), {**END, "done_reason": "unload"})
    with pytest.raises(BackendError, match="ended the answer of m with 'unload'"):
        ask(connect("m"))
    said(daemon, part("a"), {**END, "done_reason": None, "eval_count": -3})
    assert ask(connect("m"))[-1] == Finished("stop", 1, 0)


def test_what_is_nested_too_deep_is_no_answer(daemon: Daemon, connect: Connect) -> None:
    deep = b"[" * 200_000
    said(daemon, deep)
    with pytest.raises(BackendError, match="no answer"):
        ask(connect("m"))
    for path in ("/api/version", "/api/show", "/api/ps"):
        daemon.server.answers = {path: (200, deep)}
        with pytest.raises(BackendError, match="no answer"):
            connect("m").load()


@pytest.mark.parametrize("context", ["2048", -1, 2048.0, True, [], None])
def test_a_context_that_is_none_is_not_taken(daemon: Daemon, connect: Connect, context: Any) -> None:
    running = [{"name": [], "model": {}}, {"name": "m", "model": "m", "context_length": context}]
    daemon.server.answers["/api/ps"] = 200, json.dumps({"models": running}).encode()
    backend = connect("m")
    backend.load()
    assert backend.n_context_tokens == 4096


def test_versions_of_any_length() -> None:
    assert (numbers("0.12.6-rc1"), numbers("unknown"), numbers("\u00b2")) == ((0, 12, 6), (), ())
    assert len(numbers("9" * 5000)) == 3


@pytest.mark.parametrize("models", [["llama3"], [{"model": "a", "size": "big"}], {"a": 1}, [1], 5, [{"model": "a", "size": float("inf")}]])
def test_a_list_of_models_that_is_none_is_told(daemon: Daemon, settings: Settings, models: Any) -> None:
    daemon.server.answers["/api/tags"] = 200, json.dumps({"models": models}).encode()
    with pytest.raises(BackendError, match="no answer"):
        survey(settings.changed(ollama_base_url=daemon.url), 5)
    daemon.server.answers["/api/tags"] = 200, json.dumps({"models": [{"model": "a", "size": None}, {"name": "b"}]}).encode()
    assert survey(settings.changed(ollama_base_url=daemon.url), 5)[1] == {"a": 0}
