"""The ``[n]`` marks of an answer: where they are, and how they are set right without touching anything else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from mdsa_local.sentences import FENCE, LIST_MARK, without_list_mark

if TYPE_CHECKING:
    from mdsa_local.validation.grounding import Claim

# "[1](https://...)" is a link.
MARK = re.compile(r"\[\s*(\d{1,2}(?:\s*[,;]\s*\d{1,2})*)\s*\](?!\()")
# No code: "the `force' option", as GNU manuals quote, and what goes past the end of a sentence: a backtick by itself may stand in both.
INLINE_CODE = re.compile(r"`(?![\w.=+-]+'(?!\w))(?:(?![.!?]['\")\]*]*\s+(?:\[\s*\d|[A-Z]))[^`\n])+`")
# A name with its indexes: config[2], grid.rows[0][1].
INDEXED = re.compile(r"(?<![\w.])\w[\w.]*(?:\[[^\[\]`\n]*\])+")
# "See the manual [1]." has nothing of code but the block it stands in.
PUNCTUATION = re.compile(r"[^\w\s]")

Edit = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Mark:
    """One ``[1]`` or ``[1, 2]``: its place in the answer and the numbers in it."""

    start: int
    end: int
    numbers: tuple[int, ...]


def marks(answer: str) -> list[Mark]:
    """The citation marks of ``answer``; an index in code is none."""
    code = _code(answer)
    return [
        Mark(match.start(), match.end(), tuple(int(number) for number in re.findall(r"\d+", match[1])))
        for match in MARK.finditer(answer)
        if not any(start <= match.start() < end for start, end in code)
    ]


def _code(text: str) -> list[tuple[int, int]]:
    """Where code stands in ``text``: blocks, and what is between backticks."""
    return [match.span() for pattern in (FENCE, INLINE_CODE) for match in pattern.finditer(text)]


def as_code(text: str) -> str:
    """A line of code without its block between backticks, if it would have marks without them: ``ports = config[2]``. Any other text as it is."""
    if "`" in text or "\n" in text or not marks(text):
        return text
    line = without_list_mark(text)
    return f"{text.removesuffix(line)}`{line}`"


def in_code(answer: str, texts: Iterable[str]) -> str:
    """``answer`` with backticks around what it quotes bare of the code in ``texts`` and would have marks without them."""
    quoted = sorted({part for text in texts for part in _indexed(text)}, key=len, reverse=True)
    if not quoted:
        return answer
    code = _code(answer)

    def kept(match: re.Match[str]) -> str:
        return match[0] if any(start <= match.start() < end for start, end in code) else f"`{match[0]}`"

    return re.sub(rf"(?<![\w.])(?:{'|'.join(map(re.escape, quoted))})", kept, answer)


def _indexed(text: str) -> Iterator[str]:
    """What would be marks if it stood outside the code in ``text``: names with their indexes, and the lines that hold such."""
    for line in (line.strip("` \t") for start, end in _code(text) for line in text[start:end].split("\n")):
        if MARK.search(line):
            yield from (found[0] for found in INDEXED.finditer(line) if MARK.search(found[0]))
            bare = without_list_mark(line)
            if "`" not in bare and PUNCTUATION.search(MARK.sub("", bare).rstrip(".!? ")):
                yield bare


def blanked(answer: str, found: Sequence[Mark]) -> str:
    """``answer`` with spaces for marks, every other character in its place."""
    chars = list(answer)
    for mark in found:
        chars[mark.start : mark.end] = " " * (mark.end - mark.start)
    return "".join(chars)


def removed(answer: str, start: int, end: int, found: Sequence[Mark]) -> str:
    """``answer[start:end]`` without marks and the blanks before them."""
    parts = []
    for mark in (mark for mark in found if start <= mark.start < end):
        parts.append(answer[start : mark.start].rstrip())
        start = mark.end
    return "".join([*parts, answer[start:end]])


def set_right(answer: str, settled: Sequence[Claim]) -> str:
    """``answer`` with a right mark behind every run of sentences from one passage.

    Every claim must have a passage. Marks are replaced, moved or added; right ones, and all other characters, stay.
    """
    found = marks(answer)
    edits = [_without(answer, mark) for mark in found if mark.start < settled[0].start]
    begin = 0
    for at, claim in enumerate(settled):
        until = settled[at + 1].start if at + 1 < len(settled) else len(answer)
        own = [mark for mark in found if claim.start <= mark.start < until]
        if own:
            group = settled[begin : at + 1]
            if not _right(group, own):
                edits += [*_inserted(answer, group[: _last_run(group)]), *_mended(answer, claim, own)]
            begin = at + 1
    if not _is_rest_of_list(answer, settled, begin):
        edits += _inserted(answer, settled[begin:])
    return _applied(answer, edits)


def _right(group: Sequence[Claim], own: Sequence[Mark]) -> bool:
    """Every sentence is in a passage cited, and every passage cited holds a sentence."""
    cited = {number - 1 for mark in own for number in mark.numbers}
    return all(cited & set(claim.holders) for claim in group) and cited <= {index for claim in group for index in claim.holders}


def _last_run(group: Sequence[Claim]) -> int:
    """Where the sentences begin that are from the same passage as the last."""
    at = len(group)
    while at and group[at - 1].by == group[-1].by:
        at -= 1
    return at


def _is_rest_of_list(answer: str, settled: Sequence[Claim], begin: int) -> bool:
    """Whether only steps follow the last mark, from the passage it names: each step need not carry its own."""
    rest = settled[begin:]
    steps = all(LIST_MARK.match(answer, claim.start) for claim in rest)
    return begin > 0 and steps and {claim.by for claim in rest} <= {settled[begin - 1].by}


def _label(claim: Claim) -> str:
    if claim.by is None:
        raise AssertionError("only supported claims are cited")
    return f"[{claim.by + 1}]"


def _inserted(answer: str, claims: Sequence[Claim]) -> Iterator[Edit]:
    """A mark at the end of each run; behind a code block, never inside it: one left open is closed before."""
    for _, run in groupby(claims, key=lambda claim: claim.by):
        *_, last = run
        yield _mark_behind(answer, last)


def _mark_behind(answer: str, claim: Claim) -> Edit:
    for fence in FENCE.finditer(answer):
        if fence.start() <= claim.start < fence.end():
            _, *lines = fence[0].split("\n")
            closing = "" if lines and lines[-1].strip() == fence[1] else f"\n{fence[1]}"
            return fence.end(), fence.end(), f"{closing}\n{_label(claim)}"
    return claim.end, claim.end, f" {_label(claim)}"


def _mended(answer: str, claim: Claim, own: Sequence[Mark]) -> Iterator[Edit]:
    """The marks behind the last sentence of a group become the one that is right; a mark on a later line moves up."""
    first, *others = own
    if "\n" in answer[claim.end : first.start]:
        others = list(own)
        yield _mark_behind(answer, claim)
    else:
        yield first.start, first.end, _label(claim)
    for mark in others:
        yield _without(answer, mark)


def _without(answer: str, mark: Mark) -> Edit:
    """Take a mark out with the blanks before it, or those behind it at the start of a line."""
    start, end = len(answer[: mark.start].rstrip(" \t")), mark.end
    if start == 0 or answer[start - 1] == "\n":
        end = len(answer) - len(answer[end:].lstrip(" \t"))
    return start, end, ""


def _applied(answer: str, edits: Sequence[Edit]) -> str:
    parts, at = [], 0
    for start, end, new in sorted(edits):
        parts += [answer[at : max(start, at)], new]
        at = max(end, at)
    return "".join([*parts, answer[at:]]).strip()
