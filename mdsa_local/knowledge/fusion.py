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
    """A passage found in one table, with its rank there by words (1 is best) or None where no word matched."""

    passage: Passage
    cosine: float
    lexical_rank: int | None
    metadata: Mapping[str, Any]


def fuse(hits: Iterable[Hit]) -> list[Hit]:
    """Order hits, best first, by reciprocal rank: ``1/(60 + rank by cosine) + 1/(60 + rank by words)``.

    Cosines of two tables can be compared, so that rank is taken over all hits. BM25 scores depend on their table's size and words,
    so that rank is each table's own. Of passages with the same text only the best stays.
    """
    by_cosine = sorted(hits, key=lambda hit: -hit.cosine)
    scores = [1 / (RRF_K + rank) + (1 / (RRF_K + hit.lexical_rank) if hit.lexical_rank else 0.0) for rank, hit in enumerate(by_cosine, 1)]
    order = sorted(range(len(by_cosine)), key=lambda i: -scores[i])
    best: dict[str, Hit] = {}
    for i in order:
        best.setdefault(" ".join(by_cosine[i].passage.text.split()).casefold(), by_cosine[i])
    return list(best.values())
