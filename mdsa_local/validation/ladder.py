"""The ladder of checks that turns a draft into a verdict; it stops at the first rung that fails."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.domains.units import units
from mdsa_local.sentences import sentences, without_list_mark
from mdsa_local.types import Check, Citation, Draft, Passage, Verdict
from mdsa_local.validation import citations, facts, grounding, rules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.domains.config import Generation
    from mdsa_local.validation.grounding import Claim, Embed

# Below this cosine of a question to the nearest sentence nothing in the passages is about it. On the shipped knowledge 92 % of questions about
# other things fall below it, and 5 % of those it is about.
FLOOR = 0.37
# An answer this much further from the question (cosine) than the nearest sentence of the passages answers something else; a little room,
# because a quoted step or figure is often further from the question than the sentence that introduces it.
OFF_CONTEXT = 0.12


def judge(
    question: str,
    draft: Draft,
    passages: Sequence[Passage],
    embed: Embed,
    answering: Sequence[str] = (),
    form: Generation | None = None,
) -> Verdict:
    """The verdict on ``draft``: kept with its citations set right, replaced by the best passage, or "not in your documents".

    ``answering`` are texts of the passages that are known to answer, the best first: what quotes one of them is about what was asked, however far it
    is from it. Where ``form`` asks for a schema or a grammar, the draft is kept as it is: see :mod:`mdsa_local.validation.schema`.
    """
    if form is not None and form.formed and not draft.doubt:
        from mdsa_local.validation import schema

        return schema.judge(question, draft, passages, embed, answering, form)
    if says_not_found(draft.text):
        found = Check("answerable", False, draft.doubt or "the model found no answer in the passages")
        return Verdict("not_found", NOT_FOUND, (), (found,), draft.doubt or "not in the passages")
    checks: list[Check] = []
    for check in plain_checks(draft):
        checks.append(check)
        if not check.passed:
            return fallback(question, passages, embed, checks, answering, f"{check.name}: {check.detail}")
    answer = citations.in_code(draft.text.strip(), (passage.text for passage in passages))
    settled = grounding.check(answer, passages, embed)
    unsupported = [claim for claim in settled if claim.by is None]
    checks.append(
        Check("grounding", bool(settled) and not unsupported, f"{len(settled) - len(unsupported)} of {len(settled)} sentences are in the passages")
    )
    if unsupported or not settled:
        return fallback(question, passages, embed, checks, answering, "the model's answer is not in the passages")
    relevance = is_relevant(question, answer, settled, passages, embed, answering)
    checks.append(relevance)
    if not relevance.passed:
        return fallback(question, passages, embed, checks, answering, "the model's answer is about something else")
    text = citations.set_right(answer, settled)
    numbers = sorted({number for mark in citations.marks(text) for number in mark.numbers})
    if not numbers:
        checks.append(Check("citations", False, "no passage can be cited in it"))
        return fallback(question, passages, embed, checks, answering, "the model's answer cites no passage")
    cited = tuple(Citation(number, passages[number - 1]) for number in numbers)
    return Verdict("success", text, cited, tuple(checks), support=sum(claim.support for claim in settled) / len(settled))


def is_relevant(question: str, answer: str, settled: Sequence[Claim], passages: Sequence[Passage], embed: Embed, answering: Collection[str]) -> Check:
    """Whether the answer is about what was asked: never a mere question, else surely if it quotes what is known to answer."""
    return only_asks(settled) or quotes_one(answer, answering) or on_context(question, settled, passages, embed)


def only_asks(settled: Sequence[Claim]) -> Check | None:
    """A failed check when all of the answer is questions; None says nothing."""
    asking = all(claim.text.rstrip("\"'”’)* ").endswith(("?", "？")) for claim in settled)
    return Check("relevance", False, "the answer is a question") if asking else None


def quotes_one(answer: str, answering: Collection[str]) -> Check | None:
    """A passed check when ``answer`` quotes a text that answers; None says nothing."""
    return Check("relevance", True, "quotes what answers the question") if any(text in answer for text in answering) else None


def says_not_found(text: str) -> bool:
    """Whether the draft is the agreed refusal, whatever stands around it."""
    return NOT_FOUND.rstrip(".").lower() in text.lower()


def plain_checks(draft: Draft) -> Iterator[Check]:
    """The rungs that need no passages."""
    yield rules.not_empty(draft.text, draft.thought)
    yield rules.not_repeated(draft.text)
    yield rules.not_too_long(draft.text, draft.finish_reason)


def on_context(question: str, settled: Sequence[Claim], passages: Sequence[Passage], embed: Embed) -> Check:
    """Whether the answer is about what was asked by comparison with the best sentence of the passages."""
    if not all(claim.quoted for claim in settled) and repeats(question, settled):
        return Check("relevance", False, "the answer repeats the question")
    if denies_itself(question, settled):
        return Check("relevance", False, "its yes or no speaks against what it says")
    candidates = list(pieces(passages))
    vectors = embed([question, " ".join(claim.text for claim in settled), *(claim.text for claim in settled), *(text for _, text in candidates)])
    closeness = vectors[1:] @ vectors[0]
    ours, best = float(closeness[: len(settled) + 1].max()), float(closeness[len(settled) + 1 :].max())
    return Check(
        # Steps together may be near where none of them is.
        "relevance",
        ours >= best - OFF_CONTEXT and max(ours, best) >= FLOOR,
        f"closeness to the question {ours:.2f}, best sentence of the passages {best:.2f}",
    )


def repeats(question: str, settled: Sequence[Claim]) -> bool:
    """Whether the answer is nothing but words of the question, in their order."""
    asked, said = (f" {' '.join(rules.WORD.findall(facts.fold(text)))} " for text in (question, " ".join(claim.text for claim in settled)))
    return said in asked


def denies_itself(question: str, settled: Sequence[Claim]) -> bool:
    """Whether a sentence that begins with "Yes" denies just what was asked ("Yes, it is not free"), or one with "No" says just that."""
    asked = facts.read(question)
    if asked.negations:
        return False
    words = set(asked.sequence)
    for claim in settled:
        if (answer := grounding.YES_OR_NO.match(without_list_mark(claim.text))) and (said := facts.read(grounding.without_yes_or_no(claim.text))):
            denied = any(negation.scope & words for negation in said.negations)
            if denied if answer["word"].lower() == "yes" else not said.negations and set(said.sequence) <= words:
                return True
    return False


def pieces(passages: Sequence[Passage]) -> Iterator[tuple[int, str]]:
    """Every sentence of every passage, with the index of its passage."""
    for index, passage in enumerate(passages):
        for sentence in sentences(passage.text):
            yield index, sentence


def fallback(question: str, passages: Sequence[Passage], embed: Embed, checks: Sequence[Check], answering: Sequence[str], reason: str) -> Verdict:
    """The passage that is known to answer, else the one with the sentence nearest to the question, quoted and marked degraded; or "not in your
    documents"."""
    holding = (at for text in answering for at, passage in enumerate(passages) if text in passage.text or text in units(passage.text))
    closeness, at = next(((1.0, at) for at in holding), None) or nearest(question, passages, embed)
    if closeness >= FLOOR:
        quoted = Citation(at + 1, passages[at])
        return Verdict("degraded", f'"{quoted.passage.text}" [{quoted.number}]', (quoted,), tuple(checks), reason, support=1.0)
    return Verdict("not_found", NOT_FOUND, (), tuple(checks), reason)


def nearest(question: str, passages: Sequence[Passage], embed: Embed) -> tuple[float, int]:
    """The cosine of the sentence (or steps, together) nearest to the question, and the index of its passage; -1 and 0 when there is none.

    Below :data:`FLOOR` :func:`judge` finds no draft good enough, whatever it says.
    """
    candidates = [*pieces(passages), *((index, unit) for index, passage in enumerate(passages) for unit in units(passage.text))]
    if not candidates:
        return -1.0, 0
    # Most units are sentences.
    candidates = list(dict.fromkeys(candidates))
    vectors: NDArray[np.float32] = embed([question, *(text for _, text in candidates)])
    closeness = vectors[1:] @ vectors[0]
    best = int(closeness.argmax())
    return float(closeness[best]), candidates[best][0]
