"""A grammar of the JSON texts that follow a JSON schema.

llama_cpp's own converter (llama_grammar.py, 0.3.36) is not used: it takes raw line ends inside strings for JSON, drops every other keyword
beside a list of types, mixes up definitions with equal last names, and ignores what it does not know. This one is exact about structure: types,
properties, what is required, items, enumerations, alternatives, lengths, common formats. Keywords that say more (``pattern``, ``minimum``,
``uniqueItems``, ``not`` ...) are left to the validation of the answer. Properties come in the schema's order, and only those it names unless it
says what others hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from os.path import commonprefix
from typing import Any, Literal

from mdsa_local.errors import InputError
from mdsa_local.runtime.grammar import Alt, Chars, Node, Ref, Repeat, Rules, Seq, chars

DIGIT, HEX = chars("0-9"), chars("0-9a-fA-F")
# At most one blank: given more, small models spend their tokens on indentation.
SPACE: Node = Repeat(" ", 0, 1)
ESCAPE: Node = Seq(("\\", Alt((chars('"\\/bfnrt'), Seq(("u", *[HEX] * 4))))))
CHAR: Node = Alt((Chars(((0x22, 0x22), (0x5C, 0x5C), (0x00, 0x1F), (0x7F, 0x7F)), True), ESCAPE))
INTEGER_DIGITS: Node = Alt(("0", Seq((chars("1-9"), Repeat(DIGIT, 0, 15)))))
COMMA, COLON = Seq((",", Ref("space"))), Seq((":", Ref("space")))
MINUS = Repeat("-", 0, 1)


def _number(sign: Node) -> Node:
    fraction = Repeat(Seq((".", Repeat(DIGIT, 1, 16))), 0, 1)
    exponent = Repeat(Seq((chars("eE"), Repeat(Alt(("+", "-")), 0, 1), Repeat(DIGIT, 1, 3))), 0, 1)
    return Seq((sign, INTEGER_DIGITS, fraction, exponent))


def _listed(item: Node, least: int = 0, most: int | None = None) -> Node:
    """``least`` to ``most`` items with commas between."""
    if most == 0:
        return ""
    several = Seq((item, Repeat(Seq((COMMA, item)), max(0, least - 1), None if most is None else most - 1)))
    return several if least else Repeat(several, 0, 1)


def _digits(low: str, high: str) -> Node:
    return chars(f"{low}-{high}")


_DATE = Seq((*[DIGIT] * 4, "-", Alt((Seq(("0", _digits("1", "9"))), Seq(("1", _digits("0", "2"))))), "-",
             Alt((Seq(("0", _digits("1", "9"))), Seq((_digits("1", "2"), DIGIT)), Seq(("3", _digits("0", "1")))))))  # fmt: skip
_HOUR = Alt((Seq((_digits("0", "1"), DIGIT)), Seq(("2", _digits("0", "3")))))
_SIXTY = Seq((_digits("0", "5"), DIGIT))
_TIME = Seq((_HOUR, ":", _SIXTY, ":", _SIXTY, Repeat(Seq((".", Repeat(DIGIT, 1, 6))), 0, 1), Alt(("Z", Seq((Alt(("+", "-")), _HOUR, ":", _SIXTY))))))
_UUID = Seq((Repeat(HEX, 8, 8), Repeat(Seq(("-", Repeat(HEX, 4, 4))), 3, 3), "-", Repeat(HEX, 12, 12)))
FORMATS: Mapping[str, Node] = {"date": _DATE, "time": _TIME, "date-time": Seq((_DATE, "T", _TIME)), "uuid": _UUID}
FREE: Rules = {
    "space": SPACE,
    "char": CHAR,
    "string": Seq(('"', Repeat(Ref("char")), '"')),
    "number": _number(MINUS),
    "integer": Seq((MINUS, INTEGER_DIGITS)),
    "boolean": Alt(("true", "false")),
    "null": "null",
    "member": Seq((Ref("string"), COLON, Ref("value"))),
    "object": Seq(("{", Ref("space"), _listed(Ref("member")), Ref("space"), "}")),
    "array": Seq(("[", Ref("space"), _listed(Ref("value")), Ref("space"), "]")),
    "value": Alt(tuple(map(Ref, ("object", "array", "string", "number", "boolean", "null")))),
}
# Branches in each other into which texts are parted by how they go on; llama.cpp goes into each by recursion.
MOST_BRANCHED = 50
TYPES = "object", "array", "string", "number", "integer", "boolean", "null"
# Keywords by which a schema without `type` shows which one it means.
TELLING = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def schema_rules(schema: Mapping[str, Any]) -> Rules:
    """The rules of a schema. Raises :class:`InputError` for a reference that leads nowhere, an unknown type, and what nothing can follow."""
    converter = _Converter(schema)
    root = converter.node(schema)
    return {"root": root, **FREE, **converter.rules}


class _Converter:
    """Holds the rules made so far, which references and long objects share."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.rules: dict[str, Node] = {}
        self._root = root
        self._names: dict[str, str] = {}

    def node(self, schema: Any) -> Node:
        if schema is False:
            raise InputError("the schema has a part that nothing can follow: false", "Remove it.")
        if schema is True or not schema:
            return Ref("value")
        if "$ref" in schema:
            return self._reference(str(schema["$ref"]))
        if "const" in schema:
            return _constant(schema["const"])
        if "enum" in schema:
            return _either([_constant(value) for value in schema["enum"]])
        for key in ("anyOf", "oneOf"):
            if key in schema:
                rest = {name: value for name, value in schema.items() if name != key}
                options = [merged for option in schema[key] if (merged := self._merged([rest, option])) is not False]
                return _either([self.node(option) for option in options]) if options else self.node(False)
        if "allOf" in schema:
            rest = {name: value for name, value in schema.items() if name != "allOf"}
            return self.node(self._merged([rest, *schema["allOf"]]))
        kind = schema.get("type") or next((name for name, keys in TELLING.items() if any(key in schema for key in keys)), "value")
        if isinstance(kind, list):
            return Alt(tuple(self.node({**schema, "type": each}) for each in kind))
        return self._typed(kind, schema)

    def _typed(self, kind: str, schema: Mapping[str, Any]) -> Node:
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string":
                return _string(schema)
            case "integer" | "number" if schema.get("minimum", -1) >= 0 or schema.get("exclusiveMinimum", -1) >= 0:
                return INTEGER_DIGITS if kind == "integer" else _number("")
            case "integer" | "number" | "boolean" | "null" | "value":
                return Ref(kind)
            case _:
                raise InputError(f"the schema has the unknown type {kind!r}", f"Types: {', '.join(TYPES)}.")

    def _reference(self, pointer: str) -> Node:
        if pointer not in self._names:
            self._names[pointer] = name = f"ref{len(self._names)}"
            self.rules[name] = self.node(self._target(pointer))
        return Ref(self._names[pointer])

    def _target(self, pointer: str) -> Any:
        found: Any = self._root
        start, _, path = pointer.partition("#")
        for part in filter(None, path.split("/")):
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = dict(enumerate(found)).get(int(key) if key.isdecimal() else -1)
            else:
                found = found.get(key) if isinstance(found, dict) else None
        if start or found is None:
            raise InputError(f"the schema's reference {pointer!r} leads nowhere", "References begin with # and stay within the schema.")
        return found

    def _merged(self, parts: Sequence[Any]) -> dict[str, Any] | Literal[False]:
        """One schema in place of several that hold at once, as far as their keywords can be joined; False when one of them is."""
        merged: dict[str, Any] = {}
        for part in parts:
            if part is False:
                return False
            if part is True:
                continue
            if "$ref" in part:
                part = {**self._target(str(part["$ref"])), **{key: value for key, value in part.items() if key != "$ref"}}
            for key, value in part.items():
                if key == "properties":
                    merged[key] = {**merged.get(key, {}), **value}
                elif key == "required":
                    merged[key] = [*merged.get(key, []), *value]
                elif key == "allOf":
                    joined = self._merged([merged, *value])
                    if joined is False:
                        return False
                    merged = joined
                else:
                    merged[key] = value
        return merged

    def _object(self, schema: Mapping[str, Any]) -> Node:
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        if not properties and others in (None, True):
            return Ref("object")
        required = set(schema.get("required", ()))
        members: list[tuple[Node, bool]] = [
            (Seq((_constant(name), COLON, self.node(part))), name in required) for name, part in properties.items() if part is not False
        ]
        more = Seq((_other_than([_constant(name)[1:-1] for name in properties]), COLON, self.node(others))) if others and others is not True else None
        return Seq(("{", Ref("space"), self._members(members, more), Ref("space"), "}"))

    def _members(self, members: Sequence[tuple[Node, bool]], more: Node | None) -> Node:
        """Members in order, the optional ones with or without. One rule a place, because alternatives written out would double with each."""
        tails: dict[bool, Node] = {False: Repeat(_listed(more, 1), 0, 1) if more else "", True: Repeat(Seq((COMMA, more))) if more else ""}
        for member, needed in reversed(members):
            opened: dict[bool, Node] = {}
            for started in (False, True):
                taken = Seq((*[COMMA] * started, member, tails[True]))
                name = f"tail{len(self.rules)}"
                self.rules[name] = taken if needed else Alt((taken, tails[started]))
                opened[started] = Ref(name)
            tails = opened
        return tails[False]

    def _named(self, node: Node) -> Node:
        """The node, as a rule of its own where it is long: written out twice, arrays in each other would double with each."""
        if isinstance(node, str | Chars | Ref):
            return node
        name = f"item{len(self.rules)}"
        self.rules[name] = node
        return Ref(name)

    def _array(self, schema: Mapping[str, Any]) -> Node:
        first = [self.node(part) for part in schema.get("prefixItems", ())]
        least, most, items = schema.get("minItems", 0), schema.get("maxItems"), schema.get("items", True)
        if not first:
            content = _listed(self._named(self.node(items)), least, most) if items is not False else ""
        else:
            # Tuples are written out whole.
            rest = None if "items" not in schema or items is False else Repeat(Seq((COMMA, self.node(items))), max(0, least - len(first)))
            content = Seq((first[0], *(Seq((COMMA, item)) for item in first[1:]), *([rest] if rest else [])))
        return Seq(("[", Ref("space"), content, Ref("space"), "]"))


def _string(schema: Mapping[str, Any]) -> Node:
    if schema.get("format") in FORMATS:
        return Seq(('"', FORMATS[schema["format"]], '"'))
    if "minLength" in schema or "maxLength" in schema:
        return Seq(('"', Repeat(Ref("char"), schema.get("minLength", 0), schema.get("maxLength")), '"'))
    return Ref("string")


def _other_than(names: Sequence[str]) -> Node:
    """Strings that are none of ``names``: the one kind of property for which a schema says that it is like no other."""
    return Seq(('"', _rest_other_than([name for name in names if "\\" not in name]), '"')) if names else Ref("string")


def _rest_other_than(rests: Sequence[str]) -> Node:
    following = sorted({rest[0] for rest in rests if rest})
    # No escape where they part, because it could write the same character in another way.
    others = Chars((*((ord(c), ord(c)) for c in following), (0x22, 0x22), (0x5C, 0x5C), (0x00, 0x1F), (0x7F, 0x7F)), True)
    ways: list[Node] = [Seq((others, Repeat(Ref("char"))))]
    ways += [Seq((c, _rest_other_than([rest[1:] for rest in rests if rest.startswith(c)]))) for c in following]
    return Alt(tuple(ways)) if "" in rests else Repeat(Alt(tuple(ways)), 0, 1)


def _either(nodes: Sequence[Node]) -> Node:
    """One of several. What texts among them begin with alike is written once: of 5000 names to choose from llama.cpp looks at each with every token
    of a vocabulary, which takes seconds a token."""
    texts = list(dict.fromkeys(node for node in nodes if isinstance(node, str)))
    return Alt((*_branches(texts), *(node for node in nodes if not isinstance(node, str))))


def _branches(texts: Sequence[str], depth: int = 0) -> Iterator[Node]:
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(text[:1], []).append(text)
    for group in groups.values():
        if len(group) == 1 or depth == MOST_BRANCHED:
            yield from group
            continue
        start = commonprefix(group)  # noqa: RUF071 - texts, no paths
        yield Seq((start, Alt(tuple(_branches([text[len(start) :] for text in group], depth + 1)))))


def _constant(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
