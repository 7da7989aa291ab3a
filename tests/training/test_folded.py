"""Folding: graphs as they ship, of small models of random weights, give what they gave with fewer nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from mdsa_local.routing.session import NOT_FUSED
from mdsa_local.settings import shipped
from mdsa_local.training import folded
from mdsa_local.training.attention import fuse
from mdsa_local.training.folded import fold
from mdsa_local.training.onnx_files import quantise, write_optimised
from mdsa_local.training.unmasked import unmask

from .test_attention import exported, kinds_of_node, left_where_wrong
from .test_unmasked import pooled

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = ((1, 1), (1, 18), (3, 7), (8, 40), (2, 300))


def optimised(kind: str, folder: Path, *, eight_bits: bool = True) -> Path:
    """A model as it ships, but for what is folded."""
    path = pooled(folder, "mean") if kind == "sentence" else exported(kind, folder)
    fuse(path)
    unmask(path)
    if eight_bits:
        quantise(path, folder / "int8.onnx")
        path = folder / "int8.onnx"
    write_optimised(path, folder / "model.onnx")
    return folder / "model.onnx"


def given(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"], disabled_optimizers=NOT_FUSED)
    ids = np.random.default_rng(1).integers(100, 20_000, shape)
    # Of each row the second half is padding, where that is told.
    mask = (np.arange(shape[1]) <= shape[1] // 2).astype(np.int64)[None].repeat(shape[0], 0)
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    found: NDArray[np.float32] = session.run(None, {entry.name: feed[entry.name] for entry in session.get_inputs()})[0]
    return found


@pytest.mark.parametrize("eight_bits", [True, False])
def test_sentence_vectors_stay_the_same_to_the_last_bit(tmp_path: Path, eight_bits: bool) -> None:
    path = optimised("sentence", tmp_path, eight_bits=eight_bits)
    wanted, numbers = [given(path, shape) for shape in ROWS], path.with_name("model.onnx_data").read_bytes()
    before = kinds_of_node(path)
    assert fold(path)
    after = kinds_of_node(path)
    assert all(np.array_equal(given(path, shape), one) for shape, one in zip(ROWS, wanted, strict=True))
    assert path.with_name("model.onnx_data").read_bytes() == numbers
    # What depends on no token: one row of types, positions in their order.
    assert before["Gather"] == 5 and after["Gather"] == 1
    assert after["Slice"] == 1 and not any(after[kind] for kind in ("Concat", "Equal", "Expand", "Reshape", "Where"))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "mpnet"])
def test_token_vectors_stay_the_same(kind: str, tmp_path: Path) -> None:
    path = optimised(kind, tmp_path)
    wanted = [given(path, shape) for shape in ROWS]
    # Positions that distances are worked out from are no lookup.
    assert fold(path) == (kind != "mpnet")
    assert all(np.array_equal(given(path, shape), one) for shape, one in zip(ROWS, wanted, strict=True))


def test_what_is_folded_is_left(tmp_path: Path) -> None:
    path = optimised("sentence", tmp_path)
    assert fold(path)
    before = path.read_bytes()
    assert not fold(path)
    assert path.read_bytes() == before


def test_the_shipped_encoder_is_folded() -> None:
    found = kinds_of_node(shipped("models") / "tinybert/model.onnx")
    assert found["Gather"] == 1 and not found["Expand"]


def test_what_would_not_give_the_same_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = optimised("sentence", tmp_path)

    def spoil(node: Any) -> None:
        if node.op_type == "Slice":
            node.input[2] = node.input[1]

    left_where_wrong(path, fold, folded, spoil, monkeypatch)


def test_one_that_is_too_large_to_be_tried_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = optimised("sentence", tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(folded, "LARGEST_BYTES", 1000)
    assert not fold(path)
    assert path.read_bytes() == before


def test_a_model_that_cannot_be_run_on_tokens_is_left(tmp_path: Path) -> None:
    path = optimised("sentence", tmp_path)
    model = onnx.load(str(path))
    for entry in model.graph.input:
        entry.name = "tokens"
    for node in model.graph.node:
        node.input[:] = ["tokens" if name == "input_ids" else name for name in node.input]
    onnx.save(model, str(path))
    before = path.read_bytes()
    assert not fold(path)
    assert path.read_bytes() == before
