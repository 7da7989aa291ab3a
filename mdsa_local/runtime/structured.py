"""Answers that are JSON by a schema, from any backend: constrained where the runtime can, always validated, repaired once, then a typed error."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NoReturn, cast

from mdsa_local.domains.config import HALF, Generation
from mdsa_local.errors import ContextOverflowError, InputError, InvalidOutputError, expected
from mdsa_local.runtime.backend import Backend, Finished, Message
from mdsa_local.runtime.gbnf import check_circles, check_gbnf
from mdsa_local.runtime.grammar import gbnf
from mdsa_local.runtime.lending import Prompt, as_messages
from mdsa_local.runtime.schema_forms import validator_of
from mdsa_local.runtime.schema_grammar import schema_rules

# JSON that is indented twenty deep has fewer in a row; models without a grammar have been seen to write it for half an hour (llama-cpp-python#1500).
MOST_WHITESPACE = 200
# jsonschema goes into a schema by recursion, several calls a level.
MOST_DEEP = 100
FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
DEFAULT_GENERATION = Generation()


@dataclass(frozen=True, slots=True)
class Structured:
    """A validated answer: the JSON ``value``, its text, and whether it took a second attempt. ``finished`` has the counts of the last attempt."""

    value: Any
    text: str
    repaired: bool
    finished: Finished


@dataclass(frozen=True, slots=True)
class _Attempt:
    text: str
    finished: Finished | None
    value: Any = None
    problem: str = ""


def generate_json(
    backend: Backend, messages: Prompt, schema: Mapping[str, Any], generation: Generation = DEFAULT_GENERATION, *, deadline_s: float
) -> Structured:
    """The backend's answer as JSON that follows ``schema``. ``messages`` are what :meth:`ModelManager.stream` takes; ``deadline_s`` covers both
    attempts.

    Raises :class:`InputError` for messages or a schema that are none, :class:`InvalidOutputError` when the second answer does not follow it either,
    and whatever the backend raises.
    """
    deadline = time.monotonic() + deadline_s
    validator = checked_validator(schema)
    constrained = generation.model_copy(update={"json_schema": dict(schema)})
    asked = instructed(as_messages(messages), schema)
    first = _attempt(backend, asked, constrained, deadline, validator)
    if not first.problem and first.finished:
        return Structured(first.value, first.text, False, first.finished)
    if first.finished and first.finished.reason == "cancelled":
        raise InvalidOutputError(f"{backend.name} was stopped before its JSON was complete", "Ask again.")
    # A long wrong answer must not crowd the question out.
    again = [*asked, Message("assistant", first.text[:2000] or "{}"), Message("user", f"That is not right: {first.problem}. Answer with JSON only.")]
    try:
        second = _attempt(backend, again, constrained, deadline, validator)
    except ContextOverflowError:
        second = replace(first, problem=f"{first.problem}; there was no room to ask again")
    if second.problem or not second.finished:
        raise InvalidOutputError(
            f"{backend.name} gave no JSON that follows the schema: {second.problem}", "Use a larger model, a simpler schema, or more max_tokens."
        )
    return Structured(second.value, second.text, True, second.finished)


def checked_validator(schema: Mapping[str, Any]) -> Any:
    """A validator for ``schema`` that never fetches a reference. Raises :class:`InputError` when the schema itself is wrong."""
    import jsonschema

    expected(schema, Mapping, "the JSON schema", "Pass an object, {} for any JSON.")
    if _deeper(schema, MOST_DEEP):
        raise InputError(f"the JSON schema has more than {MOST_DEEP} objects and lists in each other", "Make it flatter, with $defs and $ref.")
    validator = validator_of(schema)
    try:
        validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        where = "/".join(map(str, error.absolute_path)) or "its top"
        raise InputError(f"the JSON schema is wrong at {where}: {error.message}", "See https://json-schema.org for what a schema may hold.") from None
    return validator


def _deeper(schema: Mapping[str, Any], most: int) -> bool:
    """Whether more than ``most`` objects and lists stand in each other."""
    level: list[Any] = [schema]
    for _ in range(most):
        inside = (value.values() if isinstance(value, Mapping) else value for value in level)
        level = [value for values in inside for value in values if isinstance(value, Mapping | list | tuple)]
    return bool(level)


def parse(text: str) -> Any:
    """The JSON value of an answer, also from inside a Markdown fence. Raises :class:`ValueError` that says what is wrong where."""
    fenced = FENCED.match(text)
    return json.loads(fenced[1] if fenced else text.strip(), parse_constant=_no_constant)


def instructed(messages: Sequence[Message], schema: Mapping[str, Any]) -> list[Message]:
    """The messages with the schema told: models follow a constraint better when they know of it."""
    told = f"Answer with JSON only, by this JSON schema: {json.dumps(schema, ensure_ascii=False, separators=(',', ':'))}"
    if messages and messages[0].role == "system":
        return [replace(messages[0], content=f"{messages[0].content}\n\n{told}"), *messages[1:]]
    return [Message("system", told), *messages]


def constrained_by_grammar(generation: Generation) -> Generation:
    """For llama.cpp: the settings with the schema as a grammar. Raises :class:`InputError` for what the in-process engine cannot do, for a
    schema that is none, and for a grammar that is too much."""
    if generation.tools:
        raise InputError("models in this process cannot follow tools", "Remove it from the generation settings.")
    refuse_thoughts_in_form(generation)
    if generation.json_schema is None:
        _refuse_half_characters(generation.grammar)
        check_gbnf(generation.grammar)
        return generation
    if generation.grammar or generation.choices or generation.refusal:
        raise InputError(
            "an answer cannot follow a JSON schema and a grammar at once", "Remove `json_schema`, or `grammar`, `choices` and `refusal`."
        )
    # Of what a wrong schema becomes llama.cpp would complain as of a grammar that nobody wrote.
    checked_validator(generation.json_schema)
    grammar = gbnf(schema_rules(generation.json_schema))
    _refuse_half_characters(grammar)
    check_circles(grammar)
    return generation.model_copy(update={"grammar": grammar, "json_schema": None})


def _refuse_half_characters(grammar: str) -> None:
    """Raise :class:`InputError` for a grammar with half a character in it, which no model can write."""
    if half := HALF.search(grammar):
        raise InputError(f"the grammar or JSON schema holds half a character, {half[0]!r}", "Write the whole character, or leave it out.")


def refuse_thoughts_in_form(generation: Generation) -> None:
    """Raise :class:`InputError` where an answer of this process is to have thoughts before it and a form, or a beginning, from its first token on."""
    formed = [name for name in ("json_schema", "grammar", "choices", "refusal") if getattr(generation, name) not in (None, "", ())]
    if generation.think and formed:
        raise InputError(
            f"models in this process cannot follow think and {' and '.join(formed)} at once", "Remove one of them from the generation settings."
        )


def _attempt(backend: Backend, messages: Sequence[Message], generation: Generation, deadline: float, validator: Any) -> _Attempt:
    text, finished = _collected(backend, messages, generation, deadline)
    if finished is None:
        return _Attempt(text, None, problem=f"it has {MOST_WHITESPACE} blanks in a row")
    try:
        value = parse(text)
    except (ValueError, RecursionError) as error:
        cut = f" (cut off after {generation.max_tokens} tokens)" if finished.reason == "length" else ""
        return _Attempt(text, finished, problem=f"it is not JSON: {error}{cut}")
    return _Attempt(text, finished, value, wrong(validator, value))


def wrong(validator: Any, value: Any) -> str:
    """What of a value does not follow the schema, most telling first; an empty string when it all does. Raises :class:`InputError` for a schema
    with a reference that leads nowhere."""
    import referencing.exceptions
    from jsonschema.exceptions import best_match

    try:
        found = best_match(validator.iter_errors(value))
    except RecursionError:
        return "it is too deep to be checked, or the schema has a reference that leads back to itself"
    except referencing.exceptions.Unresolvable as unresolvable:
        raise InputError(
            f"the JSON schema refers to what is not in it: {unresolvable}", "References begin with # and stay within the schema."
        ) from None
    if found is None:
        return ""
    return f"at {'/'.join(map(str, found.absolute_path)) or 'its top'}: {found.message[:300]}"


def _collected(backend: Backend, messages: Sequence[Message], generation: Generation, deadline: float) -> tuple[str, Finished | None]:
    """The whole text and its end; None where it was stopped for blanks without end."""
    text, blank = "", 0
    stream = backend.stream(messages, generation, deadline_s=deadline - time.monotonic())
    with closing(cast("Any", stream)):
        for piece in stream:
            if isinstance(piece, Finished):
                return text[piece.withdrawn :], piece
            text += piece
            blank = blank + len(piece) if piece.isspace() else len(piece) - len(piece.rstrip())
            if blank >= MOST_WHITESPACE:
                return text.rstrip(), None
    return text, Finished("cancelled", 0, 0)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
