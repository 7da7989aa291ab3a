"""Reading without a mask: a text that is read alone needs none, and a pass without costs less, 4 % for a question with the shipped encoder, a tenth
for 128 tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from mdsa_local.training.attention import LONG, MASK, agree, drop_unused

# What makes a mask of tokens one of numbers.
BETWEEN = frozenset({"Cast", "Expand", "Unsqueeze"})
# Which input of the node for attention tells what is padding.
PADDING = 4
# What is compared: rows of one length.
ALIKE = ((1,), (16,), (9, 9, 9), (LONG,))


def unmask(path: Path) -> bool:
    """Rewrite the model in ``path`` so that it takes no ``attention_mask``; whether that was done. Its attention must have been made one node, see
    :func:`~mdsa_local.training.attention.fuse`. It is left as it is where something else reads the mask than attention and a mean of token vectors,
    where it would not give the same, and where it is too large for one file.
    """
    if path.with_name(f"{path.name}_data").is_file():
        return False
    model = onnx.load(str(path))
    if not rewrite(model) or not agree(path, model, ALIKE):
        return False
    onnx.save(model, str(path))
    return True


def rewrite(model: Any) -> bool:
    """Take the mask out of ``model``; whether nothing else reads it, and it was there."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "MultiHeadAttention" and len(node.input) > PADDING and _is_mask(node.input[PADDING], makers):
            node.input[PADDING] = ""
    for node in list(graph.node):
        if node.op_type == "Div" and (tokens := _mean_of(node, makers)):
            axes = makers[node.input[0]].input[1]
            at = list(graph.node).index(node)
            graph.node.remove(node)
            graph.node.insert(at, helper.make_node("ReduceMean", [tokens, axes], list(node.output), f"{node.name}_mean", keepdims=0))
    drop_unused(graph)
    given = next((entry for entry in graph.input if entry.name == MASK), None)
    if given is None or any(MASK in node.input for node in graph.node):
        return False
    graph.input.remove(given)
    return True


def _is_mask(name: str, makers: dict[str, Any]) -> bool:
    """Whether ``name`` is the mask, in another type or form."""
    while (maker := makers.get(name)) is not None and maker.op_type in BETWEEN:
        name = maker.input[0]
    return name == MASK


def _mean_of(node: Any, makers: dict[str, Any]) -> str:
    """The token vectors of which ``node`` divides the sum of those that are no padding by their number; empty where it does not."""
    summed, number = (makers.get(name) for name in node.input)
    if number is not None and number.op_type == "Clip":
        number = makers.get(number.input[0])
    if not (summed is not None and number is not None and summed.op_type == number.op_type == "ReduceSum" and len(summed.input) == 2):
        return ""
    product = makers.get(summed.input[0])
    if product is None or product.op_type != "Mul" or number.input[0] != product.input[1] or not _is_mask(product.input[1], makers):
        return ""
    return str(product.input[0])
