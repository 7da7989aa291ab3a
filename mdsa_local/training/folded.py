"""Folding what onnxruntime's own passes leave: what is the same for every text of one length needs not be worked out for each.

Of a BERT that is given no types of tokens these are two tables: of types one row is used, and of positions the first ones in their order. A node
that joins one thing alone, or repeats numbers for a quotient that would repeat them itself, goes too. A pass of the shipped encoder for one question
takes 3 % less; its vectors are the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from mdsa_local.training.attention import PADDED, agree, drop_unused, feeds, unusable

# onnxruntime compares and infers with the whole model as one message, and none is larger.
LARGEST_BYTES = 2**31 - 2**20
# What is looked up is seen from two rows of so many tokens.
SEEN = ((7, 7),)
# What repeats its inputs where one is smaller.
REPEATING = frozenset({"Add", "Div", "Mul", "Sub"})


def fold(path: Path) -> bool:
    """Rewrite the model in ``path``, as :func:`~mdsa_local.training.onnx_files.write_optimised` leaves it; whether that was done. The file of its
    numbers stays what it is. It is left as it is where there is nothing to fold, where it would not give the same (that is tried on some rows of
    tokens), and where it is too large to be tried.
    """
    data = path.with_name(f"{path.name}_data")
    if data.is_file() and data.stat().st_size > LARGEST_BYTES:
        return False
    model = onnx.load(str(path))
    if not rewrite(model) or not agree(path, model, ((1,), *PADDED)):
        return False
    lying = {entry.name: entry for entry in onnx.load(str(path), load_external_data=False).graph.initializer}
    for entry in model.graph.initializer:
        if entry.name in lying:
            entry.CopyFrom(lying[entry.name])
    onnx.save(model, str(path))
    return True


def rewrite(model: Any) -> bool:
    """Fold what can be in ``model``, which holds its numbers itself; whether anything could."""
    graph = model.graph
    before = len(graph.node)
    for lookup in _lookups(model):
        if lookup.is_one_row:
            row = f"{lookup.read}_row"
            graph.initializer.append(numpy_helper.from_array(lookup.rows[0], row))
            _rename(graph, lookup.read, row)
        elif lookup.is_first_rows:
            _slice(graph, lookup.node)
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Concat" and len(node.input) == 1:
            _rename(graph, node.output[0], node.input[0])
        elif node.op_type in REPEATING:
            for place, name in enumerate(node.input):
                maker = makers.get(name)
                if maker is not None and maker.op_type == "Expand" and _is_shape_of(makers.get(maker.input[1]), node.input[1 - place]):
                    node.input[place] = maker.input[0]
    drop_unused(graph)
    # Shapes that were inferred for the nodes before.
    del graph.value_info[:]
    used = {name for node in graph.node for name in node.input}
    kept = [entry for entry in graph.initializer if entry.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return len(graph.node) < before


@dataclass(frozen=True, slots=True)
class _Lookup:
    """A ``node`` that takes rows of a table as the shape of the input says; ``read``: what others read of it. For one text of :data:`SEEN`:
    ``places`` of the rows, and the ``rows``."""

    node: Any
    read: str
    places: Any
    rows: Any

    @property
    def is_one_row(self) -> bool:
        return not self.places.any()

    @property
    def is_first_rows(self) -> bool:
        return bool((self.places == np.arange(len(self.places))).all())


def _lookups(model: Any) -> list[_Lookup]:
    """The lookups that depend on no token, each row of tokens having the same."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    tables = {entry.name for entry in graph.initializer if len(entry.dims) == 2}
    given = {entry.name for entry in graph.input}
    found = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in tables and _is_by_shape(node.input[1], makers, given)]
    # Bytes are made floats behind it.
    reads = []
    for node in found:
        readers = [other for other in graph.node if node.output[0] in other.input]
        floats = len(readers) == 1 and readers[0].op_type == "DequantizeLinear"
        reads.append(readers[0].output[0] if floats else node.output[0])
    seen = _seen(model, [node.input[1] for node in found], reads) if found else []
    return [
        _Lookup(node, read, places[0], rows[0])
        for node, read, (places, rows) in zip(found, reads, seen, strict=False)
        if places.ndim == 2 and rows.ndim == 3 and (places == places[0]).all()
    ]


def _is_by_shape(name: str, makers: dict[str, Any], given: set[str]) -> bool:
    """Whether ``name`` is worked out from numbers of the model and the shape of what is ``given``."""
    maker = makers.get(name)
    if maker is None:
        return name not in given
    return maker.op_type == "Shape" or all(_is_by_shape(one, makers, given) for one in maker.input)


def _seen(model: Any, places: list[str], reads: list[str]) -> list[tuple[Any, Any]]:
    """What the places and the rows of each lookup are for :data:`SEEN`; nothing where the model cannot be run on tokens alone."""
    looked = onnx.ModelProto()
    looked.CopyFrom(model)
    del looked.graph.output[:]
    kinds = {**dict.fromkeys(places, TensorProto.INT64), **dict.fromkeys(reads, TensorProto.FLOAT)}
    looked.graph.output.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items())
    try:
        session = onnxruntime.InferenceSession(looked.SerializeToString(), providers=["CPUExecutionProvider"])
        found = dict(zip(kinds, session.run(None, next(feeds(session, SEEN))), strict=True))
    except unusable():
        return []
    return [(found[place], found[read]) for place, read in zip(places, reads, strict=True)]


def _slice(graph: Any, node: Any) -> None:
    """Let the lookup ``node`` take as many of the first rows as a text has tokens."""
    at = list(graph.node).index(node)
    name = node.output[0]
    graph.node.remove(node)
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), f"{name}_first"))
    graph.node.insert(at, helper.make_node("Shape", ["input_ids"], [f"{name}_tokens"], f"{name}_length", start=1, end=2))
    taken = [node.input[0], f"{name}_first", f"{name}_tokens", f"{name}_first"]
    graph.node.insert(at + 1, helper.make_node("Slice", taken, [name], f"{name}_rows"))


def _rename(graph: Any, name: str, new: str) -> None:
    """Let the nodes that read ``name`` read ``new``."""
    for node in graph.node:
        for place, one in enumerate(node.input):
            if one == name:
                node.input[place] = new


def _is_shape_of(node: Any, name: str) -> bool:
    """Whether ``node`` gives the whole shape of ``name``."""
    return node is not None and node.op_type == "Shape" and node.input[0] == name and not any(entry.i for entry in node.attribute)
