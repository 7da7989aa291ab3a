"""What marks become: examples for routing, questions for ``mdsa eval answers``, pairs for ``mdsa train adapter``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.durable import write_whole
from mdsa_local.errors import InputError
from mdsa_local.feedback.store import Mark
from mdsa_local.jsonlines import folded
from mdsa_local.sentences import spans
from mdsa_local.validation import citations

Kind = Literal["answers", "router", "pairs", "all"]


@dataclass(frozen=True, slots=True)
class Exported:
    """Rows to write, and how many marks gave none, by reason."""

    rows: tuple[dict[str, Any], ...]
    left_out: dict[str, int]


def export(marks: Sequence[Mark], kind: Kind, domain: str | None = None) -> Exported:
    """The marks as rows of ``kind``, those of ``domain`` alone unless it is None. A question marked several times counts as it was marked last."""
    last = {folded(mark.answer.question): mark for mark in marks}
    make = {"answers": _question, "router": _example, "pairs": _pair, "all": Mark.to_dict}[kind]
    chosen = marks if kind == "all" else list(last.values())
    made = [make(mark) if mark.belongs(domain) else f"not known to belong to {domain}" for mark in chosen]
    left_out = Counter(reason for reason in made if isinstance(reason, str))
    if kind != "all" and len(marks) > len(last):
        left_out["the same question, marked again later"] = len(marks) - len(last)
    return Exported(tuple(row for row in made if not isinstance(row, str)), dict(left_out))


def lines(exported: Exported) -> str:
    """The rows as JSON lines. Raises :class:`InputError` when there are none."""
    if not exported.rows:
        why = "; ".join(f"{count} left out, {reason}" for reason, count in exported.left_out.items()) or "no answer has been marked"
        raise InputError(f"nothing to export: {why}", "Mark answers with `mdsa feedback right` and `mdsa feedback wrong`.")
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in exported.rows)


def write(exported: Exported, path: Path) -> None:
    """The rows as JSON lines; the file is whole or not there. Raises :class:`StorageError`, :class:`InputError` when there is nothing to write, or
    something of that name."""
    made = lines(exported)
    if path.exists():
        raise InputError(f"{path}: there is already something of this name", "Name another file, or remove it first.")
    write_whole(path, made)


def router_pairs(marks: Sequence[Mark]) -> list[tuple[str, str | None]]:
    """``(question, domain)`` for fitting the router, domain None for out of scope."""
    return [(row["text"], row["domain"]) for row in export(marks, "router").rows]


def _example(mark: Mark) -> dict[str, Any] | str:
    if not mark.routed:
        return "wrong, without saying where the question belongs"
    return {"text": mark.answer.question, "domain": mark.domain}


def _question(mark: Mark) -> dict[str, Any] | str:
    """A right answer's facts are its sentences, as long as none are given: the next answer has to say the same."""
    domain = mark.domain if mark.routed else mark.answer.domain
    if domain is None:
        return "out of scope: no domain's documents are asked"
    facts, sources = list(mark.facts), list(mark.sources)
    if mark.right and mark.answer.status == "not_found":
        facts, sources = [], []
    elif mark.right:
        facts = facts or _sentences(mark.answer.response)
        sources = sources or list(dict.fromkeys(PurePosixPath(said.source).name for said in mark.answer.cited))
        if not (facts and sources):
            return "right, but without a cited document"
    elif not (facts or mark.unanswerable):
        return "wrong, without what would have been right"
    return {"question": mark.answer.question, "domain": domain, "facts": facts, "sources": sources}


def _pair(mark: Mark) -> dict[str, Any] | str:
    if mark.domain is None or not mark.routed:
        return "no domain to learn it for"
    passages = [{"title": said.title, "text": said.text} for said in mark.answer.cited]
    if (mark.right and mark.answer.status == "not_found") or mark.unanswerable:
        return {"question": mark.answer.question, "answer": None, **({"passages": passages} if passages else {})}
    if not mark.right:
        return "wrong, without a right answer"
    if not passages or mark.answer.response == NOT_FOUND:
        return "right, but without a cited document"
    answer = mark.answer.response
    return {"question": mark.answer.question, "answer": _unmarked(answer), "passages": passages}


def _sentences(response: str) -> list[str]:
    text = _unmarked(response)
    return [text[start:end].strip() for start, end in spans(text) if text[start:end].strip()]


def _unmarked(answer: str) -> str:
    found = citations.marks(answer)
    return citations.removed(answer, 0, len(answer), found).strip()
