"""A small deterministic embedder: words hashed into a vector. Texts that share words are near each other."""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"\w+|[^\w\s]")


class ToyEmbedder:
    def __init__(self, fingerprint: str = "toy", width: int = 64) -> None:
        self.fingerprint = fingerprint
        self.width = width
        self.encoded: list[str] = []

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        self.encoded += texts
        vectors = np.full((len(texts), self.width), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in WORD.findall(text.lower()):
                vectors[row, zlib.crc32((self.fingerprint + word).encode()) % self.width] += 1.0
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def count_tokens(self, text: str) -> int:
        return len(WORD.findall(text))
