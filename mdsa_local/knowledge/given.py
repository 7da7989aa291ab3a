"""Documents given as texts in Python: what they are called, and what is wrong with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import InputError, did_you_mean
from mdsa_local.knowledge import Embedder
from mdsa_local.knowledge.chunking import chunk
from mdsa_local.knowledge.store import Entry

if TYPE_CHECKING:
    from mdsa_local.knowledge.store import KnowledgeBase

DOCUMENT = '{"content": "...", "metadata": {...}}'
KNOWN = ("content", "metadata")
# What belongs into the metadata, and is looked for beside it.
INSIDE = ("id", "source", "title")


def entries(documents: Iterable[Mapping[str, Any]], knowledge_base: KnowledgeBase) -> list[Entry]:
    """What is to be stored of ``documents``, one for each. Raises :class:`InputError` that names the first that cannot be, or two of one id that
    differ."""
    made = _with_earlier_names([_entry(number, document, knowledge_base.embedder) for number, document in enumerate(documents)], knowledge_base)
    first: dict[str, int] = {}
    for number, entry in enumerate(made):
        known = made[first.setdefault(entry.document, number)]
        if known is not entry and (known.hash, _told(known.metadata)) != (entry.hash, _told(entry.metadata)):
            raise InputError(
                f"documents {first[entry.document]} and {number} have the same id {entry.document!r}, and only one of them could be stored",
                "Give each an id of its own, or leave one out.",
            )
    return made


def _entry(number: int, document: Mapping[str, Any], embedder: Embedder) -> Entry:
    if not isinstance(document, Mapping):
        raise InputError(f"document {number} is a {type(document).__name__}, not a mapping", f"Write {DOCUMENT}.")
    for key in document:
        if key not in KNOWN:
            near = "" if key in INSIDE else did_you_mean(str(key), KNOWN)
            raise InputError(f"document {number}: unknown key {key!r}", f"{near}All but the content belongs into its metadata: {DOCUMENT}.")
    content, metadata = document.get("content"), document.get("metadata") or {}
    if not isinstance(content, str) or not isinstance(metadata, Mapping):
        raise InputError(f"document {number}: expected content, a string, and metadata, a mapping", f"Write {DOCUMENT}.")
    try:
        json.dumps([content, dict(metadata)], ensure_ascii=False, default=str).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"document {number} cannot be stored: {error}", "Its text has to be valid UTF-8, and the keys of its metadata strings."
        ) from None
    chunks = chunk(content, embedder.count_tokens, title=_text(metadata, "title"))
    if not chunks:
        raise InputError(f"document {number}: its content has no text", "Leave it out.")
    name = _text(metadata, "id") or _name(content, metadata)
    return Entry(name, _text(metadata, "source") or name, _digest(content), tuple(chunks), metadata)


def _name(content: str, metadata: Mapping[str, Any]) -> str:
    """The id of a document that was given none: the same for the same text with the same metadata, in whatever order."""
    told = _told(metadata, "id")
    return _of_text(_digest(content if told == "{}" else f"{content}\0{told}"))


def _with_earlier_names(made: Sequence[Entry], knowledge_base: KnowledgeBase) -> list[Entry]:
    """``made``, but what is stored with the same metadata under the id of its text alone, which was once the id of every document that was given
    none, is still called that."""
    taken = {entry.document for entry in made}
    earlier = {_of_text(entry.hash) for entry in made if not _text(entry.metadata, "id")} - taken
    stored = {name: _told(json.loads(told)) for name, told in knowledge_base.metadata(earlier).items()} if earlier else {}

    def called(entry: Entry) -> Entry:
        name = _of_text(entry.hash)
        if _text(entry.metadata, "id") or name not in stored or stored[name] != _told(entry.metadata):
            return entry
        return replace(entry, document=name, source=_text(entry.metadata, "source") or name)

    return [called(entry) for entry in made]


def _of_text(digest: str) -> str:
    return f"text-{digest[:16]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _text(metadata: Mapping[str, Any], key: str) -> str:
    """What the metadata says, 0 too; empty where it says nothing."""
    return "" if metadata.get(key) is None else str(metadata[key])


def _told(metadata: Mapping[str, Any], *without: str) -> str:
    """What ``metadata`` says, as it comes back from the disk: equal texts for what is equal, in whatever order it was given."""

    def shown(value: object) -> object:
        return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)

    plain = json.loads(json.dumps(dict(metadata), default=shown))
    return json.dumps({key: value for key, value in plain.items() if key not in without}, sort_keys=True)
