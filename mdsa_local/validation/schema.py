"""Answers of a form: JSON by a schema, or what a grammar allows. A program reads them, so not a character is changed: what is wrong is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mdsa_local.sentences import sentences
from mdsa_local.types import Check, Citation, Draft, Passage, Verdict
from mdsa_local.validation import citations, grounding, ladder, rules

if TYPE_CHECKING:
    from mdsa_local.domains.config import Generation
    from mdsa_local.validation.grounding import Claim, Embed

# A value of up to so many words is no sentence.
VALUE_WORDS = 4
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')


def judge(question: str, draft: Draft, passages: Sequence[Passage], embed: Embed, answering: Sequence[str], form: Generation) -> Verdict:
    """The verdict on ``draft``, whose text stays as it is: its citations are given beside it, and what no passage holds makes it ``degraded``.

    Checked are the texts and numbers in it, but not the values that schema or grammar list: they are the author's words, not the model's.
    """
    value, flaw = _read(draft.text, form)
    said = list(dict.fromkeys(_said(value, _listed(form.json_schema) | _literals(form.grammar))))
    text = citations.in_code("\n\n".join(said), (passage.text for passage in passages))
    if any(ladder.says_not_found(part) for part in said):
        reason = "the model found no answer in the passages"
        return Verdict("not_found", draft.text, (), (Check("answerable", False, reason),), "not in the passages")
    ended = rules.not_too_long(draft.text, draft.finish_reason)
    checks = [ended, Check("form", not flaw, flaw)]
    settled = grounding.check(text, passages, embed) if said else []
    checks.append(_grounded(settled))
    if settled and checks[-1].passed:
        checks.append(ladder.is_relevant(question, text, _in_place(settled, passages), passages, embed, answering))
    support = sum(claim.support for claim in settled) / len(settled) if settled else 0.0
    failed = next((check for check in checks if not check.passed), None)
    reason = f"{failed.name}: {failed.detail}" if failed else ""
    return Verdict("degraded" if failed else "success", draft.text, _cited(settled, passages), tuple(checks), reason, support)


def _read(text: str, form: Generation) -> tuple[Any, str]:
    """What the text says, as JSON where it is that, and what is wrong with its form; empty when nothing is."""
    from mdsa_local.runtime.structured import checked_validator, wrong

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return text, f"it is not JSON: {error}" if form.json_schema is not None else ""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return value, f"it holds half a character: {error.object[error.start]!a}"
    return value, "" if form.json_schema is None else wrong(checked_validator(form.json_schema), value)


def _said(value: Any, listed: frozenset[str]) -> Iterator[str]:
    """The texts and numbers in a JSON value, without those that are ``listed``."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _said(part, listed)
    elif isinstance(value, list):
        for part in value:
            yield from _said(part, listed)
    elif value is not None and not isinstance(value, bool):
        # JSON can write half a character as an escape, and no text has it.
        text = str(value).strip().encode(errors="replace").decode()
        if text and text not in listed:
            yield text


def _listed(schema: Any) -> frozenset[str]:
    """The values that a schema names: of ``enum`` and ``const``, wherever they stand in it."""
    found = set[str]()
    if isinstance(schema, Mapping):
        for key, part in schema.items():
            if key in ("enum", "const"):
                found.update(_said(part, frozenset()))
            else:
                found |= _listed(part)
    elif isinstance(schema, list):
        for part in schema:
            found |= _listed(part)
    return frozenset(found)


def _literals(grammar: str) -> frozenset[str]:
    """The texts in quotes in a grammar."""
    return frozenset(text.strip() for text in LITERAL.findall(grammar))


def _grounded(settled: Sequence[Claim]) -> Check:
    held = sum(claim.by is not None for claim in settled)
    told = f"{held} of {len(settled)} statements are in the passages" if settled else "it states nothing of its own"
    return Check("grounding", held == len(settled), told)


def _in_place(settled: Sequence[Claim], passages: Sequence[Passage]) -> list[Claim]:
    """``settled``, each that is a value of few words, such as "30", as the sentences of its passage in which it stands: by itself it is near to no
    question."""
    found: list[Claim] = []
    for claim in settled:
        held = list[str]()
        if claim.by is not None and len(claim.text.split()) <= VALUE_WORDS:
            value = re.compile(rf"(?<!\w){re.escape(claim.text.strip(' .'))}(?!\w)", re.IGNORECASE)
            held = [sentence for sentence in sentences(passages[claim.by].text) if value.search(sentence)]
        found += [replace(claim, text=sentence, quoted=True) for sentence in held] or [claim]
    return found


def _cited(settled: Sequence[Claim], passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """The passages that hold what is said."""
    return tuple(Citation(at + 1, passages[at]) for at in sorted({claim.by for claim in settled if claim.by is not None}))
