"""Grammars of JSON schemas: what they let through is valid, for llama.cpp and for the follower alike."""

from __future__ import annotations

import json
import random
from itertools import accumulate
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsa_local.errors import InputError
from mdsa_local.runtime.backend import Backend
from mdsa_local.runtime.gbnf import MOST_NESTED
from mdsa_local.runtime.grammar import Alt, Chars, Follower, Node, Ref, Repeat, Rules, Seq, chars, gbnf
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
}  # fmt: skip


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


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_a_grammar_writes_follows_the_schema(name: str) -> None:
    schema = SCHEMAS[name]
    rules = schema_rules(schema)
    seen = set()
    for seed in range(60):
        text = sample(rules, Ref("root"), random.Random(seed))
        value = json.loads(text)
        jsonschema.Draft202012Validator(schema).validate(value)
        seen.add(text)
        follower = Follower(rules)
        assert follower.accepts(text), text
        follower.feed(text)
        assert follower.may_end
    assert len(seen) > 1 or name in ("constant", "no items", "escaped pointer")


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


def test_texts_that_go_on_from_each_other_nest_no_deeper_than_llama_cpp_goes() -> None:
    rules = schema_rules({"enum": ["a" * n for n in range(1000)]})
    text = gbnf(rules)
    depths = accumulate((character == "(") - (character == ")") for character in text)
    assert max(depths) < MOST_NESTED
    follower = Follower(rules)
    follower.feed(f'"{"a" * 999}"')
    assert follower.may_end


@pytest.mark.parametrize("schema", [{"$ref": "#/nowhere"}, {"$ref": "https://example.com/x"}, {"properties": {"a": {"anyOf": [False]}}}])
def test_what_cannot_be_followed_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        schema_rules(schema)


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
