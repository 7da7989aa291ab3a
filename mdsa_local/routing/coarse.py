"""One question against many anchors, at a quarter of the memory traffic: in bytes first, then exactly where it counts.

A question's cosines to 10,000 anchors are one pass over 12.5 MB, bound by memory. Here each anchor is bytes with a scale of its own, and the
question 14 bits in two halves of 7; the integer product is onnxruntime's. The anchors that come out nearest are multiplied again as they are.
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
# A half of the question lies within this; with an anchor's bytes of 255 at most no sum of two products exceeds 16 bits, which AVX2 sums them in.
HALF = 63
FINER = 2 * HALF
# What an anchor's bytes are higher by, to have no sign. The other way round, signed by unsigned, onnxruntime puts all of them in another order for
# each question.
ZERO = 128
# c = (a - ZERO) b w s, of bytes without sign a (n, d) and signed ones b (d, h), floats w (h, 1) and s (n, 1): MatMulInteger, Cast, MatMul, Mul. The
# last two here, since numpy's product of so many may go to several threads. ONNX IR version 7, operator set 10.
PRODUCT = (
    b'\x08\x07:\xd7\x01\n\x1b\n\x01a\n\x01b\n\x01z\x12\x01i"\rMatMulInteger\n\x17\n\x01i\x12\x01f"\x04Cast*\t\n\x02to\x18\x01\xa0\x01\x02'
    b'\n\x11\n\x01f\n\x01w\x12\x01p"\x06MatMul\n\x0e\n\x01p\n\x01s\x12\x01c"\x03Mul\x12\x01g*\t\x10\x02*\x02\x80\x01B\x01z'
    b"Z\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12\n\n\x03\x12\x01n\n\x03\x12\x01dZ\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n\n\x03\x12\x01d\n\x03\x12\x01h"
    b"Z\x14\n\x01w\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01h\n\x02\x08\x01Z\x14\n\x01s\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01n\n\x02\x08\x01"
    b"b\x14\n\x01c\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01n\n\x02\x08\x01B\x04\n\x00\x10\n"
)


@dataclass(frozen=True, slots=True)
class Bytes:
    """Anchors as bytes ``(n, d)``, :data:`ZERO` for 0, and the scale ``(n,)`` of each."""

    rows: NDArray[np.uint8]
    scale: Floats

    @classmethod
    def made(cls, vectors: Floats) -> Bytes:
        """Of ``(n, d)``."""
        scale = np.maximum(np.abs(vectors).max(axis=1, initial=0), 1e-9) / np.float32(127)
        return cls((np.rint(vectors / scale[:, None]) + ZERO).astype(np.uint8), scale)


class Coarse:
    """All anchors in bytes beside the ``matrix`` ``(n, d)`` that they were made of. Immutable."""

    def __init__(self, parts: Sequence[Bytes], matrix: Floats) -> None:
        self._matrix = matrix
        self._rows = np.concatenate([part.rows for part in parts])
        self._scale = np.concatenate([part.scale for part in parts])[:, None]

    def cosines(self, vector: Floats, margin: float) -> Floats:
        """Of ``(d,)``, unit length, with all anchors: ``(n,)``, exact within ``margin`` of the best (at most :data:`MOST_EXACT` of them)."""
        step = max(float(np.abs(vector).max()), 1e-9) / HALF
        fine = vector / step
        coarse = np.rint(fine)
        fine -= coarse
        fine *= FINER
        halves = np.empty((len(vector), 2), np.int8)
        halves[:, 0] = coarse
        halves[:, 1] = np.rint(fine)
        steps = np.array([[step], [step / FINER]], np.float32)
        out: Floats = _session().run(["c"], {"a": self._rows, "b": halves, "w": steps, "s": self._scale})[0][:, 0]
        (near,) = (out > out.max() - np.float32(margin)).nonzero()
        if len(near) > MOST_EXACT:
            near = near[np.argpartition(out[near], len(near) - MOST_EXACT)[-MOST_EXACT:]]
        out[near] = np.einsum("ij,j->i", self._matrix.take(near, axis=0), vector)
        return out


@cache
def _session() -> Any:
    """Runs :data:`PRODUCT`, on one thread; numpy multiplies bytes slower than floats."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(PRODUCT, options, providers=["CPUExecutionProvider"])
