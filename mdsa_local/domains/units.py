"""What of a passage can be quoted by itself: its sentences, steps, items of a list below what leads them in, rows of a table below its head."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile

from mdsa_local import mail
from mdsa_local.sentences import (
    BLANK_ROW,
    BOLD,
    FENCE,
    LIST_MARK,
    WHOLE,
    indentation,
    is_total,
    line_start,
    other_lists,
    overs,
    spans,
    unmarked,
    unwrapped,
    without_list_mark,
)
from mdsa_local.validation import denials
from mdsa_local.validation.grounding import YES_OR_NO

STEP = re.compile(r"(\d{1,2})[.)]\s")
NUMBER = re.compile(r"^[ \t]*(\d{1,9})[.)]\s", re.MULTILINE)
# A value with its name, and a record: a line of such.
PAIR = re.compile(r"([^\W\d_][^:;|\n]{0,60}):\s")
RECORD = re.compile(rf"^{PAIR.pattern}[^;\n]*(?:;[ ]{PAIR.pattern}[^;\n]*)+$", re.MULTILINE)
COMMENT = re.compile(r"<!--.*?-->|^[ \t]*\[[^\]\n]+\]:[ \t]*(?:#|<>)[ \t][^\n]*", re.DOTALL | re.MULTILINE)
# What holds no more: "~~two~~ one tablet".
STRUCK = re.compile(r"(?<!~)~~(?=[^\s~])(?:(?!\n\s*\n).)+?(?<=[^\s~])~~(?!~)", re.DOTALL)
TAG = re.compile(r"</?[a-z][a-z0-9]*(?:[ \t][^<>\n]*)?/?>", re.IGNORECASE)
# Where a footnote is told of, and it.
NOTED, NOTE = re.compile(r"\[\^([^\]\s]+)\](?!:)"), re.compile(r"\[\^([^\]\s]+)\]:\s")
# So few words may be no sentence, and lack what is said of them: "Tyres." below "Not insured".
FRAGMENT_WORDS = 5
# With one of these it is one: "Bicycles must be pushed."
VERB = re.compile(
    r"(?<!\w)(?:we|you|they|he|she|it|is|are|was|were|has|have|had|do|does|can|may|must|shall|should|will|would|could|costs?|needs?|\w+n['’]t)(?!\w)",
    re.IGNORECASE,
)
# A sentence that begins so goes on from the one before it, and may take back what that says: "They can also export" tells of the accounts before,
# "Exception: the shallow pool", "Games cannot." and "Local clubs are exempt." of what is else allowed or due. Not so "It is important to ..." and
# "This policy ...".
GOES_ON = re.compile(
    r"(?:it(?!\s+(?:is|was)\s+(?:\w+\s+)?\w+\s+(?:to|that)\s)|he|she|his|her|its|they|their|these|those|both"
    r"|(?:this|that)\s+(?:is|are|was|were|does|do|can|may|must|will|would|should|has|applies|apply|also|only|includes?)"
    r"|however|instead|otherwise|except(?:ions?)?|(?:the|an|one|only)\s+(?:only\s+)?exceptions?|(?:\w+\s+){0,3}then"
    r"|(?:\S+\s+){1,4}?(?:(?:is|are|do|does|can|(?<!\s(?:by|in|of|on|to)\s)(?<!\d\s)may|must|will)(?:\s+not)?"
    r"|cannot|\w+n['’]t|(?:is|are)\s+(?:exempt(?:ed)?|excepted|excluded))[.!]$"
    r"|(?:after|beyond|besides|without|until)\s+(?:that|this|those)(?=,|\s+(?:it|we|you|they|there|the|an?|is|are|costs?|no)(?!\w))"
    r"|if\s+(?:(?:that|this)\s+(?:is|are|does|cannot|can|has)|not,|so,)|(?:\S+\s+){1,8}?(?:for|of|with|by|than)\s+(?:that|this|it|them)[.!]$)(?!\w)",
    re.IGNORECASE,
)
# What the sentences of a line are about: "Adults: 10 ml. Not more than 40 ml a day."
LABEL = re.compile(r"(?:\*\*|__)?[^.!?:|\n]{1,40}:[*_]*[ \t]+\S")
# So many words at most are put together that way.
MOST_WORDS = 60
# A line between two steps belongs to the first, if the next has the next number and so few sentences stand between.
WITHIN_STEPS = 4
# A Markdown table: the names of the columns, the line below them, and rows.
TABLE = re.compile(r"^[^\n|]*\|[^\n]*\n[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*(?:\n[^\n]*\|[^\n]*)+", re.MULTILINE)
CAPTION = re.compile(r"tab(?:le|elle|\.)[ ]?\d", re.IGNORECASE)
# A list of steps of more words than these is read in parts: the judge reads 128 tokens with the question, and what the last step says is asked too.
READ_WORDS, PART_WORDS = 100, 75
# A block of code of up to so many lines is quoted as a whole: of a command that goes on in the next line, or of a script, each line is but a part.
CODE_LINES = 12
FENCE_MARK = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*\n?", re.MULTILINE)
# What is emphasized, of several sentences too.
EMPHASIZED = re.compile(r"(?<![\w*_\\])(\*{1,3}|_{1,3})(?=[^\s*_])(?:(?!\n[ \t]*\n).)+?(?<=[^\s*_])\1(?![\w*_])", re.DOTALL)
# The last of emphasis, and of quotation marks where the whole stands between such.
EMPHASIS, QUOTATION = "*_` ", "\"'”’»)"


@dataclass(frozen=True, slots=True)
class Unit:
    """What can be quoted: ``own``, and ``above`` it what leads it in; ``listed`` where it is an item of a list, steps, or a row of a table."""

    own: str
    above: str = ""
    listed: bool = False

    @property
    def text(self) -> str:
        """All of it."""
        return f"{self.above}\n{self.own}" if self.above else self.own

    @property
    def readings(self) -> list[str]:
        """The texts by which it is found to answer: its own, of code without its marks and each line too, or parts of a long list of steps."""
        if self.own.startswith(("```", "~~~")):
            lines = FENCE_MARK.sub("", self.own).rstrip("\n").split("\n")
            return ["\n".join(filter(None, (self.above, *lines))), *filter(str.strip, lines)]
        if not STEP.match(self.own) or len(self.own.split()) <= READ_WORDS:
            return [self.text]
        parts = list[str]()
        for line in self.own.split("\n"):
            if parts and len(parts[-1].split()) + len(line.split()) <= PART_WORDS:
                parts[-1] += f"\n{line}"
            else:
                parts.append(line)
        return [f"{self.above}\n{part}" if self.above else part for part in parts]

    def section(self, title: str) -> str:
        """The heading in the ``title`` of its passage without which it would say the opposite, or a "No." nothing: one that denies, else that under
        which a list stands that nothing leads in; empty for sentences, which say what they mean. Steps are taken where something is not as it should
        be ("A charge you do not recognize"): of them only the heading right above counts. Steps that are not all stand under which they are."""
        title, part = denials.part(title)
        if YES_OR_NO.match(self.own) or (len(self.own.split()) == 1 and not self.listed):
            return denials.asked(title)
        last, steps = title.rpartition(denials.BETWEEN_HEADINGS)[2], bool(STEP.match(self.own))
        fragment = len(self.own.split()) <= FRAGMENT_WORDS and not VERB.search(self.own) and not denials.denies(self.own)
        if not (self.listed or fragment):
            return ""
        denies = not denials.denies(self.above) and (self.listed or denials.begins(last))
        denying = denials.heading(last if steps else title) if denies else ""
        if not denying and not steps and not self.above:
            denying = denials.standing(title)
        # Others, that are all, may stand beside them.
        some = part.name if part and steps and part.last in map(int, NUMBER.findall(self.own)) else ""
        return f"{some}: {denying}" if some and denying else some or denying


@dataclass(slots=True)
class _Place:
    """Where a unit is, before it is known what leads it in; it ``asks`` when a question is the last of it, and ``lacks`` what stands below it when
    that goes on with it. What is ``over`` others is a line that stands so in a text without headings."""

    start: int
    end: int
    code: bool
    item: bool
    steps: bool
    asks: bool
    number: int = 0
    bare: bool = False
    above: str = ""
    leads: bool = False
    lacks: bool = False
    over: bool = False


def units(text: str) -> list[str]:
    """The texts of what is :func:`quotable`."""
    return [unit.text for unit in quotable(text)]


def quotable(text: str) -> list[Unit]:
    """What can be quoted of a passage: its sentences, each list of steps as a whole, and each row of a table below the row that names its columns.

    A question is one with what follows it, and no unit by itself. An item of a list stands below the line that leads it in, where that ends with a
    colon or a question mark, or denies: "Use bleach" may be what never to do. Neither is that line one by itself, if it ends so or its items go on
    with it, nor is a line with a number, and no end, over what stands right below it: what nothing else leads in stands below that. A row of a table
    stands below its caption too, and a line that ends with a colon says nothing by itself.
    """
    text = unwrapped(text)
    tables = [(match.start(), match.end()) for match in TABLE.finditer(text)]
    places = _headed(text, _led_in(text, _joined(text, _places(text, tables))))
    emphasized = [(*match.span(), len(match[1])) for match in EMPHASIZED.finditer(text)]
    told = [
        (place.start, Unit(_row_told(text, place) or _own(text, place, emphasized), place.above, place.item or place.steps))
        for place in places
        if not (
            (place.asks and not place.above)
            or (place.leads and (place.asks or place.lacks or place.over))
            # What it leads in may be in the next passage.
            or ((place.leads or not (place.code or place.steps)) and text[place.start : place.end].rstrip(EMPHASIS).endswith((":", "：")))
        )
    ]
    for first, last in tables:
        heading, _, *rows = text[first:last].strip("\n").split("\n")
        told_of = [row for row in (_below(rows, at) for at in range(len(rows))) if not STRUCK.search(row)]
        caption = _caption(text, places, first)
        told += [
            (first, Unit(row, f"{caption}\n{heading.strip()}", True) if caption else Unit(f"{heading.strip()}\n{row}", listed=True))
            for row in told_of
        ]
    return _with_notes([unit for _, unit in sorted(told, key=lambda pair: pair[0])])


def _caption(text: str, places: Sequence[_Place], table: int) -> str:
    """The line over the table that begins at ``table``: one that ends with a colon, is bold, or calls it a table; empty without such."""
    over = next((place for place in reversed(places) if place.end <= table), None)
    if over is None or over.code or over.item or text[over.end : table].strip():
        return ""
    said = " ".join(text[over.start : over.end].split())
    return said if said.rstrip(EMPHASIS).endswith((":", "：")) or BOLD.fullmatch(said) or CAPTION.match(said) else ""


def _below(rows: Sequence[str], at: int) -> str:
    """The row ``at`` of a table below those that have what the blank cells it begins with leave to them; by itself where it sums up, and where a
    value stands twice in the first column: there they may mean that it has none."""
    if not BLANK_ROW.match(rows[at]):
        return rows[at].strip()
    cells = [[cell.strip() for cell in row.strip().removeprefix("|").split("|")] for row in rows]
    firsts = [row[0] for row in cells if row[0]]
    if is_total(cells[at]) or len({*firsts}) < len(firsts):
        return rows[at].strip()
    blank = next((column for column, cell in enumerate(cells[at]) if cell), 0)
    over = {next((n for n in reversed(range(at)) if "".join(cells[n][column : column + 1])), at) for column in range(blank)}
    return "\n".join(rows[n].strip() for n in sorted(over | {at}))


def _row_told(text: str, place: _Place) -> str:
    """Such a row that stands below no names of columns; empty for all else."""
    if not BLANK_ROW.match(text, place.start):
        return ""
    rows = list(takewhile(lambda row: row.lstrip().startswith("|"), reversed(text[: line_start(text, place.start)].split("\n")[:-1])))
    return _below([*reversed(rows), text[place.start : place.end]], len(rows))


def _own(text: str, place: _Place, emphasized: Sequence[tuple[int, int, int]]) -> str:
    """The text of a place, without the mark at its beginning or end of emphasis that ends behind it or begins before it."""
    start, end = place.start, place.end
    if place.code:
        return text[start:end]
    mark = LIST_MARK.match(text, start) if place.item else None
    said = mark.end() if mark else start
    for first, last, length in emphasized:
        if first == said and last > end:
            return text[start:said] + text[said + length : end]
        if first < said and last == end:
            return text[start : end - length]
    return text[start:end]


def _with_notes(told: Sequence[Unit]) -> list[Unit]:
    """``told`` with the footnotes below what has them, which may restrict it, and not by themselves."""
    notes = {note[1]: unit.own for unit in told if (note := NOTE.match(unit.own))}
    if not notes:
        return list(told)
    named = {name for unit in told for name in NOTED.findall(unit.own)}
    below = ((unit, [notes[name] for name in dict.fromkeys(NOTED.findall(unit.own)) if name in notes]) for unit in told)
    noted = [(replace(unit, own="\n".join([unit.own, *own])) if own else unit) for unit, own in below]
    return [unit for unit in noted if not ((note := NOTE.match(unit.own)) and note[1] in named)]


def _places(text: str, tables: Sequence[tuple[int, int]]) -> list[_Place]:
    """The sentences outside tables that say something, and are not struck through."""
    blocks, comments, struck = ([match.span() for match in kind.finditer(text)] for kind in (FENCE, COMMENT, STRUCK))
    comments += [*(head.span for head in mail.heads(text)), *mail.courtesies(text)]
    scripts = [_script(text, *block) for block in blocks]
    records = _records(text)
    found = list[_Place]()
    leading = False
    heads = overs(text)
    for start, end in spans(text):
        code = any(first <= start < last for first, last in blocks)
        said = text[start:end] if code else TAG.sub("", text[start:end])
        if any(first <= start < last for first, last in (*tables, *comments)) or not any(map(str.isalnum, said)):
            continue
        if not code and any(first < end and start < last for first, last in struck):
            continue
        if code and (whole := next((block for block in scripts if block[0] <= start < block[1]), None)):
            start, end = whole
            if found and found[-1].end == end:
                continue
        if found and any(first <= found[-1].start < start < last for first, last in records):
            # A record tells of what its first value names.
            found[-1].end = end
            continue
        over = not code and start in heads
        item = not (code or over) and not text[line_start(text, start) : start].strip() and bool(LIST_MARK.match(text, start))
        leading = leading and not (code or item or over) and unmarked(text[found[-1].end : start], text[start:end])
        step = None if over else STEP.match(text, start)
        asks = not code and _asks(text[start:end])
        found.append(_Place(start, end, code, item or leading, bool(step), asks, int(step[1]) if step else 0, leading, over=over))
        leading = leading or (not code and text[:end].rstrip(EMPHASIS).endswith(":"))
    return found


def _script(text: str, start: int, end: int) -> tuple[int, int]:
    """Where a block of code stands that is quoted as a whole, closed and of several lines, but not of many; empty for another."""
    block = text[start:end].strip()
    start = text.index(block, start)
    lines = block.split("\n")
    closed = FENCE_MARK.fullmatch(lines[-1].strip()) and lines[-1].strip() == lines[0][:3]
    return (start, start + len(block)) if closed and 3 < len(lines) <= CODE_LINES + 2 else (start, start)


def _records(text: str) -> list[tuple[int, int]]:
    """Where records stand: lines of values with names, at least three, or with the first name of another such line."""
    found = list(RECORD.finditer(text))
    names = [match[1] for match in found]
    return [match.span() for match, name in zip(found, names, strict=True) if names.count(name) > 1 or match[0].count("; ") > 1]


def _asks(sentence: str) -> bool:
    bare = without_list_mark(TAG.sub("", sentence)).strip(EMPHASIS)
    return (bare.rstrip(QUOTATION) if bare[:1] in "\"'“‘«(" else bare).endswith(("?", "？"))


def _joined(text: str, places: Sequence[_Place]) -> list[_Place]:
    """Steps put together, and questions with what follows them."""
    found = list[_Place]()
    labels = _labels(text, places)
    for at, place in enumerate(places):
        last = found[-1] if found else None
        between = text[last.end : place.start] if last else ""
        # A question among numbered ones that have their answers behind them is no step.
        if place.steps and place.asks and not (last and last.steps) and at + 1 < len(places) and not places[at + 1].item:
            following = next((other for other in places[at + 1 :] if other.steps), None)
            place.steps = following is not None and not following.asks
        if last and last.steps and (place.steps or _of_step(text, last, places, at)):
            last.end, last.asks, last.number = place.end, False, place.number or last.number
        elif last and last.asks and not (place.item or place.code or place.over) and not between.strip():
            last.end, last.asks = place.end, place.asks
        elif last and _goes_on(text, last, place, places[at - 1], labels):
            last.end = place.end
        else:
            if place.steps:
                place.asks = False
            found.append(place)
    return found


def _labels(text: str, places: Sequence[_Place]) -> dict[int, int]:
    """By where each sentence begins that is not the first of its line and has no label itself: where that line, or the last sentence with a label in
    it, begins, if that has a label and one before or behind it too."""
    lines = list[tuple[int, bool]]()
    below = list[tuple[int, int]]()
    for place in places:
        mark = LIST_MARK.match(text, place.start) if place.item else None
        named = bool(not place.code and LABEL.match(text, mark.end() if mark else place.start) and not RECORD.match(text, place.start))
        if lines and not named and text[line_start(text, place.start) : place.start].strip():
            below.append((place.start, len(lines) - 1))
        else:
            lines.append((place.start, named))
    beside = [named and sum(other for _, other in lines[max(at - 1, 0) : at + 2]) > 1 for at, (_, named) in enumerate(lines)]
    return {start: lines[at][0] for start, at in below if beside[at]}


def _goes_on(text: str, last: _Place, place: _Place, before: _Place, labels: Mapping[int, int]) -> bool:
    """Whether a sentence says something of the one ``before`` it in its paragraph, or takes some of that back, as of a bare "Yes."; or tells of what
    its line has for a label."""
    between = text[last.end : place.start]
    answered = YES_OR_NO.fullmatch(text, before.start, before.end)
    named = labels.get(place.start) == last.start
    if place.item or place.code or place.asks or last.code or not (named or answered or GOES_ON.match(text, place.start, place.end)):
        return False
    beside = not between.strip() and between.count("\n") <= (not last.item) and WHOLE.search(text[last.start : last.end])
    return bool(beside) and len(text[last.start : place.end].split()) <= MOST_WORDS


def _of_step(text: str, last: _Place, places: Sequence[_Place], at: int) -> bool:
    """Whether the place ``at`` belongs to the last of the steps before it: on its line, deeper, or before the step that comes next, where it is no
    title of something else, and the step before no title of what stands below it."""
    place = places[at]
    between = text[last.end : place.start]
    if "\n" not in between:
        return True
    if place.code or between.strip():
        return False
    if indentation(text, place.start) > indentation(text, last.start):
        return True
    ahead = places[at : at + WITHIN_STEPS]
    until = next((n for n, other in enumerate(ahead) if other.steps or other.code), 0)
    if not until or ahead[until].number != last.number + 1:
        return False
    if all(other.item and not other.bare for other in ahead[:until]):
        return True
    said = [text[other.start : other.end] for other in ahead[:until]]
    return bool(WHOLE.search(text[: last.end])) and all(WHOLE.search(sentence) for sentence in said)


def _led_in(text: str, places: list[_Place]) -> list[_Place]:
    """``places``, each item of a list with the lines that lead it in: the one before the list, and the items it is one of."""
    # Of the list at hand: how far in each line stands that leads in, and which it is.
    over = list[tuple[int, _Place]]()
    last: _Place | None = None
    listing = False
    others = other_lists(text)
    for at, place in enumerate(places):
        far = indentation(text, place.start) + place.bare
        between = text[last.end : place.start] if last else ""
        if place.item:
            if listing and line_start(text, place.start) in others:
                over = []
            elif not listing:
                # What is quoted leads in no list but one that is quoted too.
                apart = last is None or last.code or between.strip() or (text[last.start] == ">") != (text[place.start] == ">")
                over = [(-1, last)] if last and not apart and _leads_in(text, last, place.steps) else []
            listing = True
            over = [(other, above) for other, above in over if other < far]
            for _, above in over:
                above.leads = True
                above.lacks = above.lacks or (not above.item and _lacks(text, above, place))
            place.above = "\n".join(" ".join(text[above.start : above.end].split()) for _, above in over)
            below = at + 1 < len(places) and places[at + 1].item and indentation(text, places[at + 1].start) > far
            if not place.steps and (below or _leads_in(text, place, False)):
                over.append((far, place))
        elif listing and not place.code and ("\n" not in between or text[line_start(text, place.start)] in " \t"):
            # It goes on with the item before it.
            pass
        else:
            listing = False
            # The answer to a question may be code, and so may be what is never to be run.
            if place.code and last and not last.item and not last.code:
                leads = not FENCE_MARK.sub("", between).strip() and _leads_in(text, last, False)
                last.leads = last.leads or leads
                if last.asks or leads:
                    place.above = " ".join(text[last.start : last.end].split())
            elif place.code and last and last.code and not FENCE_MARK.search(between) and denials.denies(last.above):
                place.above = last.above
        last = place
    return places


def _headed(text: str, places: list[_Place]) -> list[_Place]:
    """``places``, each that nothing leads in with the line that stands over it, up to a blank line."""
    head: _Place | None = None
    for before, place in pairwise(places):
        head = None if "\n\n" in text[before.end : place.start] else before if before.over else head
        if head and not (place.above or place.over or place.code or place.asks):
            head.leads = True
            place.above = " ".join(text[head.start : head.end].split())
    return places


def _lacks(text: str, place: _Place, item: _Place) -> bool:
    """Whether a line that leads in a list says nothing without its items, which begin in lower case: "Do not take it" above "- if you are ill"."""
    return not WHOLE.search(text[place.start : place.end]) and without_list_mark(text[item.start : item.end])[:1].islower()


def _leads_in(text: str, place: _Place, steps: bool) -> bool:
    """Whether a list stands below ``place``; a sentence that denies and ends before ``steps`` denies something else."""
    sentence = text[place.start : place.end].rstrip(EMPHASIS)
    titled = bool(BOLD.fullmatch(text[place.start : place.end]))
    return place.asks or titled or sentence.endswith(":") or (denials.denies(sentence) and not (steps and sentence.endswith((".", "!"))))
