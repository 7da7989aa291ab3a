"""Fitting a router: a trained head if it beats the nearest examples, calibration, and thresholds, all by held-out predictions."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdsa_local.errors import ConfigError
from mdsa_local.routing.anchors import Anchors, Floats, Index
from mdsa_local.routing.calibration import Calibration, fit_scope, fit_temperature, log_loss
from mdsa_local.routing.head import Head, softmax, train
from mdsa_local.settings import storage_error

FOLDS, MOST_HELD_OUT = 4, 3000
WEIGHTS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
TEMPERATURES = np.geomspace(0.005, 0.5, 40)
SHARPNESS = np.geomspace(0.2, 4.0, 40)
# At most this share of the questions that belong somewhere is refused.
REFUSED = 0.022
# Of fewer held-out examples no threshold is read off; none is ever lower or higher than these.
LEAST_HELD_OUT = 100
LOWEST, HIGHEST = 0.2, 0.8
# Fewer questions in or out of scope than these say too little to replace the encoder's own calibration.
LEAST_INSIDE, LEAST_OUTSIDE = 20, 5
# A flatter scope tells nothing of what is in it.
LEAST_SLOPE = 2.0
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Thresholds:
    """A route is accepted at or above ``accept`` and withheld below ``ask``; in between it is flagged. ``per_domain`` overrides ``ask``."""

    accept: float = 0.5
    ask: float = 0.35
    per_domain: Mapping[str, float] | None = None

    def of(self, domain: str) -> float:
        """The confidence below which ``domain`` is not chosen."""
        return (self.per_domain or {}).get(domain, self.ask)


@dataclass(frozen=True, slots=True)
class Fit:
    """What :func:`fit` found: the head and its weight beside the evidence (0: none), calibration, thresholds, and a report of figures."""

    head: Head | None
    weight: float
    calibration: Calibration
    thresholds: Thresholds
    report: dict[str, Any]


def mixed(evidence: NDArray[np.floating], opinion: NDArray[np.floating] | None, weight: float, calibration: Calibration) -> NDArray[np.floating]:
    """Shares ``(n, domains)`` from evidence and the head's probabilities in the same order."""
    logits = evidence / calibration.temperature
    if opinion is not None and weight > 0:
        logits = (1 - weight) * logits + weight * np.log(np.maximum(opinion, 1e-9))
    return softmax(logits * calibration.sharpness)


def opinion(head: Head, vectors: Floats, names: Sequence[str]) -> NDArray[np.floating]:
    """The head's probabilities ``(n, domains)`` in the order of ``names``."""
    return head.probabilities(vectors)[:, [head.domains.index(name) for name in names]]


def fit(index: Index, calibration: Calibration, outside: Floats | None = None, *, seed: int = 0, per_domain: bool = False) -> Fit:
    """Learn from the examples of ``index``; ``outside`` are vectors ``(m, d)`` of out-of-scope questions.

    Accuracy and refusals in scope are from predictions on examples that were held out: by folds, or, of many, a part; the share of the
    out-of-scope questions refused is from those the calibration has seen. Raises :class:`ConfigError`.
    """
    vectors, owner, rows = index.examples
    names = index.names
    counts = np.bincount(owner, minlength=len(names))
    if not len(vectors):
        raise ConfigError("no examples to fit on: the registered domains have none", "Add examples to the domains, or pass (text, domain) pairs.")
    learnable = len(names) > 1 and bool((counts >= 4).all())
    rng = np.random.default_rng(seed)
    # An example that is all a domain has cannot be held out.
    usable = np.flatnonzero(index.counts[owner] > 1)
    enough = len(usable) if len(usable) <= MOST_HELD_OUT else min(MOST_HELD_OUT, len(usable) // FOLDS)
    held = np.sort(rng.permutation(usable)[:enough])
    if not len(held):
        return Fit(None, 0.0, calibration, Thresholds(), {"examples": len(vectors), "held_out": 0, "head_weight": 0.0})
    evidence = index.evidence(vectors[held], rows[held])
    labels = owner[held]
    if len(names) > 1:
        calibration = replace(calibration, temperature=fit_temperature(evidence, labels, TEMPERATURES), sharpness=1.0)
    weight, judged = 0.0, None
    if learnable:
        judged = _held_out(vectors, owner, names, held, rng, seed)
        losses = {w: _best_loss(evidence, judged, w, calibration, labels) for w in WEIGHTS}
        weight = min(losses, key=lambda w: losses[w])
    shares = mixed(evidence, judged, weight, calibration)
    if len(names) > 1:
        sharpness = 1 / fit_temperature(np.log(np.maximum(shares, 1e-12)), labels, 1 / SHARPNESS)
        calibration = replace(calibration, sharpness=sharpness)
        shares = mixed(evidence, judged, weight, calibration)
    head = train(vectors, [names[i] for i in owner], seed) if weight > 0 else None
    beyond: NDArray[np.floating] | None = None
    beyond_best = np.zeros(0, np.int64)
    if outside is not None and len(outside):
        table = index.evidence(outside)
        beyond = mixed(table, opinion(head, outside, names) if head else None, weight, calibration)
        if len(held) >= LEAST_INSIDE and len(outside) >= LEAST_OUTSIDE:
            calibration = _scoped(calibration, (evidence.max(1), shares.max(1)), (table.max(1), beyond.max(1)))
        beyond_best = beyond.argmax(axis=1)
        beyond = beyond.max(1) * calibration.in_scope(table.max(1), beyond.max(1))
    best = shares.argmax(axis=1)
    confidence = shares.max(axis=1) * calibration.in_scope(evidence.max(axis=1), shares.max(axis=1))
    # Nothing out of scope was shown, so nothing speaks for letting more in than before.
    thresholds = _thresholds(confidence, best, names, per_domain, Thresholds().ask if beyond is None else LOWEST)

    def needed(chosen: NDArray[np.int64]) -> NDArray[np.floating]:
        return np.array([thresholds.of(names[i]) for i in chosen])

    report = {
        "examples": len(vectors),
        "held_out": len(held),
        "accuracy": round(float((best == labels).mean()), 4),
        "accuracy_nearest": round(float((evidence.argmax(axis=1) == labels).mean()), 4),
        "head_weight": weight,
        "refused": round(float((confidence < needed(best)).mean()), 4),
        "out_of_scope": 0 if beyond is None else len(beyond),
        "out_of_scope_refused": None if beyond is None else round(float((beyond < needed(beyond_best)).mean()), 4),
        "threshold": round(thresholds.ask, 4),
    }
    return Fit(head, weight, calibration, thresholds, report)


def _scoped(
    calibration: Calibration, inside: tuple[NDArray[np.floating], NDArray[np.floating]], outside: tuple[NDArray[np.floating], NDArray[np.floating]]
) -> Calibration:
    """``calibration`` with its scope fitted; without what came out the wrong way round, which too few or contradicting questions can do."""
    scope, slope, sureness = fit_scope(inside, outside)
    if sureness < 0 < slope:
        alone = [(evidence, np.ones_like(share)) for evidence, share in (inside, outside)]
        scope, slope, sureness = fit_scope(alone[0], alone[1])
    if slope < LEAST_SLOPE:
        return calibration
    return replace(calibration, scope=scope, slope=slope, sureness=max(sureness, 0.0))


def _held_out(
    vectors: Floats, owner: NDArray[np.int64], names: Sequence[str], held: NDArray[np.int64], rng: np.random.Generator, seed: int
) -> NDArray[np.floating]:
    """The opinion on each of ``held`` of a head that has not seen it."""
    folds = [held] if len(held) <= len(vectors) // FOLDS else np.array_split(rng.permutation(held), FOLDS)
    judged = np.zeros((len(held), len(names)))
    for fold in folds:
        kept = np.setdiff1d(np.arange(len(vectors)), fold)
        # A domain may lose all its examples to a fold: then nothing is known of it there.
        head = train(vectors[kept], [names[i] for i in owner[kept]], seed)
        known = np.array([names.index(name) for name in head.domains])
        judged[np.ix_(np.searchsorted(held, fold), known)] = head.probabilities(vectors[fold])
    return judged


def _best_loss(
    evidence: NDArray[np.floating], judged: NDArray[np.floating], weight: float, calibration: Calibration, labels: NDArray[np.int64]
) -> float:
    logits = np.log(np.maximum(mixed(evidence, judged, weight, calibration), 1e-12))
    return min(log_loss(logits * sharpness, labels) for sharpness in SHARPNESS[::4])


def _thresholds(confidence: NDArray[np.floating], best: NDArray[np.int64], names: Sequence[str], per_domain: bool, lowest: float) -> Thresholds:
    """``ask`` refuses ``REFUSED`` of what belongs somewhere; ``accept`` flags as many again, and all below one half."""
    if len(confidence) < LEAST_HELD_OUT:
        return Thresholds()
    ask = float(np.clip(np.quantile(confidence, REFUSED), lowest, HIGHEST))
    own = {}
    for i, name in enumerate(names):
        if per_domain and (best == i).sum() >= 1 / REFUSED:
            own[name] = float(np.clip(np.quantile(confidence[best == i], REFUSED), lowest, HIGHEST))
    return Thresholds(float(np.clip(np.quantile(confidence, 2 * REFUSED), 0.5, HIGHEST)), ask, own or None)


@dataclass(frozen=True, slots=True)
class Saved:
    """A fit as it is kept on disk: with the anchors it was made on and the vectors ``(m, d)`` of the out-of-scope questions, if any."""

    fit: Fit
    anchors: dict[str, Anchors]
    outside: Floats | None


def save(path: Path, saved: Saved, encoder: str, domains: str) -> None:
    """Write ``saved`` to ``path`` (``.npz``), atomically, stamped with the encoder's fingerprint and the domains'. Raises :class:`StorageError`."""
    found = saved.fit
    about = {
        "format": FORMAT,
        "encoder": encoder,
        "domains": domains,
        "weight": found.weight,
        "calibration": asdict(found.calibration),
        "thresholds": asdict(found.thresholds),
        "report": found.report,
        "anchors": {name: {"texts": a.texts, "kinds": a.kinds} for name, a in saved.anchors.items()},
        "head": found.head.domains if found.head else None,
    }
    arrays: dict[str, NDArray[Any]] = {f"anchors_{i}": a.vectors.astype(np.float16) for i, a in enumerate(saved.anchors.values())}
    if found.head:
        arrays |= {f"head_{i}": w for i, w in enumerate(found.head.weights)} | {"owner": found.head.owner}
    if saved.outside is not None:
        arrays["outside"] = saved.outside.astype(np.float16)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, allow_pickle=False, **arrays)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise storage_error(error, path) from None


def load(path: Path, encoder: str, domains: str) -> Saved:
    """What :func:`save` wrote. Raises :class:`ConfigError` when it is broken or was made with another encoder or other domains."""
    again = "Fit the router again with `mdsa router fit`, or remove the file."
    try:
        with path.open("rb") as file, np.load(file) as stored:
            about = json.loads(stored["about"].tobytes())
            if about["format"] != FORMAT or about["encoder"] != encoder:
                raise ConfigError(f"{path}: the router was fitted with another encoder or version", again)
            if about["domains"] != domains:
                raise ConfigError(f"{path}: the domains have changed since the router was fitted", again)
            anchors = {
                name: Anchors(tuple(held["texts"]), tuple(held["kinds"]), stored[f"anchors_{i}"].astype(np.float32))
                for i, (name, held) in enumerate(about["anchors"].items())
            }
            if any(not len(a.texts) == len(a.kinds) == len(a.vectors) for a in anchors.values()):
                raise ValueError("texts and vectors do not match")
            head = None
            if about["head"]:
                weights = stored["head_0"], stored["head_1"], stored["head_2"], stored["head_3"]
                head = Head(tuple(about["head"]), stored["owner"], weights)
            outside = stored["outside"].astype(np.float32) if "outside" in stored else None
            fit = Fit(head, float(about["weight"]), Calibration(**about["calibration"]), Thresholds(**about["thresholds"]), dict(about["report"]))
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: not a fitted router: {error}", again) from None
    return Saved(fit, anchors, outside)
