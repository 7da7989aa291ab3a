"""Eight bits of a small graph in which few channels are much larger than the others, as they are in BERT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mdsa_local.training import eight_bits
from mdsa_local.training.articles import read

WORDS, WIDTH, OUT = 500, 64, 32
LARGE = (3, 40)


def feeds(count: int, seed: int) -> Iterator[eight_bits.Feed]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        ids = rng.integers(0, WORDS, (4, 10))
        mask = np.ones_like(ids)
        # What is padding is not looked at: one channel of word 0 is the largest of all.
        ids[:, 8:], mask[:, 8:] = 0, 0
        ids[:, :8] = np.maximum(ids[:, :8], 1)
        yield {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Word vectors, of which two channels are thirty times as large, times two matrices."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(WORDS, WIDTH)).astype(np.float32)
    # One row is a hundredth of the others: under one scale for all nothing would be left of it.
    table[7] /= 100
    table[0, 9] = 3000
    first, second = (rng.normal(size=(WIDTH, OUT)).astype(np.float32) for _ in range(2))
    spread = np.ones(WIDTH, np.float32)
    spread[list(LARGE)] = 30
    constants = {"table": table, "spread": spread, "first": first, "second": second}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["plain"], "look_up"),
        helper.make_node("Mul", ["plain", "spread"], ["words"], "spread"),
        helper.make_node("MatMul", ["words", "first"], ["one"], "times_first"),
        helper.make_node("MatMul", ["words", "second"], ["other"], "times_second"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], "to_float", to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["mask"], ["read"], "count", keepdims=0),
        helper.make_node("Div", ["other", "read"], ["less"], "divide"),
        helper.make_node("Add", ["one", "less"], ["logits"], "add"),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "tokens", OUT])
    graph = helper.make_graph(nodes, "small", inputs, [output], [numpy_helper.from_array(value, name) for name, value in constants.items()])
    path = tmp_path / "float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def given(path: Path, feed: Any) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["logits"], feed)[0]


def test_the_large_channels_leave_the_bits_to_the_others(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(outliers: int) -> float:
        monkeypatch.setattr(eight_bits, "OUTLIERS", outliers)
        out = tmp_path / f"{outliers}.onnx"
        eight_bits.quantised(model, feeds(4, seed=1), out)
        feed = {name: value[:, :8] for name, value in next(feeds(1, seed=2)).items()}
        return float(np.abs(given(out, feed) - given(model, feed)).mean())

    assert error(2) < error(0) / 4


def test_each_row_of_the_table_has_its_scale(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "eight.onnx"
    eight_bits.quantised(model, feeds(4, seed=1), out)
    ids = np.full((1, 1), 7)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    wanted = given(model, feed)
    assert np.abs(given(out, feed) - wanted).max() < 0.05 * np.abs(wanted).max()
    # All of it in eight bits: a quarter of the float32, and what stays in float32.
    stored = {entry.name: entry for entry in onnx.load(str(out)).graph.initializer}
    wide = [name for name, entry in stored.items() if entry.data_type == TensorProto.FLOAT and np.prod(entry.dims) > WORDS]
    assert not wide


def test_it_is_opened_as_it_was_left(model: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "eight.onnx", tmp_path / "again.onnx"
    eight_bits.quantised(model, feeds(4, seed=1), out)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(again)
    onnxruntime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    kinds = [sorted(node.op_type for node in onnx.load(str(path)).graph.node) for path in (out, again)]
    assert kinds[0] == kinds[1]


def test_examples_are_questions_with_sentences_under_their_titles() -> None:
    found = list(eight_bits.examples())
    assert len(found) == eight_bits.QUESTIONS and found == list(eight_bits.examples())
    titles = {article.title for organisation in read() for article in organisation.articles}
    assert all(question and len(said) >= eight_bits.SENTENCES // 2 for question, said in found)
    assert all(any(text.startswith(f"{title}: ") for title in titles) for _, said in found[:8] for text in said)
