"""A picture of several models' answers. Needs the extra ``plots``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import DependencyError
from mdsa_local.settings import storage_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = (
    ("key_fact", "key fact\nin the answer"),
    ("key_fact_given_found", "… given it\nwas retrieved"),
    ("citation_precision", "citations:\nprecision"),
    ("citation_recall", "citations:\nrecall"),
    ("abstained_on_unanswerable", "abstains where\nnothing answers"),
    ("abstained_on_answerable", "abstains though\nit is there ↓"),
    ("unsupported_answers", "unsupported\ncontent ↓"),
)


def figure_class() -> type[Figure]:
    """Matplotlib's figure. Raises :class:`DependencyError` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("drawing needs matplotlib", 'Install it with: pip install "mdsa-local[plots]"') from None
    return Figure


def draw(result: dict[str, Any], path: Path) -> None:
    """The shares of every model side by side with their 95 % intervals, and key facts by knowledge base, as PNG. ↓: less is better.

    Raises :class:`DependencyError` without matplotlib and :class:`StorageError` when ``path`` cannot be written.
    """
    models = result["models"]
    kinds = [kind for kind in ("own", "shared", "both") if kind in result["questions"]["by_kind"]]
    figure = figure_class()(figsize=(13, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(len(BARS), 3), sharey=True)
    _bars(left, [(model["model"], [model[key] for key, _ in BARS]) for model in models], [label for _, label in BARS])
    _bars(right, [(model["model"], [model["by_kind"][kind]["key_fact"] for kind in kinds]) for model in models], kinds)
    asked = result["questions"]
    left.set(ylim=(0, 1), ylabel="share", title=f"{asked['answerable']} answerable and {asked['unanswerable']} unanswerable questions")
    right.set_title("key fact, by knowledge base")
    left.legend(fontsize=8, loc="upper right")
    try:
        figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise storage_error(error, path) from None


def _bars(axes: Any, series: list[tuple[str, list[dict[str, float] | None]]], labels: list[str]) -> None:
    """One group of bars for each label, one bar for each series; what could not be counted has none."""
    width = 0.8 / max(1, len(series))
    for at, (name, values) in enumerate(series):
        places = [x + (at - (len(series) - 1) / 2) * width for x in range(len(values))]
        axes.bar(places, [value["share"] if value else 0.0 for value in values], width, label=name, color=f"C{at}")
        # A mean has no interval.
        sure = [(x, value) for x, value in zip(places, values, strict=True) if value and "low" in value]
        middle = [value["share"] for _, value in sure]
        spread = ([value["share"] - value["low"] for _, value in sure], [value["high"] - value["share"] for _, value in sure])
        axes.errorbar([x for x, _ in sure], middle, yerr=spread, fmt="none", ecolor="0.3", elinewidth=0.8, capsize=2)
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
