"""Answers that can only be quotations: a grammar of the sentences in the passages, for models whose skill is to point at the right one.

A model of a few million parameters cannot read four whole passages, nor copy every name and number in them. It is shown the few sentences
that the encoder finds nearest to the question, nearest first, and with this grammar llama.cpp lets it write nothing but one to three of them,
each with the ``[n]`` of its passage: it still chooses, token by token, which comes first, or to refuse.
A model asks for it by ``decoding: quotes`` in its ``model.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.routing.splitting import pieces
from mdsa_local.sentences import spans
from mdsa_local.validation import facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEP = re.compile(r"\d{1,2}[.)]\s")
MOST_CHOICES = 5
# Log odds for one unit of cosine: the model's own opinion decides between sentences about equally near. On 153 of the shipped answer questions
# 60, 120, 240 and 300 are level (88, 89, 87, 88 right); at 60 a sentence that is farther by 0.1 may still win.
NEARNESS_ODDS = 300.0
# How much a unit counts under its title beside itself alone. Of the shipped answer questions whose fact was retrieved, the nearest unit holds it for
# 60.5 % of every second one without and 65.8 % with it, where this was chosen; for 56.3 and 60.9 % of the others.
TITLED = 0.6

# Units that share so much of the longer one's content words, with the same numbers and negations, say the same.
SAME_WORDS = 0.75
# The nearest unit to a part of a question is about it from this cosine on.
PART_NEARNESS = 0.5
# An answer quotes up to so many units: where the nearest does not hold the fact asked for, the next often does.
MOST_QUOTED = 3
# How much less near (cosine) than the nearest a unit may be to be quoted beside it, from the same passage and from another one.
SAME_PASSAGE, OTHER_PASSAGE = 0.15, 0.08


@dataclass(frozen=True, slots=True)
class Extract:
    """A unit of a passage: the place of the passage among those retrieved, from 0, the text, and how near it is to the question (a cosine).

    It ``leads`` when it is the nearest to a part of a question that asks several things.
    """

    passage: int
    text: str
    nearness: float = field(default=0.0, compare=False)
    leads: bool = field(default=False, compare=False)

    @property
    def quoted(self) -> str:
        """As it stands in an answer: with the number of its passage, from 1."""
        return f"{self.text} [{self.passage + 1}]"


def shortlist(
    question: str, passages: Sequence[tuple[str, str]], embed: Callable[[list[str]], NDArray[np.float32]], most: int = MOST_CHOICES
) -> list[Extract]:
    """The ``most`` units of all passages ``(title, text)`` that are nearest to the question by ``embed`` (unit vectors), nearest first.

    A unit is read alone and under its title, which often holds what the sentence only refers to. One that says the same as a nearer one is left out.
    Of a question that asks several things the nearest to each part are always among them.
    """
    found = [Extract(index, unit) for index, (_, text) in enumerate(passages) for unit in dict.fromkeys(units(text))]
    if not found:
        return []
    titled = [f"{passages[unit.passage][0]}: {unit.text}" for unit in found]
    parts = [question[piece.start : piece.end] for piece in pieces(question)]
    asked = [question, *(parts if len(parts) > 1 else ())]
    vectors = embed([*asked, *(unit.text for unit in found), *titled])
    alone, under_title = (vectors[: len(asked)] @ vectors[len(asked) :].T).reshape(len(asked), 2, len(found)).transpose(1, 0, 2)
    near = (1 - TITLED) * alone + TITLED * under_title
    leading = {int(part.argmax()) for part in near[1:] if part.max() >= PART_NEARNESS}
    kept: list[tuple[Extract, facts.Facts]] = []
    for at in (-near[0]).argsort(kind="stable").tolist():
        told = facts.read(found[at].text)
        if (at in leading or len(kept) < most) and not any(same(told, other) for _, other in kept):
            kept.append((replace(found[at], nearness=float(near[0, at]), leads=at in leading), told))
    chosen = [extract for extract, _ in kept]
    others = max(most - sum(extract.leads for extract in chosen), 1)
    spared = [extract for extract in chosen if not extract.leads][:others]
    return [extract for extract in chosen if extract.leads or extract in spared][:most]


def same(one: facts.Facts, other: facts.Facts) -> bool:
    """Whether two units say the same: numbers and negations alike, and nearly all content words."""
    if sorted((n.kind, n.unit) for n in one.numbers) != sorted((n.kind, n.unit) for n in other.numbers):
        return False
    if sorted(n.kind for n in one.negations) != sorted(n.kind for n in other.negations):
        return False
    return len(one.words & other.words) >= SAME_WORDS * max(len(one.words), len(other.words), 1)


def choices(extracts: Sequence[Extract]) -> tuple[tuple[str, float], ...]:
    """What an answer may begin with, for :attr:`Generation.choices`: the model's own opinion and the encoder's nearness decide together."""
    return tuple((extract.quoted, NEARNESS_ODDS * extract.nearness) for extract in extracts)


def constraints(extracts: Sequence[Extract]) -> dict[str, Any]:
    """The fields of :class:`~mdsa_local.domains.config.Generation` that keep an answer to quotations of ``extracts`` or the refusal."""
    return {"grammar": grammar(extracts), "choices": choices(extracts), "refusal": NOT_FOUND}


def grammar(extracts: Sequence[Extract]) -> str:
    """GBNF for one quotation and those that go with it, each followed by the number of its passage, from 1. Empty when there is nothing to quote."""
    if not extracts:
        return ""
    rules = [f"q{i} ::= {literal(extract.quoted)}" for i, extract in enumerate(extracts)]
    roots = (' " " '.join(f"q{j}" for j in (i, *company(extracts, i))) for i in range(len(extracts)))
    return "\n".join([f"root ::= {' | '.join(roots)}", *rules])


def company(extracts: Sequence[Extract], first: int) -> list[int]:
    """Which extracts, nearest first, follow the one chosen to begin with: about as near to the question, so that no choice between them is safe, or
    the nearest to another part of the question."""
    near = [
        at
        for at, extract in enumerate(extracts)
        if extract.leads or extracts[0].nearness - extract.nearness <= (SAME_PASSAGE if extract.passage == extracts[first].passage else OTHER_PASSAGE)
    ]
    return [at for at in sorted(near, key=lambda at: not extracts[at].leads) if at != first][: MOST_QUOTED - 1]


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
