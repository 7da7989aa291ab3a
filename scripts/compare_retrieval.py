#!/usr/bin/env python3
"""Retrieval on MedQuAD: dense, by words, and fused by rank and by weight, on the same chunks in one run; and the weight of words, learned apart.

    python scripts/compare_retrieval.py medquad/qa.jsonl --work FOLDER [--minilm FOLDER_OF_MODEL]

Lines of the file are ``{"question", "answer"}``. Answers are cut into 110 words every 90, without titles. 1,000 questions, drawn with seed 0, are the
test; 1,500 of the others, drawn with seed 1, choose the weight. A question's own answer is what has to be found. ``--minilm`` adds the row of the
sentence encoder all-MiniLM-L6-v2 (needs sentence-transformers). Vectors are kept in FOLDER: a second run, or one after a stop, is quick.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdsa_local.knowledge import Embedder, fusion
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.evaluate import PASSAGES, Judged, measure
from mdsa_local.knowledge.fusion import Hit, fuse
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.store import Entry, KnowledgeBase
from mdsa_local.knowledge.together import rank_all
from mdsa_local.routing.encoder import Encoder
from mdsa_local.types import Passage

WORDS, STEP = 110, 90
TEST, TRAIN = 1000, 1500
PART = 2048
WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6)


class Kept:
    """An encoder whose vectors of the chunks lie in a folder."""

    def __init__(self, inner: Embedder, vectors: dict[str, NDArray[np.float32]]) -> None:
        self.inner, self.vectors = inner, vectors
        self.width, self.fingerprint, self.count_tokens = inner.width, inner.fingerprint, inner.count_tokens

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors from the folder where there are, else the encoder's."""
        known = [self.vectors.get(text.lstrip("\n")) for text in texts]
        if all(vector is not None for vector in known):
            return np.stack([vector for vector in known if vector is not None])
        return self.inner.encode(texts)


def chunks_of(answer: str) -> list[str]:
    """Windows of words, overlapping."""
    words = answer.split()
    return [" ".join(words[start : start + WORDS]) for start in range(0, max(len(words), 1), STEP)]


def encoded(encode: Callable[[list[str]], NDArray[np.float32]], texts: Sequence[str], work: Path, name: str) -> NDArray[np.float32]:
    """Vectors of ``texts``, kept in parts under ``name``."""
    parts = []
    for start in range(0, len(texts), PART):
        file = work / f"{name}-{start}.npy"
        if not file.exists():
            np.save(file, encode(list(texts[start : start + PART])))
            print(f"  {name}: {start + PART} of {len(texts)}", flush=True)
        parts.append(np.load(file))
    return np.concatenate(parts)


def stored(work: Path, embedder: Kept, chunks: Sequence[Sequence[str]]) -> KnowledgeBase:
    """The answers in a knowledge base of the product, made once."""
    base = KnowledgeBase(connect(work / "tables"), "medquad", embedder)
    have = {document.document for document in base.documents()}
    entries = [Entry(str(n), str(n), "0", tuple(Chunk("", text, 0, 0) for text in texts)) for n, texts in enumerate(chunks) if str(n) not in have]
    for start in range(0, len(entries), 1000):
        base.add(entries[start : start + 1000])
    if entries:
        base.optimize()
    return base


def by_vector(hits: Iterable[Hit]) -> list[Passage]:
    """Passages by cosine alone."""
    return [hit.passage for hit in sorted(hits, key=lambda hit: -hit.cosine)]


def by_words(hits: Iterable[Hit]) -> list[Passage]:
    """Passages by BM25 alone."""
    return [hit.passage for hit in sorted(hits, key=lambda hit: -hit.bm25) if hit.bm25]


def row(name: str, judged: Sequence[Judged], search: Callable[[str], Sequence[Passage]]) -> None:
    """Measure and print a line."""
    quality = measure(search, judged)
    print(f"{name:<32} recall@5 {quality.recall_at_5:.3f}  nDCG@10 {quality.ndcg_at_10:.3f}", flush=True)


def weighted(weight: float | None, hits: Sequence[Hit]) -> list[Passage]:
    """The ranking with a weight of words, or by reciprocal rank."""
    return [hit.passage for hit in fuse(hits, weight)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minilm", type=Path)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [json.loads(text) for text in given.questions.read_text(encoding="utf-8").split("\n") if text]
    test = random.Random(0).sample(range(len(rows)), TEST)
    train = random.Random(1).sample(sorted(set(range(len(rows))) - set(test)), TRAIN)
    chunks = [chunks_of(entry["answer"]) for entry in rows]
    texts = [text for group in chunks for text in group]
    print(f"{len(rows)} answers, {len(texts)} chunks, {TEST} questions")
    encoder = Encoder.load()
    vectors = encoded(encoder.encode, texts, given.work, encoder.fingerprint[:12])
    base = stored(given.work, Kept(encoder, dict(zip(texts, vectors, strict=True))), chunks)

    def found(numbers: Iterable[int]) -> dict[str, list[Hit]]:
        asked = {rows[n]["question"] for n in numbers}
        return {text: [entry.hit for entry in rank_all([base], encoder.encode([text])[0], text, PASSAGES)] for text in asked}

    judged = {name: [Judged(rows[n]["question"], (str(n),)) for n in numbers] for name, numbers in (("train", train), ("test", test))}
    hits = found(train)
    for weight in WEIGHTS:
        row(f"weight {weight}, other questions", judged["train"], lambda text, weight=weight: weighted(weight, hits[text]))  # type: ignore[misc]
    hits = found(test)
    row("dense", judged["test"], lambda text: by_vector(hits[text]))
    row("words (BM25)", judged["test"], lambda text: by_words(hits[text]))
    row("fused by reciprocal rank", judged["test"], lambda text: weighted(None, hits[text]))
    row(f"fused, weight {fusion.WORDS_WEIGHT}", judged["test"], lambda text: weighted(fusion.WORDS_WEIGHT, hits[text]))
    if given.minilm:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(given.minilm), device="cpu")

        def encode(texts: list[str]) -> NDArray[np.float32]:
            return np.asarray(model.encode(texts, normalize_embeddings=True), dtype=np.float32)

        matrix = encoded(encode, texts, given.work, "minilm")
        owners = [str(n) for n, group in enumerate(chunks) for _ in group]

        def nearest(text: str) -> list[Passage]:
            best = np.argsort(-(matrix @ encode([text])[0]))[:PASSAGES]
            return [Passage(f"{owners[i]}#0", "", "", "", "", 0, 0, 0.0) for i in best]

        row("all-MiniLM-L6-v2, dense", judged["test"], nearest)


if __name__ == "__main__":
    main()
