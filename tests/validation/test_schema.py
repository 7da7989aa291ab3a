"""Answers of a form are kept to the letter; what is wrong with them is told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.routing.encoder import Encoder
from mdsa_local.types import Draft, Verdict
from mdsa_local.validation import ladder
from tests.validation.test_ladder import ATM, FEES, QUESTION

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}, "dollars": {"type": "number"}, "kind": {"enum": ["fee", "limit"]}, "sure": {"type": "boolean"}},
    "required": ["answer"],
    "additionalProperties": False,
}
FORM = Generation(json_schema=SCHEMA)


def judge(encoder: Encoder, text: str, form: Generation = FORM, finish: str = "stop", doubt: str = "") -> Verdict:
    return ladder.judge(QUESTION, Draft(text, "nano", finish, 10, 10, doubt), (FEES, ATM), encoder.encode, (), form)


@pytest.mark.parametrize(
    "said",
    [
        {"answer": "A replacement card costs $5."},
        {"answer": "A replacement card costs $5. [1]", "dollars": 5, "kind": "fee", "sure": True},
        {"answer": "A replacement card costs $5. [2]", "dollars": 5.0},
    ],
)
def test_a_supported_one_is_a_success_with_its_citations_beside_it(encoder: Encoder, said: dict[str, Any]) -> None:
    text = json.dumps(said, indent=1) + "\n"
    verdict = judge(encoder, text)
    assert (verdict.status, verdict.text, verdict.support) == ("success", text, 1.0), verdict
    assert [citation.number for citation in verdict.cited] == [1]


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ('{"answer": "The moon lends money to every sheep."}', "stop", "grounding: 0 of 1 statements are in the passages"),
        ('{"answer": "A replacement card costs $5.", "dollars": 77}', "stop", "grounding: 1 of 2 statements are in the passages"),
        ('{"answer": "The ATM limit is $400 a day."}', "stop", "relevance: closeness"),
        ('{"answer": "A replacement card costs', "length", "length: cut off at max_tokens"),
        ("A replacement card costs $5.", "stop", "form: it is not JSON: Expecting value"),
        ('{"reply": "A replacement card costs $5."}', "stop", "form: at its top: "),
        ('{"answer": "A replacement card \\ud800 costs $5."}', "stop", "form: it holds half a character: '\\ud800'"),
    ],
)
def test_what_is_wrong_is_told_and_left_as_it_is(encoder: Encoder, text: str, finish: str, reason: str) -> None:
    verdict = judge(encoder, text, finish=finish)
    assert (verdict.status, verdict.text) == ("degraded", text)
    assert verdict.reason.startswith(reason), verdict.reason
    assert not all(check.passed for check in verdict.checks)


@pytest.mark.parametrize(
    ("said", "question", "status"),
    [
        ({"price": 30, "days": 5}, "How much is a replacement card?", "success"),
        ({"month": "April"}, "When are roses pruned?", "success"),
        ({"price": 30}, "When are roses pruned?", "degraded"),
        ({"price": 77}, "How much is a replacement card?", "degraded"),
    ],
)
def test_bare_values_are_about_what_the_sentences_are_that_hold_them(encoder: Encoder, said: dict[str, Any], question: str, status: str) -> None:
    texts = ("A replacement card costs $30 and arrives in 5 days. Call us.", "Roses are pruned in April, above a bud.")
    passages = tuple(replace(FEES, text=text) for text in texts)
    draft = Draft(json.dumps(said), "nano", "stop", 10, 10, "")
    verdict = ladder.judge(question, draft, passages, encoder.encode, (), Generation(json_schema={"type": "object"}))
    assert verdict.status == status, verdict


def test_a_refusal_in_it_is_not_found_and_kept(encoder: Encoder) -> None:
    text = json.dumps({"answer": NOT_FOUND})
    verdict = judge(encoder, text)
    assert (verdict.status, verdict.text, verdict.cited) == ("not_found", text, ())


def test_what_only_chooses_among_listed_values_states_nothing(encoder: Encoder) -> None:
    verdict = judge(encoder, '{"kind": "fee"}', Generation(json_schema={"properties": {"kind": {"enum": ["fee", "limit"]}}}))
    assert (verdict.status, verdict.cited) == ("success", ())
    assert judge(encoder, "yes", Generation(grammar='root ::= "yes" | "no"')).status == "success"


def test_a_grammars_answer_is_kept_too(encoder: Encoder) -> None:
    form = Generation(grammar='root ::= [^\\n]+ "\\n"')
    verdict = judge(encoder, "A replacement card costs $5.\n", form)
    assert (verdict.status, verdict.text) == ("success", "A replacement card costs $5.\n")
    assert judge(encoder, "Sheep fly.\n", form).text == "Sheep fly.\n"


def test_where_the_model_was_not_asked_it_says_so(encoder: Encoder) -> None:
    verdict = judge(encoder, NOT_FOUND, doubt="no passage was found")
    assert (verdict.status, verdict.reason) == ("not_found", "no passage was found")
