"""Files that are no use: each one clear error, and whoever serves other models goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.errors import MDSAError, ModelError, ModelFileError
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.settings import Settings

from .gguf_writer import Shape, metadata, random_weights, write_gguf

SHORT = Generation(max_tokens=4)
ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def strange(path: Path) -> None:
    write_gguf(path, {**metadata(Shape()), "general.architecture": "no-such"}, random_weights(Shape()))


def without_template(path: Path) -> None:
    write_gguf(path, metadata(Shape(), None), random_weights(Shape()))


def hostile_template(path: Path) -> None:
    write_gguf(path, metadata(Shape(), ESCAPE), random_weights(Shape()))


def endless_template(path: Path) -> None:
    write_gguf(path, metadata(Shape(), "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), random_weights(Shape()))


def no_model(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(5000))


@pytest.mark.parametrize("spoil", [truncated, strange, without_template, hostile_template, endless_template, no_model])
def test_one_clear_error_and_the_others_go_on(settings: Settings, tiny: Path, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(tiny.read_bytes())
    spoil(bad)
    with ModelManager(settings) as manager:
        before = manager.generate(str(tiny), "hello", SHORT)
        for _ in range(2):
            with pytest.raises(ModelError, match=r"bad\.gguf") as caught:
                manager.generate(str(bad), "hello", SHORT)
            assert caught.value.hint
            assert isinstance(caught.value, ModelFileError) or spoil is without_template
            assert manager.generate(str(tiny), "hello", SHORT) == before


def test_flipped_bits_in_the_header_end_in_an_error_of_ours_or_an_answer(settings: Settings, tiny: Path, tmp_path: Path) -> None:
    rng = random.Random(7)
    raw = tiny.read_bytes()
    with ModelManager(settings) as manager:
        before = manager.generate(str(tiny), "hello", SHORT)
        refused = 0
        for number in range(30):
            spoiled = bytearray(raw)
            # Within magic, counts and the first keys: where a reader is led astray.
            spoiled[rng.randrange(400)] ^= 1 << rng.randrange(8)
            bad = tmp_path / f"{number}.gguf"
            bad.write_bytes(spoiled)
            try:
                manager.generate(str(bad), "hello", SHORT)
            except MDSAError as error:
                refused += 1
                assert error.hint, error
            manager.unload(str(bad))
            bad.unlink()
        assert refused > 10
        assert manager.generate(str(tiny), "hello", SHORT) == before
