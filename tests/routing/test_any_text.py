"""Whatever is typed, the router answers: any Unicode, many scripts, emoji, very long texts."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.types import Route

# First letters of Unicode blocks of fifty scripts.
SCRIPTS = (
    0x41, 0x391, 0x410, 0x531, 0x5D0, 0x627, 0x710, 0x780, 0x7CA, 0x800, 0x840, 0x905, 0x985, 0xA05, 0xA85, 0xB05, 0xB85, 0xC05, 0xC85, 0xD05,
    0xD85, 0xE01, 0xE81, 0xF40, 0x1000, 0x10A0, 0x1100, 0x1200, 0x13A0, 0x1401, 0x1681, 0x16A0, 0x1703, 0x1780, 0x1820, 0x1900, 0x1950, 0x1A00,
    0x1B05, 0x1B83, 0x1BC0, 0x1C00, 0x1C5A, 0x2C00, 0x2C80, 0x2D30, 0x3041, 0x30A1, 0x3105, 0x4E00, 0xA000, 0xA4D0, 0xA500, 0xA840, 0xAC00,
)  # fmt: skip


def sound(route: Route) -> None:
    assert 0.0 <= route.confidence <= 1.0
    assert sum(route.scores.values()) <= 1.0 + 1e-6
    assert route.reason


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400), st.lists(st.text(max_size=60), max_size=2))
def test_any_text_and_history(product: TinyBERTOrchestrator, text: str, history: list[str]) -> None:
    route = product.router.route(text, history)
    sound(route)
    assert all(text[part.start : part.end] == part.text for part in route.parts)


@pytest.mark.parametrize("first", SCRIPTS, ids=hex)
def test_scripts(product: TinyBERTOrchestrator, first: int) -> None:
    word = "".join(chr(first + i) for i in range(8))
    sound(product.router.route(f"{word} {word}? \U0001f4b3 {word}, card"))


@pytest.mark.parametrize(
    "text", ["card " * 20_000, "x" * 100_000, "a. " * 33_000, "\U0001f600" * 100_000, "\n" * 100_000, "and " * 25_000], ids=range(6)
)
def test_a_hundred_thousand_characters(product: TinyBERTOrchestrator, text: str) -> None:
    began = time.monotonic()
    sound(product.router.route(text))
    assert time.monotonic() - began < 10
