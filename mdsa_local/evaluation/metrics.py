"""One answer judged, and many answers summed up. Pure: no model, no disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mdsa_local.evaluation import matching
from mdsa_local.evaluation.questions import Alternatives, Case, is_source
from mdsa_local.sentences import sentences, without_list_mark
from mdsa_local.types import Passage
from mdsa_local.validation import citations, facts, vocabulary

KINDS = ("own", "shared", "both", "none")
DECLINED = ("not_found", "abstained")
# 95 % of a normal distribution.
Z = 1.96


@dataclass(frozen=True, slots=True)
class Response:
    """What came out of the pipeline for one question. ``first_token_ms`` counts from the question, ``generate_ms`` is the model's time with the
    prompt, ``decode_ms`` without it; ``error`` is the message where the pipeline raised one."""

    status: str
    text: str
    domain: str | None
    passages: tuple[Passage, ...]
    cited: tuple[Passage, ...]
    tokens: int = 0
    generate_ms: float = 0.0
    decode_ms: float = 0.0
    first_token_ms: float = 0.0
    latency_ms: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A response measured against its case.

    ``retrieved``: every fact stands in a retrieved passage of an expected source. ``held``: groups of facts in the answer, of ``wanted``.
    ``precision`` and ``recall`` of the citations are 0..1; None without a citation, or without an answer. ``unsupported``: numbers, names and
    content words of the answer that no cited passage has. ``routed`` is None where the domain was given.
    """

    case: Case
    kind: str
    response: Response
    retrieved: bool
    held: int
    wanted: int
    precision: float | None
    recall: float | None
    unsupported: tuple[str, ...]
    routed: bool | None

    @property
    def answered(self) -> bool:
        """Whether it said anything but that it does not know."""
        return self.response.status not in (*DECLINED, "error")

    @property
    def right(self) -> bool:
        """Whether all facts are in the answer."""
        return self.answered and 0 < self.wanted == self.held

    @property
    def sourced(self) -> bool:
        """Whether all facts are in the answer and it cites every expected source, and nothing else."""
        return self.right and self.precision == 1.0 and self.recall == 1.0


def judge(case: Case, kind: str, response: Response, *, domain_given: bool = False) -> Judged:
    """Measure ``response`` against ``case``."""
    answered = response.status not in (*DECLINED, "error")
    expected = [p for p in response.passages if any(is_source(name, p.source) for group in case.sources for name in group)]
    precision, recall = cites(case.sources, response.cited) if answered and case.answerable else (None, None)
    return Judged(
        case=case,
        kind=kind,
        response=response,
        retrieved=case.answerable and held(case.facts, [f"{p.title}\n{p.text}" for p in expected]) == len(case.facts),
        held=held(case.facts, [response.text]) if answered else 0,
        wanted=len(case.facts),
        precision=precision,
        recall=recall,
        unsupported=unsupported(response.text, response.cited) if answered else (),
        routed=None if domain_given else response.domain == case.domain,
    )


def held(groups: Sequence[Alternatives], texts: Iterable[str]) -> int:
    """How many groups of facts have an alternative in one of ``texts``."""
    said = [matching.tokens(text) for text in texts]
    return sum(any(matching.within(text, matching.tokens(fact)) for fact in group for text in said) for group in groups)


def cites(groups: Sequence[Alternatives], cited: Sequence[Passage]) -> tuple[float | None, float]:
    """Precision (share of the cited documents that are expected; None where nothing is cited) and recall (share of groups cited)."""
    documents = {passage.source for passage in cited}
    good = {source for source in documents if any(is_source(name, source) for group in groups for name in group)}
    reached = sum(any(is_source(name, source) for name in group for source in documents) for group in groups)
    return (len(good) / len(documents) if documents else None), reached / len(groups)


def unsupported(text: str, cited: Sequence[Passage]) -> tuple[str, ...]:
    """Numbers (with their unit), names and content words of ``text`` that no cited passage or title has, as stems."""
    words, numbers, units = set[str](), set[str](), set[tuple[str, str]]()
    for part in (part for passage in cited for part in (passage.title, *map(without_list_mark, sentences(passage.text)))):
        told = facts.read(part)
        words |= {_unit(word) for word in told.words} | {number.unit for number in told.numbers}
        numbers |= {number.kind for number in told.numbers}
        units |= {(number.kind, number.unit) for number in told.numbers}
    new: list[str] = []
    # A passage quoted whole may begin with a step, whose number then stands behind the quotation mark.
    for sentence in sentences(citations.blanked(text, citations.marks(text)).lstrip('" ')):
        said = facts.read(without_list_mark(sentence))
        wrong = [n for n in said.numbers if n.kind not in numbers or (n.unit and (n.kind, n.unit) not in units)]
        new += sorted({_unit(word) for word in said.words} - words - {number.unit for number in wrong})
        new += [f"{number.kind} {number.unit}".strip() for number in wrong]
    return tuple(dict.fromkeys(new))


def _unit(stem: str) -> str:
    """One name for every way to write a unit: "dollars" are in a passage that says "$400"."""
    return vocabulary.UNITS.get(stem, stem)


def share(hits: int, n: int) -> dict[str, float | int] | None:
    """A share with its 95 % interval (Wilson); None of nothing."""
    if not n:
        return None
    rate, spread = hits / n, Z * Z / n
    middle = (rate + spread / 2) / (1 + spread)
    half = Z * math.sqrt(rate * (1 - rate) / n + spread / (4 * n)) / (1 + spread)
    return {"share": round(rate, 4), "n": n, "low": round(max(0.0, middle - half), 4), "high": round(min(1.0, middle + half), 4)}


def summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """All figures over ``judged``; a share is ``{share, n, low, high}`` or None where nothing could be counted, times are ms."""
    asked = [j for j in judged if j.case.answerable]
    none = [j for j in judged if not j.case.answerable]
    found = [j for j in asked if j.retrieved]
    given = [j for j in judged if j.answered]
    answered = [j for j in asked if j.answered]
    return {
        "n": len(judged),
        "errors": sum(bool(j.response.error) for j in judged),
        "key_fact": _of(asked, lambda j: j.right),
        "key_fact_given_found": _of(found, lambda j: j.right),
        "key_fact_and_sources": _of(asked, lambda j: j.sourced),
        "facts_each": share(sum(j.held for j in asked), sum(j.wanted for j in asked)),
        "retrieved": _of(asked, lambda j: j.retrieved),
        "citation_precision": _mean([j.precision for j in answered]),
        "citation_recall": _mean([j.recall for j in answered]),
        "abstained_on_unanswerable": _of(none, lambda j: j.response.status in DECLINED),
        "abstained_on_answerable": _of(asked, lambda j: j.response.status in DECLINED),
        "unsupported_answers": _of(given, lambda j: bool(j.unsupported)),
        "degraded": _of(given, lambda j: j.response.status == "degraded"),
        "routing": _of([j for j in judged if j.routed is not None], lambda j: bool(j.routed)),
        "routing_abstained": _of([j for j in judged if j.routed is not None], lambda j: j.response.status == "abstained"),
        **speed([j.response for j in judged]),
    }


def speed(responses: Sequence[Response]) -> dict[str, float | None]:
    """Tokens per second, first with the reading of the prompt, then without; and times in ms."""
    wrote = [r for r in responses if r.tokens]
    tokens, whole, decode = sum(r.tokens for r in wrote), sum(r.generate_ms for r in wrote), sum(r.decode_ms for r in wrote)
    return {
        "tokens_per_s": round(1000 * tokens / whole, 1) if whole else None,
        # The first token comes with the prompt.
        "decode_tokens_per_s": round(1000 * (tokens - len(wrote)) / decode, 1) if decode else None,
        "first_token_p50_ms": _quantile([r.first_token_ms for r in wrote], 0.5),
        "first_token_p95_ms": _quantile([r.first_token_ms for r in wrote], 0.95),
        "latency_p50_ms": _quantile([r.latency_ms for r in responses if not r.error], 0.5),
    }


def _of(items: Sequence[Judged], test: Callable[[Judged], bool]) -> dict[str, float | int] | None:
    return share(sum(map(test, items)), len(items))


def _mean(values: Iterable[float | None]) -> dict[str, float | int] | None:
    present = [value for value in values if value is not None]
    return {"share": round(sum(present) / len(present), 4), "n": len(present)} if present else None


def _quantile(values: Sequence[float], at: float) -> float | None:
    return round(sorted(values)[min(len(values) - 1, int(at * len(values)))], 1) if values else None
