"""The text of a PDF page as pypdf extracts it, and where on the page each piece of it stands.

pypdf tells the place where a line begins, not those of the words a producer sets on it one by one, nor how wide anything is. Before every operator
that shows text an ``ET`` is put, which makes pypdf hand over what it has so far and moves nothing, with the width of what follows as its operands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mdsa_local.knowledge.loaders.scripts import raised

if TYPE_CHECKING:
    from pypdf import PageObject

# A jump to the right within one operator, in thousandths of the size of the letters, that may lead to another column: TeX sets a row like this.
JUMP = 700
# A page that paints such a figure, in bytes, is read without places: they make pypdf go through figures that hold no text.
LARGE_FIGURE = 100_000
# Letters of Helvetica that are not about 556 wide; for fonts that every reader has and no file describes.
_NARROW, _WIDE = frozenset(b" !'(),-./:;I[]fijlrt|`"), frozenset(b"%&@CDGHMNOQRUWmw")
_USUAL = [278 if code in _NARROW else 760 if code in _WIDE else 556 for code in range(256)]
_TYPEWRITER = [600] * 256
# How small what is raised is, and how high it stands, in sizes of the letters before it; further apart it is not glued to them.
_SMALL, _HIGH, _GLUED = 0.8, (0.15, 0.8), 0.25
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
_SHOWS = {b"Tj", b"TJ"}


@dataclass(slots=True)
class Piece:
    """What one operator shows, or several beside each other: characters ``start`` to ``end`` of the page's text, from ``left`` to ``right`` at the
    height ``base``.

    ``size`` is that of the letters; 0 for what is not written from left to right. ``rise`` is how far above ``base`` they are set.
    """

    start: int
    end: int
    left: float
    right: float
    base: float
    size: float
    font: str
    rise: float = 0.0


@dataclass(slots=True)
class _Pen:
    """The state of the text that :func:`_marked` follows, as far as widths depend on it."""

    font: str = ""
    size: float = 12.0
    between: float = 0.0
    scale: float = 1.0
    rise: float = 0.0
    advance: float = 0.0


class Places:
    """Pieces of the pages of one file, which share fonts."""

    def __init__(self) -> None:
        self._fonts: dict[Any, _Font] = {}

    def taken(self, page: PageObject) -> tuple[str, list[Piece]]:
        """The text of a page, the same as without its pieces; no pieces where they cannot be had."""
        from pypdf.generic import NameObject

        marked = self._marked(page)
        if marked is None:
            return page.extract_text(), []
        contents, seen = page.raw_get("/Contents"), _Seen()
        page[NameObject("/Contents")] = marked
        try:
            text: str = page.extract_text(visitor_operand_after=seen.operation, visitor_text=seen.text)
        finally:
            # Pages are kept as long as the file is open, and their operations are many times their size.
            page[NameObject("/Contents")] = contents
        if _RIGHT_TO_LEFT.search(text):
            # Such a line is put together backwards, which it cannot be in pieces.
            return page.extract_text(), []
        return text, seen.pieces if "".join(seen.said) == text else []

    def _marked(self, page: PageObject) -> Any:
        """The content of the page with marks, None where nothing can be marked."""
        from pypdf.generic import ContentStream

        try:
            content = ContentStream(page["/Contents"].get_object(), page.pdf, "bytes")
            resources = page["/Resources"].get_object()
            data = content.get_data()
            if not any(operator in data for operator in _SHOWS) or _large_figures(resources):
                return None
            fonts = {name: self._font(font) for name, font in resources["/Font"].get_object().items()}
            content.operations = list(_marked(content.operations, fonts))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # What is damaged is for pypdf to mend.
            return None
        return content

    def _font(self, reference: Any) -> _Font:
        key = (getattr(reference, "idnum", None), getattr(reference, "generation", None))
        if key in self._fonts:
            return self._fonts[key]
        found = _Font(reference.get_object())
        _without_false_blank(reference.get_object())
        if key != (None, None):
            self._fonts[key] = found
        return found


def _without_false_blank(font: Any) -> None:
    """Have pypdf take no other sign for the blank: TeX's fonts may have a wide one in its place, by which narrow gaps between words would be none."""
    from pypdf.generic import NumberObject

    widths, at = font["/Widths"].get_object() if "/Widths" in font else [], ord(" ") - int(font.get("/FirstChar", 0))
    signs = font["/FontDescriptor"].get_object().get("/CharSet") if "/FontDescriptor" in font else None
    if 0 <= at < len(widths) and signs and "space" not in str(signs).split("/"):
        widths[at] = NumberObject(0)


def with_raised(text: str, pieces: list[Piece]) -> str:
    """The text of a page with what is raised behind a number in characters of its own; its pieces are moved."""
    parts, at, moved = list[str](), 0, 0
    line: Piece | None = None
    right = 0.0
    for piece in pieces:
        start, end = piece.start, piece.end
        piece.start += moved
        behind = text[start - 1] if text[start - 1] != " " else text[start - 2]
        if line and behind.isdecimal() and not text[start].isspace() and _is_raised(line, right, piece):
            parts += [text[at:start], raised(text[start:end])]
            moved += len(parts[-1]) - (end - start)
            at = end
        else:
            line = piece
        piece.end += moved
        right = piece.right
    return "".join([*parts, text[at:]])


def _is_raised(line: Piece, right: float, piece: Piece) -> bool:
    """Whether a piece is small, stands above the line, and follows what ends ``right`` of it."""
    high = (piece.base + piece.rise - line.base - line.rise) / line.size if line.size else 0.0
    return 0 < piece.size <= _SMALL * line.size and _HIGH[0] <= high <= _HIGH[1] and abs(piece.left - right) <= _GLUED * line.size


class _Seen:
    """What pypdf tells while it extracts a page."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.pieces: list[Piece] = []
        self._length = 0
        self._mark: list[Any] = []

    def operation(self, operator: bytes, operands: Any, cm: list[float], tm: list[float]) -> None:
        """After each operator: the mark holds for the text to come."""
        if operator == b"ET":
            self._mark = operands

    def text(self, text: str, cm: list[float], tm: list[float], font: Any, size: float) -> None:
        """Text, and the matrices it is shown by."""
        start, self._length = self._length, self._length + len(text)
        self.said.append(text)
        if not text.strip():
            return
        across, up = tm[0] * cm[0] + tm[1] * cm[2], tm[2] * cm[1] + tm[3] * cm[3]
        aslant = tm[0] * cm[1] + tm[1] * cm[3]
        x, y = tm[4] * cm[0] + tm[5] * cm[2] + cm[4], tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        advance, width, size, name, rise = self._mark or (0.0, 0.5 * size * len(text.strip()), size, "", 0.0)
        self._mark = []
        upright = across > 0 and up != 0 and abs(aslant) < 0.01 * across
        left, right = x + advance * across, x + (advance + width) * across
        self.pieces.append(Piece(start, self._length, left, right, y, abs(size * up) if upright else 0.0, name, rise * up))


class _Font:
    """The name of a font and the widths of its letters, in thousandths of their size."""

    def __init__(self, font: Any) -> None:
        self.name = str(font.get("/BaseFont", ""))
        self._two_bytes = font.get("/Subtype") == "/Type0"
        self._unit = 1.0
        self._of: dict[int, float] = {}
        self._else = 500.0
        if self._two_bytes:
            self._composite(font["/DescendantFonts"].get_object()[0].get_object())
        elif "/Widths" in font:
            first = int(font.get("/FirstChar", 0))
            self._of = {first + at: float(width) for at, width in enumerate(font["/Widths"].get_object())}
            if font.get("/Subtype") == "/Type3":
                self._unit = 1000 * abs(float(font["/FontMatrix"].get_object()[0]))
        else:
            self._of = dict(enumerate(_TYPEWRITER if "Courier" in self.name else _USUAL))

    def _composite(self, font: Any) -> None:
        """Widths come as ``first [w w w]`` and as ``first last w``."""
        self._else = float(font.get("/DW", 1000))
        told = list(font["/W"].get_object()) if "/W" in font else []
        at = 0
        while at + 1 < len(told):
            first, then = int(told[at]), told[at + 1].get_object()
            if isinstance(then, list):
                self._of |= {first + n: float(width) for n, width in enumerate(then)}
                at += 2
            else:
                self._of |= dict.fromkeys(range(first, min(int(then), 0xFFFF) + 1), float(told[at + 2]))
                at += 3

    def width(self, shown: bytes, pen: _Pen) -> float:
        """How far ``shown`` moves the pen."""
        codes = [high << 8 | low for high, low in zip(shown[::2], shown[1::2], strict=False)] if self._two_bytes else shown
        of, other = self._of, self._else
        return (sum([of.get(code, other) for code in codes]) * self._unit * pen.size / 1000 + pen.between * len(codes)) * pen.scale


_UNKNOWN = _Font({})


def _marked(operations: list[tuple[Any, bytes]], fonts: dict[str, _Font]) -> Iterator[tuple[Any, bytes]]:
    pen, kept = _Pen(), list[tuple[str, float, float, float, float]]()
    for operands, operator in operations:
        if operator in _SHOWS and operands:
            yield from _shown(operands[0], operator, pen, fonts.get(pen.font, _UNKNOWN))
            continue
        yield operands, operator
        if operator in (b"Td", b"TD", b"Tm", b"T*", b"BT"):
            pen.advance = 0.0
        elif operator == b"Tf":
            pen.font, pen.size = operands[0], float(operands[1])
        elif operator == b"Tc":
            pen.between = float(operands[0])
        elif operator == b"Tz":
            pen.scale = float(operands[0]) / 100
        elif operator == b"Ts":
            pen.rise = float(operands[0])
        elif operator == b"q":
            kept.append((pen.font, pen.size, pen.between, pen.scale, pen.rise))
        elif operator == b"Q" and kept:
            pen.font, pen.size, pen.between, pen.scale, pen.rise = kept.pop()


def _shown(shown: Any, operator: bytes, pen: _Pen, font: _Font) -> Iterator[tuple[Any, bytes]]:
    """An operator that shows text, marked; several where it jumps to the right."""
    from pypdf.generic import ArrayObject

    if isinstance(shown, bytes):
        width = font.width(shown.rstrip(b" "), pen)
        yield [pen.advance, width, pen.size, font.name, pen.rise], b"ET"
        yield [shown], b"Tj"
        pen.advance += font.width(shown, pen)
        return
    if not isinstance(shown, list):
        yield [shown], operator
        return
    at = 0
    while at < len(shown):
        # What moves the pen stays before the mark or at the end of a part: pypdf makes a blank of it that belongs to the text before.
        moves, part, width = ArrayObject(), ArrayObject(), 0.0
        while at < len(shown) and not isinstance(shown[at], bytes):
            moves.append(shown[at])
            at += 1
        if moves:
            yield [moves], b"TJ"
            pen.advance += sum(map(_move(pen), moves))
        while at < len(shown) and not (part and _jumps(shown[at - 1])):
            part.append(shown[at])
            width += font.width(shown[at], pen) if isinstance(shown[at], bytes) else _move(pen)(shown[at])
            at += 1
        if part:
            after = _move(pen)(part[-1])
            yield [pen.advance, width - after, pen.size, font.name, pen.rise], b"ET"
            yield [part], b"TJ"
            pen.advance += width


def _jumps(each: Any) -> bool:
    return isinstance(each, int | float) and -each > JUMP


def _move(pen: _Pen) -> Callable[[Any], float]:
    """How far a number between the strings of an operator moves the pen."""
    return lambda each: -float(each) * pen.size / 1000 * pen.scale if isinstance(each, int | float) else 0.0


def _large_figures(resources: Any) -> bool:
    """Whether a page may paint figures that take long to go through."""
    figures = resources["/XObject"].get_object().values() if "/XObject" in resources else ()
    of_forms = [figure.get_object() for figure in figures]
    sizes = [len(form.get_data()) for form in of_forms if form.get("/Subtype") == "/Form"]
    return math.fsum(sizes) > LARGE_FIGURE
