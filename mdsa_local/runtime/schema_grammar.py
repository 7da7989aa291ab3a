"""A grammar of the JSON texts that follow a JSON schema.

llama_cpp's own converter (llama_grammar.py, 0.3.36) is not used: it takes raw line ends inside strings for JSON, drops every other keyword
beside a list of types, mixes up definitions with equal last names, and ignores what it does not know. This one is exact about structure: types,
properties, what is required, items, enumerations, alternatives, lengths, common formats. Keywords that say more (``pattern``, ``minimum``,
``uniqueItems``, ``not`` ..., and that ``oneOf`` is not two) are left to the validation of the answer; of values that are listed only those remain
that follow everything beside them. Properties come in the schema's order, and only those it names or requires unless it says what others hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from os.path import commonprefix
from typing import Any, Literal, TypeGuard

from mdsa_local.errors import InputError
from mdsa_local.runtime.grammar import Alt, Chars, Node, Ref, Repeat, Rules, Seq, begins_with_itself, chars, productive
from mdsa_local.runtime.schema_forms import Form, Forms, circular, told, validator_of

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
# Rules for objects with members in common, from where on each is written for itself: which have what in common may be different with each member.
MOST_SHARED = 5000
TYPES = "object", "array", "string", "number", "integer", "boolean", "null"
# Keywords by which a schema without `type` shows which one it means.
TELLING = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def schema_rules(schema: Mapping[str, Any]) -> Rules:
    """The rules of a schema. Raises :class:`InputError` for a reference that leads nowhere or back to itself, an unknown type, what nothing can
    follow, and what is too deep."""
    try:
        return _Converter(schema).convert()
    except RecursionError:
        raise InputError("the JSON schema is too deep to be followed, or its references are", "Make it flatter, with fewer in a row.") from None


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """The members of an object: of each a text that no other has, its name, its schema and whether it is required; and those of other names."""

    members: tuple[tuple[str, str, Any, bool], ...]
    more: Node | None


class _Converter:
    """Holds the rules made so far, which references and long objects share."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.rules: dict[str, Node] = {}
        self._root = root
        self._forms = Forms(root)
        # Of references, of forms as they are written, because a schema may contain what it is itself joined with, and of rests of names.
        self._names: dict[str, str] = {}
        self._pending: list[tuple[str, Callable[[], Node]]] = []
        self._refused: list[str] = []
        # Of objects, of what may follow in each of several from a member on, and of members: each is written once.
        self._shapes: dict[str, _Shape] = {}
        self._tails: dict[tuple[tuple[_Shape, ...], int, bool], str] = {}
        self._written_members: dict[str, Node] = {}

    def convert(self) -> Rules:
        """The rules of the whole schema."""
        root = self.node(self._root)
        # One after the other: in each other, long chains of references would be too deep for Python.
        while self._pending:
            name, make = self._pending.pop()
            self.rules[name] = make()
        rules: Rules = {"root": root, **FREE, **self.rules}
        if name := begins_with_itself(rules):
            raise circular(next((key for key, named in self._names.items() if named == name and not key.startswith("{")), ""))
        rules = productive(rules)
        if "root" not in rules:
            reason = self._refused[0] if self._refused else "a part of it is required in itself, without end"
            raise InputError(f"nothing can follow the schema: {reason}", "Loosen it.")
        return rules

    def node(self, schema: Any) -> Node:
        """What follows ``schema``."""
        if schema is False:
            return self._nothing("false")
        match sorted(told(schema)):
            case []:
                return Ref("value")
            case ["$ref"]:
                pointer = str(schema["$ref"])
                target = self._forms.target(pointer)
                return self._rule(pointer, lambda: self.node(target))
            case ["allOf"] if len(said := [part for part in schema["allOf"] if part is False or told(part)]) == 1:
                return self.node(said[0])
        form = self._forms.form(schema)
        if form is False:
            return self._nothing(f"types or parts that rule each other out, or false, in {json.dumps(schema)[:200]}")
        if "enum" in form:
            return self._listed_values(form)
        if "$ref" in schema or "allOf" in schema:
            return self._rule(json.dumps(form), lambda: self._written(form))
        return self._written(form)

    @cached_property
    def _validator(self) -> Any:
        return validator_of(self._root)

    def _rule(self, key: str, make: Callable[[], Node]) -> Node:
        if key not in self._names:
            self._names[key] = name = f"ref{len(self._names)}"
            self._pending.append((name, make))
        return Ref(self._names[key])

    def _nothing(self, reason: str) -> Node:
        self._refused.append(reason)
        return Alt(())

    def _listed_values(self, form: Form) -> Node:
        """Those of the values listed that follow the rest."""
        rest, values = {key: value for key, value in form.items() if key != "enum"}, form["enum"]
        if rest:
            from referencing.exceptions import Unresolvable

            try:
                right = self._validator.evolve(schema=rest)
                values = [value for value in values if right.is_valid(value)]
            except Unresolvable as error:
                raise InputError(f"the JSON schema refers to what is not in it: {error}", "References begin with # and stay within it.") from None
            except RecursionError:
                raise circular("") from None
        if not values:
            return self._nothing(f"none of the values listed follows the rest: {json.dumps(form)[:200]}")
        return _constant(values[0]) if len(values) == 1 else _either([_constant(value) for value in values])

    def _written(self, form: Form) -> Node:
        for key in ("anyOf", "oneOf"):
            if key in form:
                rest = {name: value for name, value in form.items() if name != key}
                return self._one_of([{"allOf": [rest, option]} if rest else option for option in form[key]])
        nodes = tuple(self._typed(kind, form) for kind in _kinds(form))
        return nodes[0] if len(nodes) == 1 else Alt(nodes)

    def _one_of(self, options: Sequence[Any]) -> Node:
        forms = [self._forms.form(option) for option in options]
        objects = [form for form in forms if _of_members(form)]
        if len(objects) < 2:
            return _either([self.node(option) for option in options])
        others = (self.node(option) for option, form in zip(options, forms, strict=True) if not _of_members(form))
        return _either([self._objects(objects), *others])

    def _typed(self, kind: str, form: Form) -> Node:
        match kind:
            case "object":
                return self._object(form)
            case "array":
                return self._array(form)
            case "string":
                return self._string(form)
            case "integer" | "number" if any(_from_zero(form.get(key)) for key in ("minimum", "exclusiveMinimum")):
                return INTEGER_DIGITS if kind == "integer" else _number("")
            case "integer" | "number" | "boolean" | "null" | "value":
                return Ref(kind)
            case _:
                raise InputError(f"the schema has the unknown type {kind!r}", f"Types: {', '.join(TYPES)}.")

    def _object(self, form: Form) -> Node:
        return Ref("object") if _any_object(form) else self._objects([form])

    def _objects(self, forms: Sequence[Form]) -> Node:
        """Objects by one of several forms."""
        shapes = tuple(dict.fromkeys(filter(None, map(self._shape, forms))))
        return Seq(("{", Ref("space"), self._members(shapes, 0, False), Ref("space"), "}")) if shapes else Alt(())

    def _shape(self, form: Form) -> _Shape | None:
        """The members of an object; None where nothing can be one."""
        properties, required, others = form.get("properties", {}), form.get("required", ()), form.get("additionalProperties", True)
        key = json.dumps([properties, required, others])
        if key in self._shapes:
            return self._shapes[key]
        named = {**properties, **{name: others for name in required if name not in properties}}
        for name, part in named.items():
            if part is False and name in required:
                self._refused.append(f"the property {name!r} is required, but not allowed")
                return None
        more: Node | None = None
        if others is not False and not (_anything(others) and properties):
            more = Seq((self._other_than([_constant(name)[1:-1] for name in named]), COLON, self.node(others)))
        members = tuple((_constant(name) + _remarkless(part), name, part, name in required) for name, part in named.items() if part is not False)
        self._shapes[key] = _Shape(members, more)
        return self._shapes[key]

    def _members(self, shapes: tuple[_Shape, ...], at: int, started: bool) -> Node:
        """The members of objects from a place on, in order, the optional ones with or without. One rule a place, because alternatives written out
        would double with each; what several objects have in common there is written once, because in objects within each other llama.cpp would
        have twice as many ways to follow with each level."""
        if all(at == len(shape.members) for shape in shapes):
            return _ends(shapes, started)
        key = shapes, at, started
        if key not in self._tails:
            self._tails[key] = f"tail{len(self._tails)}"
            self._pending.append((self._tails[key], partial(self._tail, *key)))
        return Ref(self._tails[key])

    def _tail(self, shapes: tuple[_Shape, ...], at: int, started: bool) -> Node:
        if len(shapes) > 1 and len(self._tails) > MOST_SHARED:
            return Alt(tuple(self._members((shape,), at, started) for shape in shapes))
        following: dict[str, list[_Shape]] = {}
        ended, without = [], []
        for shape in shapes:
            if at == len(shape.members):
                ended.append(shape)
                continue
            key, _, part, needed = shape.members[at]
            following.setdefault(key, []).append(shape)
            # What tells objects apart is written, because without it they might go on alike.
            if not needed and not (len(shapes) > 1 and "const" in told(part)):
                without.append(shape)
        rest = [self._members(tuple(without), at + 1, started)] if without else []
        taken = [self._taken(key, tuple(group), at, started) for key, group in following.items()]
        ways = (*taken, *rest, *([_ends(ended, started)] if ended else []))
        return ways[0] if len(ways) == 1 else Alt(ways)

    def _taken(self, key: str, shapes: tuple[_Shape, ...], at: int, started: bool) -> Node:
        """A member, and those behind it."""
        if key not in self._written_members:
            _, name, part, _ = shapes[0].members[at]
            self._written_members[key] = Seq((_constant(name), COLON, self.node(part)))
        return Seq((*[COMMA] * started, self._written_members[key], self._members(shapes, at + 1, True)))

    def _other_than(self, names: Sequence[str]) -> Node:
        """Strings that are none of ``names``: the one kind of property for which a schema says that it is like no other."""
        return Seq(('"', self._rest_other_than([name for name in names if "\\" not in name]), '"')) if names else Ref("string")

    def _rest_other_than(self, rests: Sequence[str]) -> Node:
        """One rule a character, because in each other those of a long name would be too deep."""
        following: dict[str, list[str]] = {}
        for rest in sorted(filter(None, rests)):
            following.setdefault(rest[0], []).append(rest[1:])
        # No escape where they part, because it could write the same character in another way.
        others = Chars((*((ord(c), ord(c)) for c in following), (0x22, 0x22), (0x5C, 0x5C), (0x00, 0x1F), (0x7F, 0x7F)), True)
        ways: list[Node] = [Seq((others, Repeat(Ref("char"))))]
        ways += [Seq((c, self._rule(json.dumps(after), partial(self._rest_other_than, after)))) for c, after in following.items()]
        return Alt(tuple(ways) if "" in rests else (*ways, ""))

    def _named(self, node: Node) -> Node:
        """The node, as a rule of its own where it is long: written out twice, arrays in each other would double with each."""
        if isinstance(node, str | Chars | Ref):
            return node
        name = f"item{len(self.rules)}"
        self.rules[name] = node
        return Ref(name)

    def _array(self, form: Form) -> Node:
        least, most = form.get("minItems", 0), form.get("maxItems")
        if most is not None and most < least:
            return self._nothing(f"minItems {least} is above maxItems {most}")
        first = [self.node(part) for part in form.get("prefixItems", ())[:most]]
        items = form.get("items", True)
        if not first:
            content = _listed(self._named(self.node(items)), least, most)
        else:
            # Tuples are written out whole, and behind them nothing that the schema does not ask for or speak of.
            more, left = max(0, least - len(first)), None if most is None else most - len(first)
            asked = more or ("items" in form and items is not False and left != 0)
            rest = [Repeat(Seq((COMMA, self._named(self.node(items)))), more, left)] if asked else []
            content = Seq((first[0], *(Seq((COMMA, item)) for item in first[1:]), *rest))
        return Seq(("[", Ref("space"), content, Ref("space"), "]"))

    def _string(self, form: Form) -> Node:
        least, most = form.get("minLength", 0), form.get("maxLength")
        if most is not None and most < least:
            return self._nothing(f"minLength {least} is above maxLength {most}")
        if form.get("format") in FORMATS:
            return Seq(('"', FORMATS[form["format"]], '"'))
        return Seq(('"', Repeat(Ref("char"), least, most), '"')) if least or most is not None else Ref("string")


def _kinds(form: Form) -> Sequence[str]:
    """The types of a form, told by other keywords where it says none."""
    kinds: Sequence[str] = form.get("type") or [next((name for name, keys in TELLING.items() if any(key in form for key in keys)), "value")]
    return kinds


def _anything(schema: Any) -> bool:
    return schema is not False and not told(schema)


def _remarkless(schema: Any) -> str:
    """What a schema says of values, as a text."""
    return json.dumps({key: schema[key] for key in sorted(schema) if key in told(schema) or key == "additionalItems"} if told(schema) else {})


def _any_object(form: Form) -> bool:
    return not form.get("properties") and not form.get("required") and _anything(form.get("additionalProperties", True))


def _of_members(form: Form | Literal[False]) -> TypeGuard[Form]:
    """Whether what follows a form are objects, and of which members."""
    return form is not False and not form.keys() & {"enum", "anyOf", "oneOf"} and list(_kinds(form)) == ["object"] and not _any_object(form)


def _ends(shapes: Sequence[_Shape], started: bool) -> Node:
    """What may be behind the last of the members that objects name."""
    ends = [_end(more, started) for more in dict.fromkeys(shape.more for shape in shapes)]
    return ends[0] if len(ends) == 1 else Alt(tuple(ends))


def _end(more: Node | None, started: bool) -> Node:
    if more is None:
        return ""
    return Repeat(Seq((COMMA, more))) if started else Repeat(_listed(more, 1), 0, 1)


def _from_zero(least: Any) -> bool:
    # In draft 4 `exclusiveMinimum` says yes or no.
    return least is not None and not isinstance(least, bool) and least >= 0


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
