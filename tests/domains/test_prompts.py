from __future__ import annotations

from collections.abc import Sequence

import pytest

from mdsa_local.domains.prompts import fit, user_message
from mdsa_local.errors import ContextOverflowError

PASSAGES = [("A", "one two three"), ("B", "four five six"), ("C", "seven eight nine")]


def words(kept: Sequence[tuple[str, str]]) -> int:
    return 10 + sum(len(text.split()) for _, text in kept)


@pytest.mark.parametrize(("context", "kept"), [(100, 3), (39, 3), (38, 2), (35, 1), (33, 1)])
def test_passages_go_from_the_last(context: int, kept: int) -> None:
    assert fit(words, PASSAGES, context, 20) == (kept, 10 + 3 * kept)


@pytest.mark.parametrize("context", [32, 30, 5])
def test_what_cannot_fit_is_an_error_with_the_numbers(context: int) -> None:
    with pytest.raises(ContextOverflowError, match=str(context)) as caught:
        fit(words, PASSAGES, context, 20)
    assert "context_tokens" in caught.value.hint


def test_the_question_stands_before_and_after_the_passages() -> None:
    text = user_message(PASSAGES, "Why?")
    assert text.startswith("Question: Why?\n\n[1] A\none two three\n\n[2] B")
    assert text.endswith("[3] C\nseven eight nine\n\nQuestion: Why?")
    assert user_message([], "Why?") == "Question: Why?"
    assert user_message(PASSAGES, "Why? " * 200).startswith("[1] A")


def test_sentences_keep_the_numbers_of_their_passages() -> None:
    text = user_message([("B", "four"), ("A", "one"), ("B", "six")], "Why?", [2, 1, 2])
    assert "[2] B\nfour\n\n[1] A\none\n\n[2]\nsix\n\n" in text
