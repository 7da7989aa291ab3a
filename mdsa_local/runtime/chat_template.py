"""Render a model's own chat template. It is code from an untrusted file, so it runs in a sandbox and its failures are the file's.

The sandbox bounds a range, not what ranges in each other come to, nor macros that call themselves twice: so turns of loops and calls are counted
over the whole of a rendering.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from mdsa_local.errors import ModelFileError
from mdsa_local.runtime.backend import Message

if TYPE_CHECKING:
    from jinja2 import Environment, Template, nodes
    from jinja2.runtime import Context

# Turns of loops and calls of one rendering: a tenth of a second of bare turns, seconds of macros. A template that compares each of 500 messages with
# all others takes half as many.
MOST_STEPS = 500_000
# Where the count is among the variables of a rendering, and the filter that counts; no template can write names with a blank.
STEPS, COUNT = "steps taken", "count step"


class _Steps:
    """How far a rendering has come."""

    taken = 0

    def take(self, count: int) -> None:
        self.taken += count
        if self.taken > MOST_STEPS:
            from jinja2 import TemplateRuntimeError

            raise TemplateRuntimeError(f"it takes more than {MOST_STEPS} steps")


def render(template: str, messages: Sequence[Message], *, bos: str, eos: str, source: str) -> str:
    """The prompt for ``messages``, ending where the model's answer begins.

    ``source`` names the file in errors. Raises :class:`ModelFileError` when the template is no Jinja, leaves the sandbox, or fails on ``messages``.
    """
    from jinja2 import TemplateError

    try:
        return _compile(template).render(
            {STEPS: _Steps()},
            messages=[asdict(message) for message in messages],
            add_generation_prompt=True,
            bos_token=bos,
            eos_token=eos,
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
        )
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelFileError(
            f"{source}: its chat template failed: {reason}", "Use another build of the model, or one whose template takes these roles."
        ) from None


def compile_ahead(template: str) -> None:
    """Do what the first :func:`render` would begin with, 35 ms; it also tells of a template that is no Jinja."""
    from jinja2 import TemplateError

    with suppress(TemplateError, ValueError, RecursionError, MemoryError):
        _compile(template)


@lru_cache(maxsize=16)
def _compile(template: str) -> Template:
    environment = _environment()
    return environment.from_string(_counting(environment.parse(template)))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import pass_context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Counting(ImmutableSandboxedEnvironment):
        def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
            steps = context.parent[STEPS]
            steps.take(1)
            result = super().call(context, called, *args, **kwargs)
            if isinstance(result, range):
                # Filters go through it out of sight.
                steps.take(len(result))
            return result

    @pass_context
    def count(context: Context, _: Any) -> bool:
        context.parent[STEPS].take(1)
        return True

    # The settings under which templates are written: those of transformers' apply_chat_template.
    environment = Counting(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters |= {"tojson": _tojson, COUNT: count}
    # Filler text, as much as asked for.
    del environment.globals["lipsum"]
    return environment


def _counting(tree: nodes.Template) -> nodes.Template:
    """The template with a step counted in every turn of its loops, and for each item that a loop's condition is asked about."""
    from jinja2 import nodes

    for loop in tree.find_all(nodes.For):
        count = nodes.Filter(nodes.Const(None), COUNT, [], [], None, None, lineno=loop.lineno)
        loop.body.insert(0, nodes.ExprStmt(count, lineno=loop.lineno))
        if loop.test is not None:
            loop.test = nodes.And(count, loop.test, lineno=loop.lineno)
    tree.set_environment(_environment())
    return tree


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
