"""How good a router is on labelled questions."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdsa_local.errors import InputError
from mdsa_local.routing.calibration import auroc, expected_calibration_error
from mdsa_local.routing.router import IntentRouter

TIMED = 300


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = 10) -> list[dict[str, float]]:
    """For each of ``bins`` equal ranges of confidence that is not empty: mean confidence, share that is right, and how many."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {"confidence": float(confidence[place == b].mean()), "right": float(right[place == b].mean()), "n": int((place == b).sum())}
        for b in range(bins)
        if (place == b).any()
    ]


def evaluate(router: IntentRouter, pairs: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """Measure on ``(text, domain)`` pairs, domain None for out of scope.

    ``accuracy``: share of in-scope questions whose likeliest domain is right, abstaining or not. ``oos_auroc``: how well confidence tells
    in scope from out of it. ``oos_recall``: share of out-of-scope questions refused. ``coverage``: share of in-scope ones not refused.
    Refused is what :meth:`IntentRouter.route` refuses, small talk too, and what is like a question known to belong nowhere.
    ``ece``: calibration error of the confidence over all questions, a refusable question never being right. Times are those of
    :meth:`IntentRouter.route` on single questions. Raises :class:`InputError` without any pairs.
    """
    if not pairs:
        raise InputError("there are no questions to evaluate", "Pass (text, domain) pairs, with None for what belongs to no domain.")
    routes, best = router.decided([text for text, _ in pairs])
    confidence = np.array([route.confidence for route in routes])
    wanted = [domain for _, domain in pairs]
    inside = np.array([domain is not None for domain in wanted])
    right = inside & np.array([a == b for a, b in zip(best, wanted, strict=True)])
    given = np.array([route.domain is not None for route in routes])
    times = []
    for text, _ in pairs[:TIMED]:
        began = time.perf_counter()
        router.route(text)
        times.append((time.perf_counter() - began) * 1000)
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    for domain, route in zip(wanted, routes, strict=True):
        confusion[domain or "none"][route.domain or "none"] += 1
    both = bool(inside.any() and not inside.all())
    return {
        "n": len(pairs),
        "accuracy": float(right[inside].mean()) if inside.any() else None,
        "oos_auroc": auroc(confidence[inside].tolist(), confidence[~inside].tolist()) if both else None,
        "oos_recall": float((~given[~inside]).mean()) if not inside.all() else None,
        "ece": expected_calibration_error(confidence.tolist(), right.tolist()),
        "coverage": float(given[inside].mean()) if inside.any() else None,
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
        "reliability": reliability(confidence, right),
        "confusion": {domain: dict(row) for domain, row in confusion.items()},
    }
