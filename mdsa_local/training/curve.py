"""The log of a training, JSON lines, and its picture. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdsa_local.durable import replacing, write_whole
from mdsa_local.evaluation.plots import figure_class
from mdsa_local.settings import storage_error


class Log:
    """The log of a run. A run that goes on from a checkpoint forgets the lines written after it."""

    def __init__(self, path: Path, step: int) -> None:
        """Raises :class:`StorageError`."""
        self._path = path
        kept = [line for line in read(path) if line["step"] <= step] if path.exists() else []
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))

    def add(self, line: Mapping[str, Any]) -> None:
        """Write a line. Raises :class:`StorageError`."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise storage_error(error, self._path) from None


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last one may be torn by a kill, and is then left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def draw(lines: Sequence[Mapping[str, Any]], path: Path, ends: Mapping[str, float] | None = None) -> None:
    """Losses over tokens as PNG; ``ends`` are the tokens at which each step of the recipe ends.

    Raises :class:`DependencyError` without matplotlib and :class:`StorageError` when ``path`` cannot be written.
    """
    figure = figure_class()(figsize=(9, 4.5), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    at = [line["tokens"] / 1e6 for line in lines]
    loss, answers, led = ([math.nan if line[key] is None else line[key] for line in lines] for key in ("loss", "answer_loss", "lead_accuracy"))
    left.plot(at, loss, color="0.75", linewidth=0.8, label="loss of a step")
    left.plot(at, answers, color="C0", label="loss of answers, running mean")
    right.plot(at, led, color="C2", linewidth=0.9, label="beginning of the quotation right")
    right.set(ylim=(0, 1), ylabel="share")
    left.set(xlabel="million tokens", ylabel="nats a token", ylim=(0, None))
    for name, tokens in (ends or {}).items():
        left.axvline(tokens / 1e6, color="0.5", linewidth=0.8, linestyle=":")
        left.annotate(name, (tokens / 1e6, 1), xycoords=("data", "axes fraction"), ha="right", va="top", fontsize=8, rotation=90)
    left.legend(*(a + b for a, b in zip(left.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True)), fontsize=8)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, format="png")
