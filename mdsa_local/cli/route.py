"""``mdsa route``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsa_local.cli.output import Json, Question, document, escaped, joined, line, table

if TYPE_CHECKING:
    from mdsa_local.types import Route, RouteExplanation


def route(
    question: Question,
    after: Annotated[list[str] | None, typer.Option("--after", help="What was asked before; repeated, oldest first.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also show what decided: nearest examples, thresholds.")] = False,
    as_json: Json = False,
) -> None:
    """Show which domain a question belongs to, how sure that is, and why."""
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.validation import rules

    with TinyBERTOrchestrator() as orchestrator:
        limit = orchestrator.settings.max_question_chars
        text, history = rules.question(joined(question), limit), rules.previous(after, limit)
        router = orchestrator.router
        told = router.explain(text, history) if explain else None
        found = told.route if told else router.route(text, history)
    if as_json:
        document(described(found) | (explained(told) if told else {}))
        return
    line(f"{found.domain or 'no domain'}  {found.confidence:.2f}  ({escaped(found.reason)}; {found.ms:.1f} ms)")
    if found.degraded:
        line(escaped(f"  degraded: by words alone, {found.degraded}"))
    if after:
        line(f"  read {'by itself' if found.context == 'message' else 'with the previous message'}{', a new topic' if found.switched else ''}")
    for name, score in sorted(found.scores.items(), key=lambda item: -item[1]):
        line(f"  {name:<16} {score:.2f}")
    for part in found.parts:
        line(f"  part: {escaped(part.text)}  -> {part.domain} {part.confidence:.2f}")
    if told:
        line()
        table([(n.domain, f"{n.similarity:.2f}", n.kind, escaped(n.text)) for n in told.near], ("domain", "cosine", "kind", "nearest"))
        line()
        line("evidence     " + ", ".join(f"{name} {value:.2f}" for name, value in told.evidence.items()))
        line(f"thresholds   accept {told.accept:.2f}, ask {told.ask:.2f}" + "".join(f", {n} {v:.2f}" for n, v in told.per_domain.items()))
        line(f"in scope     {told.scope:.2f}")
        line(f"head         {told.head_weight:.2f} of the decision")


def described(found: Route) -> dict[str, Any]:
    """A route as JSON."""
    return {
        "domain": found.domain,
        "confidence": round(found.confidence, 4),
        "scores": {name: round(score, 4) for name, score in sorted(found.scores.items(), key=lambda item: -item[1])},
        "abstained": found.abstained,
        "reason": found.reason,
        "small_talk": found.small_talk,
        "parts": [{"domain": p.domain, "text": p.text, "confidence": round(p.confidence, 4), "start": p.start, "end": p.end} for p in found.parts],
        "context": found.context,
        "switched": found.switched,
        "degraded": found.degraded or None,
        "ms": round(found.ms, 3),
    }


def explained(told: RouteExplanation) -> dict[str, Any]:
    """What decided a route, as JSON."""
    return {
        "near": [{"domain": n.domain, "text": n.text, "kind": n.kind, "similarity": round(n.similarity, 4)} for n in told.near],
        "evidence": {name: round(value, 4) for name, value in told.evidence.items()},
        "in_scope": round(told.scope, 4),
        "thresholds": {
            "accept": round(told.accept, 4),
            "ask": round(told.ask, 4),
            "per_domain": {name: round(value, 4) for name, value in told.per_domain.items()},
        },
        "head_weight": told.head_weight,
    }
