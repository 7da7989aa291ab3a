from __future__ import annotations

import math

import pytest

from mdsa_local.knowledge.evaluate import Judged, measure, ndcg, recall
from mdsa_local.types import Passage


def passages(*ids: str) -> list[Passage]:
    return [Passage(name, name, "global", "", name, 0, 1, 0.5) for name in ids]


def test_documents_are_ranked_by_their_best_passage() -> None:
    found = {"one": passages("a#1", "a#0", "b#3"), "two": passages("x#0", "y#0"), "none": passages()}
    quality = measure(lambda question: found[question], [Judged("one", ("b",)), Judged("two", ("x", "z")), Judged("none", ("a",))])
    assert quality.n == 3
    assert quality.recall_at_5 == pytest.approx((1 + 0.5 + 0) / 3)
    assert quality.ndcg_at_10 == pytest.approx((1 / math.log2(3) + 1 / (1 + 1 / math.log2(3)) + 0) / 3)
    assert 0 <= quality.p50_ms <= quality.p99_ms


def test_only_the_first_count() -> None:
    found = [str(n) for n in range(10)]
    assert (recall(found[:5], ["5"]), recall(found[:5], ["4"]), recall(found[:5], [*"01234", "98", "99"])) == (0.0, 1.0, 1.0)
    assert ndcg(found, ["0"]) == 1.0
    assert ndcg(found, ["9"]) == pytest.approx(1 / math.log2(11))
    assert ndcg(found, ["10"]) == 0.0
