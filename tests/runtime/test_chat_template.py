"""Chat templates are code from an untrusted file."""

from __future__ import annotations

import pytest

from mdsa_local.errors import ModelFileError
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.chat_template import render

MESSAGES = [Message("system", "Be brief."), Message("user", "Grüße {{ 7 * 7 }}")]


def rendered(template: str) -> str:
    return render(template, MESSAGES, bos="<s>", eos="</s>", source="m.gguf")


def test_render_as_transformers_does() -> None:
    template = """{{ bos_token }}
{%- for message in messages %}
    {% if message['role'] == 'system' %}{% continue %}{% endif %}
[{{ message['role'] }}] {{ message.content | tojson }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
[assistant]
{%- endif %}"""
    assert rendered(template) == '<s>[user] "Grüße {{ 7 * 7 }}"</s>\n[assistant]'


def test_strftime_now() -> None:
    assert rendered("{{ strftime_now('%Y') }}").isdigit()


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ raise_exception('System role not supported') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% include 'etc/passwd' %}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ undefined_name.attribute }}",
        "{{ range(10 ** 9) | list }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_what_a_template_may_not_do(template: str) -> None:
    with pytest.raises(ModelFileError, match=r"m\.gguf: its chat template failed"):
        rendered(template)


def test_the_template_says_why() -> None:
    with pytest.raises(ModelFileError, match="System role not supported"):
        rendered("{{ raise_exception('System role not supported') }}")
