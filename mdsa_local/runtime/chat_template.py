"""Render a model's own chat template. It is code from an untrusted file, so it runs in a sandbox and its failures are the file's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from typing import NoReturn

from mdsa_local.errors import InputError, ModelFileError
from mdsa_local.runtime import template_sandbox
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.stopping import THINKS

# What templates ask whether the model shall think: Qwen's, and those that follow it.
SWITCH = "enable_thinking"


def render(template: str, messages: Sequence[Message], *, bos: str, eos: str, source: str, thinking: bool = False) -> str:
    """The prompt for ``messages``, ending where the model's answer begins. Where the template fails on a system message, that is put before what the
    user says first. A model that can think is told whether to, where its template asks for ``enable_thinking``.

    ``source`` names the file in errors. Raises :class:`ModelFileError` when the template is no Jinja, leaves the sandbox, fails on ``messages`` or
    makes nothing of them, and :class:`InputError` for ``thinking`` with a template that neither asks nor ends in ``<think>``, or marks thoughts in
    another way.
    """

    def rendered(messages: Sequence[Message]) -> str:
        return template_sandbox.compiled(template).render(
            template_sandbox.counting(),
            messages=[asdict(message) for message in messages],
            add_generation_prompt=True,
            **{SWITCH: thinking},
            bos_token=bos,
            eos_token=eos,
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
        )

    def checked(prompt: str) -> str:
        if not prompt:
            raise empty_prompt(source)
        if thinking and (THINKS not in template or not (SWITCH in template or prompt.rstrip().endswith(THINKS))):
            raise InputError(
                f"{source}: the model cannot be told to think: its chat template has no {SWITCH} with {THINKS}",
                "Remove `think` from the generation settings, or choose a model that can think.",
            )
        return prompt

    reason = ""
    instead = without_system(messages)
    for tried in [messages, instead] if instead else [messages]:
        try:
            prompt = rendered(tried)
        except Exception as error:
            # Jinja makes Python of a template and compiles that: there is no error that it cannot come to.
            reason = reason or f"{type(error).__name__}: {error}"
        else:
            return checked(prompt)
    raise ModelFileError(f"{source}: its chat template failed: {reason}", "Use another build of the model, or one whose template takes these roles.")


def empty_prompt(source: str) -> ModelFileError:
    """The error for a template that makes nothing of a question, as one does that reads other keys of a message than role and content."""
    return ModelFileError(
        f"{source}: its chat template made an empty prompt", "Use another build of the model, or one whose template reads role and content."
    )


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with the system's put before what the user says first; none where there is no system message or user."""
    if not messages or messages[0].role != "system":
        return []
    system, *others = messages
    first = next((at for at, message in enumerate(others) if message.role == "user"), None)
    if first is None:
        return []
    others[first] = replace(others[first], content=f"{system.content}\n\n{others[first].content}")
    return others


def compile_ahead(template: str) -> None:
    """Do what the first :func:`render` would begin with, 35 ms; that one also tells of a template that is no Jinja."""
    with suppress(Exception):
        template_sandbox.compiled(template)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
