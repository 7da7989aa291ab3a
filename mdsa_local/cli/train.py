"""``mdsa train``: the workshop that made the shipped small model, one command a step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsa_local.cli.output import Json, document, line, note, renewed, table, takes_escapes, waiting
from mdsa_local.cli.train_adapter import adapter
from mdsa_local.cli.train_router import router
from mdsa_local.errors import DependencyError, InputError, UnknownNameError

if TYPE_CHECKING:
    from mdsa_local.training.trainer import Material, Progress
    from mdsa_local.training.workshop import Workshop

app = typer.Typer(no_args_is_help=True, help="Make, quantise and judge a small model of your own; fit models and routing to your questions.")
app.command("adapter")(adapter)
app.command("router")(router)


DRAW_EVERY_S = 60.0


class Device(StrEnum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Run = Annotated[Path, typer.Option("--run", help="Folder of the run: checkpoints, log, curve and model.", show_default=False)]
Data = Annotated[Path, typer.Option("--data", help="Folder of the public data sets; docs/training.md lists them.", show_default=False)]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="Recipe: nano, or a YAML file like it. The run's own without it.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="0 for a run that begins; the run's own after that.")]
Tokens = Annotated[int | None, typer.Option("--tokens", min=1, help="Length of the whole training; the recipe's without it.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Stop after so many steps of this call; run again to go on.")]
Where = Annotated[Device, typer.Option("--device", help="auto: CUDA when there is one.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 for torch's choice.")]
KeepEvery = Annotated[int, typer.Option("--keep-every", min=1, help="Steps between two checkpoints.")]
TemplateFolder = Annotated[Path | None, typer.Option("--templates", help="Folder of fact templates (*.yaml) in place of the shipped ones.")]
ApartFrom = Annotated[
    list[Path] | None, typer.Option("--apart-from", help="Questions, as for `mdsa eval answers`, to stay apart from; beside the shipped set.")
]


@app.callback()
def _group() -> None:
    """Make, quantise and judge a small model of your own."""


@contextmanager
def needing(what: str) -> Iterator[None]:
    """A package of the extra that is missing becomes :class:`DependencyError`. Only imports belong inside."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("mdsa_local"):
            raise
        raise DependencyError(f"{what} needs {error.name}", 'Install it with: pip install "mdsa-local[train]"') from None


def told(result: dict[str, Any], as_json: bool) -> None:
    """Print what a step did."""
    if as_json:
        document(result)
        return
    for key, value in result.items():
        line(f"  {key.replace('_', ' '):<20} {value}")


@app.command()
def tokenizer(
    run: Run, data: Data, recipe: RecipeName = None, seed: Seed = None, tokens: Tokens = None, templates: TemplateFolder = None, as_json: Json = False
) -> None:
    """Learn the vocabulary from the data and from examples; begins a run."""
    from mdsa_local.training.workshop import opened

    with opened(run, recipe, seed, tokens) as workshop:
        told(_tokenizer(workshop, data, templates), as_json)


def _tokenizer(workshop: Workshop, data: Path, templates: Path | None) -> dict[str, Any]:
    from mdsa_local.durable import write_whole
    from mdsa_local.training.grounded import TEMPLATES, Templates
    from mdsa_local.training.tokenizer import learn, texts

    if any(workshop.checkpoint(step).exists() for step in ("pretrain", "ground")):
        raise InputError(f"{workshop.folder}: training has begun with its tokenizer", "Begin another run: give another --run folder.")
    with waiting("tokenizer: learning the vocabulary"):
        known = Templates(templates or TEMPLATES)
        made = learn(texts(data, known, workshop.recipe), workshop.recipe.shape.vocabulary)
    write_whole(workshop.tokenizer, made.to_str(pretty=True))
    return {"tokenizer": str(workshop.tokenizer), "tokens": made.get_vocab_size()}


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a call that trains was asked for: its data, its length, where it runs."""

    data: Path
    templates: Path | None
    apart_from: Sequence[Path]
    steps: int | None
    device: Device
    threads: int
    keep_every: int

    def material(self) -> Material:
        """What the examples are made from, and the questions that they stay apart from."""
        from mdsa_local.evaluation import questions
        from mdsa_local.training.grounded import TEMPLATES
        from mdsa_local.training.trainer import Material

        cases = [case for path in (None, *self.apart_from) for case in questions.read(path)]
        return Material(self.data, self.templates or TEMPLATES, cases)


def _training(work: Callable[[Workshop, Lessons], dict[str, Any]], tell: Callable[[dict[str, Any], bool], None]) -> Callable[..., None]:
    """The command that does ``work`` in a run: whatever trains takes the same options. ``tell`` shows what it did."""

    def command(
        run: Run,
        data: Data,
        steps: Steps = None,
        seed: Seed = None,
        tokens: Tokens = None,
        recipe: RecipeName = None,
        device: Where = Device.auto,
        threads: Threads = 0,
        keep_every: KeepEvery = 100,
        templates: TemplateFolder = None,
        apart_from: ApartFrom = None,
        as_json: Json = False,
    ) -> None:
        from mdsa_local.training.workshop import opened

        lessons = Lessons(data, templates, apart_from or (), steps, device, threads, keep_every)
        with opened(run, recipe, seed, tokens) as workshop:
            tell(work(workshop, lessons), as_json)

    return command


def _trained(step: str, workshop: Workshop, lessons: Lessons) -> dict[str, Any]:
    with needing("training"):
        import torch

        from mdsa_local.training import trainer
        from mdsa_local.training.checkpoint import device as device_of
    from mdsa_local.training import curve

    if lessons.threads:
        torch.set_num_threads(lessons.threads)
    pictures, said, drawn = drawable(), _telling(step), time.monotonic()
    where = device_of(lessons.device.value)

    def draw() -> None:
        if pictures and workshop.log.is_file() and (lines := curve.read(workshop.log)):
            curve.draw(lines, workshop.picture, workshop.ends)

    def tell(progress: Progress) -> None:
        nonlocal drawn
        said(progress)
        if time.monotonic() - drawn > DRAW_EVERY_S:
            drawn = time.monotonic()
            draw()

    note(f"{step}: reading the data; the first time in a run the encoder reads the templates too, for about a minute")
    try:
        progress = trainer.train(workshop, step, lessons.material(), where, steps=lessons.steps, keep_every=lessons.keep_every, tell=tell)
    finally:
        draw()
    return {
        "step": step,
        "finished": progress.tokens >= progress.end,
        "steps": progress.step,
        "tokens": progress.tokens,
        "of_tokens": workshop.recipe.tokens,
        "answer_loss": trainer.finite(progress.answer_loss, 4),
        "lead_accuracy": trainer.finite(progress.lead_accuracy, 3),
        "tokens_per_s": round(progress.tokens_per_s),
        "dropped_as_too_near": progress.dropped,
        "device": where.type,
        "checkpoint": str(workshop.checkpoint(step)),
    }


def _telling(step: str) -> Callable[[Progress], None]:
    """Progress on stderr with rate and time left: one line that renews itself on a terminal, a line every ten seconds elsewhere."""
    live, shown = takes_escapes(sys.stderr), time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal shown
        now, ended = time.monotonic(), progress.tokens >= progress.end
        if not ended and now - shown < (0.2 if live else 10.0):
            return
        shown = now
        minutes = progress.seconds_left / 60
        text = (
            f"{step}: {progress.tokens / 1e6:.2f} of {progress.end / 1e6:.2f} million tokens, loss {progress.loss:.3f}, of answers "
            f"{progress.answer_loss:.3f}, {progress.tokens_per_s:.0f} tokens/s" + ("" if ended else f", {minutes:.0f} min left")
        )
        sys.stderr.write(renewed(text, last=ended) if live else text + "\n")
        sys.stderr.flush()

    return tell


app.command(
    "pretrain", help="Train from nothing: echoes first, until copying works, then short passages with a question. Goes on from its checkpoint."
)(_training(partial(_trained, "pretrain"), told))
app.command(
    "ground",
    help="Train on the form it meets at work: sentences of found passages, nearest first. Goes on from its checkpoint, or from pretraining.",
)(_training(partial(_trained, "ground"), told))


@app.command()
def export(run: Run, as_json: Json = False) -> None:
    """Write the trained model as a GGUF file in full precision."""
    from mdsa_local.training.workshop import opened

    with opened(run, begin=False) as workshop:
        told(_export(workshop), as_json)


def _export(workshop: Workshop) -> dict[str, Any]:
    with needing("exporting"):
        import torch  # noqa: F401

        from mdsa_local.training import export_gguf

    path = export_gguf.export(workshop)
    return {"file": str(path), "size_bytes": path.stat().st_size}


@app.command()
def quantize(run: Run, as_json: Json = False) -> None:
    """Make the INT8 and the INT4 file of the exported model, and the model.yaml that makes them a model."""
    from mdsa_local.training.workshop import opened

    with opened(run, begin=False) as workshop:
        told(_quantize(workshop), as_json)


def _quantize(workshop: Workshop) -> dict[str, Any]:
    with needing("quantising"):
        from mdsa_local.training import export_gguf

    made = export_gguf.quantize(workshop)
    return {"folder": str(workshop.model), "files": [{"file": path.name, "size_bytes": path.stat().st_size} for path in made]}


def _all_steps(workshop: Workshop, lessons: Lessons) -> dict[str, Any]:
    done: dict[str, Any] = {}
    if not workshop.tokenizer.is_file():
        done["tokenizer"] = _tokenizer(workshop, lessons.data, lessons.templates)
    for step in ("pretrain", "ground"):
        if step == "pretrain" and (workshop.checkpoint("ground").exists() or not workshop.recipe.end_of("pretrain")):
            continue
        note(step)
        done[step] = _trained(step, workshop, lessons)
        if not done[step]["finished"]:
            return done
    note("export, quantize")
    return {**done, "export": _export(workshop), "quantize": _quantize(workshop)}


def _each_told(done: dict[str, Any], as_json: bool) -> None:
    if as_json:
        document(done)
        return
    for name, result in done.items():
        line(name)
        told(result, False)


app.command("nano", help="All steps from the tokenizer to INT4, each where it was stopped; judge the result with `mdsa train evaluate`.")(
    _training(_all_steps, _each_told)
)


@app.command()
def evaluate(
    run: Run,
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="GGUF to judge in place of the run's own; repeat it.")] = None,
    questions: Annotated[Path | None, typer.Option("--questions", help="Questions as for `mdsa eval answers`; the shipped set without it.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.json and report.png; the run's without it.")] = None,
    part: Annotated[list[str] | None, typer.Option("--part", help="cost, answers or overlap; repeat it. All without it.")] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Turns of the speed measurement; the median counts.")] = 5,
    domain_given: Annotated[bool, typer.Option("--domain-given", help="Skip routing: each question goes to its own domain.")] = False,
    templates: TemplateFolder = None,
    as_json: Json = False,
) -> None:
    """Measure size, memory, speed and answers of the INT8 and the INT4 file side by side, and choose the default by that."""
    from mdsa_local.cli.ask import opened
    from mdsa_local.evaluation import questions as sets
    from mdsa_local.settings import Settings

    settings = Settings.load().changed(answer_log=0)
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
        report = train_evaluate.evaluate(
            references, cases, parts, run, target, orchestrator, runs=runs, domain_given=domain_given, templates=templates
        )
    if drawable():
        variants.draw(report, target / "report.png")
    if model is None and (run / "run.json").is_file() and report.get("default") in ("int8", "int4"):
        from mdsa_local.training.card import write_card
        from mdsa_local.training.workshop import opened as run_opened

        with run_opened(run) as workshop:
            write_card(workshop, default=report["default"])
    if as_json:
        document(report)
    else:
        _show(report)


def drawable() -> bool:
    """Whether pictures can be drawn; tells when not: figures are written without them too."""
    if find_spec("matplotlib") is None:
        note('no pictures: they need matplotlib; pip install "mdsa-local[plots]"')
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
