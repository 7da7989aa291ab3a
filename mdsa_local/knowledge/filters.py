"""Conditions on what passages came from, as the SQL that LanceDB takes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from unicodedata import normalize

from mdsa_local.errors import InputError, UnknownNameError

# Each is a column, or made of one; of the last NAME is whatever the user calls it.
FIELDS = ("document", "source", "title", "kind", "metadata.NAME")
PATHS = ("document", "source")
METADATA = "metadata."

# Metadata is the JSON text that json.dumps writes, and SQL knows only its letters, so a regular expression reads it: the top level alone, past values
# nested so deep.
DEEPEST = 16
# A field and its value have at most so many characters: a regular expression is made of them.
LONGEST = 2_000
_CHARS = r'(?:[^"\\]|\\[^u]|\\u[0-9a-f]{4})*'
_STRING = f'"{_CHARS}"'
_NUMERIC, _WORDS = "[-+.0-9eE]", ("true", "false", "NaN", "Infinity", "-Infinity")


def parsed(conditions: Iterable[str]) -> dict[str, str]:
    """``field=value`` texts as a mapping. Raises :class:`InputError` for what has no ``=`` or names a field twice."""
    filters: dict[str, str] = {}
    for condition in conditions:
        field, equals, value = condition.partition("=")
        if not equals or field.strip() in filters:
            raise InputError(f"not a condition, or its field is given twice: {condition!r}", f"Write field=value; fields: {', '.join(FIELDS)}.")
        filters[field.strip()] = value
    return filters


def sql(filters: Mapping[str, str | float]) -> str | None:
    """The condition that all ``filters`` are met; None without any. ``*`` at an end of a value stands for anything. A ``source`` or ``document`` that
    does not begin with ``/`` or ``*`` may stand below any folder; either is found in whatever form of Unicode it is in. ``kind`` is the ending of
    the source's name, such as ``pdf``; ``metadata.NAME`` is what the user or the front matter gave, compared as text: a string, a number or a boolean
    as JSON writes it, and these may be given as such; of a list any element that is one of these. Raises
    :class:`UnknownNameError` for an unknown field and :class:`InputError` for a value that is no text.

    A value is only ever a quoted string: nothing in it is read as SQL.
    """
    parts = []
    for field, value in filters.items():
        name = field.removeprefix(METADATA) if isinstance(field, str) and field.startswith(METADATA) else ""
        if name and isinstance(value, int | float):
            value = json.dumps(value)
        if not name and field not in FIELDS:
            raise UnknownNameError.among("field", str(field), FIELDS)
        if not isinstance(value, str) or not value.strip("*"):
            raise InputError(f"filter {field}: expected a text, not {value!r}", "Write the value to look for; * at its ends stands for anything.")
        if len(field) + len(value) > LONGEST or not _encodable(field + value):
            raise InputError(f"filter {field[:40]!a}: too long, or not valid Unicode", f"Give at most {LONGEST:,} characters of clean text.")
        if name:
            parts.append(_in_metadata(name, value))
            continue
        if field == "kind":
            if "*" in value:
                raise InputError(f"filter kind: {value!r} is no ending of a file's name", "Give it whole, such as pdf; for patterns use source.")
            parts.append(f"ends_with(lower(source), {_quoted('.' + value.lower().lstrip('.'))})")
            continue
        ways = [value]
        if field in PATHS:
            # Files are stored with slashes everywhere.
            ways += [value.replace("\\", "/")] if sys.platform == "win32" and "\\" in value else []
            # And with their names in whatever form of Unicode those have.
            ways = list(dict.fromkeys([*ways, *(normalize(form, way) for way in ways for form in ("NFC", "NFD"))]))
            ways += [f"*/{way}" for way in ways if not way.startswith(("/", "*"))]
        parts.append(f"({' OR '.join(_like(field, way) for way in ways)})")
    return " AND ".join(parts) or None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _like(field: str, value: str) -> str:
    first, last, inner = value.startswith("*"), value.endswith("*"), _quoted(value.strip("*"))
    function = {(True, True): "contains", (False, True): "starts_with", (True, False): "ends_with"}.get((first, last))
    return f"{function}({field}, {inner})" if function else f"{field} = {inner}"


def _in_metadata(name: str, value: str) -> str:
    """The condition that metadata has a string, number or boolean ``name`` that reads like ``value``, or a list with such an element."""
    first, last, inner = value.startswith("*"), value.endswith("*"), value.strip("*")
    before, after = (_CHARS if first else ""), (_CHARS if last else "")
    wanted = [f'"{before}{_literal(_json(inner)[1:-1])}{after}"']
    if re.fullmatch(f"{_NUMERIC}+", inner):
        before, after = (f"{_NUMERIC}*" if first else ""), (f"{_NUMERIC}*" if last else "")
        wanted.append(f"{before}{_literal(inner)}{after}")
    as_text = re.compile(f"{'.*' if first else ''}{re.escape(inner)}{'.*' if last else ''}")
    wanted += [word for word in _WORDS if as_text.fullmatch(word)]
    key = f"{_json(name)}: "
    pattern = rf"^\{{(?:{_STRING}: {_any_value()}, )*{_literal(key)}(?:\[(?:{_any_value()}, )*)?(?:{'|'.join(wanted)})[,\]}}]"
    # The first is quick, and mostly enough to tell that it is not.
    return f"(contains(metadata, {_quoted(key)}) AND regexp_like(metadata, {_quoted(pattern)}))"


def _any_value() -> str:
    """The regular expression of a JSON value."""
    inside = rf'[^"\[\]{{}}]|{_STRING}'
    for _ in range(DEEPEST - 1):
        inside = rf'[^"\[\]{{}}]|{_STRING}|[\[{{](?:{inside})*[\]}}]'
    return rf'(?:[^"\[\]{{}},]+|{_STRING}|[\[{{](?:{inside})*[\]}}])'


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _literal(text: str) -> str:
    """A regular expression for just this text, as Rust's crate regex takes it: it refuses some of what ``re.escape`` does."""
    return re.sub(r"[\\.+*?()|\[\]{}^$#&~-]", r"\\\g<0>", text)


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
