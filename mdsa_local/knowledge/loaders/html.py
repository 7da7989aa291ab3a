"""HTML to text: headings become titles, list items and table rows lines; scripts, styles, menus and what is hidden or struck out are left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from mdsa_local.knowledge.loaders import MOST_TITLE_CHARS, Section, below, headed, named, titled
from mdsa_local.knowledge.loaders.chrome import Chrome
from mdsa_local.knowledge.loaders.encodings import decoded, marked, of_web
from mdsa_local.knowledge.loaders.lists import LISTS, Lists, Terms

SKIPPED = {"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select", "button", "title"}
BLOCKS = set(
    "address article aside blockquote body caption dd details dialog div dl dt fieldset figcaption figure footer form header hr html legend li main "
    "menu nav ol p pre section summary table tbody tfoot thead tr ul".split()
)
HEADINGS = {f"h{level}": level for level in range(1, 7)}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
ROWS = {"table", "thead", "tbody", "tfoot", "tr", "caption"}
# Elements whose end tag may be left out: what begins where they end, and what they are in.
_PARTS = {"thead", "tbody", "tfoot"}
ENDED_BY = {
    "p": BLOCKS | set(HEADINGS), "title": BLOCKS | set(HEADINGS), "li": {"li"}, "dt": {"dt", "dd"}, "dd": {"dt", "dd"}, "tr": {"tr", *_PARTS},
    "td": {"td", "th", "tr", *_PARTS}, "th": {"td", "th", "tr", *_PARTS}, "thead": _PARTS, "tbody": _PARTS, "tfoot": _PARTS,
}  # fmt: skip
ROW_PARTS = {"td": {"tr", *_PARTS}, "th": {"tr", *_PARTS}, "tr": _PARTS}
AROUND = BLOCKS - {"p", "li", "dt", "dd", "tr", "thead", "tbody", "tfoot", "caption", "hr"} | {"body"}
# What may have lists in it; within a table those are told as they stand.
CONTAINERS = AROUND - {"body", "table"}
PIECE_CHARS = 1 << 16
# Bytes for which Windows-1252 has no character.
_UNUSED = b"\x81\x8d\x8f\x90\x9d"
_CHARSET = re.compile(rb"""<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_STYLE_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)


def read(path: Path) -> Iterator[Section]:
    """A section for each heading, without what :class:`~mdsa_local.knowledge.loaders.chrome.Chrome` finds, unless nothing is left then. The encoding
    is that of the byte order mark, else what the page declares, else as of any text."""
    source = _text(path.read_bytes())
    chrome = Chrome()
    for piece in _pieces(source):
        chrome.feed(piece)
    chrome.close()
    empty = True
    for dropped in (chrome.menus | chrome.lists, chrome.menus, set[int]()):
        for section in _sections(source, path.stem, dropped, chrome.struck):
            empty = False
            yield section
        if not empty:
            return


def _sections(source: str, stem: str, dropped: Collection[int], struck: Collection[int]) -> Iterator[Section]:
    page = _Page(stem, dropped, struck)
    for piece in _pieces(source):
        page.feed(piece)
        yield from page.taken()
    page.close()
    page.section()
    yield from page.taken()


def _pieces(source: str) -> Iterator[str]:
    return (source[start : start + PIECE_CHARS] for start in range(0, len(source), PIECE_CHARS))


def _text(data: bytes) -> str:
    declared = None if marked(data) else _CHARSET.search(_COMMENT.sub(b"", data[:4096]))
    name = of_web(declared[1].decode()) if declared else marked(data)
    if name == "cp1252":
        # So is labelled what is of any kind.
        with suppress(UnicodeDecodeError):
            return data.decode()
        data = data.translate(None, _UNUSED)
    return decoded(data, name).removeprefix("\ufeff")


def _hides(given: Mapping[str, str | None]) -> bool:
    """Whether an element with these attributes is not shown."""
    if "hidden" in given or given.get("aria-hidden") == "true":
        return True
    values: dict[str, str] = {}
    important: dict[str, str] = {}
    for declaration in _STYLE_COMMENT.sub(" ", given.get("style") or "").lower().split(";"):
        name, _, value = declaration.partition(":")
        value, exclaimed, _ = value.partition("!")
        (important if exclaimed else values)[name.strip()] = value.strip()
    values |= important
    return values.get("display") == "none" or values.get("visibility") == "hidden"


@dataclass(slots=True)
class _Columns:
    """What names the columns of a table: empty before its first row, None where nothing does."""

    names: list[str] | None = field(default_factory=list)


class _Page(HTMLParser):
    def __init__(self, stem: str, dropped: Collection[int], struck: Collection[int]) -> None:
        super().__init__(convert_charrefs=True)
        self._stem = stem
        # Numbers of start tags, and how many have been.
        self._dropped, self._struck, self._number = dropped, struck, 0
        # What strikes the text that is read.
        self._striking: Counter[str] = Counter()
        self._path: dict[int, str] = {}
        self._blocks: list[str] = []
        self._words: list[str] = []
        # What hides, and whatever of its name is open in it; how many others are open in one whose end tag may be left out.
        self._hidden: list[str] = []
        self._around = 0
        # What the page calls itself, while that is read and after; None before.
        self._title: str | None = None
        self._titling = False
        self._verbatim = 0
        self._sections: list[Section] = []
        # Of the row that is read the kinds of its cells; of the tables that are open, innermost last, what names their columns.
        self._cells: list[str] = []
        self._tables: list[_Columns] = []
        self._lists, self._terms = Lists(), Terms()

    def taken(self) -> list[Section]:
        """The sections that are complete, once."""
        done, self._sections = self._sections, []
        return done

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        number, self._number = self._number, self._number + 1
        # Also in what is hidden, since it may end elsewhere.
        if number in self._struck:
            self._striking[tag] += 1
        if tag == "title" and self._title is None and not self._hidden:
            self._title, self._titling = "", True
            self._hidden.append(tag)
            return
        if self._titling and (tag in BLOCKS or tag in HEADINGS or tag == "body"):
            # It was not ended, as it has to be.
            self._end_title()
        if self._hidden and not self._reappears(tag):
            # Only the same tag can hide its own end.
            if tag == self._hidden[0] and tag not in VOID:
                self._hidden.append(tag)
            return
        given = dict(attrs)
        if tag in SKIPPED or number in self._dropped or _hides(given):
            if tag not in VOID:
                if tag in SKIPPED or tag in BLOCKS or tag in HEADINGS:
                    self._block()
                if tag in ("dt", "dd") and not self._tables:
                    self._place(self._terms.hidden(tag))
                self._hidden.append(tag)
                self._around = 0
        elif tag in HEADINGS:
            self.section()
        elif tag in ("td", "th"):
            # White space before the first cell is not text.
            if self._cells or "".join(self._words).strip():
                self._words.append(" | ")
            else:
                self._words.clear()
            self._cells.append(tag)
            if self._tables and any(given.get(span) not in (None, "1") for span in ("colspan", "rowspan")):
                self._tables[-1].names = None
        elif tag == "br":
            if not any(self._striking.values()):
                self._words.append("\n")
        elif tag in BLOCKS:
            if self._cells and self._tables and tag not in ROWS:
                # What is more than a line in a cell is told as it stands.
                self._tables[-1].names = None
            self._block()
            if not self._tables:
                self._begin(tag, given)
            elif tag == "li":
                self._words.append("- ")
            if tag == "table":
                self._tables.append(_Columns())
            if tag in ROWS:
                self._cells = []
            self._verbatim += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self._striking[tag]:
            self._striking[tag] -= 1
        if self._titling and (tag in ("title", "head") or tag in AROUND):
            self._end_title()
        if self._hidden and not self._left(tag):
            if tag == self._hidden[0]:
                self._hidden.pop()
        elif tag in HEADINGS:
            name, self._words = " ".join("".join(self._words).split()), []
            if len(name) > MOST_TITLE_CHARS:
                # Each passage below would carry it.
                self._blocks.append(name)
                name = ""
            self._path = below(self._path, HEADINGS[tag], name)
        elif tag in BLOCKS:
            if tag == "tr":
                self._row()
            self._block()
            if tag == "table":
                self._cells = []
                del self._tables[-1:]
            elif not self._tables:
                self._end(tag)
            self._verbatim -= tag == "pre" and self._verbatim > 0

    def _begin(self, tag: str, given: Mapping[str, str | None]) -> None:
        """What of lists and terms begins with a block outside of tables."""
        if tag == "dt":
            self._place(self._terms.term())
        elif tag == "dd":
            self._terms.definition()
        elif tag in LISTS or tag in ("li", "dl", "pre", "table"):
            self._place(self._terms.leave())
        if tag == "li":
            self._lists.item(given)
        elif tag == "table":
            self._lists.unmark()
        elif tag in CONTAINERS:
            self._lists.begin(tag, given)

    def _end(self, tag: str) -> None:
        """What of lists and terms ends with a block outside of tables."""
        if tag == "dt":
            self._terms.end_term()
        elif tag == "dd":
            self._terms.end_definition()
        elif tag == "li":
            self._lists.end_item()
        elif tag in CONTAINERS and "dl" in self._lists.end(tag):
            self._place(self._terms.finish())

    def _reappears(self, tag: str) -> bool:
        """Whether what is hidden ends where ``tag`` begins, its own end tag left out; then it is hidden no more."""
        if self._hidden[0] not in ENDED_BY:
            return False
        if self._around == 0 and tag in ENDED_BY[self._hidden[0]]:
            self._hidden.clear()
        self._around += tag in AROUND
        return not self._hidden

    def _left(self, tag: str) -> bool:
        """Whether what is hidden ends because ``tag``, in which it is, does; then it is hidden no more."""
        if self._hidden[0] not in ENDED_BY:
            return False
        if self._around == 0 and (tag in AROUND or tag in ROW_PARTS.get(self._hidden[0], ())):
            self._hidden.clear()
        elif self._around and tag in AROUND:
            self._around -= 1
        return not self._hidden

    def handle_data(self, data: str) -> None:
        if self._titling:
            self._title = f"{self._title}{data}"
        elif not self._hidden and not any(self._striking.values()):
            self._words.append(data if self._verbatim else re.sub(r"\s+", " ", data))

    def _end_title(self) -> None:
        self._titling = False
        self._hidden.pop()
        self._stem = titled(self._title, self._stem)

    def _row(self) -> None:
        """A row below a first row of headings says what its cells are."""
        cells, kinds, self._cells = [" ".join(cell.split()) for cell in "".join(self._words).split(" | ")], self._cells, []
        table = self._tables[-1] if self._tables else _Columns(None)
        if table.names == []:
            table.names = cells if set(kinds) == {"th"} and len(cells) == len(kinds) > 1 else None
        elif table.names and len(cells) == len(table.names) == len(kinds):
            self._words = [named(table.names, cells)]
            # The headings need not be said again.
            if self._blocks and self._blocks[-1] == " | ".join(table.names):
                self._blocks.pop()

    def _block(self) -> None:
        text, self._words = "".join(self._words), []
        text = text.strip("\r\n").rstrip() if self._verbatim else "\n".join(" ".join(line.split()) for line in text.split("\n")).strip()
        if text.strip("- |\n"):
            self._place([text] if self._tables else self._terms.take(text))

    def _place(self, blocks: Sequence[str]) -> None:
        self._blocks += blocks if self._tables else (self._lists.placed(block) for block in blocks)

    def section(self) -> None:
        """End the section that is being read."""
        self._block()
        self._place(self._terms.finish())
        self._lists.restart()
        if self._blocks:
            self._sections.append(Section("\n\n".join(self._blocks) + "\n\n", headed(self._stem, self._path)))
            self._blocks = []
