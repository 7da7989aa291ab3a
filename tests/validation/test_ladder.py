from __future__ import annotations

import pytest

from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.domains.quoting import Extract
from mdsa_local.domains.units import units as units_of
from mdsa_local.routing.encoder import Encoder
from mdsa_local.types import Draft, Passage, Verdict
from mdsa_local.validation import citations, ladder

FEES = Passage("fees#0", "fees.md", "finance", "Card fees", "A replacement card costs $5. A replacement card arrives in 4 business days.", 0, 74, 0.8)
ATM = Passage(
    "atm#0", "atm.md", "global", "Cash", "1. Open the Larkfield app. 2. Tap Cards. 3. Choose Freeze. The ATM limit is $400 a day.", 0, 90, 0.6
)
QUESTION = "how much is a replacement card?"


def judge(encoder: Encoder, text: str, question: str = QUESTION, finish: str = "stop") -> Verdict:
    return ladder.judge(question, Draft(text, "nano", finish, 10, 10), (FEES, ATM), encoder.encode)


def test_a_quoted_sentence_stands(encoder: Encoder) -> None:
    verdict = judge(encoder, "A replacement card costs $5. [1]")
    assert verdict.status == "success"
    assert verdict.text == "A replacement card costs $5. [1]"
    assert [(c.number, c.passage.id) for c in verdict.cited] == [(1, "fees#0")]
    assert verdict.support == 1.0


def test_a_wrong_citation_is_set_right(encoder: Encoder) -> None:
    verdict = judge(encoder, "A replacement card costs $5. [2]")
    assert verdict.text.endswith("[1]")


def test_steps_are_kept_together_and_their_numbers_are_no_facts(encoder: Encoder) -> None:
    verdict = judge(encoder, "1. Open the Larkfield app. 2. Tap Cards. 3. Choose Freeze. [2]", "how do i freeze my card in the app?")
    assert verdict.status == "success"
    assert verdict.text.count("[2]") == 1


@pytest.mark.parametrize(
    "draft",
    [
        "A replacement card costs $7. [1]",
        "Replacement cards are made of recycled ocean plastic in Portugal. [1]",
        "A replacement card costs $5. The president pays for it himself every winter. [1]",
        "",
        "[1]",
    ],
)
def test_what_no_passage_says_is_replaced_by_a_passage_and_marked(encoder: Encoder, draft: str) -> None:
    verdict = judge(encoder, draft)
    assert verdict.status == "degraded"
    assert FEES.text in verdict.text
    assert verdict.reason
    assert not all(check.passed for check in verdict.checks)


def test_an_answer_to_something_else_is_replaced(encoder: Encoder) -> None:
    verdict = judge(encoder, "The ATM limit is $400 a day. [2]")
    assert verdict.status == "degraded"
    assert "relevance" in {check.name for check in verdict.checks if not check.passed}


def test_it_is_replaced_by_what_is_known_to_answer(encoder: Encoder) -> None:
    draft = Draft("The moon is made of cheese. [1]", "nano", "stop", 10, 10)
    verdict = ladder.judge(QUESTION, draft, (FEES, ATM), encoder.encode, ("The ATM limit is $400 a day.", "A replacement card costs $5."))
    assert verdict.status == "degraded"
    assert [citation.passage for citation in verdict.cited] == [ATM]


def test_repeating_and_cut_off_answers_are_replaced(encoder: Encoder) -> None:
    assert judge(encoder, "A replacement card costs $5. " * 9).status == "degraded"
    assert judge(encoder, "A replacement card costs $5. A repl", finish="length").status == "degraded"
    assert judge(encoder, "A replacement card costs $5. [1]", finish="cancelled").status == "degraded"


@pytest.mark.parametrize(
    ("question", "draft"),
    [
        ("what is a replacement card?", "What is a replacement card? [1]"),
        ("what is a replacement card", "a replacement card [1]"),
        (QUESTION, "Is it a replacement card? [1]"),
    ],
)
def test_a_question_is_no_answer(encoder: Encoder, question: str, draft: str) -> None:
    verdict = judge(encoder, draft, question)
    assert verdict.status == "degraded"
    assert [check.name for check in verdict.checks if not check.passed] == ["relevance"]


def test_what_is_cited_is_what_has_a_mark(encoder: Encoder) -> None:
    passages = [
        Passage(f"{at}", "gnu.md", "x", "Options", text, 0, len(text), 0.8)
        for at, text in enumerate(("The `force' option removes write-protected files.", "The `verbose' option explains what is being done."))
    ]
    draft = Draft(" ".join(f"{passage.text} [{at}]" for at, passage in enumerate(passages, 1)), "nano", "stop", 10, 10)
    verdict = ladder.judge("What do the force option and the verbose option do?", draft, passages, encoder.encode)
    assert (verdict.status, [citation.number for citation in verdict.cited]) == ("success", [1, 2])


def test_an_open_code_block_is_closed_and_cited(encoder: Encoder) -> None:
    listing = Passage("l", "l.md", "x", "Listing", "Run the list command:\n```\nls -la\n```\n", 0, 40, 0.8)
    draft = Draft("Run the list command:\n```\nls -la", "nano", "stop", 10, 10)
    verdict = ladder.judge("How do I list files?", draft, [listing], encoder.encode)
    assert (verdict.status, verdict.text) == ("success", "Run the list command:\n```\nls -la\n```\n[1]")
    assert [citation.number for citation in verdict.cited] == [1]


def test_without_a_mark_it_is_no_success(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(citations, "set_right", lambda answer, settled: answer)
    verdict = judge(encoder, "A replacement card costs $5.")
    assert (verdict.status, verdict.checks[-1].name, verdict.checks[-1].passed) == ("degraded", "citations", False)


@pytest.mark.parametrize(
    ("question", "answer", "text", "status"),
    [
        ("Is parking free?", "No, parking is not free.", "Parking is not free.", "success"),
        ("Is parking free?", "No, parking is free.", "Parking is free.", "degraded"),
        ("Is parking free?", "Yes, parking is not free.", "Parking is not free.", "degraded"),
        ("Is parking free?", "Yes. Parking is free.", "Parking is not free.", "degraded"),
        ("Do I have to pay for parking?", "No, parking is free.", "Parking is free.", "success"),
        ("Is there a fee for withdrawals?", "Yes, withdrawals are not free.", "Withdrawals are not free.", "success"),
        ("Does it take 5 days?", "No, it takes 30 days for a refund.", "It takes 30 days for a refund.", "success"),
    ],
)
def test_yes_and_no_fit_what_follows(encoder: Encoder, question: str, answer: str, text: str, status: str) -> None:
    passage = Passage("p", "p.md", "x", "T", text, 0, len(text), 0.8)
    assert ladder.judge(question, Draft(answer, "nano", "stop", 1, 1), [passage], encoder.encode).status == status


def test_a_question_that_guesses_the_sentence_gets_it(encoder: Encoder) -> None:
    assert judge(encoder, "A replacement card costs $5. [1]", "a replacement card costs $5?").status == "success"


CODE = Passage("code#0", "code.md", "technical", "Watering", "The script reads:\n```\nports = config[2]\n```", 0, 40, 0.8)


@pytest.mark.parametrize("draft", ["ports = config[2] [1]", Extract(0, "ports = config[2]").quoted])
def test_an_index_in_quoted_code_stays(encoder: Encoder, draft: str) -> None:
    question = "how does the watering script get the ports from config"
    verdict = ladder.judge(question, Draft(draft, "nano", "stop", 10, 10), (CODE, FEES), encoder.encode, ["ports = config[2]"])
    assert (verdict.status, verdict.text) == ("success", "`ports = config[2]` [1]")
    assert [citation.number for citation in verdict.cited] == [1]


def test_the_refusal_stays_a_refusal(encoder: Encoder) -> None:
    verdict = judge(encoder, NOT_FOUND)
    assert (verdict.status, verdict.text, verdict.cited) == ("not_found", NOT_FOUND, ())


def test_without_anything_near_it_says_not_in_the_documents(encoder: Encoder) -> None:
    verdict = judge(encoder, "Saturn has rings.", "how many rings does saturn have")
    assert verdict.status == "not_found"
    assert ladder.judge(QUESTION, Draft("It is free.", "nano", "stop", 1, 1), (), encoder.encode).status == "not_found"


@pytest.mark.parametrize(
    ("title", "text", "draft", "status"),
    [
        ("Trial", "Can I cancel after the trial ends? No.", "Can I cancel after the trial ends? No. [1]", "success"),
        ("Trial", "Can I cancel after the trial ends? No.", "Can I cancel after the trial ends? [1]", "degraded"),
        ("Trial", "Q: Can I cancel?\nA: Not after the trial ends.", "Q: Can I cancel?\nA: Not after the trial ends. [1]", "success"),
        ("Trial", "Never do this:\n\n- Wait.\n- Cancel late.", "Never do this:\n- Cancel late. [1]", "success"),
        ("Trial > Not allowed", "- Wait.\n- Cancel late.", "Not allowed:\n- Cancel late. [1]\n- Wait. [1]", "success"),
        ("Trial > Not allowed", "- Wait.\n- Cancel late.", "Not allowed: Cancel late. [1]", "success"),
        ("Trial > Allowed", "- Wait.\n- Cancel late.", "Not allowed:\n- Cancel late. [1]", "degraded"),
    ],
)
def test_what_answers_may_be_quoted_with_its_question_or_heading_but_is_no_question(
    encoder: Encoder, title: str, text: str, draft: str, status: str
) -> None:
    passage = Passage("t#0", "t.md", "support", title, text, 0, len(text), 0.8)
    answering = [draft.removesuffix(" [1]"), *units_of(text)]
    verdict = ladder.judge("can i cancel after the trial ends?", Draft(draft, "nano", "stop", 10, 10), (FEES, passage), encoder.encode, answering)
    assert verdict.status == status
    assert [cited.passage.id for cited in verdict.cited] == ["t#0"]
    if status == "success":
        assert verdict.text == draft.replace("[1]", "[2]")


@pytest.mark.parametrize("question", ["how deep is the mariana trench", "who won the cup final in 1966?", "write me a poem about whales"])
@pytest.mark.parametrize(
    "draft", ["A replacement card costs $5. [1]", "The ATM limit is $400 a day. [2]", "Whales sing.", "", "1. Open the Larkfield app. [2]", NOT_FOUND]
)
def test_below_the_floor_no_draft_stands(encoder: Encoder, question: str, draft: str) -> None:
    assert ladder.nearest(question, (FEES, ATM), encoder.encode)[0] < ladder.FLOOR
    assert judge(encoder, draft, question).status == "not_found"


def test_the_nearest_sentence_and_its_passage(encoder: Encoder) -> None:
    closeness, at = ladder.nearest("The ATM limit is $400 a day.", (FEES, ATM), encoder.encode)
    assert at == 1
    assert closeness > 0.95
    assert ladder.nearest("anything", (), encoder.encode) == (-1.0, 0)
