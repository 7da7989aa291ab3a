"""What a grammar would cost llama.cpp, which cannot be stopped once it is at it: found out beforehand.

llama.cpp keeps a stack for each way in which the text so far can be read, and looks at a token along each of them. Where the same text can be read
in many ways (``"a"? "a"? "a"? ...``) these multiply with each of its characters. So from each place of the grammar the ways are counted along the
characters that the most of them take. And where a rule leads back to itself in two ways on the same text (``e ::= "(" e "+" e ")" | "(" e "-" e ")"
| "x"``), they double with each level, however many tokens that takes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import lru_cache
from itertools import combinations, islice, pairwise, product

from mdsa_local.errors import InputError
from mdsa_local.runtime.grammar import Chars, Ref

# llama.cpp goes into parentheses by recursion, until its stack is full.
MOST_NESTED = 200
# Of these llama.cpp 0.3.36 refuses more, or takes more for no limit.
MOST_REPEATS = 2000
# What may come next at one place. With a vocabulary of 152k, 2000 names to choose from take a second a token, 5000 three to four.
MOST_NEXT = 2000
# Ways to read one text. Eighteen optional blanks (48,620) take 0.9 s a token, twenty-two (705,432) twelve.
MOST_WAYS = 50_000
# Places, with what lies below them, that are looked at: some seconds. A programming language has tens of thousands.
MOST_PLACES = 400_000
# Characters of a token in which they may multiply: vocabularies have rows of blanks and of lines that are as long.
LENGTH = 40
COSTLY = "the grammar can read the same text in too many ways, and a token would take seconds or hours"
ADVICE = 'Put at most fifteen optional parts beside each other that may be alike: write [ ]{0,20} in place of " "? " "? ..., and one of ws ws ws.'
# Two ways that are looked at together: a second or two.
MOST_COMPARED = 100_000
DOUBLING = "the grammar or JSON schema has alternatives that begin alike and contain each other, and a token would take seconds or hours"
APART = "Put what tells the alternatives apart first: in objects a property that each of them requires, with a value of its own."
TOKEN = re.compile(
    r"""(?P<blank>[ \t]+|\#[^\r\n]*)|(?P<line>\r?\n)|(?P<name>[A-Za-z0-9-]+)(?P<rule>\s*::=)?
    |(?P<text>"(?:\\.|[^"\\])*")|(?P<chars>\[(?:\\.|[^\]\\])*\])
    |(?P<special>!?<[^>]*>)|\{\s*(?P<least>\d+)\s*(?P<comma>,?)\s*(?P<most>\d*)\s*\}|(?P<mark>[*+?().|])""",
    re.VERBOSE | re.DOTALL,
)
CHARACTER = re.compile(r"\\(?:x(..)|u(.{4})|U(.{8})|(.))|([^\\])", re.DOTALL)
ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
Terminal = str | Chars
Alternative = tuple[Terminal | Ref, ...]
# A rule's alternatives. Repetitions are rules of their own, as llama.cpp makes of them.
Grammar = dict[str, list[Alternative]]
# An alternative, and the symbol of it that is next.
_Place = tuple[Alternative, int]
_Step = tuple[str, int, Iterator[tuple[str, _Place]], _Place]


@lru_cache(maxsize=64)
def check_gbnf(text: str) -> None:
    """Raise :class:`InputError` for a grammar that would be too much for llama.cpp. What is no GBNF passes: llama.cpp says so itself."""
    if (grammar := parsed(text)) is not None:
        _Ways(grammar).check()
        _Circles(grammar).check()


@lru_cache(maxsize=64)
def check_circles(text: str) -> None:
    """Raise :class:`InputError` for a grammar with ways that double with each level: of what else is too much, schemas make none."""
    if (grammar := parsed(text)) is not None:
        _Circles(grammar).check()


def parsed(text: str) -> Grammar | None:
    """The rules of a grammar; None where it is none."""
    reading, at = _Reading(), 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None or not reading.take(found):
            return None
        at = found.end()
    return reading.whole()


class _Reading:
    """The rules of a grammar that is read token by token."""

    def __init__(self) -> None:
        self._grammar: Grammar = {}
        # Of each parenthesis that is open, and the rule around them: its name and its alternatives so far.
        self._opened: list[tuple[str, list[list[Terminal | Ref]]]] = []
        # What a mark behind it would repeat: from here on, of the alternative that is read.
        self._last = 0

    def take(self, found: re.Match[str]) -> bool:
        """Read on by a token; False where it cannot stand there."""
        if found["blank"] or found["line"]:
            return True
        if found["rule"]:
            return self._begin(found["name"])
        if not self._opened:
            return False
        mark = found["mark"] or ""
        if found["least"] or mark in ("*", "+", "?"):
            return self._repeat(found, mark)
        if mark == "(":
            if len(self._opened) > MOST_NESTED:
                raise InputError(f"the grammar has more than {MOST_NESTED} parentheses in each other", "Give its parts rules of their own.")
            self._open(f"({found.start()}")
        elif mark == ")":
            if len(self._opened) < 2:
                return False
            self._add([Ref(self._close())])
        elif mark == "|":
            self._opened[-1][1].append([])
            self._last = 0
        else:
            self._add(_symbols(found))
        return True

    def whole(self) -> Grammar | None:
        """The grammar, at the end of the text; None where something is open or missing."""
        if len(self._opened) != 1:
            return None
        self._close()
        named = {item.name for rule in self._grammar.values() for alternative in rule for item in alternative if isinstance(item, Ref)}
        return self._grammar if {"root", *named} <= self._grammar.keys() else None

    @property
    def _items(self) -> list[Terminal | Ref]:
        return self._opened[-1][1][-1]

    def _begin(self, name: str) -> bool:
        """Begin a rule; False inside parentheses."""
        if len(self._opened) == 1:
            self._close()
        if self._opened:
            return False
        self._open(name)
        return True

    def _open(self, name: str) -> None:
        self._opened.append((name, [[]]))
        self._last = 0

    def _close(self) -> str:
        name, alternatives = self._opened.pop()
        self._grammar[name] = [tuple(alternative) for alternative in alternatives]
        return name

    def _add(self, symbols: Iterable[Terminal | Ref]) -> None:
        self._last = len(self._items)
        self._items.extend(symbols)

    def _repeat(self, found: re.Match[str], mark: str) -> bool:
        """Repeat what was read last; False where there is nothing, or llama.cpp would refuse it."""
        if self._last == len(self._items):
            return False
        least = int(found["least"] or mark == "+")
        most = int(found["most"]) if found["most"] else least if found["least"] and not found["comma"] else 1 if mark == "?" else None
        if least > MOST_REPEATS:
            return False
        _repeat(self._grammar, self._items, self._last, least, None if most is None or most > MOST_REPEATS else most)
        return True


def _symbols(found: re.Match[str]) -> Iterator[Terminal | Ref]:
    if found["name"]:
        yield Ref(found["name"])
    elif found["text"]:
        yield from _characters(found["text"][1:-1])
    elif found["chars"]:
        inside = found["chars"][1:-1]
        negated = inside.startswith("^")
        yield Chars(tuple(_ranges(inside[negated:])), negated)
    elif found["special"]:
        yield found["special"]
    else:
        yield Chars((), True)


def _characters(text: str) -> list[str]:
    return [_character(found) for found in CHARACTER.finditer(text)]


def _character(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code:
        try:
            return chr(int(code, 16))
        except (ValueError, OverflowError):
            return "\ufffd"
    return ESCAPES.get(found[4], found[4]) if found[4] else found[5]


def _ranges(inside: str) -> Iterator[tuple[int, int]]:
    found = list(CHARACTER.finditer(inside))
    at = 0
    while at < len(found):
        ranged = at + 2 < len(found) and found[at + 1][0] == "-"
        yield ord(_character(found[at])), ord(_character(found[at + 2 if ranged else at]))
        at += 3 if ranged else 1


def _repeat(grammar: Grammar, items: list[Terminal | Ref], start: int, least: int, most: int | None) -> None:
    """Repeat what ``items`` has from ``start`` on, by rules that are added to ``grammar``."""
    item = items[start:]
    items[start:] = item * least
    rest: list[Terminal | Ref] = []
    if most is None:
        rest = [Ref(f"*{len(grammar)}")]
        grammar[f"*{len(grammar)}"] = [(*item, *rest), ()]
    else:
        for _ in range(most - least):
            name = f"?{len(grammar)}"
            grammar[name] = [(*item, *rest), ()]
            rest = [Ref(name)]
    items += rest


class _Ways:
    """Stacks of places in a grammar, as numbers; 0 is the empty one."""

    def __init__(self, grammar: Grammar, closed: Set[str] = frozenset()) -> None:
        self._grammar = grammar
        # Rules that are not gone into.
        self._closed = closed
        self._stacks: list[tuple[Alternative, int, int]] = [((), 0, 0)]
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._opened: dict[int, tuple[int, ...]] = {}

    def check(self) -> None:
        """Raise :class:`InputError` where a token would take too long."""
        self._follow(self._push((Ref("root"),), 0, 0))
        for name, below in self._places():
            for alternative in self._grammar[name]:
                for at, (one, other) in enumerate(pairwise((*alternative, Ref(""))), 1):
                    # Behind a rule is where its last character is; between two characters there is but one way.
                    if not isinstance(one, Ref) and isinstance(other, Ref):
                        self._follow(self._push(alternative, at, below))

    def _places(self) -> Iterator[tuple[str, int]]:
        """Rules with the stacks that may lie below them: one for each place where they are named, and for those that lead back to themselves one
        that is as high as if they had done so for as long as a token is."""
        seen, known = {("root", 0)}, {"root"}
        yield "root", 0
        # Depth first, so that who leads back is found on the way. Of each rule on it: its name, the stack below it, what it names that is still to be
        # looked at, and the place behind it in the rule before.
        way: list[_Step] = [("root", 0, _named(self._grammar, "root"), ((), 0))]
        heights = {"root": 0}
        while way:
            name, below, named, _ = way[-1]
            if (found := next(named, None)) is None:
                del heights[name]
                way.pop()
                continue
            inner, place = found
            for rule, stack in self._around(way, heights[inner], place) if inner in heights else [(inner, self._push(*place, below))]:
                if (rule, stack) not in seen:
                    seen.add((rule, stack))
                    yield rule, stack
            if inner not in known:
                known.add(inner)
                heights[inner] = len(way)
                way.append((inner, stack, _named(self._grammar, inner), place))

    def _around(self, way: list[_Step], height: int, place: _Place) -> Iterator[tuple[str, int]]:
        """The rules of a circle, from that at a height of the way on, as high above each other as if it had been gone round and round."""
        circle = [*((name, around) for name, *_, around in way[height + 1 :]), (way[height][0], place)]
        stack = way[height][1]
        for _ in range(LENGTH):
            for _, around in circle:
                stack = self._push(*around, stack)
        for rule, around in circle:
            stack = self._push(*around, stack)
            yield rule, stack

    def _push(self, alternative: Alternative, at: int, below: int) -> int:
        if at == len(alternative):
            return below
        key = id(alternative), at, below
        if key not in self._numbers:
            if len(self._stacks) > MOST_PLACES:
                raise InputError("the grammar has too many rules that lead back to each other", "Give it fewer rules, or fewer that name each other.")
            self._numbers[key] = len(self._stacks)
            self._stacks.append((alternative, at, below))
        return self._numbers[key]

    def _open(self, stack: int) -> tuple[int, ...]:
        """The stacks that it may become before the next character: with that on top, or empty."""
        if stack not in self._opened:
            done: list[int] = []
            pending, seen = [stack], {stack}
            while pending:
                if len(seen) > 10 * MOST_NEXT or len(done) >= MOST_NEXT:
                    raise InputError(
                        f"the grammar has a place where more than {MOST_NEXT} things may come next, or a rule that begins with itself",
                        "Give it fewer alternatives, or fewer repetitions of what may be empty.",
                    )
                top = pending.pop()
                alternative, at, below = self._stacks[top]
                item = alternative[at] if top else ""
                if not isinstance(item, Ref) or item.name in self._closed:
                    done.append(top)
                    continue
                rest = self._push(alternative, at + 1, below)
                for inner in self._grammar[item.name]:
                    if (opened := self._push(inner, 0, rest)) not in seen:
                        seen.add(opened)
                        pending.append(opened)
            self._opened[stack] = tuple(done)
        return self._opened[stack]

    def _follow(self, start: int) -> None:
        """Count the ways from a stack, along the characters that the most of them take."""
        ways = dict.fromkeys(self._open(start), 1)
        for _ in range(LENGTH):
            tops = [(*self._stacks[stack], count) for stack, count in ways.items() if stack]
            taken = _most_taken((alternative[at], count) for alternative, at, _, count in tops)
            takers = [(self._push(alternative, at + 1, below), count) for alternative, at, below, count in tops if _takes(alternative[at], taken)]
            # A single one leads to another place, from where they are counted too.
            if sum(count for _, count in takers) < 2:
                return
            after: Counter[int] = Counter()
            for rest, count in takers:
                for opened in self._open(rest):
                    after[opened] += count
            if after.total() > MOST_WAYS:
                raise InputError(COSTLY, ADVICE)
            ways = dict(after)


class _Circles(_Ways):
    """Looks for two ways into the same rule along the same text, of a rule which that rule leads back to. Rules are gone into as far as they do not
    lead back to themselves, and each is taken to go on alike in both ways."""

    def __init__(self, grammar: Grammar) -> None:
        super().__init__(grammar, _closing(grammar))
        self._reached = {name: _reached(grammar, name) for name in sorted(self._closed)}
        self._seen: set[tuple[int, int]] = set()
        self._many: list[set[int]] = []

    def check(self) -> None:
        """Raise :class:`InputError` where there are. Where there is too much to look at, some may not be found."""
        for name in dict.fromkeys(name for reached in self._reached.values() for name in reached):
            rule = self._grammar[name]
            self._compare(name, {top for alternative in rule for top in self._open(self._push(alternative, 0, 0))})
            for alternative in rule:
                for at in range(1, len(alternative)):
                    self._compare(name, set(self._open(self._push(alternative, at, 0))))

    def _compare(self, name: str, tops: set[int]) -> None:
        """Follow what may come next in a rule, by two."""
        if len(tops) > 20:
            # The members of an object from each on are among those from the first on.
            if any(tops <= many for many in self._many):
                return
            self._many.append(tops)
        pending = self._fresh(combinations(sorted(tops), 2))
        while pending and len(self._seen) < MOST_COMPARED:
            one, other = pending.pop()
            if not self._alike(one, other):
                continue
            behind, beside = self._behind(one), self._behind(other)
            if behind == beside:
                continue
            item = self._next(one)
            if behind and beside and isinstance(item, Ref) and name in self._reached[item.name]:
                raise InputError(DOUBLING, APART)
            pending += self._fresh(product(self._open(behind), self._open(beside)))

    def _fresh(self, pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        fresh = {(min(pair), max(pair)) for pair in islice(pairs, MOST_COMPARED) if pair[0] != pair[1]} - self._seen
        self._seen |= fresh
        return sorted(fresh)

    def _alike(self, one: int, other: int) -> bool:
        """Whether the same text may come next in both."""
        first, second = self._next(one), self._next(other)
        if first == second:
            return bool(one and other)
        if not isinstance(first, Chars) and not isinstance(second, Chars):
            return False
        taken = _most_taken([(first, 1), (second, 1)])
        return _takes(first, taken) and _takes(second, taken)

    def _next(self, stack: int) -> Terminal | Ref:
        alternative, at, _ = self._stacks[stack]
        return alternative[at] if stack else ""

    def _behind(self, stack: int) -> int:
        alternative, at, below = self._stacks[stack]
        return self._push(alternative, at + 1, below)


def _named(grammar: Grammar, name: str) -> Iterator[tuple[str, _Place]]:
    """The rules that a rule names, and the place behind each."""
    for alternative in grammar[name]:
        for at, item in enumerate(alternative, 1):
            if isinstance(item, Ref):
                yield item.name, (alternative, at)


def _closing(grammar: Grammar) -> Set[str]:
    """Rules without which none would lead back to itself, but to repeat what it begins with."""
    found, known = set(), {"root"}
    way = {"root": _named(grammar, "root")}
    while way:
        name, named = next(reversed(way.items()))
        if (step := next(named, None)) is None:
            way.popitem()
            continue
        inner, (alternative, at) = step
        if inner in way and (inner != name or at < len(alternative)):
            found.add(inner)
        elif inner not in known:
            known.add(inner)
            way[inner] = _named(grammar, inner)
    return found


def _reached(grammar: Grammar, name: str) -> Mapping[str, None]:
    """The rule and those that it leads to, in the order in which they are named."""
    reached, pending = {name: None}, [name]
    while pending:
        for inner, _ in _named(grammar, pending.pop()):
            if inner not in reached:
                reached[inner] = None
                pending.append(inner)
    return reached


def _takes(terminal: Terminal | Ref, character: str) -> bool:
    return terminal.has(character) if isinstance(terminal, Chars) and len(character) == 1 else terminal == character


def _most_taken(terminals: Iterable[tuple[Terminal | Ref, int]]) -> str:
    """The character that the most ways take."""
    exact: Counter[str] = Counter()
    ranges: Counter[Chars] = Counter()
    for terminal, count in terminals:
        if isinstance(terminal, str):
            exact[terminal] += count
        elif isinstance(terminal, Chars):
            ranges[terminal] += count
    return _best(exact, ranges)


def _best(exact: Mapping[str, int], ranges: Mapping[Chars, int]) -> str:
    edges = {edge for chars in ranges for low, high in chars.ranges or ((32, 32),) for edge in (low, high + 1) if edge < 0x110000}
    candidates = {*exact, *map(chr, edges)}
    return max(
        sorted(candidates),
        key=lambda one: exact.get(one, 0) + sum(count for chars, count in ranges.items() if len(one) == 1 and chars.has(one)),
        default="",
    )
