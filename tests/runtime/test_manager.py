"""ModelManager on real GGUF files: names, budget, eviction, concurrency."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendError, BackendUnavailableError, ConfigError, InputError, ModelFileError, ModelMemoryError, ModelNotFoundError
from mdsa_local.runtime import llamacpp
from mdsa_local.runtime.backend import Finished, Message, Reference
from mdsa_local.runtime.llamacpp import LlamaCppBackend, estimate_bytes
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.settings import Settings

from .ollama_server import Daemon

SHORT = Generation(max_tokens=8)
QUESTION = [Message("user", "hello?")]


@pytest.fixture
def models(tiny: Path, tmp_path: Path, settings: Settings) -> list[str]:
    """Names of three equal models in the user's folder."""
    folder = settings.home / "models"
    folder.mkdir(parents=True)
    for name in "abc":
        shutil.copy(tiny, folder / f"{name}.gguf")
    return list("abc")


@pytest.fixture
def one_bytes(tiny: Path, settings: Settings) -> int:
    """Memory that one of them is counted with."""
    return estimate_bytes(str(tiny), settings)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of models in the order in which they were really loaded."""
    names: list[str] = []
    real = llamacpp.open_backend

    def counted(target: str, name: str, settings: Settings) -> LlamaCppBackend:
        names.append(name)
        return real(target, name, settings)

    monkeypatch.setattr(llamacpp, "open_backend", counted)
    return names


@pytest.fixture
def manager(settings: Settings, models: list[str]) -> Iterator[ModelManager]:
    with ModelManager(settings) as made:
        yield made


def names(manager: ModelManager) -> list[str]:
    return [model.name for model in manager.loaded()]


def test_no_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path) -> None:
    monkeypatch.setenv("MDSA_HOME", str(tmp_path))
    with ModelManager() as manager:
        assert manager.memory_budget_bytes > 10**8
        assert manager.generate(str(tiny), "hello?", SHORT)


def test_generate_is_the_fold_of_stream(manager: ModelManager) -> None:
    events = list(manager.stream("a", QUESTION, SHORT))
    assert isinstance(events[-1], Finished)
    text = "".join(event for event in events if isinstance(event, str))
    assert manager.generate("a", QUESTION, SHORT) == text
    assert manager.generate("a", [{"role": "user", "content": "hello?"}], SHORT) == text
    assert manager.generate("a", "hello?", SHORT) == text
    with pytest.raises(InputError):
        manager.generate("a", [{"role": "user"}], SHORT)


def test_resolve(manager: ModelManager, settings: Settings, tiny: Path) -> None:
    assert manager.resolve("a") == (settings.home / "models/a.gguf").resolve()
    assert manager.resolve(str(tiny)) == tiny.resolve()
    assert manager.resolve("llama3.2:1b") == Reference("ollama", "llama3.2:1b")
    with pytest.raises(ModelNotFoundError) as caught:
        manager.resolve("z")
    assert "a, b, c" in caught.value.hint


def test_a_model_folder_is_verified(settings: Settings, tiny: Path) -> None:
    folder = settings.home / "models/nano"
    folder.mkdir(parents=True)
    shutil.copy(tiny, folder / "nano-int8.gguf")
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    card = {"files": {"int8": {"file": "nano-int8.gguf", "sha256": digest, "size_bytes": tiny.stat().st_size}}, "default": "int8"}
    (folder / "model.yaml").write_text(yaml.safe_dump(card))
    with ModelManager(settings) as manager:
        assert manager.generate("nano", "hello?", SHORT) == manager.generate("nano-int8", "hello?", SHORT)
        assert len(manager.loaded()) == 1, "two names of one file are one model"
    raw = bytearray(tiny.read_bytes())
    raw[-1] ^= 1
    (folder / "nano-int8.gguf").write_bytes(raw)
    with ModelManager(settings) as manager, pytest.raises(ModelFileError, match="SHA-256"):
        manager.generate("nano", "hello?", SHORT)


def test_loaded_once_and_said(manager: ModelManager, opened: list[str], one_bytes: int) -> None:
    for _ in range(3):
        manager.generate("a", QUESTION, SHORT)
    assert opened == ["a"]
    assert [(model.name, model.size_bytes) for model in manager.loaded()] == [("a", one_bytes)]


def test_the_least_recently_used_goes_first(settings: Settings, models: list[str], one_bytes: int, opened: list[str]) -> None:
    with ModelManager(settings, memory_budget=2 * one_bytes) as manager:
        for name in ("a", "b", "a", "c"):
            manager.ensure_ready(name)
        assert names(manager) == ["a", "c"]
        manager.ensure_ready("b")
        assert names(manager) == ["c", "b"]
        assert opened == ["a", "b", "c", "b"]


def test_max_models(settings: Settings, models: list[str]) -> None:
    with ModelManager(settings, max_models=1) as manager:
        for name in models:
            manager.ensure_ready(name)
            assert names(manager) == [name]
    with pytest.raises(InputError):
        ModelManager(settings, max_models=0)


def test_a_model_larger_than_the_budget_is_refused_with_the_numbers(settings: Settings, models: list[str]) -> None:
    with ModelManager(settings, memory_budget="1MB") as manager:
        with pytest.raises(ModelMemoryError, match=r"a needs .* MB, the memory budget is 1\.0 MB"):
            manager.ensure_ready("a")
        assert manager.loaded() == []
    with pytest.raises(ConfigError):
        ModelManager(settings, memory_budget="lots")


def test_a_model_in_use_is_never_unloaded(settings: Settings, models: list[str], one_bytes: int) -> None:
    hasty = settings.model_copy(update={"request_timeout_s": 0.2})
    with ModelManager(hasty, memory_budget=one_bytes) as manager:
        running = manager.stream("a", QUESTION, Generation(max_tokens=40), deadline_s=20)
        first = next(running)
        with pytest.raises(BackendUnavailableError, match="in use: a") as caught:
            manager.ensure_ready("b")
        assert caught.value.retryable
        assert isinstance(first, str)
        rest = list(running)
        assert isinstance(rest[-1], Finished)
        assert rest[-1].reason != "cancelled"
        manager.ensure_ready("b")
        assert names(manager) == ["b"]


def test_room_is_waited_for(settings: Settings, models: list[str], one_bytes: int) -> None:
    with ModelManager(settings, memory_budget=one_bytes) as manager:
        running = manager.stream("a", QUESTION, Generation(max_tokens=40))
        next(running)
        waiting = threading.Thread(target=manager.ensure_ready, args=("b",))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        running.close()  # type: ignore[attr-defined]
        waiting.join(10)
        assert names(manager) == ["b"]


def test_a_handle_outlives_its_model(settings: Settings, models: list[str], one_bytes: int, opened: list[str]) -> None:
    with ModelManager(settings, memory_budget=one_bytes) as manager:
        backend = manager.ensure_ready("a")
        manager.ensure_ready("b")
        assert names(manager) == ["b"]
        assert backend.count_tokens(QUESTION) > 0
        assert isinstance(list(backend.stream(QUESTION, SHORT, deadline_s=20))[-1], Finished)
        assert (backend.name, backend.n_context_tokens) == ("a", 512)
        assert opened == ["a", "b", "a"]


def test_many_threads_one_load(manager: ModelManager, opened: list[str]) -> None:
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(manager.generate("a", QUESTION, SHORT))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert opened == ["a"]
    assert len(texts) == 8
    assert len(set(texts)) == 1


def test_threads_that_compete_for_room_all_get_it_and_the_budget_holds(settings: Settings, models: list[str], one_bytes: int) -> None:
    with ModelManager(settings, memory_budget=2 * one_bytes) as manager:
        expected = manager.generate("a", QUESTION, SHORT)
        texts: list[str] = []
        over: list[int] = []

        def work(offset: int) -> None:
            for turn in range(6):
                texts.append(manager.generate(models[(turn + offset) % 3], QUESTION, SHORT))
                if (total := sum(model.size_bytes for model in manager.loaded())) > 2 * one_bytes:
                    over.append(total)

        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert texts == [expected] * 36
        assert over == []


def test_loading_one_model_does_not_block_another(manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    manager.ensure_ready("a")
    real, started, go_on = llamacpp.open_backend, threading.Event(), threading.Event()

    def slow(target: str, name: str, settings: Settings) -> LlamaCppBackend:
        started.set()
        go_on.wait(10)
        return real(target, name, settings)

    monkeypatch.setattr(llamacpp, "open_backend", slow)
    loading = threading.Thread(target=manager.ensure_ready, args=("b",))
    loading.start()
    assert started.wait(10)
    assert manager.generate("a", QUESTION, SHORT)
    assert names(manager) == ["a"]
    go_on.set()
    loading.join(10)
    assert sorted(names(manager)) == ["a", "b"]


def test_a_failed_load_leaves_nothing_behind(manager: ModelManager, settings: Settings, tiny: Path) -> None:
    path = settings.home / "models/a.gguf"
    path.write_bytes(tiny.read_bytes()[:-100])
    for _ in range(2):
        with pytest.raises(ModelFileError, match="truncated"):
            manager.ensure_ready("a")
    assert manager.loaded() == []
    shutil.copy(tiny, path)
    manager.ensure_ready("a")


def test_close_ends_streams_and_refuses_more(manager: ModelManager) -> None:
    running = manager.stream("a", QUESTION, Generation(max_tokens=200))
    next(running)
    manager.close()
    manager.close()
    last = list(running)[-1]
    assert isinstance(last, Finished)
    assert last.reason == "cancelled"
    assert manager.loaded() == []
    with pytest.raises(BackendError, match="closed"):
        manager.generate("a", QUESTION, SHORT)


def test_ollama_through_the_manager(settings: Settings, daemon: Daemon) -> None:
    with ModelManager(settings.model_copy(update={"ollama_base_url": daemon.url})) as manager:
        assert manager.generate("llama3.2:1b", QUESTION) == "Grüße, world"
        assert manager.ensure_ready("ollama://llama3.2:1b").n_context_tokens == 2048
        assert [(model.name, model.size_bytes) for model in manager.loaded()] == [("llama3.2:1b", 0)]
