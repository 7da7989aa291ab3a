"""Answers that can only be quotations: a grammar of the sentences in the passages, for models whose skill is to point at the right one.

A model of a few million parameters finds the sentence that answers long before it can copy every name and number in it. With this grammar
llama.cpp lets it write nothing but whole sentences of the passages, each with its ``[n]``, or the refusal: it still chooses, token by token.
A model asks for it by ``decoding: quotes`` in its ``model.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.sentences import spans

STEP = re.compile(r"\d{1,2}[.)]\s")
MOST_QUOTES = 2


def grammar(passages: Sequence[str]) -> str:
    """GBNF for one or two quotations from ``passages``, numbered from 1 in their order, or the refusal."""
    more = ' ( " " quote )?' * (MOST_QUOTES - 1)
    rules = [f"root ::= quote{more} | {literal(NOT_FOUND)}"]
    named = []
    for number, text in enumerate(passages, 1):
        if found := dict.fromkeys(units(text)):
            rules.append(f"p{number} ::= ( {' | '.join(map(literal, found))} ) {literal(f' [{number}]')}")
            named.append(f"p{number}")
    if not named:
        return f"root ::= {literal(NOT_FOUND)}"
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
