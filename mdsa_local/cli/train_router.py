"""``mdsa train router``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdsa_local.cli.output import Json, document, line, note, waiting
from mdsa_local.cli.train_adapter import NOT_BETTER
from mdsa_local.errors import InputError


def router(
    data: Annotated[
        Path | None, typer.Option("--data", help='JSON lines {"text", "domain"}, domain null for out of scope.', show_default=False)
    ] = None,
    feedback: Annotated[bool, typer.Option("--feedback/--no-feedback", help="Learn from answers marked right or wrong, too.")] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the split and the fit.")] = 0,
    as_json: Json = False,
) -> None:
    """Teach the router from your own examples and your corrections, and keep that if it routes held-out questions better.

    Exits with 0 when it is installed and with 8 when it is no better; the router is then as it was.
    """
    from mdsa_local.cli.router import EXPECTED, parsed
    from mdsa_local.feedback.export import export, router_pairs
    from mdsa_local.feedback.store import Feedback
    from mdsa_local.jsonlines import rows, sample
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.routing.learning import learn
    from mdsa_local.settings import expanded

    given: list[tuple[str, str | None]] = []
    if data is not None:
        found = sample(rows(expanded(data, InputError), EXPECTED, parsed), lambda pair: len(pair[0]), seed)
        given = [pair for _, pair in found.rows]
        if len(given) < found.total:
            note(f"warning: of {found.total} lines {len(given)} were drawn by chance; the others are not used")
    with TinyBERTOrchestrator() as orchestrator:
        marks = Feedback(orchestrator.settings).marks() if feedback else []
        corrected = router_pairs(marks)
        kept = [(text, name) for text, name in corrected if name is None or name in orchestrator.registry]
        if len(kept) < len(corrected):
            note(f"warning: {len(corrected) - len(kept)} marked answers belong to domains that are no longer there")
        for reason, count in export(marks, "router").left_out.items():
            note(f"marked answers left out: {count}, {reason}")
        with waiting("fitting without the held-out examples, then to all of them if that is better"):
            lesson = learn(orchestrator, [*given, *kept], seed)
        target = orchestrator.settings.router_file
    if as_json:
        document({**lesson.to_dict(), "from_file": len(given), "from_feedback": len(kept), "file": str(target) if lesson.installed else None})
    else:
        again = f", {repeated} of them given again: the last counts" if (repeated := len(given) + len(kept) - lesson.examples) else ""
        line(f"{lesson.examples} examples: {len(given)} from the file, {len(kept)} from marked answers{again}")
        for name, counts in (("held-out new questions", lesson.own), ("held-out known ones", lesson.known)):
            line(f"{name:<24} right before {counts.before} of {counts.n}, after {counts.after}")
        line(f"Installed: {target}" if lesson.installed else "Not installed: it does not route better. The router is as it was.")
    if not lesson.installed:
        raise typer.Exit(NOT_BETTER)
