"""What ``mdsa bench generate`` measures, on models of any vocabulary that end their answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mdsa_local.cli import bench_generate
from mdsa_local.cli.bench_generate import TOGETHER, Bare, Plain, _ours, _question, going_on
from mdsa_local.errors import BackendError, BusyError
from mdsa_local.runtime.llamacpp import LlamaCppBackend
from mdsa_local.settings import shipped
from tests.runtime.gguf_writer import VOCABULARY, Shape, metadata, random_weights, scripted, write_gguf


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers three letters, with a vocabulary smaller than the tokens that are put into large ones."""
    assert len(VOCABULARY) < 300
    shape, weights = scripted("ABC")
    return write_gguf(tmp_path_factory.mktemp("brief") / "brief.gguf", metadata(shape), weights)


@pytest.fixture(scope="module")
def backend(brief: Path) -> Iterator[LlamaCppBackend]:
    with closing(LlamaCppBackend(brief, "brief", threads=1, parallel=TOGETHER, eager=True)) as opened:
        yield opened


def test_a_model_that_ends_its_answers_is_measured(backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="an answer of brief has 3 tokens, 48 are measured"):
        _ours(backend, 1)
    # So small a model writes 48 tokens before the last of its askers is woken for its first, at times.
    monkeypatch.setattr(bench_generate, "TOKENS", 300)
    with going_on(backend.weights):
        assert all(_ours(backend, n) > 0 for n in (1, TOGETHER))
    with pytest.raises(BackendError, match="has 3 tokens"):
        _ours(backend, 1)


def test_a_model_that_writes_nothing_is_measured() -> None:
    # Without passages it ends at once, and has no text for what it is made to write behind that.
    with closing(LlamaCppBackend(shipped("models") / "nano" / "nano-q4_0.gguf", "nano", threads=1)) as nano, going_on(nano.weights):
        assert _ours(nano, 1) > 0


def test_a_small_vocabulary_has_all_tokens_that_are_put_in(backend: LlamaCppBackend, brief: Path) -> None:
    with closing(Bare(backend.weights, 1)) as bare:
        assert bare.rate(TOGETHER, 70) > 0
    with closing(Plain(brief, 1)) as plain:
        assert plain.rate() > 0


def test_a_context_without_room_is_told(backend: LlamaCppBackend, tmp_path: Path) -> None:
    shape = Shape(context=backend.count_tokens(_question(0)) + 20)
    path = write_gguf(tmp_path / "short.gguf", metadata(shape), random_weights(shape))
    with closing(LlamaCppBackend(path, "short", threads=1)) as short, going_on(short.weights):
        with pytest.raises(BackendError, match="an answer of short has 20 tokens, 48 are measured") as caught:
            _ours(short, 1)
        assert "room" in caught.value.hint


def test_what_one_caller_meets_ends_all() -> None:
    def stream(messages: Any, *_: Any, **__: Any) -> Iterator[str]:
        if messages[0].content.startswith("1 "):
            raise BusyError("full", "Wait.", 1.0)
        yield "a"
        time.sleep(0.05)

    fake: Callable[..., float] = _ours
    began = time.monotonic()
    with pytest.raises(BusyError, match="full"):
        fake(SimpleNamespace(name="fake", stream=stream, stats=lambda: SimpleNamespace(tokens_generated=0)), 3)
    assert time.monotonic() - began < 10
