from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mdsa_local.knowledge.ahead import ahead


def test_the_order_stays_and_the_next_is_made_meanwhile() -> None:
    made = [threading.Event() for _ in range(5)]

    def items() -> Iterator[int]:
        for n in range(5):
            made[n].set()
            yield n

    seen = []
    for n in ahead(items()):
        seen.append(n)
        if n < 4:
            assert made[n + 1].wait(30), "the next is made while this one is used"
        if n < 3:
            assert not made[n + 2].is_set(), "and no more than that"
    assert seen == list(range(5))


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    seen = []
    with pytest.raises(KeyError, match="three"):
        for n in ahead(items()):
            seen.append(n)  # noqa: PERF402
    assert seen == [1, 2]


def test_who_stops_early_leaves_no_thread() -> None:
    endless = ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mdsa-ahead")]
