"""From similarities to probabilities, and how well they keep their word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdsa_local.errors import ConfigError

OUTSIDE_SHARE = 0.08
# The number of anchors a domain for which the temperature of an encoder's own calibration is given.
USUAL = 30
# As how many labelled questions what was believed before them counts.
BELIEVED = 20
# The exponential of more is no number of float32.
MOST_AGAINST = 80.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Maps evidence (soft mean of cosines to the nearest examples of a domain) and the head's opinion to probabilities.

    ``temperature``: how far apart two domains' evidence must be; ``sharpness``: exponent on the mixture of evidence and head.
    ``scope``, ``slope``: the best evidence at which a question is as likely in scope as out of it, and how steeply that changes;
    ``sureness``: how much a doubtful choice among the domains, or two classifiers that differ, speak against being in scope at all.
    ``crowding``: how the temperature falls with the number of anchors, see :meth:`among`; 0 once it was fitted to the domains at hand.
    """

    scope: float = 0.42
    slope: float = 25.0
    temperature: float = 0.05
    sharpness: float = 1.0
    sureness: float = 0.0
    crowding: float = 0.0

    @classmethod
    def read(cls, card: dict[str, Any]) -> Calibration:
        """The calibration that an encoder's ``model.yaml`` carries, or the defaults."""
        try:
            return cls(**card.get("calibration", {}))
        except TypeError as error:
            known = ", ".join(field.name for field in fields(cls))
            raise ConfigError(f"model.yaml of the encoder: calibration: {error}", f"Known keys: {known}.") from None

    def among(self, anchors: float) -> Calibration:
        """The calibration for domains of so many anchors: the more there are, the more the same difference of evidence means."""
        if not self.crowding:
            return self
        return replace(self, temperature=self.temperature * (USUAL / anchors) ** self.crowding, crowding=0.0)

    def in_scope(self, evidence: NDArray[np.floating], sure: NDArray[np.floating]) -> NDArray[np.floating]:
        """Probability that questions with this best evidence ``(n,)``, among whose domains the choice is this ``sure``, belong to any of them."""
        against = self.slope * (self.scope - evidence)
        if self.sureness:
            against = against - self.sureness * np.log(np.maximum(sure, 1e-6))
        probability: NDArray[np.floating] = 1 / (1 + np.exp(np.minimum(against, MOST_AGAINST)))
        return probability

    def in_scope_alone(self, evidence: float, sure: float) -> float:
        """:meth:`in_scope` of one question, in plain numbers."""
        against = self.slope * (self.scope - evidence)
        if self.sureness:
            against -= self.sureness * math.log(max(sure, 1e-6))
        return 1 / (1 + math.exp(min(against, MOST_AGAINST)))


def logistic(design: NDArray[np.floating], y: NDArray[np.floating], weight: NDArray[np.floating], ridge: float = 1e-4) -> NDArray[np.floating]:
    """Coefficients ``(d + 1,)`` of a weighted logistic regression on ``(n, d)``, the intercept last, by Newton steps (Platt 1999)."""
    x = np.concatenate([design, np.ones((len(design), 1))], axis=1).astype(np.float64)
    share = weight / weight.sum()
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 1e-9
    beta = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (share * (y - p)) - penalty * beta
        beta = beta + np.linalg.solve((x * (share * p * (1 - p))[:, None]).T @ x + np.diag(penalty), gradient)
    return beta


def fit_scope(
    inside: tuple[NDArray[np.floating], NDArray[np.floating]],
    outside: tuple[NDArray[np.floating], NDArray[np.floating]],
    outside_share: float = OUTSIDE_SHARE,
) -> tuple[float, float, float]:
    """``(scope, slope, sureness)`` from best evidence and how sure the choice is, ``(n,)`` each, of questions in and out of scope.

    The latter weigh ``outside_share`` of all, however many there are: about that many of the questions of a running system fit nowhere.
    """
    x = np.concatenate([np.stack([e, np.log(np.maximum(s, 1e-6))], axis=1) for e, s in (inside, outside)])
    n, m = len(inside[0]), len(outside[0])
    y = np.concatenate([np.ones(n), np.zeros(m)])
    weight = np.concatenate([np.full(n, (1 - outside_share) / n), np.full(m, outside_share / m)])
    slope, sureness, intercept = logistic(x, y, weight)
    return float(-intercept / slope), float(slope), float(sureness)


def fit_temperature(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    temperatures: NDArray[np.floating],
    believed: NDArray[np.floating] | None = None,
) -> float:
    """That of ``temperatures`` under which ``softmax(logits / t)`` gives the labels the highest likelihood. ``logits`` is ``(n, domains)``; so are
    the probabilities ``believed`` before, where they are given, and count as :data:`BELIEVED` labels: a few that are all right say nothing of how
    sure to be."""
    told = np.eye(logits.shape[1])[labels]
    if believed is not None:
        told += BELIEVED / len(labels) * believed
    return float(min(temperatures, key=lambda temperature: -(told * log_likelihood(logits / temperature)).sum()))


def log_loss(logits: NDArray[np.floating], labels: NDArray[np.int64], weights: NDArray[np.floating] | None = None) -> float:
    """Mean negative log likelihood of ``labels`` under the softmax of ``logits``, weighted where ``weights`` ``(n,)`` are given."""
    return -float(np.average(log_likelihood(logits)[np.arange(len(labels)), labels], weights=weights))


def log_likelihood(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """The logarithm of the softmax of ``logits`` ``(n, domains)``."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: NDArray[np.floating] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


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
