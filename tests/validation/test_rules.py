from __future__ import annotations

from typing import Any

import pytest

from mdsa_local.errors import InputError
from mdsa_local.validation import rules


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("x" * 8001, "8,001"),
        ("what\x07is", "U+0007"),
        ("caf\udce9", "UTF-8"),
        ("\x00", "U+0000"),
        ("?!...", "letter or digit"),
        ("what is\x85 it", "U+0085"),
    ],
)
def test_bad_questions_get_one_clear_error(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        rules.question(text, 8000)
    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "¿Cuánto cuesta?",
        "税金はいくらですか",
        "line one\nline two\tend",
        "what is 2**3",
        "👩‍👩‍👧 family plan?",
        "a\u202eb\ue000",
        "new \U0001fadd",
        "é" * 8000,
    ],
)
def test_real_questions_pass_unchanged(text: str) -> None:
    assert rules.question(f"  {text} ", 8000) == text


def test_history_is_a_list_of_texts_or_none() -> None:
    assert rules.previous(None, 100) == rules.previous([], 100) == ()
    once: Any = (turn for turn in ("one", "two"))
    assert rules.previous(("one", "two"), 100) == rules.previous(once, 100) == ("one", "two")
    assert rules.previous(["\0", "", "why?"], 100) == ("why?",)
    assert rules.previous([str(n) for n in range(9)], 100) == ("3", "4", "5", "6", "7", "8")
    wrong: tuple[Any, ...] = ("how much?", b"how much?", 5, [None], ["a", 5], [{"role": "user", "content": "a"}], {"role": "user"})
    for history in wrong:
        with pytest.raises(InputError, match="history") as caught:
            rules.previous(history, 100)
        assert "a list of the user's earlier turns" in caught.value.hint


def test_a_byte_order_mark_is_no_part_of_the_question() -> None:
    assert rules.question("\ufeff how much?", 20) == "how much?"
    assert rules.question("Cafe\u0301?", 20) == "Café?"


@pytest.mark.parametrize(
    "text",
    [
        "the fee is five dollars " * 6,
        "Paracetamol paracetamol paracetamol.",
        "No. No. No.",
        "The fee is $5. [1] It is due today. The fee is $5. [1] Pay it in the app or by phone, as you like. The fee is $5. [1]",
        "1. Tap Next. 2. Tap Next. 3. Tap Next.",
        "1. Tap Next.\n2. Tap Back.\n3. Tap Next.\n4. Tap Back.\n5. Tap Next.\n6. Tap Back.",
        "The card arrives in four business days at your home " * 3,
        "The shop is open on weekdays and it is closed on all holidays. For more see the list: " + "open from 8 am to 6 pm, " * 4,
        "the fee the fee the fee the",
        "- Monday: 8 am to 6 pm\n- Tuesday: 8 am to 6 pm\n" * 3,
    ],
)
def test_repetition_is_found(text: str) -> None:
    assert not rules.not_repeated(text).passed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$5.",
        "Call 112 now.",
        "A refund takes 5 days. A transfer takes 3 days. A loan takes 1 day. The card is free. The account is free too, and so on.",
        "1. Tap Next.\n2. Enter your name.\n3. Tap Next.\n4. Enter your PIN.\n5. Tap Next.\n6. Tap Done.",
        "A payment from a new country raises the fraud score. An amount 5 times the usual spending raises the fraud score. "
        "A payment from a new device raises the fraud score.",
        "Our bar is open " + ", ".join(f"{day} from 8 am to 6 pm" for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")) + ".",
        "- Mon: 8 am to 6 pm\n- Tue: 8 am to 6 pm\n- Wed: 8 am to 6 pm",
        "- Fri: closed\n- Sat: closed\n- Sun: closed",
        "Line 1 runs from 6 am to 11 pm, line 2 runs from 6 am to 11 pm, and line 3 runs from 6 am to 11 pm.",
        "- Basic: $5 per user per month\n- Plus: $5 per user per month\n- Team: $5 per user per month\n- Pro: $5 per user per month",
    ],
)
def test_real_prose_and_steps_are_no_repetition(text: str) -> None:
    assert rules.not_repeated(text).passed


def test_an_answer_cut_off_is_said_to_be() -> None:
    assert rules.not_too_long("The fee", "length").detail == "cut off at max_tokens"
    for reason in ("length", "cancelled", "error", ""):
        assert not rules.not_too_long("The fee", reason).passed
    assert rules.not_too_long("The fee is $5.", "stop").passed
    assert not rules.not_too_long("word " * 700, "stop").passed


@pytest.mark.parametrize("draft", ["", "   ", "... [1]"[:3]])
def test_nothing_is_no_answer(draft: str) -> None:
    assert not rules.not_empty(draft).passed
    assert "thoughts" in rules.not_empty("", thought=True).detail
