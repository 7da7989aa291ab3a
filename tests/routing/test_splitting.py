"""Questions that belong to several domains, and questions that only look like it, written for this project."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.splitting import MOST_PIECES, pieces, single
from tests.conftest import DATA


@pytest.fixture(scope="module")
def questions() -> dict[str, list[dict[str, Any]]]:
    loaded: dict[str, list[dict[str, Any]]] = yaml.safe_load((DATA / "multi_domain.yaml").read_text(encoding="utf-8"))
    return loaded


def test_precision_and_recall_of_the_split(product: TinyBERTOrchestrator, questions: dict[str, list[dict[str, Any]]]) -> None:
    router = product.router
    assert len(questions["several"]) >= 80
    assert len(questions["single"]) >= 80
    found = right = 0
    for asked in questions["several"]:
        parts = router.route(asked["question"]).parts
        found += len(parts) > 1
        right += [part.domain for part in parts] == [part["domain"] for part in asked["parts"]]
        assert all(asked["question"][part.start : part.end] == part.text for part in parts)
    false = sum(len(router.route(asked["question"]).parts) > 1 for asked in questions["single"])
    assert found / (found + false) >= 0.85
    assert right / len(questions["several"]) >= 0.7


def test_the_example_of_the_documentation(product: TinyBERTOrchestrator) -> None:
    parts = product.router.route("My card was stolen and the app shows error 401").parts
    assert [(part.domain, part.text) for part in parts] == [("finance", "My card was stolen"), ("technical", "the app shows error 401")]


def test_numbers_and_addresses_stay_whole() -> None:
    for text in ("firmware 2.1 returned my payment of 20.00 to the card", "the hub at 192.168.1.1 is down since 10:30 and 1,000 users wait"):
        assert all(text[p.start : p.end].split() == [w for w in text.split() if w in text[p.start : p.end].split()] for p in pieces(text))
        assert all(piece.start == 0 or text[piece.start - 1] == " " for piece in pieces(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("how much is plus per month and what does it cover", ["how much is plus per month", "what does it cover"]),
        ("how long is the warranty, how long with Plus?", ["how long is the warranty", "how long with Plus"]),
        ("does plus cover the nurse, plus how do I get it", ["does plus cover the nurse", "how do I get it"]),
        ("what does basic cost and Plus per month?", ["what does basic cost", "Plus per month"]),
        ("the hub is offline plus my card was stolen", ["the hub is offline", "my card was stolen"]),
    ],
)
def test_plus_as_a_name_joins_nothing(text: str, found: list[str]) -> None:
    assert [text[piece.start : piece.end] for piece in pieces(text)] == found


@pytest.mark.parametrize(
    "text",
    [
        "1. when is payday\n2. which tyres fit",
        "1) when is payday?\n2) which tyres fit?",
        "(a) when is payday\n  (b) which tyres fit",
        "Q1: when is payday Q2: which tyres fit",
        "1. when is payday 2. which tyres fit",
        "Hello, 1) when is payday 2) which tyres fit",
        "- when is payday\n- which tyres fit",
        "• when is payday\n\n• which tyres fit",
        "So when is payday? And which tyres fit?",
        "and when is payday, and which tyres fit",
    ],
)
def test_marks_of_a_list_and_words_before_a_question_are_no_part_of_it(text: str) -> None:
    assert [(text[piece.start : piece.end], piece.asks) for piece in pieces(text)] == [("when is payday", True), ("which tyres fit", True)]


def test_quoted_questions_are_questions() -> None:
    assert [piece.asks for piece in pieces('"when is payday?" and “which tyres fit?”')] == [True, True]


@pytest.mark.parametrize("text", ["my lease ends in 2. may I stay", "the hub shows error 7. why is that", "is vitamin c) or d) better"])
def test_a_number_that_counts_nothing_stays(text: str) -> None:
    assert all(word in "".join(text[piece.start : piece.end] for piece in pieces(text)) for word in re.findall(r"\b[\dcd]\b", text))


def test_so_in_mid_sentence_opens_no_other_question() -> None:
    assert [piece.asks for piece in pieces("I started in April, so what am I entitled to")] == [False, False]


def test_a_list_is_divided(product: TinyBERTOrchestrator) -> None:
    parts = product.router.route("1) how do I freeze my card\n2) why does the app show error 401").parts
    assert [(part.domain, part.text) for part in parts] == [("finance", "how do I freeze my card"), ("technical", "why does the app show error 401")]


def test_a_long_message_is_divided_between_its_sentences(product: TinyBERTOrchestrator) -> None:
    card = "My card was stolen at the market, with all my cash, my bank statement, a savings book and my cheque book, so I need a new card"
    app = "The app shows error 401, on wifi and on mobile data, and a webhook fails with error 500"
    assert len(pieces(f"{card}. {app}.")) > MOST_PIECES
    assert [(part.domain, part.text) for part in product.router.route(f"{card}. {app}.").parts] == [("finance", card), ("technical", app)]


def test_of_too_many_matters_nothing_is_divided(product: TinyBERTOrchestrator) -> None:
    assert product.router.route("; ".join(["how do I freeze my card", "why does the app show error 401"] * 5)).parts == ()


def test_a_run_of_blanks_takes_no_time() -> None:
    began = time.process_time()
    pieces("a b" + " " * 7900 + "c d")
    assert time.process_time() - began < 0.2


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_pieces_lie_in_the_text_in_order(text: str) -> None:
    spans = pieces(text)
    assert all(0 <= piece.start < piece.end <= len(text) for piece in spans)
    assert all(before.end <= after.start for before, after in pairwise(spans))


WORDS = "how what my card AND also While but as well as plus Plus & R&D and/or by the way oh 1) 2) (a) (b) Q1: 1. * - -- , ; : ? ! . \n \t so second"


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([*WORDS.split(" "), "by the way", "as well as"]), max_size=9).map(" ".join) | st.text(max_size=60))
def test_what_is_seen_to_be_of_one_piece_is(text: str) -> None:
    assert not single(text) or len(pieces(text)) < 2


@pytest.mark.parametrize("text", ["what does a replacement card cost?", "reset my password!", "My card was charged twice how do I get my money back"])
def test_a_plain_question_is_seen_to_be_of_one_piece(text: str) -> None:
    assert single(text)
