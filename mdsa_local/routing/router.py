"""The router: which domain a question belongs to, how sure that is, or that none fits."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mdsa_local.domains.config import NO_CONFIG, DomainConfig
from mdsa_local.errors import ConfigError, InputError, UnknownNameError, did_you_mean, expected
from mdsa_local.routing import fitting, small_talk, splitting
from mdsa_local.routing.anchors import Anchors, Floats, Index, TextEncoder, anchor_texts, described, known_by
from mdsa_local.routing.calibration import Calibration
from mdsa_local.routing.classifier import Classifier
from mdsa_local.routing.encoder import clean_text, remembering
from mdsa_local.routing.fitting import Fit, Thresholds
from mdsa_local.routing.labelled import Row, pairs
from mdsa_local.routing.reading import Reading, Snapshot, scored
from mdsa_local.types import Part, Route, RouteExplanation

if TYPE_CHECKING:
    from mdsa_local.settings import Settings

logger = logging.getLogger(__name__)
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Collision:
    """An example of ``domain`` whose evidence for itself, ``own``, is below that for domain ``other``, ``others``; -1..1."""

    domain: str
    text: str
    other: str
    own: float
    others: float


class IntentRouter:
    """Routes by the nearest examples of each domain and, once fitted, by a trained head beside them where that is better.

    A route is accepted at or above ``accept`` and withheld below ``ask``; in between it is given with a reason that says so.
    Thread-safe: every question sees one consistent snapshot.

    Args:
        encoder, calibration: None for the configured encoder, and for the encoder's own; an encoder with a ``classifier`` is routed with that.
        accept, ask: thresholds of the confidence, 0..1, else :class:`ConfigError`; None for those of the fit, or 0.5 and 0.35 before one.
        cache: folder that keeps vectors of examples from run to run.
        background: refit the head in a thread when domains change; :meth:`settle` waits for it.
        closed: :meth:`fit` registers no names, as in an orchestrator, which has to know what it asks.
    """

    def __init__(
        self,
        encoder: TextEncoder | None = None,
        calibration: Calibration | None = None,
        accept: float | None = None,
        ask: float | None = None,
        cache: Path | None = None,
        *,
        background: bool = False,
        closed: bool = False,
    ) -> None:
        for name, threshold in (("accept", accept), ("ask", ask)):
            if threshold is not None and not (isinstance(threshold, Real) and 0 <= threshold <= 1):
                raise ConfigError(f"{name} cannot be {threshold!r:.60}", "Give a confidence, 0 to 1, or None for that of the fit.")
        if encoder is None:
            from mdsa_local.routing.encoder import Encoder

            encoder = Encoder.load()
        self._encoder = encoder
        self._classifier: Classifier | None = getattr(encoder, "classifier", None)
        self._calibration: Calibration = calibration or getattr(encoder, "calibration", None) or Calibration()
        self._accept, self._ask = accept, ask
        # Why words stand in for the encoder, where they do.
        self._degraded: str = getattr(encoder, "reason", "")
        self._cache = cache
        self._background, self._closed = background, closed
        self._lock = threading.Lock()
        self._now = Snapshot(Index({}), Fit(None, 0.0, self._calibration, Thresholds(), {}), self._calibration)
        # What was fitted last, and what :meth:`fit` or :meth:`restore` gave last: what a refit in the background finds must not replace that.
        self._fitted = self._now
        self._asked: Snapshot | None = None
        # What holds whenever the domains are as they were then: what was asked for, or before that those that no fit was to follow.
        self._settled: Snapshot | None = None
        self._options: dict[str, Any] = {"seed": 0, "per_domain": False}
        # What the domains are known by beside examples.
        self._described: dict[str, list[tuple[str, str]]] = {}
        # By what texts the domains were registered, and by which when :meth:`fit` or :meth:`restore` learned more of them.
        self._given: dict[str, list[tuple[str, str]]] = {}
        self._given_then: dict[str, list[tuple[str, str]]] = {}
        self._refitting: threading.Thread | None = None

    @classmethod
    def for_settings(
        cls,
        settings: Settings,
        encoder: TextEncoder,
        calibration: Calibration,
        cache: Path | None = None,
        *,
        background: bool = False,
        closed: bool = False,
    ) -> Self:
        """A router with the thresholds that somebody set; their defaults stand back for those of a fit."""
        accept, ask = (
            getattr(settings, name) if name in settings.model_fields_set else None for name in ("confidence_threshold", "use_reasoning_threshold")
        )
        return cls(encoder, calibration, accept, ask, cache, background=background, closed=closed)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the registered domains."""
        return self._now.index.names

    @property
    def calibration(self) -> Calibration:
        """The calibration in force."""
        return self._now.fit.calibration

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds in force: those given to the constructor go before those of the fit."""
        return self._thresholds(self._now)

    @property
    def report(self) -> dict[str, Any]:
        """Figures of the last fit; empty before one."""
        return dict(self._now.fit.report)

    @property
    def examples(self) -> dict[str, int]:
        """How many examples each domain has, those learned included."""
        return {name: len(anchors.examples) for name, anchors in self._now.index.anchors.items()}

    @property
    def texts(self) -> frozenset[str]:
        """All that the domains are known by, and the questions known to belong to none of them."""
        now = self._now
        return frozenset((*now.index.texts, *(now.outside.texts if now.outside else ())))

    def register(self, domain: DomainConfig) -> None:
        """Add or replace a domain; takes effect with the next question. One known by the same texts as before keeps what was learned for it."""
        self.register_all([domain])

    def register_all(self, domains: Iterable[DomainConfig], *, refit: bool = True) -> None:
        """Add or replace several domains at once, as :meth:`register` does one. ``refit``: have the head follow, when the router was made with
        ``background``."""
        domains = list(domains)
        for domain in domains:
            expected(domain, DomainConfig, "the domain", NO_CONFIG, ConfigError)
        present, given = self._now.index.anchors, {domain.name: anchor_texts(domain) for domain in domains}
        made = {name: Anchors.made(texts, self._encoder, self._cache, present.get(name)) for name, texts in given.items()}
        with self._lock:
            added = {name: self._learned(name, texts) or made[name] for name, texts in given.items()}
            self._described |= {domain.name: described(domain) for domain in domains}
            self._given |= given
            self._change({**self._now.index.anchors, **added}, refit)
            if not refit and self._asked is None:
                self._settled = self._now

    def _learned(self, name: str, texts: list[tuple[str, str]]) -> Anchors | None:
        """What a domain is known by that was registered by the same ``texts`` before, or when more was learned of it; None where it was not. Called
        with the lock held."""
        if self._given.get(name) == texts:
            return self._now.index.anchors[name]
        return self._asked.index.anchors.get(name) if self._asked is not None and self._given_then.get(name) == texts else None

    def unregister(self, name: str) -> None:
        """Remove a domain. Raises :class:`UnknownNameError`."""
        expected(name, str, "the domain", 'Pass the name of one, such as "finance".')
        with self._lock:
            if name not in self._now.index.anchors:
                raise UnknownNameError.among("domain", name, self._now.index.anchors)
            self._described.pop(name, None)
            self._given.pop(name, None)
            self._change({key: value for key, value in self._now.index.anchors.items() if key != name}, True)

    def _change(self, anchors: dict[str, Anchors], refit: bool) -> None:
        """Take other anchors, with what :func:`fitting.going_on` leaves of the last fit; where they are again those of what was settled, that. Called
        with the lock held."""
        index, settled = Index(anchors), self._settled
        if settled is not None and len(index.unchanged(settled.index)) == len(index.names) == len(settled.index.names):
            self._now = self._fitted = settled
            return
        fit = fitting.going_on(self._fitted.fit, index.unchanged(self._fitted.index), index.names, self._calibration)
        self._now = replace(self._now, index=index, fit=fit)
        if refit and self._background and self._classifier is None and self._refitting is None:
            self._refitting = threading.Thread(target=self._refit, name="mdsa-router-refit", daemon=True)
            self._refitting.start()

    def _refit(self) -> None:
        """Fit until what was fitted knows all that can be learned; the thresholds that were asked for stay. Domains with too few examples for that
        are known by the nearest anchors alone."""
        while True:
            with self._lock:
                now, asked, options = self._now, self._asked, dict(self._options)
            learnable, judge, found = fitting.learnable_of(now.index), now.fit.judge, None
            if len(learnable) > 1 and (judge is None or not judge.knows(learnable).all()):
                try:
                    found = fitting.fit(now.index, self._calibration, now.outside, **options)
                except Exception:
                    logger.exception("the router's head could not be refitted; routing goes on by the nearest examples")
            with self._lock:
                covered = self._settled is not None and self._now.index is self._settled.index
                if covered or (self._now.index is now.index and self._asked is asked):
                    if found is not None and not covered:
                        thresholds = found.thresholds if asked is None else asked.fit.thresholds.among(now.index.names)
                        self._now = self._fitted = replace(now, fit=replace(found, thresholds=thresholds))
                    self._refitting = None
                    return

    def settle(self, timeout_s: float | None = None) -> bool:
        """Wait until a refit in the background is through; False when it is not within ``timeout_s``."""
        thread = self._refitting
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def fit(self, examples: Iterable[Row] | None = None, seed: int = 0, *, per_domain: bool = False) -> dict[str, Any]:
        """Learn from ``(text, domain)`` pairs or ``{"text", "domain"}``, domain None for out of scope; from the registered examples when None.

        Given pairs replace the examples of the domains they name, and count once; unknown names are registered, but the router of an orchestrator
        refuses them.
        Seeded, no torch. ``per_domain`` chooses a threshold for each domain. Returns the report, also kept as :attr:`report`. Raises
        :class:`ConfigError` when there is nothing to learn, and :class:`InputError` that names a row that is none or the names refused; whatever it
        raises, nothing has changed then.
        """
        if self._classifier is not None:
            where = self._classifier.folder
            raise ConfigError(f"nothing to fit: a trained classifier routes ({where})", "Train it again, or set `encoder` to an encoder.")
        texts: dict[str, list[str]] = {}
        outside: list[str] = []
        # A row that is held out must not be learned from as well.
        for text, name in dict.fromkeys(pairs(() if examples is None else examples)):
            (outside if name is None else texts.setdefault(name, [])).append(text)
        self._refuse_unknown(texts)
        options = {"seed": seed, "per_domain": per_domain}
        learned: dict[str, Anchors] = {}
        beyond = Anchors.made([(text, "outside") for text in outside], self._encoder, self._cache) if outside else None
        for _ in range(ATTEMPTS):
            with self._lock:
                # One may have been removed meanwhile.
                self._refuse_unknown(texts)
                before, beside = self._now, dict(self._described)
            for name, own in texts.items():
                learned[name] = Anchors.made(known_by(own, beside.get(name, ())), self._encoder, self._cache, learned.get(name))
            index = Index({**before.index.anchors, **learned}) if learned else before.index
            if not index.names:
                raise ConfigError("no examples to fit on: no domain is registered", "Register domains, or pass (text, domain) pairs.")
            known = replace(before, index=index, outside=beyond or before.outside)
            found = fitting.fit(known.index, self._calibration, known.outside, seed=seed, per_domain=per_domain)
            with self._lock:
                if self._now.index is before.index and self._now.outside is before.outside:
                    self._now = self._fitted = self._asked = self._settled = replace(known, fit=found)
                    self._given_then, self._options = dict(self._given), options
                    return dict(found.report)
        raise ConfigError("the domains kept changing while the router was fitted", "Fit again when none is being registered or removed.")

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        """Raise :class:`InputError` for names that are not registered, where the router is not to register them itself."""
        known = self._now.index.anchors
        unknown = [name for name in names if name not in known] if self._closed else []
        if unknown:
            told = f"{did_you_mean(unknown[0], known)}Known: {', '.join(sorted(known)) or 'none'}. Others are registered first, with register_domain."
            raise InputError(f"no domain is called {', '.join(map(repr, unknown))}", told)

    def save(self, path: Path, domains: Iterable[DomainConfig] = ()) -> None:
        """Write anchors, head, calibration and thresholds to ``path``. Raises :class:`StorageError`.

        It is stamped with the encoder's fingerprint and with what the configured ``domains`` were.
        """
        now = self._now
        saved = fitting.Saved(now.fit, now.index.anchors, now.outside, self._options["seed"])
        fitting.save(path, saved, self._encoder.fingerprint, stamp(domains))

    def restore(self, path: Path, domains: Iterable[DomainConfig] = ()) -> None:
        """Take over what :meth:`save` wrote. Raises :class:`ConfigError` when it is broken, or from another encoder or other ``domains``, and
        :class:`StorageError` when it cannot be read."""
        domains = list(domains)
        saved = fitting.load(path, self._encoder.fingerprint, stamp(domains))
        with self._lock:
            self._described = {domain.name: described(domain) for domain in domains}
            self._given = {domain.name: anchor_texts(domain) for domain in domains if domain.name in saved.anchors}
            self._given_then = dict(self._given)
            self._now = self._fitted = self._asked = self._settled = Snapshot(Index(saved.anchors), saved.fit, self._calibration, saved.outside)
            self._options = self._options | {"seed": saved.seed}

    def route(self, text: str, history: Sequence[str] = (), *, split: bool = True) -> Route:
        """The route of one question.

        The question decides. When it does not stand alone, or two domains fit it about equally, the last of ``history`` (earlier user
        turns, oldest first) that names its topic and is no small talk is read with it. ``split``: look for parts that belong to different domains.
        """
        began = time.perf_counter()
        route, _ = self._reading().route(text, history, split=split)
        # It was made for this call, and nobody has seen it yet.
        object.__setattr__(route, "ms", (time.perf_counter() - began) * 1000)
        return route

    def routed(self, text: str, history: Sequence[str] = (), chosen: DomainConfig | None = None) -> tuple[Route, Floats]:
        """The route of a question, as :meth:`route` gives it but untimed, and the vector ``(d,)`` it was found by. ``chosen``: the domain that is
        asked in any case; what is small talk depends on whether that is there for it."""
        reading = self._reading()
        route, read = reading.route(text, history, chosen=chosen)
        return route, reading.encode([read])[0]

    def topic(self, history: Sequence[str], chosen: DomainConfig | None = None) -> str:
        """The turn of ``history``, earlier user turns, oldest first and at least one, that a message goes on from where it does not stand alone: the
        last that names its topic and is no small talk. ``chosen`` as in :meth:`routed`."""
        return self._reading().topic(history, chosen)

    def decided(self, texts: Sequence[str]) -> tuple[list[Route], list[str | None]]:
        """The routes of questions by themselves, untimed and not looked into for parts, as :meth:`route` gives them but scored together; and the
        likeliest domain of each, refused or not, None without any."""
        return self._reading().decided(texts)

    def _reading(self) -> Reading:
        """What reads one question, with the domains of now; none of its texts is encoded twice."""
        now = self._now
        return Reading(now, remembering(self._encoder.encode), self._thresholds(now), self._classifier, self._phrases, self._known_by, self._degraded)

    def _known_by(self, domain: DomainConfig) -> Anchors:
        return Anchors.made(anchor_texts(domain), self._encoder, self._cache)

    @cached_property
    def _phrases(self) -> Anchors | None:
        """What small talk is known by; None where it is not told apart: by a trained classifier's labels, or by words alone."""
        if self._classifier is not None or self._degraded:
            return None
        return Anchors.made([(text, "small talk") for text in small_talk.PHRASES], self._encoder, self._cache)

    def _thresholds(self, now: Snapshot) -> Thresholds:
        fitted = now.fit.thresholds
        if self._ask is None and self._accept is None and fitted.ask <= fitted.accept:
            return fitted
        ask = fitted.ask if self._ask is None else self._ask
        accept = fitted.accept if self._accept is None else self._accept
        return Thresholds(max(accept, ask), ask, fitted.per_domain if self._ask is None else None)

    def parts(self, text: str) -> tuple[Part, ...]:
        """The parts of ``text`` that belong to different domains, in order; empty when it is one question."""
        clean_text(text, "the question")
        return splitting.parts(text, self._reading().score)

    def explain(self, text: str, history: Sequence[str] = ()) -> RouteExplanation:
        """The route of ``text`` with what decided it: the nearest anchors of the likeliest domains, evidence, thresholds."""
        return self._reading().explained(text, history)

    def collisions(self) -> list[Collision]:
        """Examples that, left out, would be taken for another domain's, the worst first."""
        index = self._now.index
        vectors, owner, rows = index.examples
        if len(index.names) < 2 or not len(vectors):
            return []
        evidence = index.evidence(vectors, rows)
        own = evidence[np.arange(len(owner)), owner]
        best = evidence.argmax(axis=1)
        texts = index.texts
        found = [
            Collision(index.names[owner[i]], texts[rows[i]], index.names[best[i]], float(own[i]), float(evidence[i, best[i]]))
            for i in np.flatnonzero(best != owner)
        ]
        return sorted(found, key=lambda c: c.own - c.others)

    def scores(self, texts: list[str]) -> tuple[tuple[str, ...], NDArray[np.floating]]:
        """Names of domains, and ``(n, domains)`` probabilities in their order; the rest to one is "none of these"."""
        found = scored(self._now, self._encoder.encode, self._classifier, texts)
        return found.names, found.scores


def stamp(domains: Iterable[DomainConfig]) -> str:
    """Changes when the names or the texts of ``domains`` do."""
    known = sorted((domain.name, anchor_texts(domain)) for domain in domains)
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
