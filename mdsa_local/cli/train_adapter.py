"""``mdsa train adapter``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsa_local.cli.output import Json, document, line, note, progress, try_to_write, waiting
from mdsa_local.errors import DependencyError, InputError

if TYPE_CHECKING:
    from mdsa_local.training.adapter import Outcome

# Neither an error nor done: what was trained is no better, and nothing was changed.
NOT_BETTER = 8


def adapter(
    domain: Annotated[str, typer.Option("--domain", "-d", help="The domain whose answers are to become better.")],
    data: Annotated[Path, typer.Option("--data", help='JSON lines {"question", "answer"} with "passages" or "context" if you have them.')],
    base: Annotated[str, typer.Option("--base", help="Model reference, GGUF file or Hugging Face folder; the domain's own model without it.")] = "",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Times through the pairs; the best of them is kept.")] = 4,
    rank: Annotated[int, typer.Option("--rank", min=1, max=256, help="Rank of the adapter's matrices.")] = 16,
    rate: Annotated[float, typer.Option("--rate", min=1e-7, max=1.0, help="Highest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the split and the training.")] = 0,
    llama_cpp: Annotated[
        Path | None, typer.Option("--llama-cpp", help="For a Hugging Face folder: llama.cpp's source tree, for its converters.")
    ] = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="Also write the adapter to this file, whether it wins or not.")] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a LoRA adapter of a domain's model, and install it if it answers held-out questions better.

    Exits with 0 when it is installed and with 8 when it is no better; the domain is then as it was. Needs the extra train.
    """
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.settings import expanded

    try:
        with waiting("loading what trains"):
            import peft as _  # noqa: F401

            from mdsa_local.training.adapter import train_adapter
            from mdsa_local.training.lora import Options
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("mdsa_local"):
            raise
        raise DependencyError(f"training needs {error.name}", 'Install it with: pip install "mdsa-local[train]"') from None
    if keep is not None:
        try_to_write(keep := expanded(keep, InputError))
    options = Options(rank=rank, alpha=2.0 * rank, rate=rate, epochs=epochs, seed=seed)
    with TinyBERTOrchestrator() as orchestrator:
        outcome = train_adapter(orchestrator, domain, expanded(data, InputError), base, options, llama_cpp=llama_cpp, keep=keep, progress=progress)
    if as_json:
        document(outcome.to_dict())
    else:
        _show(outcome)
    if outcome.installed is None:
        raise typer.Exit(NOT_BETTER)


def _show(outcome: Outcome) -> None:
    if outcome.drawn < outcome.read:
        note(f"warning: of {outcome.read} pairs {outcome.drawn} were drawn by chance; the others are not used")
    for reason, count in outcome.left_out.items():
        note(f"warning: {count} pairs left out: {reason}")
    line(f"{outcome.trained_on} pairs to train on, {outcome.held_out} held out, {outcome.seconds:.0f} s")
    for epoch in outcome.curve:
        trained = "" if epoch.training is None else f", {epoch.training:.4f} while training"
        line(f"epoch {epoch.number}: loss {epoch.kept_aside:.4f} on pairs kept aside{trained}")
    line(f"{'held out':<18} {'loss':>8} {'answer F1':>10}")
    rows = ((outcome.base, outcome.before), ("the adapter of now", outcome.present), ("with the adapter", outcome.after))
    for name, figures in rows:
        if figures is None:
            continue
        line(f"{name[-18:]:<18} {figures.loss:>8.4f} {figures.answer_f1:>10.4f}")
    done = outcome.installed
    if done is None:
        line(f"Not installed: the adapter is not better. {outcome.domain} answers as before.")
        return
    if done.copied:
        line(f"{outcome.domain} ships with the product: its folder was copied to {done.folder} and is used from there from now on.")
    if done.before.get("adapter"):
        line(f"The adapter before it, {done.before['adapter']}, is still there.")
    line(f"Installed: {done.adapter}, named in {done.folder / 'domain.yaml'}.")
