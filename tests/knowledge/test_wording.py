"""Words in memory score as LanceDB scores them."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.store import Entry, KnowledgeBase
from mdsa_local.knowledge.wording import Words, lancedb_tokens

from .toy_embedder import ToyEmbedder

TEXTS = [
    "Apples and pears",
    "apple, apple; APPLE!",
    "the and of",
    "",
    "Crème brûlée: naïve café",
    "running runs ran",
    "x" * 50 + " short",
    "ラン 東京 running",
]


def drawn(source: random.Random, n: int) -> list[str]:
    """Texts of words of which some are frequent, with what else occurs in texts."""
    words = ["".join(source.choices(string.ascii_lowercase, k=source.randint(2, 7))) for _ in range(300)]
    words += ["the", "Running", "naïve", "Straße", "ŒUVRE", "东京", "3.14", "e-mail", "don't", "a\u00a0b", "ﬁne", "İstanbul", "ΣΊΣΥΦΟΣ", "हिन्दी"]
    weights = [1 / (place + 1) for place in range(len(words))]
    return [source.choice([" ", "\n", "\t"]).join(source.choices(words, weights, k=source.randint(0, 60))) for _ in range(n)]


@pytest.mark.parametrize("texts", [TEXTS, None])
def test_scores_are_those_of_lancedb(tmp_path: Path, texts: list[str] | None) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    source = random.Random(seed)
    texts = texts or drawn(source, 1500)
    knowledge_base = KnowledgeBase(connect(tmp_path), "garden", ToyEmbedder())
    knowledge_base.add(Entry(f"{n:04}", f"{n:04}", "0", (Chunk("", text, 0, 0),)) for n, text in enumerate(texts))
    knowledge_base.optimize()
    table = knowledge_base.opened()
    words = Words.of([f"\n{text}" for text in texts], lancedb_tokens())
    questions = [*TEXTS, "apples", "cafe creme", "run run run", *source.sample(texts, min(100, len(texts)))]
    compared = 0
    for question in questions:
        mine = {f"{place:04}#0": score for place, score in words.best(question, len(texts))}
        theirs = dict(knowledge_base._run(_by_words(table, question, len(texts))))
        assert mine == pytest.approx(theirs, rel=1e-5)
        compared += len(theirs)
        assert [score for _, score in words.best(question, 5)] == pytest.approx(sorted(theirs.values(), reverse=True)[:5], rel=1e-5)
    assert compared > (10 if texts is TEXTS else 10_000)


async def _by_words(table: object, question: str, limit: int) -> list[tuple[str, float]]:
    from lancedb.query import MatchQuery

    found = await table.query().nearest_to_text(MatchQuery(question, "searchable")).select(["id", "_score"]).limit(limit).to_arrow()  # type: ignore[attr-defined]
    return list(zip(found["id"].to_pylist(), found["_score"].to_pylist(), strict=True))


def test_best_first_and_no_more_than_asked_for() -> None:
    words = Words.of(["apple pear", "apple apple", "pear", "plum", "apple pear plum quince"], lancedb_tokens())
    everything = words.best("apple pear", 10)
    assert sorted(place for place, _ in everything) == [0, 1, 2, 4]
    assert everything[0][0] == 0 and [score for _, score in everything] == sorted((score for _, score in everything), reverse=True)
    assert words.best("apple pear", 2) == everything[:2]
    assert words.best("cherry", 5) == words.best("", 5) == words.best("the of", 5) == []


def test_nothing_to_find() -> None:
    for texts in ([], [""], ["...", "?!"], ["the", "of the"]):
        assert Words.of(texts, lancedb_tokens()).best("the apple", 5) == []


def test_a_text_may_hold_what_parts_the_others() -> None:
    from mdsa_local.knowledge import wording

    texts = [f"apple {wording._BETWEEN}", f"x{wording._BETWEEN.upper()}x", "pear", f"{wording._BETWEEN}-plum"]
    words = Words.of(texts, lancedb_tokens())
    assert [[place for place, _ in words.best(question, 5)] for question in ("apple", "pear", "plum")] == [[0], [2], [3]]
    assert sorted(place for place, _ in words.best(wording._BETWEEN, 5)) == [0, 3]


@pytest.mark.parametrize(("limit", "least"), [("_TEXTS_AT_ONCE", 7), ("_MOST_KNOWN", 20), ("_AT_ONCE", 40)])
def test_many_texts_go_in_parts(monkeypatch: pytest.MonkeyPatch, limit: str, least: int) -> None:
    from mdsa_local.knowledge import wording

    texts = drawn(random.Random(1), 300)
    whole = Words.of(texts, lancedb_tokens())
    monkeypatch.setattr(wording, "_TEXTS_AT_ONCE", 50)
    monkeypatch.setattr(wording, limit, least)
    parts = Words.of(texts, lancedb_tokens())
    for question in texts[:30]:
        assert parts.best(question, 50) == whole.best(question, 50)
