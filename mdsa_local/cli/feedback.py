"""``mdsa feedback``."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsa_local.cli.output import Json, document, line, note, table, waiting
from mdsa_local.errors import InputError

if TYPE_CHECKING:
    from mdsa_local.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Say which answers were right, and put that to use.")

# As in mdsa_local.feedback.store, which need not be imported for it.
NOWHERE = "none"
Id = Annotated[str, typer.Argument(help="Id of an answer, the beginning of one, or last.")]
Note = Annotated[str, typer.Option("--note", help="Anything worth remembering.")]
Facts = Annotated[list[str] | None, typer.Option("--fact", help="What a right answer holds; repeat it for several facts.")]
Sources = Annotated[list[str] | None, typer.Option("--source", help="The document that says so; repeat it for several.")]


class Kind(StrEnum):
    """What marks are exported as."""

    answers = "answers"
    router = "router"
    pairs = "pairs"
    all = "all"


@app.callback()
def _group() -> None:
    """Say which answers were right, and put that to use."""


@app.command()
def right(id: Id, note: Note = "", fact: Facts = None, source: Sources = None, as_json: Json = False) -> None:
    """Mark an answer right: its question belongs where it was answered, and the next answer should say the same."""
    from mdsa_local.feedback.store import Feedback

    made = Feedback().mark(id, True, note=note, facts=fact or (), sources=source or ())
    if as_json:
        document(made.to_dict())
    else:
        line(f"right: {made.answer.question}")


@app.command()
def wrong(
    id: Id,
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="Where the question belongs; none for nowhere.")] = None,
    note: Note = "",
    fact: Facts = None,
    source: Sources = None,
    unanswerable: Annotated[bool, typer.Option("--unanswerable", help="The documents do not answer it: it should have been refused.")] = False,
    as_json: Json = False,
) -> None:
    """Mark an answer wrong, and say what would have been right: the domain, or facts with their source, or nothing at all."""
    from mdsa_local.feedback.store import Feedback
    from mdsa_local.settings import Settings

    settings = Settings.load()
    _known(domain, settings)
    made = Feedback(settings).mark(
        id,
        False,
        domain=None if domain == NOWHERE else domain,
        out_of_scope=domain == NOWHERE,
        note=note,
        facts=fact or (),
        sources=source or (),
        unanswerable=unanswerable,
    )
    if as_json:
        document(made.to_dict())
        return
    line(f"wrong: {made.answer.question}")
    if made.routed:
        from mdsa_local.routing.learning import LEAST_EXAMPLES

        line(f"belongs to {made.domain or 'no domain'}; `mdsa train router` learns it, once it has {LEAST_EXAMPLES} examples")


@app.command("list")
def list_(
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="Only of questions that belong there; none for nowhere.")] = None,
    as_json: Json = False,
) -> None:
    """List the marks, the oldest first."""
    from mdsa_local.feedback.store import Feedback

    feedback = Feedback()
    found = feedback.marks(domain=domain)
    if not found:
        _known(domain, feedback.settings)
    if as_json:
        document([mark.to_dict() for mark in found])
        return
    if not found:
        line("No answer has been marked." if domain is None else f"No marked answer belongs to {'no domain' if domain == NOWHERE else domain}.")
        return
    rows = [
        (m.answer.id[:8], "right" if m.right else "wrong", (m.domain or NOWHERE) if m.routed else "", m.answer.question[:70], m.note[:40])
        for m in found
    ]
    table(rows, ("id", "mark", "belongs to", "question", "note"))


@app.command()
def recent(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 20,
    as_json: Json = False,
) -> None:
    """List the answers logged last, the newest first; the setting answer_log says how many are kept."""
    from mdsa_local.feedback.store import Feedback

    feedback = Feedback()
    found = feedback.recent(limit)
    if as_json:
        rows = [{"id": a.id, "at": a.at, "question": a.question, "domain": a.domain, "status": a.status, "response": a.response} for a in found]
        document(rows)
        return
    if not feedback.settings.answer_log:
        note("Answers are not logged: set answer_log in config.yaml to how many to keep.")
    elif not found:
        line("No answer is in the log.")
    if found:
        lines = [(a.id[:8], time.strftime("%Y-%m-%d %H:%M", time.localtime(a.at)), a.domain or NOWHERE, a.status, a.question[:70]) for a in found]
        table(lines, ("id", "at", "domain", "status", "question"))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="JSON lines to write; - writes them to standard output.")],
    kind: Annotated[
        Kind, typer.Option("--as", help="Questions for eval answers, lines for train router, pairs for train adapter, or all.")
    ] = Kind.answers,
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="Only of questions that belong there; none for nowhere.")] = None,
    as_json: Json = False,
) -> None:
    """Write the marks as questions for evaluation, examples for routing, pairs for an adapter, or as they are."""
    from mdsa_local.feedback import export as exporting
    from mdsa_local.feedback.store import Feedback
    from mdsa_local.settings import expanded

    on_stdout = str(file) == "-"
    if on_stdout and as_json:
        raise InputError("both the lines and the report would go to standard output", "Name a file, or leave --json out.")
    feedback = Feedback()
    made = exporting.export(feedback.marks(), kind.value, domain)
    if not made.rows:
        _known(domain, feedback.settings)
    if on_stdout:
        sys.stdout.flush()
        # In UTF-8, as a file, whatever the terminal's encoding.
        sys.stdout.buffer.write(exporting.lines(made).encode())
    else:
        exporting.write(made, expanded(file, InputError))
    if as_json:
        document({"file": str(file), "as": kind.value, "rows": len(made.rows), "left_out": made.left_out})
        return
    tell = note if on_stdout else line
    tell(f"{len(made.rows)} written" + ("" if on_stdout else f" to {file}"))
    for reason, count in made.left_out.items():
        tell(f"{count} left out: {reason}")


@app.command()
def remove(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of answers.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="All marks and all logged answers.")] = False,
    as_json: Json = False,
) -> None:
    """Remove answers and their marks, also from what `mdsa train router` learned of them."""
    from mdsa_local.feedback.store import Feedback

    if bool(ids) == everything:
        raise InputError("nothing was named to remove, or both ids and --all", "Give the ids of answers, or --all.")
    feedback = Feedback()
    about = feedback.questions(ids or (), everything=everything)
    done = ""
    if about and feedback.settings.router_file.is_file():
        from mdsa_local.orchestrator import TinyBERTOrchestrator
        from mdsa_local.routing.learning import forget

        # First: where it cannot be done nothing is removed, and the same can be asked again.
        with TinyBERTOrchestrator(settings=feedback.settings) as orchestrator, waiting("taking them out of what the router learned"):
            done = forget(orchestrator, about)
    gone = feedback.remove(ids or (), everything=everything)
    if as_json:
        document({"removed": len(gone), "router_fitted_again": done == "fitted", "router_removed": done == "removed"})
        return
    told = {
        "fitted": "; the router was fitted again without them and all lines that say the same",
        "removed": "; the router, which could not be used any more, was removed: make another by `mdsa router fit`",
    }
    line(f"{len(gone)} removed{told.get(done, '')}")


def _known(domain: str | None, settings: Settings) -> None:
    """Raise :class:`UnknownNameError` for what is no domain."""
    from mdsa_local.domains.registry import DomainRegistry

    if domain is not None and domain != NOWHERE:
        DomainRegistry.from_folders(settings.domain_dirs).get(domain)
