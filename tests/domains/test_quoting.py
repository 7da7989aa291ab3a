from __future__ import annotations

import re

import pytest

from mdsa_local.domains import prompts, quoting
from mdsa_local.domains.config import Generation
from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.encoder import Encoder
from mdsa_local.runtime.backend import Message
from mdsa_local.settings import shipped

FEES = "A replacement card costs $5. Say \"lost\" or 'stolen'.\nIt arrives in 4 days."
STEPS = "1. Open the app.\n2. Tap Cards. Wait a moment.\n3. Choose Freeze.\n\nA frozen card refuses every payment."


def test_a_list_of_steps_is_quoted_as_a_whole() -> None:
    assert quoting.units(STEPS) == ["1. Open the app.\n2. Tap Cards. Wait a moment.\n3. Choose Freeze.", "A frozen card refuses every payment."]


def test_units_are_substrings_in_order_and_leave_out_nothing() -> None:
    for path in (shipped("domains") / "finance" / "knowledge").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        found = quoting.units(text)
        at = 0
        for unit in found:
            at = text.index(unit, at) + len(unit)
        assert "".join("".join(found).split()) == "".join(text.split())


def test_the_shortlist_keeps_the_nearest_under_their_passage(encoder: Encoder) -> None:
    assert quoting.shortlist("what does a new card cost?", [FEES, STEPS], encoder.encode, 1) == [["A replacement card costs $5."], []]
    assert quoting.shortlist("x", ["", ""], encoder.encode) == [[], []]


def test_strings_are_escaped_for_the_grammar() -> None:
    assert quoting.literal('a "b" \\ c\nd') == '"a \\"b\\" \\\\ c\\nd"'
    assert quoting.grammar([]) == ""


@pytest.mark.parametrize("question", ["what does a new card cost", "how do i freeze my card", "who is the king of france", "asdf"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_shipped_model_can_write_nothing_but_quotations(product: TinyBERTOrchestrator, question: str, temperature: float) -> None:
    passages = [FEES, STEPS]
    generation = Generation(
        max_tokens=200, temperature=temperature, seed=1, grammar=quoting.grammar([quoting.units(text) for text in passages]), refusal=NOT_FOUND
    )
    user = prompts.user_message([("Fees", FEES), ("Freeze a card", STEPS)], question)
    said = product.manager.generate("nano", [Message("system", prompts.system_message("")), Message("user", user)], generation)
    if said != NOT_FOUND:
        pieces = re.findall(r"(.+?) \[(\d)\](?: |$)", said, re.DOTALL)
        assert "".join(f"{text} [{number}] " for text, number in pieces).strip() == said
        assert all(text in quoting.units(passages[int(number) - 1]) for text, number in pieces)
    assert product.manager.decoding("nano") == "quotes"
