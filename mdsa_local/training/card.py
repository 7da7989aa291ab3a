"""The model.yaml of a run's model folder, which makes it a model that can be copied to ``$MDSA_HOME/models``. Needs neither torch nor gguf."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mdsa_local.durable import write_whole
from mdsa_local.settings import read_yaml, storage_error
from mdsa_local.training.workshop import Workshop

VARIANTS = {"q8_0": "int8", "q4_0": "int4"}


def write_card(run: Workshop, files: Sequence[Path] = (), default: str = "") -> None:
    """Write ``model.yaml``, or name more files in it; the first variant is the default unless one is given. Raises :class:`StorageError`."""
    path = run.model / "model.yaml"
    known = read_yaml(path) if path.is_file() else {}
    entries = {**known.get("files", {}), **{VARIANTS[file.stem.rpartition("-")[2]]: _entry(file) for file in files}}
    shape = run.recipe.shape
    new = {
        "name": run.recipe.name,
        "kind": "slm",
        "architecture": {"type": "llama", "layers": shape.layers, "hidden": shape.width, "heads": shape.heads, "intermediate": shape.inner},
        "decoding": "quotes",
        "default": default or known.get("default") or next(iter(entries)),
        "files": entries,
        "made": {"recipe": run.recipe.name, "seed": run.seed, "tokens": run.recipe.tokens},
    }
    try:
        write_whole(path, yaml.safe_dump(new, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise storage_error(error, path) from None


def _entry(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"file": file.name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
