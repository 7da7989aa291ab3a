"""Validated JSON from a backend: the shipped model under a grammar, and a scripted one for answers that no model can be made to give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from mdsa_local.domains.config import Generation
from mdsa_local.errors import ContextOverflowError, InputError, InvalidOutputError
from mdsa_local.runtime.backend import Backend, Finished, Message
from mdsa_local.runtime.stopping import unopened
from mdsa_local.runtime.structured import checked_validator, constrained_by_grammar, generate_json, instructed, parse, wrong

QUESTION = [Message("system", "Be brief."), Message("user", "What is the status?")]
SCHEMA = {"type": "object", "properties": {"status": {"enum": ["open", "closed"]}, "n": {"type": "integer", "maximum": 9}}, "required": ["status"]}


class Sayings:
    """Says one prepared text a call, in pieces of three characters."""

    name, n_context_tokens = "sayings", 1000

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.heard: list[Sequence[Message]] = []
        self.written = 0

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return 1

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> Iterator[str | Finished]:
        self.heard.append(messages)
        text = self.texts.pop(0)
        if text == "overflow":
            raise ContextOverflowError("too long")
        for at in range(0, len(text), 3):
            self.written += 3
            yield text[at : at + 3]
        yield Finished("stop", 1, len(text), withdrawn=unopened(text))

    def close(self) -> None:
        """Nothing is open."""


def ask(backend: Backend, schema: dict[str, Any] = SCHEMA) -> Any:
    return generate_json(backend, QUESTION, schema, deadline_s=30)


def test_a_right_answer_is_taken_as_it_is() -> None:
    for text in (
        '{"status": "open"}',
        'hm {</think>\n\n{"status": "open"}',
        ' \n{"status": "open"}\n',
        '```json\n{"status": "open"}\n```',
        '```\n{"status": "open"}```',
    ):
        backend = Sayings(text)
        found = ask(backend)
        assert (found.value, found.repaired, len(backend.heard)) == ({"status": "open"}, False, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The status is open.", "not JSON"),
        ('{"status": "open"', "not JSON"),
        ('{"status": "lost"}', "status: 'lost' is not one of"),
        ('{"n": 1}', "'status' is a required property"),
        ('{"status": "open", "n": 10}', "n: 10 is greater than the maximum"),
        ('{"status": "open", "n": NaN}', "NaN"),
        ("[" * 100_000, "not JSON"),
        ("", "not JSON"),
    ],
)
def test_a_wrong_one_is_repaired_once_then_an_error(text: str, said: str) -> None:
    backend = Sayings(text, '{"status": "closed"}')
    found = ask(backend)
    assert (found.value, found.repaired) == ({"status": "closed"}, True)
    assert said in backend.heard[1][-1].content
    assert len(backend.heard[1][-2].content) <= 2000
    with pytest.raises(InvalidOutputError, match="sayings gave no JSON") as caught:
        ask(Sayings(text, text))
    assert said in str(caught.value)
    assert caught.value.code == "invalid_output"


def test_a_question_may_be_a_text() -> None:
    backend = Sayings('{"status": "open"}', '{"status": "open"}')
    for question in ("What is the status?", [{"role": "user", "content": "What is the status?"}]):
        assert generate_json(backend, question, SCHEMA, deadline_s=30).value == {"status": "open"}
        assert backend.heard[-1][-1] == Message("user", "What is the status?")
    with pytest.raises(InputError, match="a role and content"):
        generate_json(backend, [{}], SCHEMA, deadline_s=30)


def test_blanks_without_end_are_stopped() -> None:
    backend = Sayings('{"status":' + " " * 10_000, '{"status": "open"}')
    assert ask(backend).repaired
    assert backend.written < 300
    assert "blanks in a row" in backend.heard[1][-1].content
    assert not ask(Sayings('{"status":' + " " * 150 + '"open"}')).repaired


def test_no_room_to_ask_again() -> None:
    with pytest.raises(InvalidOutputError, match="no room to ask again"):
        ask(Sayings("no", "overflow"))


def test_the_schema_is_told_behind_the_system_prompt() -> None:
    first, last = instructed(QUESTION, SCHEMA)
    assert first.content.startswith("Be brief.\n\nAnswer with JSON only")
    assert json.dumps(SCHEMA, separators=(",", ":")) in first.content
    assert last is QUESTION[-1]
    assert [message.role for message in instructed(QUESTION[1:], SCHEMA)] == ["system", "user"]


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"required": "status"}, {"$ref": "#/nowhere"}, {"$ref": "https://example.com/schema.json"}])
def test_a_wrong_schema_is_the_callers_error_and_opens_no_socket(schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(InputError, match="schema"):
        ask(Sayings("{}"), schema)


@pytest.mark.parametrize("schema", [True, "x", None])
def test_what_is_no_object_is_no_schema(schema: Any) -> None:
    with pytest.raises(InputError, match="the JSON schema cannot be"):
        ask(Sayings("{}"), schema)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "foo"}, "at type: 'foo'"),
        ({"properties": {"a": {"items": {"type": ["string", "strng"]}}}}, "at properties/a/items/type"),
        ({"type": "string", "minLength": -3}, "at minLength: -3"),
        ({"properties": {"a": {"$ref": "#/elsewhere"}}, "elsewhere": {"type": "foo"}}, "the unknown type 'foo'"),
    ],
)
def test_a_wrong_schema_makes_no_grammar(nano: Backend, capfd: pytest.CaptureFixture[str], schema: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        list(nano.stream(QUESTION, Generation(json_schema=schema), deadline_s=60))
    assert "grammar" not in f"{caught.value} {caught.value.hint}"
    assert capfd.readouterr().err == ""


def test_a_schema_that_is_too_deep(nano: Backend) -> None:
    for depth in (40, 200):
        deep: dict[str, Any] = {"type": "integer"}
        for _ in range(depth):
            deep = {"type": "array", "items": {"type": "object", "properties": {"a": deep}}} if depth == 200 else {"type": "array", "items": deep}
        if depth == 40:
            assert constrained_by_grammar(Generation(json_schema=deep)).grammar.count("::=") < 100
        else:
            with pytest.raises(InputError, match="in each other"):
                generate_json(nano, QUESTION, deep, deadline_s=60)


def test_the_shipped_model_can_only_write_what_follows(nano: Backend) -> None:
    schema = {
        "type": "object",
        "properties": {"open": {"type": "boolean"}, "n": {"type": "integer"}, "kind": {"enum": ["refund", "return"]}},
        "required": ["open", "n", "kind"],
        "additionalProperties": False,
    }
    found = generate_json(nano, QUESTION, schema, Generation(max_tokens=60), deadline_s=60)
    assert set(found.value) == {"open", "n", "kind"}
    assert not found.repaired


def test_what_the_engine_in_this_process_cannot_do() -> None:
    for generation in (
        Generation(json_schema={}, grammar='root ::= "a"'),
        Generation(tools=({"name": "f"},)),
        Generation(think=True, json_schema={}),
        Generation(think=True, refusal="no"),
    ):
        with pytest.raises(InputError):
            constrained_by_grammar(generation)
    plain = Generation(grammar='root ::= "a"')
    assert constrained_by_grammar(plain) is plain


class Branch(BaseModel):
    v: int
    child: Branch | None = None


@pytest.mark.parametrize(
    "schema",
    [
        Branch.model_json_schema(),
        {"type": "object", "properties": {"n": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
        {"type": "object", "properties": {"kind": {"enum": ["refund"]}}, "required": ["kind", "order"]},
    ],
)
def test_schemas_that_once_failed_are_followed_by_the_shipped_model(nano: Backend, schema: dict[str, Any]) -> None:
    grammar = constrained_by_grammar(Generation(json_schema=schema)).grammar
    said = [*nano.stream(instructed(QUESTION, schema), Generation(grammar=grammar, max_tokens=120), deadline_s=60)]
    *pieces, finished = said
    assert isinstance(finished, Finished)
    # A small model may go down a recursion until no token is left.
    if finished.reason == "stop":
        assert wrong(checked_validator(schema), json.loads("".join(map(str, pieces)))) == ""


def test_a_schema_that_leads_back_to_itself(nano: Backend) -> None:
    circular = {"allOf": [{"$ref": "#"}, {"type": "object"}]}
    with pytest.raises(InputError, match="'#' leads back to itself"):
        generate_json(nano, QUESTION, circular, deadline_s=60)
    with pytest.raises(InvalidOutputError, match="leads back to itself"):
        ask(Sayings("{}", "{}"), circular)


def test_a_value_too_deep_to_be_checked() -> None:
    deep = "[" * 400 + "]" * 400
    with pytest.raises(InvalidOutputError, match="too deep"):
        ask(Sayings(deep, deep), {"type": "array", "items": {"$ref": "#"}})


def test_parse() -> None:
    assert parse("```json\n[1]\n```") == [1]
    for text in ("```json\n[1]", "[1] [2]", "Infinity"):
        with pytest.raises(ValueError, match=r"."):
            parse(text)
