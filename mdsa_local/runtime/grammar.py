"""Small grammars: written as GBNF for llama.cpp, or followed character by character where a runtime has only logits to offer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

# llama.cpp 0.3.36 refuses a rule with more repetitions than 2000; a grammar may allow more than a schema, since what comes out is checked.
MOST_REPEATS = 1000


@dataclass(frozen=True, slots=True)
class Chars:
    """One character in (or, ``negated``, outside) the inclusive ``ranges`` of code points."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False

    def has(self, character: str) -> bool:
        """Whether the character belongs to it."""
        return any(low <= ord(character) <= high for low, high in self.ranges) != self.negated


@dataclass(frozen=True, slots=True)
class Seq:
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    """One of several."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """``least`` to ``most`` times; None: without end."""

    item: Node
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """Another rule by name."""

    name: str


Node = str | Chars | Seq | Alt | Repeat | Ref
Rules = Mapping[str, Node]


def chars(text: str, negated: bool = False) -> Chars:
    """The characters of ``text``, where ``a-z`` is a range, as in a regular expression without escapes."""
    ranges: list[tuple[int, int]] = []
    at = 0
    while at < len(text):
        end = at + 2 if text[at + 1 : at + 2] == "-" and at + 2 < len(text) else at
        ranges.append((ord(text[at]), ord(text[end])))
        at = end + 1
    return Chars(tuple(ranges), negated)


def gbnf(rules: Rules) -> str:
    """The rules in llama.cpp's notation; the rule ``root`` is where an answer begins."""
    return "\n".join(f"{name} ::= {_written(node)}" for name, node in rules.items())


def _written(node: Node) -> str:
    match node:
        case str():
            return '"' + "".join(_escaped(character) for character in node) + '"'
        case Chars(ranges, negated):
            inside = "".join(_escaped(chr(low)) + (f"-{_escaped(chr(high))}" if high > low else "") for low, high in ranges)
            return f"[{'^' if negated else ''}{inside}]"
        case Seq(items):
            return "( " + " ".join(map(_written, items)) + " )" if items else '""'
        case Alt(items):
            return "( " + " | ".join(map(_written, items)) + " )"
        case Repeat(item, least, most):
            if most is not None and most > MOST_REPEATS:
                most = None
            least = min(least, MOST_REPEATS)
            mark = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most), f"{{{least},{'' if most is None else most}}}")
            return f"{_written(item)}{mark}" if isinstance(item, (Chars, Ref)) else f"( {_written(item)} ){mark}"
        case Ref(name):
            return name


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\[]^-' or code < 0x20 or code == 0x7F:
        return f"\\x{code:02X}"
    return character


def productive(rules: Rules) -> Rules:
    """The rules without what no text can follow: an :class:`Alt` of nothing, and what cannot be without it or without itself."""
    possible: set[str] = set()
    size = -1
    while len(possible) > size:
        size = len(possible)
        # From the last on, because rules name later ones.
        for name in reversed(list(rules)):
            if name not in possible and _can_be(rules[name], possible):
                possible.add(name)
    return {name: _pruned(node, possible) for name, node in rules.items() if name in possible}


def _can_be(node: Node, possible: Set[str]) -> bool:
    match node:
        case Seq(items):
            return all(_can_be(item, possible) for item in items)
        case Alt(items):
            return any(_can_be(item, possible) for item in items)
        case Repeat(item, least):
            return least == 0 or _can_be(item, possible)
        case Ref(name):
            return name in possible
        case _:
            return True


def _pruned(node: Node, possible: Set[str]) -> Node:
    match node:
        case Seq(items):
            return Seq(tuple(_pruned(item, possible) for item in items))
        case Alt(items):
            return Alt(tuple(_pruned(item, possible) for item in items if _can_be(item, possible)))
        case Repeat(item, least, most):
            return Repeat(_pruned(item, possible), least, most) if _can_be(item, possible) else ""
        case _:
            return node


def begins_with_itself(rules: Rules) -> str:
    """A rule that leads back to itself before any character, where what comes first in each is never empty; an empty name where there is none."""
    try:
        TopologicalSorter({name: set(_begins(node)) for name, node in rules.items()}).prepare()
    except CycleError as error:
        return str(error.args[1][0])
    return ""


def _begins(node: Node) -> Iterator[str]:
    match node:
        case Seq((first, *_)) | Repeat(first):
            yield from _begins(first)
        case Alt(items):
            for item in items:
                yield from _begins(item)
        case Ref(name):
            yield name


# What is still to be matched, the next on top; linked, so that states share their ends.
Stack = tuple[Node, "Stack"] | None


class Follower:
    """Follows a grammar through a text. Keeps every way in which the text so far can be read."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._stacks = self._open({(Ref("root"), None)})

    def accepts(self, text: str) -> bool:
        """Whether ``text`` can come next; the state stays."""
        return bool(self._after(text))

    def feed(self, text: str) -> None:
        """Go on behind ``text``, which has to be acceptable."""
        self._stacks = self._after(text)

    @property
    def may_end(self) -> bool:
        """Whether the text so far is complete."""
        return None in self._stacks

    @property
    def must_end(self) -> bool:
        """Whether nothing can come next."""
        return not self._stacks - {None}

    def _after(self, text: str) -> frozenset[Stack]:
        stacks = self._stacks
        for character in text:
            stacks = self._open({rest for stack in stacks if stack for rest in _step(stack, character)})
            if not stacks:
                break
        return stacks

    def _open(self, stacks: set[Stack]) -> frozenset[Stack]:
        """The same states with a character or literal on top of each, or empty."""
        done: set[Stack] = set()
        pending, seen = list(stacks), set(stacks)
        while pending:
            stack = pending.pop()
            if stack is None or isinstance(stack[0], Chars) or (isinstance(stack[0], str) and stack[0]):
                done.add(stack)
                continue
            for opened in self._expanded(*stack):
                if opened not in seen:
                    seen.add(opened)
                    pending.append(opened)
        return frozenset(done)

    def _expanded(self, top: Node, rest: Stack) -> Iterator[Stack]:
        match top:
            case Seq(items):
                stack = rest
                for item in reversed(items):
                    stack = (item, stack)
                yield stack
            case Alt(items):
                for item in items:
                    yield (item, rest)
            case Repeat(item, least, most):
                if least == 0:
                    yield rest
                if most is None or most > 0:
                    yield (item, (Repeat(item, max(0, least - 1), None if most is None else most - 1), rest))
            case Ref(name):
                yield (self._rules[name], rest)
            case _:
                yield rest


def _step(stack: tuple[Node, Stack], character: str) -> Iterator[Stack]:
    top, rest = stack
    if isinstance(top, str):
        if top.startswith(character):
            yield (top[1:], rest) if len(top) > 1 else rest
    elif isinstance(top, Chars) and top.has(character):
        yield rest
