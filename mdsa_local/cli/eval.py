"""``mdsa eval``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsa_local.cli.output import Json, document, line, progress, table, try_to_draw, try_to_write
from mdsa_local.errors import InputError

if TYPE_CHECKING:
    from mdsa_local.evaluation.answers import Run
    from mdsa_local.evaluation.questions import Case
    from mdsa_local.orchestrator import TinyBERTOrchestrator

app = typer.Typer(no_args_is_help=True, help="Measure how good answers are.")

# What a reader sees of each figure, in order; a mark of its own where less is better.
ROWS = (
    ("key_fact", "key fact in the answer"),
    ("key_fact_given_found", "  of those whose fact was retrieved"),
    ("key_fact_and_sources", "  and cites exactly the right documents"),
    ("facts_each", "  each fact of questions with several"),
    ("retrieved", "fact retrieved"),
    ("citation_precision", "citations: precision"),
    ("citation_recall", "citations: recall"),
    ("abstained_on_unanswerable", "abstains where nothing answers"),
    ("abstained_on_answerable", "abstains though it is there (less is better)"),
    ("unsupported_answers", "answers with unsupported content (less is better)"),
    ("degraded", "answers that are a whole passage (degraded)"),
    ("routing", "routed to the right domain"),
    ("routing_abstained", "routed to none (less is better)"),
    ("tokens_per_s", "tokens a second, with the prompt"),
    ("decode_tokens_per_s", "tokens a second, without the prompt"),
    ("first_token_p50_ms", "first token after, median ms"),
    ("first_token_p95_ms", "first token after, 95 % within ms"),
    ("latency_p50_ms", "whole answer, median ms"),
    ("errors", "errors"),
)


@app.callback()
def _group() -> None:
    """Measure how good answers are."""


@app.command()
def answers(
    file: Annotated[
        Path | None, typer.Argument(help='JSON lines {"question", "domain", "facts", "sources"}; the shipped set without it.', show_default=False)
    ] = None,
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="Model reference; repeat it to compare several.")] = None,
    domain_given: Annotated[bool, typer.Option("--domain-given", help="Skip routing: each question goes to its own domain.")] = False,
    overlap: Annotated[bool, typer.Option("--overlap", help="Only compare the questions with what was trained on; answer none.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw the comparison into this PNG.")] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Also write every answer and how it was judged, as JSON lines.")] = None,
    as_json: Json = False,
) -> None:
    """Run a question set through the whole pipeline and judge the answers, beside those of the encoder without a model."""
    from mdsa_local.cli.ask import opened
    from mdsa_local.evaluation import questions
    from mdsa_local.runtime.catalog import refuse_unknown
    from mdsa_local.settings import Settings

    asking = {"--model": model, "--domain-given": domain_given, "--plot": plot, "--save": save}
    if overlap and (given := [option for option, value in asking.items() if value]):
        raise InputError(f"--overlap answers no question: it has no use for {', '.join(given)}", "Leave out the one or the other.")
    cases = questions.read(file)
    try_to_draw(plot)
    if save is not None:
        try_to_write(save)
    # The log is for what a user asks.
    settings = Settings.load().changed(answer_log=0)
    refuse_unknown(model or [], settings.model_dirs)
    with opened(settings) as orchestrator:
        if overlap:
            result = _overlap(cases, orchestrator)
        else:
            runs: list[Run] = []
            try:
                _run(orchestrator, cases, model or [], domain_given, runs)
            except BaseException:
                # What is done may have taken hours.
                if runs and not as_json:
                    _show(_result(runs, file, domain_given))
                raise
            finally:
                if save is not None and runs:
                    _save(runs, save)
            result = _result(runs, file, domain_given)
            if plot is not None:
                from mdsa_local.evaluation.plots import draw

                draw(result, plot)
    if as_json:
        document(result)
    elif overlap:
        _show_overlap(result["overlap"])
    else:
        _show(result)
        for what, path in (("drawn", plot), ("saved", save)):
            if path is not None:
                line(f"{what}: {path}")


def _run(orchestrator: TinyBERTOrchestrator, cases: Sequence[Case], models: Sequence[str], domain_given: bool, runs: list[Run]) -> None:
    """Add to ``runs`` that of each model, as soon as it is through, and that without one."""
    from mdsa_local.evaluation.answers import with_models, without_model

    tell = partial(progress, of="questions")
    with_models(orchestrator, cases, models, domain_given=domain_given, progress=tell, done=runs.append)
    runs.append(without_model(orchestrator, cases, domain_given=domain_given, progress=tell))


def _result(runs: Sequence[Run], file: Path | None, domain_given: bool) -> dict[str, Any]:
    cases = [judged.case for judged in runs[0].judged]
    kinds = [judged.kind for judged in runs[0].judged]
    asked = {
        "file": str(file) if file else "shipped",
        "n": len(cases),
        "answerable": sum(case.answerable for case in cases),
        "unanswerable": sum(not case.answerable for case in cases),
        "by_kind": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    }
    return {"questions": asked, "domain_given": domain_given, "models": [run.report() for run in runs]}


def _overlap(cases: Sequence[Case], orchestrator: TinyBERTOrchestrator) -> dict[str, Any]:
    from mdsa_local.evaluation import overlap
    from mdsa_local.routing.encoder import Encoder

    encoder = Encoder.load(settings=orchestrator.settings)
    known = overlap.trained_on(orchestrator.registry)
    return {"overlap": {name: {"compared_with": len(texts), **overlap.report(overlap.twins(cases, texts, encoder))} for name, texts in known.items()}}


def _show(result: dict[str, Any]) -> None:
    asked, models = result["questions"], result["models"]
    kinds = ", ".join(f"{count} {name}" for name, count in asked["by_kind"].items() if name != "none")
    line(f"{asked['n']} questions ({asked['file']}): {asked['answerable']} answerable ({kinds}), {asked['unanswerable']} not")
    rows = [(label, *(_cell(model[key]) for model in models)) for key, label in ROWS if any(model[key] is not None for model in models)]
    for kind in ("own", "shared", "both"):
        if all(kind in model["by_kind"] for model in models):
            cells = (_cell(model["by_kind"][kind]["key_fact"]) for model in models)
            rows.append((f"key fact, knowledge base: {kind}", *cells))
    _grid(rows, ("", *(model["model"] for model in models)))
    line("Shares with their 95 % interval.")


def _cell(value: Any) -> str:
    """A share in percent with its interval, or a plain figure."""
    if not isinstance(value, dict):
        return "-" if value is None else f"{value:g}"
    interval = f" ({100 * value['low']:.0f}-{100 * value['high']:.0f})" if "low" in value else ""
    return f"{100 * value['share']:.1f} %{interval} of {value['n']}"


def _show_overlap(result: dict[str, Any]) -> None:
    for name, part in result.items():
        bounds = part["bounds"]
        line(
            f"{name}: {part['near']} of {part['n']} questions have one of {part['compared_with']} at cosine {bounds['cosine']} or more, "
            f"or with {100 * bounds['words']:.0f} % of their words in common"
        )
        rows = [(f"{twin['cosine']:.2f}", f"{twin['words']:.2f}", str(twin["line"]), twin["question"], twin["nearest"]) for twin in part["worst"]]
        _grid(rows, ("cosine", "words", "line", "question", "nearest"))
        line()


def _grid(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    """A table: with ``rich`` on a terminal, plain columns elsewhere."""
    if not sys.stdout.isatty():
        table(rows, header)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None)
    for at, name in enumerate(header):
        shown.add_column(Text(name), overflow="fold", justify="left" if at == 0 else "right")
    for row in rows:
        shown.add_row(*map(Text, row))
    Console().print(shown)


def _save(runs: Sequence[Run], path: Path) -> None:
    from mdsa_local.settings import storage_error

    rows = (
        {
            "model": run.model,
            "line": judged.case.line,
            "question": judged.case.question,
            "domain": judged.case.domain,
            "kind": judged.kind,
            "routed": judged.response.domain,
            "status": judged.response.status,
            "answer": judged.response.text,
            "facts": judged.case.facts,
            "right": judged.right,
            "retrieved": judged.retrieved,
            "cited": [passage.source for passage in judged.response.cited],
            "precision": judged.precision,
            "recall": judged.recall,
            "unsupported": judged.unsupported,
            "tokens": judged.response.tokens,
            "first_token_ms": round(judged.response.first_token_ms, 2),
            "latency_ms": round(judged.response.latency_ms, 2),
            "error": judged.response.error or None,
        }
        for run in runs
        for judged in run.judged
    )
    try:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise storage_error(error, path) from None
