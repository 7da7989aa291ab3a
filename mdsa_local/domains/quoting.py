"""Answers that can only be quotations: a grammar of the sentences in the passages, for models whose skill is to point at the right one.

A model of a few million parameters finds the sentence that answers long before it can copy every name and number in it. With this grammar
llama.cpp lets it write nothing but whole sentences of the passages, each with its ``[n]``: it still chooses, token by token, among
the few that the encoder finds nearest to the question.
A model asks for it by ``decoding: quotes`` in its ``model.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mdsa_local.sentences import spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEP = re.compile(r"\d{1,2}[.)]\s")
MOST_QUOTES = 2
MOST_CHOICES = 3


def shortlist(question: str, passages: Sequence[str], embed: Callable[[list[str]], NDArray[np.float32]], most: int = MOST_CHOICES) -> list[list[str]]:
    """For each passage the units among the ``most`` of all passages that are nearest to the question by ``embed`` (unit vectors)."""
    found = [(index, unit) for index, text in enumerate(passages) for unit in dict.fromkeys(units(text))]
    if not found:
        return [[] for _ in passages]
    vectors = embed([question, *(unit for _, unit in found)])
    nearest = set((-(vectors[1:] @ vectors[0])).argsort(kind="stable")[:most].tolist())
    return [[unit for at, (owner, unit) in enumerate(found) if owner == index and at in nearest] for index in range(len(passages))]


def grammar(choices: Sequence[Sequence[str]]) -> str:
    """GBNF for one or two quotations: ``choices`` holds what may be quoted of each passage, numbered from 1. Empty when that is nothing."""
    more = ' ( " " quote )?' * (MOST_QUOTES - 1)
    rules = [f"root ::= quote{more}"]
    named = []
    for number, found in enumerate(choices, 1):
        if found:
            rules.append(f"p{number} ::= ( {' | '.join(map(literal, found))} ) {literal(f' [{number}]')}")
            named.append(f"p{number}")
    if not named:
        return ""
    return "\n".join([*rules, f"quote ::= {' | '.join(named)}"])


def units(text: str) -> list[str]:
    """What can be quoted of a passage: its sentences, and each list of steps as a whole; substrings of ``text``."""
    found: list[tuple[int, int]] = []
    steps = False
    for start, end in spans(text):
        is_step = bool(STEP.match(text, start))
        # A sentence after a step on its line belongs to the step.
        same_line = bool(found) and steps and "\n" not in text[found[-1][1] : start]
        if found and steps and (is_step or same_line):
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
            steps = is_step
    return [text[start:end] for start, end in found]


def literal(text: str) -> str:
    """``text`` as a GBNF string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f'"{escaped}"'
