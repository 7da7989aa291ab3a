"""What of a kept beginning can be used again, and which goes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdsa_local.runtime.prefixes import Kept, boundary, common, floor, least_worth, reusable

PROMPT = list(range(300))


def kept(tokens: list[int], n_prompt: int, n_static: int = 0, warm: bool = False, used: int = 0) -> Kept:
    return Kept(0, tokens, n_prompt, n_static, warm, used)


@pytest.mark.parametrize(
    ("entry", "cuttable", "tokens"),
    [
        (kept(PROMPT, 300), True, 256),
        (kept([*range(100), *[-1] * 50], 150), True, 64),
        (kept(list(range(70)), 70, 70, warm=True), True, 70),
        (kept([*range(200), -1], 201, 70), True, 70 + 128),
        (kept(list(range(250)), 200), True, 250),
        (kept(list(range(250)), 200), False, 250),
        (kept([*range(250), -1], 200), False, 0),
        (kept([-1], 1), True, 0),
    ],
    ids=["all but one, whole batches", "up to a difference", "static prefix", "behind it", "an answer goes on", "uncuttable", "cut", "nothing"],
)
def test_reusable(entry: Kept, cuttable: bool, tokens: int) -> None:
    assert reusable(entry, PROMPT, cuttable) == tokens


@given(st.integers(0, 500), st.integers(0, 300))
def test_boundaries_follow_each_other_and_stop_at_the_static_prefix(length: int, n_static: int) -> None:
    after = boundary(length, n_static)
    assert length < after <= length + 64
    assert floor(after, n_static) == after
    if length < n_static:
        assert after <= n_static


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common(one: list[int], other: list[int]) -> None:
    size = common(one, other)
    assert one[:size] == other[:size]
    assert one[size : size + 1] != other[size : size + 1] or size == min(len(one), len(other))


def test_static_prefixes_go_last() -> None:
    old_warm, newer, newest = kept([1], 1, warm=True, used=1), kept([2], 1, used=2), kept([3], 1, used=3)
    assert least_worth([old_warm, newest, newer]) is newer
    assert least_worth([old_warm]) is old_warm
