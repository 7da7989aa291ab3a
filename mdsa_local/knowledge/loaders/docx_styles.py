"""What the styles of a Word file say of its runs and paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mdsa_local.knowledge.loaders.lists import whole

# How a property says that it is not so.
_OFF = ("0", "false", "off")
_HIDING, _ALIGNMENT = ("strike", "dstrike", "vanish"), "vertAlign"
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
# Styles that are based on one another, at most.
_MOST_STYLES = 20
# Levels of the outline; the next one is text.
_LEVELS = 9
# What so ends is no heading, whatever level it has.
_TEXT_ENDS = (".", ",", ";", ":")


class Styles:
    """The styles of a document, by their id."""

    def __init__(self, document: Any) -> None:
        root = document.styles.element
        self.word = f"{{{root.nsmap['w']}}}"
        self._styles = {style.get(f"{self.word}styleId"): style for style in root.iter(f"{self.word}style")}
        usual = (name for name, style in self._styles.items() if style.get(f"{self.word}default") and style.get(f"{self.word}type") == "paragraph")
        self._usual = next(usual, None)
        # What no style says need not be looked for.
        self._by_style = {name for name in (*_HIDING, _ALIGNMENT) if root.find(f"{self.word}style/{self.word}rPr/{self.word}{name}") is not None}
        self._said: dict[tuple[str | None, str], str | None] = {}

    def hides(self, run: Any) -> bool:
        """Whether a run is struck out or hidden."""
        return any(value not in _OFF for name in _HIDING for value in self._told(run, name))

    def aligned(self, run: Any) -> str:
        """``superscript`` or ``subscript`` for a run that is set so."""
        value = next(self._told(run, _ALIGNMENT), "")
        return value if value in ("superscript", "subscript") else ""

    def level(self, paragraph: Any) -> int | None:
        """The level of a heading, 0 for the title; None for text. It is one by its style or one of those that is based on, or by a level of the
        outline; where only the latter makes it one, or its style is the author's own, it may be a sentence, which is text."""
        word = self.word
        own = self._styles.get(self._style(paragraph))
        if own is not None and (level := self._named(own)) is not None:
            return level
        for element in (paragraph, *self._based(self._style(paragraph))):
            level = None if element is paragraph else self._named(element) or None
            outline = element.find(f"{word}pPr/{word}outlineLvl")
            if level is None and outline is not None:
                at = whole(outline.get(f"{word}val"))
                level = _LEVELS + 1 if at is None else at + 1
            if level is not None:
                return level if level <= _LEVELS and not paragraph.text.rstrip().endswith(_TEXT_ENDS) else None
        return None

    def _named(self, style: Any) -> int | None:
        name = style.find(f"{self.word}name")
        told = "" if name is None else name.get(f"{self.word}val", "")
        match = _HEADING.match(told)
        return int(match[1]) if match else 0 if told == "Title" else None

    def _style(self, paragraph: Any) -> str | None:
        style = paragraph.find(f"{self.word}pPr/{self.word}pStyle")
        name = None if style is None else style.get(f"{self.word}val")
        return name if name in self._styles else self._usual

    def _based(self, name: str | None) -> Iterator[Any]:
        """A style and those it is based on."""
        for _ in range(_MOST_STYLES):
            if (style := self._styles.get(name)) is None:
                return
            yield style
            base = style.find(f"{self.word}basedOn")
            name = None if base is None else base.get(f"{self.word}val")

    def _told(self, run: Any, name: str) -> Iterator[str]:
        """What is said of a property: by the run itself, else by its style and by the one of its paragraph."""
        word = self.word
        properties = run.find(f"{word}rPr")
        own = None if properties is None else properties.find(f"{word}{name}")
        if own is not None:
            yield own.get(f"{word}val", "")
        if own is not None or name not in self._by_style:
            return
        style, paragraph = None if properties is None else properties.find(f"{word}rStyle"), next(run.iterancestors(f"{word}p"), None)
        for used in (None if style is None else style.get(f"{word}val"), None if paragraph is None else self._style(paragraph)):
            if (used, name) not in self._said:
                found = (each.find(f"{word}rPr/{word}{name}") for each in self._based(used))
                self._said[used, name] = next((each.get(f"{word}val", "") for each in found if each is not None), None)
            if (said := self._said[used, name]) is not None:
                yield said
