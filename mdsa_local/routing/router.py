"""The router: which domain a question belongs to, how sure, or that none fits."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import ConfigError, UnknownNameError
from mdsa_local.routing.calibration import Calibration, fit_scope, fit_temperature
from mdsa_local.routing.head import Floats, Head, softmax, train
from mdsa_local.types import Route

NEAREST = 5


class TextEncoder(Protocol):
    """What the router needs of an encoder."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors do."""

    def encode(self, texts: list[str]) -> Floats:
        """``(n, d)`` float32, unit length."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """What a domain is recognised by: texts and their vectors ``(n, d)``."""

    texts: tuple[str, ...]
    vectors: Floats


def anchor_texts(domain: DomainConfig) -> tuple[str, ...]:
    """A domain's examples; while it has few, also its keywords, description and name."""
    described = (domain.title or domain.name.replace("_", " "), *([domain.description] if domain.description else []), *domain.keywords)
    return domain.examples if len(domain.examples) >= 4 * NEAREST else (*domain.examples, *described)


def evidence(vectors: Floats, anchors: Floats, *, skip_self: bool = False) -> NDArray[np.floating]:
    """Mean cosine of each of ``(n, d)`` to its nearest anchors ``(m, d)``; ``skip_self`` leaves the closest, itself, out."""
    similarities = vectors @ anchors.T
    first = 1 if skip_self else 0
    # Of few anchors one is near and the rest are not: their mean would say little.
    k = min(max(1, min(NEAREST, similarities.shape[1] // 6)) + first, similarities.shape[1])
    nearest = -np.sort(-np.partition(similarities, -k, axis=1)[:, -k:], axis=1)[:, first:]
    mean: NDArray[np.floating] = nearest.mean(axis=1) if nearest.shape[1] else similarities.mean(axis=1)
    return mean


class IntentRouter:
    """Routes by the nearest examples of each domain and, once :meth:`fit` has seen examples, by a trained head beside them.

    A route is accepted at or above ``accept`` and withheld below ``ask``; in between it is given with a reason that says so.
    Thread-safe: readers see one consistent snapshot.
    """

    def __init__(
        self,
        encoder: TextEncoder | None = None,
        calibration: Calibration | None = None,
        accept: float = 0.5,
        ask: float = 0.35,
        cache: Path | None = None,
    ) -> None:
        if encoder is None:
            from mdsa_local.routing.encoder import Encoder

            loaded = Encoder.load()
            encoder, calibration = loaded, calibration or loaded.calibration
        self._encoder = encoder
        self._calibration = calibration or Calibration()
        self._accept, self._ask = accept, ask
        self._cache = cache
        self._lock = threading.Lock()
        self._anchors: dict[str, Anchors] = {}
        self._head: Head | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the registered domains."""
        return tuple(self._anchors)

    @property
    def calibration(self) -> Calibration:
        """The calibration in force."""
        return self._calibration

    def register(self, domain: DomainConfig) -> None:
        """Add or replace a domain; takes effect with the next question."""
        texts = anchor_texts(domain)
        added = Anchors(texts, self._embed(texts))
        with self._lock:
            self._anchors = {**self._anchors, domain.name: added}
            self._head = None

    def unregister(self, name: str) -> None:
        """Remove a domain. Raises :class:`UnknownNameError`."""
        with self._lock:
            if name not in self._anchors:
                raise UnknownNameError.among("domain", name, self._anchors)
            self._anchors = {key: value for key, value in self._anchors.items() if key != name}
            self._head = None

    def fit(self, examples: Iterable[tuple[str, str | None]] | None = None, seed: int = 0) -> None:
        """Learn from ``(text, domain)`` pairs, domain None for out of scope; from the registered examples when None.

        Given pairs replace the anchors of the domains they name; unknown names are registered. Seeded, no torch.
        """
        if examples is not None:
            pairs = list(examples)
            named = [(text, name) for text, name in pairs if name is not None]
            outside = [text for text, name in pairs if name is None]
            if not named:
                raise ConfigError("no examples to fit on: every line is out of scope", "Give lines with a domain.")
            vectors = self._encoder.encode([text for text, _ in named])
            rows: dict[str, list[int]] = {}
            for i, (_, name) in enumerate(named):
                rows.setdefault(name, []).append(i)
            learned = {name: Anchors(tuple(named[i][0] for i in chosen), vectors[chosen]) for name, chosen in rows.items()}
            with self._lock:
                self._anchors = {**self._anchors, **learned}
        else:
            outside = []
        anchors = self._anchors
        if not anchors:
            raise ConfigError("no examples to fit on: no domain is registered", "Register domains, or pass (text, domain) pairs.")
        everything = np.concatenate([a.vectors for a in anchors.values()])
        labels = [name for name, a in anchors.items() for _ in a.texts]
        head = train(everything, labels, seed) if len(anchors) > 1 else None
        calibration = self._calibrated(anchors, self._encoder.encode(outside) if outside else None)
        with self._lock:
            # A domain registered or removed meanwhile is unknown to this head.
            self._head, self._calibration = (head if self._anchors is anchors else None), calibration

    def _calibrated(self, anchors: dict[str, Anchors], outside: Floats | None) -> Calibration:
        """Temperature and, given out-of-scope vectors, scope, from leave-one-out evidence over at most 3000 anchors."""
        names = list(anchors)
        table, labels = [], []
        for own, name in enumerate(names):
            vectors = anchors[name].vectors[:: max(1, len(anchors[name].vectors) * len(names) // 3000)]
            table.append(np.stack([evidence(vectors, anchors[other].vectors, skip_self=other == name) for other in names], axis=1))
            labels += [own] * len(vectors)
        rows = np.concatenate(table)
        calibration = self._calibration
        if len(names) > 1:
            calibration = replace(calibration, temperature=fit_temperature(rows, np.array(labels)))
        if outside is not None:
            beyond = np.stack([evidence(outside, a.vectors) for a in anchors.values()], axis=1).max(axis=1)
            scope, slope = fit_scope(rows.max(axis=1), beyond)
            calibration = replace(calibration, scope=scope, slope=slope)
        return calibration

    def route(self, text: str, history: Sequence[str] = ()) -> Route:
        """The route of one question. ``history`` holds earlier user turns, oldest first."""
        began = time.perf_counter()
        vector = self._encoder.encode([text])
        return replace(self.route_vector(vector[0]), ms=(time.perf_counter() - began) * 1000)

    def route_vector(self, vector: Floats) -> Route:
        """The route of a question whose unit vector ``(d,)`` is known."""
        began = time.perf_counter()
        names, probabilities, scope = self._probabilities(vector[None, :])
        if not names:
            return Route(None, 0.0, {}, "no domain is registered")
        scores = {name: float(p) for name, p in zip(names, probabilities[0], strict=True)}
        best = max(scores, key=lambda name: scores[name])
        confidence, inside = scores[best], float(scope[0])
        ms = (time.perf_counter() - began) * 1000
        if confidence < self._ask:
            why = "the question resembles no domain's examples" if inside < 0.5 else "several domains fit equally well"
            return Route(None, confidence, scores, f"{why} (best: {best} at {confidence:.2f}, needed {self._ask:.2f})", ms)
        flag = "" if confidence >= self._accept else f"; unsure, below {self._accept:.2f}"
        return Route(best, confidence, scores, f"nearest examples of {best}{flag}", ms)

    def accepts(self, confidence: float) -> bool:
        """Whether a domain is chosen at this confidence."""
        return confidence >= self._ask

    def scores(self, texts: list[str]) -> tuple[tuple[str, ...], NDArray[np.floating]]:
        """Names of domains, and ``(n, domains)`` probabilities in their order; the rest to one is "none of these"."""
        return self._probabilities(self._encoder.encode(texts))[:2]

    def _probabilities(self, vectors: Floats) -> tuple[tuple[str, ...], NDArray[np.floating], NDArray[np.floating]]:
        """Names, their probabilities, and the probability of being in scope: of one snapshot, whatever is registered meanwhile."""
        with self._lock:
            anchors, head, calibration = self._anchors, self._head, self._calibration
        if not anchors:
            return (), np.zeros((len(vectors), 0)), np.zeros(len(vectors))
        table = np.stack([evidence(vectors, a.vectors) for a in anchors.values()], axis=1)
        shares = softmax(table / calibration.temperature)
        if head is not None:
            order = [head.domains.index(name) for name in anchors]
            shares = np.sqrt(shares * head.probabilities(vectors)[:, order])
            shares /= shares.sum(axis=1, keepdims=True)
        scope = calibration.in_scope(table.max(axis=1))
        return tuple(anchors), shares * scope[:, None], scope

    def _embed(self, texts: tuple[str, ...]) -> Floats:
        """Vectors of ``texts``, from the cache when it has them: embedding a domain's examples takes longer than a question may."""
        if self._cache is None or not texts:
            return self._encoder.encode(list(texts))
        key = hashlib.sha256("\0".join((self._encoder.fingerprint, *texts)).encode()).hexdigest()[:32]
        path = self._cache / f"{key}.npy"
        if path.is_file():
            loaded: Floats = np.load(path)
            if loaded.shape[0] == len(texts):
                return loaded
        vectors = self._encoder.encode(list(texts))
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.npy")
            np.save(temporary, vectors)
            temporary.replace(path)
        except OSError:
            # A cache on a read-only or full disk only costs time.
            return vectors
        return vectors
