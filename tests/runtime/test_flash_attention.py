"""The setting ``flash_attention``: the same answers but for rounding, nobody waits for a seat, states of one kind are not read by the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.llamacpp import LlamaCppBackend, estimate_bytes, open_backend
from mdsa_local.runtime.stress import departs, requests, told
from mdsa_local.settings import Settings

from .test_hybrid import Made, granitehybrid, lfm2, qwen35, write


def flash(path: Path, states: Path | None = None) -> LlamaCppBackend:
    return LlamaCppBackend(path, "long", threads=1, states=states, states_bytes=10**8, flash_attention=True)


def test_the_setting_reaches_the_engine(long: Path, settings: Settings) -> None:
    for wanted in (False, True):
        backend = open_backend(str(long), "long", settings.model_copy(update={"flash_attention": wanted}))
        assert backend._engine.options.flash_attention is wanted
        backend.close()


def test_answers_part_at_most_by_rounding(long: Path) -> None:
    answers = []
    for wanted in (False, True):
        backend = LlamaCppBackend(long, "long", threads=1, flash_attention=wanted)
        answers.append([told(backend, messages, 16) for messages in requests(8, seed=5)])
        backend.close()
    assert max(departs(one, other) for one, other in zip(*answers, strict=True)) < 0.05


def test_long_prompts_begin_at_once(long: Path) -> None:
    backend = flash(long)
    seen = list[int]()

    def ask(number: int) -> None:
        stream = backend.stream([Message("user", f"{number}" + "z" * 1500)], Generation(max_tokens=24), deadline_s=60)
        seen.extend(backend.stats().running for _ in stream)

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    backend.close()
    assert max(seen) == 4


def test_a_state_made_without_is_not_read(long: Path, tmp_path: Path) -> None:
    asked = [Message("system", "Keep to the rules of the house. " * 6), Message("user", "hi")]
    read = []
    for backend in (LlamaCppBackend(long, "long", threads=1, states=tmp_path, states_bytes=10**8), flash(long, tmp_path), flash(long, tmp_path)):
        list(backend.stream(asked, Generation(max_tokens=2), deadline_s=60))
        read.append(backend.stats().reused_tokens)
        backend.close()
    assert read[:2] == [0, 0]
    assert read[2] > 0


def test_no_attention_is_written_down_and_so_not_counted(long: Path, settings: Settings) -> None:
    with_scores, without = (estimate_bytes(str(long), settings.model_copy(update={"flash_attention": wanted})) for wanted in (False, True))
    assert with_scores - without > 5 * 2**20


@pytest.mark.parametrize(("make", "architecture"), [(qwen35, "qwen35"), (lfm2, "lfm2"), (granitehybrid, "granitehybrid")])
def test_a_model_that_keeps_states_answers_with_it(tmp_path: Path, make: Callable[[], Made], architecture: str) -> None:
    backend = flash(write(tmp_path / "hybrid.gguf", make(), architecture))
    assert len(told(backend, requests(1)[0], 8)) == 8
    backend.close()
