"""Text above and below the line."""

import pytest

from mdsa_local.knowledge.loaders.scripts import lowered, raised


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2", "²"), ("-3", "⁻³"), ("−3", "⁻³"), ("–3", "⁻³"), ("2+", "²⁺"), ("n", "ⁿ"), ("n+1", "ⁿ⁺¹"), ("1, 2", "¹, ²"), ("1–3", "¹–³"),
        (" 2 ", " ² "), ("[1]", "[¹]"), ("st", "st"), ("e", "e"), ("TM", "TM"), ("*", "*"), ("2a", "^(2a)"),
        ("see note 2", " see note 2"), (" ", " "), ("", ""),
    ],
)  # fmt: skip
def test_raised_text(text: str, written: str) -> None:
    assert raised(text) == written


@pytest.mark.parametrize(("text", "written"), [("2", "₂"), ("n-1", "ₙ₋₁"), ("max", "max"), ("2a", "_(2a)"), ("i", "ᵢ")])
def test_lowered_text(text: str, written: str) -> None:
    assert lowered(text) == written
