"""Ranking what two searches found in one or two tables. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mdsa_local.types import Passage

# Cormack, Clarke and Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods": k = 60.
RRF_K = 60


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found in one table, with its rank there by words (1 is best) and its BM25 score, or None and 0 where no word matched."""

    passage: Passage
    cosine: float
    lexical_rank: int | None
    metadata: Mapping[str, Any]
    bm25: float = 0.0


@dataclass(frozen=True, slots=True)
class Ranked:
    """A hit and why it stands where it does: its rank by cosine among all hits, its fused score, and the better passage with the same text."""

    hit: Hit
    cosine_rank: int
    score: float
    twin_of: str | None = None


def rank(hits: Iterable[Hit]) -> list[Ranked]:
    """Order hits, best first, by reciprocal rank: ``1/(60 + rank by cosine) + 1/(60 + rank by words)``.

    Cosines of two tables can be compared, so that rank is taken over all hits. BM25 scores depend on their table's size and words,
    so that rank is each table's own. Of passages with the same text the best is the others' ``twin_of``.
    """
    by_cosine = sorted(hits, key=lambda hit: -hit.cosine)
    scores = [1 / (RRF_K + place) + (1 / (RRF_K + hit.lexical_rank) if hit.lexical_rank else 0.0) for place, hit in enumerate(by_cosine, 1)]
    best: dict[str, str] = {}
    ranked = []
    for i in sorted(range(len(by_cosine)), key=lambda i: -scores[i]):
        passage = by_cosine[i].passage
        first = best.setdefault(" ".join(passage.text.split()).casefold(), passage.id)
        ranked.append(Ranked(by_cosine[i], i + 1, scores[i], None if first == passage.id else first))
    return ranked


def fuse(hits: Iterable[Hit]) -> list[Hit]:
    """The hits in the order of :func:`rank`, without twins."""
    return [ranked.hit for ranked in rank(hits) if ranked.twin_of is None]
