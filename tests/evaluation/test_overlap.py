"""How near questions come to what was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdsa_local.evaluation import overlap, questions
from mdsa_local.evaluation.questions import Case
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.encoder import Encoder


def case(text: str) -> Case:
    return Case(7, text, "finance", (), ())


def test_slots_are_filled() -> None:
    assert overlap.filled("is {food} ok for a {beast}, {beast2}", {"food": ["hay", "oats"], "beast": ["goat"]}) == "is hay ok for a goat, goat"
    assert overlap.filled("after {short_time}?", {}) == "after short time?"


def test_every_template_is_read() -> None:
    asked = overlap.training_questions()
    assert len(asked) > 5000
    assert not any("{" in text for text in asked)


def test_the_same_question_is_found_by_meaning_or_by_words(encoder: Encoder) -> None:
    known = ["where is the nearest pharmacy", "how many savings pots may one customer open", "the gate closes at nine"]
    same, reworded, other = overlap.twins(
        [case("How many savings pots may one customer open?"), case("open savings pots: one customer, how many"), case("is my parcel lost")],
        known,
        encoder,
    )
    assert same.near
    assert (same.line, same.nearest) == (7, known[1])
    assert same.words == 1.0
    assert reworded.near
    assert not other.near


def test_two_common_words_are_too_little(encoder: Encoder) -> None:
    (found,) = overlap.twins([case("send back")], ["send back"], encoder)
    assert found.words == 0.0
    assert found.cosine == pytest.approx(1.0, abs=1e-3)


def test_nothing_to_compare_with(encoder: Encoder) -> None:
    found = overlap.report(overlap.twins([case("a question")], [], encoder))
    assert (found["n"], found["share"], found["worst"]) == (0, None, [])


def test_the_report_lists_the_worst_first(encoder: Encoder) -> None:
    cases = [case("how do i bake bread"), case("what is the atm limit a day")]
    found = overlap.report(overlap.twins(cases, ["what is the daily atm limit, a day"], encoder))
    assert found["near"] == 1
    assert found["share"] == 0.5
    assert [twin["question"] for twin in found["worst"]] == [cases[1].question, cases[0].question]


def test_the_shipped_set_is_apart_from_the_training_text(encoder: Encoder) -> None:
    # Every third, because embedding all of them takes a while; `mdsa eval answers --overlap` compares with all.
    found = overlap.report(overlap.twins(questions.read(), overlap.training_questions()[::3], encoder))
    assert found["share"] <= 0.01, found["worst"]


def test_the_shipped_set_is_apart_from_the_written_questions(encoder: Encoder) -> None:
    found = overlap.report(overlap.twins(questions.read(), overlap.written_questions()[::5], encoder))
    assert found["near"] == 0, found["worst"]


def test_the_shipped_set_is_apart_from_the_articles(encoder: Encoder) -> None:
    # Of all, six of 446 are too near: short ones that customers of any shop ask, of other articles here ("price of the hub").
    asked = overlap.article_questions()
    assert len(asked) > 37_000
    found = overlap.report(overlap.twins(questions.read(), asked[::8], encoder))
    assert found["share"] <= 0.01, found["worst"]


def test_all_that_was_trained_on_is_compared(product: TinyBERTOrchestrator, tmp_path: Path) -> None:
    known = overlap.trained_on(product.registry)
    assert list(known) == ["training templates", "written questions", "articles' questions", "routing examples"]
    assert all(len(texts) > 100 for texts in known.values())
    (tmp_path / "own.yaml").write_text('- {title: [T], facts: [{asks: ["where is {food}"], says: [Here.]}]}', encoding="utf-8")
    assert overlap.trained_on(product.registry, tmp_path)["training templates"] == ["where is food"]


def test_the_shipped_set_is_apart_from_the_routing_examples(product: TinyBERTOrchestrator, encoder: Encoder) -> None:
    found = overlap.report(overlap.twins(questions.read(), overlap.routing_examples(product.registry), encoder))
    assert found["near"] == 0, found["worst"]


def test_the_guard_finds_what_the_report_finds(encoder: Encoder) -> None:
    """Texts and questions change places: what trains is compared with what judges."""
    cases = questions.read()[:60]
    texts = [case.question.upper() + "?" for case in cases[:3]] + ["open savings pots: one customer, how many", "what do otters eat in winter", "hm"]
    found = overlap.Guard(cases, encoder).near(texts)
    expected = [any(twin.near for twin in overlap.twins(cases, [text], encoder)) for text in texts]
    assert found == expected
    assert found[:3] == [True] * 3
    assert not any(found[4:])
    assert overlap.Guard([], encoder).near(["a question"]) == [False]
    assert overlap.Guard(cases, encoder).near([]) == []
