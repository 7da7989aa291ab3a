"""What stands before the paragraphs of a Word file's lists. Word stores no number: it counts, and so does this."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mdsa_local.knowledge.loaders.lists import DEEPEST, numbered, placed, whole

# Word's own styles: "List Bullet", "List Number 2", "List Continue 3", "List 2".
_STYLE = re.compile(r"List(?: (Bullet|Number|Continue|Paragraph))?(?: (\d))?.*")
# Styles that are based on one another, at most.
_MOST_STYLES = 20


@dataclass(frozen=True, slots=True)
class _Level:
    """How the items of a level are marked: its format, and the first number."""

    format: str
    start: int


class Numbering:
    """The marks of a document's paragraphs, which have to be told one after the other."""

    def __init__(self, document: Any) -> None:
        self._word = f"{{{document.element.body.nsmap['w']}}}"
        self._levels = dict(self._read(document))
        # The last numbers of each list, by its number, then by level; None is that of paragraphs that are in one by their style alone.
        self._counts: dict[int | None, dict[int, int]] = {}
        # What styles say, by their id.
        self._styles: dict[str, tuple[int | None, int | None]] = {}

    def placed(self, paragraph: Any, style: Any) -> str:
        """The text of a paragraph in this style, in a list where it stands there; empty where it has none, though in a list it counts."""
        text = str(paragraph.text).strip()
        of_list = _STYLE.fullmatch((style.name if style is not None else "") or "")
        kind, depth = (of_list[1], max(0, int(of_list[2] or 1) - 1)) if of_list else (None, 0)
        number, level = self._told(paragraph._p)
        if number is None and kind in (None, "Paragraph") and style is not None:
            number, own = self._of_style(style)
            level = own if level is None else level
        if number == 0 or (number is None and not of_list):
            if text:
                self.end()
            return text
        if number is None and kind == "Continue":
            return placed(text, depth + 1) if text else ""
        depth = min(max(0, level or 0), DEEPEST) if number or level is not None else depth
        known = self._levels.get((number, depth), _Level("decimal" if kind == "Number" else "", 1))
        counts = self._counts.setdefault(number, {})
        for deeper in [other for other in counts if other > depth]:
            del counts[deeper]
        mark = "- "
        if known.format == "decimal":
            counts[depth] = counts.get(depth, known.start - 1) + 1
            mark = numbered(counts[depth])
        return placed(text, depth, mark) if text else ""

    def end(self) -> None:
        """Lists that are so by their style alone end."""
        self._counts.pop(None, None)

    def _of_style(self, style: Any) -> tuple[int | None, int | None]:
        """What a style says of number and level, or the first that does of those it is based on."""
        if style.style_id not in self._styles:
            number = level = None
            above = style
            for _ in range(_MOST_STYLES):
                number, own = self._told(above.element)
                level = own if level is None else level
                above = above.base_style
                if number is not None or above is None:
                    break
            self._styles[style.style_id] = number, level
        return self._styles[style.style_id]

    def _told(self, element: Any) -> tuple[int | None, int | None]:
        """The number of its list, 0 for none, and the level there that a paragraph or style has of its own."""
        properties = element.find(f"{self._word}pPr/{self._word}numPr")
        return (None, None) if properties is None else (self._value(properties, "numId"), self._value(properties, "ilvl"))

    def _value(self, element: Any, name: str) -> int | None:
        inner = element.find(f"{self._word}{name}")
        value = None if inner is None else whole(inner.get(f"{self._word}val"))
        # What is no number is that of no list that there is.
        return -1 if value is None and inner is not None else value

    def _read(self, document: Any) -> Iterator[tuple[tuple[int | None, int | None], _Level]]:
        """How each level of each list is marked, by the number of the list and the level's own."""
        relations = [one for one in document.part.rels.values() if one.reltype.endswith("/numbering") and not one.is_external]
        root = next((one.target_part.element for one in relations if hasattr(one.target_part, "element")), None)
        if root is None:
            return
        word = self._word
        kinds = {whole(kind.get(f"{word}abstractNumId")): kind for kind in root.iter(f"{word}abstractNum")}
        for of in root.iter(f"{word}num"):
            number, kind = whole(of.get(f"{word}numId")), kinds.get(self._value(of, "abstractNumId"))
            levels = {whole(level.get(f"{word}ilvl")): self._level(level) for level in (kind.iter(f"{word}lvl") if kind is not None else ())}
            for change in of.iter(f"{word}lvlOverride"):
                # A list made like another: mostly one that begins anew.
                at, begin, level = whole(change.get(f"{word}ilvl")), self._value(change, "startOverride"), change.find(f"{word}lvl")
                if level is not None:
                    levels[at] = self._level(level)
                if at in levels and begin is not None:
                    levels[at] = replace(levels[at], start=begin)
            for at, known in levels.items():
                yield (number, at), known

    def _level(self, level: Any) -> _Level:
        format, start = level.find(f"{self._word}numFmt"), self._value(level, "start")
        # One that names no format is decimal (ECMA-376 part 1, 17.9.17).
        return _Level("decimal" if format is None else format.get(f"{self._word}val", ""), 1 if start is None else start)
