"""Chat templates are code from an untrusted file."""

from __future__ import annotations

import time
from dataclasses import asdict

import pytest
from llama_cpp import llama_chat_format
from transformers.utils.chat_template_utils import render_jinja_template

from mdsa_local.errors import InputError, ModelFileError
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.chat_template import compile_ahead, render, without_system

MESSAGES = [Message("system", "Be brief."), Message("user", "Grüße {{ 7 * 7 }}")]


def rendered(template: str, thinking: bool = False) -> str:
    return render(template, MESSAGES, bos="<s>", eos="</s>", source="m.gguf", thinking=thinking)


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
        "{% for a in [1] %}" * 21 + "{% endfor %}" * 21,
        "{% break %}",
        "{% macro f(a) %}{% endmacro %}{{ f(a=1, a=2) }}",
        "{{ 1e999 }}",
        "{{ 'a long text' | truncate(-5) }}",
        "{{ cycler() }}",
    ],
)
def test_what_a_template_may_not_do(template: str) -> None:
    compile_ahead(template)
    with pytest.raises(ModelFileError, match=r"m\.gguf: its chat template failed"):
        rendered(template)


def stopped(template: str, why: str) -> None:
    """Rendering it ends in an error that says ``why``, after seconds of work."""
    began = time.process_time()
    with pytest.raises(ModelFileError, match=why):
        rendered(template)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}x",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}x",
        "{% for i in range(99999) %}{{ range(99999) | list | length }}{% endfor %}",
        "{% set l = [0] * 999 %}{% for i in l %}{% for j in l %}{% for k in l %}{% endfor %}{% endfor %}{% endfor %}x",
        "{% for i in 'ab' recursive %}{% if loop.depth < 40 %}{{ loop('ab') }}{% endif %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
        "{% set l = [0] * 99999 %}{% for i in range(99999) %}{{ (l ~ i) | length }}{% endfor %}",
        "{% set l = [0] * 99999 %}{% for i in range(99999) %}{{ l | tojson | length }}{% endfor %}",
        "{% set ns = namespace(t=(1,)) %}{% for i in range(16) %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
        "{% for i in range(99999) %}{{ {'a': 1}[ns.t] }}{% endfor %}",
    ],
)
def test_a_template_that_takes_for_ever_is_stopped(template: str) -> None:
    stopped(template, "more than 500000 steps")


DOUBLED = "{{% set ns = namespace(x={0}) %}}{{% for i in range(60) %}}{{% set ns.x = {1} %}}{{% endfor %}}{2}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ (9 ** 99999) ** 9999 }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ [0] * 10 ** 10 }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%*d' % (9999999999, 1) }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 9999999999) }}",
        "{{ '%9999999999d' | format(1) }}",
        "{{ 'a'.ljust(9999999999) }}",
        "{{ 'a' | center(9999999999) }}",
        "{{ [1] | tojson(indent=9999999999) }}",
        "{% set a = 'a' * 99999 %}{{ a.replace('a', a) }}",
        "{% set a = 'a' * 99999 %}{{ a | list | join(a) }}",
        "{% set a = 'a' * 99999 %}{% for i in range(99999) %}{{ a }}{% endfor %}",
        DOUBLED.format("'ab'", "ns.x + ns.x", "x"),
        DOUBLED.format("'ab'", "ns.x ~ ns.x", "x"),
        DOUBLED.format("3", "ns.x * ns.x", "x"),
        DOUBLED.format("[1]", "[ns.x, ns.x]", "{{ ns.x }}"),
        DOUBLED.format("[1]", "[ns.x, ns.x]", "{{ ns.x | tojson }}"),
        DOUBLED.format("[1]", "[ns.x, ns.x]", "{{ '{}'.format(ns.x) }}"),
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    ],
)
def test_a_template_that_makes_too_much_is_stopped(template: str) -> None:
    stopped(template, r"more than|width")


NESTED = (
    "{{% set ns = namespace(x=[1], y=[1], t=(1,)) %}}{{% for i in range(60) %}}{{% set ns.x = [ns.x, ns.x] %}}{{% set ns.y = [ns.y, ns.y] %}}"
    "{{% set ns.t = (ns.t, ns.t) %}}{{% endfor %}}{{{{ {0} }}}}"
)


@pytest.mark.parametrize(
    "compared",
    [
        "ns.x == ns.y",
        "ns.x < ns.y",
        "ns.x in [ns.y]",
        "ns.x is eq(ns.y)",
        "ns.x is in([ns.y])",
        "[ns.x] | select('eq', ns.y) | list | length",
        "[[ns.x, 1], [ns.y, 0]] | sort | length",
        "[ns.x, ns.y] | max | length",
        "[ns.y].index(ns.x)",
        "{ns.t: 1} | length",
        "{'a': 1}[ns.t]",
        "ns.t in {'a': 1}",
    ],
)
def test_lists_in_each_other_are_not_compared_without_end(compared: str) -> None:
    stopped(NESTED.format(compared), "more than 500,000 items")


def test_comparing_long_lists_takes_steps() -> None:
    with pytest.raises(ModelFileError, match="more than 500000 steps"):
        rendered("{% set a = [0] * 200000 %}{% set b = [0] * 200000 %}{% for i in range(99999) %}{{ a == b }}{% endfor %}")


def test_usual_comparisons_are_as_before() -> None:
    template = """{{ [1, [2]] == [1, [2]] }} {{ 1 < 2 <= 2 }} {{ 'a' in messages[0] }}
{{- ' ' }}{{ messages | selectattr('role', 'eq', 'user') | list | length }}
{{- {'a': 1}['a'] }} {{ [3, 1] | sort }} {{ 2 is gt 1 }} {{ messages[0] in messages }} {{ messages[::-1] == messages }}"""
    assert rendered(template) == "True True False 11 [1, 3] True True False"


def test_usual_arithmetic_and_formats_are_as_before() -> None:
    template = "{{ '-' * 3 ~ 2 ** 10 ~ '%s|%5d' % ('a', 3) ~ '{:>4}'.format('b') }}{{ messages | tojson(indent=2) | length }}{{ nothing ~ none }}"
    assert rendered(template).startswith("---1024a|    3   b")
    assert rendered(template).endswith("None")


@pytest.mark.parametrize("name", [name for name in vars(llama_chat_format) if name.endswith("CHAT_TEMPLATE")])
def test_known_templates_are_rendered_as_transformers_does(name: str) -> None:
    template = getattr(llama_chat_format, name)
    talk = [Message("user", "a" * 9999), Message("assistant", "b"), Message("user", "c")]
    conversation = [asdict(message) for message in talk]
    expected, _ = render_jinja_template([conversation], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
    assert render(template, talk, bos="<s>", eos="</s>", source="m.gguf") == expected[0]


def test_each_rendering_has_its_own_steps_and_loops_are_as_before() -> None:
    template = """{%- for a in range(300) if a % 2 -%}{%- for b in range(999) -%}
{%- if loop.last and loop.length == 999 and a == 299 %}{{ loop.index }}{% endif -%}
{%- endfor -%}{%- else -%}none{%- endfor -%}{%- for c in nothing %}{{ c }}{% else %} none{% endfor -%}"""
    assert [rendered(template) for _ in range(3)] == ["999 none"] * 3


TURNS = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def test_a_system_message_that_the_template_refuses_goes_before_the_first_question() -> None:
    assert rendered(NO_SYSTEM + TURNS) == "<user>Be brief.\n\nGrüße {{ 7 * 7 }}"
    assert rendered(TURNS) == "<system>Be brief.<user>Grüße {{ 7 * 7 }}", "only where it is refused"
    later = [Message("system", "s"), Message("assistant", "a"), Message("user", "b"), Message("user", "c")]
    assert without_system(later) == [Message("assistant", "a"), Message("user", "s\n\nb"), Message("user", "c")]
    assert without_system(later[:2]) == without_system(later[1:]) == without_system([]) == []
    with pytest.raises(ModelFileError, match="System role not supported"):
        rendered(NO_SYSTEM + "{{ raise_exception('nor this') }}")


def test_what_is_marked_for_training_is_rendered() -> None:
    marked = "{% for message in messages %}{% generation %}{{ message.role }}{% if loop.last %}!{% endif %}{% endgeneration %} {% endfor %}"
    assert rendered(marked) == "system user! "
    with pytest.raises(ModelFileError, match="steps"):
        rendered("{% generation %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endgeneration %}")


def test_models_are_told_not_to_think() -> None:
    assert rendered("{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}") == "<think></think>"


def test_a_model_is_told_to_think_where_its_template_asks() -> None:
    asks = "{{ bos_token }}{% if not enable_thinking %}<think></think>{% endif %}"
    assert (rendered(asks), rendered(asks, thinking=True)) == ("<s><think></think>", "<s>")
    assert rendered("{{ bos_token }}<think>", thinking=True) == "<s><think>", "it thinks whatever it is told"
    for other in ("{{ bos_token }}", "{{ bos_token }}{% if enable_thinking %}<|channel>thought{% endif %}", "{{ '<think>' in bos_token }}"):
        assert rendered(other)
        with pytest.raises(InputError, match=r"m\.gguf: the model cannot be told to think") as caught:
            rendered(other, thinking=True)
        assert "`think`" in caught.value.hint


def test_the_template_says_why() -> None:
    with pytest.raises(ModelFileError, match="System role not supported"):
        rendered("{{ raise_exception('System role not supported') }}")
