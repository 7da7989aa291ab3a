"""Render a model's own chat template. It is code from an untrusted file, so it runs in a sandbox and its failures are the file's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import NoReturn

from mdsa_local.errors import ModelFileError
from mdsa_local.runtime import template_sandbox
from mdsa_local.runtime.backend import Message


def render(template: str, messages: Sequence[Message], *, bos: str, eos: str, source: str) -> str:
    """The prompt for ``messages``, ending where the model's answer begins.

    ``source`` names the file in errors. Raises :class:`ModelFileError` when the template is no Jinja, leaves the sandbox, or fails on ``messages``.
    """
    from jinja2 import TemplateError

    try:
        return template_sandbox.compiled(template).render(
            template_sandbox.counting(),
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
        template_sandbox.compiled(template)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
