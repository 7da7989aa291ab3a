"""Judging one answer, and summing up many."""

from __future__ import annotations

import pytest

from mdsa_local.evaluation.metrics import Judged, Response, cites, judge, share, speed, summary, unsupported
from mdsa_local.evaluation.questions import Case
from mdsa_local.types import Passage

ATM = Passage(
    "1", "finance/knowledge/atm-withdrawals.md", "finance", "ATM withdrawals", "A card can withdraw $400 a day. The limit resets at 00:00.", 0, 9, 1.0
)
FEES = Passage("2", "finance/knowledge/fees-overview.md", "finance", "Fees", "A replacement costs $5. Call Larkfield before 1 May.", 0, 9, 0.9)
HOURS = Passage("3", "_global/knowledge/support-hours.md", "global", "Support hours", "Support is closed on Sunday.", 0, 9, 0.8)
LIMIT = Case(1, "how much can i take out", "finance", (("$400",),), (("atm-withdrawals.md", "limits.md"),))
BOTH = Case(2, "limit, and when are you closed", "finance", (("$400",), ("Sunday", "weekend")), (("atm-withdrawals.md",), ("support-hours.md",)))
NONE = Case(3, "who is the ceo", "finance", (), ())


def said(text: str, *cited: Passage, status: str = "success", domain: str | None = "finance") -> Response:
    return Response(status, text, domain, (ATM, FEES), cited, tokens=10, generate_ms=100.0, decode_ms=50.0, first_token_ms=60.0, latency_ms=120.0)


def test_a_right_answer() -> None:
    found = judge(LIMIT, "own", said("You can withdraw 400 dollars a day [1].", ATM))
    assert found.right
    assert found.sourced
    assert found.retrieved
    assert (found.precision, found.recall) == (1.0, 1.0)
    assert found.routed
    assert not found.unsupported


def test_a_right_fact_from_the_wrong_document() -> None:
    found = judge(LIMIT, "own", said("A card can withdraw $400 a day [1]. A replacement costs $5 [2].", ATM, FEES))
    assert found.right
    assert not found.sourced
    assert (found.precision, found.recall) == (0.5, 1.0)
    assert judge(LIMIT, "own", said("$400 [2]", FEES)).precision == 0.0


def test_half_of_two_facts_is_not_right() -> None:
    found = judge(BOTH, "both", said("A card can withdraw $400 a day [1].", ATM))
    assert (found.held, found.wanted, found.right) == (1, 2, False)
    assert not found.retrieved
    assert found.recall == 0.5


def test_a_fact_in_a_passage_of_another_document_was_not_retrieved() -> None:
    elsewhere = Case(4, "q", "finance", (("$5",),), (("atm-withdrawals.md",),))
    assert not judge(elsewhere, "own", said("")).retrieved


def test_a_refusal_answers_nothing_even_when_it_holds_the_fact() -> None:
    found = judge(LIMIT, "own", said("The documents do not answer $400.", status="not_found"))
    assert not found.right
    assert found.precision is None
    assert not judge(LIMIT, "own", said("", status="error")).answered


def test_without_routing_there_is_nothing_to_be_right_about() -> None:
    assert judge(LIMIT, "own", said("x"), domain_given=True).routed is None
    assert judge(LIMIT, "own", said("x", domain=None)).routed is False


def test_an_answer_that_cites_nothing_has_no_precision() -> None:
    assert cites(LIMIT.sources, ()) == (None, 0.0)
    precision, recall = cites(BOTH.sources, (HOURS, FEES, ATM))
    assert precision == pytest.approx(2 / 3)
    assert recall == 1.0


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("A card can withdraw $400 a day [1].", ()),
        ("Four hundred dollars is what cards can withdraw [1].", ()),
        ("A card can withdraw $450 a day [1].", ("450 $",)),
        ("A card can withdraw 400 euros a day [1].", ("400 €",)),
        ("A card of Northbank can withdraw $400 a day [1].", ("northbank",)),
        ('"1. A card can withdraw $400." [1]', ()),
        ("1. A card can withdraw $400.\n2. ATM withdrawals reset nightly.", ("nightly",)),
    ],
)
def test_what_the_cited_passage_does_not_have(text: str, new: tuple[str, ...]) -> None:
    assert unsupported(text, (ATM,)) == new


def test_nothing_cited_supports_nothing() -> None:
    assert unsupported("Withdraw $400.", ()) == ("withdraw", "400 $")


def test_shares_have_an_interval() -> None:
    half = share(50, 100)
    assert half is not None
    # Wilson, from a published table.
    assert (half["share"], half["low"], half["high"]) == (0.5, 0.4038, 0.5962)
    assert share(0, 0) is None
    none = share(0, 20)
    assert none is not None
    assert none["low"] == 0.0
    assert none["high"] == pytest.approx(0.1611, abs=1e-3)


def test_a_summary_counts_each_question_where_it_belongs() -> None:
    judged = [
        judge(LIMIT, "own", said("A card can withdraw $400 a day [1].", ATM)),
        judge(LIMIT, "own", said("nothing", status="not_found")),
        judge(BOTH, "both", said("A card can withdraw $401 a day [1].", ATM, status="degraded")),
        judge(NONE, "none", said("nothing", status="abstained", domain=None)),
        judge(NONE, "none", said("A replacement costs $5 [2].", FEES)),
    ]
    found = summary(judged)
    shares = {key: value["share"] if isinstance(value, dict) else value for key, value in found.items()}
    assert shares["key_fact"] == pytest.approx(1 / 3, abs=1e-4)
    assert shares["key_fact_given_found"] == 0.5
    assert shares["retrieved"] == pytest.approx(2 / 3, abs=1e-4)
    assert shares["facts_each"] == 0.25
    assert shares["abstained_on_unanswerable"] == 0.5
    assert shares["abstained_on_answerable"] == pytest.approx(1 / 3, abs=1e-4)
    assert shares["unsupported_answers"] == pytest.approx(1 / 3, abs=1e-4)
    assert shares["degraded"] == pytest.approx(1 / 3, abs=1e-4)
    assert shares["routing"] == 0.8
    assert shares["routing_abstained"] == 0.2
    assert shares["citation_recall"] == 0.75
    assert found["errors"] == 0


def test_nothing_to_count_is_none_and_not_zero() -> None:
    found = summary([judge(NONE, "none", Response("error", "", None, (), (), error="broken"), domain_given=True)])
    assert found["key_fact"] is None
    assert found["routing"] is None
    assert found["tokens_per_s"] is None
    assert found["latency_p50_ms"] is None
    assert found["errors"] == 1
    empty: list[Judged] = []
    assert summary(empty)["n"] == 0


def test_speed_leaves_out_what_wrote_nothing() -> None:
    found = speed([said("a"), said("b"), Response("abstained", "", None, (), (), latency_ms=5.0)])
    assert found["tokens_per_s"] == 100.0
    assert found["decode_tokens_per_s"] == 180.0
    assert found["first_token_p50_ms"] == 60.0
    assert found["latency_p50_ms"] == 120.0
