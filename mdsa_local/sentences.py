"""Where the sentences of a text begin and end; offsets are kept, so that an answer can be mended without being rewritten."""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]

FENCE = re.compile(r"^[ \t]*(```|~~~)[^\n]*(?:\n.*?(?:^[ \t]*\1[ \t]*$|\Z)|\Z)", re.MULTILINE | re.DOTALL)
LIST_MARK = re.compile(r"[ \t>#]*(?:\*\*)?(?:[-*+•–—·▪◦‣✓✔✗✘]|(?:step[ \t]+)?\d{1,2}[.):])(?:\*\*)?[ \t]+", re.IGNORECASE)

_LINE = re.compile(r"[^\n]+")
_END = re.compile(r"""[.!?…]+["'”’»)\]*_`]*(?=\s|$)|[。！？]+[」』”’)"]*""")
_NEXT = re.compile(r"""\s*["'“‘«(\[*_`¿¡]*(\S)""")
_LAST_WORD = re.compile(r"(?<!\w)\w+(?:\.\w+)*$")
_NUMBER_ONLY = re.compile(r"\s*(?:\*\*)?(?:step[ \t]+)?\d{1,2}", re.IGNORECASE)
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_ABBREVIATIONS = frozenset("dr mr mrs ms prof e.g i.e approx vs cf".split())
# A line that ends with one of these, or says what not to do, and has no end, goes on in the next: "Please do not use" says nothing, "Cortisone cream"
# the opposite. In lower case only: "Zone A" and "May" are complete, and so is "Dogs are not allowed".
_LACKS_MORE = re.compile(
    r"(?<!\w)(?:an?|the|of|to|at|by|for|with|within|without|from|into|than|and|or|nor|but|if|unless|except|until|because|as|may|could|must|should|shall"
    r"|will|would|no|not|never|only|your|our|their|its|every|per|between)$"
)
_FORBIDS = re.compile(
    r"(?:(?<!\w)(?:(?:do|does|did|must|may|should|shall|can|could|will|would)\s+not|not\s+to|never|cannot)|(?<!\w)(?:do|does|did|must|should|ca|could|wo|would)n['’]t)"
    r"(?!\s+be(?!\w))(?:\s+\w+){1,2}$",
    re.IGNORECASE,
)
_HAS_AN_END = re.compile(r"""[.!?…:;|。！？]["'”’»)\]*_`]*$""")
# Lines of tables, headings and quotations begin so, or are but a line or bold; "Pets: not allowed" is complete.
_OTHER_KIND = re.compile(r"\s*(?:[|#>]|[=~_-]{2,}\s*$|(\*\*|__).*\1\s*$)")
_NAMED = re.compile(r"[^.!?:|\n]{1,40}:\s")
_NAMED_WHOLE = re.compile(rf"{_NAMED.pattern}+\S+(?:\s+\S+)?")
# "No. 5" is a number, "No. You cannot." an answer.
_BEFORE_A_NUMBER = frozenset("no nos nr fig".split())


def spans(text: str) -> list[Span]:
    """``(start, end)`` of every sentence, line of a list and line of code in ``text``, without the white space around it."""
    found: list[Span] = []
    at = 0
    for fence in FENCE.finditer(text):
        found += _of_prose(text, at, fence.start())
        inner = [line.span() for line in _LINE.finditer(text, *fence.span())][1:]
        found += inner[:-1] if inner and text[slice(*inner[-1])].strip() == fence[1] else inner
        at = fence.end()
    found += _of_prose(text, at, len(text))
    return [span for span in (_stripped(text, span) for span in found) if span[0] < span[1]]


def sentences(text: str) -> list[str]:
    """The sentences of ``text``."""
    return [text[start:end] for start, end in spans(text)]


def without_list_mark(sentence: str) -> str:
    """The sentence without a leading ``2.`` or ``-``: the number of a step is not a fact."""
    mark = LIST_MARK.match(sentence)
    return sentence[mark.end() :] if mark else sentence


def line_start(text: str, at: int) -> int:
    """Where the line of ``at`` begins."""
    return text.rfind("\n", 0, at) + 1


def indentation(text: str, at: int) -> int:
    """How many characters stand before ``at`` in its line."""
    return at - line_start(text, at)


def unmarked(between: str, sentence: str) -> bool:
    """Whether ``sentence``, with ``between`` it and a line that leads in a list or an item of that, is an item without a mark: the next line, and no
    sentence."""
    return between.count("\n") == 1 and not between.strip() and not _HAS_AN_END.search(sentence)


def _of_prose(text: str, start: int, end: int) -> Iterator[Span]:
    for block in _blocks(text, start, end):
        yield from _of_block(text, *block)


def _blocks(text: str, start: int, end: int) -> list[Span]:
    """Lines; one that goes on in lower case, or with what the line before lacks, is the rest of that."""
    blocks: list[Span] = []
    before = ""
    for line in _LINE.finditer(text, start, end):
        if blocks and line.start() == blocks[-1][1] + 1 and (line[0].lstrip()[:1].islower() or _goes_on(before, line[0])):
            blocks[-1] = (blocks[-1][0], line.end())
        elif line[0].strip():
            blocks.append(line.span())
        before = line[0]
    return blocks


def _goes_on(line: str, following: str) -> bool:
    """Whether the sentence at the end of a line is not complete without the line ``following``."""
    line, following = line.rstrip(), following.strip()
    if not following or following.endswith((":", "：")) or LIST_MARK.match(following) or any(map(_OTHER_KIND.match, (line, following))):
        return False
    if _HAS_AN_END.search(line) or _NAMED_WHOLE.fullmatch(line):
        return False
    return bool(_LACKS_MORE.search(line) or (_FORBIDS.search(line) and not _NAMED.match(following)))


def _of_block(text: str, start: int, end: int) -> Iterator[Span]:
    begin = start
    for match in _END.finditer(text, start, end):
        following = _NEXT.match(text, match.end(), end)
        if following and _ends(text, begin, match, following[1], at_line_start=begin == start):
            yield begin, match.end()
            begin = match.end()
    yield begin, end


def _ends(text: str, begin: int, match: re.Match[str], following: str, *, at_line_start: bool) -> bool:
    """Whether the mark at ``match`` ends the sentence that begins at ``begin``; ``following`` is the first letter after it."""
    if match[0][0] in "。！？":
        return True
    caseless = following.isalpha() and following.lower() == following.upper()
    if not (following.isupper() or following.isdigit() or caseless or following in "-•"):
        return False
    if match[0].rstrip("*") != ".":
        return True
    if _NUMBER_ONLY.fullmatch(text, begin, match.start()):
        return not (at_line_start or following.isupper())
    last = _LAST_WORD.search(text[begin : match.start()])
    if last is None:
        return True
    word = last[0]
    if word.lower() in _ABBREVIATIONS or (word.lower() in _BEFORE_A_NUMBER and following.isdigit()):
        return False
    # "38 C." and "mmol/L." end with a unit, "J. Smith" begins with an initial.
    is_unit = re.search(r"(?:[\d°]\s*|/)$", text[begin : begin + last.start()])
    return not (_INITIALS.fullmatch(word) and word.isupper() and not is_unit)


def _stripped(text: str, span: Span) -> Span:
    part = text[slice(*span)]
    return span[0] + len(part) - len(part.lstrip()), span[1] - len(part) + len(part.rstrip())
