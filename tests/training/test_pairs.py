"""Pairs: the file, the split, and what a model has to write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdsa_local import jsonlines
from mdsa_local.domains.asking import Asked, Fitted
from mdsa_local.domains.config import Generation
from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.domains.quoting import Extract
from mdsa_local.errors import InputError
from mdsa_local.training import pairs
from mdsa_local.training.measuring import Figures, wins
from mdsa_local.training.pairs import Pair

SHOWN = Asked((), Generation(), Fitted(10, 2, 0))


def written(path: Path, *lines: object) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def test_what_is_wrong_with_a_line_names_its_key_and_shows_no_pages(tmp_path: Path) -> None:
    for line, said in (
        ([1], "line 1: expected an object, found list"),
        ({"question": "q", "answer": "a", "context": "c", "passages": ["long" * 10_000]}, "line 1: give passages or context, not both"),
        ({"question": "q", "answer": ["long" * 10_000]}, "line 1: key 'answer': "),
    ):
        with pytest.raises(InputError) as caught:
            pairs.read(written(tmp_path / "x.jsonl", line))
        assert said in str(caught.value)
        assert len(str(caught.value)) < 400


def test_every_form_of_a_line(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.jsonl",
        {"question": "q1", "answer": "a1"},
        {"question": "q2", "answer": None, "passages": ["p", {"title": "t", "text": "p2"}]},
        b"",
        {"question": " q3 ", "answer": "a3", "context": "c"},
    )
    found = pairs.read(path)
    assert [pair for _, pair in found.rows] == [
        Pair(1, "q1", "a1"),
        Pair(2, "q2", None, (("", "p"), ("t", "p2"))),
        Pair(4, "q3", "a3", (("", "c"),)),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"question": "q", "ans', "Unterminated"),
        ([1], "expected an object"),
        ({"question": "q"}, "missing key 'answer'"),
        ({"question": "", "answer": "a"}, "'question'"),
        ({"question": "q", "answer": 3}, "'answer'"),
        ({"question": "q", "answer": "a", "reply": "b"}, "unknown key 'reply'"),
        ({"question": "q", "answer": "a", "passages": "p"}, "'passages'"),
        ({"question": "q", "answer": "a", "passages": ["p"], "context": "c"}, "not both"),
        (b'{"question": "\xff", "answer": "a"}', "not UTF-8"),
        (b"[" * 100_000, "line 2"),
        (b'"' + b"x" * 1_000_001 + b'"', "longer than"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: object, reason: str) -> None:
    path = written(tmp_path / "x.jsonl", {"question": "q", "answer": "a"}, line)
    with pytest.raises(InputError, match=r"x\.jsonl, line 2: ") as error:
        pairs.read(path)
    assert reason in str(error.value)


def test_nothing_to_read_is_told(tmp_path: Path) -> None:
    for path, reason in ((written(tmp_path / "empty"), "no pairs"), (tmp_path / "absent", "cannot be read"), (tmp_path, "cannot be read")):
        with pytest.raises(InputError, match=reason):
            pairs.read(path)


def test_of_a_large_file_some_are_drawn_in_bounded_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", *({"question": f"q{n}", "answer": "a"} for n in range(3000)))
    found = pairs.read(path, seed=1, most=300)
    numbers = [number for number, _ in found.rows]
    assert (found.total, len(numbers)) == (3000, 300)
    assert numbers == sorted(numbers)
    # Any part of the file as likely as another: of each third 100 are expected, with a deviation of 8.
    assert all(60 < sum(low < n <= low + 1000 for n in numbers) < 140 for low in (0, 1000, 2000))
    assert pairs.read(path, seed=1, most=300) == found
    assert pairs.read(path, seed=2, most=300) != found
    by_size = jsonlines.sample(((n, "x" * 100) for n in range(1000)), len, 0, most_characters=5000)
    assert len(by_size.rows) == 50


def test_the_same_question_is_never_on_both_sides() -> None:
    items = [f"{'Q' if n % 2 else 'q'}uestion  {n // 3}" for n in range(120)]
    train, held = pairs.split(items, str, 0)
    assert sorted(train + held) == sorted(items)
    assert not {" ".join(q.lower().split()) for q in train} & {" ".join(q.lower().split()) for q in held}
    assert 24 <= len(held) <= 27
    assert pairs.split(items, str, 0) == (train, held)
    assert pairs.split(items, str, 1) != (train, held)
    assert len(pairs.split(items[:40], str, 0)[1]) >= pairs.LEAST_HELD


def test_what_a_model_that_quotes_has_to_write() -> None:
    extracts = [Extract(0, "The fee is $5 a month."), Extract(1, "You can cancel at any time."), Extract(1, "Call us first.")]
    assert pairs.quoted("the fee is 5 dollars a month", extracts) == "The fee is $5 a month. [1]"
    assert pairs.quoted("$5", extracts) == "The fee is $5 a month. [1]"
    assert (
        pairs.quoted("You can cancel at any time. The fee is $5 a month.", extracts) == "You can cancel at any time. [2] The fee is $5 a month. [1]"
    )
    assert pairs.quoted("You may cancel any time.", extracts) == "You can cancel at any time. [2]"
    assert pairs.quoted("Bananas are yellow", extracts) is None
    assert pairs.quoted("Bananas", []) is None


def test_what_any_other_model_has_to_write() -> None:
    passages = [("Fees", "The fee is $5."), ("Cancelling", "You can cancel at any time.")]
    assert (
        pairs.target(Pair(1, "q", "Cancel whenever you like, at any time."), SHOWN, False, passages) == "Cancel whenever you like, at any time. [2]"
    )
    assert pairs.target(Pair(1, "q", "It is $5 [1]."), SHOWN, False, passages) == "It is $5 [1]."
    assert pairs.target(Pair(1, "q", None), SHOWN, False, passages) == NOT_FOUND


def test_scores() -> None:
    assert pairs.score("The fee is $5. [1]", "the fee is 5 dollars [2]") == 1.0
    assert pairs.score(NOT_FOUND, NOT_FOUND) == 1.0
    assert pairs.score(NOT_FOUND, "The fee is $5. [1]") == pairs.score("The documents say nothing", NOT_FOUND) == 0.0
    assert 0 < pairs.score("The fee is $6.", "The fee is $5.") < 1


def figures(loss: float, *scores: float) -> Figures:
    return Figures(loss, sum(scores) / len(scores), scores)


@pytest.mark.parametrize(
    ("base", "adapted", "better"),
    [
        (figures(1.0, 0, 0, 0, 0), figures(0.5, 1, 1, 1, 1), True),
        (figures(1.0, 0, 0, 0, 0), figures(1.1, 1, 1, 1, 1), False),
        (figures(1.0, 1, 1, 0, 0), figures(0.5, 1, 1, 0, 0), False),
        # One more right of four may be luck, two are beyond one standard error.
        (figures(1.0, 0, 0, 0, 0), figures(0.5, 1, 0, 0, 0), False),
        (figures(1.0, 0, 0, 0, 0), figures(0.5, 1, 1, 0, 0), True),
        (figures(1.0, 1, 1, 0, 0), figures(0.5, 0, 0, 1, 1), False),
    ],
)
def test_an_adapter_has_to_be_better_beyond_luck(base: Figures, adapted: Figures, better: bool) -> None:
    assert wins(base, adapted) is better
