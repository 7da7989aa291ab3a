"""Variants of one model (INT8, INT4 and the like) side by side: which to use by default, and a picture. Pure, but for the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from mdsa_local.evaluation.plots import figure_class
from mdsa_local.settings import storage_error

# Right on this much less of the questions is worse, however few they are; and so is any difference that chance would hardly make.
POINTS, CHANCE = 0.01, 0.05
# Rates nearer than this are equal: turns of one file differ as much.
SAME_SPEED = 0.1
SHARES = (
    ("key_fact", "key fact"),
    ("key_fact_given_found", "… given it\nwas retrieved"),
    ("citation_precision", "citations:\nprecision"),
    ("abstained_on_unanswerable", "abstains where\nnothing answers"),
    ("unsupported_answers", "unsupported\ncontent ↓"),
)


@dataclass(frozen=True, slots=True)
class Variant:
    """What the choice depends on. ``right`` tells of each answerable question whether its key fact was in the answer; ``texts`` are all answers."""

    name: str
    size_bytes: int
    tokens_per_s: float
    right: tuple[bool, ...]
    texts: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Key facts, 0..1."""
        return sum(self.right) / max(1, len(self.right))


def sign_test(wins: int, losses: int) -> float:
    """The chance of a split at least as uneven of ``wins + losses`` fair coins (two-sided exact sign test)."""
    n, least = wins + losses, min(wins, losses)
    return min(1.0, 2.0 * sum(math.comb(n, k) for k in range(least + 1)) / float(2**n))


def difference(one: Variant, other: Variant) -> dict[str, Any]:
    """How two variants' answers to the same questions differ."""
    wins = sum(a and not b for a, b in zip(one.right, other.right, strict=True))
    losses = sum(b and not a for a, b in zip(one.right, other.right, strict=True))
    return {
        "between": [one.name, other.name],
        "answers_that_differ": sum(a != b for a, b in zip(one.texts, other.texts, strict=True)),
        "key_fact_only": {one.name: wins, other.name: losses},
        "chance": round(sign_test(wins, losses), 4),
    }


def differences(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """:func:`difference` of each pair."""
    return [difference(one, other) for one, other in combinations(variants, 2)]


def choose(variants: Sequence[Variant]) -> tuple[str, str]:
    """The name of the variant to use by default, and why.

    Out are those whose key facts fall behind the best's by more than :data:`POINTS`, or by more than chance explains. Of the others the
    fastest, where speeds within :data:`SAME_SPEED` are equal and the smaller file goes first.
    """
    best = max(variants, key=lambda v: v.share)
    kept, out = list[Variant](), list[Variant]()
    for variant in variants:
        apart = difference(variant, best)
        worse = best.share - variant.share > POINTS or (variant.share < best.share and apart["chance"] < CHANCE)
        (out if worse else kept).append(variant)
    fastest = max(kept, key=lambda v: v.tokens_per_s)
    near = [v for v in kept if v.tokens_per_s >= fastest.tokens_per_s * (1 - SAME_SPEED)]
    chosen = min(near, key=lambda v: v.size_bytes)
    why = f"key facts {100 * chosen.share:.1f} % of {len(chosen.right)}, {chosen.tokens_per_s:.0f} tokens/s, {chosen.size_bytes} bytes"
    for other in (v for v in kept if v is not chosen):
        reason = "as good and as fast, but larger" if other in near else "as good, but slower"
        why += f"; {other.name}: {reason}"
    for other in out:
        why += f"; {other.name}: right less often ({100 * other.share:.1f} %)"
    return chosen.name, why


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Size, memory, speed and shares of every variant as PNG; parts that were not measured stay out.

    Raises :class:`DependencyError` without matplotlib and :class:`StorageError` when ``path`` cannot be written.
    """
    models = report["models"]
    names, colours = [model["name"] for model in models], [f"C{at}" for at in range(len(models))]
    figure = figure_class()(figsize=(14, 4.6), layout="constrained")
    size, memory, speed, shares = figure.subplots(1, 4, width_ratios=(1, 1, 1, 3.4))
    size.bar(names, [model["size_bytes"] / 1e6 for model in models], color=colours)
    size.set_title("file, MB")
    if all("memory" in model for model in models):
        own = [model["memory"]["own_mb"] for model in models]
        memory.bar(names, own, color=colours)
        memory.bar(names, [model["memory"]["file_mb"] for model in models], bottom=own, color=colours, alpha=0.45)
        speed.bar(names, [model["decode_tokens_per_s"] for model in models], color=colours)
    memory.set_title("memory, MB (pale: file pages)", fontsize=9)
    speed.set_title("tokens a second", fontsize=9)
    _shares(shares, [(model["name"], model["answers"]) for model in models if "answers" in model], report.get("without_model"))
    for axes in (size, memory, speed):
        axes.tick_params(axis="x", rotation=30)
    try:
        figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise storage_error(error, path) from None


def _shares(axes: Any, series: list[tuple[str, Mapping[str, Any]]], without: Mapping[str, Any] | None) -> None:
    rows = [*series, *([("no model", without)] if without else [])]
    width = 0.8 / max(1, len(rows))
    for at, (name, answers) in enumerate(rows):
        found = [(x + (at - (len(rows) - 1) / 2) * width, answers[key]) for x, (key, _) in enumerate(SHARES) if answers[key]]
        axes.bar([x for x, _ in found], [share["share"] for _, share in found], width, label=name, color="0.6" if name == "no model" else f"C{at}")
        sure = [(x, share) for x, share in found if "low" in share]
        spread = ([s["share"] - s["low"] for _, s in sure], [s["high"] - s["share"] for _, s in sure])
        axes.errorbar([x for x, _ in sure], [s["share"] for _, s in sure], yerr=spread, fmt="none", ecolor="0.3", elinewidth=0.8, capsize=2)
    axes.set_xticks(range(len(SHARES)), [label for _, label in SHARES], fontsize=8)
    axes.set(ylim=(0, 1), title="answers (↓: less is better), with 95 % intervals")
    if rows:
        axes.legend(fontsize=8)
