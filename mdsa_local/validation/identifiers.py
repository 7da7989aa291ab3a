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
        "about above after age aged approximately around at before below between by call calls cost costs dial dose every exactly fever height "
        "last lasts need needs number only over past pay pays phone pressure pulse rate reading ring roughly since take takes temperature text "
        "than till under until value weigh weighs weight within".split()
    )
)
MONEY = "|".join(re.escape(way) for way, unit in vocabulary.UNITS.items() if unit in "$€£¥%")
YEAR = r"(?:19|20)\d\d"
# Behind these a word is what someone does, and a number how much of it: "I transfer 5000", "am I allowed to bring 1", and where nothing is asked
# "members may borrow 10". But "is it line 5" and "can class 7" name one.
BEING, ASKED = r"(?:am|are|had|has|have|is|was|were)(?:n't)?", r"(?:how|what|when|where|which|why)"
MODAL = r"(?:can(?:not|'t)?|won't|(?:could|did|do|does|may|might|must|shall|should|will|would)(?:n't)?)"
ALSO = r"(?: (?:also|already|always|even|ever|just|maybe|never|not|now|only|please|still|then|\w+ly))?$"
DOING = re.compile(
    rf"(?:(?:^\W*|(?<![\w'])(?!{BEING} )[\w']+\W+)(?:he|i|it|she|they|we|who|you)(?:'(?:d|ll|ve))?(?: {MODAL})?"
    r"|\b(?:able|allow\w*|entitled|have|how|like|need|okay|ok|permit\w*|possible|required|want|when|wish)(?: (?:for )?(?:me|them|us|you))? to)" + ALSO
)
SAID = re.compile(rf"^(?!.*\b{ASKED}\b).*\w {MODAL}{ALSO}")
# So something is told, and nothing asked of a year behind it: "I joined in 2019, how do I cancel?", "the flat was sold in 2021, who pays the tax?",
# but not "what did I pay in 2019?".
TOLD = re.compile(
    r"(?:(?:^\W*|\b(?:and|because|but|if|since|that|when) )(?:my|our)"
    rf"|(?:^\W*|(?<![\w'])(?!(?:{BEING}|{MODAL}|many|much|what|which) )[\w']+\W+)(?:he|i|she|we)) (?!.*\b(?:{ASKED}|who)\b)"
    rf"|^(?!(?:{BEING}|{MODAL}) )(?!.*\b(?:{ASKED}|who)\b).*\w (?:was|were)\b"
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
        others = (found for found in kind.finditer(text) if not any(start < found.end() and found.start() < end for start, end in many))
        return any(not (kind.groups and _is_done(text, found)) for found in others)

    return [code for code, kind in kinds if not has(text, code) and one(kind)]


def _kinds(question: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    """What of a folded question is the name or a part of the name of one of several, with what the others look like."""
    for found in TELLING.finditer(question):
        code, word, noun, before = _code(found), found["word"], found["noun"], _clause(question[: found.start()])
        if word:
            following = re.match(r"\W*(\w+)", question[found.end() :])
            counted = following and (following[1] in vocabulary.UNITS or (following[1].endswith("s") and following[1] not in vocabulary.FUNCTION))
            kind = "" if counted or word in AMOUNT or DOING.search(before) else rf"{word}(?P<more>e?s)?[ ]\d+"
        elif noun:
            kind = "" if noun in vocabulary.DATES else rf"\d+(?:st|nd|rd|th)[ ]{noun}"
        elif letters := re.fullmatch(r"([a-z]+)\d+|(\d+)[a-z]", code):
            kind = rf"{letters[1]}\d+" if letters[1] else rf"{letters[2]}[a-z]"
        else:
            kind = _years(before) if code.isdecimal() else ""
        if kind:
            yield code, re.compile(rf"(?<![\w.]){kind}(?!\w|[.:,]\d|[ ]?(?:{MONEY})s?(?!\w))")


def _years(before: str) -> str:
    """What another year looks like that would be asked of behind ``before``: one that is told in passing stands behind the same word."""
    if not TOLD.search(before):
        return YEAR
    words = [word for word in re.findall(r"[\w']+", before) if word not in vocabulary.FUNCTION]
    return rf"{words[-1]}(?:[ ][\w']+){{0,2}}[ ]{YEAR}" if words else ""


def _is_done(text: str, found: re.Match[str]) -> bool:
    """Whether in a text a word before a number is what someone does: by what stands before it, or as "the hall seats 400" where "seat" was asked of,
    and not as in "status codes 429, 503"."""
    before = _clause(text[: found.start()])
    subject = found["more"] and not re.match(r",\s\d", text[found.end() :]) and re.search(r"[\w']+$", before)
    return bool(DOING.search(before) or SAID.search(before) or (subject and subject[0] not in vocabulary.FUNCTION))


def _clause(before: str) -> str:
    """The last clause of what stands before a word, in one line."""
    return " ".join(re.split(r"[.,:;?!>|]\s", before)[-1].split())


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
