"""Fitting a router: trained classifiers where they beat the nearest examples, calibration, and thresholds, all by held-out predictions."""

from __future__ import annotations

import errno
import io
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdsa_local.durable import replacing
from mdsa_local.errors import ConfigError, StorageError
from mdsa_local.routing import words as by_words
from mdsa_local.routing.anchors import DAMAGED, Anchors, Floats, Index
from mdsa_local.routing.calibration import Calibration, fit_scope, fit_temperature, log_loss
from mdsa_local.routing.head import Head, softmax, train
from mdsa_local.routing.words import Words
from mdsa_local.settings import storage_error

FOLDS, MOST_HELD_OUT = 4, 3000
WEIGHTS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
# With or without the words. Where the encoder has seen the questions, as CLINC150's here, held-out ones make words look less needed than fresh
# ones do, so how much they count is not read off the data at hand: on CLINC150's validation part 0.4 is best of 0.2 to 0.5. Nor is it whether they
# count where domains have as many examples as WORDY in the mean: fresh questions were then always better answered with them, by up to two in a
# hundred, while held-out ones said either.
WORD_SHARES = (0.0, 0.4)
WORDY = 100
# Heads that differ by their seeds; their mean errs less than either (Lakshminarayanan et al. 2017).
HEADS = 2
TEMPERATURES = np.geomspace(0.005, 0.5, 40)
SHARPNESS = np.geomspace(0.2, 4.0, 40)
# Held-out examples flatter the nearest ones where the encoder was trained on such questions, the more the more there are of them: classifiers that
# learned from n examples a domain get at least n / (n + FLATTERED) of the say. CLINC150's validation part: 98.4 % so, 98.2 % without, with
# sub-classes of 100.
FLATTERED = 250
# At most this share of the questions that belong somewhere is refused.
REFUSED = 0.01
# More of them may be, up to the threshold DOUBTFUL, where their share is worth so many times less than that of the questions of no domain which are
# refused too.
WORTH, DOUBTFUL = 3.0, 0.45
# Of so many held-out examples that are taken for a domain one may be refused: then it gets a threshold of its own.
LEAST_OWN = math.ceil(1 / REFUSED)
# Of fewer held-out examples no threshold is read off, and no scope is fitted either, since a threshold goes with the scope that it was chosen for;
# none is ever lower or higher than these.
LEAST_HELD_OUT = 100
LOWEST, HIGHEST = 0.2, 0.8
# Of a domain with fewer examples no classifier learns.
LEARNABLE = 4
# Fewer questions out of scope than these say too little to replace the encoder's own calibration.
LEAST_OUTSIDE = 5
# A flatter scope tells nothing of what is in it.
LEAST_SLOPE = 2.0
FORMAT = 4


@dataclass(frozen=True, slots=True)
class Thresholds:
    """A route is accepted at or above ``accept`` and withheld below ``ask``; in between it is flagged. ``per_domain`` overrides ``ask``."""

    accept: float = 0.5
    ask: float = 0.35
    per_domain: Mapping[str, float] | None = None

    def of(self, domain: str) -> float:
        """The confidence below which ``domain`` is not chosen."""
        return (self.per_domain or {}).get(domain, self.ask)

    def among(self, names: Collection[str]) -> Thresholds:
        """Without those of other domains than ``names``."""
        return replace(self, per_domain={name: ask for name, ask in (self.per_domain or {}).items() if name in names} or None)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What two classifiers say of questions: ``probabilities`` ``(n, domains)``, and ``agreed`` ``(n,)``: how likely both are to name the same domain
    if each draws one by its own probabilities. Both err on what belongs nowhere, but seldom alike. ``known``: which of all domains, ``(all,)``, they
    speak of; None where of each."""

    probabilities: NDArray[np.floating]
    agreed: NDArray[np.floating]
    known: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, by_vector: NDArray[np.floating], by_words: NDArray[np.floating], share: float, known: NDArray[np.bool_] | None = None) -> Opinion:
        """Of tables ``(n, domains)``; the words have ``share`` of the say in the choice, 0 for none."""
        return cls(pooled(by_vector, by_words, share) if share else by_vector, (by_vector * by_words).sum(axis=1), known)


@dataclass(frozen=True, slots=True)
class Mixed:
    """``shares`` ``(n, domains)`` of the domains in each question, and how ``sure`` ``(n,)`` the choice is among them, or among those that
    classifiers know."""

    shares: NDArray[np.floating]
    sure: NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Judge:
    """Trained classifiers of one question: heads by its vector, and one by its words with ``share`` of the say. All of the same domains; of those
    ``gone`` they say nothing, since these are no longer what was learned."""

    heads: tuple[Head, ...]
    words: Words
    share: float = 0.0
    gone: frozenset[str] = frozenset()

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains, in the order of the probabilities."""
        return self.heads[0].domains

    def knows(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Of which of ``names`` they speak."""
        return np.array([name in self.domains and name not in self.gone for name in names], bool)

    def opinion(self, texts: Sequence[str], vectors: Floats, names: Sequence[str]) -> Opinion:
        """Of texts and their unit vectors ``(n, d)``, the domains in the order of ``names``, as far as they are known. What is likely to belong to
        another one, which is not there any more, is so agreed on by nobody."""
        known = self.knows(names)
        columns = [self.domains.index(name) for name, learned in zip(names, known, strict=True) if learned]
        by_vector = np.mean([head.probabilities(vectors) for head in self.heads], axis=0)
        return Opinion.of(by_vector[:, columns], self.words.probabilities(texts)[:, columns], self.share, None if known.all() else known)


def pooled(by_vector: NDArray[np.floating], by_words: NDArray[np.floating], share: float) -> NDArray[np.floating]:
    """A logarithmic opinion pool (Genest & Zidek 1986) of two tables of probabilities ``(n, domains)``."""
    return softmax((1 - share) * np.log(np.maximum(by_vector, 1e-6)) + share * np.log(np.maximum(by_words, 1e-6)))


@dataclass(frozen=True, slots=True)
class Fit:
    """What :func:`fit` found: the classifiers and their weight beside the evidence (0: none), calibration, thresholds, a report of figures."""

    judge: Judge | None
    weight: float
    calibration: Calibration
    thresholds: Thresholds
    report: dict[str, Any]


def mixed(evidence: NDArray[np.floating], opinion: Opinion | None, weight: float, calibration: Calibration) -> Mixed:
    """Of evidence ``(n, domains)`` and the classifiers' opinion in the same order."""
    if opinion is None or weight <= 0:
        shares = softmax(evidence * (calibration.sharpness / calibration.temperature))
        return Mixed(shares, shares.max(axis=1))
    logits = evidence / calibration.temperature
    known = np.ones(evidence.shape[1], bool) if opinion.known is None else opinion.known
    told = softmax(((1 - weight) * logits[:, known] + weight * np.log(np.maximum(opinion.probabilities, 1e-9))) * calibration.sharpness)
    if known.all():
        return Mixed(told, opinion.agreed)
    # Of how much belongs to the other domains the evidence decides alone; what it leaves is the classifiers' to divide.
    shares = softmax(logits)
    left = shares[:, known].sum(axis=1)
    shares[:, known] = told * left[:, None]
    return Mixed(shares, opinion.agreed)


def learnable_of(index: Index) -> list[str]:
    """The domains that classifiers can learn."""
    return [name for name, anchors in index.anchors.items() if len(anchors.examples) >= LEARNABLE]


def going_on(fitted: Fit, known: Collection[str], names: Collection[str], own: Calibration) -> Fit:
    """What holds of ``fitted`` when the domains have changed to ``names``, of which those ``known`` are still what was learned.

    The classifiers go on for these, and so does the calibration. Where none of them is what the fit, or its classifiers, learned, all that was fitted
    goes, back to the encoder's ``own`` calibration. Thresholds of domains that are gone go.
    """
    judge, nothing = fitted.judge, not known
    if judge is not None:
        judge = replace(judge, gone=judge.gone | (set(judge.domains) - set(known)))
        nothing = judge.gone.issuperset(judge.domains)
    if nothing:
        return Fit(None, 0.0, own, Thresholds(), {})
    return replace(fitted, judge=judge, thresholds=fitted.thresholds.among(names), report={})


def fit(index: Index, calibration: Calibration, outside: Anchors | None = None, *, seed: int = 0, per_domain: bool = False) -> Fit:
    """Learn from the examples of ``index``; ``outside`` are out-of-scope questions. Beside two domains to learn from, others with fewer than
    :data:`LEARNABLE` examples go by the evidence: the fit, and what is reported of it, is that of the domains without them.

    Accuracy and refusals in scope are from predictions on examples that were held out: by folds, or, of many, a part; the share of the
    out-of-scope questions refused is from those the calibration has seen. Raises :class:`ConfigError`.
    """
    learnable = learnable_of(index)
    if 1 < len(learnable) < len(index.names):
        without = fit(Index({name: index.anchors[name] for name in learnable}), calibration, outside, seed=seed, per_domain=per_domain)
        if without.judge is not None:
            return replace(without, report=without.report | {"not_learned": [name for name in index.names if name not in learnable]})
    vectors, owner, rows = index.examples
    if not len(vectors):
        raise ConfigError("no examples to fit on: the registered domains have none", "Add examples to the domains, or pass (text, domain) pairs.")
    rng = np.random.default_rng(seed)
    held = _chosen(index, rng)
    if not len(held):
        return Fit(None, 0.0, calibration, Thresholds(), {"examples": len(vectors), "held_out": 0, "head_weight": 0.0})
    names, labels = index.names, owner[held]
    evidence = index.evidence(vectors[held], rows[held])
    believed = mixed(evidence, None, 0.0, calibration.among(index.crowd)).shares
    if len(names) > 1:
        calibration = replace(calibration, temperature=fit_temperature(evidence, labels, TEMPERATURES, believed), sharpness=1.0, crowding=0.0)
    texts = [index.texts[row] for row in rows]
    weight, share, judged = _weighed(texts, index, held, evidence, calibration, rng, seed)
    if len(names) > 1:
        shares = mixed(evidence, judged, weight, calibration).shares
        calibration = replace(calibration, sharpness=1 / fit_temperature(np.log(np.maximum(shares, 1e-12)), labels, 1 / SHARPNESS, believed))
    near = mixed(evidence, judged, weight, calibration)
    judge = _judge(texts, vectors, [names[i] for i in owner], share, seed) if weight > 0 else None
    beyond: _Confidence | None = None
    if outside is not None and outside.texts:
        table = index.evidence(outside.vectors)
        away = mixed(table, judge.opinion(outside.texts, outside.vectors, names) if judge else None, weight, calibration)
        if len(held) >= LEAST_HELD_OUT and len(outside.texts) >= LEAST_OUTSIDE:
            calibration = _scoped(calibration, (index.level(evidence), near.sure), (index.level(table), away.sure))
        beyond = _Confidence.of(index.level(table), away, calibration)
    inside = _Confidence.of(index.level(evidence), near, calibration)
    thresholds = _thresholds(inside, inside.best == labels, beyond, names, per_domain)
    report = {
        "examples": len(vectors),
        "held_out": len(held),
        "accuracy": round(float((inside.best == labels).mean()), 4),
        "accuracy_nearest": round(float((evidence.argmax(axis=1) == labels).mean()), 4),
        "head_weight": weight,
        "word_share": share,
        "refused": inside.refused(thresholds, names),
        "out_of_scope": 0 if beyond is None else len(beyond.values),
        "out_of_scope_refused": None if beyond is None else beyond.refused(thresholds, names),
        "threshold": round(thresholds.ask, 4),
    }
    return Fit(judge, weight, calibration, thresholds, report)


@dataclass(frozen=True, slots=True)
class _Confidence:
    """The likeliest domain of each of some questions, and how likely it is."""

    best: NDArray[np.int64]
    values: NDArray[np.floating]

    @classmethod
    def of(cls, level: NDArray[np.floating], found: Mixed, calibration: Calibration) -> _Confidence:
        return cls(found.shares.argmax(axis=1), found.shares.max(axis=1) * calibration.in_scope(level, found.sure))

    def refused(self, thresholds: Thresholds, names: Sequence[str]) -> float:
        """The share of them that ``thresholds`` turn away."""
        needed = np.array([thresholds.of(names[i]) for i in self.best])
        return round(float((self.values < needed).mean()), 4)


def _chosen(index: Index, rng: np.random.Generator) -> NDArray[np.int64]:
    """The examples to hold out, in order: all of a few, of many a part."""
    _, owner, _ = index.examples
    # An example that is all a domain has cannot be held out.
    usable = np.flatnonzero(index.counts[owner] > 1)
    enough = len(usable) if len(usable) <= MOST_HELD_OUT else min(MOST_HELD_OUT, len(usable) // FOLDS)
    return np.sort(rng.permutation(usable)[:enough])


def _weighed(
    texts: Sequence[str],
    index: Index,
    held: NDArray[np.int64],
    evidence: NDArray[np.floating],
    calibration: Calibration,
    rng: np.random.Generator,
    seed: int,
) -> tuple[float, float, Opinion | None]:
    """How much classifiers count beside the ``evidence`` of the ``held`` examples, how much the words count in them, and what they say of these."""
    vectors, owner, _ = index.examples
    names = index.names
    if len(names) < 2 or (np.bincount(owner, minlength=len(names)) < LEARNABLE).any():
        return 0.0, 0.0, None
    by_vector, by_word = _held_out(texts, vectors, owner, names, held, rng, seed)
    many = len(owner) / len(names)
    tables = {share: Opinion.of(by_vector, by_word, share) for share in (WORD_SHARES if many < WORDY else WORD_SHARES[-1:])}
    losses = {(w, share): _best_loss(evidence, table, w, calibration, owner[held]) for share, table in tables.items() for w in WEIGHTS}
    weight, share = min(losses, key=lambda pair: losses[pair])
    return max(weight, many / (many + FLATTERED)) if weight else 0.0, share, tables[share]


def _judge(texts: Sequence[str], vectors: Floats, labels: Sequence[str], share: float, seed: int) -> Judge:
    return Judge(_heads(vectors, labels, seed), by_words.train(texts, labels, seed), share)


def _heads(vectors: Floats, labels: Sequence[str], seed: int) -> tuple[Head, ...]:
    return tuple(train(vectors, labels, seed + i) for i in range(HEADS))


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
    texts: Sequence[str],
    vectors: Floats,
    owner: NDArray[np.int64],
    names: Sequence[str],
    held: NDArray[np.int64],
    rng: np.random.Generator,
    seed: int,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The opinions on each of ``held`` of classifiers that have not seen it, ``(n, domains)`` by vector and by words."""
    folds = [held] if len(held) <= len(vectors) // FOLDS else np.array_split(rng.permutation(held), FOLDS)
    by_vector, by_word = np.zeros((len(held), len(names))), np.zeros((len(held), len(names)))
    for fold in folds:
        kept = np.setdiff1d(np.arange(len(vectors)), fold)
        labels = [names[i] for i in owner[kept].tolist()]
        # A domain may lose all its examples to a fold: then nothing is known of it there.
        place = np.ix_(np.searchsorted(held, fold), np.array([names.index(name) for name in sorted(set(labels))]))
        by_vector[place] = np.mean([head.probabilities(vectors[fold]) for head in _heads(vectors[kept], labels, seed)], axis=0)
        by_word[place] = by_words.train([texts[i] for i in kept.tolist()], labels, seed).probabilities([texts[i] for i in fold.tolist()])
    return by_vector, by_word


def _best_loss(evidence: NDArray[np.floating], judged: Opinion, weight: float, calibration: Calibration, labels: NDArray[np.int64]) -> float:
    logits = np.log(np.maximum(mixed(evidence, judged, weight, calibration).shares, 1e-12))
    # Each domain counts alike, however many examples it has.
    weights = 1 / np.bincount(labels)[labels]
    return min(log_loss(logits * sharpness, labels, weights) for sharpness in SHARPNESS[::4])


def _thresholds(inside: _Confidence, right: NDArray[np.bool_], beyond: _Confidence | None, names: Sequence[str], per_domain: bool) -> Thresholds:
    """``ask`` as :func:`_refusing` has it; ``accept`` flags twice what :data:`REFUSED` says, and all below one half. Of those ``inside`` only what is
    ``right`` is lost when it is refused."""
    if len(right) < LEAST_HELD_OUT or not right.any():
        return Thresholds()
    inside = _Confidence(inside.best[right], inside.values[right])
    confidence = inside.values
    # Where hardly anything out of scope was shown, nothing speaks for letting more in than before.
    told = beyond if beyond is not None and len(beyond.values) >= LEAST_OUTSIDE else _Confidence(np.zeros(0, np.int64), np.zeros(0))
    lowest = LOWEST if len(told.values) else Thresholds().ask
    inside_an_outside = len(confidence) / max(1, len(told.values))
    ask = _refusing(confidence, told.values, inside_an_outside, lowest)
    own = {}
    for i, name in enumerate(names):
        if per_domain and (inside.best == i).sum() >= LEAST_OWN:
            own[name] = _refusing(confidence[inside.best == i], told.values[told.best == i], inside_an_outside, lowest)
    return Thresholds(float(np.clip(max(ask, np.quantile(confidence, 2 * REFUSED)), 0.5, HIGHEST)), ask, own or None)


def _refusing(inside: NDArray[np.floating], outside: NDArray[np.floating], inside_an_outside: float, lowest: float) -> float:
    """The threshold that refuses :data:`REFUSED` of the confidences ``inside``, or more where it is worth it for those ``outside`` that go too; each
    of these stands for so many of the others as there are ``inside_an_outside``."""
    ask = float(np.clip(np.quantile(inside, REFUSED), lowest, HIGHEST))
    # Just above each of those that would be let in.
    tried = [ask, *(float(value) + 1e-4 for value in np.sort(outside) if ask <= value < DOUBTFUL)]
    return max(tried, key=lambda at: float((outside < at).sum() * inside_an_outside - WORTH * (inside < at).sum()))


@dataclass(frozen=True, slots=True)
class Saved:
    """A fit as it is kept on disk: with the anchors it was made on, the out-of-scope questions, if any, and the seed."""

    fit: Fit
    anchors: dict[str, Anchors]
    outside: Anchors | None
    seed: int = 0


def refuse_unwritable(path: Path) -> None:
    """Raise :class:`StorageError` where :func:`save` could not write to ``path``: for what would be told after a fit."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise storage_error(error, path) from None


def save(path: Path, saved: Saved, encoder: str, domains: str) -> None:
    """Write ``saved`` to ``path`` (``.npz``), atomically, stamped with the encoder's fingerprint and the domains'. Raises :class:`StorageError`."""
    found = saved.fit
    about = {
        "format": FORMAT,
        "encoder": encoder,
        "domains": domains,
        "seed": saved.seed,
        "weight": found.weight,
        "calibration": asdict(found.calibration),
        "thresholds": asdict(found.thresholds),
        "report": found.report,
        "anchors": {name: {"texts": a.texts, "kinds": a.kinds} for name, a in saved.anchors.items()},
        "outside": saved.outside.texts if saved.outside else None,
        "heads": len(found.judge.heads) if found.judge else 0,
        "domains_learned": found.judge.domains if found.judge else (),
        "share": found.judge.share if found.judge else 0.0,
        "gone": sorted(found.judge.gone) if found.judge else (),
        "vocabulary": list(found.judge.words.vocabulary) if found.judge else (),
    }
    arrays: dict[str, NDArray[Any]] = {f"anchors_{i}": a.vectors.astype(np.float16) for i, a in enumerate(saved.anchors.values())}
    if found.judge:
        arrays |= {"words": found.judge.words.weights.astype(np.float16), "idf": found.judge.words.idf}
        for n, head in enumerate(found.judge.heads):
            arrays |= {f"head_{n}_{i}": w for i, w in enumerate(head.weights)} | {f"owner_{n}": head.owner}
    if saved.outside is not None:
        arrays["outside"] = saved.outside.vectors.astype(np.float16)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path) from None
    with replacing(path, by_many=True) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: Path, encoder: str, domains: str) -> Saved:
    """What :func:`save` wrote. Raises :class:`ConfigError` when it is broken or was made with another encoder or other domains, and
    :class:`StorageError` when it cannot be read, which tells nothing of what is in it."""
    again = "Fit the router again with `mdsa router fit`, or remove the file."
    try:
        # Whole: what the system has against reading it is then told apart from a file whose parts lie where there is nothing.
        kept = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}", "Fix its permissions, or remove the file.") from None
    try:
        with np.load(io.BytesIO(kept)) as stored:
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
            outside = None
            if about["outside"]:
                outside = Anchors(tuple(about["outside"]), ("outside",) * len(about["outside"]), stored["outside"].astype(np.float32))
            fit = Fit(
                _stored_judge(about, stored),
                float(about["weight"]),
                Calibration(**about["calibration"]),
                Thresholds(**about["thresholds"]),
                dict(about["report"]),
            )
            # Older files have none.
            seed = int(about.get("seed", 0))
    except DAMAGED:
        # What numpy says of it is advice to those who write programs.
        raise ConfigError(f"{path}: not a fitted router, or a damaged one", again) from None
    return Saved(fit, anchors, outside, seed)


def _stored_judge(about: Mapping[str, Any], stored: Mapping[str, NDArray[Any]]) -> Judge | None:
    if not about["heads"]:
        return None
    domains = tuple(about["domains_learned"])
    weights = [(stored[f"head_{n}_0"], stored[f"head_{n}_1"], stored[f"head_{n}_2"], stored[f"head_{n}_3"]) for n in range(about["heads"])]
    heads = tuple(Head(domains, stored[f"owner_{n}"], own) for n, own in enumerate(weights))
    vocabulary = {term: column for column, term in enumerate(about["vocabulary"])}
    # Trained on the same labels, both have their domains sorted.
    return Judge(
        heads, Words(domains, vocabulary, stored["idf"], stored["words"].astype(np.float32)), float(about["share"]), frozenset(about.get("gone", ()))
    )
