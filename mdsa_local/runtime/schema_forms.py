"""JSON schemas with what holds at once joined: no references, no ``allOf``, each keyword that a grammar looks at said once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import unquote

from mdsa_local.errors import InputError

Form = dict[str, Any]
LEAST, MOST = ("minItems", "minLength", "minimum", "exclusiveMinimum"), ("maxItems", "maxLength", "maximum", "exclusiveMaximum")
COUNTS = "minItems", "minLength", "maxItems", "maxLength"
# What a grammar looks at.
HELD = (
    "type", "enum", "anyOf", "oneOf", "properties", "required", "additionalProperties", "prefixItems", "items", "format", "pattern", "multipleOf",
    *LEAST, *MOST,
)  # fmt: skip
# What no grammar holds; of values that are listed it decides which may be written.
CHECKED = (
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "patternProperties", "propertyNames", "minProperties",
    "maxProperties", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
# Anything else is a remark: a title, a default, definitions.
TOLD = frozenset((*HELD, *CHECKED, "const", "$ref", "allOf"))


def told(schema: Any) -> frozenset[str]:
    """The keywords by which a schema says something of values."""
    return TOLD.intersection(schema) if isinstance(schema, Mapping) else frozenset()


def validator_of(schema: Mapping[str, Any]) -> Any:
    """A validator of the draft that the schema names, which never fetches a reference. The schema itself is not checked."""
    import jsonschema
    import referencing
    from jsonschema.validators import validator_for

    # Without a registry jsonschema would open https:// references.
    return validator_for(schema, default=jsonschema.Draft202012Validator)(schema, registry=referencing.Registry())


class Forms:
    """The forms of a schema's parts."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def form(self, schema: Any, way: tuple[str, ...] = ()) -> Form | Literal[False]:
        """The form of ``schema``, False where nothing can follow it. Its ``allOf`` has what cannot be said together with the rest. ``way``: the
        references that led here. Raises :class:`InputError` for one that leads nowhere, or back to itself."""
        if isinstance(schema, bool):
            return {} if schema else False
        joined = _own(schema)
        parts = [(part, way) for part in schema.get("allOf", ())]
        if "$ref" in schema:
            pointer = str(schema["$ref"])
            if pointer in way:
                raise circular(pointer)
            parts.insert(0, (self.target(pointer), (*way, pointer)))
        for part, led in parts:
            form = self.form(part, led)
            if form is False or (both := _both(joined, form)) is False:
                return False
            joined = both
        return joined

    def target(self, pointer: str) -> Any:
        """What a reference leads to."""
        found: Any = self._root
        start, _, path = pointer.partition("#")
        if path and not path.startswith("/"):
            found, path = self._anchored(pointer), ""
        for part in filter(None, unquote(path).split("/")):
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = dict(enumerate(found)).get(int(key) if key.isdecimal() else -1)
            else:
                found = found.get(key) if isinstance(found, dict) else None
        if start or not isinstance(found, Mapping | bool):
            raise InputError(f"the schema's reference {pointer!r} leads nowhere", "References begin with # and stay within the schema.")
        return found

    def _anchored(self, reference: str) -> Any:
        """What has the ``$anchor`` that a reference names; None where nothing has it."""
        from referencing import Registry, Resource
        from referencing.exceptions import Unresolvable
        from referencing.jsonschema import DRAFT202012

        root = Resource.from_contents(self._root, default_specification=DRAFT202012)
        try:
            return Registry[Any]().resolver_with_root(root).lookup(reference).contents
        except Unresolvable:
            return None


def circular(pointer: str) -> InputError:
    """The error of a reference to what it is itself a part of, with no value in between."""
    where = f"reference {pointer!r} leads" if pointer else "references lead"
    return InputError(f"the schema's {where} back to itself without a property or item in between", "Refer to it from `properties` or `items` only.")


def _own(schema: Mapping[str, Any]) -> Form:
    """The form of what a schema says itself."""
    own = {key: schema[key] for key in HELD if key in schema}
    # JSON schemas take 5.0 for an integer.
    own |= {key: int(own[key]) for key in COUNTS if isinstance(own.get(key), float) and own[key].is_integer()}
    checked = {key: schema[key] for key in CHECKED if key in schema}
    if isinstance(own.get("type"), str):
        own["type"] = [own["type"]]
    if isinstance(own.get("items"), list):
        # As drafts before 2020-12 have it.
        own["prefixItems"] = own.pop("items")
        if "additionalItems" in schema:
            own["items"] = schema["additionalItems"]
    if "patternProperties" in checked and "additionalProperties" in own:
        # Of names that no pattern fits.
        checked |= {key: own[key] for key in ("properties", "additionalProperties") if key in own}
        del own["additionalProperties"]
    if checked:
        own["allOf"] = [checked]
    if "const" in schema:
        if "enum" in own:
            own["allOf"] = [*own.get("allOf", ()), {"enum": own["enum"]}]
        own["enum"] = [schema["const"]]
    return own


def _both(one: Form, other: Form) -> Form | Literal[False]:
    """The form of what follows both."""
    joined = {**one, **_members(one, other), **_items(one, other)}
    apart = list[Any]()
    for key, value in other.items():
        if key in ("properties", "additionalProperties", "prefixItems", "items"):
            continue
        if key not in one or _text(one[key]) == _text(value):
            joined[key] = value
        elif key == "type":
            joined[key] = _types(one[key], value)
            if not joined[key]:
                return False
        elif key == "required":
            joined[key] = list(dict.fromkeys((*one[key], *value)))
        elif key == "allOf":
            apart += value
        elif key in LEAST and not isinstance(value, bool):
            joined[key] = max(one[key], value)
        elif key in MOST and not isinstance(value, bool):
            joined[key] = min(one[key], value)
        else:
            apart.append({key: value})
    if apart:
        joined["allOf"] = _distinct((*joined.get("allOf", ()), *apart))
    return joined


def _members(one: Form, other: Form) -> Form:
    """``properties`` and ``additionalProperties``: where but one of the two names a property, the other holds for it by what it says of others."""
    joined: Form = {}
    if "properties" in one or "properties" in other:
        names = dict.fromkeys((*one.get("properties", ()), *other.get("properties", ())))
        joined["properties"] = {
            name: _all(*(form.get("properties", {}).get(name, form.get("additionalProperties", True)) for form in (one, other))) for name in names
        }
    if "additionalProperties" in one or "additionalProperties" in other:
        joined["additionalProperties"] = _all(one.get("additionalProperties", True), other.get("additionalProperties", True))
    return joined


def _items(one: Form, other: Form) -> Form:
    """``prefixItems`` and ``items``, likewise."""
    joined: Form = {}
    first = [form.get("prefixItems", ()) for form in (one, other)]
    rest = [form.get("items", True) for form in (one, other)]
    if size := max(map(len, first)):
        filled = [[*items, *[more] * (size - len(items))] for items, more in zip(first, rest, strict=True)]
        joined["prefixItems"] = [_all(*items) for items in zip(*filled, strict=True)]
    if "items" in one or "items" in other:
        joined["items"] = _all(*rest)
    return joined


def _types(one: list[str], other: list[str]) -> list[str]:
    shared = [kind for kind in one if kind in other or (kind == "integer" and "number" in other)]
    return [*shared, *(kind for kind in other if kind == "integer" and "number" in one and kind not in shared)]


def _all(*schemas: Any) -> Any:
    """A schema that says what each of them says. It is written alike however often the same are joined: of parts that contain themselves there are
    only so many, and each becomes one rule."""
    parts = list[Any]()
    for schema in schemas:
        if schema is False:
            return False
        parts += schema["allOf"] if told(schema) == {"allOf"} else [schema] if told(schema) else []
    parts = _distinct(parts)
    return {"allOf": parts} if len(parts) > 1 else parts[0] if parts else True


def _distinct(schemas: Iterable[Any]) -> list[Any]:
    return list({_text(schema): schema for schema in schemas}.values())


def _text(value: Any) -> str:
    # In Python True equals 1.
    return json.dumps(value)
