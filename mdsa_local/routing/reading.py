"""Reading one question: against the domains as they are when it is asked, whatever is registered meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mdsa_local.domains.config import DomainConfig
from mdsa_local.routing import conversation, fitting, small_talk, splitting
from mdsa_local.routing.anchors import Anchors, Floats, Index
from mdsa_local.routing.calibration import Calibration
from mdsa_local.routing.classifier import Classifier
from mdsa_local.routing.encoder import clean_text, clean_texts
from mdsa_local.routing.fitting import Fit, Thresholds
from mdsa_local.types import Near, Route, RouteExplanation

EXPLAINED = 3
# A question is like one that belongs to no domain from this cosine on, if it is less near by so much to all that domains are known by; from SAME on
# it is that one.
LIKE_OUTSIDE, LESS_NEAR, SAME = 0.75, 0.1, 0.97

# A single question among up to this many domains is reckoned in plain numbers: that takes 0.05 ms less among four and as long among this many.
FEW = 32

Encode = Callable[[list[str]], Floats]


@dataclass(frozen=True)
class Snapshot:
    """What one question is routed with, whatever is registered meanwhile; ``outside`` are questions known to be out of scope, ``own`` is the
    encoder's calibration, for what a fit does not know."""

    index: Index
    fit: Fit
    own: Calibration
    outside: Anchors | None = None

    @cached_property
    def calibration(self) -> Calibration:
        """That of the fit, for as many anchors as there are."""
        return self.fit.calibration.among(self.index.crowd)


@dataclass(frozen=True, slots=True)
class Scored:
    """Probabilities of questions: ``scores`` ``(n, domains)``; ``scope`` ``(n,)``, that of belonging to any domain."""

    names: tuple[str, ...]
    scores: NDArray[np.floating]
    scope: NDArray[np.floating]


def scored(now: Snapshot, encode: Encode, classifier: Classifier | None, texts: list[str]) -> Scored:
    """The probabilities of ``texts``. A ``classifier`` divides what its labels' domains have among them."""
    names = now.index.names
    if not names:
        return Scored((), np.zeros((len(texts), 0)), np.zeros(len(texts)))
    found = _by_examples(now, texts, encode(texts))
    if classifier is None:
        return found
    # A classifier is sure of what it was never shown, too. Whether a question belongs anywhere, and how likely the domains are that have
    # no label, say the vectors; what they leave is the classifier's to divide.
    other = np.where(classifier.knows(names), 0.0, found.scores)
    told = (found.scope - other.sum(axis=1))[:, None] * classifier.shares(texts, names) + other
    return Scored(names, told, told.sum(axis=1))


def _by_examples(now: Snapshot, texts: list[str], vectors: Floats) -> Scored:
    """By the nearest anchors and what was learned; ``vectors`` are those of ``texts``, and ``now`` has domains."""
    names, fit = now.index.names, now.fit
    if len(texts) == 1 and fit.judge is None and len(names) <= FEW:
        return _alone(now, vectors)
    calibration = now.calibration
    evidence = now.index.evidence(vectors)
    judged = fit.judge.opinion(texts, vectors, names) if fit.judge is not None else None
    found = fitting.mixed(evidence, judged, fit.weight, calibration)
    if judged is None or judged.known is None:
        scope = calibration.in_scope(now.index.level(evidence), found.sure)
        return Scored(names, found.shares * scope[:, None], scope)
    # A scope that was fitted together with how sure classifiers are says nothing of domains that these do not know. Of 85 questions of no domain a
    # domain of three keywords, beside the shipped ones and a fit of them, took 33 by that scope; it takes 9 by the encoder's own.
    known = judged.known
    of_these, of_others = (now.index.level(evidence, among) for among in (known, ~known))
    likely = np.where(known, calibration.in_scope(of_these, found.sure)[:, None], now.own.in_scope(of_others, found.shares.max(axis=1))[:, None])
    scores = found.shares * likely
    return Scored(names, scores, scores.sum(axis=1))


def _alone(now: Snapshot, vectors: Floats) -> Scored:
    """As :func:`_by_examples`, of one question ``(1, d)`` by the evidence alone, in plain numbers."""
    calibration = now.calibration
    evidence, level = now.index.evidence_alone(vectors)
    best, steep = max(evidence), calibration.sharpness / calibration.temperature
    shares = [math.exp((one - best) * steep) for one in evidence]
    whole = sum(shares)
    scope = calibration.in_scope_alone(level, 1 / whole)
    return Scored(now.index.names, np.array([[share / whole * scope for share in shares]]), np.array([scope]))


@dataclass(frozen=True, slots=True)
class Reading:
    """Reads the texts of one question, or of several asked together.

    ``encode`` should give the same text's vector without encoding it twice. ``phrases`` are what small talk is known by, None where it is not told
    apart; ``known_by`` makes the anchors of a domain that is not registered; ``degraded`` says why words stand in for the encoder, where they do.
    """

    now: Snapshot
    encode: Encode
    thresholds: Thresholds
    classifier: Classifier | None
    phrases: Anchors | None
    known_by: Callable[[DomainConfig], Anchors]
    degraded: str = ""

    def score(self, texts: list[str]) -> Scored:
        """The probabilities of ``texts``."""
        return scored(self.now, self.encode, self.classifier, texts)

    def route(self, text: str, history: Sequence[str] = (), *, chosen: DomainConfig | None = None, split: bool = True) -> tuple[Route, str]:
        """The route of a question, untimed, and the text that it was found by. ``chosen``: the domain that is asked in any case; ``split``: look for
        parts."""
        route, read = self._whole(text, history, chosen)
        return self._parted(text, route) if split else route, read

    def _whole(self, text: str, history: Sequence[str], chosen: DomainConfig | None) -> tuple[Route, str]:
        """The route of a question as a whole, and the text that it was found by."""
        clean_text(text, "the question")
        previous = ""
        if history:
            previous = self.topic(history, chosen)
        route = self._routes([text])[0]
        # Of what was said before, "how do they work?" is a question.
        leaning = conversation.leaning(text) if history else None
        if said := self._chatting(text, route, leaning is not None and leaning.leans, chosen):
            return said, text
        if history:
            route, text = conversation.route(text, previous, route, self._routes, self._cosine, self.thresholds)
        return self._within(text, route), text

    def topic(self, history: Sequence[str], chosen: DomainConfig | None = None) -> str:
        """The turn of ``history``, of one or more, that a message after them goes on from, where it does not stand alone."""
        clean_texts(history, "the history")

        def idle(turn: str) -> bool:
            (route,) = self._routes([turn])
            return self._chatting(turn, route, conversation.leaning(turn).leans, chosen) is not None

        turns = list(history)
        return conversation.topic(turns, idle) if len(turns) > 1 else turns[0]

    def _cosine(self, text: str, other: str) -> float:
        one, two = self.encode([text, other])
        return float(one @ two)

    def _routes(self, texts: list[str]) -> list[Route]:
        scored = self.score(texts)
        return [self._judged(scored, at) for at in range(len(texts))]

    def decided(self, texts: Sequence[str]) -> tuple[list[Route], list[str | None]]:
        """The routes of questions by themselves, untimed and not looked into for parts, as :meth:`route` gives them but scored together; and the
        likeliest domain of each, refused or not, None without any."""
        clean_texts(texts, "the questions")
        asked = list(dict.fromkeys(texts))
        scored = self.score(asked) if asked else Scored((), np.zeros((0, 0)), np.zeros(0))
        found: dict[str, tuple[Route, str | None]] = {}
        for at, text in enumerate(asked):
            route = self._judged(scored, at)
            likeliest = scored.names[int(scored.scores[at].argmax())] if scored.names else None
            found[text] = self._chatting(text, route, False) or self._within(text, route), likeliest
        return [found[text][0] for text in texts], [found[text][1] for text in texts]

    def explained(self, text: str, history: Sequence[str]) -> RouteExplanation:
        """The route of ``text`` with what decided it."""
        began = time.perf_counter()
        route, read = self.route(text, history)
        route = replace(route, ms=(time.perf_counter() - began) * 1000)
        vector, index = self.encode([read])[0], self.now.index
        evidence = index.evidence(vector[None, :])[0] if index.names else np.zeros(0)
        by_evidence = dict(zip(index.names, evidence.tolist(), strict=True))
        likely = sorted(index.names, key=lambda name: (-route.scores.get(name, 0.0), -by_evidence[name]))[:EXPLAINED]
        return RouteExplanation(
            route=route,
            near=tuple(Near(name, *found) for name in likely for found in index.nearest(vector, name, EXPLAINED)),
            evidence=by_evidence,
            scope=float(self.score([read]).scope[0]) if index.names else 0.0,
            accept=self.thresholds.accept,
            ask=self.thresholds.ask,
            per_domain=dict(self.thresholds.per_domain or {}),
            head_weight=self.now.fit.weight,
        )

    def _chatting(self, text: str, route: Route, leans: bool, chosen: DomainConfig | None = None) -> Route | None:
        """The route of small talk; None where ``text`` is none, or the domain ``chosen``, else that of its ``route``, is for that."""
        if (phrases := self.phrases) is None or (said := self._small_talk(text, phrases, leans)) is None:
            return None
        own = self.now.index.anchors.get(chosen.name if chosen else route.domain or "")
        if own is None and chosen is not None:
            own = self.known_by(chosen)
        if own is not None and small_talk.claimed(phrases, own, said):
            return None
        return replace(_nowhere(route, f"small talk, like {phrases.texts[said]!r}"), small_talk=True)

    def _small_talk(self, text: str, phrases: Anchors, leans: bool) -> int | None:
        """The place of the phrase that a message, or the first of its clauses, is small talk like; None when it is none."""

        def like(part: str) -> int | None:
            return small_talk.resembled(self.encode([part]), phrases, self.now.index, leans)

        if (said := like(text)) is None:
            parts = small_talk.clauses(text)
            said = like(parts[0]) if parts else None
            if any(like(part) is None for part in parts[1:]):
                return None
        return said

    def _within(self, text: str, route: Route) -> Route:
        """``route``, or that of what is like a question that was said to belong to no domain."""
        if not (known := self._like_outside(text)):
            return route
        nowhere = route if route.domain is None else _nowhere(route, f"like {known!r}, which belongs to no domain")
        return replace(nowhere, outside=True)

    def _like_outside(self, text: str) -> str:
        """The question that was said to belong to no domain which ``text`` is like; empty where it is like none, or something that a domain is known
        by is about as near."""
        if self.now.outside is None or not self.now.outside.texts:
            return ""
        vector = self.encode([text])[0]
        found = self.now.outside.rows.cosines(vector[None, :])[0]
        if (near := float(found.max())) < LIKE_OUTSIDE:
            return ""
        best = self.now.index.best(vector)
        like = near - best >= LESS_NEAR or (near >= SAME and near > best)
        return self.now.outside.texts[int(found.argmax())] if like else ""

    def _judged(self, scored: Scored, at: int) -> Route:
        """The route, untimed, of the question in row ``at``."""
        if not scored.names:
            return Route(None, 0.0, {}, "no domain is registered", degraded=self.degraded)
        thresholds = self.thresholds
        row = scored.scores[at]
        values: list[float] = row.tolist()
        scores, confidence = dict(zip(scored.names, values, strict=True)), max(values)
        best = scored.names[values.index(confidence)]
        needed = thresholds.of(best)
        if confidence < needed:
            nothing = (
                "the question resembles nothing that a domain is known by" if self.classifier is None else "none of the classifier's labels fits"
            )
            others = float(np.partition(row, -2)[-2]) if len(row) > 1 else 0.0
            inside = scored.scope[at]
            why = nothing if inside < 0.5 else "several domains fit about equally well" if others > confidence / 2 else "no domain is sure enough"
            digits = 2 if f"{confidence:.2f}" != f"{needed:.2f}" else 4
            told = f"{why} (best: {best} at {confidence:.{digits}f}, needed {needed:.{digits}f})"
            return Route(None, confidence, scores, told, degraded=self.degraded)
        flag, accept = "", thresholds.accept
        if confidence < accept:
            below = f"below {accept:.2f}" if f"{confidence:.2f}" != f"{accept:.2f}" else f"{confidence:.4f} is below {accept:.4f}"
            flag = f"; unsure, {below}"
        by_label = self.classifier is not None and bool(self.classifier.knows((best,))[0])
        found = f"the classifier says {best}" if by_label else f"nearest to what {best} is known by"
        return Route(best, confidence, scores, f"{found}{flag}", degraded=self.degraded)

    def _parted(self, text: str, route: Route) -> Route:
        """``route`` with its parts. One that seems surely one domain's may have them: what is asked first may say it louder."""
        if route.context != "message" or route.small_talk or route.outside or not route.scores:
            return route
        found = splitting.parts(text, self.score)
        return replace(route, parts=found) if found else route


def _nowhere(route: Route, reason: str) -> Route:
    """``route`` of what surely belongs to no domain."""
    return replace(route, domain=None, confidence=0.0, scores=dict.fromkeys(route.scores, 0.0), reason=reason)
