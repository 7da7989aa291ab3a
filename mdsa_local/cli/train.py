"""``mdsa train``: the workshop that made the shipped small model, one command a step."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from mdsa_local.cli.output import Json, document, line, note, table
from mdsa_local.errors import InputError, UnknownNameError

app = typer.Typer(no_args_is_help=True, help="Make, quantise and judge a small model of your own. Training needs the extra train.")
Run = Annotated[Path, typer.Option("--run", help="Folder of the run: checkpoints, log, curve and model.", show_default=False)]


@app.callback()
def _group() -> None:
    """Make, quantise and judge a small model of your own."""


@app.command()
def evaluate(
    run: Run,
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="GGUF to judge in place of the run's own; repeat it.")] = None,
    questions: Annotated[Path | None, typer.Option("--questions", help="Questions as for `mdsa eval answers`; the shipped set without it.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.json and report.png; the run's without it.")] = None,
    part: Annotated[list[str] | None, typer.Option("--part", help="cost, answers or overlap; repeat it. All without it.")] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Turns of the speed measurement; the median counts.")] = 5,
    domain_given: Annotated[bool, typer.Option("--domain-given", help="Skip routing: each question goes to its own domain.")] = False,
    as_json: Json = False,
) -> None:
    """Measure size, memory, speed and answers of the INT8 and the INT4 file side by side, and choose the default by that."""
    from mdsa_local.cli.ask import opened
    from mdsa_local.evaluation import questions as sets
    from mdsa_local.settings import Settings

    settings = Settings.load()
    parts = part or ["cost", "answers", "overlap"]
    for name in parts:
        if name not in ("cost", "answers", "overlap"):
            raise UnknownNameError.among("part", name, ("cost", "answers", "overlap"))
    references = model or [str(path) for path in sorted((run / "model").glob("*.gguf"))]
    if not references:
        raise InputError(f"{run / 'model'}: no GGUF in it", "Run `mdsa train export` and `mdsa train quantize` first, or name files with --model.")
    settings.writable(run)
    target = settings.writable(out or run)
    cases = sets.read(questions)
    from mdsa_local.cli import train_evaluate
    from mdsa_local.evaluation import variants

    with opened(settings) as orchestrator:
        report = train_evaluate.evaluate(references, cases, parts, run, target, orchestrator, runs=runs, domain_given=domain_given)
    if drawable():
        variants.draw(report, target / "report.png")
    if as_json:
        document(report)
    else:
        _show(report)


def drawable() -> bool:
    """Whether pictures can be drawn; tells when not: figures are written without them too."""
    if find_spec("matplotlib") is None:
        note("no pictures: they need matplotlib; pip install 'mdsa-local[plots]'")
        return False
    return True


def _show(report: dict[str, Any]) -> None:
    models = report["models"]
    rows: list[tuple[str, ...]] = [("file", *(f"{model['size_bytes'] / 1e6:.2f} MB" for model in models))]
    if all("memory" in model for model in models):
        rows.append(("memory, its own", *(f"{model['memory']['own_mb']:.1f} MB" for model in models)))
        rows.append(("memory, pages of the file", *(f"{model['memory']['file_mb']:.1f} MB" for model in models)))
        rows.append(("tokens a second", *(f"{model['decode_tokens_per_s']:.0f}" for model in models)))
    if all("answers" in model for model in models):
        for key, label in (
            ("key_fact", "key fact in the answer"),
            ("key_fact_given_found", "  of those whose fact was retrieved"),
            ("citation_precision", "citations: precision"),
            ("citation_recall", "citations: recall"),
            ("abstained_on_unanswerable", "abstains where nothing answers"),
            ("unsupported_answers", "answers with unsupported content"),
        ):
            shares = [model["answers"][key] for model in models]
            rows.append((label, *(f"{100 * share['share']:.1f} % of {share['n']}" if share else "-" for share in shares)))
    table(rows, ("", *(model["name"] for model in models)))
    for apart in report.get("differences", ()):
        only = ", ".join(f"{count} only by {name}" for name, count in apart["key_fact_only"].items())
        line(f"{' and '.join(apart['between'])}: {apart['answers_that_differ']} answers differ; key fact {only} (chance {apart['chance']:g})")
    for name, part in report.get("overlap", {}).items():
        line(f"overlap with {name}: {part['near']} of {part['n']} questions too near to one of {part['compared_with']}")
    if "default" in report:
        line(f"default by this measurement: {report['default']} ({report['why']})")
