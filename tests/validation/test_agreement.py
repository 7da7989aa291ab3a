"""Pairs of a sentence and what a model made of it: told in other words, or of something else. Every paraphrase counts as near in meaning here, so
that only what the words say decides."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mdsa_local.types import Passage
from mdsa_local.validation import grounding


def alike(texts: list[str]) -> NDArray[np.float32]:
    return np.ones((len(texts), 1), dtype=np.float32)


def supported(said: str, answer: str) -> bool:
    return all(claim.by is not None for claim in grounding.check(answer, [Passage("p", "p.md", "x", "Guide", said, 0, len(said), 0.5)], alike))


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("The desk closes at 5 p.m. on weekdays.", "On weekdays the desk closes at 5 pm."),
        ("The desk opens at 9 a.m. and closes at 5 p.m. every day.", "The desk is open from 9 am to 5 pm every day."),
        ("The desk opens at 09:00.", "The desk opens at 9:00."),
        ("The desk is open 08:30-12:00.", "The desk is open from 8:30 to 12:00."),
        ("The deadline is 03 May 2024.", "The deadline is 3 May 2024."),
        ("The deadline is 2024-05-03.", "The deadline is May 3rd, 2024."),
        ("The fair is on the 3rd of May.", "The fair is on 3 May."),
        ("The hall has one hundred and twenty seats.", "The hall has 120 seats."),
        ("The hall has two thousand five hundred seats.", "The hall has 2,500 seats."),
        ("The hall has a hundred seats.", "The hall has 100 seats."),
        ("Rooms hold between one hundred and two hundred people.", "Rooms hold between 100 and 200 people."),
        ("Add ½ cup of milk.", "Add 1/2 cup of milk."),
        ("The ride takes 2 1/2 hours.", "The ride takes two and a half hours."),
        ("The rate is 5 per cent.", "The rate is 5 %."),
    ],
)
def test_what_is_said_in_other_words_is_supported(said: str, answer: str) -> None:
    assert supported(said, answer)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("The desk closes at 5 p.m.", "The desk closes at 5 a.m."),
        ("The desk closes at 5 p.m.", "The desk closes 5 m away."),
        ("The desk opens at 09:00.", "The desk opens at 9:30."),
        ("The deadline is 2024-05-03.", "The deadline is 5 March 2024."),
        ("The hall has one hundred and twenty seats.", "The hall has 100 seats."),
        ("The hall has one hundred and twenty seats.", "The hall has 20 seats."),
        ("Add 1/2 cup of milk.", "Add 2 cups of milk."),
        ("The ride takes two and a half hours.", "The ride takes two hours."),
    ],
)
def test_what_is_said_of_something_else_is_not(said: str, answer: str) -> None:
    assert not supported(said, answer)
