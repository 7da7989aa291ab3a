"""Where the sentences of a text begin and end; offsets are kept, so that an answer can be mended without being rewritten."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, takewhile

Span = tuple[int, int]

FENCE = re.compile(r"^[ \t]*(```|~~~)[^\n]*(?:\n.*?(?:^[ \t]*\1[ \t]*$|\Z)|\Z)", re.MULTILINE | re.DOTALL)
LIST_MARK = re.compile(r"[ \t>#]*(?:\*\*)?(?:[-*+•–—·▪◦‣✓✔✗✘]|(?:step[ \t]+)?\d{1,2}[.):])(?:\*\*)?[ \t]+", re.IGNORECASE)
# A line that is bold as a whole stands over what is below it.
BOLD = re.compile(r"\s*(\*\*|__)(?=\S)((?:(?!\1)[^\n])+)\1\s*")
# The end of a sentence.
WHOLE = re.compile(r"""[.!?…]["'”’»)\]*_`]*$""")
# A row of a Markdown table that leaves its first cell to those above it.
BLANK_ROW = re.compile(r"[ \t]*\|[ \t]*\|")

_LINE = re.compile(r"[^\n]+")
_ANY_LINE = re.compile(r"[^\r\n]+")
_NUMBERED = re.compile(r"[ \t>#]*(?:\*\*)?(?:step[ \t]+)?(\d{1,2})[.):]", re.IGNORECASE)
# Lines that may stand over a section of a text without headings: "3. HOW TO TAKE IT", "2.1 Fees", "IV. Deposit", "§ 5 Meetings", "Art. 7 Boats".
_CHAPTER = re.compile(r"(?:\d{1,2}(?:(?:\.\d{1,2})+\.?|[.)])|[IVX]{1,5}[.)])[ \t]+(?=\S)")
_ARTICLE = re.compile(r"(?:§+|(?:art(?:icle|ikel|\.)|section|clause|chapter)[ \t])[ \t]*\d", re.IGNORECASE)
# What is numbered below a chapter, by its first number.
_CLAUSE, _FIRST_NUMBER = re.compile(r"(\d{1,2})\.\d"), re.compile(r"\d{1,2}")
_MOST_OVER_CHARS = 60
# From so many blanks on an item stands below another.
_BELOW = 2
_END = re.compile(r"""[.!?…]+["'”’»)\]*_`]*(?=\s|$)|[。！？]+[」』”’)"]*""")
_NEXT = re.compile(r"""\s*["'“‘«(\[*_`¿¡]*(\S)""")
_COMMENT = re.compile(r"\s*<!--")
_LAST_WORD = re.compile(r"(?<!\w)\w+(?:\.\w+)*$")
_MOST_WORD_CHARS = 100
_NUMBER_ONLY = re.compile(r"\s*(?:\*\*)?(?:step[ \t]+)?\d{1,2}", re.IGNORECASE)
_ROMAN = re.compile(r"\s*(?:\*\*)?[IVX]{1,5}")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_ABBREVIATIONS = frozenset("dr mr mrs ms prof rev sgt lt mt e.g i.e approx vs cf excl incl".split())
# "St. Gallen" and "5 St. Mary's Road" begin with a saint, "12 Main St." ends with a street.
_SAINTS, _NAME_BEFORE = frozenset(["st", "ste"]), re.compile(r"(?<!\w)[^\W\d_]\w*\s*$")
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
# Behind a comma prose goes on; "Anna,Sales," is a row.
_LISTS = re.compile(r"(?!.*,(?!\d{3}(?!\d))\S).*,$")
# Lines of tables, headings and prompts begin so, or are but a line or bold; "Pets: not allowed" is complete.
_OTHER_KIND = re.compile(r"\s*(?:[|#>]|[=~_-]{2,}\s*$|(\*\*|__).*\1\s*$)")
_NAMED = re.compile(r"[^.!?:|\n]{1,40}:\s")
_NAMED_WHOLE = re.compile(rf"{_NAMED.pattern}+\S+(?:\s+\S+)?")
# Three at once are a prompt of Python.
_QUOTES = re.compile(r"[ \t]*(?:(?!>>>)>[ \t]*)*")
# What may stand before the first word of a line: "**but** not here", "(except Romania)"; "(a)", "[x]" and "[^1]" are marks.
_OPENS = re.compile(r"""(?:[*_`"“‘]|…\s*|[(\[](?!\^|\w{0,3}[)\]]))+""")
_RESTRICTS = re.compile(r"(?:only|not|except|unless|excluding|but|if(?!.*,))\s+\S+(?:\s+\S|[.!]$)", re.IGNORECASE)
_RESTRICTS_BELOW = re.compile(r"(?:only|except|unless|excluding|but|if)(?!\w)")
_DASH = re.compile(r"[-–—][ \t]+")
# Lines below each other, and what is drawn in one.
_PARAGRAPH = re.compile(r"[^\n]+(?:\n[^\n]+)*")
_DRAWN = re.compile(r"\S(?:[ ]{3,}|[ ]*\t)")
# An editor breaks a line of prose at the width of the page, who does it by hand some characters before that, and few sentences go over more lines.
# Shorter lines, and those of which none comes to an end, may be a list.
WRAPPED_CHARS, WRAPPED_PART, WRAPPED_LINES = 60, 2 / 3, 3
# A line of fewer words may be a name or a title, of which nothing is taken back.
_STATED_WORDS = 3
# "No. 5" is a number, "No. You cannot." an answer.
_BEFORE_A_NUMBER = frozenset("no nos nr fig max min tel ext ca art sec pp p jan feb mar apr jun jul aug sep sept oct nov dec".split())
_STREET = "str"
# More dots than these, or such behind a blank, lead the eye to a number.
_DOTS = 3
# "After 6 p.m. Monday to Thursday" goes on, "6 p.m. Monday is a holiday" does not.
_TIMES = frozenset(["a.m", "p.m"])
_DAY = re.compile(
    r"\s*(?:mon|tues|wednes|thurs|fri|satur|sun)days?(?!\w|\s+(?:is|are|was|were|has|have|will|we|you|it)(?!\w))"
    r"|\s*(?:january|february|march|april|may(?=\s+\d)|june|july|august|september|october|november|december)(?!\w)",
    re.IGNORECASE,
)


_TOTAL = re.compile(r"(?:(?:sub|grand)?[ -]?total|sum|overall|(?:zwischen|gesamt)?summe|insgesamt|gesamt|somme|suma)(?!\w)", re.IGNORECASE)


def is_total(cells: Iterable[str]) -> bool:
    """Whether a row of a table sums up others: one of its cells says so, or all that are filled are numbers."""
    said = [cell.strip(" *_:") for cell in cells]
    return any(map(_TOTAL.match, said)) or not any(char.isalpha() for cell in said for char in cell)


def spans(text: str) -> list[Span]:
    """``(start, end)`` of every sentence, line of a list and line of code in ``text``, without the white space around it."""
    text = unwrapped(text)
    found: list[Span] = []
    at = 0
    for fence in FENCE.finditer(text):
        found += _of_prose(text, at, fence.start())
        inner = [line.span() for line in _LINE.finditer(text, *fence.span())][1:]
        found += inner[:-1] if inner and text[slice(*inner[-1])].strip() == fence[1] else inner
        at = fence.end()
    found += _of_prose(text, at, len(text))
    return [span for span in (_stripped(text, span) for span in found) if span[0] < span[1]]


def unwrapped(text: str) -> str:
    """``text`` with a blank in place of each break between long lines at which a sentence goes on with a capital letter or a number."""
    if len(text) < WRAPPED_CHARS or "\n" not in text:
        return text
    fences = [fence.span() for fence in FENCE.finditer(text)]
    paragraphs = [match for match in _PARAGRAPH.finditer(text) if not any(a < match.end() and match.start() < b for a, b in fences)]
    lines = [[line.span() for line in _LINE.finditer(text, *paragraph.span())] for paragraph in paragraphs]
    widths = [end - start for span in lines for start, end in span if not _OTHER_KIND.match(text[start:end])]
    least = max(WRAPPED_CHARS, WRAPPED_PART * max(widths, default=0))
    wrapped = [at for span in lines for at in _breaks(text, span, least)]
    return "".join(f" {text[a + 1 : b]}" for a, b in pairwise([-1, *wrapped, len(text)]))[1:]


def _breaks(text: str, lines: list[Span], least: float) -> Iterator[int]:
    """Where of ``lines`` below each other those end, of ``least`` characters or more, that go on in the next."""
    for at, ((start, end), (first, last)) in enumerate(pairwise(lines), 1):
        below = list(takewhile(lambda span: not _END.search(text, *span), lines[at : at + WRAPPED_LINES]))
        whole = len(below) < min(WRAPPED_LINES, len(lines) - at) and all(b - a >= least for a, b in below)
        if whole and end - start >= least and _is_wrapped(text[start:end], text[first:last]):
            yield end


def _is_wrapped(line: str, following: str) -> bool:
    """Whether a long line may go on in the one below, which begins with no small letter. Neither lines that begin alike do, nor titles and tables."""
    bare, rest = line.strip(), following.strip()
    if not (rest[:1].isupper() or rest[:1].isdigit()) or _HAS_AN_END.search(bare) or bare == bare.upper() or rest.endswith((":", "：")):
        return False
    if LIST_MARK.match(following) or _NAMED.match(rest) or any(map(_OTHER_KIND.match, (line, following))) or any(map(_DRAWN.search, (bare, rest))):
        return False
    if LIST_MARK.match(line) and following[0] not in " \t":
        return False
    one, other = (re.sub(r"\d", "0", said.split()[0].lower()) for said in (bare, rest))
    return one != other


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


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a text, how far in it stands, and the ``number`` of an item, 0 with another mark, None for what is none."""

    start: int
    far: int
    number: int | None
    ends_list: bool
    leads: bool


def other_lists(text: str) -> frozenset[int]:
    """Where lines begin with the first item of a list right behind another one: with a number behind items without, or the other way about, and no
    deeper. Not so an item that the one before leads in with a colon, nor what stands between two items whose numbers go on."""
    found = set[int]()
    lines = _lines_told(text)
    numbered: bool | None = None
    far = last = until = 0
    for at, line in enumerate(lines):
        if numbered is not None and line.far >= far + _BELOW:
            continue
        if line.number is None:
            numbered = None if line.ends_list else numbered
            continue
        other = numbered is not None and numbered != bool(line.number) and not lines[at - 1].leads
        if other and line.number:
            other = not last or line.number != last + 1
        elif other:
            until = until if at < until else _next_number(lines, at, far, last + 1)
            other = not until
        if numbered is None or other:
            numbered, far, last, until = bool(line.number), line.far, 0, 0
            found |= {line.start} if other else set()
        far, last = min(far, line.far), line.number or last
    return frozenset(found)


def _lines_told(text: str) -> list[_Line]:
    lines = list[_Line]()
    end = 0
    for match in _ANY_LINE.finditer(text):
        line = match[0].rstrip()
        if not line:
            continue
        bare = line.lstrip(" \t>")
        number = _NUMBERED.match(line)
        item = int(number[1]) if number else 0
        blank = len(text[end : match.start()].splitlines()) > 1
        leads = line.rstrip("*_` ").endswith((":", "："))
        lines.append(_Line(match.start(), len(line) - len(bare), item if LIST_MARK.match(match[0]) else None, blank or not bare[:1].islower(), leads))
        end = match.end()
    return lines


def _next_number(lines: Sequence[_Line], at: int, far: int, number: int) -> int:
    """Which line has the item ``number`` that a list goes on with behind ``at``; 0 for none."""
    for place in range(at, len(lines)):
        line = lines[place]
        if line.far < far + _BELOW and (line.number or (line.number is None and line.ends_list)):
            return place if line.number == number else 0
    return 0


def is_over(before: str, line: str, following: str) -> bool:
    """Whether ``line``, between two others, stands over what begins right below it: it has a number, and no end. It is no step then."""
    line, below = line.rstrip(), following.strip()
    if not below or following[0] in " \t" or len(line) > _MOST_OVER_CHARS or line.endswith(",") or _HAS_AN_END.search(line):
        return False
    number = _CHAPTER.match(line)
    # "3.1" stands below "3. Notice" and "§ 3 Notice".
    clause, own = _CLAUSE.match(below), _FIRST_NUMBER.search(line)
    clauses = bool(clause and own and clause[1] == own[0] and not _CLAUSE.match(line))
    # One of several items has others beside it.
    chapter = number and line[number.end()].isupper() and (clauses or not _CHAPTER.match(before))
    if not (chapter or _ARTICLE.match(line)) or (not clauses and any(kind.match(below) for kind in (LIST_MARK, _CHAPTER, _ARTICLE))):
        return False
    return (below[0].isupper() or below[0].isdigit() or below[0] in "(\"“„'‘") and not _goes_on(line, following)


def overs(text: str) -> frozenset[int]:
    """Where the lines begin that stand over others, see :func:`is_over`."""
    lines = text.split("\n")
    starts = accumulate((len(line) + 1 for line in lines), initial=0)
    beside = zip(starts, ["", *lines], lines, [*lines[1:], ""], strict=False)
    return frozenset(start for start, before, line, following in beside if is_over(before, line, following))


def _of_prose(text: str, start: int, end: int) -> Iterator[Span]:
    for block in _blocks(text, start, end):
        yield from _of_block(text, *block)


def _blocks(text: str, start: int, end: int) -> list[Span]:
    """Lines; one that goes on in lower case, or with what the line before lacks, is the rest of that. In quotations that is what stands behind the
    marks."""
    blocks: list[Span] = []
    before, deep = "", 0
    for line in _LINE.finditer(text, start, end):
        bare = _QUOTES.sub("", line[0], count=1)
        depth = line[0].count(">", 0, len(line[0]) - len(bare))
        between = text[blocks[-1][1] : line.start()] if blocks else ""
        alike = bool(before.strip()) and depth == deep
        if (
            (between == "\n" and bare[:1].islower() and (alike or not depth))
            or (between == "\n" and alike and (_goes_on(before, bare) or _taken_back(before, bare, text, line.end() + 1)))
            or (between == "\n\n" and alike and _RESTRICTS_BELOW.match(bare) and _goes_on(before, bare))
        ):
            blocks[-1] = (blocks[-1][0], line.end())
        elif line[0].strip():
            blocks.append(line.span())
        before, deep = bare, depth
    return blocks


def _goes_on(line: str, following: str) -> bool:
    """Whether the sentence at the end of a line is not complete without the line ``following``, or is not all that is said."""
    line, following = line.rstrip(), following.strip()
    if not following or following.endswith((":", "：")) or LIST_MARK.match(following) or any(map(_OTHER_KIND.match, (line, following))):
        return False
    if _HAS_AN_END.search(line):
        return False
    named = _NAMED.match(following)
    if _LISTS.match(line) and not named:
        return True
    if _NAMED_WHOLE.fullmatch(line):
        return False
    return bool(_LACKS_MORE.search(line) or (not named and (_FORBIDS.search(line) or _goes_on_behind_marks(line, following))))


def _goes_on_behind_marks(line: str, following: str) -> bool:
    """Whether a line goes on in lower case but for the marks it opens with, which are not those of ``line``, or restricts what that says."""
    if len(line.split()) < _STATED_WORDS:
        return False
    opens = _OPENS.match(following)
    bare = following[opens.end() :] if opens else following
    if _RESTRICTS.match(bare):
        # Lines that begin alike are beside each other.
        return line.split()[0].lower() != following.split()[0].lower()
    return opens is not None and bare[:1].islower() and line[0] != following[0]


def _taken_back(line: str, following: str, text: str, at: int) -> bool:
    """Whether ``following`` is no item of a list but, behind a dash, what is taken back of ``line``; the line below begins ``at``."""
    dash = _DASH.match(following)
    bare = following[dash.end() :].rstrip() if dash else ""
    if not bare[:1].islower() or not _RESTRICTS.match(bare) or LIST_MARK.match(line) or LIST_MARK.match(text, at):
        return False
    return _goes_on(line, bare)


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
    if _COMMENT.match(text, match.end()):
        return True
    caseless = following.isalpha() and following.lower() == following.upper()
    if not (following.isupper() or following.isdigit() or caseless or following in "-•"):
        return False
    # "Tent ........ 13.50"
    if following.isdigit() and match[0].strip(".") == "" and (len(match[0]) > _DOTS or text[match.start() - 1 : match.start()].isspace()):
        return False
    if match[0].rstrip("*") != ".":
        return True
    if _ROMAN.fullmatch(text, begin, match.start()) and at_line_start:
        return False
    if _NUMBER_ONLY.fullmatch(text, begin, match.start()):
        return not (at_line_start or following.isupper())
    # A sentence of many abbreviations is not read again from its begin at each.
    begin = max(begin, match.start() - _MOST_WORD_CHARS)
    last = _LAST_WORD.search(text[begin : match.start()])
    if last is None:
        return True
    word = last[0]
    # "38 C.", "5 min." and "mmol/L." end with a unit, "J. Smith" begins with an initial.
    is_unit = re.search(r"(?:[\d°]\s*|/)$", text[begin : begin + last.start()])
    counts = word.lower() in _BEFORE_A_NUMBER or word.lower().endswith(_STREET)
    if word.lower() in _ABBREVIATIONS or (counts and following.isdigit() and not is_unit):
        return False
    if word.lower() in _SAINTS and word[0].isupper():
        name = _NAME_BEFORE.search(text[begin : begin + last.start()])
        return name is not None and name[0][0].isupper()
    if word.lower() in _TIMES and _DAY.match(text, match.end()):
        return False
    return not (_INITIALS.fullmatch(word) and word.isupper() and not is_unit)


def _stripped(text: str, span: Span) -> Span:
    part = text[slice(*span)]
    return span[0] + len(part) - len(part.lstrip()), span[1] - len(part) + len(part.rstrip())
