"""ONNX files as they ship: with the outputs that are used, and quick to open."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from mdsa_local.routing.session import NOT_FUSED

# Smaller numbers stay in the graph.
APART_BYTES = 1024


def keep_only(path: Path, output: str) -> None:
    """Drop every graph output but ``output`` (the token vectors are not needed)."""
    model = onnx.load(str(path))
    kept = [entry for entry in model.graph.output if entry.name == output]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, str(path))


def quantise(model: Path, out: Path, *, weights: QuantType = QuantType.QInt8, reduce_range: bool = True, but: Sequence[str] = ()) -> None:
    """Write the float32 ``model`` to ``out`` with ``weights`` in eight bits, each column of a matrix with its scale, ``but`` for some nodes.

    ``reduce_range``: in seven bits, since on x86 without VNNI the kernel for signed ones saturates.
    """
    # The type of what a node outside the standard gives is not inferred.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(model, out, per_channel=True, weight_type=weights, reduce_range=reduce_range, nodes_to_exclude=list(but), extra_options=options)


def write_optimised(model: Path, out: Path) -> None:
    """Write ``model`` to ``out`` in the form that onnxruntime's own passes leave, which hold on any machine, and its numbers to a file beside it with
    ``_data`` behind the name. It computes the same.

    So it opens in a third of the time, and the numbers are used where they lie in the system's cache: of a table of words only what is looked up
    takes memory. Who has files of that name open keeps what they were.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    data = f"{out.name}_data"
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", str(APART_BYTES))
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        written = Path(temporary) / out.name
        options.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=NOT_FUSED)
        # A graph of small numbers alone has none.
        if (beside := written.with_name(data)).is_file():
            beside.replace(out.with_name(data))
        else:
            out.with_name(data).unlink(missing_ok=True)
        written.replace(out)
