"""Questions with their domains, as a caller gives them to be learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mdsa_local.domains.config import HALF
from mdsa_local.errors import InputError

Pair = tuple[str, str | None]
# As it comes from a line of JSON.
Row = Pair | Sequence[str | None] | Mapping[str, object]
HINT = 'Give pairs, such as ("when do I prune roses?", "garden"), or {"text": ..., "domain": ...}; domain None for out of scope.'


def pairs(rows: Iterable[Row]) -> list[Pair]:
    """``(text, domain)`` of pairs and of mappings with these keys, what else they have aside. Raises :class:`InputError` that names the row."""
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise InputError(f"the examples are a {type(rows).__name__}, not a list of pairs", HINT)
    return [_pair(number, row) for number, row in enumerate(rows)]


def _pair(number: int, row: object) -> Pair:
    if isinstance(row, Mapping):
        if missing := [key for key in ("text", "domain") if key not in row]:
            raise InputError(f"example {number} has no {missing[0]!r}", HINT)
        text, domain = row["text"], row["domain"]
    elif isinstance(row, Sequence) and not isinstance(row, str | bytes) and len(row) == 2:
        text, domain = row
    else:
        raise InputError(f"example {number} is no pair of a text and a domain: {row!r:.100}", HINT)
    if not isinstance(text, str):
        raise InputError(f"example {number}: its text is {text!r:.60}, not a string", HINT)
    if not text.strip():
        raise InputError(f"example {number}: its text is empty", "Leave it out.")
    if half := HALF.search(text):
        raise InputError(f"example {number}: its text holds half a character, {half[0]!r}", "Write the whole character, or leave it out.")
    if domain is not None and not isinstance(domain, str):
        raise InputError(f"example {number}: its domain is {domain!r:.60}, neither a name nor None", HINT)
    return text, domain
