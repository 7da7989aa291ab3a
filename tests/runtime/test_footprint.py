"""What a model takes in memory, of a real file in a real process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mdsa_local.errors import ModelError
from mdsa_local.runtime.footprint import measure
from mdsa_local.runtime.synthetic import SHAPES, write_random


def test_a_larger_model_takes_more(tmp_path: Path) -> None:
    small = write_random(tmp_path / "small.gguf", SHAPES["tiny"], "Q8_0")
    large = write_random(tmp_path / "large.gguf", replace(SHAPES["tiny"], width=1024, heads=16, inner=4096, layers=4), "Q8_0")
    more = (large.stat().st_size - small.stat().st_size) / 1e6
    assert more > 30
    one, other = measure(small), measure(large)
    assert other.own_mb + other.file_mb - one.own_mb - one.file_mb > 0.8 * more


def test_a_file_that_does_not_load_is_one_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        measure(broken)
