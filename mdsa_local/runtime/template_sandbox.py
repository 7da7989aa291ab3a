"""Where chat templates run: a sandbox that bounds how long a rendering takes and how much it makes.

Jinja's own bounds a range, not what ranges in each other come to, nor macros that call themselves twice, nor what is doubled sixty times: so turns of
loops, calls, and what they make are counted over the whole of a rendering, and nothing is begun that may make a text or a number beyond all measure.
Slices and comparisons of texts are not counted: of the largest, one takes a millisecond.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Environment, Template, nodes
    from jinja2.parser import Parser
    from jinja2.runtime import Context

# Turns of loops in one rendering: a tenth of a second of bare turns. A template that compares each of 500 messages with all others takes half.
MOST_STEPS = 500_000
# A call, of a macro or a method, takes as long as tens of turns: so a rendering that calls without end is stopped within a second or two.
STEPS_A_CALL = 5
# What is made takes a step for each so many characters, so that a rendering is through within seconds whatever it does.
CHARS_A_STEP = 1000
# Nothing of more bytes is made at once; the longest context of today's models is a few million characters.
LARGEST = 8_000_000
# Nor a number of more bits, nor a text of a list that has more items at all depths.
MOST_BITS, MOST_ITEMS = 4096, 500_000
# What is written or compared takes a step for each so many items in it, at all depths: looking through them takes a microsecond each.
ITEMS_A_STEP = 3
# Where the count is among the variables of a rendering, and filters: the one that counts, the one that joins, and the one that looks through what is
# compared; no template can write names with a blank.
STEPS, COUNT, JOIN, WHOLE = "steps taken", "count step", "join texts", "look through"
# Filters that go into what lists hold: to write it, or to compare it.
WRITING = ("e", "escape", "format", "forceescape", "join", "pprint", "string", "sum", "tojson", "urlencode", "xmlattr")
FLATTENING = frozenset((*WRITING, "dictsort", "groupby", "max", "min", "sort", "unique"))
COMPARING = ("==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", "ge", ">=", "<", "lt", "lessthan", "<=", "le", "in")
# A width in a format.
WIDE = re.compile(r"\d{5}|\*")


class _Steps:
    """How far a rendering has come."""

    taken = 0

    def take(self, count: int) -> None:
        self.taken += count
        if self.taken > MOST_STEPS:
            _give_up(f"it takes more than {MOST_STEPS} steps")

    def take_in(self, made: Any) -> Any:
        """Count what was made."""
        self.take(_size(made) // CHARS_A_STEP)
        return made

    def take_through(self, value: Any) -> None:
        """Look whether what stands in ``value`` may be written or compared; counted."""
        self.take(_allow_flat(value) // ITEMS_A_STEP)


def _give_up(why: str) -> NoReturn:
    from jinja2 import TemplateRuntimeError

    raise TemplateRuntimeError(why)


def counting() -> dict[str, object]:
    """What a rendering counts with, among its variables."""
    return {STEPS: _Steps()}


def _allow(size: int) -> None:
    if size > LARGEST:
        _give_up(f"it makes a text or list of more than {LARGEST:,} bytes")


def _allow_bits(bits: int) -> None:
    if bits > MOST_BITS:
        _give_up(f"it makes a number of more than {MOST_BITS} bits")


def _allow_format(text: Any) -> None:
    if isinstance(text, str) and WIDE.search(text):
        _give_up("it formats with a width of five digits, or one that an argument gives")


def _allow_flat(value: Any) -> int:
    """Whether what stands in ``value`` at any depth, and may stand there many times, may be made one text, or compared; how many items that is."""
    left = MOST_ITEMS
    waiting = [value]
    while waiting:
        item = waiting.pop()
        inner = [*item.keys(), *item.values()] if isinstance(item, Mapping) else item if isinstance(item, list | tuple | set | frozenset) else ()
        left -= len(inner) + _size(item) // CHARS_A_STEP
        if left < 0:
            _give_up(f"it writes or compares lists of more than {MOST_ITEMS:,} items")
        waiting += inner
    return MOST_ITEMS - left


def _size(value: Any) -> int:
    """About how many bytes a value has; of what it holds only texts count."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return 16 * len(value) + sum(len(item) for item in value.values() if isinstance(item, str))
    if isinstance(value, list | tuple | set | frozenset):
        return 8 * len(value) + sum(len(item) for item in value if isinstance(item, str))
    return 1


def _width(value: Any) -> int:
    """How many times as much an argument may make of a value: a number is a width, or a count."""
    return abs(value) if isinstance(value, int) else _size(value)


def _allow_call(value: Any, arguments: Iterable[Any]) -> None:
    """Whether a method or filter may be used on ``value``: no one makes more than the value as often as its largest argument says."""
    widths = [_width(argument) for argument in arguments]
    _allow(max(_size(value), 1) * max([1, *widths]))


def _allow_operator(operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        _allow_format(left)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _allow_bits(left.bit_length() * abs(right))
    elif operator == "*" and isinstance(left, int) and isinstance(right, int):
        _allow_bits(left.bit_length() + right.bit_length())
    elif operator == "*":
        _allow(_size(left) * right if isinstance(right, int) else left * _size(right) if isinstance(left, int) else 0)
    elif operator == "+":
        _allow(_size(left) + _size(right))


@lru_cache(maxsize=16)
def compiled(template: str) -> Template:
    """A template to be rendered with :func:`counting` among its variables. Raises jinja2's ``TemplateError`` when it is no Jinja."""
    environment = _environment()
    return environment.from_string(_counting(environment.parse(template)))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import pass_context
    from jinja2.ext import Extension
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Counting(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("+", "*", "**", "%"))

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            _allow_operator(operator, left, right)
            if operator == "%":
                context.parent[STEPS].take_through(right)
            return context.parent[STEPS].take_in(super().call_binop(context, operator, left, right))

        def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
            steps = context.parent[STEPS]
            steps.take(STEPS_A_CALL)
            if called is not range:
                given = (*args, *kwargs.values())
                _allow_call(getattr(called, "__self__", None), given)
                if not isinstance(called, Macro):
                    steps.take_through(given)
            result = super().call(context, called, *args, **kwargs)
            # Filters go through a range out of sight.
            steps.take(len(result)) if isinstance(result, range) else steps.take_in(result)
            return result

        def getattr(self, value: Any, attribute: str) -> Any:
            if attribute in ("format", "format_map"):
                _allow_format(value)
            return super().getattr(value, attribute)

        concat = staticmethod(_concat)

    class Marked(Extension):
        """What a template marks as the model's own words for training is rendered as what is not."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    # The settings under which templates are written: those of transformers' apply_chat_template.
    environment = Counting(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Marked], finalize=pass_context(_flat))
    environment.filters["tojson"] = _tojson
    environment.filters = {name: _bounded(name, filter) for name, filter in environment.filters.items()} | _own_filters()
    tests: Mapping[str, Any] = environment.tests
    environment.tests = {**tests, **{name: _compared(tests[name]) for name in COMPARING}}
    # Filler text, as much as asked for.
    del environment.globals["lipsum"]
    return environment


def _own_filters() -> dict[str, Callable[..., Any]]:
    """The filters that no template can name: for what :func:`_counting` writes into it."""
    from jinja2 import pass_context

    @pass_context
    def count(context: Context, _: Any) -> bool:
        context.parent[STEPS].take(1)
        return True

    @pass_context
    def join(context: Context, items: list[Any]) -> str:
        return str(context.parent[STEPS].take_in(_concat(str(_flat(context, item)) for item in items)))

    @pass_context
    def whole(context: Context, value: Any) -> Any:
        _look_through(context, value)
        return value

    return {COUNT: count, JOIN: join, WHOLE: whole}


def _concat(pieces: Iterable[str]) -> str:
    kept, size = [], 0
    for piece in pieces:
        size += len(piece)
        _allow(size)
        kept.append(piece)
    return "".join(kept)


def _flat(context: Context, value: Any) -> Any:
    _look_through(context, value)
    return value


def _look_through(context: Context, value: Any) -> None:
    """Whether ``value`` may be written or compared; counted."""
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        context.parent[STEPS].take_through(value)


def _compared(test: Callable[..., Any]) -> Callable[..., Any]:
    """The test, of what may be compared."""
    from jinja2 import pass_context

    @pass_context
    def compared(context: Context, value: Any, other: Any) -> Any:
        _look_through(context, value)
        _look_through(context, other)
        return test(value, other)

    return compared


def _bounded(name: str, filter: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, with what it makes counted, and nothing begun that may be too much."""
    from jinja2 import pass_context

    passed = getattr(getattr(filter, "jinja_pass_arg", None), "name", None)

    @pass_context
    def bounded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        _allow_call(value, (*args, *kwargs.values()))
        if name == "format":
            _allow_format(value)
        if name in FLATTENING:
            context.parent[STEPS].take_through((value, args, kwargs))
        first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}.get(passed or "")
        made = filter(value, *args, **kwargs) if passed is None else filter(first, value, *args, **kwargs)
        return context.parent[STEPS].take_in(made)

    return bounded


def _counting(tree: nodes.Template) -> nodes.Template:
    """The template with a step counted in every turn of its loops, for each item that a loop's condition is asked about, and for what ``~`` joins,
    and with what is compared, or names an entry, looked through before."""
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    class Rewriting(NodeTransformer):
        def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802 - jinja2 finds it by this name
            self.generic_visit(node)
            return nodes.Filter(nodes.List(node.nodes, lineno=node.lineno), JOIN, [], [], None, None, lineno=node.lineno)

        def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
            self.generic_visit(node)
            node.expr = looked_through(node.expr)
            for operand in node.ops:
                operand.expr = looked_through(operand.expr)
            return node

        def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:  # noqa: N802
            self.generic_visit(node)
            if not isinstance(node.arg, nodes.Slice):
                node.arg = looked_through(node.arg)
            return node

        def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:  # noqa: N802
            self.generic_visit(node)
            node.key = looked_through(node.key)
            return node

    def looked_through(value: nodes.Expr) -> nodes.Expr:
        return value if isinstance(value, nodes.Const) else nodes.Filter(value, WHOLE, [], [], None, None, lineno=value.lineno)

    Rewriting().visit(tree)
    for loop in tree.find_all(nodes.For):
        count = nodes.Filter(nodes.Const(None), COUNT, [], [], None, None, lineno=loop.lineno)
        loop.body.insert(0, nodes.ExprStmt(count, lineno=loop.lineno))
        if loop.test is not None:
            loop.test = nodes.And(count, loop.test, lineno=loop.lineno)
    tree.set_environment(_environment())
    return tree


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
