"""``mdsa route``."""

from __future__ import annotations

from mdsa_local.cli.output import Json, Question, document, joined, line


def route(question: Question, as_json: Json = False) -> None:
    """Show which domain a question belongs to, how sure that is, and why."""
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.validation import rules

    with TinyBERTOrchestrator() as orchestrator:
        found = orchestrator.router.route(rules.question(joined(question), orchestrator.settings.max_question_chars))
    scores = dict(sorted(found.scores.items(), key=lambda item: -item[1]))
    if as_json:
        rounded = {name: round(score, 4) for name, score in scores.items()}
        confidence = round(found.confidence, 4)
        document(
            {
                "domain": found.domain,
                "confidence": confidence,
                "scores": rounded,
                "abstained": found.abstained,
                "reason": found.reason,
                "ms": round(found.ms, 3),
            }
        )
        return
    line(f"{found.domain or 'no domain'}  {found.confidence:.2f}  ({found.reason}; {found.ms:.1f} ms)")
    for name, score in scores.items():
        line(f"  {name:<16} {score:.2f}")
