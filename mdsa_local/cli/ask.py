"""``mdsa ask`` and ``mdsa tour``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsa_local.cli.output import (
    Domain,
    Json,
    Question,
    bold,
    dim,
    document,
    end_line,
    escaped,
    joined,
    line,
    note,
    piece,
    plain,
    progress,
    quoted,
)
from mdsa_local.errors import InputError, MDSAError

if TYPE_CHECKING:
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.settings import Settings
    from mdsa_local.types import Answer, Part, Passage

TOUR = (
    ("Finance", "My card was charged twice, how do I get my money back?"),
    ("Medical", "How much paracetamol can an adult take in a day?"),
    ("Support", "How long is the warranty on my device?"),
    ("Technical", "How many API requests a minute are allowed?"),
    ("None of them", "What's the weather on Mars?"),
    ("Not in the documents", "Can I pay my rent in bitcoin from my account?"),
    ("Two knowledge bases", "How do I make a complaint, and when must I get the final answer?"),
)


Model = Annotated[str | None, typer.Option("--model", "-m", help="Model reference instead of the domain's own.")]


def opened(settings: Settings, model: str | None = None) -> TinyBERTOrchestrator:
    """An orchestrator whose knowledge bases are in step with the domains' folders; tells its progress. ``model`` takes the place of each domain's.

    Raises as :func:`~mdsa_local.runtime.catalog.refuse_unknown` before anything else: not every question comes to a model, and who named a wrong one
    is told all the same.
    """
    if model is not None:
        from mdsa_local.runtime.catalog import refuse_unknown

        refuse_unknown([model], settings.model_dirs)
    from mdsa_local.onnx_models import OnnxModels

    onnx = OnnxModels(settings)
    onnx.load_ahead()
    from mdsa_local.knowledge.lance import import_ahead
    from mdsa_local.knowledge.place import located

    if isinstance(located(settings.knowledge_place), Path):
        import_ahead()
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.runtime import library

    library.import_bare()
    orchestrator = TinyBERTOrchestrator(settings=settings, onnx=onnx)
    for name, report in orchestrator.prepare(progress("knowledge bases")):
        for path, reason in (*report.failed, *report.remarks):
            note(escaped(f"warning: {name}: {path}: {reason}"))
    if model is not None:
        for known in orchestrator.registry:
            orchestrator.registry.register(orchestrator.executor.tried_with(known, model))
    return orchestrator


def ask(
    question: Question,
    domain: Domain = None,
    model: Model = None,
    after: Annotated[list[str] | None, typer.Option("--after", help="What was asked before; repeated, oldest first.")] = None,
    as_json: Json = False,
) -> None:
    """Answer a question from the right domain's documents, with citations."""
    from mdsa_local.settings import Settings
    from mdsa_local.validation import rules

    settings = Settings.load()
    text, history = rules.question(joined(question), settings.max_question_chars), after or []
    with opened(settings, model) as orchestrator:
        if as_json:
            document(orchestrator.ask(text, domain=domain, history=history).to_dict())
        else:
            show(orchestrator, text, domain, history)


def tour(as_json: Json = False) -> None:
    """Ask one question for each domain, one that fits none, one the documents do not answer, one that two knowledge bases answer together."""
    from mdsa_local.settings import Settings

    settings = Settings.load()
    if not settings.shipped_domains:
        raise InputError("the tour asks the shipped domains, which are left out", "Set shipped_domains to true, or ask your own: mdsa ask QUESTION.")
    with opened(settings) as orchestrator:
        if as_json:
            document([orchestrator.ask(text).to_dict() for _, text in TOUR])
            return
        for label, text in TOUR:
            line(bold(f"{label}: {text}"))
            show(orchestrator, text, None)
            line()


def show(orchestrator: TinyBERTOrchestrator, text: str, domain: str | None, history: Sequence[str] = ()) -> None:
    """Print an answer as it streams, then where it comes from."""
    from mdsa_local.types import Completed, Revised, Token

    answer: Answer | None = None
    withdrawn = False
    with orchestrator.stream(text, domain=domain, history=history) as events:
        try:
            for event in events:
                if isinstance(event, Token):
                    piece(plain(event.text))
                elif isinstance(event, Revised):
                    withdrawn = event.kind == "replaced"
                    end_line()
                    line(dim("-- with its citations set right:" if event.kind == "citations" else f"-- withdrawn: {event.reason}. Instead:"))
                    piece(plain(event.text))
                elif isinstance(event, Completed):
                    answer = event.answer
        finally:
            # What follows, an error too, stands on a line of its own.
            end_line()
    assert answer is not None
    line(dim("\n".join(details(answer, why=not withdrawn))))
    if orchestrator.settings.answer_log and _logged(orchestrator.settings, answer.request_id):
        line(dim(f"logged as {answer.request_id[:8]}: mdsa feedback right|wrong {answer.request_id[:8]}"))


def _logged(settings: Settings, request_id: str) -> bool:
    """Whether the answer is in the log, which a disk may not have taken."""
    from mdsa_local.feedback.store import Feedback

    try:
        Feedback(settings).find(request_id)
    except MDSAError:
        return False
    return True


def details(answer: Answer, why: bool = True) -> Sequence[str]:
    """Domain and confidence, the reason unless ``why`` is False, parts left to other domains, citations, model and timings, a line each."""
    out = []
    state = "" if answer.status == "success" else f", {answer.status.replace('_', ' ')}"
    reason = f" ({escaped(answer.reason)})" if why and answer.reason else ""
    out.append(f"domain {answer.domain or 'none'}, confidence {answer.confidence:.2f}{state}{reason}")
    out.extend(f"not asked: {part.domain}, to which a part of the question belongs; ask it there: {_command(part)}" for part in answer.elsewhere)
    for citation in answer.citations:
        p = citation.passage
        out.append(f"[{citation.number}] {escaped(p.source)}: {escaped(p.title)} (bytes {p.start}-{p.end}, {p.knowledge_base})")
    out.extend(f"nearest, but no answer: {escaped(p.source)}: {escaped(p.title)} ({_shown(p)})" for p in answer.nearest)
    if answer.model:
        out.append(f"model {answer.model}, {answer.tokens_generated} tokens")
    out.append("timings " + ", ".join(f"{stage.stage} {stage.ms:.0f} ms" for stage in answer.trace) + f", all {answer.latency_ms:.0f} ms")
    return out


def _shown(passage: Passage) -> str:
    return f"mdsa kb show -d {passage.knowledge_base} {quoted(escaped(passage.id))}"


def _command(part: Part) -> str:
    text = " ".join(part.text.split())
    return f"mdsa ask --domain {part.domain} {'-- ' if text.startswith('-') else ''}{quoted(text)}"
