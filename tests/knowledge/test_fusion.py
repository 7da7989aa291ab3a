from __future__ import annotations

import pytest

from mdsa_local.knowledge.fusion import WORDS_WEIGHT, Hit, fuse, rank, saturated
from mdsa_local.types import Passage


def hit(name: str, cosine: float, words: float = 0.0, text: str = "") -> Hit:
    return Hit(Passage(name, name, "global", "", text or name, 0, 1, max(cosine, 0.0)), cosine, 1 if words else None, {}, words, words)


def names(hits: list[Hit], weight: float | None = WORDS_WEIGHT) -> list[str]:
    return [found.passage.id for found in fuse(hits, weight)]


def test_by_reciprocal_rank_what_is_found_both_ways_comes_first() -> None:
    assert names([hit("near", 0.9), hit("both", 0.8, 0.6), hit("far", 0.1)], None) == ["both", "near", "far"]


def test_without_words_the_order_is_by_cosine() -> None:
    assert names([hit("b", 0.2), hit("a", 0.9), hit("c", -0.1)]) == ["a", "b", "c"]


def test_found_both_ways_beats_found_one_way() -> None:
    assert names([hit("near", 0.9), hit("both", 0.8, 0.6), hit("words", 0.1, 0.7)]) == ["both", "near", "words"]


def test_a_table_that_has_nothing_of_the_matter_does_not_push_in() -> None:
    # The best by words of its table, but by one common word.
    assert names([hit("elsewhere", 0.1, 0.2), hit("near", 0.5), hit("nearest", 0.6, 0.7)]) == ["nearest", "near", "elsewhere"]


def test_scores_by_words_do_not_depend_on_the_size_of_a_table() -> None:
    # A word that one of n passages has is worth about ln(n / 1.5) in BM25, whatever n is.
    assert [saturated(worth, n) for worth, n in ((1.897, 9), (4.203, 100), (11.107, 100_000))] == [pytest.approx(0.5, abs=0.01)] * 3
    assert [saturated(0.0, n) for n in (0, 1, 100)] == [0.0] * 3
    assert saturated(5.0, 100) < saturated(6.0, 100) < 1.0


def test_a_ranking_says_what_decided_it() -> None:
    first, second = rank([hit("words", 0.4, 0.5), hit("near", 0.6)], 0.6)
    assert (first.hit.passage.id, first.cosine_rank, second.hit.passage.id, second.cosine_rank) == ("words", 2, "near", 1)
    assert (first.score, second.score) == pytest.approx((0.7, 0.6))


def test_of_equal_texts_only_the_best_stays() -> None:
    assert names([hit("worse", 0.5, text="Same  text\n"), hit("better", 0.9, 0.5, text="same text")]) == ["better"]


def test_nothing_is_nothing() -> None:
    assert fuse([]) == []
