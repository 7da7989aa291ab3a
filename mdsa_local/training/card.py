"""The model.yaml of a model folder: of a run, which makes it a model that can be copied to ``$MDSA_HOME/models``; of the encoder, of the judge.

Needs neither torch nor gguf.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mdsa_local.durable import write_whole
from mdsa_local.errors import ConfigError
from mdsa_local.routing.session import digests
from mdsa_local.settings import read_yaml
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
    write_whole(path, yaml.safe_dump(new, sort_keys=False, allow_unicode=True))


def _entry(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"file": file.name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}


def exported_files(folder: Path) -> dict[str, dict[str, Any]]:
    """``sha256`` and ``size_bytes`` of each file of an exported model. Raises :class:`ModelNotFoundError`."""
    known = digests(folder, {}, "Export it again.")
    return {name: {"sha256": digest, "size_bytes": (folder / name).stat().st_size} for name, digest in known.items()}


def refresh(folder: Path, new: str, **lines: str) -> None:
    """Bring sha256 and size of an exported model up to date in the folder's ``model.yaml``, or in ``new`` where there is none, and set the values of
    some keys that stand on a line each. All else in the card, comments too, stays. Raises :class:`ConfigError` for a card without such a line."""
    path = folder / "model.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else new
    values = dict(lines)
    for name, entry in exported_files(folder).items():
        values[f"  {name}"] = f"{{sha256: {entry['sha256']}, size_bytes: {entry['size_bytes']}}}"
    for key, value in values.items():
        line = f"{key}: {value}".replace("\\", r"\\")
        text, found = re.subn(rf"^{re.escape(key)}:.*$", line, text, flags=re.MULTILINE)
        if not found:
            raise ConfigError(
                f"{path}: no line '{key}:' to bring up to date", "Write it on a line of its own, or delete the file to have a new one made."
            )
    write_whole(path, text)
