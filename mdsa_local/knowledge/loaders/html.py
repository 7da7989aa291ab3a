"""HTML to text: headings become titles, list items and table rows lines; scripts, styles, menus and what is hidden or struck out are left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

from mdsa_local.knowledge.loaders import MOST_TITLE_CHARS, Section, below, headed, named, titled
from mdsa_local.knowledge.loaders.blanks import filled
from mdsa_local.knowledge.loaders.chrome import Chrome, styled
from mdsa_local.knowledge.loaders.encodings import decoded, marked, of_web
from mdsa_local.knowledge.loaders.formulas import Formula
from mdsa_local.knowledge.loaders.html_tables import MOST_COLUMNS, MOST_HEADINGS, MOST_ROWS, Cell, Table, span
from mdsa_local.knowledge.loaders.lists import LISTS, Lists, Terms
from mdsa_local.knowledge.loaders.scripts import lowered, raised

SKIPPED = {"script", "style", "template", "noscript", "svg", "iframe", "object", "select", "title"}
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
# Left out of a line of text, which goes on behind them.
INLINE = {"svg", "select"}
# What a button may have in it, and whose lines a button may end, with nothing after it.
IN_BUTTON, ENDS_WITH_BUTTON = {"div", "p"}, {"p", "li", "dd"}
SCRIPTS = {"sup": raised, "sub": lowered}
# What may be all of a cell without a word in it.
PICTURES, ICONS, TICKED = {"img", "svg"}, {"i", "span"}, {"checkbox", "radio"}
PIECE_CHARS = 1 << 16
# Bytes for which Windows-1252 has no character.
_UNUSED = b"\x81\x8d\x8f\x90\x9d"
_CHARSET = re.compile(rb"""<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
# Where a word may be parted, which is not shown: a soft hyphen and a blank without width.
_UNSEEN = str.maketrans("", "", "\u00ad\u200b")


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
    page.end()
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
    values = styled(given.get("style") or "")
    return values.get("display") == "none" or values.get("visibility") == "hidden"


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
        # Of the words those that are the labels of buttons; of the button that is open where it begins, and how many blocks are open in it.
        self._labels: list[tuple[int, int]] = []
        self._button: tuple[int, int] | None = None
        # The block that began last.
        self._began = ""
        # Of the words where raised or lowered text begins, the tag of that and how many of it are open.
        self._script: tuple[int, str, int] | None = None
        # The formula that is open.
        self._formula: Formula | None = None
        # The tables that are open, innermost last.
        self._tables: list[Table] = []
        self._lists, self._terms = Lists(), Terms()

    def taken(self) -> list[Section]:
        """The sections that are complete, once."""
        done, self._sections = self._sections, []
        return done

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        number, self._number = self._number, self._number + 1
        # Also in what is hidden, since it may end elsewhere.
        if number in self._struck or (self._striking[tag] and tag not in VOID):
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
        if self._formula and not self._ends_formula(tag):
            if tag not in VOID:
                self._formula.begin(tag)
            return
        given = dict(attrs)
        if self._button and (tag == "button" or tag in BLOCKS or tag in HEADINGS or tag in ("td", "th")):
            if tag in IN_BUTTON:
                self._words.append(" ")
            else:
                self._end_button()
        if self._tables and self._tables[-1].cells:
            self._sign(tag, given)
        if tag in SKIPPED or number in self._dropped or _hides(given):
            if tag not in VOID:
                self._hide(tag)
        elif tag == "math":
            self._formula = Formula()
        elif tag in HEADINGS:
            self.section()
        elif tag in ("td", "th"):
            self._cell(tag, given)
        elif tag == "br":
            if not any(self._striking.values()):
                self._words.append("\n")
        elif tag == "button":
            if self._labels and self._labels[-1][1] == len(self._words):
                self._words.append(" ")
            self._button = (len(self._words), 0)
        elif self._button and tag in IN_BUTTON:
            self._button = (self._button[0], self._button[1] + 1)
        elif tag in SCRIPTS:
            self._begin_script(tag)
        elif tag in BLOCKS:
            self._begin_block(tag, given)

    def _sign(self, tag: str, given: Mapping[str, str | None]) -> None:
        """What something in a cell says without text: an image among the words, all else where there are none."""
        ticks = tag == "input" and (given.get("type") or "").lower() in TICKED
        label = " ".join((given.get("alt") or given.get("aria-label") or given.get("title") or "").split())
        if not (ticks or tag in PICTURES or (tag in ICONS and (label or given.get("class")))) or any(self._striking.values()):
            return
        decorates = given.get("aria-hidden") == "true"
        if _hides({**given, "aria-hidden": None}):
            return
        if ticks:
            label = "yes" if "checked" in given else "no"
        elif tag in PICTURES and label and not decorates:
            self._words.append(f" {label} ")
        self._tables[-1].cells[-1].signs.append(label)

    def _hide(self, tag: str) -> None:
        if tag in INLINE or (self._button and tag in IN_BUTTON):
            self._words.append(" ")
        elif tag in SKIPPED or tag in BLOCKS or tag in HEADINGS:
            self._block()
        if tag in ("dt", "dd") and not self._tables:
            self._place(self._terms.hidden(tag))
        self._hidden.append(tag)
        self._around = 0

    def _begin_script(self, tag: str) -> None:
        if self._script is None:
            self._script = (len(self._words), tag, 1)
        else:
            if len(self._words) > self._script[0]:
                self._words.append("^" if tag == "sup" else "_")
            self._script = (*self._script[:2], self._script[2] + (self._script[1] == tag))

    def _begin_block(self, tag: str, given: dict[str, str | None]) -> None:
        if tag == "table":
            self._part()
        elif tag in ROWS:
            self._row()
        self._block()
        if not self._tables:
            self._begin(tag, given)
        elif tag == "li" and self._tables[-1].cells:
            self._tables[-1].cells[-1].item = True
        elif tag == "li":
            self._words.append("- ")
        elif tag == "tr":
            self._tables[-1].open = True
        elif tag in _PARTS:
            # No cell reaches from one part of a table into the next.
            self._tables[-1].above.clear()
        if tag == "table":
            self._tables.append(Table())
        self._verbatim += tag == "pre"
        self._began = tag

    def handle_endtag(self, tag: str) -> None:
        if self._striking[tag]:
            self._striking[tag] -= 1
        if self._titling and (tag in ("title", "head") or tag in AROUND):
            self._end_title()
        if self._hidden and not self._left(tag):
            if tag == self._hidden[0]:
                self._hidden.pop()
        elif self._formula and not self._ends_formula(tag):
            self._formula.end(tag)
        elif self._button and tag in IN_BUTTON and self._button[1]:
            self._button = (self._button[0], self._button[1] - 1)
            self._words.append(" ")
        elif tag == "button":
            self._end_button()
        elif tag in HEADINGS:
            name = " ".join(self._said(heading=True).split())
            if len(name) > MOST_TITLE_CHARS:
                # Each passage below would carry it.
                self._blocks.append(name)
                name = ""
            self._path = below(self._path, HEADINGS[tag], name)
        elif self._script and tag == self._script[1]:
            self._end_script()
        elif tag in BLOCKS:
            if tag in ROWS:
                self._row()
            self._block()
            if self._tables and self._tables[-1].cells:
                self._tables[-1].cells[-1].item &= tag != "li"
            if tag == "table":
                self._carry()
                del self._tables[-1:]
            elif not self._tables:
                self._end(tag)
            self._verbatim -= tag == "pre" and self._verbatim > 0
            self._began = ""

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
        data = data.translate(_UNSEEN)
        if self._titling:
            self._title = f"{self._title}{data}"
        elif self._formula:
            self._formula.take(data)
        elif not self._hidden and not any(self._striking.values()):
            self._words.append(data if self._verbatim else re.sub(r"\s+", " ", data))

    def _end_title(self) -> None:
        self._titling = False
        self._hidden.pop()
        self._stem = titled(self._title, self._stem)

    def _end_script(self) -> None:
        """Raised or lowered text ends; what is so within it only has a sign before it."""
        if self._script is not None:
            start, tag, depth = self._script
            self._script = (start, tag, depth - 1) if depth > 1 else None
            if depth == 1:
                while self._labels and self._labels[-1][1] > start:
                    self._labels.pop()
                self._words[start:] = [SCRIPTS[tag]("".join(self._words[start:]))]

    def _ends_formula(self, tag: str) -> bool:
        """Whether the formula that is open ends with a tag, of itself or of what no formula has in it."""
        if tag != "math" and tag not in BLOCKS and tag not in HEADINGS and tag not in ("td", "th"):
            return False
        if self._formula and not any(self._striking.values()):
            self._words.append(self._formula.written())
        self._formula = None
        return True

    def _end_button(self) -> None:
        if self._button:
            self._labels.append((self._button[0], len(self._words)))
            self._button = None

    def _said(self, heading: bool = False) -> str:
        """The words that were read, once, with the labels of buttons that are in a line of text or all of a heading."""
        self._end_button()
        words, self._words, self._script = self._words, [], None
        labels, self._labels = self._labels, []
        if not labels:
            return "".join(words)
        labelled = {at for label in labels for at in range(*label)}
        others = [at for at, word in enumerate(words) if at not in labelled and word.strip()]
        text = any(char.isalnum() for at in others for char in words[at])
        if heading:
            labelled = labelled if text else set()
        elif text and not self._verbatim:
            # In a form a button comes after what it sends.
            labelled = set() if self._began in ENDS_WITH_BUTTON else {at for at in labelled if at > others[-1]}
        return "".join(word for at, word in enumerate(words) if at not in labelled)

    def _cell(self, tag: str, given: Mapping[str, str | None]) -> None:
        """A cell begins."""
        # White space before the first cell is not text.
        blank = not any(word.strip() for word in self._words)
        if not self._tables:
            if blank:
                self._said()
            else:
                self._words.append(" | ")
            return
        table = self._tables[-1]
        if not table.cells and not blank:
            table.cells.append(Cell(""))
        self._block()
        self._began = tag
        table.cells.append(Cell(tag, span(given.get("colspan"), MOST_COLUMNS), span(given.get("rowspan"), MOST_ROWS)))
        table.open = True

    def _part(self) -> None:
        """Something in a row begins that is no part of it: what there is of the row stands for itself."""
        if self._tables and self._tables[-1].cells:
            table = self._tables[-1]
            self._block()
            self._stands(table.cells)
            table.cells, table.parted = [], True

    def _row(self) -> None:
        """A row ends. One below a first row of headings says what its cells are."""
        if not self._tables or not self._tables[-1].open:
            return
        table = self._tables[-1]
        self._block()
        cells, parted = table.cells, table.parted or any(not cell.kind for cell in table.cells)
        table.cells, table.open, table.parted = [], False, False
        if parted:
            table.plain = False
            self._stands(cells)
            return
        row, columns = table.placed(cells)
        if not cells:
            return
        headings, line = all(cell.kind == "th" for cell in cells), " | ".join(text for _, _, text in row).strip()
        goes_on, table.spanned = table.spanned and headings and len(table.said) < MOST_HEADINGS, False
        if len(row) == 1:
            # One above all columns is no name of one.
            if table.names == [] and columns == 1:
                table.names = None
            table.plain &= not table.names
            self._stands(cells)
        elif headings and columns <= MOST_COLUMNS and (table.names == [] or (goes_on and table.names and columns == len(table.names))):
            names = [text for _, spanned, text in row for _ in range(spanned)]
            if table.names:
                names = [over if over.endswith(name) else f"{over} {name}".strip() for over, name in zip(table.names, names, strict=True)]
            table.names, table.spanned = names, any(cell.columns > 1 or cell.rows > 1 for cell in cells)
            table.said.append(line)
            self._tell(line)
        elif table.names and columns == len(table.names):
            # The headings need not be said again.
            if table.said and not table.body and self._blocks[-len(table.said) :] == table.said:
                del self._blocks[-len(table.said) :]
            over = [table.names[at] if spanned == 1 else ", ".join(filter(None, table.names[at : at + spanned])) for at, spanned, _ in row]
            short = [name if spanned == 1 or len(name) <= MOST_TITLE_CHARS else "" for name, (_, spanned, _) in zip(over, row, strict=True)]
            texts = [text for _, _, text in row]
            table.plain &= len(row) == columns
            at = len(self._blocks)
            self._tell(named(short, texts))
            if len(self._blocks) > at:
                table.body.append((at, short, texts))
        else:
            table.plain = False
            table.names = table.names or None
            if not table.names and any(cell.long() for cell in cells):
                self._stands(cells)
            else:
                self._tell(line)

    def _carry(self) -> None:
        """A table ends: what blank cells leave to those above them is told."""
        table = self._tables[-1] if self._tables else Table()
        if table.plain:
            for (at, names, texts), told in zip(table.body, filled([texts for _, _, texts in table.body]), strict=True):
                self._blocks[at] = named(names, told) if told != texts else self._blocks[at]

    def _stands(self, cells: Sequence[Cell]) -> None:
        """Cells as they stand, those of more than a block one below the other."""
        if len(cells) > 1 and not any(len(cell.blocks) > 1 or cell.kept for cell in cells):
            self._tell(" | ".join(cell.line() for cell in cells).strip())
        else:
            for cell in cells:
                for mark, text in cell.blocks:
                    self._tell(mark + text)

    def _tell(self, text: str) -> None:
        """A block of a table."""
        if text.strip("- |\n"):
            self._blocks.append(text)

    def _block(self) -> None:
        text = self._said()
        text = text.strip("\r\n").rstrip() if self._verbatim else "\n".join(" ".join(line.split()) for line in text.split("\n")).strip()
        if self._tables and self._tables[-1].cells:
            cell = self._tables[-1].cells[-1]
            if text:
                cell.blocks.append(("- " if cell.item else "", text))
                cell.item = False
                cell.kept = cell.kept or (self._verbatim > 0 and "\n" in text)
        elif text.strip("- |\n"):
            self._place([text] if self._tables else self._terms.take(text))

    def _place(self, blocks: Sequence[str]) -> None:
        self._blocks += blocks if self._tables else (self._lists.placed(block) for block in blocks)

    def end(self) -> None:
        """End the page."""
        self._ends_formula("math")
        self._row()
        self.section()

    def section(self) -> None:
        """End the section that is being read."""
        self._part()
        self._block()
        self._place(self._terms.finish())
        self._lists.restart()
        if self._blocks:
            self._sections.append(Section("\n\n".join(self._blocks) + "\n\n", headed(self._stem, self._path)))
            self._blocks = []
            for table in self._tables:
                table.body, table.plain = [], False
