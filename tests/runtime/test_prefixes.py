"""What of a kept beginning can be used again, and which goes first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdsa_local.runtime.engine import context_options
from mdsa_local.runtime.native import Context, Model
from mdsa_local.runtime.prefix_store import PrefixStore
from mdsa_local.runtime.prefixes import Kept, Prefixes, boundary, common, floor, least_worth, reusable

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


@pytest.fixture
def context(tiny: Path) -> Iterator[Context]:
    model = Model(tiny)
    opened = Context(model, context_options(512, 4, 1))
    yield opened
    opened.close()
    model.close()


def evaluate(context: Context, sequence: int, tokens: list[int], start: int = 0) -> list[float]:
    """The logits behind the last of ``tokens``."""
    for at in range(start, len(tokens), 64):
        context.clear()
        piece = tokens[at : at + 64]
        row = context.add(sequence, at, piece, 1) + len(piece) - 1
        assert context.decode() == 0
    return [float(logit) for logit in context.logits(row)]


ONE, OTHER, THIRD = ([(start + at) % 90 + 3 for at in range(65)] for start in (0, 30, 60))


def begin(prefixes: Prefixes, free: list[int], prompt: list[int]) -> tuple[int, int]:
    sequence = free.pop()
    return sequence, prefixes.begin(sequence, prompt, "")


def test_what_no_answer_uses_leaves_the_cells_and_comes_back_as_it_was(context: Context) -> None:
    free = list(range(context.options.sequences))
    prefixes = Prefixes(context, free, 8, parked_bytes=10**7)
    for tokens in (ONE, OTHER):
        sequence, _ = begin(prefixes, free, tokens)
        evaluate(context, sequence, tokens)
        prefixes.keep(sequence, tokens, 64, 0, "")
    assert [kept.parked for kept in prefixes.entries] == [True, False], "the first left when the second request began"
    sequence, reused = begin(prefixes, free, [*ONE, 7])
    assert reused == 65
    assert [kept.parked for kept in prefixes.entries] == [False, True]
    continued = evaluate(context, sequence, [*ONE, 7], reused)
    fresh = free.pop()
    evaluate(context, fresh, ONE)
    assert continued == evaluate(context, fresh, [*ONE, 7], 65), "the same keys and values, bit for bit"


def test_cells_shared_with_a_running_answer_stay(context: Context) -> None:
    free = list(range(context.options.sequences))
    prefixes = Prefixes(context, free, 8, parked_bytes=10**7)
    sequence, _ = begin(prefixes, free, [*ONE, 7])
    evaluate(context, sequence, ONE)
    prefixes.snapshot(sequence, ONE, "")
    other, _ = begin(prefixes, free, OTHER)
    assert not prefixes.entries[0].parked, "its first reader still runs"
    prefixes.release(sequence)
    prefixes.release(other)
    begin(prefixes, free, THIRD)
    assert prefixes.entries[0].parked


def test_a_state_for_which_there_are_no_cells_now_stays_on_disk(tiny: Path, tmp_path: Path) -> None:
    model, store = Model(tiny), PrefixStore(tmp_path, "key", 10**7)
    context = Context(model, replace(context_options(512, 4, 1), cells=256))
    free = list(range(context.options.sequences))
    prefixes = Prefixes(context, free, 8, store, 10**7)
    sequence, _ = begin(prefixes, free, ONE)
    evaluate(context, sequence, ONE)
    store.save(ONE, context.state(sequence))
    prefixes.keep(sequence, ONE, 65, 0, "")
    running, _ = begin(prefixes, free, [*OTHER, *THIRD, *OTHER])
    evaluate(context, running, [*OTHER, *THIRD, *OTHER])
    prefixes.restore(ONE, "")
    assert not prefixes.warm(ONE, "")
    assert store.path(ONE).is_file()
    prefixes.keep(running, [*OTHER, *THIRD, *OTHER], 195, 0, "")
    prefixes.restore(ONE, "")
    assert prefixes.warm(ONE, ""), "what no answer uses leaves the cells for it"
    store.save(OTHER, b"of another kind")
    prefixes.restore(OTHER, "")
    assert not store.path(OTHER).is_file(), "all cells were free"
    context.close()
    model.close()


@pytest.mark.parametrize("room", [0, 1])
def test_without_room_outside_they_stay_in_the_cells(context: Context, room: int) -> None:
    free = list(range(context.options.sequences))
    prefixes = Prefixes(context, free, 8)
    for tokens in (ONE, OTHER):
        sequence, _ = begin(prefixes, free, tokens)
        evaluate(context, sequence, tokens)
        prefixes.keep(sequence, tokens, len(tokens), 0, "")
        # Room for one of the two, once its size is known.
        prefixes._parked_bytes = room * context.state_bytes(prefixes.entries[0].sequence) or prefixes._parked_bytes
    begin(prefixes, free, THIRD)
    assert sum(kept.parked for kept in prefixes.entries) == room
    while prefixes.evict():
        pass
    assert all(kept.parked for kept in prefixes.entries), "whoever needs cells gets them"


@pytest.mark.parametrize("room", [1, 2])
def test_states_made_beforehand_take_no_more_than_there_is_room_for(context: Context, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    free = list(range(context.options.sequences))
    prefixes = Prefixes(context, free, 8)
    for tokens in (ONE, OTHER):
        sequence = free.pop()
        evaluate(context, sequence, tokens)
        prefixes.keep(sequence, tokens, len(tokens), 0, "")
    prefixes._parked_bytes = room * context.state_bytes(prefixes.entries[0].sequence)
    prefixes.ready()
    assert [bool(kept.state) for kept in prefixes.entries] == [True, room == 2], "the one that leaves first comes first"
    assert not any(kept.parked for kept in prefixes.entries)
    expected = context.state(prefixes.entries[0].sequence)
    monkeypatch.setattr(context, "state", lambda sequence: pytest.fail("it is there already"))
    prefixes._park(prefixes.entries[0])
    assert prefixes.entries[0].parked and prefixes.entries[0].state == expected
