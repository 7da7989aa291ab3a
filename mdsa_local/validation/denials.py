"""What turns the meaning of all that stands below it: "Never do the following:", or a heading such as "Not reimbursed"."""

from __future__ import annotations

import re

from mdsa_local.validation import citations, facts

DENYING = re.compile(
    r"(?<!\w)(?:not|no|never|cannot|none|nor|neither|nobody|nothing|without|except(?:ions?|ed|ing)?|exclu(?:d\w+|sions?)|exempt\w*|avoid\w*"
    r"|unsupported|ineligible|prohibit\w*|forbid\w*|banned|disallowed|\w+n'ts?)(?!\w)"
)
BETWEEN_HEADINGS = " > "


def denies(text: str) -> bool:
    """Whether ``text`` holds a negation, or a word that excludes."""
    return bool(DENYING.search(facts.fold(text)))


def begins(heading: str) -> bool:
    """Whether a heading denies whatever stands below it, and not only a thing that it names: "Not insured", but not "Networks that do not work"."""
    return bool(DENYING.match(facts.fold(heading)))


def asked(title: str) -> str:
    """The last heading in the ``title`` of a passage, where it is a question; else empty."""
    last = title.rpartition(BETWEEN_HEADINGS)[2].strip()
    return last if last.endswith(("?", "？")) and not citations.marks(last) else ""


def heading(title: str) -> str:
    """The last heading that :func:`denies` of those in the ``title`` of a passage; empty where none does."""
    found = next((name for name in reversed(title.split(BETWEEN_HEADINGS)) if denies(name)), "")
    return "" if citations.marks(found) else found
