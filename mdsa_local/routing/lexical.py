"""Vectors of words, for when the encoder cannot be loaded: questions are still routed, by the words they share with a domain's anchors."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mdsa_local.routing.calibration import Calibration
from mdsa_local.routing.conversation import EMPTY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORD = re.compile(r"\w+")
STEM = 5


class LexicalEncoder:
    """Texts to unit vectors of hashed word stems. Offers what :class:`~mdsa_local.routing.encoder.Encoder` does, without meaning: only words count.

    ``reason`` says why it stands in.
    """

    width = 2048
    fingerprint = "words-1"
    # By eye, on the shipped domains' examples: one shared word of a few is enough to lean to a domain, none is not.
    calibration = Calibration(scope=0.0, slope=12.0, temperature=0.04)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def count_tokens(self, text: str) -> int:
        """Words in ``text``."""
        return len(WORD.findall(text))

    def cuts(self, text: str) -> bool:
        """Never: there is no window."""
        return False

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(n, width)`` float32, unit length; all zeros for a text without words of its own."""
        import numpy as np

        out: NDArray[Any] = np.zeros((len(texts), self.width), dtype=np.float32)
        for row, text in enumerate(texts):
            words = [word for word in WORD.findall(text.lower()) if word not in EMPTY]
            for stem in {word[:STEM] for word in words}:
                out[row, zlib.crc32(stem.encode("utf-8", "surrogatepass")) % self.width] += 1.0
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        vectors: NDArray[Any] = out / np.maximum(norms, 1e-9)
        return vectors

    def remembering(self) -> Callable[[list[str]], NDArray[np.float32]]:
        """:meth:`encode`, which costs too little to remember."""
        return self.encode
