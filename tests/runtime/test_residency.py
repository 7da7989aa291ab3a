"""Which models to unload: a pure decision."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdsa_local.errors import ConfigError
from mdsa_local.runtime.residency import Resident, choose_evictions, describe_bytes, parse_bytes

A, B, C = Resident("a", 30, 0, 1), Resident("b", 50, 0, 2), Resident("c", 10, 0, 3)
BUSY = Resident("busy", 40, 1, 0)


@pytest.mark.parametrize(
    ("loaded", "needed", "limit", "chosen"),
    [
        ([], 100, None, ()),
        ([], 101, None, None),
        ([A, B, C], 10, None, ()),
        ([A, B, C], 11, None, ("a",)),
        ([A, B, C], 80, None, ("a", "b")),
        ([A, B, C], 60, None, ("b",)),
        ([A, B, C], 100, None, ("a", "b", "c")),
        ([C, B, A], 11, None, ("a",)),
        ([BUSY, A], 60, None, ("a",)),
        ([BUSY, A], 61, None, None),
        ([A, B], 1, 2, ("a",)),
        ([A, B, C], 1, 2, ("a", "b")),
        ([BUSY], 1, 1, None),
        ([Resident("remote", 0, 0, 0), A], 80, None, ("a",)),
        ([Resident("a", 30, 0, 1, pinned=True), B], 30, None, ("b",)),
        ([Resident("a", 60, 0, 1, pinned=True), B], 50, None, None),
        ([Resident("slow", 50, 0, 1, reload_s=20), Resident("quick", 50, 0, 2, reload_s=1)], 50, None, ("quick",)),
        ([Resident("slow", 50, 0, 1, reload_s=20), Resident("quick", 50, 0, 99, reload_s=1)], 50, None, ("slow",)),
    ],
)
def test_choose_evictions(loaded: list[Resident], needed: int, limit: int | None, chosen: tuple[str, ...] | None) -> None:
    assert choose_evictions(loaded, needed, 100, limit) == chosen


residents = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1)), max_size=6).map(
    lambda rows: [Resident(str(at), size, uses, at) for at, (size, uses) in enumerate(rows)]
)


@given(residents, st.integers(0, 120), st.none() | st.integers(1, 4))
def test_the_budget_holds_and_nothing_goes_without_need(loaded: list[Resident], needed: int, limit: int | None) -> None:
    chosen = choose_evictions(loaded, needed, 100, limit)
    idle = [model.name for model in loaded if not model.uses]

    def fits(gone: list[str]) -> bool:
        stay = [model.size_bytes for model in loaded if model.name not in gone]
        return sum(stay) + needed <= 100 and (limit is None or len(stay) < limit)

    if chosen is None:
        assert not fits(idle)
    else:
        assert set(chosen) <= set(idle)
        assert fits(list(chosen))
        assert not any(fits([name for name in chosen if name != spared]) for spared in chosen)


@pytest.mark.parametrize(
    ("text", "size"), [(5, 5), ("5", 5), ("4GB", 4 * 10**9), ("1.5 gb", 1_500_000_000), ("512MiB", 2**29), ("2g", 2**31), ("10 kb", 10_000)]
)
def test_parse_bytes(text: int | str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", 0, "4 XB", "1e9"])
def test_no_size(text: int | str) -> None:
    with pytest.raises(ConfigError, match="memory size"):
        parse_bytes(text)


def test_describe_bytes() -> None:
    assert [describe_bytes(size) for size in (12, 2_300, 4_560_000, 7_890_000_000)] == ["12 B", "2.3 KB", "4.6 MB", "7.9 GB"]
