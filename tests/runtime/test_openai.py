"""The backend for OpenAI-compatible servers against a real HTTP server on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ConfigError,
    ContextOverflowError,
    InputError,
    MDSAError,
    ModelNotFoundError,
)
from mdsa_local.runtime.backend import Finished, Message, ToolCall
from mdsa_local.runtime.openai import OpenAIBackend, context_of, open_backend, split_target
from mdsa_local.runtime.wire import reason_of
from mdsa_local.settings import Settings

from .ollama_server import PAGE, SEPARATED, Daemon
from .openai_server import KEY, openai_daemon

QUESTION = [Message("system", "Be brief."), Message("user", "Hello?")]
Connect = Callable[..., OpenAIBackend]


def ask(backend: OpenAIBackend, generation: Generation | None = None, deadline_s: float = 10) -> list[str | Finished]:
    return list(backend.stream(QUESTION, generation or Generation(), deadline_s=deadline_s))


@pytest.fixture
def server() -> Iterator[Daemon]:
    with openai_daemon() as running:
        yield running


@pytest.fixture
def connect(server: Daemon) -> Iterator[Connect]:
    """Makes backends and closes them after the test."""
    opened: list[OpenAIBackend] = []

    def make(model: str, base_url: str = "", **options: object) -> OpenAIBackend:
        opened.append(OpenAIBackend(base_url or server.url, model, 10, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for backend in opened:
        backend.close()


def test_a_streamed_answer(connect: Connect) -> None:
    assert ask(connect("plain")) == ["Grüße", ", ", "world", Finished("stop", 11, 3)]
    assert ask(connect("limited"))[-1] == Finished("length", 11, 3)
    assert ask(connect("uncounted"))[-1] == Finished("stop", 0, 3), "pieces are counted where the server counts nothing"


def test_only_a_line_feed_ends_a_line(connect: Connect) -> None:
    assert ask(connect("separated")) == [*SEPARATED, Finished("stop", 11, 3)]


def test_what_is_sent(server: Daemon, connect: Connect) -> None:
    schema = {"type": "object"}
    ask(connect("plain"), Generation(temperature=0.7, seed=3, stop=("END",), max_tokens=5, repeat_penalty=1.1, json_schema=schema))
    _, sent = server.server.calls[-1]
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    assert sent | {"max_tokens": 5, "temperature": 0.7, "seed": 3, "stop": ["END"], "repeat_penalty": 1.1, "stream": True} == sent
    assert sent["response_format"]["json_schema"]["schema"] == schema
    ask(connect("plain"), Generation(presence_penalty=1.5, frequency_penalty=-0.5))
    _, sent = server.server.calls[-1]
    assert (sent["presence_penalty"], sent["frequency_penalty"]) == (1.5, -0.5)
    ask(connect("plain"))
    _, sent = server.server.calls[-1]
    assert not {"seed", "stop", "response_format", "tools", "repeat_penalty", "presence_penalty", "frequency_penalty"} & set(sent)


def test_tools_and_thinking(server: Daemon, connect: Connect) -> None:
    tool = {"name": "get_order_status", "parameters": {"type": "object"}}
    finished = ask(connect("tooler"), Generation(tools=(tool,)))[-1]
    assert isinstance(finished, Finished)
    assert finished.tool_calls == (ToolCall("get_order_status", {"order_id": 7}, "a1"),)
    assert server.server.calls[-1][1]["tools"] == [{"type": "function", "function": tool}]
    assert ask(connect("thinker"), Generation(think=True))[-1] == Finished("stop", 11, 3, thinking="hmm")
    assert server.server.calls[-1][1]["chat_template_kwargs"] == {"enable_thinking": True}


@pytest.mark.parametrize("model", ["unnumbered", "unnumbered-null"])
def test_calls_without_a_number_are_told_apart_by_their_ids(connect: Connect, model: str) -> None:
    finished = ask(connect(model), Generation(tools=({"name": "first"},)))[-1]
    assert isinstance(finished, Finished)
    assert finished.tool_calls == (ToolCall("first", {"a": 1}, "first"), ToolCall("second", {"a": 1}, "second"))


def test_an_answer_that_is_whole_but_for_its_last_event_is_one(connect: Connect) -> None:
    assert ask(connect("cut-at-the-end")) == ["Grüße", ", ", "world", Finished("stop", 0, 3)]


def test_a_byte_order_mark_hides_no_text(connect: Connect) -> None:
    assert "".join(map(str, ask(connect("marked"))[:-1])) == "Well, Grüße, world"


def test_thoughts_in_the_text_are_kept_apart(connect: Connect) -> None:
    *pieces, finished = ask(connect("inline-thinker"))
    assert "".join(map(str, pieces)) == "".join(map(str, ask(connect("plain"))[:-1]))
    assert isinstance(finished, Finished)
    assert finished.thinking == "so so"


def test_thoughts_that_only_end_are_withdrawn_at_the_end(connect: Connect) -> None:
    *pieces, finished = ask(connect("unopened"))
    assert isinstance(finished, Finished)
    assert finished == Finished("stop", 11, 3, thinking="so so", withdrawn=len("so so</think>\n\n"))
    assert "".join(map(str, pieces))[finished.withdrawn :] == "".join(map(str, ask(connect("plain"))[:-1]))


def test_a_system_message_that_the_server_refuses_goes_before_the_first_question(server: Daemon, connect: Connect) -> None:
    messages = [Message("system", "Be brief."), Message("user", "hello")]
    assert list(connect("gemma").stream(messages, Generation(), deadline_s=20))[-1] == Finished("stop", 11, 3)
    assert server.server.calls[-1][1]["messages"] == [{"role": "user", "content": "Be brief.\n\nhello"}]
    with pytest.raises(InputError, match="System role not supported"):
        list(connect("gemma").stream(messages[:1], Generation(), deadline_s=20))


def test_the_context_is_what_the_server_says(server: Daemon, connect: Connect) -> None:
    for model, wanted, found in (("plain", 0, 2048), ("plain", 512, 512), ("plain", 9999, 2048), ("org/vllm", 0, 1024), ("lm-studio", 0, 4096)):
        backend = connect(model, n_context_tokens=wanted)
        backend.load()
        assert backend.n_context_tokens == found, model


def test_a_server_that_does_not_tell_its_context_is_used_all_the_same(server: Daemon, connect: Connect) -> None:
    server.server.lacking.add("/props")
    backend = connect("plain")
    backend.load()
    assert backend.n_context_tokens == 4096
    assert ask(backend)[-1] == Finished("stop", 11, 3)


def test_a_server_that_may_cut_is_given_only_what_fits(connect: Connect) -> None:
    long = [Message("user", "word " * 5000)]
    backend = connect("lm-studio")
    backend.load()
    with pytest.raises(ContextOverflowError, match="room for 4096"):
        list(backend.stream(long, Generation(), deadline_s=10))
    refusing = connect("plain")
    refusing.load()
    assert len(list(refusing.stream(long, Generation(), deadline_s=10))) == 4


def test_an_unknown_model_lists_the_known_ones(connect: Connect) -> None:
    with pytest.raises(ModelNotFoundError, match="nope") as caught:
        connect("nope").load()
    assert "nano" in caught.value.hint


@pytest.mark.parametrize(
    ("model", "kind", "message", "hint"),
    [
        ("missing", ModelNotFoundError, "does not exist", "reference"),
        ("busy", BackendUnavailableError, "Loading model", "again"),
        ("limited-rate", BackendUnavailableError, "too many", "again"),
        ("long", ContextOverflowError, "exceeds the available context", "shorter"),
        ("odd", BackendError, "418.*teapot", "log"),
        ("strict", InputError, "top_k", "generation settings"),
        ("locked", BackendError, "Invalid API Key", "MDSA_OPENAI_API_KEY"),
        ("elsewhere", BackendError, "redirects to http://192.0.2.1", "trust"),
        ("broken", BackendUnavailableError, "broke off", "again"),
        ("unfinished", BackendUnavailableError, "broke off", "again"),
        ("failing", BackendUnavailableError, "broke off: the engine died", "again"),
        ("garbage", BackendError, "no answer", "/v1"),
        ("bad-call", BackendError, "no answer", "/v1"),
    ],
)
def test_failures(connect: Connect, model: str, kind: type[MDSAError], message: str, hint: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        ask(connect(model))
    assert type(caught.value) is kind
    assert hint in caught.value.hint.replace("Ask again", "again")


def test_a_page_is_no_reason(connect: Connect) -> None:
    with pytest.raises(BackendUnavailableError, match=r"status 502: 502 Bad Gateway$"):
        ask(connect("page"))
    assert reason_of(PAGE.replace("title", "b"), 502) == "Bad Gateway"
    assert reason_of("<html><title>Down &amp;\n out</title>", 503) == "Down & out"
    assert reason_of("<html>") == "a web page"
    assert reason_of("<unk> is no token") == "<unk> is no token"
    assert len(reason_of("word " * 1000)) < 310


@pytest.mark.parametrize(
    ("model", "said", "hint"),
    [("hanging", "the server at .* did not answer in 2 s", "hung"), ("silent", "did not answer in 2 s", "hung"), ("stalling", "deadline", "fewer")],
)
def test_a_server_that_says_nothing_is_told_from_one_that_is_slow(connect: Connect, model: str, said: str, hint: str) -> None:
    with pytest.raises(BackendTimeoutError, match=said) as caught:
        ask(connect(model), deadline_s=2)
    assert hint in caught.value.hint
    assert "request_timeout_s" in caught.value.hint


def test_a_server_that_accepts_and_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        where = f"http://127.0.0.1:{mute.getsockname()[1]}"
        backend = OpenAIBackend(where, "m", 1.0)
        with pytest.raises(BackendTimeoutError, match=f"{where} did not answer in 1 s"):
            backend.load()
        backend.close()


def test_the_key_opens_and_is_only_taken_from_our_settings(server: Daemon, settings: Settings) -> None:
    loaded = Settings.load({"OPENAI_API_KEY": "foreign", "MDSA_OPENAI_API_KEY": KEY, "MDSA_HOME": str(settings.home)})
    assert KEY not in repr(loaded)
    backend = OpenAIBackend(server.url, "locked", 10, 0, loaded.openai_api_key.get_secret_value())
    assert len(ask(backend)) == 4
    backend.close()
    assert Settings.load({"OPENAI_API_KEY": "foreign"}, home=settings.home).openai_api_key.get_secret_value() == ""


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(server: Daemon) -> None:
    for wrong in ("ses\name", "sesamé"):
        backend = OpenAIBackend(server.url, "locked", 10, 0, wrong)
        with pytest.raises(ConfigError, match="openai_api_key: the key has characters that none has") as caught:
            backend.load()
        assert "ses" not in f"{caught.value} {caught.value.hint}"
    backend = OpenAIBackend(server.url, "locked", 10, 0, f"{KEY}\n")
    assert len(ask(backend)) == 4
    backend.close()


def test_not_running(connect: Connect) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for call in (OpenAIBackend.load, ask):
        with pytest.raises(BackendUnavailableError, match="cannot be reached"):
            call(connect("plain", f"http://127.0.0.1:{port}"))


def test_what_cannot_be_asked_of_it(connect: Connect) -> None:
    with pytest.raises(InputError, match="grammar"):
        ask(connect("plain"), Generation(grammar='root ::= "a"'))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("127.0.0.1:8080/qwen", ("http://127.0.0.1:8080", "qwen")),
        ("localhost/org/model", ("http://localhost", "org/model")),
        ("[::1]:8080/m", ("http://[::1]:8080", "m")),
        ("192.168.1.5:8000/m", ("http://192.168.1.5:8000", "m")),
        ("box.lan:8000/m", ("http://box.lan:8000", "m")),
        ("api.example.com/m", ("https://api.example.com", "m")),
        ("api.example.com:443/m", ("https://api.example.com:443", "m")),
    ],
)
def test_targets(target: str, expected: tuple[str, str]) -> None:
    assert split_target(target) == expected


@pytest.mark.parametrize("target", ["127.0.0.1:8080", "127.0.0.1:8080/", "/model", "qwen", "http://host/v1/qwen"])
def test_a_target_without_host_or_model_is_a_configuration_error(target: str) -> None:
    with pytest.raises(ConfigError, match="no model reference") as caught:
        split_target(target)
    assert "openai://host:port/model" in caught.value.hint


def test_open_backend(server: Daemon, settings: Settings) -> None:
    backend = open_backend(f"{server.url.removeprefix('http://')}/org/vllm", "x", settings)
    assert (backend.name, backend.n_context_tokens) == ("org/vllm", 1024)
    backend.close()
    backend.close()


def test_reasons_and_contexts_of_any_shape() -> None:
    shapes = ('{"error":{"message":"a"}}', '{"error":"a"}', '{"detail":"a"}', '{"message":"a"}', '"a"', "a")
    assert {reason_of(text) for text in shapes} == {"a"}
    assert context_of({"meta": {"n_ctx": 5}}) == context_of({"loaded_context_length": 5}) == 5
    assert context_of({"max_model_len": "5"}) == context_of({"max_model_len": True}) == 0


def said(server: Daemon, *events: Any) -> None:
    """Have the server answer these events, values of JSON or what stands for one."""
    raw = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    server.server.answers["/v1/chat/completions"] = 200, b"".join(b"data: %b\n\n" % event for event in (*raw, b"[DONE]"))


def delta(text: str = "", ended: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": ended}]}


@pytest.mark.parametrize("usage", [{"completion_tokens": None, "prompt_tokens": None}, {"completion_tokens": "7"}, {"completion_tokens": -2}, [1]])
def test_counts_that_are_none_are_not_taken(server: Daemon, connect: Connect, usage: Any) -> None:
    said(server, delta("a"), delta("b"), {**delta("", "stop"), "usage": usage})
    assert ask(connect("m"))[-1] == Finished("stop", 0, 2)


def test_half_characters_are_joined_and_one_alone_is_replaced(server: Daemon, connect: Connect) -> None:
    said(server, delta("a\ud83d"), delta("\ude00b"), delta("\ude00c\ud83d", "stop", reasoning_content="\ud83d"))
    *pieces, finished = ask(connect("m"))
    assert "".join(map(str, pieces)) == "a\N{GRINNING FACE}b\ufffdc\ufffd"
    assert isinstance(finished, Finished)
    assert finished.thinking == "\ufffd"
    call = {"index": 0, "function": {"name": "f", "arguments": '{"a": "\\ud83d", "b": "\ud83d\ude00"}'}}
    said(server, delta("", "tool_calls", tool_calls=[call]))
    finished = ask(connect("m"))[-1]
    assert isinstance(finished, Finished)
    assert finished.tool_calls[0].arguments == {"a": "\ufffd", "b": "\N{GRINNING FACE}"}


def test_an_answer_that_ended_otherwise_is_no_whole_one(server: Daemon, connect: Connect) -> None:
    for ended in ("content_filter", "abort", "error"):
        said(server, delta("a"), delta("", ended))
        with pytest.raises(BackendError, match=f"ended the answer of m with '{ended}'"):
            ask(connect("m"))
    for ended in ("stop", "tool_calls"):
        said(server, delta("a"), delta("", ended))
        assert ask(connect("m"))[-1] == Finished("stop", 0, 1)


def test_what_is_refused_in_the_middle_is_refused_again(server: Daemon, connect: Connect) -> None:
    for code, retryable in ((400, False), (429, True), (500, True), ("rate_limit", True), (None, True)):
        said(server, delta("a"), {"error": {"message": "the reason", "code": code}})
        with pytest.raises(BackendError, match="broke off: the reason") as caught:
            ask(connect("m"))
        assert caught.value.retryable == retryable == ("Ask again" in caught.value.hint)


def test_a_call_that_the_limit_cut_short_is_none(server: Daemon, connect: Connect) -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": '{"a'}}
    said(server, delta("", tool_calls=[call]), delta("", "length"))
    assert ask(connect("m"))[-1] == Finished("length", 0, 0)


def test_what_is_nested_too_deep_is_no_answer(server: Daemon, connect: Connect) -> None:
    deep = b"[" * 200_000
    said(server, deep)
    with pytest.raises(BackendError, match="no answer"):
        ask(connect("m"))
    server.server.answers["/v1/models"] = 200, deep
    with pytest.raises(BackendError, match="no answer"):
        connect("m").load()
