"""Lists as lines: a mark before each item, two blanks for each list around it, and terms before what is said of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from mdsa_local.knowledge.loaders import MOST_TITLE_CHARS

LISTS = {"ul", "ol", "menu"}
# Word has no more levels; without a limit, lists in lists without end would be written as blanks without end.
DEEPEST = 8
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,9})\s*")


def whole(value: str | None) -> int | None:
    """The whole number that an attribute says, None where it says none."""
    match = _WHOLE.fullmatch(value or "")
    return int(match[1]) if match else None


def numbered(number: int) -> str:
    """What stands before an item with a number; of more digits it would be taken for the end of a sentence."""
    return f"{number}. " if 0 <= number < 100 else "- "


def placed(text: str, depth: int, mark: str = "") -> str:
    """The lines of an item of a list that is in ``depth`` others, and without ``mark`` those of text in so many."""
    margin = "  " * min(depth, DEEPEST)
    # The first lines of what is set as it stands may be blank.
    start = text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1 if mark else 0
    first, *rest = text[start:].split("\n")
    below = margin + "  " * bool(mark)
    return "\n".join([f"{margin}{mark}{first}", *(below + line if line.strip() else "" for line in rest)])


@dataclass(slots=True)
class _List:
    tag: str = ""
    # Of the next item, None where it gets a dash; and what the one after has more.
    number: int | None = None
    step: int = 1
    # Whether an item is open, and its mark until that is used.
    within: bool = False
    mark: str = ""


class Lists:
    """The lists of a page that are open. A block around them ends them too; an item in none has a mark and no more."""

    def __init__(self) -> None:
        self._lists = [_List()]
        # The tags of what is open, and how many there are of each.
        self._open: list[str] = []
        self._count: Counter[str] = Counter()
        # How many lists were open at the last heading: text below it needs no margin for them.
        self._base = 0

    def begin(self, tag: str, given: Mapping[str, str | None]) -> None:
        """A list begins, or another block that may have lists in it."""
        self._open.append(tag)
        self._count[tag] += 1
        if tag in LISTS:
            self.unmark()
            start, down = whole(given.get("start")), "reversed" in given
            # Where one that counts down begins, its number of items would say.
            number = None if tag != "ol" or (down and start is None) else 1 if start is None else start
            self._lists.append(_List(tag, number, -1 if down else 1))

    def end(self, tag: str) -> list[str]:
        """The tags of what ends with ``tag``; nothing where no such block is open."""
        ended: list[str] = []
        while self._count[tag] and ended[-1:] != [tag]:
            ended.append(self._open.pop())
            self._count[ended[-1]] -= 1
            if ended[-1] in LISTS:
                self._lists.pop()
        self._base = min(self._base, len(self._lists) - 1)
        return ended

    def item(self, given: Mapping[str, str | None]) -> None:
        """An item of the innermost list begins."""
        around = self._lists[-1]
        around.within = True
        self._base = min(self._base, max(0, len(self._lists) - 2))
        value = whole(given.get("value")) if around.tag == "ol" else None
        around.number = around.number if value is None else value
        around.mark = "- "
        if around.number is not None:
            around.mark = numbered(around.number)
            around.number += around.step

    def end_item(self) -> None:
        """The item that is open in the innermost list ends."""
        self._lists[-1].within, self._lists[-1].mark = False, ""

    def unmark(self) -> None:
        """What comes next of the item is no text that its mark could stand before."""
        self._lists[-1].mark = ""

    def restart(self) -> None:
        """A heading: what is below it stands at the margin, whatever lists the heading is in."""
        self.unmark()
        self._base = len(self._lists) - 1

    def placed(self, text: str) -> str:
        """A block of text where it stands in the lists, the first of an item behind its mark."""
        around, inner = self._lists[-1], len(self._lists) - 1 - self._base
        mark, around.mark = around.mark, ""
        return placed(text, max(0, inner - 1) if mark or not around.within else inner, mark)


class Terms:
    """The terms of ``<dl>`` until what is said of them comes. The methods return the blocks of text that have come to be complete."""

    def __init__(self) -> None:
        # The blocks of each term, and the terms as a line begins with them.
        self._terms: list[list[str]] = []
        self._lead = ""
        # Whether a term is read; whether a definition began, has its first block still to come, and has had one.
        self._naming = False
        self._defined = self._awaited = self._told = False

    def term(self) -> list[str]:
        """A term begins; after a definition those before are done with."""
        ended = self.finish() if self._defined else []
        self._naming = True
        self._terms.append([])
        return ended

    def hidden(self, tag: str) -> list[str]:
        """A ``<dt>`` or ``<dd>`` that is not read. It parts the terms before it from what comes next all the same."""
        self._naming = False
        if tag == "dd":
            self._defined = True
        return self.finish() if tag == "dt" and self._defined else []

    def end_term(self) -> None:
        """The term is complete."""
        self._naming = False

    def definition(self) -> None:
        """What is said of the terms begins."""
        if not self._defined:
            for name in (" ".join(" ".join(blocks).split()) for blocks in self._terms):
                # A question ends with its own mark.
                between = "" if not self._lead else " " if self._lead.endswith(("?", "？", ":", "：")) else ", "
                self._lead += between + name if name else ""
                if len(self._lead) > MOST_TITLE_CHARS:
                    break
        self._naming, self._defined, self._awaited = False, True, True

    def end_definition(self) -> None:
        """What comes next is not said of the terms."""
        self._awaited = False

    def take(self, text: str) -> list[str]:
        """A block of text."""
        if self._naming:
            self._terms[-1].append(text)
            return []
        if not self._awaited:
            return [*(() if self._defined else self.finish()), text]
        led = self._led()
        return [f"{led[0]} {text}"] if self._lead and led else [*led, text]

    def leave(self) -> list[str]:
        """What comes next is no block that terms could stand before."""
        return self._led() if self._awaited else [] if self._defined else self.finish()

    def finish(self) -> list[str]:
        """The list ends. Terms of which nothing was said stand alone."""
        alone = [] if self._told else [block for blocks in self._terms for block in blocks]
        self._terms, self._lead = [], ""
        self._naming = self._defined = self._awaited = self._told = False
        return alone

    def _led(self) -> list[str]:
        """The terms as they stand before the definition that begins, which has them then."""
        self._awaited = False
        if len(self._lead) > MOST_TITLE_CHARS:
            # Each definition would carry them: they are said once.
            blocks = self.finish()
            self._defined = True
            return blocks
        self._told = True
        return [self._lead + ("" if self._lead.endswith(("?", "？", ":", "：")) else ":")] if self._lead else []
