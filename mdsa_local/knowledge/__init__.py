"""Knowledge bases: folders of text become passages that a question finds again.

``ingest`` turns files into :class:`~mdsa_local.knowledge.chunking.Chunk`, ``store`` keeps them in one LanceDB table for each knowledge base,
``dual_rag`` searches the shared table and at most one other, ``fusion`` ranks what was found. What comes in is text and an :class:`Embedder`;
what goes out is :class:`mdsa_local.types.Passage`. Importing this package loads neither lancedb nor pyarrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """What this package needs of an encoder; :class:`mdsa_local.routing.encoder.Encoder` is one."""

    @property
    def width(self) -> int:
        """Length of a vector."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors of the same text change."""

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """``(len(texts), width) float32, unit length``."""

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text``; a constant number for the special ones may be included."""
