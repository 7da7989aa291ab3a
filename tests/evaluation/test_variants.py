"""Which variant of a model becomes the default, and the picture of all."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from mdsa_local.errors import StorageError
from mdsa_local.evaluation.variants import Variant, choose, difference, draw, sign_test


def variant(name: str, right: int, speed: float, size: int = 100) -> Variant:
    return Variant(name, size, speed, tuple(at < right for at in range(400)), tuple(f"answer {at < right}" for at in range(400)))


@pytest.mark.parametrize(
    ("int8", "int4", "chosen"),
    [
        pytest.param(variant("int8", 200, 250), variant("int4", 198, 330), "int4", id="faster and as good"),
        pytest.param(variant("int8", 200, 250), variant("int4", 195, 330), "int8", id="faster, but more than a point behind"),
        pytest.param(variant("int8", 200, 250, 60), variant("int4", 200, 260, 40), "int4", id="as fast: the smaller"),
        pytest.param(variant("int8", 200, 260, 40), variant("int4", 200, 250, 60), "int8", id="as fast: the smaller, whichever it is"),
        pytest.param(variant("int8", 200, 330, 60), variant("int4", 200, 250, 40), "int8", id="slower and smaller"),
        pytest.param(variant("int8", 150, 250), variant("int4", 200, 100), "int4", id="the better one, however slow"),
    ],
)
def test_quality_first_then_speed_then_size(int8: Variant, int4: Variant, chosen: str) -> None:
    for order in ([int8, int4], [int4, int8]):
        name, why = choose(order)
        assert name == chosen
        assert {"int8", "int4"} - {chosen} <= set(why.replace(":", "").replace(";", "").split()), "says why not the other"


def test_a_small_difference_that_chance_does_not_explain_counts() -> None:
    right = [True] * 1000
    worse = [False] * 8 + right[8:]
    assert choose([Variant("int8", 9, 1.0, tuple(right)), Variant("int4", 9, 2.0, tuple(worse))])[0] == "int8", "0.8 points, all one way"


@pytest.mark.parametrize(("wins", "losses", "chance"), [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (8, 0, 2 / 2**8), (9, 1, 22 / 2**10)])
def test_sign_test(wins: int, losses: int, chance: float) -> None:
    assert sign_test(wins, losses) == sign_test(losses, wins) == pytest.approx(chance)


def test_difference_counts_both_ways() -> None:
    one = Variant("a", 1, 1.0, (True, True, False, False), ("x", "y", "z", "w", "same"))
    other = Variant("b", 1, 1.0, (True, False, True, True), ("x", "q", "r", "s", "same"))
    found = difference(one, other)
    assert found == {"between": ["a", "b"], "answers_that_differ": 3, "key_fact_only": {"a": 1, "b": 2}, "chance": 1.0}


def test_a_picture_of_what_there_is(tmp_path: Path) -> None:
    share = {"share": 0.4, "n": 10, "low": 0.2, "high": 0.7}
    keys = ("key_fact", "key_fact_given_found", "citation_precision", "abstained_on_unanswerable", "unsupported_answers")
    models: list[dict[str, Any]] = [{"name": name, "size_bytes": 6_000_000} for name in ("int8", "int4")]
    draw({"models": models}, tmp_path / "bare.png")
    for model in models:
        model |= {"memory": {"own_mb": 10.0, "file_mb": 5.0}, "decode_tokens_per_s": 250.0}
        model["answers"] = {**dict.fromkeys(keys, share), "citation_precision": {"share": 0.5, "n": 3}, "abstained_on_unanswerable": None}
    draw({"models": models, "without_model": models[0]["answers"]}, tmp_path / "all.png")
    for name in ("bare.png", "all.png"):
        width, height = struct.unpack(">II", (tmp_path / name).read_bytes()[16:24])
        assert width > height > 300
    with pytest.raises(StorageError):
        draw({"models": models}, tmp_path / "no such folder" / "p.png")
