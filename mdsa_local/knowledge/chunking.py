"""Text into chunks that follow its structure: headings, paragraphs, lists, code fences, tables.

A chunk never spans two headings. Within a heading, blocks are put together while they fit; a block that fits stays whole, and one that
does not is split at items or lines, then at sentence ends, then at words. The row that names a table's columns is the last heading of a chunk that
begins below it, and so is the line that leads in a list ("Never do the following:", "Do not use it"). A question, and another line that stands over
the paragraph behind it, stays with that, or is its last heading. Numbered steps stay together, with the line that leads them in, to more than twice
the length; a chunk with a part of them only is headed by which ("steps 5 to 8 of 20").
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Literal
from unicodedata import normalize

from mdsa_local.knowledge.loaders import LINE, Section, below
from mdsa_local.sentences import BLANK_ROW, BOLD, WHOLE, is_over, other_lists, sentences, without_list_mark
from mdsa_local.validation import denials

MAX_TOKENS = 110
# Of numbered steps, which say little where some are missing: the encoder's window of 256 less its two marks and a short title. Under a longer title
# the middle is not read, see :meth:`mdsa_local.routing.encoder.Encoder.encode`; it is found by its words all the same.
MAX_STEPS_TOKENS = 240
# So many lists of steps in one chunk are looked at for one that goes on.
MOST_BESIDE = 8
# A document is split this much at a time, so that its size does not matter.
WINDOW_CHARS = 1 << 20
# Between two rows of a table.
ROW_END = b"\n\n"

Kind = Literal["paragraph", "list", "lines"]
Span = tuple[int, int]

_HEADING = re.compile(r" {0,3}(#{1,6})(?=[ \t\r\n]|$)(.*)", re.DOTALL)
# The line below a heading, and that: the end of a sentence is none, for what is below it may be meant for a rule.
_UNDERLINE = re.compile(r" {0,3}(={3,}|-{3,})\s*")
_UNDERLINED = re.compile(r" {0,3}[^ \t|>][^|]*[^.,;:!|\s]\s*")
_ATTRIBUTES = re.compile(r"\s*\{\s*[#.][^{}]*\}$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)", re.DOTALL)
_ITEM = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])[ \t]+\S")
_STEP = re.compile(r"( {0,3})(\d{1,9})[.)][ \t]+\S")
_ROW = re.compile(r" {0,3}\|")
# Possessive: many blanks would be tried in all ways to share them.
_RULE = re.compile(r"[ \t]*+\|?[ \t]*+:?-+:?[ \t]*+(?:\|[ \t]*+:?-+:?[ \t]*+)*\|?[ \t]*+")
# A longer line is text: each passage below it would carry it.
_MOST_HEADING_CHARS = 300
# A longer row of columns, or a longer line before a list, would crowd out the headings above it.
_MOST_COLUMNS_CHARS = 300
_SENTENCE_END = re.compile(r"""(?<=[.!?…])["'”’)\]]*\s+|(?<=[。！？])""")
# A word piece is rarely longer; bounds a chunk of text that a tokenizer counts as one unknown token.
_CHARS_A_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document. ``source.encode()[start:end].decode() == text``; ``title`` is the path of headings, ``Title > Heading``."""

    title: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Block:
    kind: Kind
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Head:
    """What stands over a part of a text, and where that begins and ends; ``leads_in``: that is a list, or below a line that is over it."""

    text: str
    start: int
    end: int
    leads_in: bool = False


@dataclass(slots=True)
class _Steps:
    """Items of a list whose numbers go on one by one from ``first``, where each ``starts``, and the end of the last."""

    first: int
    starts: list[int]
    end: int
    far: int

    @property
    def last(self) -> int:
        return self.first + len(self.starts) - 1

    def part(self, start: int, end: int) -> str:
        """What is called the part of them that begins between ``start`` and ``end``, or goes on there; empty for all and for none."""
        if start >= self.end or end <= self.starts[0]:
            return ""
        other = self.first + bisect_left(self.starts, end) - 1
        one = min(self.first + bisect_left(self.starts, start), other)
        if (one, other) == (self.first, self.last):
            return ""
        which = f"step {one}" if one == other else f"steps {one} to {other}"
        return f"{which} of {self.last}" if self.first == 1 else f"{which} of {self.first} to {self.last}"


def line_feeds(text: str) -> str:
    """The text with line feeds for line ends, as what reads passages expects them; editors on Windows write others."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def chunk(
    source: str,
    count_tokens: Callable[[str], int],
    *,
    title: str = "",
    markdown: bool = True,
    max_tokens: int = MAX_TOKENS,
    max_steps_tokens: int = MAX_STEPS_TOKENS,
) -> list[Chunk]:
    """Split ``source`` into chunks of at most ``max_tokens`` by ``count_tokens``, numbered steps ``max_steps_tokens``; every character that is not
    blank or in a heading is in one.

    ``title`` stands in for the headings where there are none. Without ``markdown`` only blank lines, list items and lines
    with a number that stand over others have a meaning.
    """
    return _chunk(source, count_tokens, title, markdown, (max_tokens, max_steps_tokens), {})


def chunk_all(
    sections: Iterable[Section],
    count_tokens: Callable[[str], int],
    *,
    title: str = "",
    max_tokens: int = MAX_TOKENS,
    max_steps_tokens: int = MAX_STEPS_TOKENS,
) -> Iterator[Chunk]:
    """Like :func:`chunk` for a document in sections, with no more than a window of it in memory. ``title`` stands in for a section's.

    A chunk of rows is named after them. A section that tells of the document is in no chunk; the title that it has stands in for ``title``, and above
    all headings of Markdown.
    Offsets are into the sections' text, put together. Only a block that is longer than a window of a million characters may be split otherwise.
    """
    at = 0
    waiting, name, markdown = "", title, False
    path: dict[int, str] = {}
    top: dict[int, str] = {}
    rows: tuple[int, ...] = ()

    def take(end: int) -> Iterator[Chunk]:
        nonlocal at, waiting, rows
        text, waiting = waiting[:end], waiting[end:]
        data = text.encode() if rows else b""
        counted = first = 0
        for piece in _chunk(text, count_tokens, name, markdown, (max_tokens, max_steps_tokens), path):
            heading = piece.title
            if rows:
                first, counted = first + data.count(ROW_END, counted, piece.start), piece.start
                heading = f"{heading} > {_rows(rows, first, first + data.count(ROW_END, piece.start, piece.end))}"
            # The name of a file may be among it, with accents apart from their letters, as macOS writes them: the word index would cut there.
            yield replace(piece, title=normalize("NFC", heading), start=at + piece.start, end=at + piece.end)
        at += len(text.encode())
        rows = rows[data.count(ROW_END) :]

    for section in sections:
        if not section.continues:
            yield from take(len(waiting))
            name, markdown, path = section.title or title, section.markdown, dict(top) if section.markdown else {}
            rows = section.rows
        if section.about is not None:
            title, top = name, {0: section.title} if section.title else {}
            at += len(section.text.encode())
            continue
        waiting += section.text
        if len(waiting) > WINDOW_CHARS:
            yield from take(_last_block(waiting, markdown) or len(waiting))
    yield from take(len(waiting))


def _rows(rows: tuple[int, ...], first: int, last: int) -> str:
    """What rows of a table are called, by their places among ``rows``."""
    return f"row {rows[first]}" if first == last else f"rows {rows[first]} to {rows[last]}"


def _last_block(source: str, markdown: bool) -> int:
    """Where the last block begins, with what leads it in, or the last heading without a block yet: all before it can be split already."""
    *_, (_, blocks, at) = _sections(source, "", markdown, {})
    led = [block.kind for block in blocks[-2:]] == ["paragraph", "list"]
    return blocks[-2 if led else -1].start if blocks else at


def _chunk(source: str, count_tokens: Callable[[str], int], title: str, markdown: bool, limits: tuple[int, int], path: dict[int, str]) -> list[Chunk]:
    special = count_tokens("")

    def cost(span: Span) -> int:
        text = source[slice(*span)]
        return max(count_tokens(text) - special, len(text) // _CHARS_A_TOKEN) if text.strip() else 0

    chunks: list[Chunk] = []
    at_char = at_byte = 0
    for heading, found, _ in _sections(source, title, markdown, path):
        blocks = [part for block in found for part in _lists(source, block)]
        pieces, procedures, lists = _pieces(source, blocks, cost, *limits)
        heads = [
            head for before, block in pairwise([None, *blocks]) if block and (head := _head(source, before, block) or _under(source, before, block))
        ]
        passed = told = 0
        # What leads in a list may deny it, and says nothing of what comes after.
        lists |= {head.end: head.start for head in heads if head.leads_in}
        for span in _pack(pieces, limits[0], lists):
            start, end = _strip(source, span)
            if start < end:
                first = at_byte + len(source[at_char:start].encode())
                at_char, at_byte = end, first + len(source[start:end].encode())
                while passed < len(heads) and heads[passed].end <= start:
                    passed += 1
                while told < len(procedures) and procedures[told].end <= start:
                    told += 1
                above = [heading, *(head.text for head in heads[passed : passed + 1] if head.start <= start)]
                # Short ones, that are whole, may come before one that is not.
                above.append(next((part for steps in procedures[told : told + MOST_BESIDE] if (part := steps.part(start, end))), ""))
                chunks.append(Chunk(" > ".join(filter(None, above)), source[start:end], first, at_byte))
    return chunks


def _head(source: str, before: _Block | None, block: _Block) -> _Head | None:
    """What a chunk that begins within ``block`` is headed by: the names of a table's columns, what leads in a list, or the line over a paragraph;
    None without any."""
    if block.kind == "lines":
        return _columns(source, block)
    if block.kind == "paragraph":
        lines = [match[0] for match in islice(LINE.finditer(source, block.start, block.end), 2)]
        over = len(lines) == 2 and is_over("", *lines)
        return _Head(" ".join(lines[0].split()), block.start + len(lines[0]), block.end, True) if over else None
    if block.kind == "list" and before and before.kind == "paragraph":
        return _lead_in(source, before, block)
    return None


def _columns(source: str, block: _Block) -> _Head | None:
    """The row that names the columns of a table, and its rows; None where the block is none."""
    lines = [match.span() for match in islice(LINE.finditer(source, block.start, block.end), 3)]
    if len(lines) < 3:
        return None
    names, rule = (source[slice(*line)].strip() for line in lines[:2])
    fits = "|" in names and len(names) <= _MOST_COLUMNS_CHARS and _RULE.fullmatch(rule)
    if not (names.startswith("|") and names.endswith("|")):
        names = f"| {names.strip('| ')} |"
    return _Head(names, lines[2][0], block.end) if fits else None


def _lead_in(source: str, before: _Block, block: _Block) -> _Head | None:
    """The sentence before a list that ends with a colon, without it, or denies and has no end, or the line in bold, and the list."""
    text = source[before.start : before.end].rstrip()
    if bold := BOLD.fullmatch(text):
        text = f"{bold[2].strip().rstrip(':：')}:"
    if text.endswith((":", "：")):
        last = " ".join(text[max([0, *_sentences(text)]) : -1].split())
    else:
        last = " ".join(next(reversed(sentences(text)), "").split())
        if WHOLE.search(last) or not denials.denies(last):
            return None
    return _Head(last, block.start, block.end, True) if 0 < len(last) <= _MOST_COLUMNS_CHARS else None


def _under(source: str, before: _Block | None, block: _Block) -> _Head | None:
    """The line that stands over ``block``, and that; None where it is such a line itself, or a list that is led in otherwise."""
    over = _standing(source, before) if before and not _standing(source, block) else ""
    led_in = block.kind == "list" and not over.endswith(("?", "？")) and _head(source, before, block)
    return _Head(over, block.start, block.end, True) if over and not led_in else None


def _standing(source: str, block: _Block) -> str:
    """What a block of one line says that stands over the next one: a question, or a paragraph that ends with a colon, or is bold and no sentence.
    Empty for another."""
    text = source[block.start : block.end].strip()
    if block.kind == "lines" or len(text) > _MOST_COLUMNS_CHARS or len(LINE.findall(text)) != 1:
        return ""
    bold = BOLD.fullmatch(text)
    said = (bold[2] if bold else without_list_mark(text)).strip("*_ ")
    if said.endswith(("?", "？")):
        return said
    leads = block.kind == "paragraph" and (said.endswith((":", "：")) or (bold and not said.endswith((".", "!", "…"))))
    return said.rstrip(":： ") if leads else ""


def _sections(source: str, title: str, markdown: bool, path: dict[int, str]) -> Iterator[tuple[str, list[_Block], int]]:
    """The path of headings, the blocks below it and where its heading begins, for every heading. ``path`` is that at the start, then at the end."""
    begin = 0
    blocks: list[_Block] = []
    fence = ""
    fresh = True
    above = 0
    for match in LINE.finditer(source, 1 if source.startswith("\ufeff") else 0):
        line, (start, end) = match[0], match.span()
        by_itself = markdown and not fresh and bool(blocks) and blocks[-1] == _Block("paragraph", above, start)
        if markdown and not fence and (heading := _heading(source[above:start] if by_itself else "", line)):
            level, name = heading
            start = start if _HEADING.fullmatch(line) else blocks.pop().start
            yield _joined(path) or title, blocks, begin
            kept = below(path, level, name)
            path.clear()
            path.update(kept)
            blocks, fresh, begin = [], True, start
            continue
        marker = _FENCE.fullmatch(line) if markdown else None
        if fence or (marker and not (marker[1][0] == "`" and "`" in marker[2])):
            _extend(blocks, "lines", start, end, fresh=not fence)
            if not fence and marker:
                fence = marker[1]
            elif marker and marker[1].startswith(fence) and not marker[2].strip():
                fence, fresh = "", True
        elif not line.strip():
            fresh = True
        else:
            if markdown and not fresh and "|" in line and "|" in source[above:start] and _RULE.fullmatch(line.strip()):
                _begin_table(blocks, above, start)
            following = LINE.match(source, end)
            if is_over(source[above:start], line, following[0] if following else ""):
                _extend(blocks, "paragraph", start, end, fresh=True)
            else:
                _place(blocks, line, start, end, fresh, markdown)
            fresh = False
        above = start
    yield _joined(path) or title, blocks, begin


def _joined(path: dict[int, str]) -> str:
    """The headings as one title. A document's own title is not said again where its first heading is the same."""
    return " > ".join(name for level, name in path.items() if level or path.get(1, "").casefold() != name.casefold())


def _heading(above: str, line: str) -> tuple[int, str] | None:
    """The level and the text of the heading that ``line`` is, or that it makes of the one ``above`` it, where that stands by itself."""
    if (found := _HEADING.fullmatch(line)) and len(found[2]) <= _MOST_HEADING_CHARS:
        return len(found[1]), _heading_text(found[2])
    if above and (rule := _UNDERLINE.fullmatch(line)) and len(above) <= _MOST_HEADING_CHARS and _UNDERLINED.fullmatch(above):
        return (1 if rule[1].startswith("=") else 2), _heading_text(above)
    return None


def _heading_text(rest: str) -> str:
    """Without the blanks around it, its attributes (``{#name}``) and the ``#`` that may close it."""
    name = _ATTRIBUTES.sub("", rest.strip())
    closed = name.rstrip("#")
    return closed.rstrip() if not closed or closed[-1] in " \t" else name


def _place(blocks: list[_Block], line: str, start: int, end: int, fresh: bool, markdown: bool) -> None:
    """Add a line of text to the last block, or begin a block. A list goes on over blank lines, with items and indented lines."""
    last = blocks[-1].kind if blocks else "paragraph"
    if _ITEM.match(line):
        _extend(blocks, "list", start, end, fresh=last != "list")
    elif last == "list" and (line[0] in " \t" or not (fresh or _leads(line))):
        _extend(blocks, "list", start, end, fresh=False)
    elif markdown and (_ROW.match(line) or (last == "lines" and not fresh and "|" in line)):
        _extend(blocks, "lines", start, end, fresh=fresh or last != "lines")
    else:
        _extend(blocks, "paragraph", start, end, fresh=fresh or last != "paragraph")


def _begin_table(blocks: list[_Block], start: int, end: int) -> None:
    """Make the last line of a paragraph the first of a table: the names of columns may have no bars around them."""
    last = blocks[-1]
    if last.kind == "paragraph":
        blocks[-1:] = [_Block("paragraph", last.start, start)] if last.start < start else []
        blocks.append(_Block("lines", start, end))


def _lists(source: str, block: _Block) -> list[_Block]:
    """A list, or the lists that it is: what leads in one of bullets says nothing of the steps behind that."""
    if block.kind != "list":
        return [block]
    starts = sorted(block.start + at for at in other_lists(source[block.start : block.end]))
    return [_Block("list", start, end) for start, end in pairwise([block.start, *starts, block.end])]


def _leads(line: str) -> bool:
    """Whether a line directly below items goes on with none of them, but leads in what comes next."""
    return bool(BOLD.fullmatch(line)) or (line.rstrip().endswith((":", "：")) and not line[0].islower())


def _extend(blocks: list[_Block], kind: Kind, start: int, end: int, *, fresh: bool) -> None:
    if fresh or not blocks:
        blocks.append(_Block(kind, start, end))
    else:
        blocks[-1] = _Block(kind, blocks[-1].start, end)


def _pieces(
    source: str, blocks: Sequence[_Block], cost: Callable[[Span], int], limit: int, steps_limit: int
) -> tuple[list[tuple[Span, int]], list[_Steps], dict[int, int]]:
    """The blocks below a heading whole, or in pieces of at most ``limit`` tokens, steps ``steps_limit``, each with its tokens; the steps, over all
    that stands between them; and of those that are in pieces where they begin, by where they end."""
    pieces, procedures, apart = list[tuple[Span, int]](), list[_Steps](), dict[int, int]()
    lead = False
    for before, block in pairwise([None, *blocks]):
        if not block:
            continue
        at, first = block.start, len(pieces)
        whole = at, block.end
        known = {whole: cost(whole)}
        for steps in _steps(source, block) if block.kind == "list" else ():
            # What fits stays whole, also with other items beside the steps.
            span = whole if known[whole] <= limit else (steps.starts[0], steps.end)
            if len(steps.starts) > 1 and at <= span[0]:
                size = known[span] = known[span] if span in known else cost(span)
                if size > max(limit, steps_limit):
                    apart[steps.end] = span[0]
                else:
                    if at < span[0]:
                        pieces += _fit(source, block.kind, (at, span[0]), cost, limit)
                    elif lead and steps.starts[0] == block.start:
                        span, size = _with_lead_in(source, pieces, span, size, cost, steps_limit)
                    pieces.append((span, size))
                    at = span[1]
            if procedures and procedures[-1].last + 1 == steps.first:
                procedures[-1].starts += steps.starts
                procedures[-1].end = steps.end
            else:
                procedures.append(steps)
        if at < block.end:
            pieces += _fit(source, block.kind, (at, block.end), cost, limit, known.get((at, block.end)))
        if before and first < len(pieces) and pieces[first - 1][0][1] == before.end and _under(source, before, block):
            ((start, _), size), ((_, end), more) = pieces[first - 1 : first + 1]
            if size + more <= limit:
                pieces[first - 1 : first + 1] = [((start, end), size + more)]
        lead = block.kind == "paragraph"
    return pieces, procedures, apart


def _with_lead_in(source: str, pieces: list[tuple[Span, int]], steps: Span, size: int, cost: Callable[[Span], int], limit: int) -> tuple[Span, int]:
    """``steps`` with the line right before them, taken from the last of ``pieces``, and its tokens; as they were where that is too much, or the line
    does not end with a colon."""
    (start, end), before = pieces[-1]
    text = source[start:end].rstrip()
    if not text.endswith((":", "：")):
        return steps, size
    line = start + max([0, *_lines(text)])
    tokens = cost((line, end)) if start < line else before
    if tokens + size > limit:
        return steps, size
    pieces[-1:] = [((start, line), before - tokens)] if start < line else []
    return (line, steps[1]), tokens + size


def _steps(source: str, block: _Block) -> list[_Steps]:
    """The numbered items of a list, as long as their numbers go on one by one; with what stands below each, and between two of them."""
    found = list[_Steps]()
    going = False
    for match in LINE.finditer(source, block.start, block.end):
        line = match[0]
        last = found[-1] if found else None
        if step := _STEP.match(line):
            far, number = len(step[1]), int(step[2])
            # From two blanks on it stands below another step.
            if last and number == last.last + 1 and far < last.far + 2:
                last.starts.append(match.start())
            elif not (last and going and far >= last.far + 2):
                last = _Steps(number, [match.start()], match.end(), far)
                found.append(last)
            last.end, going = match.end(), True
        elif last and going and line.strip():
            # An item of another list, unless the numbers go on behind it.
            going = not _ITEM.match(line) or len(line) - len(line.lstrip()) >= last.far + 2
            last.end = match.end() if going else last.end
    return found


def _fit(source: str, kind: Kind, whole: Span, cost: Callable[[Span], int], limit: int, size: int | None = None) -> Iterator[tuple[Span, int]]:
    """A block of a ``kind`` whole, or in pieces of at most ``limit`` tokens, each with its tokens; ``size`` are those of all where known."""
    cutters: dict[Kind, list[Callable[[str], list[int]]]] = {
        "paragraph": [_sentences],
        "list": [_items, _lines, _sentences],
        "lines": [_rows_told, _lines],
    }

    def split(span: Span, depth: int, known: int | None = None) -> Iterator[tuple[Span, int]]:
        size = cost(span) if known is None else known
        if size <= limit or span[1] - span[0] == 1:
            yield span, size
            return
        levels = cutters[kind]
        cuts = (levels[depth] if depth < len(levels) else _middle)(source[slice(*span)])
        edges = [span[0], *(span[0] + cut for cut in cuts), span[1]]
        for start, end in pairwise(edges):
            yield from split((start, end), depth + 1)

    yield from split(whole, 0, size)


def _items(text: str) -> list[int]:
    return [match.start() for match in LINE.finditer(text) if match.start() and _ITEM.match(match[0])]


def _rows_told(text: str) -> list[int]:
    return [match.start() for match in LINE.finditer(text) if match.start() and not BLANK_ROW.match(match[0])]


def _lines(text: str) -> list[int]:
    return [match.start() for match in LINE.finditer(text) if match.start()]


def _sentences(text: str) -> list[int]:
    return [match.end() for match in _SENTENCE_END.finditer(text) if match.end() < len(text)]


def _middle(text: str) -> list[int]:
    """The blank nearest to the middle, or the middle of a word without one."""
    half = len(text) // 2
    before = max((i for i in range(half, 0, -1) if text[i].isspace()), default=0)
    after = next((i for i in range(half, len(text)) if text[i].isspace()), 0)
    found = min((i for i in (before, after) if i), key=lambda i: abs(i - half), default=half)
    return [found]


def _pack(pieces: list[tuple[Span, int]], limit: int, apart: Mapping[int, int]) -> Iterator[Span]:
    """Put neighbours together while they fit, and end with each part that is ``apart`` (from its end to its start) what begins within it."""
    start = end = total = 0
    for (first, last), size in pieces:
        if end and (total + size > limit or start >= apart.get(end, start + 1)):
            yield start, end
            end = total = 0
        if not end:
            start = first
        end, total = last, total + size
    if end:
        yield start, end


def _strip(source: str, span: Span) -> Span:
    text = source[slice(*span)]
    return span[0] + len(text) - len(text.lstrip()), span[0] + len(text.rstrip())
