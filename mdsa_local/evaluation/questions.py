"""A set of questions: JSON lines with the facts an answer has to hold and the documents it has to cite."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from mdsa_local.errors import InputError
from mdsa_local.jsonlines import lines
from mdsa_local.settings import explain

SHIPPED = Path(__file__).parent / "answers.jsonl"
EXPECTED = (
    'Write lines like {"question": "...", "domain": "finance", "facts": ["$400"], "sources": ["atm-withdrawals.md"]}; '
    "both lists empty: the documents do not answer it; a list in place of a string: one of these."
)

Alternatives = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One question. ``facts`` and ``sources`` are groups of alternatives: an answer has to hold one of each group of facts, and to cite one of
    each group of sources (names of documents, with or without folders). Both are empty where the documents do not answer.

    ``absent``: words of an unanswerable question that none of the documents it may draw on contains; ``line`` of ``file`` counts from 1.
    """

    line: int
    question: str
    domain: str
    facts: tuple[Alternatives, ...]
    sources: tuple[Alternatives, ...]
    absent: tuple[str, ...] = ()
    file: str = field(default="", compare=False, repr=False)

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.file}, line {self.line}" if self.file else f"line {self.line}"

    @property
    def answerable(self) -> bool:
        """Whether the documents answer it."""
        return bool(self.facts)


def _group(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Group = Annotated[tuple[Text, ...], BeforeValidator(_group), Field(min_length=1)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: Text
    domain: Text
    facts: tuple[Group, ...]
    sources: tuple[Group, ...]
    absent: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> _Line:
        if bool(self.facts) != bool(self.sources):
            raise ValueError("facts and sources go together: both filled, or both empty for a question that the documents do not answer")
        if self.facts and self.absent:
            raise ValueError("absent belongs to questions that the documents do not answer")
        return self


def read(path: Path | None = None) -> list[Case]:
    """The questions of a file, or the shipped ones. Raises :class:`InputError` that names the file and the line."""
    path = path or SHIPPED
    cases: list[Case] = []
    seen: dict[str, int] = {}
    for number, text in lines(path, EXPECTED):
        try:
            row = _Line.model_validate(json.loads(text))
        except ValidationError as error:
            raise InputError(f"{path}, line {number}: {explain(error)}", EXPECTED) from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: {error}", EXPECTED) from None
        key = " ".join(row.question.lower().split())
        if key in seen:
            raise InputError(f"{path}, line {number}: the question of line {seen[key]} again", "Ask each question once.")
        seen[key] = number
        cases.append(Case(number, row.question, row.domain, row.facts, row.sources, row.absent, str(path)))
    if not cases:
        raise InputError(f"{path}: no questions in it", EXPECTED)
    return cases


def is_source(document: str, source: str) -> bool:
    """Whether a passage's ``source`` is the document a case names."""
    return source == document or source.endswith("/" + document)
