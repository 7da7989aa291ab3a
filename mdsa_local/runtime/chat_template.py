"""Render a model's own chat template. It is code from an untrusted file, so it runs in a sandbox and its failures are the file's."""

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
    from jinja2 import Template


def render(template: str, messages: Sequence[Message], *, bos: str, eos: str, source: str) -> str:
    """The prompt for ``messages``, ending where the model's answer begins.

    ``source`` names the file in errors. Raises :class:`ModelFileError` when the template is no Jinja, leaves the sandbox, or fails on ``messages``.
    """
    from jinja2 import TemplateError

    try:
        return _compile(template).render(
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
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # The settings under which templates are written: those of transformers' apply_chat_template.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _tojson
    return environment.from_string(template)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
