"""Passages ordered anew by a cross-encoder, which reads question and passage together: any that the user has as ONNX or as GGUF, off unless one is
named.

:mod:`mdsa_local.knowledge.rerank_onnx` and :mod:`mdsa_local.knowledge.rerank_gguf` say what can be named. See docs/knowledge.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mdsa_local.errors import ModelFileError, looking
from mdsa_local.knowledge.fusion import Ranked, Reread
from mdsa_local.settings import expanded

# Of so many candidates for each passage asked for the best are chosen, of 40 at most: a pair costs as much as a question, and more.
TIMES, MOST = 4, 40


@dataclass(frozen=True, slots=True)
class Score:
    """How well a passage fits, as the model sees it: higher is better. ``cut``: the end of the passage, or of a very long question, was not read."""

    value: float
    cut: bool


class Reranker(Protocol):
    """Pairs of question and passage to scores. Thread-safe."""

    path: Path
    max_tokens: int

    def scores(self, question: str, passages: Sequence[str]) -> list[Score]:
        """One for each passage. Raises :class:`ModelError` when the model fails.

        What is longer than ``max_tokens`` loses the end of the passage; a question longer than three quarters of them its own end too.
        """
        ...

    def close(self) -> None:
        """Free what it takes; safe twice. It scores nothing afterwards."""
        ...


@looking(ModelFileError)
def load(path: str | Path, threads: int = 0) -> Reranker:
    """Open the reranker that ``path`` means. ``threads`` of the CPU for a GGUF, 0 for one per core; an ONNX model has as many as it has use for.

    Raises :class:`ModelNotFoundError`, :class:`ModelFileError`, or :class:`ModelMemoryError`.
    """
    given = expanded(path)
    ggufs = [given] if given.suffix.lower() == ".gguf" else sorted(given.glob("*.gguf"))
    if len(ggufs) == 1 and not any((given / name).is_file() for name in ("model.onnx", "onnx/model.onnx")):
        from mdsa_local.knowledge.rerank_gguf import GgufReranker

        return GgufReranker(ggufs[0], threads)
    from mdsa_local.knowledge.rerank_onnx import OnnxReranker

    return OnnxReranker.load(given)


def wide(top_k: int) -> int:
    """How many candidates are read for ``top_k`` passages."""
    return max(top_k, min(TIMES * top_k, MOST))


def reordered(reranker: Reranker, question: str, fused: Sequence[Ranked], n: int) -> list[Ranked]:
    """The first ``n`` different texts of ``fused`` by their scores, best first, then the others as they were. Title and text are read, as the
    encoder reads them."""
    chosen = [(place, entry) for place, entry in enumerate(fused, 1) if entry.twin_of is None][:n]
    scores = reranker.scores(question, [f"{entry.hit.passage.title}\n{entry.hit.passage.text}".strip() for _, entry in chosen])
    read = [replace(entry, reread=Reread(score.value, place, score.cut)) for (place, entry), score in zip(chosen, scores, strict=True)]
    taken = {place for place, _ in chosen}
    rest = [entry for place, entry in enumerate(fused, 1) if place not in taken]
    return sorted(read, key=lambda entry: -entry.reread.score if entry.reread else 0.0) + rest
