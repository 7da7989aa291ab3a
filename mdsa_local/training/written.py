"""Questions written for passages of public texts: what a person asks who does not have the text, and which sentences answer.

``training/questions/*.jsonl`` holds the questions, which are ours; of the passages it holds only the title and a digest of each sentence, which are
looked up in the texts below the data folder. A line is a passage: ``{"source", "title", "sentences": [digest], "questions": [[places, text]]}``,
``places`` the numbers of the sentences that answer, from 1; empty when none does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mdsa_local.training import sources
from mdsa_local.training.corpus import sentences

QUESTIONS = Path(__file__).parent / "questions"
DIGITS = 12


@dataclass(frozen=True, slots=True)
class Written:
    """A passage with its questions: each with the places of the sentences that answer it, from 0; none when the passage does not."""

    source: str
    title: str
    sentences: tuple[str, ...]
    questions: tuple[tuple[tuple[int, ...], str], ...]


def digest(sentence: str) -> str:
    """What stands for a sentence."""
    return hashlib.sha256(sentence.encode()).hexdigest()[:DIGITS]


def known(data: Path) -> Iterator[str]:
    """Every sentence of the public texts that questions are written for."""
    rows = [*sources.documentation(data), *(row for name in sources.BOOKS for row in sources.book(data, name))]
    texts = [*(str(row["text"]) for row in rows), *(str(row["answer"]) for row in sources.medquad(data))]
    return (sentence for text in texts for line in text.split("\n") for sentence in sentences(line))


def read(data: Path, folder: Path = QUESTIONS) -> list[Written]:
    """The passages whose sentences are all found below ``data``, in the order of the files."""
    form = '{"source", "title", "sentences": [digest], "questions": [[places, text]]}'
    rows = [row for path in sorted(folder.glob("*.jsonl")) for row in sources.rows(path, {"title": str, "sentences": list, "questions": list}, form)]
    wanted = {key for row in rows for key in row["sentences"]}
    found = {key: sentence for sentence in known(data) if (key := digest(sentence)) in wanted}
    return [
        Written(
            str(row["source"]),
            row["title"],
            tuple(found[key] for key in row["sentences"]),
            tuple((tuple(place - 1 for place in places), text) for places, text in row["questions"]),
        )
        for row in rows
        if all(key in found for key in row["sentences"])
    ]
