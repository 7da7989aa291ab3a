"""LoRA adapters: one base in memory, several voices."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mdsa_local.domains.config import DomainConfig, Generation
from mdsa_local.errors import ModelFileError
from mdsa_local.runtime import native
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.llamacpp import LlamaCppBackend
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.runtime.synthetic import SHAPES, write_lora, write_random
from mdsa_local.settings import Settings

TINY = SHAPES["tiny"]
SYSTEM = "the rules of the house, one by one, and in no order. " * 6
QUESTION = [Message("system", SYSTEM), Message("user", "hello, and then?")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("lora")
    base = write_random(folder / "base.gguf", TINY, "Q8_0")
    return base, write_lora(folder / "one.gguf", TINY, seed=1), write_lora(folder / "two.gguf", TINY, seed=2)


@pytest.fixture
def backend(files: tuple[Path, Path, Path], tmp_path: Path) -> Iterator[LlamaCppBackend]:
    opened = LlamaCppBackend(files[0], "base", threads=1, states=tmp_path, states_bytes=10**8)
    yield opened
    opened.close()


def text(backend: LlamaCppBackend, adapter: Path | None, tokens: int = 16, system: str = SYSTEM) -> str:
    generation = Generation(max_tokens=tokens, adapter=str(adapter or ""))
    messages = [Message("system", system), *QUESTION[1:]]
    return "".join(piece for piece in backend.stream(messages, generation, deadline_s=60) if isinstance(piece, str))


def test_each_adapter_has_its_own_voice_and_none_leaks(backend: LlamaCppBackend, files: tuple[Path, Path, Path]) -> None:
    voices = [None, *files[1:]]
    alone = [text(backend, voice) for voice in voices]
    assert len(set(alone)) == 3
    for _ in range(2):
        assert [text(backend, voice) for voice in voices] == alone, "a prefix read under one adapter is no prefix under another"


def test_several_at_once(backend: LlamaCppBackend, files: tuple[Path, Path, Path]) -> None:
    voices = [None, *files[1:]] * 2
    alone = [text(backend, voice, 8) for voice in voices]
    together: dict[int, str] = {}
    threads = [threading.Thread(target=lambda at=at: together.update({at: text(backend, voices[at], 8)})) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # INT8 weights: from the second token on the shape of a batch may show.
    assert [together[at][:1] for at in range(6)] == [one[:1] for one in alone]
    assert len({together[at] for at in range(3)}) == 3


def test_switching_takes_milliseconds(backend: LlamaCppBackend, files: tuple[Path, Path, Path]) -> None:
    for voice in files[1:]:
        text(backend, voice, 1)
    backend._engine.cancel()
    context = backend._engine.context
    marks = [context.load_adapter(str(voice)) for voice in files[1:]]
    began = time.perf_counter()
    for number in range(50):
        context.use_adapter(marks[number % 2])
    assert (time.perf_counter() - began) / 50 < 0.01
    context.use_adapter(backend._engine._adapter)


def test_what_is_no_adapter_of_this_model_is_one_clear_error(backend: LlamaCppBackend, files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"absent\.gguf: there is no such adapter$") as caught:
        text(backend, tmp_path / "absent.gguf")
    assert caught.value.hint == "Check the path."
    with pytest.raises(ModelFileError, match=r"is no adapter: its general\.type is not set") as caught:
        text(backend, files[0])
    assert caught.value.hint == "Give a LoRA adapter as GGUF."
    other = write_lora(tmp_path / "other.gguf", replace(TINY, architecture="qwen2"))
    with pytest.raises(ModelFileError, match="mismatch") as caught:
        text(backend, other)
    assert caught.value.hint == "Use an adapter made for this model."
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(files[1].read_bytes()[:500])
    with pytest.raises(ModelFileError, match=r"cut\.gguf"):
        text(backend, cut)
    assert text(backend, files[1]), "the others go on"


def test_a_file_that_was_replaced_is_the_voice_of_the_next_request(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """And the states of prompts read under the one before are not taken for its own."""
    base, one, two = files
    voice, states = tmp_path / "voice.gguf", tmp_path / "states"

    def opened() -> LlamaCppBackend:
        return LlamaCppBackend(base, "base", threads=1, states=states, states_bytes=10**8)

    shutil.copy(two, voice)
    backend = opened()
    wanted = text(backend, voice)
    backend.close()
    shutil.rmtree(states)
    shutil.copy(one, voice)
    backend = opened()
    first = text(backend, voice)
    assert first != wanted
    for _ in range(3):
        for file, expected in ((two, wanted), (one, first)):
            shutil.copy(file, tmp_path / "new.gguf")
            (tmp_path / "new.gguf").replace(voice)
            assert text(backend, voice) == expected
            assert text(backend, voice) == expected, "also from a prefix that was kept"
    assert len(backend._engine.model.adapters) == 1, "those before are freed"
    taken = backend.memory_bytes
    voice.unlink()
    assert text(backend, voice) == first, "of a file that is gone what was loaded stays"
    assert text(backend, None) not in (first, wanted)
    assert backend.memory_bytes == taken
    backend.close()


def test_an_answer_under_way_keeps_its_voice(files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where nothing is rounded to eight bits the shape of a batch does not show.
    backend, voice = LlamaCppBackend(write_random(tmp_path / "base.gguf", TINY, "F32"), "base", threads=1), tmp_path / "voice.gguf"
    shutil.copy(files[1], voice)
    whole = text(backend, voice, 400)
    shutil.copy(files[2], tmp_path / "new.gguf")
    running = backend.stream(QUESTION, Generation(max_tokens=400, adapter=str(voice)), deadline_s=60)
    decode = backend._engine.context.decode

    def slowly() -> int:
        time.sleep(0.02)
        return decode()

    with monkeypatch.context() as slow:
        slow.setattr(backend._engine.context, "decode", slowly)
        said = [next(running)]
        (tmp_path / "new.gguf").replace(voice)
        other = text(backend, voice, 8)
        assert backend.stats().running == 1, "the first is not at its end"
        assert len(backend._engine.model.adapters) == 2
    said += [piece for piece in running if isinstance(piece, str)]
    assert "".join(map(str, said)) == whole
    until = time.monotonic() + 30
    while len(backend._engine.model.adapters) > 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(backend._engine.model.adapters) == 1, "nobody needs the one before any more"
    assert text(backend, voice, 8) == other != whole[: len(other)]
    backend.close()


def test_a_replacement_that_is_no_adapter_is_an_error_and_the_engine_goes_on(
    backend: LlamaCppBackend, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    voice = tmp_path / "voice.gguf"
    shutil.copy(files[1], voice)
    wanted = text(backend, voice)
    voice.write_bytes(b"half of a file")
    with pytest.raises(ModelFileError, match=r"voice\.gguf"):
        text(backend, voice)
    shutil.copy(files[1], voice)
    assert text(backend, voice) == wanted


def test_a_file_that_goes_while_it_is_looked_at_is_an_error_and_the_engine_goes_on(
    backend: LlamaCppBackend, files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(native, "fingerprint", gone)
        with pytest.raises(ModelFileError, match=r"one\.gguf: cannot be read: No such file"):
            text(backend, files[1])
    assert text(backend, files[1])


@pytest.mark.parametrize("name", ["x" * 300 + ".gguf", "nul\0.gguf", "half\ud800.gguf"])
def test_a_path_that_can_be_none_is_an_error_and_the_engine_goes_on(
    backend: LlamaCppBackend, files: tuple[Path, Path, Path], tmp_path: Path, name: str
) -> None:
    with pytest.raises(ModelFileError, match=r"cannot be read|there is no such adapter"):
        text(backend, tmp_path / name)
    assert text(backend, files[1])


def test_adapters_count_as_memory_of_their_model(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with ModelManager(Settings.load({}, home=tmp_path, threads=1)) as manager:
        manager.generate(str(files[0]), "hello", Generation(max_tokens=1))
        alone = manager.status()[0].size_bytes
        manager.generate(str(files[0]), "hello", Generation(max_tokens=1, adapter=str(files[1])))
        assert manager.status()[0].size_bytes > alone


@pytest.mark.parametrize("in_use", [False, True])
def test_an_idle_model_gives_way_to_adapters(files: tuple[Path, Path, Path], tmp_path: Path, in_use: bool) -> None:
    base, adapter, _ = files
    other, once = write_random(tmp_path / "other.gguf", TINY, "Q8_0"), Generation(max_tokens=1)

    def states() -> list[str]:
        return [status.state for status in manager.status()]

    with ModelManager(Settings.load({}, home=tmp_path, threads=1)) as manager:
        for path in (other, base):
            manager.generate(str(path), "hello", once)
        manager.memory_budget_bytes = sum(model.size_bytes for model in manager.loaded())
        if in_use:
            running = manager.stream(str(other), "hello", once)
            next(running)
        manager.generate(str(base), "hello", once.model_copy(update={"adapter": str(adapter)}))
        if in_use:
            assert states() == ["ready", "ready"]
            running.close()
        until = time.monotonic() + 10
        while "absent" not in states() and time.monotonic() < until:
            time.sleep(0.01)
        assert states() == (["ready", "absent"] if in_use else ["absent", "ready"]), "the one that was used last stays"


def test_domains_on_one_base_load_it_once(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with ModelManager(Settings.load({}, home=tmp_path, threads=1)) as manager:
        said = set()
        for adapter in ("", *map(str, files[1:])):
            domain = DomainConfig(name="x", model=str(files[0]), adapter=adapter)
            said.add(manager.generate(str(domain.model), "hello", domain.sampling.model_copy(update={"max_tokens": 8})))
        assert len(said) == 3
        assert [status.loads for status in manager.status()] == [1]
