"""Rows that a router is given to learn from, without an encoder."""

from __future__ import annotations

from typing import Any

import pytest

from mdsa_local.errors import InputError
from mdsa_local.routing.labelled import pairs


def test_pairs_and_lines_of_json_are_the_same() -> None:
    asked = [("roses in may", "garden"), ("weather on mars", None)]
    assert pairs(asked) == asked
    assert pairs([list(pair) for pair in asked]) == asked
    assert pairs({"text": text, "domain": domain, "id": 3} for text, domain in asked) == asked
    assert pairs([]) == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("ab", "no pair"),
        (b"ab", "no pair"),
        (None, "no pair"),
        (5, "no pair"),
        (("a",), "no pair"),
        (("a", "garden", 1), "no pair"),
        ({"text", "domain"}, "no pair"),
        ({"text": "a"}, "has no 'domain'"),
        ({"question": "a", "domain": "garden"}, "has no 'text'"),
        ((5, "garden"), "its text is 5"),
        (("a", 5), "its domain is 5"),
        (("a", ["garden"]), "its domain is"),
        ((None, None), "its text is None"),
        ((" ", "garden"), "its text is empty"),
        (("cut \ud83d", "garden"), "half a character"),
    ],
)
def test_a_row_that_is_none_is_named(row: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"example 1.*{said}"):
        pairs([("fine", None), row])


@pytest.mark.parametrize("rows", ["ab", None, 5, {"a": "garden"}])
def test_what_is_no_list_of_rows_is_refused(rows: Any) -> None:
    with pytest.raises(InputError, match="not a list of pairs"):
        pairs(rows)
