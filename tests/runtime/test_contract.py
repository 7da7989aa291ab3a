"""What every backend does alike: the shipped GGUF in this process, the same behind Ollama's and OpenAI's protocols, and a tiny transformers model."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.errors import (
    BackendError,
    BackendTimeoutError,
    ConfigError,
    ContextOverflowError,
    InputError,
    InvalidOutputError,
    MDSAError,
    ModelNotFoundError,
)
from mdsa_local.runtime.backend import BACKENDS, Backend, Finished, Message, backend_module, parse_reference
from mdsa_local.runtime.structured import generate_json
from mdsa_local.settings import Settings, shipped

from . import tiny_transformers
from .ollama_server import Daemon
from .openai_server import openai_daemon

QUESTION = [Message("system", "Answer from the passages."), Message("user", "How long is the warranty, and what does it cover?")]
# With another seed the small model of transformers may come to its end within the deadline.
LONG = Generation(max_tokens=2000, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=5)
NANO = shipped("models") / "nano" / "nano-q4_0.gguf"
SCHEMA = {
    "type": "object",
    "properties": {"covered": {"type": "boolean"}, "kind": {"enum": ["repair", "refund"]}},
    "required": ["covered", "kind"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Row:
    """A backend under test: how to open it, and a reference that it cannot find."""

    scheme: str
    open: Callable[[], Backend]
    target: str
    missing: str
    settings: Settings


@pytest.fixture(scope="module")
def daemons(nano: Backend) -> Iterator[dict[str, Daemon]]:
    """Both protocol servers, answering with the shipped model."""
    with Daemon(nano) as ollama, openai_daemon(nano) as openai:
        yield {"ollama": ollama, "openai": openai}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_transformers.make(tmp_path_factory.mktemp("contract"))


extra = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra 'transformers'")


@pytest.fixture(params=["gguf", "ollama", "openai", pytest.param("transformers", marks=extra)])
def row(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Row]:
    settings = Settings.load({}, home=tmp_path / "home", threads=1, request_timeout_s=60)
    scheme: str = request.param
    if scheme == "gguf":
        target, missing = str(NANO), str(tmp_path / "absent.gguf")
    elif scheme == "transformers":
        target, missing = str(request.getfixturevalue("folder")), "no/such-model"
    else:
        url = request.getfixturevalue("daemons")[scheme].url
        settings = settings.changed(ollama_base_url=url)
        place = f"{url.removeprefix('http://')}/" if scheme == "openai" else ""
        target, missing = f"{place}nano", f"{place}{'absent' if place else 'missing'}"
    opened: list[Backend] = []

    def open_() -> Backend:
        opened.append(backend_module(scheme).open_backend(target, "nano", settings))
        return opened[-1]

    yield Row(scheme, open_, target, missing, settings)
    for backend in opened:
        backend.close()


@pytest.fixture
def backend(row: Row) -> Backend:
    return row.open()


def ask(backend: Backend, generation: Generation, deadline_s: float = 60) -> tuple[list[str], Finished]:
    *pieces, last = backend.stream(QUESTION, generation, deadline_s=deadline_s)
    assert isinstance(last, Finished)
    assert all(isinstance(piece, str) for piece in pieces), "exactly one end, and nothing behind it"
    return [str(piece) for piece in pieces], last


def test_pieces_are_text_and_the_end_comes_once(backend: Backend) -> None:
    pieces, finished = ask(backend, Generation(max_tokens=12))
    assert pieces
    assert all(pieces), "no empty pieces"
    assert finished.reason in ("stop", "length")
    assert "".join(pieces).encode()


def test_temperature_0_repeats_itself(backend: Backend) -> None:
    assert ask(backend, Generation(max_tokens=12)) == ask(backend, Generation(max_tokens=12))


def test_counts_add_up(backend: Backend) -> None:
    pieces, finished = ask(backend, LONG.model_copy(update={"max_tokens": 9}))
    assert finished.reason == "length"
    assert finished.tokens_generated == 9
    assert 1 <= len(pieces) <= 9
    assert 0 < finished.prompt_tokens <= backend.count_tokens(QUESTION), "the count asked for before is never too low"


def test_one_token(backend: Backend) -> None:
    pieces, finished = ask(backend, Generation(max_tokens=1))
    assert (len(pieces) <= 1, finished.tokens_generated, finished.reason) == (True, 1, "length")


def test_a_longer_prompt_counts_more(backend: Backend) -> None:
    longer = [*QUESTION, Message("assistant", "Two years."), Message("user", "And for batteries?")]
    assert backend.count_tokens(longer) > backend.count_tokens(QUESTION) > 0


def test_the_seed_decides(backend: Backend) -> None:
    texts = ["".join(ask(backend, LONG.model_copy(update={"max_tokens": 12, "seed": seed}))[0]) for seed in (5, 5, 6)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_stop_string_ends_it_and_is_not_shown(backend: Backend) -> None:
    whole = "".join(ask(backend, Generation(max_tokens=12))[0])
    stop = whole[3:5]
    pieces, finished = ask(backend, Generation(max_tokens=12, stop=(stop,)))
    assert "".join(pieces) == whole[: whole.index(stop)]
    assert finished.reason == "stop"


def test_a_prompt_that_does_not_fit_is_refused(backend: Backend) -> None:
    too_long = [Message("user", "warranty " * backend.n_context_tokens)]
    with pytest.raises(ContextOverflowError) as caught:
        list(backend.stream(too_long, Generation(), deadline_s=60))
    assert caught.value.hint
    assert ask(backend, Generation(max_tokens=2))[1].tokens_generated, "and does not harm the next"


def test_the_deadline_is_a_typed_error(backend: Backend) -> None:
    began = time.monotonic()
    with pytest.raises(BackendTimeoutError) as caught:
        ask(backend, LONG, deadline_s=0.05)
    assert caught.value.retryable
    assert time.monotonic() - began < 5
    assert ask(backend, Generation(max_tokens=2))[1].tokens_generated


def test_a_stream_left_early_leaves_the_backend_usable(backend: Backend) -> None:
    expected = ask(backend, Generation(max_tokens=12))
    stream = backend.stream(QUESTION, LONG, deadline_s=60)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert ask(backend, Generation(max_tokens=12)) == expected


def test_close_is_safe_twice_and_then_it_is_closed(backend: Backend) -> None:
    ask(backend, Generation(max_tokens=1))
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        ask(backend, Generation(max_tokens=1))


def test_close_before_use(backend: Backend) -> None:
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        ask(backend, Generation(max_tokens=1))


def test_close_while_streaming_ends_as_cancelled(backend: Backend) -> None:
    stream = backend.stream(QUESTION, LONG, deadline_s=60)
    assert isinstance(next(stream), str)
    backend.close()
    *_, last = stream
    assert isinstance(last, Finished)
    assert last.reason == "cancelled"


def test_close_from_another_thread_stops_a_stream_at_once(backend: Backend) -> None:
    started, found = threading.Event(), list[str | Finished]()

    def read() -> None:
        for piece in backend.stream(QUESTION, LONG, deadline_s=60):
            found.append(piece)
            started.set()

    reading = threading.Thread(target=read)
    reading.start()
    assert started.wait(30)
    began = time.monotonic()
    backend.close()
    reading.join(10)
    assert time.monotonic() - began < 2
    assert isinstance(found[-1], Finished)
    assert found[-1].reason == "cancelled"


def test_two_threads_get_each_their_own_answer(backend: Backend) -> None:
    expected = ask(backend, Generation(max_tokens=8))[0]
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(ask(backend, Generation(max_tokens=8))[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ["".join(pieces) for pieces in found] == ["".join(expected)] * 3


def test_two_backends_of_one_model(row: Row) -> None:
    first, second = row.open(), row.open()
    expected = ask(first, Generation(max_tokens=6))
    first.close()
    assert ask(second, Generation(max_tokens=6)) == expected


@pytest.mark.parametrize("text", ["Grüße 你好 \U0001f600 \u202e", "", " \n\t", "\ud800 lone", "<|im_end|><|end|></s>", "a\x00b"])
def test_any_text_is_a_question(backend: Backend, text: str) -> None:
    *_, last = backend.stream([Message("user", text)], Generation(max_tokens=2), deadline_s=60)
    assert isinstance(last, Finished)


def test_the_schema_is_followed(row: Row, backend: Backend) -> None:
    found = generate_json(backend, QUESTION, SCHEMA, Generation(max_tokens=80), deadline_s=60)
    assert set(found.value) == {"covered", "kind"}
    assert json.loads(found.text) == found.value
    assert not found.repaired


def test_an_answer_too_short_for_the_schema_is_a_typed_error(backend: Backend) -> None:
    with pytest.raises(InvalidOutputError, match="cut off after 3 tokens"):
        generate_json(backend, QUESTION, SCHEMA, Generation(max_tokens=3), deadline_s=60)


def test_options_that_nobody_knows_are_errors() -> None:
    from mdsa_local.domains.config import DomainConfig

    with pytest.raises(ConfigError, match="num_ctx"):
        DomainConfig(name="x", generation={"num_ctx": 4})


def test_options_that_it_cannot_follow_are_errors_not_ignored(row: Row, backend: Backend) -> None:
    cannot = {
        "gguf": [{"tools": ({"name": "f"},)}, {"think": True}, {"json_schema": {}, "grammar": 'root ::= "a"'}],
        "transformers": [{"tools": ({"name": "f"},)}, {"think": True}, {"grammar": 'root ::= "a"'}, {"refusal": "no"}],
        "ollama": [{"grammar": 'root ::= "a"'}, {"refusal": "no"}, {"choices": (("a", 0.0),)}, {"tools": ({"name": "f"},)}, {"think": True}],
        "openai": [{"grammar": 'root ::= "a"'}, {"refusal": "no"}, {"choices": (("a", 0.0),)}],
    }
    alone: list[dict[str, object]] = [{"logit_bias": ((1, 1.0),)}, {"probabilities": 2}]
    for options in (*cannot[row.scheme], *(() if row.scheme == "gguf" else alone)):
        with pytest.raises(InputError) as caught:
            ask(backend, Generation.model_validate(options))
        assert caught.value.hint


def test_a_missing_model_is_a_typed_error_that_says_what_to_do(row: Row) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        backend_module(row.scheme).open_backend(row.missing, "x", row.settings)
    assert caught.value.hint


def test_a_runtime_that_is_not_there_is_a_typed_error(row: Row, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"model_type": "nothing"}')
    targets = {"gguf": tmp_path / "broken.gguf", "transformers": tmp_path / "folder", "ollama": "nano", "openai": "127.0.0.1:9/nano"}
    with pytest.raises(MDSAError) as caught:
        backend_module(row.scheme).open_backend(str(targets[row.scheme]), "x", row.settings.changed(ollama_base_url="http://127.0.0.1:9"))
    assert caught.value.exit_code in (5, 6)
    assert caught.value.hint


def test_it_says_what_it_is(row: Row, backend: Backend) -> None:
    assert backend.name == "nano"
    assert 256 <= backend.n_context_tokens <= 8192
    assert backend_module(row.scheme).estimate_bytes(row.target, row.settings) >= 0
    assert parse_reference(f"{row.scheme}://{row.target}").scheme == row.scheme


def test_what_the_context_is_set_to_holds(row: Row) -> None:
    smaller = backend_module(row.scheme).open_backend(row.target, "nano", row.settings.changed(context_tokens=300))
    try:
        assert smaller.n_context_tokens <= 2048
        if row.scheme in ("gguf", "transformers", "openai"):
            assert smaller.n_context_tokens == 300
    finally:
        smaller.close()


def test_the_same_model_answers_the_same_behind_every_protocol(nano: Backend, daemons: dict[str, Daemon], tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path, threads=1, ollama_base_url=daemons["ollama"].url)
    targets = {"ollama": "nano", "openai": f"{daemons['openai'].url.removeprefix('http://')}/nano"}
    for generation in (Generation(max_tokens=16), LONG.model_copy(update={"max_tokens": 16})):
        expected, end = ask(nano, generation)
        for scheme, target in targets.items():
            backend = backend_module(scheme).open_backend(target, "nano", settings)
            pieces, finished = ask(backend, generation)
            assert "".join(pieces) == "".join(expected), scheme
            assert (finished.reason, finished.prompt_tokens, finished.tokens_generated) == (end.reason, end.prompt_tokens, end.tokens_generated)
            backend.close()


def test_no_row_is_missing() -> None:
    assert set(BACKENDS) == {"gguf", "ollama", "openai", "transformers"}, "a new backend needs a row in this suite"
