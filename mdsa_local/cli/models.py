"""``mdsa models``: model files on disk, and those that could be there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsa_local.cli.output import Json, StatusLine, document, line, note, table, waiting

if TYPE_CHECKING:
    from mdsa_local.runtime.catalog import ModelFile
    from mdsa_local.runtime.download import Progress
    from mdsa_local.runtime.offers import Catalogue
    from mdsa_local.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Model files: list, show, fit, pull, add, rm, quantize.")
Name = Annotated[str, typer.Argument(help="Name of a model, as `mdsa models list` shows it.", show_default=False)]
NewName = Annotated[str, typer.Option("--name", help="What to call it; from the file's name unless given.", show_default=False)]
NO_TEMPLATE = "it has no chat template, so it cannot answer questions; use its 'instruct' or 'chat' build"


def _catalogue() -> Catalogue:
    from mdsa_local.runtime.offers import read_catalogue
    from mdsa_local.settings import shipped

    return read_catalogue(shipped("models") / "catalog.yaml")


def _budget(settings: Settings) -> tuple[int, int, float]:
    """Bytes of the memory budget, bytes free now, and gigabytes installed, or a container's limit."""
    from mdsa_local.runtime.hardware import HardwareDetector, available_bytes, memory_budget_bytes

    return memory_budget_bytes(settings.memory_budget_mb), available_bytes(), HardwareDetector().memory_bytes / 1e9


def _downloading(what: str) -> Progress:
    """Progress for stderr: bytes, rate and time left. What an earlier download left does not count for the rate."""
    from mdsa_local.runtime.residency import describe_bytes

    status, first = StatusLine(), -1

    def tell(done: int, total: int) -> None:
        nonlocal first
        # What is found damaged after all begins anew.
        first = done if first < 0 or done < first else first

        def text(seconds: float) -> str:
            rate = (done - first) / max(seconds, 1e-6)
            left = f", {describe_bytes(int(rate))}/s, {(total - done) / rate:.0f} s left" if rate >= 1 and done < total else ""
            return f"{what}: {describe_bytes(done)} of {describe_bytes(total)}{left}"

        status.tell(text, last=done >= total)

    return tell


def _installed(settings: Settings) -> list[dict[str, Any]]:
    """Each model file with what its header says. A file with two names, ``nano`` and ``nano-int8``, is one row."""
    from mdsa_local.errors import ModelError
    from mdsa_local.runtime import llamacpp
    from mdsa_local.runtime.catalog import known
    from mdsa_local.runtime.gguf import read_gguf

    names: dict[Path, list[str]] = {}
    for name, model in known(settings.model_dirs).items():
        names.setdefault(model.path, []).append(name)
    rows = []
    for path, called in sorted(names.items(), key=lambda item: item[1]):
        row: dict[str, Any] = {"name": max(called, key=len), "also": min(called, key=len) if len(called) > 1 else "", "path": str(path)}
        try:
            info = read_gguf(path)
            row |= {
                "quantization": info.quantization,
                "parameters": info.n_parameters,
                "size_bytes": info.size_bytes,
                "context_tokens": info.context_length,
                "memory_bytes": llamacpp.estimate_bytes(str(path), settings),
                "problem": "" if info.has_chat_template else NO_TEMPLATE,
            }
        except ModelError as error:
            row["problem"] = str(error)
        rows.append(row)
    return rows


@app.command("list")
def list_(
    catalogue: Annotated[bool, typer.Option("--catalog", help="What can be pulled, in place of what is installed.")] = False, as_json: Json = False
) -> None:
    """List the models on this machine: shipped, pulled and added ones."""
    from mdsa_local.runtime.residency import describe_bytes
    from mdsa_local.settings import Settings

    if catalogue:
        offers = _catalogue().models
        if as_json:
            document([{"name": name, **offer.model_dump(mode="json")} for name, offer in offers.items()])
            return
        table([(n, f"{o.parameters_b:g} B", ", ".join(o.files), o.licence, o.good_for) for n, o in offers.items()],
              ("name", "parameters", "files", "licence", "good for"))  # fmt: skip
        return
    rows = _installed(Settings.load())
    if as_json:
        document(rows)
        return
    shown = [
        (
            row["name"] + (f" ({row['also']})" if row["also"] else ""),
            row.get("quantization", "?"),
            describe_bytes(row["size_bytes"]) if "size_bytes" in row else "?",
            str(row.get("context_tokens", "?")),
            describe_bytes(row["memory_bytes"]) if "memory_bytes" in row else "?",
            row["problem"] or row["path"],
        )
        for row in rows
    ]
    table(shown, ("name", "quantised", "file", "context", "memory", "where"))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a model, path to a .gguf, or name in the catalogue.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show a model: architecture, parameters, quantisation, context, template, licence, memory."""
    from mdsa_local.errors import ModelNotFoundError
    from mdsa_local.runtime.offers import find_offer
    from mdsa_local.runtime.residency import describe_bytes
    from mdsa_local.runtime.shelf import find_source
    from mdsa_local.settings import Settings

    settings, catalogue = Settings.load(), _catalogue()
    model, _, variant = name.partition(":")
    try:
        # A file of the catalogue is installed as NAME-FILE.
        found = find_source(f"{model}-{variant.lower()}" if variant and model in catalogue.models else name, settings)
    except ModelNotFoundError:
        if model not in catalogue.models:
            raise
        facts = {"name": name, "installed": False, **find_offer(catalogue, name)[0].model_dump(mode="json")}
    else:
        facts = _facts(found, settings)
    if as_json:
        document(facts)
        return
    files = facts.pop("files", {})
    for key, value in facts.items():
        line(f"{key.replace('_', ' '):<16} {describe_bytes(value) if key.endswith('_bytes') else value}")
    for file, offered in files.items():
        line(f"{f'file {file}':<16} {offered['file']}, about {offered['size_gb']:g} GB")


def _facts(model: ModelFile, settings: Settings) -> dict[str, Any]:
    from mdsa_local.runtime import llamacpp
    from mdsa_local.runtime.gguf import read_gguf
    from mdsa_local.runtime.metadata import metadata_texts
    from mdsa_local.settings import read_yaml

    info = read_gguf(model.path)
    texts = metadata_texts(model.path, ("general.license", "general.license.name", "general.basename", "tokenizer.chat_template"))
    card = read_yaml(model.path.parent / "model.yaml") if (model.path.parent / "model.yaml").is_file() and model.sha256 else {}
    template = texts.get("tokenizer.chat_template", "")
    return {
        "name": model.name,
        "installed": True,
        "path": str(model.path),
        "title": info.name,
        "architecture": info.architecture,
        "layers": info.n_layers,
        "width": info.embedding_length,
        "heads": f"{info.n_heads}, {info.n_kv_heads} of keys and values",
        "vocabulary": info.vocabulary_size,
        "parameters": info.n_parameters,
        "quantization": info.quantization,
        "context_tokens": info.context_length,
        "size_bytes": info.size_bytes,
        "memory_bytes": llamacpp.estimate_bytes(str(model.path), settings),
        "template": f"{len(template)} characters" if template else f"none: {NO_TEMPLATE}",
        "licence": card.get("licence") or texts.get("general.license.name") or texts.get("general.license") or "not stated in the file",
        "sha256": model.sha256 or "not recorded",
        "source": model.source,
    }


@app.command()
def fit(
    names: Annotated[list[str] | None, typer.Argument(help="Names in the catalogue; all unless given.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Say, before any download, which files of the catalogue fit this machine, and with which context."""
    from mdsa_local.runtime.offers import find_offer, fit
    from mdsa_local.runtime.residency import describe_bytes
    from mdsa_local.settings import Settings

    catalogue = _catalogue()
    settings = Settings.load()
    budget, available, installed_gb = _budget(settings)
    chosen = [(name.partition(":")[0], find_offer(catalogue, name)[0]) for name in names] if names else list(catalogue.models.items())
    default = catalogue.default_for(installed_gb)
    rows = [(name, fit(offer, variant, budget, available, settings.parallel)) for name, offer in chosen for variant in offer.files]
    if as_json:
        fits = [
            {
                "name": name,
                "file": r.variant,
                "verdict": r.verdict,
                "context_tokens": r.context,
                "size_bytes": r.size_bytes,
                "memory_bytes": r.memory_bytes,
            }
            for name, r in rows
        ]
        document({"memory_budget_bytes": budget, "available_bytes": available, "default": default, "fits": fits})
        return
    line(f"memory budget {describe_bytes(budget)}, free now {describe_bytes(available)}; sizes are approximate until a file is pulled")
    shown = [
        (f"{name}:{r.variant}", describe_bytes(r.size_bytes), r.verdict, str(r.context) if r.context else "-", describe_bytes(r.memory_bytes))
        for name, r in rows
    ]
    table(shown, ("name", "file", "fits", "context", "memory"))
    line(f"default for this machine: {default}" if default else "this machine is smaller than any the catalogue has a default for")


@app.command()
def pull(
    ref: Annotated[str, typer.Argument(help="Name in the catalogue, perhaps with :file, or hf://owner/repository/file.gguf.", show_default=False)],
    name: NewName = "",
    sha256: Annotated[str, typer.Option("--sha256", help="What the file's SHA-256 has to be.", show_default=False)] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Another host to which the hub may redirect.", show_default=False)
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Even if it is larger than the memory budget.")] = False,
    as_json: Json = False,
) -> None:
    """Download a model file; run again, it goes on where it stopped."""
    from mdsa_local.errors import ModelNotFoundError
    from mdsa_local.runtime import shelf
    from mdsa_local.runtime.download import Fetcher
    from mdsa_local.runtime.offers import find_offer
    from mdsa_local.settings import Settings

    settings = Settings.load()
    if "://" in ref:
        file, variant, facts = shelf.HubFile.parse(ref), "", {}
        name, variant = name or shelf.plain_name(file.file_name), shelf.variant_of(file.file_name)
    else:
        try:
            offer, variant = find_offer(_catalogue(), ref)
        except ModelNotFoundError as error:
            error.hint += " Any other file of the hub: hf://owner/repository/file.gguf."
            raise
        file, facts = shelf.HubFile(offer.repository, "main", offer.files[variant].file), {"licence": offer.licence, "description": offer.good_for}
        name = name or ref.partition(":")[0]
    hosts = (*shelf.storage_hosts(settings.hub_url), *(allow_host or ()))
    with Fetcher(settings.hub_url, os.environ.get("HF_TOKEN", ""), hosts) as fetcher:
        model = shelf.pull(
            file, name, variant, settings, fetcher, facts=facts, sha256=sha256, anyway=anyway, progress=_downloading(f"{name}-{variant}")
        )
    _say(model, name, settings, as_json)


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="A GGUF file. It stays where it lies.", show_default=False)], name: NewName = "", as_json: Json = False
) -> None:
    """Make a GGUF file known by a name, without copying it."""
    from mdsa_local.runtime import shelf
    from mdsa_local.settings import Settings

    name = name or shelf.plain_name(path.name)
    settings = Settings.load()
    _say(shelf.add(path, name, settings, _downloading("hashing")), name, settings, as_json)


@app.command("remove", hidden=True)
@app.command()
def rm(name: Name, as_json: Json = False) -> None:
    """Remove a model of yours, or one file of it as NAME-FILE. A file that was added stays where it lies."""
    from mdsa_local.runtime import shelf
    from mdsa_local.runtime.residency import describe_bytes
    from mdsa_local.settings import Settings

    files, freed = shelf.remove(name, Settings.load())
    if as_json:
        document({"removed": name, "files": [str(path) for path in files], "freed_bytes": freed})
    else:
        line(f"removed {name}, freed {describe_bytes(freed)}")


@app.command("quantise", hidden=True)
@app.command()
def quantize(
    source: Annotated[str, typer.Argument(help="An F16, BF16 or F32 model: name or path.", show_default=False)],
    kind: Annotated[str, typer.Argument(help="Q8_0, Q5_K_M, Q4_K_M or Q4_0.", show_default=False)],
    name: NewName = "",
    as_json: Json = False,
) -> None:
    """Make a smaller file of a model, by llama.cpp."""
    from mdsa_local.runtime import shelf
    from mdsa_local.settings import Settings

    settings = Settings.load()
    model = shelf.find_source(source, settings)
    name = name or shelf.plain_name(model.path.name)
    made = shelf.quantize(model, kind, name, settings, working=lambda: waiting(f"quantising {model.path.name}"))
    _say(made, name, settings, as_json)


def _say(model: ModelFile, name: str, settings: Settings, as_json: bool) -> None:
    from mdsa_local.runtime.catalog import known
    from mdsa_local.runtime.gguf import read_gguf

    info = read_gguf(model.path)
    if as_json:
        document(
            {"name": model.name, "path": str(model.path), "sha256": model.sha256, "size_bytes": info.size_bytes, "quantization": info.quantization}
        )
    else:
        # A model's own name is that of the file that came first.
        called = name if known(settings.model_dirs).get(name, model).path == model.path else model.name
        line(f'{model.name} is ready: mdsa ask --model {called} "...", or `default_model: {called}` in config.yaml for every domain without its own')
    if not info.has_chat_template:
        note(f"note: {NO_TEMPLATE}")
