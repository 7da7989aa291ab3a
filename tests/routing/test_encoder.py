from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdsa_local.errors import InputError, ModelFileError, ModelNotFoundError
from mdsa_local.routing import session
from mdsa_local.routing.encoder import Encoder
from mdsa_local.settings import read_yaml, shipped

TEXTS = ["my card was charged twice", "x", "the hub keeps blinking " * 60, "", "ünïcödé 日本語 👋"]


def test_vectors_have_unit_length_and_keep_their_order(encoder: Encoder) -> None:
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), encoder.width)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-4)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert np.array_equal(together, alone), "what a text gives depends on nothing beside it"


def test_many_texts_on_several_threads_keep_their_order(encoder: Encoder) -> None:
    texts = [f"question {i} about " + "the parcel " * (i % 7) + "and its delivery" for i in range(100)]
    assert len(texts) > 4 * session.SHARED
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(encoder.encode, [texts] * 3))
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    for together in found:
        assert (np.sum(together * alone, axis=1) > 0.999).all()


@given(st.lists(st.integers(2, 300), max_size=80), st.integers(1, 400))
def test_texts_are_read_together_with_little_padding(lengths: list[int], most: int) -> None:
    found = session.passes(lengths, most)
    assert sorted(place for chosen in found for place in chosen) == list(range(len(lengths)))
    for chosen in found:
        padded = max(lengths[i] for i in chosen) * len(chosen)
        assert padded <= most or len(chosen) == 1
        assert padded - sum(lengths[i] for i in chosen) <= session.MOST_PADDING
    longest = [max(lengths[i] for i in chosen) for chosen in found]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (6, 6), (64, 8)])
def test_each_processor_has_its_share_of_many_texts(monkeypatch: pytest.MonkeyPatch, encoder: Encoder, cores: int, workers: int) -> None:
    texts = [f"how do i pay {'slowly ' * n}bill {n}" for n in range(40)]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    monkeypatch.setattr(session, "available_cores", lambda: cores)
    assert session.workers() == workers
    assert (encoder.encode(texts) * alone).sum(axis=1).min() > 0.999


def test_texts_of_one_length_make_full_passes() -> None:
    assert [len(chosen) for chosen in session.passes([12] * 50, 288)] == [24, 24, 2]
    assert session.passes([10, 30, 11], 288) == [[1], [2, 0]]


def test_many_short_texts_of_one_length_are_read_at_once() -> None:
    rows = [[1] * length for length in [12] * 30 + [session.SHORT_TOKENS + 1] * 3 + [9]]
    found = session.at_once(rows)
    assert sorted(place for chosen in found for place in chosen) == list(range(len(rows)))
    assert all(len({len(rows[place]) for place in chosen}) == 1 for chosen in found)
    assert [len(chosen) for chosen in found] == [1, 1, 1, 8, 8, 8, 6, 1]


def test_what_long_texts_and_few_give_depends_on_nothing_beside_them(encoder: Encoder) -> None:
    long = [f"{i} " + "the parcel and its delivery " * 9 for i in range(session.SHARED)]
    for texts in (long, ["pay", "a bill", "today please"]):
        assert np.array_equal(encoder.encode(texts), np.concatenate([encoder.encode([text]) for text in texts]))


def test_nothing_gives_an_empty_array(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.width)


def test_like_meanings_are_near(encoder: Encoder) -> None:
    query, near, far = encoder.encode(["I was billed two times", "duplicate charge on my card", "recipe for lemon cake"])
    assert query @ near > query @ far + 0.2


def test_a_damaged_or_missing_model_is_a_clear_error(tmp_path: Path) -> None:
    shutil.copytree(shipped("models") / "tinybert", tmp_path / "tinybert")
    (tmp_path / "tinybert" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"tokenizer\.json is damaged"):
        Encoder.load(tmp_path / "tinybert")
    (tmp_path / "tinybert" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelFileError, match="damaged"):
        Encoder.load(tmp_path / "tinybert")
    with pytest.raises(ModelNotFoundError, match="nothing-here"):
        Encoder.load("nothing-here")


def test_a_model_that_cannot_be_read_is_a_clear_error(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refused(path: Path, *given: Any, **options: Any) -> Any:
        if path.name == "model.onnx":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *given, **options)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ModelFileError, match=r"model\.onnx cannot be read: Permission denied"):
        Encoder(encoder.folder)


def test_loading_leaves_no_trace_in_the_users_home(tmp_path: Path) -> None:
    code = "from mdsa_local.routing.encoder import Encoder; Encoder.load().encode(['hello'])"
    environ = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environ.pop("ORT_DISABLE_TELEMETRY", None)
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, check=True)
    assert ran.stderr == b""
    assert [str(path) for path in tmp_path.rglob("*")] == []


def test_the_shipped_model_is_the_promised_shape() -> None:
    card = read_yaml(shipped("models") / "tinybert" / "model.yaml")
    assert card["architecture"] == {"layers": 4, "hidden": 312, "heads": 12, "intermediate": 1200, "vocabulary": 30522}
    assert card["width"] == 312


@pytest.mark.parametrize("texts", ["abc", b"abc", 5, None, {"a": 1}, [None], ["a", 5], ["a\ud800"]])
def test_what_is_no_list_of_texts_is_told(encoder: Encoder, texts: Any) -> None:
    with pytest.raises(InputError, match="what to encode"):
        encoder.encode(texts)
