"""Measure retrieval on questions whose documents are known."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mdsa_local.types import Passage

TOP, DEPTH = 5, 10
# Documents are ranked by their best passage; this many passages hold ten documents unless these are very long.
PASSAGES = 30


@dataclass(frozen=True, slots=True)
class Judged:
    """A question and the documents that answer it."""

    question: str
    relevant: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """``recall_at_5``: share of a question's documents among the first five; ``ndcg_at_10``: see :func:`ndcg`; both are means over ``n`` questions,
    0 to 1. Times of encoding and searching one question in ms."""

    n: int
    recall_at_5: float
    ndcg_at_10: float
    p50_ms: float
    p99_ms: float


def measure(search: Callable[[str], Sequence[Passage]], judged: Iterable[Judged]) -> Quality:
    """Ask every question; ``search`` gives passages, best first."""
    recalls, gains, times = [], [], []
    for item in judged:
        began = time.perf_counter()
        passages = search(item.question)
        times.append((time.perf_counter() - began) * 1000)
        found = list(dict.fromkeys(passage.id.rpartition("#")[0] for passage in passages))[:DEPTH]
        recalls.append(recall(found[:TOP], item.relevant))
        gains.append(ndcg(found, item.relevant))
    ordered = sorted(times)
    return Quality(len(times), statistics.fmean(recalls), statistics.fmean(gains), statistics.median(times), ordered[int(len(ordered) * 0.99)])


def recall(found: Sequence[str], relevant: Sequence[str]) -> float:
    """The share of ``relevant`` that was found, of as many as could be among so few."""
    return len(set(found) & set(relevant)) / min(len(set(relevant)), TOP)


def ndcg(found: Sequence[str], relevant: Sequence[str]) -> float:
    """Normalised discounted cumulative gain with gains of 0 and 1 (Järvelin and Kekäläinen 2002): 1 when the relevant documents come first."""
    gain = sum(1 / math.log2(place + 1) for place, document in enumerate(found, 1) if document in relevant)
    return gain / sum(1 / math.log2(place + 1) for place in range(1, min(len(set(relevant)), DEPTH) + 1))
