from __future__ import annotations

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
        ("a\u202eb\ue000", "U+E000"),
    ],
)
def test_bad_questions_get_one_clear_error(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        rules.question(text, 8000)
    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["¿Cuánto cuesta?", "税金はいくらですか", "line one\nline two\tend", "what is 2**3", "👩‍👩‍👧 family plan?", "é" * 8000]
)
def test_real_questions_pass_unchanged(text: str) -> None:
    assert rules.question(f"  {text} ", 8000) == text


def test_repetition_is_found_and_prose_is_not() -> None:
    assert not rules.not_repeated("the fee is five dollars " * 6).passed
    text = "A refund takes 5 days. A transfer takes 3 days. A loan takes 1 day. The card is free. The account is free too, and so on."
    assert rules.not_repeated(text).passed


def test_an_answer_cut_off_is_said_to_be() -> None:
    assert not rules.not_too_long("The fee", "length").passed
    assert rules.not_too_long("The fee is $5.", "stop").passed
    assert not rules.not_too_long("word " * 700, "stop").passed


@pytest.mark.parametrize("draft", ["", "   ", "... [1]"[:3]])
def test_nothing_is_no_answer(draft: str) -> None:
    assert not rules.not_empty(draft).passed
