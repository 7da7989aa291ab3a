"""A linear classifier over domains by the words of a question, beside the one on the encoder's vectors: softmax regression on TF-IDF, in numpy.

The encoder blurs what a single word settles ("w2", "crockpot"), words miss what is said otherwise; their faults differ, so both together
are better than either. Terms are single words and neighbouring pairs, weighted by (1 + log tf) * idf and scaled to unit length (Salton &
Buckley 1988); Adagrad (Duchi et al. 2011), seeded, about two seconds for 15,000 examples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mdsa_local.routing.anchors import Floats
from mdsa_local.routing.head import prior, softmax

WORD = re.compile(r"\w+(?:['’]\w+)?")
MOST_TERMS = 60_000
EPOCHS, BATCH, RATE, SMOOTHING = 8, 128, 0.5, 0.02
# A term of every text: the constant of the regression. No word is empty.
CONSTANT = ""


def terms(text: str) -> Iterator[str]:
    """The words of ``text``, its neighbouring pairs of words, and the constant."""
    words = WORD.findall(text.lower())
    yield CONSTANT
    yield from words
    for pair in pairwise(words):
        yield " ".join(pair)


@dataclass(frozen=True, slots=True)
class Rows:
    """Sparse rows: row ``i`` has the columns ``columns[starts[i]:starts[i + 1]]`` with ``values``; none is empty."""

    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: Floats

    def times(self, weights: Floats) -> Floats:
        """``(n, terms) @ (terms, c)``."""
        product: Floats = np.add.reduceat(weights[self.columns] * self.values[:, None], self.starts[:-1], axis=0)
        return product

    def chosen(self, which: NDArray[np.int64]) -> Rows:
        """Rows ``which``, in that order."""
        lengths = np.diff(self.starts)[which]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(starts[-1]) + np.repeat(self.starts[which] - starts[:-1], lengths)
        return Rows(starts, self.columns[places], self.values[places])


@dataclass(frozen=True, slots=True)
class Words:
    """The trained classifier: the row of ``weights`` ``(terms, domains)`` and the ``idf`` of each term in ``vocabulary``."""

    domains: tuple[str, ...]
    vocabulary: Mapping[str, int]
    idf: Floats
    weights: Floats

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.floating]:
        """``(n, domains)`` probabilities; words never seen say nothing."""
        if not texts:
            return np.zeros((0, len(self.domains)))
        return softmax(rows(texts, self.vocabulary, self.idf).times(self.weights))


def rows(texts: Sequence[str], vocabulary: Mapping[str, int], idf: Floats) -> Rows:
    """The texts as rows of unit length over ``vocabulary``."""
    counted = [Counter(vocabulary[term] for term in terms(text) if term in vocabulary) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in counted])])
    columns = np.array([column for row in counted for column in row], dtype=np.int64)
    counts = np.array([count for row in counted for count in row.values()], dtype=np.float32)
    values = (1 + np.log(counts)) * idf[columns]
    norms = np.sqrt(np.add.reduceat(values**2, starts[:-1]))
    return Rows(starts, columns, (values / np.repeat(norms, np.diff(starts))).astype(np.float32))


def train(texts: Sequence[str], labels: Sequence[str], seed: int = 0) -> Words:
    """Train on texts and the domain of each; both at least one."""
    domains = tuple(sorted(set(labels)))
    found = Counter(term for text in texts for term in set(terms(text)))
    kept = sorted(sorted(found), key=lambda term: -found[term])[:MOST_TERMS]
    idf = np.array([np.log((1 + len(texts)) / (1 + found[term])) + 1 for term in kept], dtype=np.float32)
    vocabulary = {term: column for column, term in enumerate(kept)}
    known = rows(texts, vocabulary, idf)
    place = {name: i for i, name in enumerate(domains)}
    wanted = np.array([place[label] for label in labels])
    weights = _fit(known, wanted, len(kept), prior(wanted, len(domains)), seed)
    return Words(domains, vocabulary, idf, weights)


def _fit(known: Rows, y: NDArray[np.int64], n_terms: int, offsets: Floats, seed: int) -> Floats:
    n_classes = len(offsets)
    rng = np.random.default_rng(seed)
    weights = np.zeros((n_terms, n_classes), np.float32)
    squares = np.full((n_terms, n_classes), 1e-6, np.float32)
    targets = np.full((len(y), n_classes), SMOOTHING / n_classes, np.float32)
    targets[np.arange(len(y)), y] += 1 - SMOOTHING
    for epoch in range(EPOCHS):
        order = rng.permutation(len(y))
        for at in range(0, len(order), BATCH):
            batch = order[at : at + BATCH]
            some = known.chosen(batch)
            error = softmax(some.times(weights) + offsets) - targets[batch]
            columns, inverse = np.unique(some.columns, return_inverse=True)
            gradient = np.zeros((len(columns), n_classes), np.float32)
            np.add.at(gradient, inverse, some.values[:, None] * np.repeat(error, np.diff(some.starts), axis=0).astype(np.float32))
            squares[columns] += gradient**2
            weights[columns] -= RATE * (1 - epoch / EPOCHS) * gradient / np.sqrt(squares[columns])
    return weights
