"""Grammars of JSON schemas: what they let through is valid, for llama.cpp and for the follower alike."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsa_local.errors import InputError
from mdsa_local.runtime.backend import Backend
from mdsa_local.runtime.gbnf import MOST_NESTED
from mdsa_local.runtime.grammar import Alt, Chars, Follower, Node, Ref, Repeat, Rules, Seq, chars, gbnf
from mdsa_local.runtime.schema_forms import validator_of
from mdsa_local.runtime.schema_grammar import schema_rules

ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 0},
        "status": {"enum": ["open", "closed", None]},
        "note": {"type": ["string", "null"]},
        "when": {"type": "string", "format": "date"},
        "lines": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"$ref": "#/$defs/line"}},
    },
    "required": ["id", "lines"],
    "additionalProperties": False,
    "$defs": {"line": {"type": "object", "properties": {"sku": {"type": "string", "minLength": 2, "maxLength": 4}}, "required": ["sku"]}},
}
SCHEMAS: dict[str, Any] = {
    "order": ORDER,
    "anything": {},
    "free object": {"type": "object"},
    "true": {"type": "array", "items": True},
    "types beside an enumeration": {"type": ["string", "null"], "enum": ["a", None]},
    "types beside properties": {"type": ["object", "null"], "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
    "optional members": {"properties": {name: {"type": "null"} for name in "abc"}, "additionalProperties": False},
    "other members": {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
    "other members of like names": {"properties": {"a": {"type": "null"}, "a\"": {"type": "null"}, "aZ": True}, "additionalProperties": {"const": 1}},
    "only other members": {"type": "object", "additionalProperties": {"type": "number"}},
    "alternatives": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    "alternatives beside properties": {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}},
        "required": ["kind"],
        "anyOf": [{"properties": {"x": {"type": "integer"}}, "required": ["x"]}, {"properties": {"y": {"type": "null"}}, "required": ["y"]}],
    },
    "all of": {"allOf": [{"$ref": "#/$defs/a"}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}],
               "$defs": {"a": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}}},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
    "tuple and more": {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 1},
    "equal last names": {
        "type": "array", "prefixItems": [{"$ref": "#/$defs/a/x"}, {"$ref": "#/$defs/b/x"}], "items": False,
        "$defs": {"a": {"x": {"type": "integer"}}, "b": {"x": {"type": "string"}}},
    },
    "recursion": {
        "$ref": "#/$defs/tree",
        "$defs": {"tree": {"properties": {"v": {"type": "integer"}, "left": {"$ref": "#/$defs/tree"}}, "required": ["v"]}},
    },
    "awkward names": {"type": "object", "properties": {'q"uo\\te': {"type": "null"}, "[^-]": {"type": "null"}, "ü\n": {"type": "null"}},
                      "required": ['q"uo\\te', "[^-]", "ü\n"], "additionalProperties": False},
    "formats": {"type": "array", "prefixItems": [{"format": name} for name in ("date", "time", "date-time", "uuid")], "items": False},
    "constant": {"const": {"a": [1, "x"]}},
    "numbers": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    "no items": {"type": "array", "maxItems": 0},
    "escaped pointer": {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}},
    "recursive optional": {
        "$ref": "#/$defs/node", "$defs": {"node": {
            "properties": {"v": {"type": "integer"}, "child": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}], "default": None}},
            "required": ["v"]}}},
    "optional root": {"properties": {"n": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["n"]},
    "described reference": {"properties": {"n": {"allOf": [{"$ref": "#"}], "description": "another"}, "v": {"type": "null"}}},
    "recursion beside keywords": {
        "properties": {"n": {"$ref": "#", "required": ["v"]}, "v": {"type": "null"},
                       "m": {"anyOf": [{"$ref": "#"}, {"type": "null"}], "required": ["n"]}},
    },
    "recursions joined": {
        "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {"a": {"properties": {"c": {"$ref": "#/$defs/a"}, "x": {"type": "integer"}}, "required": ["x"]},
                  "b": {"properties": {"c": {"$ref": "#/$defs/b"}, "y": {"type": "null"}}, "required": ["y"], "type": "object"}},
    },
    "others are anything": {"type": "object", "additionalProperties": {}},
    "others are described": {"type": "object", "additionalProperties": {"title": "any"}},
    "others by pattern": {"type": "object", "patternProperties": {"^x": {}}, "additionalProperties": {"type": "null"}, "minProperties": 0,
                          "properties": {"a": {"type": "null"}}},
    "required without a name": {"properties": {"a": {"type": "integer"}}, "required": ["a", "b"]},
    "required of no properties": {"type": "object", "required": ["b"]},
    "required of others": {"properties": {"a": {"type": "integer"}}, "required": ["b"], "additionalProperties": {"type": "null"}},
    "draft 7 tuple": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "string"}, {"type": "integer"}],
                      "minItems": 4, "additionalItems": {"type": "null"}},
    "draft 4 minimum": {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer", "maximum": 10**16},
    "references in a row": {
        "allOf": [{"$ref": "#/$defs/a"}, {"properties": {"c": {"type": "integer"}}, "required": ["c"]}],
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}},
    },
    "enumeration beside a type": {"type": ["integer", "null"], "enum": ["a", 1, None, 2]},
    "enumeration beside alternatives": {"enum": ["a", "b", 1, 2], "anyOf": [{"const": "b"}, {"type": "integer"}]},
    "enumeration beside a constant": {"const": 1, "enum": [True, 1]},
    "enumeration beside a reference": {"$ref": "#/$defs/a", "enum": ["x", "y", 1], "$defs": {"a": {"type": "string"}}},
    "enumeration beside what is not held": {"enum": ["x", "xx", "y"], "pattern": "x", "not": {"const": "xx"}},
    "two enumerations": {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]},
    "type beside alternatives": {"type": "string", "anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}], "minLength": 1},
    "alternatives twice": {"anyOf": [{"type": "string"}, {"type": "integer"}], "oneOf": [{"const": "x"}, {"const": 3}, {"const": None}]},
    "all of one property": {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"a": {"minimum": 0}}}], "required": ["a"]},
    "all of numbers": {"allOf": [{"type": ["number", "string"]}, {"type": ["integer", "null"]}]},
    "all of tuples": {"type": "array", "allOf": [{"prefixItems": [{"type": "integer"}]}, {"items": {"minimum": 0}, "minItems": 2}]},
    "all of lengths": {"allOf": [{"type": "string", "minLength": 1, "maxLength": 9}, {"minLength": 2, "maxLength": 3}]},
    "what cannot be is left out": {"properties": {"a": {"anyOf": [False]}, "b": {"type": "null"}, "c": {"type": "array", "items": False}}},
    "alternatives that cannot be": {"anyOf": [{"type": "object", "required": ["a"], "additionalProperties": False}, {"type": "integer"},
                                              {"type": "string", "minLength": 2, "maxLength": 1}]},
    "whole numbers with a point": {
        "type": "array", "prefixItems": [{"type": "string", "minLength": 1.0, "maxLength": 5.0}], "minItems": 2.0, "maxItems": 3.0,
        "items": {"type": "array", "prefixItems": [{"type": "null"}, {"type": "null"}], "maxItems": 2.0},
    },
    "others beside long names": {"properties": {"a" * 40: {"type": "null"}, "a" * 300: {"type": "null"}}, "additionalProperties": {"const": 1}},
    "an anchor": {"properties": {"a": {"$ref": "#part"}}, "$defs": {"a": {"$anchor": "part", "type": "integer"}}},
    "an anchor of draft 7": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": {"$ref": "#part"},
                             "definitions": {"a": {"$id": "#part", "type": "integer"}}},
    "alternatives that begin alike": {
        "$ref": "#/$defs/e",
        "$defs": {
            "and": {"properties": {"left": {"$ref": "#/$defs/e"}, "op": {"const": "and"}, "x": {"type": "null"}}, "required": ["left", "op"]},
            "e": {"anyOf": [
                {"$ref": "#/$defs/and"},
                {"properties": {"left": {"$ref": "#/$defs/e"}, "op": {"const": "or"}}, "required": ["op"], "additionalProperties": {"const": 1}},
                {"properties": {"left": {"$ref": "#/$defs/e"}}, "required": ["left"]},
                {"properties": {"left": {"$ref": "#/$defs/nothing"}}, "required": ["left"]},
                {"type": "string"}]},
            "nothing": False},
    },
    "items beyond the most": {"type": "array", "prefixItems": [{"type": "null"}, {"type": "null"}], "maxItems": 1, "items": {"type": "integer"}},
}  # fmt: skip
# Of these there is but one text.
SINGLE = "constant", "no items", "escaped pointer", "enumeration beside a constant", "enumeration beside what is not held", "items beyond the most"


LEAVES = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8)


def sample(rules: Rules, node: Node, rng: random.Random, depth: int = 0) -> str:
    """A random text of the grammar; short where it nests deeply."""
    match node:
        case str():
            return node
        case Chars(_, negated):
            return rng.choice([c for c in ('a Zé\U0001f600"\\\n\x7f' if negated else '"\\/bfnrt0123456789abcdefABCDEF+-e.E') if node.has(c)])
        case Seq(items):
            return "".join(sample(rules, item, rng, depth) for item in items)
        case Alt(items):
            return sample(rules, items[-1] if depth > 12 else rng.choice(items), rng, depth)
        case Repeat(item, least, most):
            most = least + 2 if most is None else min(most, least + 2)
            return "".join(sample(rules, item, rng, depth) for _ in range(least if depth > 12 else rng.randint(least, most)))
        case Ref(name):
            return sample(rules, rules[name], rng, depth + 1)


def short(rules: Rules, rng: random.Random) -> str:
    """A random text of the grammar that ends, also where a rule leads back to itself in its last alternative."""
    depths: dict[str, int] = {}

    def depth(node: Node) -> int:
        match node:
            case Seq(items):
                return max(map(depth, items), default=0)
            case Alt(items):
                return min(map(depth, items))
            case Repeat(item, least):
                return depth(item) if least else 0
            case Ref(name):
                return depths.get(name, 10**6)
        return 0

    while (new := {name: depth(node) + 1 for name, node in rules.items()}) != depths:
        depths |= new

    def write(node: Node, left: int) -> str:
        match node:
            case Alt(items) if left <= 0:
                return write(min(items, key=depth), left)
            case Alt(items):
                return write(rng.choice(items), left)
            case Seq(items):
                return "".join(write(item, left) for item in items)
            case Repeat(item, least, most):
                times = rng.randint(least, least + 1 if most is None else min(most, least + 1)) if left > 0 else least
                return "".join(write(item, left) for _ in range(times))
            case Ref(name):
                return write(rules[name], left - 1)
        return sample(rules, node, rng)

    return write(Ref("root"), 12)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_a_grammar_writes_follows_the_schema(name: str) -> None:
    schema = SCHEMAS[name]
    rules = schema_rules(schema)
    seen = set()
    for seed in range(60):
        text = sample(rules, Ref("root"), random.Random(seed))
        value = json.loads(text)
        validator_of(schema).validate(value)
        seen.add(text)
        follower = Follower(rules)
        assert follower.accepts(text), text
        follower.feed(text)
        assert follower.may_end
    single = (
        "constant",
        "no items",
        "escaped pointer",
        "enumeration beside a constant",
        "enumeration beside what is not held",
        "items beyond the most",
    )
    assert len(seen) > 1 or name in single


@pytest.mark.parametrize("name", SCHEMAS)
def test_llama_cpp_takes_the_grammar(name: str, nano: Backend) -> None:
    from mdsa_local.domains.config import Generation
    from mdsa_local.runtime.backend import Message

    list(nano.stream([Message("user", "hi")], Generation(grammar=gbnf(schema_rules(SCHEMAS[name])), max_tokens=3), deadline_s=60))


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "[]",
        '{"id": -1, "lines": [{"sku": "ab"}]}',
        '{"lines": [{"sku": "ab"}], "id": 1}',
        '{"id": 1, "lines": []}',
        '{"id": 1, "lines": [{"sku": "a"}]}',
        '{"id": 1, "status": "lost", "lines": [{"sku": "ab"}]}',
        '{"id": 1, "when": "2026-13-01", "lines": [{"sku": "ab"}]}',
        '{"id": 1, "lines": [{"sku": "ab"}], "more": 1}',
        '{"id": 1, "note": "a\nb", "lines": [{"sku": "ab"}]}',
        '{"id": 1,' + " " * 30 + '"lines": [{"sku": "ab"}]}',
    ],
)
def test_what_the_schema_forbids_cannot_be_written(wrong: str) -> None:
    follower = Follower(schema_rules(ORDER))
    assert not follower.may_end
    if follower.accepts(wrong):
        follower.feed(wrong)
        assert not follower.may_end


def test_following_token_by_token() -> None:
    follower = Follower(schema_rules({"enum": ["aa", "ab"]}))
    for piece in ('"', "a"):
        assert follower.accepts(piece)
        assert not follower.accepts("x")
        follower.feed(piece)
    assert not follower.may_end
    follower.feed('b"')
    assert follower.may_end
    assert follower.must_end


NAMES = [f"product {n * 7919 % 100_003}" for n in range(5000)]


@pytest.mark.parametrize("schema", [{"enum": [*NAMES, 7, None]}, {"anyOf": [{"const": value} for value in (*NAMES, 7, None)]}], ids=["enum", "anyOf"])
def test_a_choice_among_thousands_is_followed_along_few_ways(schema: dict[str, Any]) -> None:
    """llama.cpp looks at each of them with each token of a vocabulary."""
    rules = schema_rules(schema)
    for value in (NAMES[0], NAMES[42], NAMES[-1], 7, None):
        follower = Follower(rules)
        for character in json.dumps(value):
            assert len(follower._stacks) < 20
            follower.feed(character)
        assert follower.may_end
    assert not Follower(rules).accepts('"product x')


@pytest.mark.parametrize(
    ("members", "required"), [("left op right", "left op"), ("left op right", "op"), ("kind left op right", "left"), ("kind left op right", "kind")]
)
def test_alternatives_that_begin_alike_are_followed_along_few_ways(members: str, required: str) -> None:
    """They contain themselves: of alternatives apart from each other the ways would be as many as their number to the power of the depth."""

    def one(op: str) -> dict[str, Any]:
        properties = {name: {"const": op} if name in ("kind", "op") else {"$ref": "#/$defs/e"} for name in members.split()}
        return {"type": "object", "properties": properties, "required": required.split()}

    names = {f"n{n}": one(op) for n, op in enumerate(("and", "or", "<", "=", ">"))}
    schema = {"$ref": "#/$defs/e", "$defs": {**names, "e": {"anyOf": [*({"$ref": f"#/$defs/{name}"} for name in names), {"type": "string"}]}}}
    follower = Follower(schema_rules(schema))
    kind = '"kind":"<",' if "kind" in members else ""
    for character in f'{{{kind}"left":' * 12 + '"x"' + ',"op":"<","right":"y"}' * 12:
        assert len(follower._stacks) < 20
        follower.feed(character)
    assert follower.may_end


def test_objects_with_ever_other_members_in_common_are_a_bounded_grammar() -> None:
    rng = random.Random(3)
    parts = [{"properties": {f"{rng.choice('ab')}{n}": {"type": "null"} for n in range(20)}, "required": [f"x{k}"]} for k in range(60)]
    assert len(schema_rules({"type": "object", "anyOf": parts})) < 10_000


def test_texts_that_go_on_from_each_other_nest_no_deeper_than_llama_cpp_goes() -> None:
    rules = schema_rules({"enum": ["a" * n for n in range(1000)]})
    text = gbnf(rules)
    depths = accumulate((character == "(") - (character == ")") for character in text)
    assert max(depths) < MOST_NESTED
    follower = Follower(rules)
    follower.feed(f'"{"a" * 999}"')
    assert follower.may_end


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"$ref": "https://example.com/x"}, "nowhere"),
        ({"$ref": "#part", "part": {}}, "'#part' leads nowhere"),
        ({"$schema": "https://example.com/x", "$ref": "#part"}, "'#part' leads nowhere"),
        ({"properties": {"a": {"anyOf": [False]}}, "required": ["a"]}, "nothing can follow the schema: false"),
        ({"properties": {"a": {"type": "null"}}, "required": ["a", "b"], "additionalProperties": False}, "'b' is required, but not allowed"),
        ({"$ref": "#"}, "'#' leads back to itself"),
        ({"allOf": [{"$ref": "#"}]}, "'#' leads back to itself"),
        ({"allOf": [{"$ref": "#"}, {"type": "null"}]}, "'#' leads back to itself"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "'#' leads back to itself"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}], "minLength": 1}, "back to itself"),
        ({"enum": [1], "anyOf": [{"$ref": "#"}]}, "lead back to itself"),
        ({"enum": [1], "anyOf": [{"$ref": "#/nowhere"}]}, "not in it"),
        ({"properties": {"n": {"$ref": "#"}}, "required": ["n"]}, "without end"),
        ({"type": "string", "enum": [1, None]}, "none of the values"),
        ({"type": "string", "allOf": [{"type": "null"}]}, "rule each other out"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, "minItems"),
        ({"type": "array", "minItems": 2, "prefixItems": [True], "items": False}, "false"),
    ],
)
def test_what_cannot_be_followed_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        schema_rules(schema)


def test_references_too_deep_for_python_are_refused() -> None:
    parts: dict[str, Any] = {f"m{n}": {"$ref": f"#/$defs/m{n + 1}", "title": str(n)} for n in range(2000)}
    with pytest.raises(InputError, match="too deep"):
        schema_rules({"$ref": "#/$defs/m0", "minLength": 1, "$defs": {**parts, "m2000": {"type": "string"}}})


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (SCHEMAS["others beside long names"], [f'{{"{"a" * 299}":1}}', f'{{"{"a" * 301}":1}}'], [f'{{"{"a" * 300}":1}}']),
        (
            SCHEMAS["alternatives that begin alike"],
            ['{"left":{"left":"a"},"op":"and","x":null}', '{"left":"a","op":"or","y":1}', '{"op":"or"}', '{"left":"a"}'],
            ['{"op":"and"}', '{"left":"a","op":"or","x":null}', '{"left":"a","op":"and","y":1}', "{}"],
        ),
        (SCHEMAS["recursive optional"], ['{"v":1,"child":{"v":2,"child":null}}'], ['{"child":null}']),
        (SCHEMAS["others are anything"], ["{}", '{"a":[1]}'], []),
        (SCHEMAS["required without a name"], ['{"a":1,"b":[]}'], ['{"a":1}']),
        (SCHEMAS["required of no properties"], ['{"b":1}', '{"b":1,"c":2}'], ["{}"]),
        (SCHEMAS["references in a row"], ['{"b":1,"c":2}'], ['{"b":1}', '{"c":1}']),
        (SCHEMAS["enumeration beside a type"], ["1", "null"], ['"a"']),
        (SCHEMAS["enumeration beside alternatives"], ['"b"', "1"], ['"a"']),
        (SCHEMAS["enumeration beside a reference"], ['"x"'], ['"z"', "1"]),
        (SCHEMAS["type beside alternatives"], ['"abc"'], ["1", '"abcd"', '""']),
        (SCHEMAS["all of one property"], ['{"a":1}'], ['{"a":1.5}', '{"a":-1}']),
        (
            {"anyOf": [{"properties": {"k": {"const": 1}}}, {"properties": {"k": {"const": 2}, "a": {"type": "null"}}}]},
            ['{"k":1}', '{"k":2}', '{"k":2,"a":null}'],
            ["{}", '{"a":null}', '{"k":1,"a":null}'],
        ),
        ({"items": [{"type": "string"}], "type": "array"}, ['["a"]'], ["[1]"]),
        ({"type": "integer", "minimum": -5, "exclusiveMinimum": True}, ["-3"], []),
        ({"type": "integer", "minimum": -5, "exclusiveMinimum": False}, ["-3"], []),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, ["3"], ["-3"]),
    ],
)
def test_what_may_be_written(schema: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    for text in (*right, *wrong):
        follower = Follower(schema_rules(schema))
        if taken := follower.accepts(text):
            follower.feed(text)
            taken = follower.may_end
        assert taken == (text in right), text


@pytest.mark.parametrize("beside", [{}, {"type": ["object", "null"]}, {"not": {"const": 1}}])
def test_optional_parts_do_not_double_with_each_level(beside: dict[str, Any]) -> None:
    def chain(levels: int) -> dict[str, Any]:
        parts: dict[str, Any] = {f"m{levels}": {"type": "object", "properties": {"x": {"type": "integer"}}}}
        for level in range(levels):
            following = {"anyOf": [{"$ref": f"#/$defs/m{level + 1}"}, {"type": "null"}], **beside}
            parts[f"m{level}"] = {"type": "object", "properties": {"a": following, "b": following}, "required": ["a", "b"]}
        return {"$ref": "#/$defs/m0", "$defs": parts}

    assert len(gbnf(schema_rules(chain(12)))) < 10_000
    assert len(gbnf(schema_rules(chain(400)))) < 400_000, "a long chain is no deep recursion"


POINTERS = tuple(f"#/$defs/{name}" for name in "ab")
PARTS = st.recursive(
    st.sampled_from([{}, {"type": "integer"}, {"type": ["string", "null"]}, {"enum": ["a", 1, None, {"p": 1}]}, {"const": "a"}, True, False])
    | st.builds(lambda pointer: {"$ref": pointer}, st.sampled_from(POINTERS)),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", ["object", "null", "integer"]]),
            "enum": st.just(["a", {"p": "a"}, [1], None, 1]),
            "properties": st.dictionaries(st.sampled_from("pq"), inner, max_size=2),
            "required": st.lists(st.sampled_from("pqr"), max_size=2, unique=True),
            "additionalProperties": inner,
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "minItems": st.integers(0, 2),
            "maxItems": st.integers(1, 3),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "$ref": st.sampled_from(POINTERS),
        },
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(PARTS.filter(lambda part: isinstance(part, dict)), PARTS, PARTS, st.integers(0, 99))
def test_of_any_schema_what_is_written_follows_it(part: dict[str, Any], a: Any, b: Any, seed: int) -> None:
    schema = {**part, "$defs": {"a": a, "b": b}}
    try:
        rules = schema_rules(schema)
    except InputError:
        return
    text = short(rules, random.Random(seed))
    # A reference to itself in a part that nothing can follow is no concern of the grammar's.
    with suppress(RecursionError):
        assert validator_of(schema).is_valid(json.loads(text)), text


@settings(deadline=None, max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
)
def test_any_json_is_read_by_the_free_grammar(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value, separators=(",", ":"))):
        if "\x7f" in text:
            continue
        follower = Follower(schema_rules({}))
        assert follower.accepts(text), text


def test_notation() -> None:
    assert gbnf({"root": Seq(("a\n", chars("a-z]"), Repeat(Ref("x"), 0, 1), Repeat("q", 2, 3))), "x": Alt(("", Chars(((0, 31),), True)))}) == (
        'root ::= ( "a\\x0A" [a-z\\x5D] x? ( "q" ){2,3} )\nx ::= ( "" | [^\\x00-\\x1F] )'
    )
    assert "{0,}" not in gbnf({"root": Repeat("a", 0, 10**6)})
