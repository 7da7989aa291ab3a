"""Names as programs, devices and offices have them: ``queue_limit``, ``--force``, ``BusyError``, ``readers.lock``, ``E401``, ``F.28``, ``A-25014``.

Models of language read them as rubble, but whoever asks for one means that one, letter by letter: what has it tells of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mdsa_local.validation import facts, vocabulary

# A word with what may stand in a name, without the punctuation around it.
TOKEN = re.compile(r"(?<!\S)[\"'(\[{“‘]*(?P<name>[\w./:-]*\w)(?:\(\))?[\"')\]}”’.,;:?!]*(?!\S)")
CODED = re.compile(r"--[A-Za-z]\w*(?:-\w+)*|\w*[A-Za-z0-9]_\w+|[A-Za-z]{1,4}(?:-\d+)*-\d{3,}[A-Za-z]?|[A-Za-z]{1,3}\.\d{2,3}")
# These may be a brand, a vitamin or a place on the web: only who asks what one is, is surely told by a text that has it.
NAMED = re.compile(r"[A-Za-z]*[a-z][A-Z][A-Za-z]*|[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{1,5}|[A-Za-z]{1,4}[-.]?\d{2,6}[A-Za-z]?")
# What tells one of several alike from the others: "7a", "8:00", "3.2.0", a year, and "line 5", but not "between 5 and 9" nor "5 %".
TELLING = re.compile(
    r"(?<![\w.:,€$£-])(?:[A-Za-z]{1,2}\d{1,4}|\d{1,4}[A-Za-z]|\d{1,2}:\d\d|\d+(?:\.\d+){2,}|(?:19|20)\d\d)(?![\w%]|[-.:,]\w)"
    r"|(?P<word>[^\W\d_]{3,})[ ](?P<number>\d{1,4})(?![\w%]|[-.:,]\w|[ ]%)"
    r"|(?<![\w.-])(?P<ordinal>\d{1,3}(?:st|nd|rd|th))[ ](?P<noun>[^\W\d_]{3,})"
)
# Beside a number one of these tells of many: "classes 5 to 8", "from 2020 on", "level 3 or above".
RANGE = re.compile(
    r"\d\w*\s?(?:[-–—/]|to|until|till|through|and|or|plus)\s?\d|\d\w*\s(?:or|and)\s(?:more|less|over|under|above|below|up|older|newer|later|earlier)"
    r"|(?<!\w)(?:from|since|before|after|until|till|up\sto|under|over|above|below|than|least|most|minimum|maximum)\s(?:\w+\s)?\d"
)
# A number behind these is how much or many, when, or whom to call, and names nothing.
AMOUNT = (
    vocabulary.FUNCTION
    | vocabulary.DATES.keys()
    | set(
        "about above after age aged approximately around at before below between bought buy by call calls cost costs dial dose every exactly "
        "fever height last lasts lost need needs number only order ordered over paid past pay pays phone pressure pulse rate reading ring roughly "
        "save saved sent since spend spent take takes temperature text than till under until value want weigh weighs weight within".split()
    )
)
# Between letters and digits people write or leave out these.
BETWEEN = re.compile(r"(?<=[A-Za-z])[-. ]?(?=\d)")
# With these words around it a name alone is asked for.
AROUND = vocabulary.FUNCTION | set(
    "mean means meant meaning explain explained define definition describe stand stands purpose use used uses using work works please tell know set "
    "setting settings option options flag parameter parameters variable field key code error message file command function class method type "
    "what's that's it's me about much many".split()
)


@dataclass(frozen=True, slots=True)
class Names:
    """What a question names, as it has it; ``alone`` when it asks for nothing but what that is."""

    names: tuple[str, ...]
    alone: bool

    def within(self, text: str) -> bool:
        """Whether a text has all of them."""
        return all(_place(text, name) for name in self.names)

    def opens(self, text: str) -> bool:
        """Whether a text begins with one of them: then it most likely tells what that is."""
        return any(not re.search(r"\w", text[: found.start()]) for name in self.names if (found := _place(text, name)))


def named(question: str) -> Names | None:
    """The names in a question: those that only a program has, and others where nothing else is asked; None without any."""
    words = list(dict.fromkeys(found["name"] for found in TOKEN.finditer(question.replace("`", ""))))
    coded = [word for word in words if CODED.fullmatch(word)]
    every = [word for word in words if word in coded or NAMED.fullmatch(word)]
    if every and _nothing_else(question, every):
        return Names(tuple(every), True)
    return Names(tuple(coded), False) if coded else None


def telling(question: str) -> frozenset[str]:
    """What in a question tells one of several rows or items from the others, folded."""
    found = (match for match in TELLING.finditer(facts.fold(question)) if match["word"] not in vocabulary.FUNCTION)
    return frozenset(map(_code, found))


def _code(found: re.Match[str]) -> str:
    return found["number"] or found["ordinal"] or found[0]


def another(question: str, text: str) -> list[str]:
    """What of :func:`telling` a text lacks that has another of its kind, and tells not of many: "Urban 300" for "Urban 400", "7b" for "7c", another
    year. What it says is then of something else."""
    kinds = list(_kinds(facts.fold(question)))
    if not kinds:
        return []
    text = facts.fold(text)
    many = [found.span() for found in RANGE.finditer(text)]

    def one(kind: re.Pattern[str]) -> bool:
        return any(not any(start < found.end() and found.start() < end for start, end in many) for found in kind.finditer(text))

    return [code for code, kind in kinds if not has(text, code) and one(kind)]


def _kinds(question: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    """What of a folded question is the name or a part of the name of one of several, with what the others look like."""
    for found in TELLING.finditer(question):
        code, word, noun = _code(found), found["word"], found["noun"]
        if word:
            following = re.match(r"\W*(\w+)", question[found.end() :])
            counted = following and (following[1] in vocabulary.UNITS or following[1].endswith("s"))
            kind = "" if counted or word in AMOUNT else rf"{word}(?:e?s)?[ ]\d+"
        elif noun:
            kind = "" if noun in vocabulary.DATES else rf"\d+(?:st|nd|rd|th)[ ]{noun}"
        elif letters := re.fullmatch(r"([a-z]+)\d+|(\d+)[a-z]", code):
            kind = rf"{letters[1]}\d+" if letters[1] else rf"{letters[2]}[a-z]"
        else:
            kind = r"(?:19|20)\d\d" if code.isdecimal() else ""
        if kind:
            yield code, re.compile(rf"(?<![\w.]){kind}(?!\w|[.:,]\d)")


def has(text: str, code: str) -> bool:
    """Whether a text has what :func:`telling` found, as a word of its own."""
    return bool(re.search(rf"(?<![\w.:,€$£]){re.escape(code)}(?![\w%]|[.:,]\w)", facts.fold(text)))


def _nothing_else(question: str, names: Iterable[str]) -> bool:
    rest = facts.fold(question)
    for name in names:
        rest = rest.replace(facts.fold(name), " ")
    return all(word in AROUND for word in re.findall(r"[\w']+", rest))


def _place(text: str, name: str) -> re.Match[str] | None:
    """Where a text has a name first."""
    spelt = "[-. ]?".join(map(re.escape, BETWEEN.split(name)))
    return re.search(rf"(?<![\w-]){spelt}(?!-?\w)", text, re.IGNORECASE)
