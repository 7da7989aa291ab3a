"""Attention in one node: what torch exports as some twenty becomes onnxruntime's MultiHeadAttention.

onnxruntime's own fusions know the graphs of older exporters. A pass of the shipped encoder takes a sixth less for one question, a tenth less for
many; its vectors stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, shape_inference

from mdsa_local.routing.session import NOT_FUSED, session_errors

DOMAIN = "com.microsoft"
MASK = "attention_mask"
# What lies between a head's queries, keys or values and the projection they come from: division into heads, and the scale.
BETWEEN = frozenset({"Reshape", "Transpose", "Mul", "Div"})
# Outputs of both forms may differ by so much.
TOLERANCE = 1e-4
# Tokens of a long text, if the model takes so many: what lies far apart may be treated in another way.
LONG = 200
# What is compared: rows of one length, of several with padding, and a long one.
PADDED = ((16,), (24, 9, 3), (LONG,))


def fuse(path: Path) -> bool:
    """Rewrite the float32 model in ``path``, as optimum writes it; whether that was done. It is left as it is where its attention has another form,
    where one node would not give the same (each way is tried on some rows of tokens, padding among them), and where it is too large for one file.
    """
    if path.with_name(f"{path.name}_data").is_file():
        return False
    for by_mask in (True, False):
        model = onnx.load(str(path))
        if not _rewrite(model, by_mask):
            return False
        if agree(path, model, PADDED):
            onnx.save(model, str(path))
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Attention:
    """An attention as torch exports it: its ``query``, ``key`` and ``value``, what is added to the scores, and the node that joins the heads."""

    query: str
    key: str
    value: str
    heads: int
    addends: list[str]
    joined: Any


class _Graph:
    """Who makes and who reads each tensor."""

    def __init__(self, model: Any) -> None:
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph.value_info
        self._shapes = {entry.name: [one.dim_value for one in entry.type.tensor_type.shape.dim] for entry in inferred}

    def around(self, weights: Any) -> _Attention | None:
        """The attention whose ``weights`` a Softmax makes; None where it has a form that is not known."""
        scores, addends = self._scored(weights.input[0])
        weighed = self._sole(weights.output[0], "MatMul")
        turned = self._sole(weighed.output[0], "Transpose") if weighed is not None else None
        joined = self._sole(turned.output[0], "Reshape") if turned is not None else None
        if scores is None or joined is None or not addends:
            return None
        (query, heads), (key, _), (value, _) = (self._projection(name) for name in (*scores.input, weighed.input[1]))
        return _Attention(query, key, value, heads, addends, joined) if heads else None

    def _projection(self, name: str) -> tuple[str, int]:
        """The tensor that ``name`` is made from, and into how many heads it is divided."""
        heads = 0
        while (maker := self._makers.get(name)) is not None and maker.op_type in BETWEEN:
            if maker.op_type == "Reshape" and len(shape := self._shapes.get(name, [])) == 4:
                heads = shape[2]
            name = maker.input[0]
        return name, heads

    def _scored(self, name: str) -> tuple[Any, list[str]]:
        """The product that gives the scores of ``name``, and what is added to them."""
        addends = []
        while (maker := self._makers.get(name)) is not None and maker.op_type in ("Add", "Div", "Mul"):
            if maker.op_type == "Add":
                addends.append(maker.input[1])
            name = maker.input[0]
        return maker if maker is not None and maker.op_type == "MatMul" else None, addends

    def _sole(self, name: str, kind: str) -> Any:
        """The one node that reads the numbers of ``name``, if it is of this ``kind``."""
        found = [node for node in self._readers.get(name, []) if node.op_type != "Shape"]
        return found[0] if len(found) == 1 and found[0].op_type == kind else None


def _rewrite(model: Any, by_mask: bool) -> bool:
    """Put the node in each place; whether all of them are known. ``by_mask``: it reads which tokens are padding. Otherwise it adds what the graph
    adds to its scores: that is always right, and slower."""
    graph, known = model.graph, _Graph(model)
    weights = [node for node in graph.node if node.op_type == "Softmax"]
    padding = f"{MASK}_int32"
    for node in weights:
        found = known.around(node)
        if found is None:
            return False
        new, addends = list[Any](), found.addends
        while len(addends) > 1 and not by_mask:
            both, *addends = addends
            new.append(helper.make_node("Add", [both, addends[0]], [f"{node.name}_added_{len(addends)}"]))
            addends[0] = new[-1].output[0]
        inputs = [found.query, found.key, found.value, "", *([padding] if by_mask else ["", *addends])]
        outputs = list(found.joined.output)
        new.append(helper.make_node("MultiHeadAttention", inputs, outputs, f"{node.name}_fused", domain=DOMAIN, num_heads=found.heads))
        at = list(graph.node).index(found.joined)
        graph.node.remove(found.joined)
        for one in reversed(new):
            graph.node.insert(at, one)
    if by_mask and any(entry.name == MASK for entry in graph.input):
        graph.node.insert(0, helper.make_node("Cast", [MASK], [padding], padding, to=TensorProto.INT32))
    drop_unused(graph)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return bool(weights)


def drop_unused(graph: Any) -> None:
    """Drop the nodes of which nothing reaches an output."""
    wanted = {entry.name for entry in graph.output}
    for node in reversed(list(graph.node)):
        if wanted.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            wanted.update(node.input)


def feeds(session: Any, batches: Sequence[Sequence[int]]) -> Iterator[dict[str, Any]]:
    """Rows of tokens, of these lengths, for each batch."""
    rng = np.random.default_rng(0)
    for lengths in batches:
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        # Low numbers are words of every vocabulary; the lowest are marks, of which 1 and 0 are what usually pads.
        feed = {"input_ids": rng.integers(5, 30, mask.shape) * mask, MASK: mask, "token_type_ids": np.zeros_like(mask)}
        yield {entry.name: feed[entry.name] for entry in session.get_inputs() if entry.name in feed}


def unusable() -> tuple[type[Exception], ...]:
    """What a session raises of a model that cannot be compared. ValueError: an input that is not known, and so was not given."""
    return (ValueError, *session_errors())


def agree(path: Path, model: Any, batches: Sequence[Sequence[int]]) -> bool:
    """Whether ``model``, which may take fewer inputs, computes what the file ``path`` does, for ``batches`` of rows of so many tokens."""
    try:
        before, after = (
            onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"], disabled_optimizers=NOT_FUSED)
            for source in (str(path), model.SerializeToString())
        )
        compared, taken = 0, {entry.name for entry in after.get_inputs()}
        for feed in feeds(before, batches):
            try:
                wanted = before.run(None, feed)
            except unusable():
                # Longer than the model takes.
                continue
            found = after.run(None, {name: value for name, value in feed.items() if name in taken})
            if not all(np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE) for one, other in zip(wanted, found, strict=True)):
                return False
            compared += 1
        return compared > 1
    except unusable():
        return False
