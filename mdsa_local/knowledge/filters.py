"""Conditions on what passages came from, as the SQL that LanceDB takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mdsa_local.errors import InputError, UnknownNameError

# Each is a column, or made of one.
FIELDS = ("document", "source", "title", "kind")


def parsed(conditions: Iterable[str]) -> dict[str, str]:
    """``field=value`` texts as a mapping. Raises :class:`InputError` for what has no ``=`` or names a field twice."""
    filters: dict[str, str] = {}
    for condition in conditions:
        field, equals, value = condition.partition("=")
        if not equals or field.strip() in filters:
            raise InputError(f"not a condition, or its field is given twice: {condition!r}", f"Write field=value; fields: {', '.join(FIELDS)}.")
        filters[field.strip()] = value
    return filters


def sql(filters: Mapping[str, str]) -> str | None:
    """The condition that all ``filters`` are met; None without any. ``*`` at an end of a value stands for anything; ``kind`` is the ending of the
    source's name, such as ``pdf``. Raises :class:`UnknownNameError` for an unknown field and :class:`InputError` for a value that is no text.

    A value is only ever a quoted string: nothing in it is read as SQL.
    """
    parts = []
    for field, value in filters.items():
        if field not in FIELDS:
            raise UnknownNameError.among("field", field, FIELDS)
        if not isinstance(value, str) or not value.strip("*"):
            raise InputError(f"filter {field}: expected a text, not {value!r}", "Write the value to look for; * at its ends stands for anything.")
        if field == "kind":
            parts.append(f"ends_with(lower(source), {_quoted('.' + value.lower().lstrip('.'))})")
            continue
        first, last, inner = value.startswith("*"), value.endswith("*"), _quoted(value.strip("*"))
        function = {(True, True): "contains", (False, True): "starts_with", (True, False): "ends_with"}.get((first, last))
        parts.append(f"{function}({field}, {inner})" if function else f"{field} = {inner}")
    return " AND ".join(parts) or None


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
