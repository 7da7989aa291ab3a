"""What of a web page is not its content: menus, banners, footers and cookie notices, and what is struck out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Literal

HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
LISTS = {"ul", "ol", "menu"}
STRUCK = {"del", "s", "strike"}
# Text in these does not speak against a list of links.
LINKS = {"a", "button", "select", "svg"}
ROLES = {"navigation", "contentinfo", "search"}
# Whose header and footer are their own, not the page's.
CONTENT = {"article", "blockquote"}
# What a notice is made of: never the whole page, and no heading or link whose id says what it is about.
NOTICES = {"div", "aside", "section", "dialog", "form", "p", "span", "ul"}
# Elements within elements that are looked at.
DEEPEST = 200
_NOTICE = re.compile("cookie|consent", re.IGNORECASE)
_STYLE_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
# Links that say something themselves: whom to call or to write to.
_CONTACT = re.compile(r"\s*(?:tel|mailto|sms):", re.IGNORECASE)

Kind = Literal["menu", "header", "list", "link", "content", "section", "main"]


@dataclass(slots=True)
class _Element:
    tag: str
    kind: Kind
    number: int
    # How many of the same tag are open in it, and whether it is in a part of the page with headers of its own.
    depth: int = 0
    within: bool = False
    # Of a header: the headings in it, and whether one is the page's.
    headings: int = 0
    first: bool = False
    # Of a list: its items, those with a link, the last of these, and whether there is text outside of links.
    items: int = 0
    linked: int = 0
    last: int = 0
    text: bool = False


def styled(style: str) -> dict[str, str]:
    """What the attribute ``style`` of an element declares."""
    values: dict[str, str] = {}
    important: dict[str, str] = {}
    for declaration in _STYLE_COMMENT.sub(" ", style).lower().split(";"):
        name, _, value = declaration.partition(":")
        value, exclaimed, _ = value.partition("!")
        (important if exclaimed else values)[name.strip()] = value.strip()
    return values | important


def _strikes(style: str) -> bool:
    """Whether an element with this style is struck out."""
    if "line-through" not in style.lower():
        return False
    values = styled(style)
    return "line-through" in values.get("text-decoration-line", values.get("text-decoration", "")).split()


class Chrome(HTMLParser):
    """Numbers the start tags of a page. ``menus`` and ``lists`` are the numbers of those with which something begins that is no content, ``lists`` of
    lists of two or more items that are links to pages and no more; ``struck`` of what does not hold any more. What has no end tag is content: nobody
    knows where it ends."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.menus: set[int] = set()
        self.lists: set[int] = set()
        self.struck: set[int] = set()
        self._open: list[_Element] = []
        # By tag the elements that are struck out, and what of the same tag is in them, None where it is not.
        self._striking: dict[str, list[int | None]] = {}
        self._number = 0
        self._code = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at what begins."""
        number, self._number = self._number, self._number + 1
        self._code = tag in ("script", "style")
        given = {name: value or "" for name, value in attrs}
        if tag in STRUCK or _strikes(given.get("style", "")):
            self._striking.setdefault(tag, []).append(number)
        elif self._striking.get(tag):
            self._striking[tag].append(None)
        contact = tag == "a" and _CONTACT.match(given.get("href", "")) is not None
        for element in self._open:
            element.depth += element.tag == tag
            element.headings += tag in HEADINGS
            element.first = element.first or tag == "h1"
            element.text = element.text or contact
            if tag == "a" and element.kind == "list" and element.last < element.items:
                element.linked, element.last = element.linked + 1, element.items
        if tag == "li" and (around := next((element for element in reversed(self._open) if element.kind == "list"), None)):
            around.items += 1
        kind = self._kind(tag, given)
        if kind is not None and len(self._open) < DEEPEST:
            self._open.append(_Element(tag, kind, number, within=self._within("section", "main")))

    def handle_endtag(self, tag: str) -> None:
        """Decide about what ends."""
        self._code = False
        if self._striking.get(tag) and (number := self._striking[tag].pop()) is not None:
            self.struck.add(number)
        same = [at for at, element in enumerate(self._open) if element.tag == tag]
        if same and self._open[same[-1]].depth == 0:
            self._decide(self._open[same[-1]])
            del self._open[same.pop() :]
        for at in same:
            self._open[at].depth -= 1

    def handle_data(self, data: str) -> None:
        """Text outside of links makes a list more than a menu."""
        if self._code or self._within("link") or not any(char.isalnum() for char in data):
            return
        for element in self._open:
            element.text = True

    def _within(self, *kinds: Kind) -> bool:
        return any(element.kind in kinds for element in self._open)

    def _kind(self, tag: str, given: dict[str, str]) -> Kind | None:
        role, own = given.get("role", "").strip().lower(), self._within("content")
        named = given.get("class", "") if tag == "section" else f"{given.get('class', '')} {given.get('id', '')}"
        notice = tag in NOTICES and not own and not self._within("main") and _NOTICE.search(named)
        if tag == "nav" or role in ROLES or (tag == "aside" and role != "note") or (tag == "footer" and not own) or notice:
            return "menu"
        if (tag == "header" or role == "banner") and not own:
            return "header"
        if role == "main" or tag in ("main", "section"):
            return "main" if tag != "section" or role == "main" else "section"
        return "list" if tag in LISTS else "link" if tag in LINKS else "content" if tag in CONTENT else None

    def _decide(self, element: _Element) -> None:
        if element.kind == "menu" or (element.kind == "header" and not element.first and not (element.within and element.headings)):
            self.menus.add(element.number)
        elif element.kind == "list" and element.items == element.linked > 1 and not element.text:
            self.lists.add(element.number)
