"""ModelManager on real GGUF files: names, budget, eviction, concurrency."""

from __future__ import annotations

import _thread
import gc
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mdsa_local.domains.config import DomainConfig, Generation
from mdsa_local.domains.executor import DomainExecutor
from mdsa_local.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    ConfigError,
    InputError,
    ModelError,
    ModelFileError,
    ModelMemoryError,
    ModelNotFoundError,
)
from mdsa_local.runtime import llamacpp, native
from mdsa_local.runtime.answering import Stream
from mdsa_local.runtime.backend import Finished, Message, Reference
from mdsa_local.runtime.llamacpp import LlamaCppBackend, estimate_bytes
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.runtime.shelf import add, remove
from mdsa_local.runtime.synthetic import SHAPES, write_random
from mdsa_local.settings import Settings
from mdsa_local.stoppable import Leash

from .gguf_writer import VOCABULARY
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


def test_messages_and_biases_that_are_none_are_refused(manager: ModelManager) -> None:
    with pytest.raises(InputError, match="no messages"):
        manager.generate("a", [], SHORT)
    for messages in ([{"role": "user", "content": None}], [Message("user", 5)]):  # type: ignore[arg-type]
        with pytest.raises(InputError, match="the content of a message cannot be"):
            manager.generate("a", messages, SHORT)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'foo' is no role") as caught:
        manager.generate("a", [{"role": "foo", "content": "hello?"}], SHORT)
    assert "system, user, assistant, tool" in caught.value.hint
    with pytest.raises(InputError, match="no token 1000000") as caught:
        manager.generate("a", QUESTION, Generation(max_tokens=2, logit_bias=((10**6, 5.0),)))
    assert caught.value.hint == f"The model's tokens are 0 to {len(VOCABULARY) - 1}."
    assert manager.generate("a", QUESTION, SHORT), "the engine goes on"


@pytest.mark.parametrize("seconds", [float("inf"), 1e300, float("nan"), 0, -1.0, "5", True])
def test_a_deadline_that_cannot_be_waited_for_is_refused(manager: ModelManager, seconds: float) -> None:
    with pytest.raises(InputError, match="deadline_s is") as caught:
        manager.generate("a", QUESTION, SHORT, deadline_s=seconds)
    assert "None for request_timeout_s" in caught.value.hint


def test_a_backend_takes_a_deadline_without_end(tiny: Path) -> None:
    backend = LlamaCppBackend(tiny, "tiny", threads=1)
    assert isinstance(list(backend.stream(QUESTION, SHORT, deadline_s=float("inf")))[-1], Finished)
    backend.close()


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


def test_a_file_that_was_changed_since_it_was_loaded_is_verified_again(settings: Settings, tiny: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny, tmp_path / "mine.gguf"))
    add(path, "mine", settings)
    with ModelManager(settings) as manager:
        assert manager.generate("mine", "hello?", SHORT)
        assert manager.unload("mine")
        raw = bytearray(tiny.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        for ref in ("mine", "mine-f32"):
            with pytest.raises(ModelFileError, match="SHA-256"):
                manager.generate(ref, "hello?", SHORT)
        add(path, "mine", settings)
        assert manager.generate("mine", "hello?", SHORT), "the remedy that the error names works"


def test_a_file_that_was_moved_is_found_where_it_was_added_again(settings: Settings, tiny: Path, tmp_path: Path) -> None:
    path, moved = Path(shutil.copy(tiny, tmp_path / "mine.gguf")), tmp_path / "moved.gguf"
    add(path, "mine", settings)
    with ModelManager(settings) as manager:
        manager.pin("mine")
        model = manager.ensure_ready("mine")
        assert manager.unload("mine")
        path.rename(moved)
        with pytest.raises(ModelNotFoundError, match=r"mine\.gguf"):
            manager.generate("mine", "hello?", SHORT)
        add(moved, "mine", settings)
        assert manager.generate("mine", "hello?", SHORT)
        assert [(status.name, status.state, status.pinned) for status in manager.status()] == [("mine", "ready", True)]
        assert model.count_tokens(QUESTION), "also for who got it before"
        assert manager.unload("mine")
        remove("mine", settings)
        moved.unlink()
        with pytest.raises(ModelNotFoundError, match="unknown model 'mine'"):
            manager.generate("mine", "hello?", SHORT)


def test_loaded_once_and_said(manager: ModelManager, opened: list[str], one_bytes: int) -> None:
    for _ in range(3):
        manager.generate("a", QUESTION, SHORT)
    assert opened == ["a"]
    (loaded,) = manager.loaded()
    assert loaded.name == "a"
    assert 0.85 * one_bytes < loaded.size_bytes < 1.15 * one_bytes, "what was measured, near what was estimated"


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


def test_as_many_pinned_as_there_may_be_is_told_at_once(settings: Settings, models: list[str]) -> None:
    with ModelManager(settings, max_models=1) as manager:
        manager.pin("a")
        manager.preload(["a"])
        began = time.monotonic()
        with pytest.raises(ModelError, match=r"max_models is 1, pinned: a") as caught:
            manager.preload(["b"])
        assert time.monotonic() - began < 5, "waiting cannot help"
        assert not caught.value.retryable
        manager.preload(["a"])
        manager.pin("a", False)
        manager.preload(["b"])
        assert names(manager) == ["b"]


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
        running.close()
        waiting.join(10)
        assert names(manager) == ["b"]


def test_a_model_larger_than_its_estimate_waits_for_room_too(
    settings: Settings, models: list[str], one_bytes: int, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured counts from the first load on: it is not loaded again and again for as long as there is no room."""
    monkeypatch.setattr(LlamaCppBackend, "memory_bytes", property(lambda backend: one_bytes * (2 if backend.name == "b" else 1)))
    with ModelManager(settings, memory_budget=int(2.5 * one_bytes)) as manager:
        running = manager.stream("a", QUESTION, Generation(max_tokens=40))
        next(running)
        threading.Timer(0.5, running.close).start()
        manager.ensure_ready("b")
        assert names(manager) == ["b"]
        assert opened == ["a", "b", "b"]
    hasty = settings.model_copy(update={"request_timeout_s": 0.3})
    with ModelManager(hasty, memory_budget=int(2.5 * one_bytes)) as manager:
        running = manager.stream("a", QUESTION, Generation(max_tokens=40))
        next(running)
        with pytest.raises(BackendUnavailableError, match="no room"):
            manager.ensure_ready("b")
        running.close()


def test_a_handle_outlives_its_model(settings: Settings, models: list[str], one_bytes: int, opened: list[str]) -> None:
    with ModelManager(settings, memory_budget=one_bytes) as manager:
        backend = manager.ensure_ready("a")
        manager.ensure_ready("b")
        assert names(manager) == ["b"]
        assert backend.count_tokens(QUESTION) > 0
        assert isinstance(list(backend.stream(QUESTION, SHORT, deadline_s=20))[-1], Finished)
        assert (backend.name, backend.n_context_tokens) == ("a", 512)
        assert opened == ["a", "b", "a"]


def test_a_handles_deadline_is_one_for_all_its_waits(settings: Settings, models: list[str], one_bytes: int) -> None:
    with ModelManager(settings, memory_budget=one_bytes) as manager:
        began = time.monotonic()
        backend = manager.ensure_ready("a", deadline=began + 0.6)
        with manager.lease(manager._names.target("b")):
            for _ in range(2):
                with pytest.raises(BackendUnavailableError, match="no room"):
                    backend.count_tokens(QUESTION)
                assert time.monotonic() < began + 1.5


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


def test_a_text_has_no_thoughts_that_were_withdrawn(manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "stream", lambda *_, **__: iter(["hm</think>\n\n", "Hi", Finished("stop", 1, 2, thinking="hm", withdrawn=12)]))
    assert manager.generate("a", QUESTION) == "Hi"


def test_half_a_text_is_none(manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "stream", lambda *_, **__: iter(["half", Finished("cancelled", 1, 1)]))
    with pytest.raises(BackendUnavailableError, match="the model a was stopped before its answer was complete"):
        manager.generate("a", QUESTION)
    monkeypatch.undo()
    stream = manager.stream

    def closed_in_the_middle(*given: Any, **named: Any) -> Iterator[str | Finished]:
        running = stream(*given, **named)
        yield next(running)
        manager.close()
        yield from running

    monkeypatch.setattr(manager, "stream", closed_in_the_middle)
    with pytest.raises(ClosedError, match="the model manager was closed"):
        manager.generate("a", QUESTION, Generation(max_tokens=200))


def test_ollama_through_the_manager(settings: Settings, daemon: Daemon) -> None:
    with ModelManager(settings.model_copy(update={"ollama_base_url": daemon.url})) as manager:
        assert manager.generate("llama3.2:1b", QUESTION) == "Grüße, world"
        assert manager.ensure_ready("ollama://llama3.2:1b").n_context_tokens == 2048
        assert [(model.name, model.size_bytes) for model in manager.loaded()] == [("llama3.2:1b", 0)]


def test_states(manager: ModelManager, settings: Settings, tiny: Path) -> None:
    def states() -> dict[str, str]:
        return {status.name: status.state for status in manager.status()}

    manager.ensure_ready("a")
    assert states() == {"a": "ready"}
    assert manager.unload("a")
    assert states() == {"a": "absent"}
    assert not manager.unload("a")
    (settings.home / "models/b.gguf").write_bytes(tiny.read_bytes()[:-100])
    with pytest.raises(ModelFileError):
        manager.ensure_ready("b")
    assert states() == {"a": "absent", "b": "failed"}
    (status,) = [status for status in manager.status() if status.name == "b"]
    assert "truncated" in status.error
    manager.ensure_ready("a")
    assert [(status.name, status.loads) for status in manager.status()] == [("a", 2), ("b", 0)]


def test_no_state_is_skipped(manager: ModelManager) -> None:
    manager.ensure_ready("a")
    with manager._room.changed, pytest.raises(AssertionError, match="from ready to loading"):
        manager._room.move(next(iter(manager._room.slots.values())), "loading")


def test_a_model_in_use_is_not_unloaded_by_hand(manager: ModelManager) -> None:
    running = manager.stream("a", QUESTION, Generation(max_tokens=40))
    next(running)
    assert not manager.unload("a")
    running.close()
    assert manager.unload("a")


def test_pinned_models_stay_and_the_refusal_has_the_numbers(settings: Settings, models: list[str], one_bytes: int) -> None:
    with ModelManager(settings, memory_budget=int(1.9 * one_bytes)) as manager:
        manager.pin("a")
        manager.preload(["a"])
        with pytest.raises(ModelMemoryError, match=r"b needs .* MB, the memory budget is .* MB, .* MB of it pinned"):
            manager.ensure_ready("b")
        assert names(manager) == ["a"]
        manager.pin("a", False)
        manager.ensure_ready("b")
        assert names(manager) == ["b"]


def test_keep_alive(settings: Settings, models: list[str]) -> None:
    with ModelManager(settings.changed(keep_alive_s=0.3)) as manager:
        manager.pin("b")
        manager.preload(["a", "b"])
        running = manager.stream("c", QUESTION, Generation(max_tokens=4))
        next(running)
        time.sleep(0.8)
        assert sorted(names(manager)) == ["b", "c"], "neither what is pinned nor what is in use"
        running.close()
        time.sleep(0.8)
        assert names(manager) == ["b"]


@pytest.mark.parametrize("keep_s", [-1, 1e12])
def test_models_are_kept_longer_than_a_timer_can_wait(settings: Settings, models: list[str], keep_s: float) -> None:
    with ModelManager(settings.changed(keep_alive_s=keep_s)) as manager:
        manager.preload(["a"])
        time.sleep(0.1)
        assert names(manager) == ["a"]


def test_get_or_load(manager: ModelManager) -> None:
    model, tokenizer = manager.get_or_load("a")
    assert model.n_context_tokens == 512
    tokens = tokenizer.encode("hello, añd")
    assert tokenizer.decode(tokens) == tokenizer.decode([*np.array(tokens)]) == "hello, añd"
    size = len(VOCABULARY)
    wrong: Any
    for wrong in ([size], [-1], [2**40], [*tokens, size], ["a"], [None], [1.5], "1", 5, None):
        with pytest.raises(InputError, match="token"):
            tokenizer.decode(wrong)
    assert tokenizer.decode([]) == "" and tokenizer.decode([size - 1]) is not None
    for wrong in (5, None, b"a"):
        with pytest.raises(InputError, match="encode"):
            tokenizer.encode(wrong)
    assert manager.get_or_load(config=DomainConfig("x", "b"))[0].name == "b"
    assert names(manager) == ["a", "b"]


def test_a_stream_is_closed_from_another_thread(manager: ModelManager) -> None:
    endless = Generation(max_tokens=400, logit_bias=((VOCABULARY.index("<|end|>"), -1e9),))
    running = manager.stream("a", QUESTION, endless)
    next(running)
    threading.Timer(0.02, running.close).start()
    rest = list(running)
    assert len(rest) < 400
    assert manager.unload("a"), "it holds its model no longer"


@pytest.fixture
def full(settings: Settings, models: list[str]) -> Iterator[ModelManager]:
    """Room for one model, and that is in use."""
    with ModelManager(settings, max_models=1) as made:
        running = made.stream("a", QUESTION, SHORT)
        next(running)
        yield made
        running.close()


def test_a_deadline_holds_while_room_is_waited_for(full: ModelManager) -> None:
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError, match="no room for b"):
        full.generate("b", QUESTION, SHORT, deadline_s=0.4)
    assert time.monotonic() - began < 3


def test_who_closes_a_stream_waits_for_room_no_longer_and_nothing_is_loaded_for_it(full: ModelManager) -> None:
    waiting = full.stream("b", QUESTION, SHORT)
    said: list[object] = []
    reader = threading.Thread(target=lambda: said.extend(waiting))
    reader.start()
    time.sleep(0.2)
    waiting.close()
    reader.join(3)
    assert not reader.is_alive()
    assert said == []
    assert names(full) == ["a"]
    assert [(status.name, status.loads) for status in full.status()] == [("a", 1), ("b", 0)]


def test_whoever_has_the_leash_stops_a_domain_that_waits_for_room(full: ModelManager) -> None:
    leash, domain = Leash(), DomainConfig(name="x", model="b")
    said: list[object] = []
    reader = threading.Thread(
        target=lambda: said.extend(DomainExecutor(full).stream(domain, "hello?", [], lambda _: np.zeros((0, 1), np.float32), leash))
    )
    reader.start()
    time.sleep(0.2)
    leash.stop()
    reader.join(3)
    assert not reader.is_alive()
    assert said == []


def test_loading_is_part_of_the_deadline(manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    real, given = llamacpp.open_backend, list[float]()

    def slow(target: str, name: str, settings: Settings) -> LlamaCppBackend:
        time.sleep(0.5)
        backend = real(target, name, settings)
        stream = backend.stream

        def noted(messages: list[Message], generation: Generation, *, deadline_s: float) -> Stream:
            given.append(deadline_s)
            return stream(messages, generation, deadline_s=deadline_s)

        monkeypatch.setattr(backend, "stream", noted)
        return backend

    monkeypatch.setattr(llamacpp, "open_backend", slow)
    with pytest.raises(BackendTimeoutError, match="a was loaded only after the deadline"):
        manager.generate("a", QUESTION, SHORT, deadline_s=0.2)
    assert manager.generate("a", QUESTION, SHORT, deadline_s=20)
    assert manager.generate("b", QUESTION, SHORT, deadline_s=20)
    assert 19.5 < given[0] <= 20
    assert given[1] <= 19.5, "what the load has left of it"
    assert [status.uses for status in manager.status()] == [0, 0]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_two_paths_to_one_file_are_one_model(manager: ModelManager, settings: Settings, opened: list[str]) -> None:
    (settings.home / "models/link.gguf").symlink_to(settings.home / "models/a.gguf")
    manager.preload(["a", "link", str(settings.home / "models/a.gguf")])
    assert opened == ["a"]


MEASURE = """
import sys, psutil
from pathlib import Path
from mdsa_local.domains.config import DomainConfig, Generation
from mdsa_local.domains.executor import DomainExecutor
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.llamacpp import estimate_bytes, open_backend
from mdsa_local.runtime.synthetic import SHAPES, write_random
from mdsa_local.settings import Settings
small, large, kind = sys.argv[1:]
settings = Settings.load({}, home=Path("/nonexistent"), threads=1, parallel=2, context_tokens=1024, flash_attention=kind == "flash")
def use(path):
    backend = open_backend(path, "x", settings)
    # Two prompts that fill most of the memory set aside: what is not used yet, the system does not count.
    for letter in "ab":
        room = backend.n_context_tokens - 24
        list(backend.stream([Message("user", letter + " z" * (room // 2))], Generation(max_tokens=4), deadline_s=100))
    return backend
use(small).close()
before = psutil.Process().memory_info().rss
backend = use(large)
print(psutil.Process().memory_info().rss - before, estimate_bytes(large, settings), backend.memory_bytes)
backend.close()
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.parametrize(("quantization", "attention"), [("Q8_0", "plain"), ("Q4_K", "plain"), ("Q4_0", "flash")])
def test_the_estimate_is_near_what_the_system_says(tmp_path: Path, tiny: Path, quantization: str, attention: str) -> None:
    shape = replace(SHAPES["1b"], layers=4, width=1024, heads=16, kv_heads=4, inner=4096, vocabulary=32000)
    path = write_random(tmp_path / "large.gguf", shape, quantization)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tiny), str(path), attention], capture_output=True, text=True, timeout=120, check=True)
    grown, estimated, measured, left = map(int, done.stdout.split())
    assert 0.85 * grown < estimated < 1.15 * grown
    assert 0.85 * grown < measured < 1.15 * grown
    assert left < 0.1 * grown, "unloading gives the memory back"


def test_a_model_is_loaded_ahead_once_for_who_asks_in_a_moment(manager: ModelManager, opened: list[str], tiny: Path) -> None:
    manager.load_ahead(str(tiny))
    manager.load_ahead(str(tiny))
    assert manager.generate(str(tiny), "hello", Generation(max_tokens=2))
    manager.load_ahead(str(tiny))
    assert len(opened) == 1


def test_another_file_at_the_path_is_counted_as_it_is(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_random(tmp_path / "x.gguf", SHAPES["tiny"])
    small, shape = estimate_bytes(str(path), settings), replace(SHAPES["tiny"], layers=12, width=512, inner=1024)
    large = write_random(tmp_path / "large.gguf", shape)
    budget = (small + estimate_bytes(str(large), settings)) // 2
    loaded = list[int]()
    real = llamacpp.open_backend

    def opened(target: str, name: str, settings: Settings) -> LlamaCppBackend:
        backend = real(target, name, settings)
        loaded.append(backend.memory_bytes)
        return backend

    monkeypatch.setattr(llamacpp, "open_backend", opened)
    with ModelManager(settings, memory_budget=budget) as manager:
        manager.ensure_ready(str(path))
        manager.unload(str(path))
        kept = path.read_bytes()
        large.replace(path)
        with pytest.raises(ModelMemoryError, match="x needs"):
            manager.ensure_ready(str(path))
        path.write_bytes(kept)
        manager.ensure_ready(str(path))
    assert len(loaded) == 2
    assert max(loaded) < budget, "what has no room was not loaded"


def test_who_asks_meets_the_error_of_a_load_ahead(manager: ModelManager, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(60))
    for ref in (str(tmp_path / "broken.gguf"), "no-such-model", "ollama://never:asked"):
        manager.load_ahead(ref)
    with pytest.raises(ModelFileError, match="broken"):
        manager.ensure_ready(str(tmp_path / "broken.gguf"))
    assert not any(status.name == "never:asked" for status in manager.status())


def test_a_load_ahead_that_nobody_wants_any_more_unloads_nothing(settings: Settings, models: list[str], opened: list[str]) -> None:
    def loading() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("load-")]

    unwanted = threading.Event()
    with ModelManager(settings, max_models=1) as manager:
        with manager.lease(manager._names.target("a")):
            for _ in range(5):
                manager.load_ahead("b", unwanted.is_set)
            assert loading() == ["load-b"], "one is enough"
            unwanted.set()
            until = time.monotonic() + 10
            while loading() and time.monotonic() < until:
                time.sleep(0.02)
            assert not loading()
        assert (opened, names(manager)) == (["a"], ["a"])
        manager.load_ahead("b")
        manager.ensure_ready("b")
        assert opened == ["a", "b"]


def test_closing_leaves_no_load_behind(settings: Settings, models: list[str], one_bytes: int) -> None:
    manager = ModelManager(settings, memory_budget=int(1.5 * one_bytes))
    manager.ensure_ready(models[0])
    with manager.lease(manager._names.target(models[0])):
        manager.load_ahead(models[1])
        closing = threading.Thread(target=manager.close)
        closing.start()
        closing.join(20)
        assert not closing.is_alive()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load-")]


class Gate:
    """Holds up whoever comes to it, and presses Ctrl-C then."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()
        threading.Thread(target=self._interrupt, daemon=True).start()

    def _interrupt(self) -> None:
        if self._reached.wait(10):
            _thread.interrupt_main()

    def wait(self) -> None:
        self._reached.set()
        assert self._open.wait(10)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def closing(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate, real = Gate(), LlamaCppBackend.close

    def slow(backend: LlamaCppBackend) -> None:
        gate.wait()
        real(backend)

    monkeypatch.setattr(LlamaCppBackend, "close", slow)
    return gate


def test_ctrl_c_while_room_is_made_leaves_no_model_half_unloaded(
    settings: Settings, models: list[str], one_bytes: int, closing: Gate, opened: list[str]
) -> None:
    with ModelManager(settings, memory_budget=int(2.5 * one_bytes)) as manager:
        manager.preload(["a", "b"])
        weights = [slot.backend.weights for slot in manager._room.slots.values() if isinstance(slot.backend, LlamaCppBackend)]
        manager.memory_budget_bytes = int(1.2 * one_bytes)
        with pytest.raises(KeyboardInterrupt):
            manager.ensure_ready("c")
        assert [(status.name, status.state) for status in manager.status()] == [("a", "unloading"), ("b", "unloading"), ("c", "loading")]
        closing.open()
        manager.ensure_ready("c")
        assert [(status.state, status.uses) for status in manager.status()] == [("absent", 0), ("absent", 0), ("ready", 0)]
        assert [bool(model.handle) for model in weights] == [False, False]
        assert opened == ["a", "b", "c"], "nothing was loaded for nobody"


@pytest.mark.parametrize("end", ["unload", "close"])
def test_ctrl_c_while_a_model_is_unloaded_ends_the_wait_alone(settings: Settings, models: list[str], closing: Gate, end: str) -> None:
    with ModelManager(settings) as manager:
        manager.preload("a")
        with pytest.raises(KeyboardInterrupt):
            manager.close() if end == "close" else manager.unload("a")
        assert [status.state for status in manager.status()] == ["unloading"]
        closing.open()
        manager.close()
        assert [status.state for status in manager.status()] == ["absent"]


def test_ctrl_c_during_a_load_is_heard_and_the_model_is_held_by_nobody(
    manager: ModelManager, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = Gate(), llamacpp.open_backend

    def slow(target: str, name: str, settings: Settings) -> LlamaCppBackend:
        gate.wait()
        return real(target, name, settings)

    monkeypatch.setattr(llamacpp, "open_backend", slow)
    with pytest.raises(KeyboardInterrupt):
        manager.generate("a", QUESTION, SHORT)
    assert [(status.state, status.uses) for status in manager.status()] == [("loading", 1)]
    gate.open()
    assert manager.generate("a", QUESTION, SHORT)
    assert opened == ["a"], "the load that had begun went on"
    assert [(status.state, status.uses) for status in manager.status()] == [("ready", 0)]


def test_what_a_load_meets_is_raised_as_it_is_and_kept_by_nobody(manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    class OddError(Exception):
        pass

    def odd(target: str, name: str, settings: Settings) -> LlamaCppBackend:
        raise OddError

    monkeypatch.setattr(llamacpp, "open_backend", odd)
    gc.disable()
    try:
        with pytest.raises(OddError) as caught:
            manager.ensure_ready("a")
        assert caught.traceback[-1].name == "odd"
        kept = weakref.ref(caught.value)
        del caught
        assert kept() is None
    finally:
        gc.enable()
    assert [(status.state, status.uses) for status in manager.status()] == [("failed", 0)]


def test_one_that_cannot_be_closed_keeps_no_other(settings: Settings, models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = LlamaCppBackend.close

    def close(backend: LlamaCppBackend) -> None:
        real(backend)
        if backend.name == "a":
            raise RuntimeError("out of order")

    monkeypatch.setattr(LlamaCppBackend, "close", close)
    with ModelManager(settings) as manager:
        manager.preload(["a", "b"])
        with pytest.raises(RuntimeError, match="out of order"):
            manager.close()
        assert [status.state for status in manager.status()] == ["absent", "absent"]


def test_a_program_that_can_begin_no_thread_unloads_all_the_same(manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    manager.preload(["a", "b"])

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert manager.unload("a")
    manager.close()
    assert [status.state for status in manager.status()] == ["absent", "absent"]


def test_an_engine_that_dies_leaves_ready_and_is_loaded_again(manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    said = manager.generate("a", QUESTION, SHORT)
    real, dying = native.Context.decode, threading.Event()

    def decode(context: native.Context) -> int:
        if dying.is_set():
            raise RuntimeError("out of order")
        return real(context)

    monkeypatch.setattr(native.Context, "decode", decode)
    running = manager.stream("a", QUESTION, Generation(max_tokens=400, logit_bias=((VOCABULARY.index("<|end|>"), -1e9),)))
    next(running)
    dying.set()
    with pytest.raises(BackendError, match="the engine failed: RuntimeError: out of order"):
        list(running)
    until = time.monotonic() + 10
    while manager.status()[0].state != "failed" and time.monotonic() < until:
        time.sleep(0.01)
    (status,) = manager.status()
    assert (status.state, status.uses, status.loads) == ("failed", 0, 1)
    assert "out of order" in status.error
    assert manager.loaded() == []
    dying.clear()
    assert manager.generate("a", QUESTION, SHORT) == said
    (status,) = manager.status()
    assert (status.state, status.uses, status.loads, status.error) == ("ready", 0, 2, "")
    running.close()
    assert manager.status()[0].uses == 0, "who held the one that failed does not let go of the new one"


def test_a_failure_before_anybody_asks_to_be_told_is_told_at_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LlamaCppBackend(tiny, "tiny", threads=1)
    monkeypatch.setattr(native.Context, "decode", lambda _: 1 // 0)
    with pytest.raises(BackendError, match="ZeroDivisionError"):
        list(backend.stream(QUESTION, SHORT, deadline_s=30))
    told: list[BackendError] = []
    backend.when_failed(told.append)
    assert len(told) == 1
    with pytest.raises(BackendError, match="ZeroDivisionError"):
        list(backend.stream(QUESTION, SHORT, deadline_s=30))
    backend.close()


FORKED = """
import gc, os, sys, time
from mdsa_local import BackendError, Generation, ModelManager
from mdsa_local.runtime.backend import Message
from mdsa_local.settings import Settings
from mdsa_local.stoppable import Leash

path, asked, short = sys.argv[1], [Message("user", "hello?")], Generation(max_tokens=4)
manager = ModelManager(Settings.load(request_timeout_s=20))
idle = ModelManager()
backend = manager.ensure_ready(path)
slot = next(iter(manager._room.slots.values())).backend
said = manager.generate(path, asked, short)
left_open = manager.stream(path, asked, short)
next(left_open)
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    assert manager.generate(path, asked, short) == said
    manager.close()
    print("fine")
else:
    code = 1
    try:
        began = time.monotonic()
        works = [
            lambda: manager.generate(path, asked, short),
            lambda: list(backend.stream(asked, short, deadline_s=20)),
            lambda: list(slot.stream(asked, short, deadline_s=20)),
            lambda: manager.ensure_ready(path),
            lambda: manager.unload(path),
        ]
        for number, work in enumerate(works):
            try:
                work()
            except BackendError as error:
                assert "was forked after" in str(error) and "a new ModelManager" in error.hint, error
            else:
                raise AssertionError(number)
        manager.load_ahead(path)
        left_open.close()
        del left_open
        gc.collect()
        slot.close()
        manager.close()
        assert time.monotonic() - began < 5
        # Where nothing was loaded before, and where it is made anew, all goes as ever.
        assert idle.generate(path, asked, short) == said
        with ModelManager() as new:
            assert new.generate(path, asked, short) == said
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code) if code == 0 else None
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_process_forked_after_a_model_was_loaded_is_told_so_at_once(tiny: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, str(tiny)], capture_output=True, text=True, timeout=100)
    assert done.stdout == "fine\n", done.stderr


def test_arguments_of_the_wrong_kind_are_told(tiny: Path, settings: Settings) -> None:
    with ModelManager(settings) as manager:
        manager.preload(str(tiny))
        assert [model.name for model in manager.loaded()] == [tiny.stem]
        for make in (manager.generate, manager.stream):
            with pytest.raises(InputError, match="generation cannot be dict") as caught:
                make(str(tiny), "hello?", {"max_tokens": 3})  # type: ignore[arg-type]
            assert "Generation(max_tokens=" in caught.value.hint
        for wrong in (5, None, tiny):
            with pytest.raises(InputError, match="a model reference cannot be"):
                manager.ensure_ready(wrong)  # type: ignore[arg-type]
            for given in (wrong, [wrong]):
                with pytest.raises(InputError, match="a model reference cannot be"):
                    manager.preload(given)  # type: ignore[arg-type]
    most: Any
    for most in ("2", 2.5, 0, True):
        with pytest.raises(InputError, match="max_models is "):
            ModelManager(settings, max_models=most)
    with pytest.raises(ConfigError, match="settings cannot be dict"):
        ModelManager({"parallel": 2})  # type: ignore[arg-type]
