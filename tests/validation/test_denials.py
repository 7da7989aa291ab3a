from __future__ import annotations

import pytest

from mdsa_local.validation import denials


@pytest.mark.parametrize(
    ("title", "heading"),
    [
        ("Travel costs > Not reimbursed", "Not reimbursed"),
        ("Travel costs > Exclusions > In the city", "Exclusions"),
        ("Dos and Don’ts", "Dos and Don’ts"),
        ("No refund > What can’t be returned", "What can’t be returned"),
        ("Travel costs > Reimbursed", ""),
        ("Exclusive offers > Exceptional notes", ""),
        ("Not reimbursed [2]", ""),
        ("", ""),
    ],
)
def test_the_last_heading_that_denies(title: str, heading: str) -> None:
    assert denials.heading(title) == heading


@pytest.mark.parametrize(
    ("text", "denied"),
    [("Never do the following:", True), ("**Do not:**", True), ("You mustn't:", True), ("Note:", False), ("A notice without end", True), ("", False)],
)
def test_what_denies(text: str, denied: bool) -> None:
    assert denials.denies(text) is denied
