from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mdsa_local.knowledge.evaluate import PASSAGES, Judged, measure, ndcg, recall
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.types import Passage

ANSWERS = Path(__file__).parents[1] / "data" / "answers"


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


def test_the_shipped_knowledge_answers_its_questions(product: TinyBERTOrchestrator) -> None:
    encoder = product.encoder
    parts = []
    for path in sorted(ANSWERS.glob("*.jsonl")):
        domain = None if path.stem == "_global" else path.stem
        rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]
        judged = [Judged(row["question"], (row["document"],)) for row in rows]
        parts.append(measure(lambda text, domain=domain: product.knowledge.search(text, encoder.encode([text])[0], domain, PASSAGES), judged))  # type: ignore[misc]
        print(path.stem, parts[-1])
    assert sum(part.n for part in parts) >= 190
    assert sum(part.recall_at_5 * part.n for part in parts) / sum(part.n for part in parts) >= 0.95
