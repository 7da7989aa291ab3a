"""Real, tiny GGUF files for llama.cpp, and a real HTTP server that speaks Ollama's protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mdsa_local.runtime.backend import Backend
from mdsa_local.runtime.llamacpp import LlamaCppBackend, open_backend
from mdsa_local.settings import Settings, shipped

from .gguf_writer import TEMPLATE, Shape, metadata, random_weights, scripted, write_gguf
from .ollama_server import Daemon

Load = Callable[..., LlamaCppBackend]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights: 2 layers, 64 wide, 512 tokens of context."""
    return write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", metadata(Shape()), random_weights(Shape()))


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes a while over a long prompt: 8192 tokens of context."""
    shape = Shape(context=8192, layers=4, width=128, inner=256)
    return write_gguf(tmp_path_factory.mktemp("long") / "long.gguf", metadata(shape), random_weights(shape))


@pytest.fixture(scope="session")
def write_scripted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a model that answers a given text."""

    def write(text: str, *, loop: bool = False, template: str = TEMPLATE) -> Path:
        shape, weights = scripted(text, loop=loop)
        return write_gguf(tmp_path_factory.mktemp("scripted") / "scripted.gguf", metadata(shape, template), weights)

    return write


@pytest.fixture(scope="session")
def nano() -> Iterator[Backend]:
    """The shipped model in this process, one thread."""
    backend = open_backend(str(shipped("models") / "nano" / "nano-q4_0.gguf"), "nano", Settings.load({}, threads=1))
    yield backend
    backend.close()


@pytest.fixture
def load() -> Iterator[Load]:
    """Loads GGUF files and closes them after the test."""
    opened: list[LlamaCppBackend] = []

    def open_(path: Path, n_context_tokens: int = 0) -> LlamaCppBackend:
        opened.append(LlamaCppBackend(path, path.stem, n_context_tokens, threads=1))
        return opened[-1]

    yield open_
    for backend in opened:
        backend.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A running server that speaks Ollama's protocol."""
    with Daemon() as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a home of their own."""
    return Settings.load({}, home=tmp_path / "home", threads=1, request_timeout_s=20)
