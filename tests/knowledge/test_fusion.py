from __future__ import annotations

from mdsa_local.knowledge.fusion import Hit, fuse
from mdsa_local.types import Passage


def hit(name: str, cosine: float, lexical_rank: int | None = None, text: str = "") -> Hit:
    return Hit(Passage(name, name, "global", "", text or name, 0, 1, max(cosine, 0.0)), cosine, lexical_rank, {})


def names(hits: list[Hit]) -> list[str]:
    return [found.passage.id for found in fuse(hits)]


def test_without_words_the_order_is_by_cosine() -> None:
    assert names([hit("b", 0.2), hit("a", 0.9), hit("c", -0.1)]) == ["a", "b", "c"]


def test_found_both_ways_beats_found_one_way() -> None:
    assert names([hit("near", 0.9), hit("both", 0.8, 1), hit("words", 0.1, 2)]) == ["both", "words", "near"]


def test_two_tables_are_ranked_by_cosine_together_and_by_words_apart() -> None:
    assert names([hit("one", 0.3, 1), hit("two", 0.8, 1), hit("one again", 0.2, 2)]) == ["two", "one", "one again"]


def test_of_equal_texts_only_the_best_stays() -> None:
    assert names([hit("worse", 0.5, text="Same  text\n"), hit("better", 0.9, 1, text="same text")]) == ["better"]


def test_nothing_is_nothing() -> None:
    assert fuse([]) == []
