"""Grammars that would take llama.cpp seconds or hours a token are refused; those that people write are not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.errors import InputError
from mdsa_local.runtime.backend import Backend, Message
from mdsa_local.runtime.gbnf import MOST_NEXT, MOST_WAYS, check_gbnf, parsed
from mdsa_local.runtime.grammar import Chars, Ref, gbnf
from mdsa_local.runtime.schema_grammar import schema_rules
from mdsa_local.runtime.structured import constrained_by_grammar

from .test_grammar import SCHEMAS

HEAVY = {
    "optional items in a row": "root ::= " + '"a"? ' * 1000,
    "optional words in a row": "root ::= " + '"ab"? ' * 20,
    "blanks in a row": "root ::= ws ws ws ws ws \"x\"\nws ::= [ \\t\\n]*",
    "repetitions through several rules": 'root ::= a\na ::= b{0,100}\nb ::= c{0,100}\nc ::= "x"{0,100}',
    "repetitions of what may be empty": 'root ::= ("a"? "a"?){1,500}',
    "optional items by rules that lead into each other": "root ::= t0\n"
    + "\n".join(f't{n} ::= "a" t{n + 1} | t{n + 1}' for n in range(100)) + '\nt100 ::= ""',
    "optional items behind a rule within itself": 'root ::= x\nx ::= "(" y ")"? | ""\ny ::= [0-9] x',
    "optional items above each other": "root ::= r0\n" + "\n".join(f'r{n} ::= "a" r{n + 1} "b"?' for n in range(50)) + '\nr50 ::= "x"',
    "a rule that begins with itself": 'root ::= root "a" | "b"',
    "rules that all lead to each other": "root ::= r0\n"
    + "\n".join(f"r{n} ::= " + " | ".join(f'"{n}-{m}" r{m} "."' for m in range(20)) + ' | "x"' for n in range(20)),
    "alternatives that begin alike": 'root ::= "sum of (" root " and " root ")" | "sum of (" root " or " root ")" | [a-z]+',
    "alternatives that begin alike behind other parts": 'root ::= e\ne ::= "a name " [a-z]+ " of " e " plus " | "a name " [a-c]+ " of " list "x"\n'
    'list ::= e ("," e)* | "."',
    "too many alternatives": "root ::= " + " | ".join(f'"{n}"' for n in range(MOST_NEXT + 1)),
}  # fmt: skip
LIGHT = {
    "a number": 'root ::= "-"? [0-9]{1,15} ("." [0-9]+)? ([eE] [-+]? [0-9]{1,3})?',
    "fifteen optional digits": "root ::= " + "[0-9]? " * 15,
    "a list": 'root ::= item ("," ws item){0,1000}\nitem ::= [a-z]{1,200}\nws ::= " "*',
    "else that may belong to either if": 'root ::= s\ns ::= "if " c s (" else " s)? | "x;"\nc ::= "(" [a-z]+ ")"',
    "arithmetic": 'root ::= term ([-+*/] term)*\nterm ::= ws (num | "(" ws root ws ")") ws\nnum ::= [0-9]+\nws ::= [ \\t]*',
    "alternatives that are told apart first": 'root ::= "+(" root "," root ")" | "-(" root "," root ")" | [a-z]+',
    "what is read alike and leads nowhere back": 'root ::= ("(" list "+" | "(" list "-") root | "."\nlist ::= "[" list* "]"',
    "names": "root ::= " + " | ".join(f'"name {n * 7919 % 100_003}"' for n in range(1000)),
    "sentences": "root ::= (sentence \"\\n\"){1,3}\nsentence ::= " + " | ".join(f'"{"word " * 100}{n}."' for n in range(50)),
    "lines and comments": "# an answer\nroot ::=\n  \"a\" |\n  \"b\" # or b\n",
    "tokens": "root ::= <[1]> !<[2]>* .",
    # The next four are of the kind that llama.cpp comes with.
    "JSON with numbers of two readings": r'''
        root ::= "{" ws (pair ("," ws pair)*)? "}" ws
        pair ::= string ":" ws value
        value ::= root | "[" ws (value ("," ws value)*)? "]" ws | string | number | ("true" | "false" | "null") ws
        string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws # escapes
        number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
        ws ::= | " " | "\n" [ \t]{0,20}''',
    "moves of chess": r'''
        root ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
        move ::= (pawn | piece | castle) [+#]?
        piece ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
        pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
        castle ::= "O-O" "-O"?''',
    "a programme": r'''
        root ::= ("int" ws name "(" ("int" ws name)? ")" "{" statement* "}")*
        name ::= [a-zA-Z_] [a-zA-Z_0-9]*
        statement ::= name ws "=" ws expression ";" | name ws "(" list? ")" ";" | "return" ws expression ";"
            | "if" "(" condition ")" "{" statement* "}" ("else" "{" statement* "}")? | "//" [^\n]* "\n" | "/*" ([^*] | ("*" [^/]))* "*/"
        condition ::= expression ("<=" | "<" | "==") expression
        expression ::= term (("+" | "-") term)*
        term ::= factor (("*" | "/") factor)*
        factor ::= name | [0-9]+ | "-" factor | name "(" list? ")" | "(" ws expression ws ")"
        list ::= expression ("," ws expression)*
        ws ::= [ \t\n]+''',
    "Japanese": "root ::= jp+ ([ \\t\\n] jp+)*\njp ::= [ぁ-ゟ] | [ァ-ヿ] | [、-〾] | [一-鿿]",
}  # fmt: skip


@pytest.mark.parametrize("name", HEAVY)
def test_what_would_take_hours_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="the grammar"):
        check_gbnf(HEAVY[name])


@pytest.mark.parametrize("name", LIGHT)
def test_what_people_write_passes(name: str) -> None:
    assert parsed(LIGHT[name])
    check_gbnf(LIGHT[name])


def test_grammars_of_schemas_pass() -> None:
    wide: dict[str, Any] = {"type": "object", "properties": {f"property_{n}": {"type": ["string", "null"], "maxLength": 40} for n in range(40)}}
    deep: dict[str, Any] = {"type": "object", "properties": {f"section_{n}": SCHEMAS["numbers"] for n in range(10)} | {"lines": {"items": wide}}}
    for schema in (*SCHEMAS.values(), wide, deep):
        text = gbnf(schema_rules(schema))
        assert parsed(text)
        check_gbnf(text)


def branching(*alternatives: dict[str, Any]) -> dict[str, Any]:
    parts = [{"type": "object", "required": list(properties), "properties": properties} for properties in alternatives]
    return {"$ref": "#/$defs/e", "$defs": {"e": {"anyOf": [*parts, {"type": "string"}]}}}


E = {"$ref": "#/$defs/e"}


@pytest.mark.parametrize(
    "schema",
    [
        branching({"left": E, "op": {"const": "and"}}, {"left": {"anyOf": [E, {"type": "null"}]}, "op": {"const": "or"}}),
        branching({"name": {"type": "string"}, "parts": {"items": E}}, {"name": {"type": "string"}, "parts": {"items": E, "minItems": 1}, "n": True}),
        {"anyOf": [{"type": "array", "prefixItems": [{"$ref": "#"}, {"const": n}]} for n in range(2)] + [{"type": "null"}]},
    ],
    ids=["first parts", "second parts", "tuples"],
)
def test_schemas_whose_alternatives_are_told_apart_late_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="JSON schema has alternatives that begin alike") as caught:
        constrained_by_grammar(Generation(json_schema=schema))
    assert "first" in str(caught.value.hint)


@pytest.mark.parametrize(
    "schema",
    [
        branching({"left": E, "op": {"const": "and"}}, {"left": E, "op": {"const": "or"}}),
        branching({"op": {"const": "and"}, "left": E}, {"op": {"const": "or"}, "left": {"anyOf": [E, {"type": "null"}]}}),
        branching({"any": {}, "left": E}, {"all": {}, "left": E}),
        branching({"left": {**E, "description": "one"}, "op": {"const": "and"}}, {"left": {"title": "two", **E}, "op": {"const": "or"}}),
    ],
    ids=["first parts alike", "told apart first", "other names", "described otherwise"],
)
def test_schemas_whose_alternatives_are_told_apart_pass(schema: dict[str, Any]) -> None:
    assert constrained_by_grammar(Generation(json_schema=schema)).grammar


def test_the_bound_is_where_ways_multiply() -> None:
    """Of n optional items some k are there: most of all half of them."""
    check_gbnf("root ::= " + '"a"? ' * 17)
    with pytest.raises(InputError, match="in too many ways"):
        check_gbnf("root ::= " + '"a"? ' * 18)
    assert MOST_WAYS > 24_310, "the ways to choose eight of seventeen"


def test_symbols() -> None:
    grammar = parsed(r'root ::= "a\n\x41\u00e9\"" [^\]a-c-] . x?' + "\nx ::= [\\x30-9]+ # one\n")
    assert grammar is not None
    (root,) = grammar["root"]
    assert root[:7] == ("a", "\n", "A", "é", '"', Chars(((93, 93), (97, 99), (45, 45)), True), Chars((), True))
    assert isinstance(root[7], Ref) and grammar[root[7].name] == [(Ref("x"),), ()]
    assert grammar["x"][0][0] == Chars(((48, 57),))


@pytest.mark.parametrize("text", ["", "root", "root ::= (", "root ::= )", "root ::= *", "root ::= a", 'x ::= "a"', 'root ::= "a', "root ::= {3}"])
def test_what_is_no_grammar_is_left_to_llama_cpp(text: str) -> None:
    assert parsed(text) is None
    check_gbnf(text)


def test_noise_is_never_more_than_an_error() -> None:
    rng = random.Random(5)
    parts = ["root ::= ", "x ::= ", '"a"', "[a-c]", "[^x]", "x", "(", ")", "|", "*", "?", "{2,3}", "{0,9}", "\n", " ", ".", "\\", '"']
    for _ in range(2000):
        text = "root ::= " + "".join(rng.choice(parts) for _ in range(rng.randint(1, 30)))
        try:
            check_gbnf(text)
        except InputError as error:
            assert str(error).startswith("the grammar")


@pytest.mark.parametrize("name", ["a number", "fifteen optional digits", "a list", "arithmetic", "names"])
def test_what_passes_is_answered_in_time(nano: Backend, name: str) -> None:
    assert list(nano.stream([Message("user", "hi")], Generation(grammar=LIGHT[name], max_tokens=8), deadline_s=20))


def test_what_does_not_pass_costs_no_token(nano: Backend) -> None:
    with pytest.raises(InputError, match="in too many ways"):
        list(nano.stream([Message("user", "hi")], Generation(grammar=HEAVY["optional items in a row"], max_tokens=8), deadline_s=20))
