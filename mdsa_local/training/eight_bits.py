"""Eight bits for a BERT exported to ONNX, where they would cost too much if all of a matrix's inputs shared one scale.

onnxruntime gives all activations that enter a matrix one scale, and few of their channels are ten times as large as the others, for which hardly
two bits are left then. So these channels are multiplied in float32, beside the rest ("outlier channels", as in LLM.int8(), but found beforehand:
in BERT they are always the same). The table of word embeddings has a scale for each row.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType

from mdsa_local.training import articles
from mdsa_local.training.onnx_files import quantise, write_optimised

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Channels of a matrix's input that stay in float32. Of the judge's 384 and 1,536: with none a score changed by 0.34 in the mean, with 4 by
# 0.15, with 16 by 0.14, with 48 by 0.14 (63 questions, twelve sentences each).
OUTLIERS = 4
# Only where the largest channel is so many times the median one: what attention gives has none such, and each costs a product more.
APART_FROM = 3.0
# Questions with so many sentences each, by which those channels are found.
QUESTIONS, SENTENCES = 64, 8

Feed = dict[str, "NDArray[np.int64]"]


def examples(seed: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Questions with sentences, drawn from the written articles at random: what a judge reads."""
    rng = random.Random(seed)
    every = [article for organisation in articles.read() for article in organisation.articles]
    for article in rng.sample([article for article in every if article.questions], QUESTIONS):
        others = rng.sample(every, SENTENCES)
        said = [f"{one.title}: {rng.choice(one.sentences)}" for one in [article, *others[1:]] if one.sentences]
        yield rng.choice(article.questions)[1], said


def quantised(model: Path, feeds: Iterable[Feed], out: Path) -> None:
    """Write the float32 ``model`` with eight bits to ``out``, its numbers to a file beside it with ``_data`` behind the name. ``feeds`` are inputs of
    the model by which outlier channels are found.
    """
    graph = onnx.load(str(model))
    kept = [*_apart(graph.graph, _largest(model, feeds)), *_by_rows(graph.graph)]
    with tempfile.TemporaryDirectory() as temporary:
        split, eight = Path(temporary) / "split.onnx", Path(temporary) / "eight.onnx"
        onnx.save(graph, str(split))
        quantise(split, eight, weights=QuantType.QUInt8, reduce_range=False, but=kept)
        write_optimised(eight, out)


def _matrices(graph: Any) -> dict[str, list[Any]]:
    """The products with constant matrices, by their input."""
    constant, found = {entry.name for entry in graph.initializer}, dict[str, list[Any]]()
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constant:
            found.setdefault(node.input[0], []).append(node)
    return found


def _largest(model: Path, feeds: Iterable[Feed]) -> dict[str, NDArray[np.float32]]:
    """The largest absolute value in each channel ``(width,)`` of what enters a matrix, by its name."""
    graph = onnx.load(str(model))
    names = list(_matrices(graph.graph))
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "watched.onnx"
        onnx.save(graph, str(path))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest: dict[str, NDArray[np.float32]] = {}
    for feed in feeds:
        read = feed["attention_mask"].astype(bool)
        for name, value in zip(names, session.run(names, feed), strict=True):
            most = np.abs(value[read]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, 0), most)
    return largest


def _apart(graph: Any, largest: dict[str, NDArray[np.float32]]) -> list[str]:
    """Let the largest channels of each matrix's input go past it, through a small matrix of their own; the names of nodes that stay in float32."""
    constants, kept = {entry.name: entry for entry in graph.initializer}, list[str]()
    for name, products in _matrices(graph).items():
        if largest[name].max() < APART_FROM * np.median(largest[name]):
            continue
        which = np.sort(np.argsort(-largest[name])[:OUTLIERS])
        others = np.ones(len(largest[name]), np.float32)
        others[which] = 0
        graph.initializer.append(numpy_helper.from_array(which, f"{name}_outliers"))
        graph.initializer.append(numpy_helper.from_array(others, f"{name}_others"))
        before = [
            helper.make_node("Mul", [name, f"{name}_others"], [f"{name}_rest"], f"{name}_mask"),
            helper.make_node("Gather", [name, f"{name}_outliers"], [f"{name}_large"], f"{name}_gather", axis=-1),
        ]
        _insert(graph, min(list(graph.node).index(product) for product in products), before)
        kept.append(f"{name}_gather")
        for product in products:
            matrix, whole = numpy_helper.to_array(constants[product.input[1]]), product.output[0]
            graph.initializer.append(numpy_helper.from_array(matrix[which], f"{whole}_rows"))
            product.input[0], product.output[0] = f"{name}_rest", f"{whole}_quantised"
            beside = helper.make_node("MatMul", [f"{name}_large", f"{whole}_rows"], [f"{whole}_float"], f"{whole}_large")
            both = helper.make_node("Add", [f"{whole}_quantised", f"{whole}_float"], [whole], f"{whole}_sum")
            _insert(graph, list(graph.node).index(product) + 1, [beside, both])
            kept.append(beside.name)
    return kept


def _by_rows(graph: Any) -> list[str]:
    """Give the largest table that is looked up in eight bits with a scale for each row; the names of its nodes."""
    constants = {entry.name: entry for entry in graph.initializer}
    looked_up = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in constants]
    node = max(looked_up, key=lambda node: np.prod(constants[node.input[0]].dims))
    name, ids, found = node.input[0], node.input[1], node.output[0]
    table = numpy_helper.to_array(constants[name])
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127
    graph.initializer.remove(constants[name])
    graph.initializer.append(numpy_helper.from_array(np.round(table / scales).astype(np.int8), f"{name}_rows"))
    graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), f"{name}_scales"))
    at = list(graph.node).index(node)
    graph.node.remove(node)
    nodes = [
        helper.make_node("Gather", [f"{name}_rows", ids], [f"{found}_row"], f"{found}_look_up"),
        helper.make_node("Cast", [f"{found}_row"], [f"{found}_cast"], f"{found}_to_float", to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{name}_scales", ids], [f"{found}_scale"], f"{found}_look_up_scale"),
        helper.make_node("Mul", [f"{found}_cast", f"{found}_scale"], [found], f"{found}_scaled"),
    ]
    _insert(graph, at, nodes)
    return [node.name for node in nodes if node.op_type == "Gather"]


def _insert(graph: Any, at: int, nodes: Iterable[Any]) -> None:
    for offset, node in enumerate(nodes):
        graph.node.insert(at + offset, node)
