"""``mdsa bench retrieve``: a question against two knowledge bases, and ingestion, each beside its bare baseline."""

from __future__ import annotations

import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.routing.encoder import Encoder

SIZES = {"1k": 1_000, "10k": 10_000, "100k": 100_000}
TOP_K = 5
WORDS_A_CHUNK = 80
INGESTED, INGEST_TURNS = 1_000, 3
# How far drawn vectors lie from those of sentences, in units of how far those lie apart: up to so much. It was chosen so that a question's nearest
# are as near as among 100,000 real passages, see docs/notes/knowledge.md.
SPREAD = 1.5
# Of each question so many of the exactly nearest should be candidates.
RECALLED, RECALL_QUESTIONS, LEAST_RECALL = 30, 40, 0.98
Row = Callable[..., dict[str, Any]]


def retrieving(runs: int, result: Row) -> list[dict[str, Any]]:
    """Median and 99th percentile in ms of encoding a question, searching two tables of so many passages by vector and words, and fusing; beside it
    encoding and a bare matrix product in memory. Of the largest tables, which share of the exactly nearest the index finds, and this process's copy.
    And passages of about 100 tokens, each under a title of some 5, ingested a second beside the bare encoder on the same.

    It is measured once a process that searches on has in its memory and its copies what it will have, see docs/knowledge.md. Questions are those of
    the shipped answer set, texts are drawn from the words of the shipped documents, and their vectors as :class:`_Drawn` tells. Everything is made in
    a temporary folder.
    """
    from mdsa_local.routing.encoder import Encoder

    encoder = Encoder.load()
    words, drawn = _words(), _Drawn(encoder)
    rows: list[dict[str, Any]] = []
    for name, count in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows += _hybrid(name, count, max(20 * runs, 40), drawn, words, Path(folder), result)
    with tempfile.TemporaryDirectory() as folder:
        rows.append(_ingest(encoder, words, Path(folder), result))
    return rows


class _Drawn:
    """The encoder for questions; for what is stored, vectors drawn around those of the shipped documents' sentences.

    Each is the vector of a sentence, any of them with the same chance, plus normal noise with the covariance of all sentences' vectors, times a
    factor between 0 and :data:`SPREAD` drawn for each; of unit length then. So they have few dimensions that count, as the vectors of real passages
    have, and lie about as near to questions.
    """

    def __init__(self, encoder: Encoder) -> None:
        import numpy as np

        self.encoder = encoder
        self.width, self.fingerprint, self.count_tokens = encoder.width, encoder.fingerprint, encoder.count_tokens
        self.vectors: list[NDArray[np.float32]] = []
        self._random = np.random.default_rng(0)
        self._centres = encoder.encode(_sentences())
        scales, axes = np.linalg.eigh(np.cov(self._centres.T))
        self._noise = (axes * np.sqrt(np.maximum(scales, 0.0))).T.astype(np.float32)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """``(n, width) float32, unit length``."""
        import numpy as np

        centres = self._centres[self._random.integers(0, len(self._centres), len(texts))]
        far = self._random.uniform(0, SPREAD, (len(texts), 1)).astype(np.float32)
        drawn: NDArray[np.float32] = centres + far * (self._random.standard_normal((len(texts), self.width), dtype=np.float32) @ self._noise)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        self.vectors.append(drawn)
        return drawn


def _hybrid(name: str, count: int, times: int, drawn: _Drawn, words: list[str], folder: Path, result: Row) -> list[dict[str, Any]]:
    import numpy as np

    from mdsa_local.knowledge.chunking import Chunk
    from mdsa_local.knowledge.copied import ROWS_A_SEARCH
    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.knowledge.lance import connect
    from mdsa_local.knowledge.store import Entry, KnowledgeBase

    source, encoder = random.Random(0), drawn.encoder
    drawn.vectors.clear()
    for table in ("global", "bench"):
        base = KnowledgeBase(connect(folder), table, drawn)
        for start in range(0, count, 10_000):
            numbers = range(start, min(start + 10_000, count))
            base.add(Entry(f"{n}.md", f"{n}.md", "0", (Chunk("", " ".join(source.choices(words, k=WORDS_A_CHUNK)), 0, 0),)) for n in numbers)
        base.optimize()
    matrix = np.concatenate(drawn.vectors)
    drawn.vectors.clear()
    rag = DualRAG(folder, encoder)
    questions = source.choices(_questions(), k=times + 5)

    def ours(text: str) -> None:
        rag.search(text, encoder.encode([text])[0], "bench", TOP_K)

    def bare(text: str) -> None:
        cosines = matrix @ encoder.encode([text])[0]
        best = np.argpartition(-cosines, TOP_K)[:TOP_K]
        best[np.argsort(-cosines[best])]

    rows: list[dict[str, Any]] = []

    def recalled(by: str) -> None:
        # Smaller tables have no index.
        if count == max(SIZES.values()):
            rows.append(result(f"{by}_recall_{name}", _recall(rag, encoder, questions, matrix[:count]), LEAST_RECALL, "", "higher"))

    recalled("index")
    for n in range(2 + count // ROWS_A_SEARCH):
        ours(questions[n % len(questions)])
    rag.settle()
    recalled("copy")
    mine, theirs = _times(ours, questions), _times(bare, questions)
    at = int(len(mine) * 0.99)
    return [
        result(f"hybrid_{name}", statistics.median(mine), statistics.median(theirs), "ms"),
        result(f"hybrid_{name}_p99", mine[at], theirs[at], "ms"),
        *rows,
    ]


def _recall(rag: DualRAG, encoder: Encoder, questions: list[str], stored: NDArray[np.float32]) -> float:
    """The share of the :data:`RECALLED` nearest of the shared knowledge base that are candidates, without a word in common."""
    import numpy as np

    found, nearest = 0, min(RECALLED, len(stored))
    for vector in encoder.encode(questions[:RECALL_QUESTIONS]):
        exact = np.argsort(-(stored @ vector))[:nearest]
        candidates = {ranked.hit.passage.source for ranked in rag.ranked("the", vector, None, TOP_K)}
        found += len(candidates & {f"{n}.md" for n in exact.tolist()})
    return found / (nearest * min(RECALL_QUESTIONS, len(questions)))


def _times(work: Callable[[str], None], questions: list[str]) -> list[float]:
    """Milliseconds for each question, sorted; the first five open files and fill caches, and do not count."""
    taken = []
    for question in questions:
        began = time.perf_counter()
        work(question)
        taken.append((time.perf_counter() - began) * 1000)
    return sorted(taken[5:])


def _ingest(encoder: Encoder, words: list[str], folder: Path, result: Row) -> dict[str, Any]:
    """Passages ingested a second, beside the encoder alone on the same passages under the same titles, in turns; the middle one of each."""
    from mdsa_local.knowledge.dual_rag import DualRAG

    source = random.Random(1)
    ours, bare = list[float](), list[float]()
    for turn in range(INGEST_TURNS):
        docs = folder / f"docs-{turn}"
        docs.mkdir()
        texts = [" ".join(source.choices(words, k=WORDS_A_CHUNK)) for _ in range(INGESTED)]
        for n in range(INGESTED // 10):
            sections = (f"## Part {m}\n\n{text}\n" for m, text in enumerate(texts[10 * n : 10 * n + 10]))
            (docs / f"{n}.md").write_text(f"# Document {n}\n\n" + "\n".join(sections), encoding="utf-8")
        rag = DualRAG(folder / f"kb-{turn}", encoder)
        began = time.perf_counter()
        rag.add_paths([docs], "bench")
        seconds = time.perf_counter() - began
        ours.append(sum(document.n_chunks for document in rag.list_documents("bench")) / seconds)
        titled = [f"Document {at // 10} > Part {at % 10}\n{text}" for at, text in enumerate(texts)]
        began = time.perf_counter()
        encoder.encode(titled)
        bare.append(INGESTED / (time.perf_counter() - began))
    return result("ingest", statistics.median(ours), statistics.median(bare), "1/s", "higher")


def _documents() -> list[str]:
    """The texts of the shipped documents."""
    from mdsa_local.settings import shipped

    return [path.read_text(encoding="utf-8") for path in sorted(shipped("domains").glob("*/knowledge/*.md"))]


def _words() -> list[str]:
    """The words of the shipped documents, as often as they occur."""
    return [word for text in _documents() for word in text.split()]


def _sentences() -> list[str]:
    """The sentences of the shipped documents, each once, without those of less than four words."""
    found = (sentence.strip() for text in _documents() for sentence in re.split(r"(?<=[.!?])\s+|\n+", text))
    return list(dict.fromkeys(sentence for sentence in found if len(sentence.split()) > 3))


def _questions() -> list[str]:
    """The questions of the shipped answer set."""
    from mdsa_local.evaluation.questions import read

    return [case.question for case in read()]
