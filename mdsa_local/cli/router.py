"""``mdsa router``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mdsa_local.cli.output import Json, counts, document, escaped, line, note, try_to_draw, waiting
from mdsa_local.errors import DependencyError, InputError, UnknownNameError
from mdsa_local.jsonlines import folded, rows

app = typer.Typer(no_args_is_help=True, help="Measure the router, and teach it.")


class Quantize(StrEnum):
    """How an exported model's weights are kept."""

    int8 = "int8"
    none = "none"


Pairs = list[tuple[str, str | None]]
EXPECTED = 'Write lines like {"text": "...", "domain": "finance"}; domain null for out of scope.'


@app.callback()
def _group() -> None:
    """Measure the router, and teach it."""


def read_pairs(path: Path, parse: Callable[[Any], tuple[str, str | None]] | None = None) -> Pairs:
    """``(text, domain)`` from lines ``{"text", "domain"}``, each through ``parse``, :func:`parsed` where it is None; domain null for out of scope.
    Raises :class:`InputError` with the line."""
    pairs = [pair for _, pair in rows(path, EXPECTED, parse or parsed)]
    if not pairs:
        raise InputError(f"{path}: no questions in it", EXPECTED)
    return pairs


def parsed(row: Any) -> tuple[str, str | None]:
    """The text and the domain of a line; raises :class:`ValueError`."""
    text, domain = labelled(row)
    if domain == "none":
        raise ValueError("key 'domain' is 'none', and no domain can be called that: write null, without quotes, for out of scope")
    return text, domain


def labelled(row: Any) -> tuple[str, str | None]:
    """The text and the label of a line, which may be any that a classifier has; raises :class:`ValueError`."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {type(row).__name__}")
    if missing := {"text", "domain"} - row.keys():
        raise ValueError(f"missing key {min(missing)!r}")
    text, domain = row["text"], row["domain"]
    if not isinstance(text, str):
        raise ValueError(f"key 'text': expected a string (given: {text!r})")
    if not text.strip():
        raise ValueError("key 'text' is empty")
    text.encode()
    if domain is not None and not isinstance(domain, str):
        raise ValueError(f"key 'domain': expected a string or null (given: {domain!r})")
    return text, domain


def contradictions(pairs: Iterable[tuple[str, str | None]]) -> dict[str, tuple[str, ...]]:
    """The domains of each text that is given for several, in their order; ``none`` is out of scope."""
    found: dict[str, dict[str, None]] = {}
    for text, domain in pairs:
        found.setdefault(folded(text), {})[domain or "none"] = None
    return {text: tuple(domains) for text, domains in found.items() if len(domains) > 1}


def tell_contradictions(pairs: Iterable[tuple[str, str | None]], so: str) -> None:
    """Warn of :func:`contradictions`, ``so`` says what comes of them."""
    if found := contradictions(pairs):
        text, domains = next(iter(found.items()))
        many = f"{len(found)} questions are" if len(found) > 1 else "one question is"
        note(escaped(f"warning: {many} given for more than one domain, {so}: {text!r} for {', '.join(domains)}"))


def figure(value: Any) -> str:
    """A figure of a report for people; a dash where there is nothing to count."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {figure(part)}" for name, part in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(figure, value)) or "-"
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


@app.command("fit")
def fit(
    file: Annotated[Path | None, typer.Argument(help='JSON lines {"text", "domain"}, domain null for out of scope.')] = None,
    per_domain: Annotated[bool, typer.Option("--per-domain", help="Choose a threshold for each domain.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Learn from the domains' examples and those of a file; programs started from then on use what is learned.

    Lines of domains that are installed add to their examples; what one of them gives elsewhere is no example of the others any more. The report
    tells accuracy on held-out examples and the thresholds chosen; of lines out of scope how many the threshold alone refuses.
    """
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.routing.fitting import LEAST_OWN, refuse_unwritable
    from mdsa_local.routing.learning import at_work
    from mdsa_local.routing.router import IntentRouter

    given = read_pairs(file) if file else []
    orchestrator = TinyBERTOrchestrator()
    for name in dict.fromkeys(name for _, name in given if name is not None):
        try:
            orchestrator.registry.get(name)
        except UnknownNameError as error:
            raise UnknownNameError(f"{file}: {error}", error.hint) from None
    new = {folded(text) for text, _ in given}
    known = [(text, domain.name) for domain in orchestrator.registry for text in domain.examples if folded(text) in new]
    twice = contradictions(given)
    tell_contradictions(given, "and each learns it")
    tell_contradictions(((text, name) for text, name in [*known, *given] if folded(text) not in twice), "and the file's word goes")
    # What was learned before is not given up for what words alone could be fitted to.
    encoder = at_work(orchestrator)
    target = orchestrator.settings.router_file
    refuse_unwritable(target)
    router = IntentRouter.for_settings(orchestrator.settings, encoder, encoder.calibration, orchestrator.settings.home / "cache" / "anchors")
    for domain in orchestrator.registry:
        kept = [text for text in domain.examples if folded(text) not in new]
        added = [text for text, name in given if name == domain.name]
        router.register(domain.model_copy(update={"examples": tuple(dict.fromkeys([*kept, *added]))}))
    with waiting(f"fitting to {sum(router.examples.values())} examples"):
        router.fit([(text, None) for text, name in given if name is None], seed, per_domain=per_domain)
    router.save(target, orchestrator.registry)
    own = {name: round(value, 4) for name, value in (router.thresholds.per_domain or {}).items()}
    report = {**router.report, "per_domain": own, "file": str(target)}
    if as_json:
        document(report)
    else:
        for key, value in report.items():
            line(f"{key.replace('_', ' '):<22} {figure(value)}")
    if per_domain and (common := [name for name in router.domains if name not in report["per_domain"]]):
        note(f"a threshold of its own takes {LEAST_OWN} held-out examples of a domain; the common one goes for: {', '.join(common)}")


@app.command("export")
def export(
    model: Annotated[str, typer.Option("--model", help="A folder, or a name on the hub, of an encoder or a sequence classifier.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; a bare name means one in $MDSA_HOME/models.")],
    quantize: Annotated[Quantize, typer.Option("--quantize", help="Weights in INT8, or none: as they are.")] = Quantize.int8,
    encoder: Annotated[str, typer.Option("--encoder", help="Of a classifier: the encoder that makes vectors beside it.")] = "tinybert",
    labels: Annotated[str, typer.Option("--labels", help="Of a classifier that does not name them: its classes in order, a,b,c.")] = "",
    calibrate: Annotated[Path | None, typer.Option("--calibrate", help="Of a classifier: JSON lines that it has not seen.")] = None,
    as_json: Json = False,
) -> None:
    """Make a routing model of any BERT-like Hugging Face encoder or of a fine-tuned sequence classifier.

    What is written was compared with torch; the figures, checksums and calibration are in its model.yaml. A name on the hub is fetched from
    there; a folder needs no network. Needs the extra train.
    """
    from mdsa_local.settings import Settings, user_path

    settings = Settings.load()
    bare = not out.is_absolute() and len(out.parts) == 1
    folder = settings.home / "models" / out if bare else user_path(out, InputError)
    try:
        from mdsa_local.training.export_router import export as convert
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("mdsa_local"):
            raise
        raise DependencyError(f"exporting needs {error.name}", 'Install it with: pip install "mdsa-local[train]"') from None
    named = [label.strip() for label in labels.split(",") if label.strip()]
    pairs = read_pairs(calibrate, labelled) if calibrate else []
    done = convert(model, folder, quantize=quantize.value, encoder=encoder, labels=named, calibration=pairs, settings=settings)
    line_of_config = f"encoder: {folder.name if folder.parent in settings.model_dirs else folder}"
    if as_json:
        document({"folder": str(folder), "config": line_of_config, **done.card})
        return
    for key, value in done.card.items():
        if key not in ("made", "files", "architecture"):
            line(f"{key:<14} {value}")
    size = sum(entry["size_bytes"] for name, entry in done.card["files"].items() if name != "tokenizer.json")
    line(f"{'size':<14} {size / 1e6:.1f} MB")
    line(f"written to {folder}; to use it, put into {settings.home / 'config.yaml'}:")
    line(line_of_config)


@app.command("eval")
def evaluate(
    file: Annotated[Path, typer.Argument(help='JSON lines {"text", "domain"}; domain null for out of scope.')],
    fit: Annotated[Path | None, typer.Option("--fit", help="JSON lines to learn from first, instead of the installed domains.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw reliability and confusion into this PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Print accuracy, out-of-scope detection, calibration and confusion on a labelled file."""
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.routing.evaluation import evaluate as measure
    from mdsa_local.routing.learning import at_work
    from mdsa_local.routing.router import IntentRouter

    pairs = read_pairs(file)
    try_to_draw(plot)
    orchestrator = TinyBERTOrchestrator()
    if fit is None:
        router = orchestrator.router
    else:
        learned = read_pairs(fit)
        tell_contradictions(learned, "and each learns it")
        encoder = at_work(orchestrator)
        router = IntentRouter.for_settings(orchestrator.settings, encoder, encoder.calibration)
        with waiting(f"fitting to {len(learned)} examples"):
            router.fit(learned)
    unknown = Counter(name for _, name in pairs if name is not None and name not in router.domains)
    if unknown:
        listed = ", ".join(f"{name!r} ({n})" for name, n in unknown.most_common())
        note(
            f"warning: these domains are not registered, so their questions cannot be right: {listed}. Known: {', '.join(router.domains) or 'none'}."
        )
    tell_contradictions(pairs, "so it cannot be right each time")
    known = {folded(text) for text in router.texts}
    if seen := sum(folded(text) in known for text, _ in pairs):
        note(f"warning: {seen} of {len(pairs)} questions are among those that the router learned from, so the figures flatter it")
    result = measure(router, pairs)
    if plot is not None:
        from mdsa_local.routing.plots import draw

        draw(result, plot)
    if as_json:
        document(result)
        return
    for key, value in result.items():
        if key not in ("confusion", "reliability"):
            line(f"{key:<12} {figure(value)}")
    names = [*router.domains, "none"]
    true = [row for row in (*names, *unknown) if row in result["confusion"]]
    rows = [[row, *(result["confusion"][row].get(column, 0) for column in names)] for row in true]
    counts(rows, ["true \\ routed", *names])
    if plot is not None:
        line(f"drawn: {plot}")
