"""From similarities to probabilities, and how well they keep their word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdsa_local.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Calibration:
    """Maps evidence (mean cosine to the nearest examples of a domain) to probabilities.

    ``scope``: the evidence at which a question is as likely in scope as out of it; ``slope``: how steeply that changes;
    ``temperature``: how far apart two domains' evidence must be.
    """

    scope: float = 0.42
    slope: float = 25.0
    temperature: float = 0.05

    @classmethod
    def read(cls, card: dict[str, Any]) -> Calibration:
        """The calibration that an encoder's ``model.yaml`` carries, or the defaults."""
        try:
            return cls(**card.get("calibration", {}))
        except TypeError as error:
            raise ConfigError(f"model.yaml of the encoder: calibration: {error}", "Known keys: scope, slope, temperature.") from None

    def in_scope(self, evidence: NDArray[np.floating]) -> NDArray[np.floating]:
        """Probability that a question with this best evidence belongs to any domain."""
        probability: NDArray[np.floating] = 1 / (1 + np.exp(-self.slope * (evidence - self.scope)))
        return probability


def fit_scope(inside: NDArray[np.floating], outside: NDArray[np.floating]) -> tuple[float, float]:
    """``(scope, slope)`` by logistic regression with both sides weighing the same, in closed Newton steps (Platt 1999)."""
    x = np.concatenate([inside, outside]).astype(np.float64)
    y = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))])
    share = np.concatenate([np.full(len(inside), 0.5 / len(inside)), np.full(len(outside), 0.5 / len(outside))])
    design = np.stack([x, np.ones_like(x)], axis=1)
    beta = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ beta))
        gradient = design.T @ (share * (y - p)) - 1e-4 * beta * np.array([1.0, 0.0])
        hessian = (design * (share * p * (1 - p))[:, None]).T @ design + np.diag([1e-4, 1e-9])
        beta = beta + np.linalg.solve(hessian, gradient)
    return float(-beta[1] / beta[0]), float(beta[0])


def fit_temperature(evidence: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature under which ``softmax(evidence / t)`` gives the labels the highest likelihood. ``evidence`` is ``(n, domains)``."""

    def loss(temperature: float) -> float:
        scaled = evidence / temperature
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]))

    return float(min(np.geomspace(0.005, 0.5, 60), key=loss))


def auroc(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Chance that a random inside score exceeds a random outside one; ties count half (Mann-Whitney)."""
    scores = np.concatenate([np.asarray(inside), np.asarray(outside)])
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = len(inside), len(outside)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def expected_calibration_error(confidence: Sequence[float], correct: Sequence[bool], bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by their size (Guo et al. 2017)."""
    stated, right = np.asarray(confidence), np.asarray(correct, dtype=float)
    place = np.minimum((stated * bins).astype(int), bins - 1)
    return float(sum(abs(stated[place == b].mean() - right[place == b].mean()) * (place == b).mean() for b in range(bins) if (place == b).any()))
