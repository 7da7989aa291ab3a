"""What all backends that ask a server have in common, each against a real one on loopback: deadlines, closing, errors of the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendError, BackendTimeoutError, MDSAError
from mdsa_local.runtime.backend import Finished, Message
from mdsa_local.runtime.ollama import OllamaBackend
from mdsa_local.runtime.openai import OpenAIBackend
from mdsa_local.runtime.wire import lines

from .ollama_server import Daemon
from .openai_server import openai_daemon

QUESTION = [Message("system", "Be brief."), Message("user", "Hello?")]
Remote = OllamaBackend | OpenAIBackend
Connect = Callable[[str], Remote]
MAKES: dict[str, Callable[[str, str], Remote]] = {
    "ollama": lambda url, model: OllamaBackend(model, url, 10),
    "openai": lambda url, model: OpenAIBackend(url, model, 10),
}


def ask(backend: Remote, deadline_s: float = 10) -> list[str | Finished]:
    return list(backend.stream(QUESTION, Generation(), deadline_s=deadline_s))


def held(backend: Remote, work: Callable[[], object]) -> threading.Thread:
    """A thread that does ``work`` and waits for a server which says nothing more."""
    waiting = threading.Thread(target=work)
    waiting.start()
    while not backend._wires.under_way:
        time.sleep(0.01)
    waiting.join(0.3)
    assert waiting.is_alive()
    return waiting


@pytest.fixture(params=MAKES)
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes backends of one runtime and closes them after the test."""
    opened: list[Remote] = []
    with Daemon() if request.param == "ollama" else openai_daemon() as running:

        def make(model: str) -> Remote:
            opened.append(MAKES[request.param](running.url, model))
            return opened[-1]

        yield make
        for backend in opened:
            backend.close()


@pytest.mark.parametrize("model", ["hanging", "silent", "stalling", "slow"])
def test_the_deadline_holds_wherever_the_server_stops(connect: Connect, model: str) -> None:
    began = time.monotonic()
    with pytest.raises(BackendTimeoutError):
        ask(connect(model), deadline_s=0.3)
    assert time.monotonic() - began < 8, "the servers hold an answer back for ten"


def test_the_deadline_is_told_also_where_the_client_gives_up_first(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = connect("hanging")
    # On a busy machine its thread comes late.
    monkeypatch.setattr(threading.Timer, "start", lambda self: None)
    with pytest.raises(BackendTimeoutError, match=r"did not answer in 0\.3 s"):
        ask(backend, deadline_s=0.3)


@pytest.mark.parametrize("model", ["hanging", "silent", "stalling"])
def test_closing_one_stream_from_another_thread_ends_it_alone(connect: Connect, model: str) -> None:
    backend = connect(model)
    stream = backend.stream(QUESTION, Generation(), deadline_s=60)
    waiting = held(backend, lambda: list(stream))
    stream.close()
    waiting.join(8)
    assert not waiting.is_alive()
    assert not backend._wires.under_way
    assert not backend._wires.closed


@pytest.mark.parametrize("model", ["hanging", "silent", "stalling"])
def test_close_wakes_a_stream_that_waits(connect: Connect, model: str) -> None:
    backend = connect(model)
    found: list[list[str | Finished]] = []
    waiting = held(backend, lambda: found.append(ask(backend)))
    backend.close()
    waiting.join(8)
    assert found[0][-1] == Finished("cancelled", 0, 0)
    with pytest.raises(BackendError, match="closed"):
        ask(backend)


def test_closing_a_stream_early_and_asking_again(connect: Connect) -> None:
    backend = connect("plain")
    stream = backend.stream(QUESTION, Generation(), deadline_s=10)
    next(stream)
    stream.close()
    assert len(ask(backend)) == 4


def test_close_while_streaming_and_twice(connect: Connect) -> None:
    backend = connect("slow")
    stream = backend.stream(QUESTION, Generation(), deadline_s=10)
    assert next(stream) == "Grüße"
    backend.close()
    backend.close()
    assert list(stream) == [Finished("cancelled", 0, 0)]
    with pytest.raises(BackendError, match="closed"):
        ask(backend)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_every_error_of_httpx_is_mapped(make: Callable[[str, str], Remote]) -> None:
    backend = make("http://127.0.0.1", "m")
    request = httpx.Request("GET", "http://127.0.0.1")
    kinds = [
        kind for kind in vars(httpx).values() if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, httpx.CookieConflict)
    ]
    assert len(kinds) > 20
    for kind in kinds:
        error: Exception
        if kind is httpx.HTTPStatusError:
            error = httpx.HTTPStatusError("failed", request=request, response=httpx.Response(500))
        elif issubclass(kind, httpx.StreamError):
            error = httpx.StreamError("failed")
        else:
            error = kind("failed")
        with pytest.raises(MDSAError), backend._mapped():
            raise error


def test_lines_are_put_together_from_parts() -> None:
    raw = "one\r\n\ntwo\u2028ü\x85\nthree".encode()
    for size in (1, 3, 100):
        assert list(lines(raw[at : at + size] for at in range(0, len(raw), size))) == ["one", "", "two\u2028ü\x85", "three"]
    assert list(lines([b"", b"a\n"])) == ["a"]
