"""A run folder: where each step of the small model's making leaves what the next one takes, and what the run was begun with.

    run.json          recipe, seed, length: fixed when the run begins
    tokenizer.json    made by ``tokenizer``
    pretrain.ckpt     made by ``pretrain``; ``ground.ckpt`` by ``ground``; each with the one before as ``.previous``
    loss.jsonl        a line every few steps; ``loss.png`` is its picture
    model/            GGUF files and model.yaml: made by ``export`` and ``quantize``
    report.json       made by ``evaluate``, with ``report.png``

Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdsa_local.durable import only_one, write_whole
from mdsa_local.errors import InputError, StorageError
from mdsa_local.settings import storage_error
from mdsa_local.training.recipe import Recipe, read_recipe, recipe_of

DEFAULT_RECIPE = "nano"


@dataclass(frozen=True, slots=True)
class Workshop:
    """An open run folder, with what it was begun with."""

    folder: Path
    recipe: Recipe
    seed: int

    @property
    def tokenizer(self) -> Path:
        """Its tokenizer."""
        return self.folder / "tokenizer.json"

    @property
    def log(self) -> Path:
        """Its losses."""
        return self.folder / "loss.jsonl"

    @property
    def picture(self) -> Path:
        """Their picture."""
        return self.folder / "loss.png"

    @property
    def model(self) -> Path:
        """The folder of its GGUF files."""
        return self.folder / "model"

    def checkpoint(self, step: str) -> Path:
        """Where ``pretrain`` or ``ground`` keeps its state."""
        return self.folder / f"{step}.ckpt"

    @property
    def ends(self) -> dict[str, float]:
        """The tokens at which each step ends."""
        return {step: self.recipe.tokens * self.recipe.end_of(step) for step in ("pretrain", "ground")}


@contextmanager
def opened(folder: Path, recipe: str | None = None, seed: int | None = None, tokens: int | None = None, *, begin: bool = True) -> Iterator[Workshop]:
    """Open a run, or begin one, unless ``begin`` is False; what is None is as the run has it. Only one process may have it open.

    Raises :class:`InputError` when the run was begun with something else, or not at all, :class:`ConfigError` for a wrong recipe,
    :class:`StorageError`.
    """
    wanted = read_recipe(recipe) if recipe else None
    if not begin and not (folder / "run.json").is_file():
        raise InputError(f"{folder}: no run was begun in it", "Give the folder of yours with --run, or begin one: mdsa train tokenizer.")
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(only_one(folder / ".lock", folder))
            run = _begun(folder, wanted, seed, tokens)
        except OSError as error:
            raise storage_error(error, folder) from None
        yield run


def _begun(folder: Path, recipe: Recipe | None, seed: int | None, tokens: int | None) -> Workshop:
    path = folder / "run.json"
    if not path.is_file():
        recipe = recipe or read_recipe(DEFAULT_RECIPE)
        recipe = recipe_of({**recipe.model_dump(), "tokens": tokens or recipe.tokens}, "--tokens")
        run = Workshop(folder, recipe, seed or 0)
        write_whole(path, json.dumps({"seed": run.seed, "recipe": run.recipe.model_dump(mode="json")}, indent=2) + "\n")
        return run
    begun = _read(path)
    run = Workshop(folder, recipe_of(begun["recipe"], str(path)), begun["seed"])
    if recipe and (given := recipe.model_copy(update={"tokens": run.recipe.tokens})) != run.recipe:
        raise _other(folder, "recipe", difference(run.recipe.model_dump(), given.model_dump()))
    for name, wanted, had in (("seed", seed, run.seed), ("tokens", tokens, run.recipe.tokens)):
        if wanted is not None and wanted != had:
            raise _other(folder, name, f"{had}, now {wanted}")
    return run


def _read(path: Path) -> dict[str, Any]:
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(begun, dict) and isinstance(begun.get("recipe"), dict) and isinstance(begun.get("seed"), int):
            return begun
    except ValueError:
        pass
    raise StorageError(f"{path}: damaged", "Begin again in another folder, or put back the file with the recipe and seed of the run.")


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first key in which two recipes differ, with both values."""
    key = next(key for key in before if before[key] != now.get(key))
    return f"{key} {before[key]}, now {now.get(key)}"


def _other(folder: Path, name: str, what: str) -> InputError:
    return InputError(
        f"{folder}: this run was begun with another {name}: {what}", "Leave the option out to go on with it, or give another --run folder."
    )
