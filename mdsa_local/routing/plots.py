"""Pictures of a router's evaluation. Needs the extra ``plots``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdsa_local.evaluation.plots import figure_class
from mdsa_local.settings import storage_error


def draw(result: dict[str, Any], path: Path) -> None:
    """Reliability diagram and confusion table of :func:`~mdsa_local.routing.evaluation.evaluate`, as PNG.

    Raises :class:`DependencyError` without matplotlib and :class:`StorageError` when ``path`` cannot be written.
    """
    figure_type = figure_class()
    confusion: dict[str, dict[str, int]] = result["confusion"]
    rows = sorted(confusion, key=lambda name: (name == "none", name))
    columns = sorted({name for row in confusion.values() for name in row} | set(rows), key=lambda name: (name == "none", name))
    side = max(4.0, 1.6 + 0.42 * len(columns))
    figure = figure_type(figsize=(4.4 + side, side), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(4.0, side))
    bins = result["reliability"]
    left.plot((0, 1), (0, 1), color="0.7", linestyle="--", linewidth=1)
    left.plot([b["confidence"] for b in bins], [b["right"] for b in bins], color="C0", marker="o", markersize=4)
    most = max(b["n"] for b in bins)
    left.bar([b["confidence"] for b in bins], [0.25 * b["n"] / most for b in bins], width=0.06, color="C0", alpha=0.2)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share that is right", title=f"Reliability (ECE {result['ece']:.3f})")
    left.set_aspect("equal")
    shares = [[confusion[row].get(column, 0) / max(1, sum(confusion[row].values())) for column in columns] for row in rows]
    right.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            if count := confusion[row].get(column, 0):
                right.text(x, y, count, ha="center", va="center", fontsize=7, color="white" if shares[y][x] > 0.55 else "black")
    right.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
    right.set_yticks(range(len(rows)), rows, fontsize=8)
    right.set(xlabel="routed to", ylabel="belongs to", title=f"Confusion ({result['n']} questions)")
    try:
        figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise storage_error(error, path) from None
