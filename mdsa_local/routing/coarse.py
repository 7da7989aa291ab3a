"""One question against many anchors, at a third of the memory traffic: in bytes first, then exactly where it counts.

A question's cosines to 10,000 anchors are one pass over 12.5 MB, bound by memory. Here each anchor is signed bytes with a scale of its own,
and the question 14 bits in two halves of 7; the integer product is onnxruntime's. The anchors that come out nearest are multiplied again as
they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# Of fewer anchors the plain product is as fast.
WORTHWHILE = 4000
# No more of the nearest anchors than these are multiplied exactly.
MOST_EXACT = 256
# Anchors that are multiplied together: both halves of the question meet them while they are in the core's cache. 64 to 256 are alike, whole
# matrices take twice as long.
BLOCK = 128
# A half of the question lies within this; with 127 of an anchor's bytes no sum of two products exceeds 16 bits, which AVX2 sums them in.
HALF = 63
FINER = 2 * HALF
# One node, c = MatMulInteger(a, b): bytes without sign (1, 2, 1, d) by signed bytes (blocks, 1, d, n). ONNX IR version 7, operator set 10.
PRODUCT = (
    b'\x08\x07:\x80\x01\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01g'
    b"Z\x1f\n\x01a\x12\x1a\n\x18\x08\x02\x12\x14\n\x03\x12\x01p\n\x03\x12\x01q\n\x03\x12\x01m\n\x03\x12\x01k"
    b"Z\x1f\n\x01b\x12\x1a\n\x18\x08\x03\x12\x14\n\x03\x12\x01r\n\x03\x12\x01s\n\x03\x12\x01k\n\x03\x12\x01n"
    b"b\x1f\n\x01c\x12\x1a\n\x18\x08\x06\x12\x14\n\x03\x12\x01t\n\x03\x12\x01u\n\x03\x12\x01m\n\x03\x12\x01nB\x04\n\x00\x10\n"
)


@dataclass(frozen=True, slots=True)
class Bytes:
    """Anchors as signed bytes ``(n, d)`` and the scale ``(n,)`` of each."""

    rows: NDArray[np.int8]
    scale: Floats

    @classmethod
    def made(cls, vectors: Floats) -> Bytes:
        """Of ``(n, d)``."""
        scale = np.maximum(np.abs(vectors).max(axis=1, initial=0), 1e-9) / np.float32(127)
        return cls(np.rint(vectors / scale[:, None]).astype(np.int8), scale)


class Coarse:
    """All anchors in bytes, in blocks, beside the ``matrix`` ``(n, d)`` that they were made of. Immutable."""

    def __init__(self, parts: Sequence[Bytes], matrix: Floats) -> None:
        self._matrix = matrix
        n, width = matrix.shape
        rows = np.zeros((-(-n // BLOCK) * BLOCK, width), np.int8)
        np.concatenate([part.rows for part in parts], out=rows[:n])
        self._blocks = np.ascontiguousarray(rows.reshape(-1, BLOCK, width).transpose(0, 2, 1))[:, None]
        scale = np.concatenate([part.scale for part in parts])
        self._scale = np.pad(scale, (0, len(rows) - n)).reshape(-1, BLOCK)
        # A half is given HALF + 1 higher, to have no sign; this is what that adds to a product.
        self._offset = (HALF + 1) * (FINER + 1) * self._blocks[:, 0].sum(axis=1, dtype=np.int32)

    def cosines(self, vector: Floats, margin: float) -> Floats:
        """Of ``(d,)``, unit length, with all anchors: ``(n,)``, exact within ``margin`` of the best (at most :data:`MOST_EXACT` of them)."""
        step = max(float(np.abs(vector).max()), 1e-9) / HALF
        coarse = np.rint(vector / step)
        halves = np.stack([coarse, np.rint((vector / step - coarse) * FINER)]) + (HALF + 1)
        products = _session().run(["c"], {"a": halves.astype(np.uint8)[None, :, None], "b": self._blocks})[0][:, :, 0]
        whole = products[:, 0]
        whole *= FINER
        whole += products[:, 1]
        whole -= self._offset
        found = whole.astype(np.float32)
        found *= self._scale
        found *= np.float32(step / FINER)
        out: Floats = found.reshape(-1)[: len(self._matrix)]
        near = np.flatnonzero(out > out.max() - margin)
        if len(near) > MOST_EXACT:
            near = near[np.argpartition(out[near], len(near) - MOST_EXACT)[-MOST_EXACT:]]
        out[near] = np.einsum("ij,j->i", self._matrix[near], vector)
        return out


@cache
def _session() -> Any:
    """Runs :data:`PRODUCT`, on one thread; numpy multiplies bytes slower than floats."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(PRODUCT, options, providers=["CPUExecutionProvider"])
