"""Who is evaluated beside whom: what pays, and that nobody waits for ever."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.gguf import read_gguf
from mdsa_local.runtime.llamacpp import LlamaCppBackend
from mdsa_local.runtime.seating import Work, joins, weights_per_cell
from mdsa_local.settings import shipped

from .gguf_writer import VOCABULARY

# 0.5B parameters.
WEIGHTS = 11_500.0
SHORT, LONG = Work(90, 42, 48), Work(520, 472, 48)
ENDLESS = Generation(max_tokens=8000, logit_bias=((VOCABULARY.index("<|end|>"), -1e9),))


def question(length: int) -> list[Message]:
    return [Message("user", "z" * length)]


def test_the_first_always_begins() -> None:
    assert joins(LONG, [], WEIGHTS)
    assert joins(LONG, [], 0.0)


@pytest.mark.parametrize("others", range(1, 8))
def test_short_prompts_are_answered_together(others: int) -> None:
    assert joins(SHORT, [SHORT] * others, WEIGHTS)


@pytest.mark.parametrize("others", range(1, 8))
def test_long_prompts_are_answered_one_after_the_other(others: int) -> None:
    assert not joins(LONG, [LONG] * others, WEIGHTS)
    assert joins(LONG, [LONG] * others, 100 * WEIGHTS), "with a larger model cells count for little"


def test_the_next_prompt_is_read_while_the_last_tokens_are_written() -> None:
    assert joins(LONG, [replace(LONG, read=0, write=8)], WEIGHTS)


def test_who_has_little_to_do_does_not_wait_for_who_has_much() -> None:
    essay = Work(3000, 0, 1500)
    assert joins(LONG, [essay], WEIGHTS)
    assert joins(SHORT, [LONG, essay], WEIGHTS)


def test_the_shipped_model_is_small_beside_its_cells() -> None:
    assert 1000 < weights_per_cell(read_gguf(shipped("models") / "nano/nano-q4_0.gguf")) < WEIGHTS


def test_long_prompts_at_once_take_no_more_batches_than_one_by_one(long: Path) -> None:
    answers: dict[bool, set[str]] = {}
    batches: dict[bool, int] = {}
    for eager in (False, True):
        backend = LlamaCppBackend(long, "long", threads=1, eager=eager)
        told: set[str] = set()

        def ask(number: int, backend: LlamaCppBackend = backend, told: set[str] = told) -> None:
            pieces = backend.stream([Message("user", f"{number}" + "z" * 1500)], Generation(max_tokens=24), deadline_s=60)
            told.add(f"{number} {''.join(piece for piece in pieces if isinstance(piece, str))}")

        callers = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
        answers[eager], batches[eager] = told, backend.stats().batches
        backend.close()
    assert len(answers[False]) == 4
    assert answers[False] == answers[True]
    assert batches[False] > batches[True], "one by one the weights are read for each token of each answer"


def test_nobody_waits_for_an_answer_without_end(long: Path) -> None:
    backend = LlamaCppBackend(long, "long", threads=1)
    endless = backend.stream(question(1000), ENDLESS, deadline_s=120)
    next(endless)
    pieces = list(backend.stream(question(1500), Generation(max_tokens=4), deadline_s=60))
    assert pieces
    assert backend.stats().running == 1, "the first goes on"
    endless.close()
    backend.close()
