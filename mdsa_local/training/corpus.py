"""Texts for encoder distillation, read from public data sets.

The folder given as ``data`` holds ``clinc150/ banking77/ medquad/ sgd/ passages/`` as published; only training parts are read.
What they are and how they are read: :mod:`~mdsa_local.training.sources`.
Each text is one string; the teacher labels it, so no other annotation is used.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from mdsa_local.training import sources

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")


def sentences(text: str) -> list[str]:
    """Split running text at sentence ends; keeps every character but the white space between sentences."""
    return [part.strip() for part in SENTENCE_END.split(text) if part.strip()]


def windows(text: str, size: int, step: int) -> Iterator[str]:
    """Yield windows of ``size`` words every ``step`` words."""
    words = text.split()
    for start in range(0, max(1, len(words) - size + step), step):
        yield " ".join(words[start : start + size])


def clinc(data: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """CLINC150 ``(train, val)`` as ``(text, domain)`` pairs over its ten domains."""
    domain_of = sources.clinc_domains(data)
    train, val = ([(text, domain_of[intent]) for text, intent in sources.clinc(data, part)] for part in ("train", "val"))
    return train, val


def queries(data: Path, rng: random.Random, sgd: int) -> list[str]:
    """Short texts: what users type."""
    texts = [text for part in ("train", "oos_train") for text, _ in sources.clinc(data, part)]
    texts += [text for text, _ in sources.banking(data)]
    texts += sources.plain_sentences(data)
    asked = sorted({row["question"] for row in sources.medquad(data)})
    texts += rng.sample(asked, len(asked) // 3)
    turns = {text for turns in sources.dialogues(data) for speaker, text in turns if speaker == "user"}
    return texts + rng.sample(sorted(turns), min(sgd, len(turns)))


def prose(data: Path, rng: random.Random, n_sentences: int, n_passages: int) -> tuple[list[str], list[str]]:
    """``(sentences, passages)`` from MedQuAD answers and the two books; passages carry their title."""
    short: list[str] = []
    long: list[str] = []
    for row in sources.medquad(data):
        short += sentences(row["answer"])
        long += [f"{row['focus']}: {window}" for window in windows(row["answer"], 70, 60)]
    for name in sources.BOOKS:
        for row in sources.book(data, name):
            short += sentences(row["text"])
            long += [f"{row['title']} {row['heading']}: {window}" for window in windows(row["text"], 70, 60)]
    short, long = sorted({s for s in short if 3 <= len(s.split()) <= 45}), sorted(set(long))
    return rng.sample(short, min(n_sentences, len(short))), rng.sample(long, min(n_passages, len(long)))


def phrases(texts: list[str], rng: random.Random, n: int) -> list[str]:
    """Random spans of one to five words: what keywords and search queries look like."""
    spans: set[str] = set()
    # Few texts hold fewer spans than are wanted.
    for _ in range(20 * n):
        if len(spans) == n:
            break
        words = rng.choice(texts).split()
        length = rng.choice((1, 2, 2, 3, 3, 4, 5))
        start = rng.randrange(max(1, len(words) - length + 1))
        spans.add(" ".join(words[start : start + length]).strip(" ,.;:()?!\"'"))
    return sorted(spans - {""})


def distillation_texts(data: Path, seed: int = 0, scale: float = 1.0) -> list[str]:
    """All texts for distillation, unique, in a seeded order. ``scale`` shrinks the sampled parts for a quick run."""
    rng = random.Random(seed)
    short = queries(data, rng, int(30_000 * scale))
    said, passages = prose(data, rng, int(30_000 * scale), int(9_000 * scale))
    texts = short + said + passages + phrases(short + said, rng, int(15_000 * scale))
    unique = sorted(set(texts))
    rng.shuffle(unique)
    return unique


def encoder_texts(data: Path, seed: int = 0) -> list[str]:
    """All texts for the encoder, unique, in a seeded order: what :func:`distillation_texts` draws from, whole, with documentation, the meanings of
    words, and phrases of all of it."""
    rng = random.Random(seed)
    asked = queries(data, rng, 10**9)
    said, passages = prose(data, rng, 10**9, 10**9)
    for row in sources.documentation(data):
        said += [text for line in row["text"].split("\n") for text in sentences(line) if 3 <= len(text.split()) <= 60]
        title = f"{row['title']} > {row['heading']}" if row["heading"] not in ("", row["title"]) else row["title"]
        passages += [f"{title}: {window}" for window in windows(row["text"], 100, 90)]
        asked += [text for text in (row["title"], row["heading"]) if text]
    meanings = sources.glosses(data)
    texts = asked + said + passages + meanings + phrases(asked + said, rng, len(said) // 3)
    unique = sorted({text for text in texts if text.strip()})
    rng.shuffle(unique)
    return unique


def with_typo(text: str, rng: random.Random) -> str:
    """``text`` with one slip of the keyboard: a letter dropped, doubled or two swapped."""
    if len(text) < 6:
        return text
    at = rng.randrange(1, len(text) - 2)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
