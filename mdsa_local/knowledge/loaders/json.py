"""JSON: a section for each object of a list, be it the whole or in a field of the whole, or one for the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdsa_local.knowledge.loaders import MOST_TITLE_CHARS, Section, UnreadableError
from mdsa_local.knowledge.loaders.encodings import decoded

TITLES = ("title", "name", "heading", "question", "id")
BODIES = ("content", "text", "body", "answer")


class _Number(str):
    """A number as it is written: ``1.10`` may be a version, and ``1E400`` is no float."""

    __slots__ = ()


def read(path: Path) -> Iterator[Section]:
    """The records in order; see :func:`record`. Of an object the fields that are lists of objects are read as such lists, as an export has them:
    ``{"version": 2, "recipes": [{...}, ...]}``."""
    data = path.read_bytes()
    # JSON in UTF-16 or UTF-32 shows it without a mark, too.
    wide = json.detect_encoding(data) if b"\0" in data[:4] else ""
    value = parsed(decoded(data, wide).removeprefix("\ufeff"), "")
    lists = {key: part for key, part in value.items() if _records(part)} if isinstance(value, dict) else {}
    rest = {key: part for key, part in value.items() if key not in lists} if lists else value
    whole = rest if isinstance(rest, list) else [rest] if rest or not lists else []
    for name, items in (("record", whole), *lists.items()):
        for number, item in enumerate(items, 1):
            yield record(item, path.stem, f"{name} {number}")


def _records(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(item, dict) for item in value)


def parsed(data: str, where: str) -> Any:
    """A JSON value. Raises :class:`UnreadableError`."""
    try:
        return json.loads(data, parse_float=_Number, parse_constant=_Number)
    except RecursionError:
        raise UnreadableError(f"{where}is nested too deeply") from None
    except ValueError as error:
        # A number of thousands of digits is no JSON error of its own.
        raise UnreadableError(f"{where}not valid JSON: {error}") from None


def record(value: Any, stem: str, name: str, most: int = 0) -> Section:
    """An object as text: its content first, then every other field as ``key: value``, at most so many characters of them; its title, or else
    ``name``, below the file's. Raises :class:`UnreadableError`.

    Where there are other fields, or nothing else, the title stands before them, too: quoted by themselves they would not say what they are of.
    """
    if not isinstance(value, dict):
        return Section(_clean(_written("", value, most)) + "\n\n", f"{stem} > {name}")
    fields = dict(value)
    titled = next((key for key in TITLES if _is_text(fields.get(key)) and 0 < len(fields[key].strip()) <= MOST_TITLE_CHARS), "")
    title = fields.pop(titled) if titled else name
    body = next((fields.pop(key) for key in BODIES if _is_text(fields.get(key))), "")
    named = {titled: title} if titled and (fields or not body.strip()) else {}
    parts = [body.strip(), _written("", named | fields, most)]
    return Section(_clean("\n\n".join(part for part in parts if part)) + "\n\n", f"{stem} > {_clean(' '.join(title.split()))}")


def _written(key: str, value: Any, most: int) -> str:
    """The :func:`_fields`, a line each. Raises :class:`UnreadableError` for more than ``most`` characters, unless that is 0: names of fields far up
    are said again in each line."""
    lines, size = [], 0
    for line in _fields(key, value):
        size += len(line) + 1
        if most and size > most:
            raise UnreadableError(f"its fields come to more than {most:,} characters, each with the names of those it is in")
        lines.append(line)
    return "\n".join(lines)


def _fields(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _fields(f"{key}.{name}" if key else str(name), item)
    elif isinstance(value, list) and not all(isinstance(item, str | int | float) for item in value):
        for number, item in enumerate(value, 1):
            yield from _fields(f"{key}[{number}]", item)
    elif value is not None and value != "" and value != []:
        text = ", ".join(map(_said, value)) if isinstance(value, list) else _said(value)
        yield f"{key}: {text}" if key else text


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, _Number)


def _said(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _clean(text: str) -> str:
    """Without lone halves of surrogate pairs, which JSON can spell and UTF-8 cannot."""
    return text.encode(errors="replace").decode()
