"""Stop strings and characters that span tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mdsa_local.runtime.stopping import MOST_BLANKS, StopFilter, Thoughts, unopened

LETTERS = st.text("abé", max_size=12)


def until_stop(text: str, stops: list[str]) -> str:
    """What a filter must pass on: the text before the stop string that is complete first."""
    found = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop and stop in text]
    return text[: min(found)[1]] if found else text


@given(LETTERS, st.lists(st.text("abé", max_size=4), max_size=3), st.lists(st.integers(1, 4), max_size=30))
def test_the_result_does_not_depend_on_the_pieces(text: str, stops: list[str], sizes: list[int]) -> None:
    raw, filter_, out = text.encode(), StopFilter(stops), ""
    for size in [*sizes, len(raw)]:
        out += filter_.feed(raw[:size])
        raw = raw[size:]
    assert out + filter_.flush() == until_stop(text, stops)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    filter_ = StopFilter(["\nUser:"])
    assert filter_.feed(b"Hello") == "Hello"
    assert filter_.feed(b"\nUs") == ""
    assert filter_.feed(b"age") == "\nUsage"
    assert filter_.feed(b"\nUser") == ""
    assert filter_.feed(b": hi") == ""
    assert filter_.stopped
    assert filter_.feed(b"more") == filter_.flush() == ""


@given(st.lists(st.integers(1, 9), max_size=30))
def test_thoughts_before_the_answer_are_kept_apart(sizes: list[int]) -> None:
    for text, begun, thoughts, answer in (
        ("<think>hm < 3</think>\n\nYes.", False, "hm < 3", "Yes."),
        ("hm</think> Yes <think>.", True, "hm", "Yes <think>."),
        ("<think>no end </thin", False, "no end </thin", ""),
        ("<thinking> is hard", False, "", "<thinking> is hard"),
        ("<thi", False, "", "<thi"),
        (" a </think> b", False, "", " a </think> b"),
        ("\n \n<think>x</think>\n\nHi", False, "x", "Hi"),
        ("\n <thi", False, "", "\n <thi"),
        (" \n", False, "", " \n"),
        ("\n" * (MOST_BLANKS + 1) + "<think>x</think>", False, "", "\n" * (MOST_BLANKS + 1) + "<think>x</think>"),
    ):
        raw, filter_, out = text.encode(), StopFilter([], begun), ""
        for size in [*sizes, len(raw)]:
            out += filter_.feed(raw[:size])
            raw = raw[size:]
        assert (out + filter_.flush(), filter_.thoughts.told) == (answer, thoughts)


def test_thoughts_that_only_end_are_told_from_words_about_them() -> None:
    for text, answer in (
        ("hm</think>\n\nHi", "Hi"),
        ("hm\n</think> \nHi </think>\n", "Hi </think>\n"),
        ("hm\n</think>", ""),
        ("</think>\n\nHi", "Hi"),
        ("The mark `</think>` ends them.", "The mark `</think>` ends them."),
        ("Write <think>hm</think>\n", "Write <think>hm</think>\n"),
        ("Hi", "Hi"),
        ("", ""),
    ):
        assert text[unopened(text) :] == answer


def test_blanks_without_end_are_seen() -> None:
    thoughts = Thoughts()
    assert len("".join(thoughts.feed("\n") for _ in range(300))) == 300


def test_invalid_bytes_are_marked_and_unfinished_ones_dropped() -> None:
    filter_ = StopFilter([])
    assert filter_.feed(b"a\xffb\xe2\x82") == "a\ufffdb"
    assert filter_.flush() == ""
