"""The public data sets behind the shipped models: what they are, whose, under which licence, and how their files are read.

Files are read line by line. A file larger than :data:`MOST_BYTES` is not held in memory whole: of its lines only some are kept, each with the
same chance, always the same ones, and a warning says so.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdsa_local.errors import InputError
from mdsa_local.jsonlines import lines

logger = logging.getLogger(__name__)

# The largest of the published files has 18 MB.
MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: its title, who made it, its licence, its files below the data folder, and what a line of them holds."""

    title: str
    by: str
    licence: str
    files: tuple[str, ...]
    form: str


SOURCES: Mapping[str, Source] = {
    "clinc150": Source(
        "CLINC150",
        "Larson et al. 2019",
        "CC BY 3.0",
        ("clinc150/train_val.json", "clinc150/domains.json", "clinc150/wiki_sentences.txt"),
        'train_val.json: {"train", "val", "oos_train", "oos_val"}, each a list of [text, intent]; domains.json: {domain: [intent]}; '
        "wiki_sentences.txt: a sentence a line",
    ),
    "banking77": Source("BANKING77", "Casanueva et al. 2020", "CC BY 4.0", ("banking77/train.csv",), "columns text, category"),
    "medquad": Source(
        "MedQuAD",
        "Ben Abacha & Demner-Fushman 2019",
        "CC BY 4.0",
        ("medquad/qa.jsonl",),
        'lines {"focus", "question_type", "question", "answer"}',
    ),
    "sgd": Source(
        "Schema-Guided Dialogue, train part",
        "Rastogi et al. 2020",
        "CC BY-SA 4.0",
        ("sgd/dialogues.jsonl",),
        'lines {"turns": [[speaker, text, services]]}',
    ),
    "18f_handbook": Source("18F handbook", "18F", "CC0", ("passages/18f_handbook.jsonl",), 'lines {"title", "heading", "text"}'),
    "rust_book": Source(
        "The Rust Programming Language",
        "Klabnik, Nichols and the Rust community",
        "MIT or Apache-2.0",
        ("passages/rust_book.jsonl",),
        'lines {"title", "heading", "text"}',
    ),
    "documentation": Source(
        "Documentation of Debian packages (training/documentation.py)",
        "their authors",
        "GFDL, CC BY-SA, MPL, PostgreSQL, PSF, Apache-2.0 and others, none of it copied",
        ("documentation/sections.jsonl",),
        'lines {"source", "title", "heading", "text"}',
    ),
    "wordnet": Source(
        "WordNet 3.0",
        "Princeton University",
        "WordNet licence",
        ("wordnet/data.noun", "wordnet/data.verb", "wordnet/data.adj", "wordnet/data.adv"),
        "the files of its database, as published (wndb(5WN); Debian's package wordnet-base has them)",
    ),
}
BOOKS = ("18f_handbook", "rust_book")


def need(data: Path, names: Iterable[str]) -> list[Path]:
    """The files of the sets ``names`` below ``data``. Raises :class:`InputError` that says which set is missing, whose it is and its licence."""
    found = []
    for name in names:
        source = SOURCES[name]
        for file in source.files:
            if not (data / file).is_file():
                raise InputError(
                    f"{data / file} is missing: a part of {source.title} ({source.by}; {source.licence})",
                    f"The set is not shipped. Put it there yourself, as {source.form}; docs/training.md has all sets.",
                )
            found.append(data / file)
    return found


def rows(path: Path, fields: Mapping[str, type] | None = None, form: str = "JSON objects, one a line") -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, each with ``fields`` of those types. Raises :class:`InputError` that names file and line."""
    hint = f"Expected: {form}."
    found = False
    for number, text in _some(path, hint):
        try:
            row = json.loads(text)
            if not isinstance(row, dict):
                raise ValueError(f"expected an object, found {type(row).__name__}")
            for key, kind in (fields or {}).items():
                if key not in row:
                    raise ValueError(f"missing key {key!r}")
                if not isinstance(row[key], kind):
                    raise ValueError(f"key {key!r}: expected {kind.__name__}, found {type(row[key]).__name__}")
                if kind is str:
                    _clean(row[key])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: {error}", hint) from None
        found = True
        yield row
    if not found:
        raise InputError(f"{path}: empty", hint)


def medquad(data: Path) -> Iterator[dict[str, Any]]:
    """Questions and answers: ``focus``, ``question``, ``answer``, and ``question_type`` where the file has it."""
    (path,) = need(data, ["medquad"])
    return rows(path, dict.fromkeys(("focus", "question", "answer"), str), SOURCES["medquad"].form)


def book(data: Path, name: str) -> Iterator[dict[str, Any]]:
    """Sections of one of :data:`BOOKS`: ``title``, ``heading``, ``text``."""
    (path,) = need(data, [name])
    return rows(path, dict.fromkeys(("title", "heading", "text"), str), SOURCES[name].form)


def documentation(data: Path) -> Iterator[dict[str, Any]]:
    """Sections of documentation: ``source``, ``title``, ``heading``, ``text``."""
    (path,) = need(data, ["documentation"])
    return rows(path, dict.fromkeys(("source", "title", "heading", "text"), str), SOURCES["documentation"].form)


def glosses(data: Path) -> list[str]:
    """The meanings of words in WordNet, ``words: gloss``."""
    hint = f"Expected: {SOURCES['wordnet'].form}."
    found = []
    for path in need(data, ["wordnet"]):
        for number, text in _some(path, hint):
            # The licence stands before the meanings, indented.
            if not text.startswith("  "):
                try:
                    found.append(_meaning(text))
                except (ValueError, IndexError):
                    raise InputError(f"{path}, line {number}: no meaning: {text.strip()[:100]!r}", hint) from None
    return found


def dialogues(data: Path) -> Iterator[list[tuple[str, str]]]:
    """The turns of each dialogue: speaker and text."""
    (path,) = need(data, ["sgd"])
    for row in rows(path, {"turns": list}, SOURCES["sgd"].form):
        try:
            yield [(str(turn[0]), _clean(str(turn[1]))) for turn in row["turns"]]
        except (TypeError, IndexError, KeyError, ValueError):
            raise InputError(f"{path}: a turn is no list of speaker and text: {str(row['turns'])[:200]}", SOURCES["sgd"].form) from None


def services(data: Path) -> dict[str, list[str]]:
    """What users say to each kind of service of the dialogues, sorted: turns of 4 to 25 words that concern one service alone."""
    (path,) = need(data, ["sgd"])
    found: dict[str, set[str]] = {}
    for row in rows(path, {"turns": list}, SOURCES["sgd"].form):
        for turn in row["turns"]:
            if isinstance(turn, list) and len(turn) == 3 and turn[0] == "user" and len(turn[2]) == 1 and 4 <= len(str(turn[1]).split()) <= 25:
                found.setdefault(str(turn[2][0]), set()).add(_clean(str(turn[1])))
    return {kind: sorted(texts) for kind, texts in sorted(found.items())}


def banking(data: Path) -> Iterator[tuple[str, str]]:
    """Text and category."""
    (path,) = need(data, ["banking77"])
    hint = f"Expected: {SOURCES['banking77'].form}."
    # A quoted text may go over several lines, so rows are left out, not lines.
    table, kept = csv.DictReader(_with_blank(lines(path, hint))), _kept(path)
    found = False
    try:
        for row in table:
            if not next(kept):
                continue
            if not row.get("text") or not row.get("category"):
                raise InputError(f"{path}, line {table.line_num}: no text or no category", hint)
            found = True
            yield row["text"], row["category"]
    except csv.Error as error:
        raise InputError(f"{path}, line {table.line_num}: {error}", hint) from None
    if not found:
        raise InputError(f"{path}: empty", hint)


def clinc(data: Path, part: str) -> list[tuple[str, str]]:
    """Text and intent of ``train``, ``val``, ``oos_train`` or ``oos_val``."""
    path, *_ = need(data, ["clinc150"])
    loaded = _whole(path, SOURCES["clinc150"].form)
    with _shaped(path, SOURCES["clinc150"].form):
        return [(_clean(str(text)), str(intent)) for text, intent in loaded[part]]


def clinc_domains(data: Path) -> dict[str, str]:
    """The domain of each intent."""
    _, path, _ = need(data, ["clinc150"])
    loaded = _whole(path, SOURCES["clinc150"].form)
    with _shaped(path, SOURCES["clinc150"].form):
        return {intent: domain for domain, intents in loaded.items() for intent in intents}


def plain_sentences(data: Path) -> list[str]:
    """The plain sentences that come with CLINC150."""
    *_, path = need(data, ["clinc150"])
    return [text.rstrip("\r\n") for _, text in _some(path, SOURCES["clinc150"].form)]


def _meaning(line: str) -> str:
    """A line of WordNet's database as ``words: gloss``: the fourth field counts the words in hexadecimal, each of which a number follows."""
    fields, gloss = line.split(" | ", 1)
    of = fields.split(" ")
    # Where an adjective may stand is written behind it: galore(ip).
    words = [re.sub(r"\([a-z]+\)$", "", word).replace("_", " ") for word in of[4 : 4 + 2 * int(of[3], 16) : 2]]
    if not words or not gloss.strip():
        raise ValueError(line)
    return f"{', '.join(words)}: {gloss.strip()}"


def _clean(text: str) -> str:
    """``text``; raises :class:`ValueError` for half a character, which JSON can write as an escape and no tokenizer reads."""
    text.encode()
    return text


def _some(path: Path, hint: str) -> Iterator[tuple[int, str]]:
    """Lines of a file: all, or of an enormous one as many as memory may hold."""
    kept = _kept(path)
    return ((number, text) for number, text in lines(path, hint) if next(kept))


def _with_blank(numbered: Iterator[tuple[int, str]]) -> Iterator[str]:
    """The lines, and an empty one for each number that is missing: inside a quoted text they count."""
    last = 0
    for number, text in numbered:
        yield from ("\n" for _ in range(last + 1, number))
        yield text
        last = number


def _kept(path: Path) -> Iterator[bool]:
    """Whether to keep the first line or row of a file, the second, and so on."""
    size = path.stat().st_size if path.exists() else 0
    if size <= MOST_BYTES:
        return itertools.repeat(True)
    share, rng = MOST_BYTES / size, random.Random(path.name)
    logger.warning("%s has %d MB: %.1f %% of its lines are read, each with the same chance", path, size >> 20, 100 * share)
    return iter(lambda: rng.random() < share, None)


def _whole(path: Path, hint: str) -> Any:
    """A JSON file that is read whole."""
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"{path} has {size >> 20} MB; it is read whole, so {MOST_BYTES >> 20} MB are the most", f"Expected: {hint}.")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "Check its permissions.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})", "Give a UTF-8 file.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}", f"Expected: {hint}.") from None


@contextmanager
def _shaped(path: Path, form: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not of the expected form: {type(error).__name__}: {error}", f"Expected: {form}.") from None
