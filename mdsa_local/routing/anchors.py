"""What domains are recognised by: the vectors of their examples, keywords and descriptions, searched at once."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mdsa_local.domains.config import DomainConfig
from mdsa_local.routing.coarse import WORTHWHILE, Bytes, Coarse

Floats = NDArray[np.float32]
# A domain with this many examples is known by them alone.
ENOUGH = 20
# Similarities are averaged as exp(cosine / SOFTNESS): nearly their maximum, yet several near ones count for more than one.
SOFTNESS = 0.08
# How much the middle of a domain's anchors says beside the nearest of them: WHOLE of it for a domain of hardly any, half of that for one of
# USUAL_FEW. Few anchors leave gaps that their middle bridges. CLINC150 val, SGD's services and 540 questions to a home assistant, written for this:
# ten examples give 77.9, 85.5 and 60.1 % so, 77.0, 85.3 and 57.6 % by the nearest alone.
WHOLE, USUAL_FEW = 0.5, 10
# Anchors that may weigh less than exp(-EXACTLY / SOFTNESS), a twentieth, of the nearest need not be multiplied exactly.
EXACTLY = 3 * SOFTNESS
# By how much evidence for a domain of few anchors has to be higher to show that a question belongs anywhere, for each factor of e that is missing to
# ENOUGH of them. To few short texts anything may happen to be near: with one domain of five beside the shipped ones 25 to 31 % of 400 questions of
# no domain are accepted so, 38 to 43 % without it, 27 % without that domain.
ALLOWANCE = SOFTNESS
# What numpy, and the modules that it reads with, raise for a file of arrays that is damaged, by where the damage is: a version or a compression that
# there is none of, the mark of encryption, a header that is no Python, a size beyond all memory.
DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
# Rows of similarities held in memory at once.
CHUNK = 500
# Up to this many questions are multiplied one by one, and by so many numbers of the matrix at a time: OpenBLAS shares the product of a vector with
# 9,216 or more out among threads, from 0.3.27 on with 460,800.
FEW, ON_ONE_THREAD = 4, 9215


class TextEncoder(Protocol):
    """What the router needs of an encoder."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors do."""

    def encode(self, texts: list[str]) -> Floats:
        """``(n, d)`` float32, unit length."""


@dataclass(frozen=True)
class Anchors:
    """What a domain is recognised by: texts, what each is (``example``, ``keyword``, ``description`` or ``name``), vectors ``(n, d)``."""

    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    vectors: Floats

    @classmethod
    def made(cls, known: Sequence[tuple[str, str]], encoder: TextEncoder, cache: Path | None = None, before: Anchors | None = None) -> Anchors:
        """From ``(text, kind)``; see :func:`embed` for ``cache``. Texts that were anchors ``before``, of the same encoder, are not embedded again."""
        texts = [text for text, _ in known]
        kinds = tuple(kind for _, kind in known)
        place = {text: row for row, text in enumerate(before.texts)} if before else {}
        if before is None or place.keys().isdisjoint(texts):
            return cls(tuple(texts), kinds, embed(encoder, texts, cache))
        fresh = [text for text in dict.fromkeys(texts) if text not in place]
        place |= {text: len(before.texts) + row for row, text in enumerate(fresh)}
        vectors = np.concatenate([before.vectors, encoder.encode(fresh)]) if fresh else before.vectors
        return cls(tuple(texts), kinds, vectors[[place[text] for text in texts]])

    @property
    def examples(self) -> Floats:
        """The vectors of the examples alone, ``(m, d)``."""
        return self.vectors[[i for i, kind in enumerate(self.kinds) if kind == "example"]]

    @cached_property
    def bytes(self) -> Bytes:
        """The vectors in bytes; kept, so that after a change of one domain only its own are made."""
        return Bytes.made(self.vectors)

    @cached_property
    def rows(self) -> Rows:
        """The vectors as what questions are multiplied with."""
        return Rows([self.vectors])


class Rows:
    """Vectors of unit length, one below the other, that questions are multiplied with. Immutable.

    OpenBLAS shares even one question's product out among threads, and waits a time slice of the system, 8 ms here, for each that another process
    keeps from running: so the rows lie in blocks of at most :data:`ON_ONE_THREAD` numbers, as far as one row is no longer than that. They are laid
    out ahead, since behind the encoder's pass each step of numpy's takes some 10 us.
    """

    def __init__(self, parts: Sequence[Floats]) -> None:
        """Of one part or more, ``(m, d)`` each."""
        m, width = sum(map(len, parts)), parts[0].shape[1]
        n_blocks = max(1, -(-m // max(1, ON_ONE_THREAD // max(1, width))))
        each = -(-m // n_blocks)
        self._blocks, self._laid_out = np.zeros((n_blocks, each, width), np.float32), n_blocks * each
        self.matrix: Floats = self._blocks.reshape(self._laid_out, width)[:m]
        np.concatenate(parts, out=self.matrix)

    def __len__(self) -> int:
        return len(self.matrix)

    def cosines(self, vectors: Floats) -> Floats:
        """Of ``(n, d)`` with each row: ``(n, m)``."""
        if len(vectors) > FEW:
            return vectors @ self.matrix.T
        found: Floats = np.matmul(self._blocks, vectors[0]) if len(vectors) == 1 else np.matmul(self._blocks, vectors[:, None, :, None])
        return found.reshape(len(vectors), self._laid_out)[:, : len(self.matrix)]


def anchor_texts(domain: DomainConfig) -> list[tuple[str, str]]:
    """``(text, kind)``: a domain's examples; while it has few, also its keywords, description and name."""
    return known_by(domain.examples, described(domain))


def described(domain: DomainConfig) -> list[tuple[str, str]]:
    """``(text, kind)``: what a domain is known by beside examples: its name, description and keywords."""
    named = [(domain.title or domain.name.replace("_", " "), "name")]
    told = [(domain.description, "description")] if domain.description else []
    return named + told + [(text.replace("_", " "), "keyword") for text in domain.keywords]


def known_by(examples: Sequence[str], beside: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """``(text, kind)``: of the ``examples``, and of what a domain is described by ``beside`` them while there are few."""
    return [*((text, "example") for text in examples), *(beside if len(examples) < ENOUGH else ())]


class Index:
    """All anchors of all domains in one matrix. Immutable: a change makes another."""

    def __init__(self, anchors: Mapping[str, Anchors]) -> None:
        self.anchors = dict(anchors)
        self.names = tuple(self.anchors)
        self.counts = np.array([len(a.texts) for a in self.anchors.values()], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]]) if self.names else np.zeros(0, np.int64)
        self._many = self.counts.astype(np.float32)
        self._weighing = weighing(self._many)
        self._allowance = ALLOWANCE * np.log(np.maximum(ENOUGH / np.maximum(self._many, 1), 1))
        # The direction of the sum of each domain's anchors, ``(domains, d)``, and its length.
        sums = np.stack([a.vectors.sum(axis=0) for a in self.anchors.values()]) if self.names else np.zeros((0, 0), np.float32)
        self._lengths = np.sqrt((sums**2).sum(axis=1))
        # All anchors, and behind them the middles of the domains, so that both are one product.
        self._rows = Rows([*(a.vectors for a in self.anchors.values()), sums / np.maximum(self._lengths, 1e-9)[:, None]])
        self._matrix = self._rows.matrix[: len(self._rows) - len(sums)]

    def evidence(self, vectors: Floats, own: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """``(n, d)`` to ``(n, domains)``: the soft mean of cosines to each domain's nearest anchors, and, where these are few, to their middle.

        ``own`` gives the row of the matrix that each vector itself is, to be left out; -1 for none.
        """
        if len(vectors) > CHUNK:
            parts = range(0, len(vectors), CHUNK)
            return np.concatenate([self.evidence(vectors[i : i + CHUNK], None if own is None else own[i : i + CHUNK]) for i in parts])
        weights, middle = self._weights(vectors, exactly=own is not None)
        many, share = self._weighing
        if own is not None:
            rows = np.flatnonzero(own >= 0)
            weights[rows, own[rows]] = 0.0
            counts, middle = self._without(rows, np.searchsorted(self.starts, own[rows], side="right") - 1, middle)
            many, share = weighing(counts)
        # A kernel density, so that neither a domain of many anchors nor one of few draws questions away, and the level at which a question is
        # in scope depends little on how many there are.
        sums = np.add.reduceat(weights, self.starts, axis=1)
        nearest = np.log(np.maximum(sums, 1e-9)) - many
        nearest *= SOFTNESS
        # No array more than is needed: behind the encoder's pass nothing is in the processor's caches.
        beside: NDArray[np.float32] = middle - nearest
        beside *= share
        beside += nearest
        return beside

    def evidence_alone(self, vectors: Floats) -> tuple[list[float], float]:
        """Of ``(1, d)``, the evidence for each domain and the level, as :meth:`evidence` and :meth:`level` give them for many, in plain numbers:
        behind the encoder's pass each step of numpy's takes some 5 us, however few the domains."""
        weights, middle = self._weights(vectors)
        sums = np.add.reduceat(weights, self.starts, axis=1)
        found, level = list[float](), -math.inf
        for total, beside, (many, share, allowance) in zip(sums.tolist()[0], middle.tolist()[0], self._plain, strict=True):
            nearest = (math.log(max(total, 1e-9)) - many) * SOFTNESS
            found.append(nearest + (beside - nearest) * share)
            level = max(level, found[-1] - allowance)
        return found, level

    def _weights(self, vectors: Floats, *, exactly: bool = False) -> tuple[Floats, Floats]:
        """What each anchor weighs for ``(n, d)``, ``(n, anchors)``, and the cosines with the domains' middles, ``(n, domains)``."""
        if not exactly and self._in_bytes(vectors):
            weights, middle = self._by_bytes(vectors), self._middles.cosines(vectors)
        else:
            found = self._rows.cosines(vectors)
            weights, middle = found[:, : len(self._matrix)], found[:, len(self._matrix) :]
        weights *= 1 / SOFTNESS
        np.exp(weights, out=weights)
        return weights, middle

    @cached_property
    def _plain(self) -> list[tuple[float, float, float]]:
        """Of each domain, as plain numbers, the logarithm of how many anchors it has, how much its middle says, and its allowance."""
        many, shares = self._weighing
        return list(zip(many.tolist(), shares.tolist(), self._allowance.tolist(), strict=True))

    @cached_property
    def _middles(self) -> Rows:
        """The middles of the domains by themselves."""
        return Rows([self._rows.matrix[len(self._matrix) :]])

    def unchanged(self, before: Index) -> set[str]:
        """The domains that are known by the same texts as ``before``."""
        known = ((name, anchors, before.anchors.get(name)) for name, anchors in self.anchors.items())
        return {name for name, now, then in known if then is not None and (now.texts, now.kinds) == (then.texts, then.kinds)}

    def level(self, evidence: NDArray[np.floating], among: NDArray[np.bool_] | None = None) -> NDArray[np.floating]:
        """How much speaks for a question's belonging to any domain, ``(n,)`` of the evidence ``(n, domains)`` for each; to one of those ``among``
        ``(domains,)``, where they are given."""
        found = evidence - self._allowance
        best: NDArray[np.floating] = (found if among is None else found[:, among]).max(axis=1)
        return best

    def _without(self, rows: NDArray[np.int64], owners: NDArray[np.int64], middle: Floats) -> tuple[Floats, Floats]:
        """How many anchors domains have, and the cosines with their middles, ``(n, domains)`` both, where each of ``rows`` is itself an anchor of its
        one of ``owners`` and left out there."""
        counts = np.broadcast_to(self._many, middle.shape).copy()
        counts[rows, owners] -= 1
        # Of the sum of all, and of the sum of the others: itself is of length 1.
        lengths = self._lengths[owners]
        along = middle[rows, owners] * lengths
        middle = middle.copy()
        middle[rows, owners] = (along - 1) / np.sqrt(np.maximum(lengths**2 - 2 * along + 1, 1e-9))
        return counts, middle

    def _cosines(self, vectors: Floats) -> Floats:
        """With all anchors, ``(n, d)`` to ``(n, anchors)``; see :mod:`mdsa_local.routing.coarse` for single questions among many anchors."""
        return self._by_bytes(vectors) if self._in_bytes(vectors) else self._rows.cosines(vectors)[:, : len(self._matrix)]

    def _in_bytes(self, vectors: Floats) -> bool:
        return len(vectors) <= FEW and len(self._matrix) >= WORTHWHILE

    def _by_bytes(self, vectors: Floats) -> Floats:
        out: Floats = np.empty((len(vectors), len(self._matrix)), np.float32)
        for vector, found in zip(vectors, out, strict=True):
            found[:] = self._coarse.cosines(vector, EXACTLY)
        return out

    @cached_property
    def _coarse(self) -> Coarse:
        return Coarse([a.bytes for a in self.anchors.values()], self._matrix)

    def best(self, vector: Floats) -> float:
        """The cosine of ``(d,)`` with the anchor nearest to it, of any domain; -1 without any."""
        return float(self._cosines(vector[None, :]).max(initial=-1.0)) if self.names else -1.0

    def nearest(self, vector: Floats, name: str, n: int) -> list[tuple[str, str, float]]:
        """The ``n`` anchors of domain ``name`` nearest to ``(d,)``: text, kind and cosine, nearest first."""
        mine = self.anchors[name]
        similarity = np.einsum("ij,j->i", mine.vectors, vector)
        return [(mine.texts[i], mine.kinds[i], float(similarity[i])) for i in np.argsort(-similarity)[:n]]

    @cached_property
    def crowd(self) -> float:
        """How many anchors a domain has, as the geometric mean."""
        return float(np.exp(np.log(self.counts).mean()))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The text of each row of the matrix."""
        return tuple(text for a in self.anchors.values() for text in a.texts)

    @cached_property
    def examples(self) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """Vectors of all examples ``(n, d)``, the place of each one's domain in ``names``, and its row of the matrix."""
        owner = np.repeat(np.arange(len(self.names)), self.counts)
        kinds = np.array([kind for a in self.anchors.values() for kind in a.kinds])
        rows = np.flatnonzero(kinds == "example")
        return self._matrix[rows], owner[rows], rows


def weighing(counts: Floats) -> tuple[Floats, Floats]:
    """Of how many anchors domains have, the logarithm, and how much their middle says beside the nearest of them."""
    return np.log(np.maximum(counts, 1)), np.float32(WHOLE * USUAL_FEW) / (USUAL_FEW + counts)


def embed(encoder: TextEncoder, texts: list[str], cache: Path | None) -> Floats:
    """Vectors of ``texts``, from the cache when it has them: embedding a domain's examples takes longer than a question may."""
    if cache is None or not texts:
        return encoder.encode(texts)
    key = hashlib.sha256("\0".join((encoder.fingerprint, *texts)).encode()).hexdigest()[:32]
    path = cache / f"{key}.npy"
    if path.is_file():
        # A damaged file is made again.
        with contextlib.suppress(*DAMAGED):
            loaded: Floats = np.load(path)
            if loaded.ndim == 2 and len(loaded) == len(texts) and loaded.dtype == np.float32:
                return loaded
    vectors = encoder.encode(texts)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Several threads may embed the same at once, too.
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.npy")
        np.save(temporary, vectors)
        temporary.replace(path)
    except OSError:
        # A cache on a read-only or full disk only costs time.
        return vectors
    return vectors
