"""Questions with their answers, to fine-tune a domain's model on: the file, its split, and what a model has to write for each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from mdsa_local.domains.asking import Asked, Shown
from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.domains.quoting import Extract
from mdsa_local.errors import InputError
from mdsa_local.evaluation.matching import tokens
from mdsa_local.jsonlines import MOST_ROWS, Sample, rows, sample
from mdsa_local.settings import explain
from mdsa_local.validation import citations

EXPECTED = (
    'Write lines like {"question": "...", "answer": "...", "passages": ["...", {"title": "...", "text": "..."}]}; passages, or context with one '
    "text, may be left out; answer null: nothing answers it."
)
HELD_OUT = 0.2
# Of fewer held-out questions nothing could be told; of more, measuring takes longer than training.
LEAST_HELD, MOST_HELD = 8, 200
LEAST_PAIRS = 4 * LEAST_HELD
# Least F1 of the words of a sentence and of an answer for the one to stand for the other.
SAME = 0.5

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Pair:
    """One line of a file. ``answer`` None: the passages do not answer it; ``passages`` empty: those that the domain's knowledge base gives."""

    line: int
    question: str
    answer: str | None
    passages: tuple[Shown, ...] = ()


class _Passage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Text
    title: str = ""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: Text
    answer: Text | None
    passages: tuple[_Passage, ...] = ()
    context: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise ValueError(f"expected an object, found {type(values).__name__}")
        if isinstance(values.get("passages"), list):
            values = {**values, "passages": [{"text": text} if isinstance(text, str) else text for text in values["passages"]]}
        return values

    @model_validator(mode="after")
    def _one(self) -> _Line:
        if self.passages and self.context:
            raise ValueError("give passages or context, not both")
        return self


def _parsed(row: Any) -> Pair:
    try:
        found = _Line.model_validate(row)
    except ValidationError as error:
        raise ValueError(explain(error)) from None
    shown = [(passage.title, passage.text) for passage in found.passages] + ([("", found.context)] if found.context else [])
    return Pair(0, found.question, found.answer, tuple(shown))


def read(path: Path, seed: int = 0, most: int = MOST_ROWS) -> Sample[Pair]:
    """The pairs of a file, of a very large one ``most`` drawn by chance. Raises :class:`InputError` that names file and line."""

    def size(pair: Pair) -> int:
        return len(pair.question) + len(pair.answer or "") + sum(len(title) + len(text) for title, text in pair.passages)

    found = sample(rows(path, EXPECTED, _parsed), size, seed, most)
    if not found.rows:
        raise InputError(f"{path}: no pairs in it", EXPECTED)
    pairs = tuple((number, Pair(number, pair.question, pair.answer, pair.passages)) for number, pair in found.rows)
    return Sample(pairs, found.total)


def split(items: Sequence[Item], question: Callable[[Item], str], seed: int, share: float = HELD_OUT) -> tuple[list[Item], list[Item]]:
    """``(to train on, held out)``, drawn by ``seed``; the same question, however capitalised or spaced, is never in both."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(" ".join(question(item).lower().split()), []).append(item)
    keys = sorted(groups)
    random.Random(seed).shuffle(keys)
    wanted = min(max(round(share * len(items)), LEAST_HELD), MOST_HELD)
    train: list[Item] = []
    held: list[Item] = []
    for key in keys:
        (held if len(held) < wanted else train).extend(groups[key])
    return train, held


def target(pair: Pair, asked: Asked, quotes: bool, passages: Sequence[Shown]) -> str | None:
    """What the model has to write for ``pair``, being shown ``asked``; None when nothing it may write answers.

    Of a model that quotes: the one or two quotations that hold the answer. Of others: the answer, with the ``[n]`` of the passage that shares most
    words with it where it has none: answers without one do not pass validation.
    """
    if pair.answer is None:
        return NOT_FOUND
    if quotes:
        return quoted(pair.answer, asked.extracts)
    shown = passages[: asked.fitted.passages]
    if citations.marks(pair.answer) or not shown:
        return pair.answer
    wanted = tokens(pair.answer)
    best = max(range(len(shown)), key=lambda at: sum((Counter(wanted) & Counter(tokens(" ".join(shown[at])))).values()))
    return f"{pair.answer} [{best + 1}]"


def quoted(answer: str, extracts: Sequence[Extract]) -> str | None:
    """The extracts that say ``answer``: those it holds, two at most; else the shortest that holds it; else the likest, if it is like enough."""
    wanted = tokens(answer)
    said = [tokens(extract.text) for extract in extracts]
    inside = sorted((_place(part, wanted), at) for at, part in enumerate(said) if part and _place(part, wanted) >= 0)[:2]
    if inside:
        return " ".join(extracts[at].quoted for _, at in inside)
    around = [at for at, part in enumerate(said) if wanted and _place(wanted, part) >= 0]
    if around:
        return extracts[min(around, key=lambda at: len(said[at]))].quoted
    best = max(range(len(said)), key=lambda at: overlap(said[at], wanted), default=None)
    return extracts[best].quoted if best is not None and overlap(said[best], wanted) >= SAME else None


def score(response: str, expected: str) -> float:
    """F1 of the words of a response and the expected one (Rajpurkar et al. 2016), 0..1, marks ``[n]`` aside; a refusal is right or wrong."""
    if NOT_FOUND in (response.strip(), expected.strip()):
        return float(response.strip() == expected.strip())
    return overlap(tokens(response), tokens(expected))


def overlap(said: tuple[str, ...], wanted: tuple[str, ...]) -> float:
    """F1 of two bags of words, 0..1."""
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def _place(part: tuple[str, ...], whole: tuple[str, ...]) -> int:
    """Where ``part`` stands in ``whole`` as a run; -1 when it does not."""
    return next((at for at in range(len(whole) - len(part) + 1) if whole[at : at + len(part)] == part), -1)
