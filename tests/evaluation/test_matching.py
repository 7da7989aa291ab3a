"""A fact is found however it is written, and nowhere else."""

from __future__ import annotations

import pytest

from mdsa_local.evaluation.matching import holds, tokens


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("You can withdraw 400 dollars a day.", "$400"),
        ("You can withdraw $400 a day.", "400 dollars"),
        ("The limit is USD 1500.00.", "$1,500"),
        ("The limit is 1 500 dollars.", "$1,500"),
        ("up to twenty-four currencies", "24 currencies"),
        ("two thousand shops", "2,000 shops"),
        ("It takes FIVE business days [2].", "5 business days"),
        ("a 30-day trial", "30 days"),
        ("a fee of 1.5 percent", "1.5 %"),
        ("a fee of 1.50%", "1.5 percent"),
        ("from 08:00-20:00", "08:00 to 20:00"),
        ("at 38 degrees Celsius", "38.0 C"),
        ("within four hours", "4 h"),
        ("by the 24th of the month", "the 24"),
        ("two and a half weeks", "two"),
        ("Run `larkfield logs --tail` now", "larkfield logs --tail"),
        ("order “Packed” already", '"packed"'),
        ("Phone 0800 555 0142 today", "0800 555 0142"),
        ("pays between $5 and $25", "$25"),
    ],
)
def test_the_same_fact(text: str, fact: str) -> None:
    assert holds(text, fact)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("You can withdraw $4,000 a day.", "$400"),
        ("It takes 15 business days.", "5 business days"),
        ("It takes 5 days.", "5 business days"),
        ("It costs 400 euros.", "$400"),
        ("within 24 hours", "24"),
        ("costs 24 %", "24"),
        ("a share of 20 percent", "20 budgets"),
        ("see [40]", "40"),
        ("as said [4]", "4"),
        ("anything", ""),
        ("", "$5"),
        ("0800 555 0199", "0800 555 0142"),
        ("30 minutes", "30 months"),
        ("6 months", "6 m"),
    ],
)
def test_another_fact(text: str, fact: str) -> None:
    assert not holds(text, fact)


def test_a_phone_number_is_no_thousand() -> None:
    assert tokens("4242 0000 0000 0042") == ("4242", "0000", "0000", "0042")
    assert tokens("call 112 555 100 200 300 4") != ("call", "1125551002003004")
