"""What turns the meaning of all that stands below it: "Never do the following:", a heading such as "Not reimbursed", or that steps are not all."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mdsa_local.validation import citations, facts

DENYING = re.compile(
    r"(?<!\w)(?:not|no|never|cannot|none|nor|neither|nobody|nothing|without|except(?:ions?|ed|ing)?|exclu(?:d\w+|sions?)|exempt\w*|avoid\w*"
    r"|unsupported|ineligible|prohibit\w*|forbid\w*|banned|disallowed|\w+n'ts?)(?!\w)"
)
BETWEEN_HEADINGS = " > "
# Headings that only tell where in a file it stands, and the number of a chapter.
_PLACES, _CHAPTER = re.compile(r"(?:page|rows?|lines?|items?|entry|record) \d+(?: to \d+)?"), re.compile(r"\d{1,2}(?:\.\d{1,2})*[.)]?\s+(?=[^\W\d])")
# Steps of which some are in other passages: the last heading then, see :mod:`mdsa_local.knowledge.chunking`.
_STEPS = re.compile(r"steps? (\d+)(?: to (\d+))? of \d+(?: to \d+)?")


def denies(text: str) -> bool:
    """Whether ``text`` holds a negation, or a word that excludes."""
    return bool(DENYING.search(facts.fold(text)))


def begins(heading: str) -> bool:
    """Whether a heading denies whatever stands below it, and not only a thing that it names: "Not insured", but not "Networks that do not work"."""
    return bool(DENYING.match(facts.fold(heading)))


def asked(title: str) -> str:
    """The last heading in the ``title`` of a passage, where it is a question; else empty."""
    last = title.rpartition(BETWEEN_HEADINGS)[2].strip()
    return last if last.endswith(("?", "？")) and any(map(str.isalnum, last)) and not citations.marks(last) else ""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the steps of a document: what they are called, the first and the last."""

    name: str
    first: int
    last: int


def part(title: str) -> tuple[str, Part | None]:
    """The ``title`` of a passage without what tells that steps in it are not all, and that; None where it does not."""
    above, _, name = title.rpartition(BETWEEN_HEADINGS)
    if not (found := _STEPS.fullmatch(name)):
        return title, None
    return above, Part(f"S{name[1:]}", int(found[1]), int(found[2] or found[1]))


def heading(title: str) -> str:
    """The last heading that :func:`denies` of those in the ``title`` of a passage; empty where none does."""
    found = next((name for name in reversed(title.split(BETWEEN_HEADINGS)) if denies(name)), "")
    return "" if citations.marks(found) else found


def standing(title: str) -> str:
    """What a list without a line that leads it in stands under: the last heading in the ``title`` of a passage, behind the one around it that has a
    number, as a version or a year has; empty where there is but the document's title. What is "Cancelled" or "Removed" is not told from what is not
    by any list of such words."""
    _, *headings = title.split(BETWEEN_HEADINGS)
    if not headings or _PLACES.fullmatch(headings[-1]) or headings[-1].startswith("|"):
        return ""
    last = headings[-1].strip()
    around = (name for name in reversed(headings[:-1]) if not _PLACES.fullmatch(name))
    numbered = next((name for name in around if any(map(str.isdecimal, _CHAPTER.sub("", name, count=1)))), "")
    found = f"{numbered}{BETWEEN_HEADINGS}{last}" if numbered else last
    return "" if citations.marks(found) else found
