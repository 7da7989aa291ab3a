"""What a sentence claims, in a form that can be compared: content words, numbers with their units, dates, negations, limits, what must or may be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise, takewhile

from mdsa_local.validation import writing
from mdsa_local.validation.vocabulary import (
    BEFORE_A_MONTH,
    COMMON,
    CURRENCIES,
    DATES,
    DENIED_MODALS,
    DOUBTFUL,
    EDGES,
    LIMITS,
    MODAL_VERBS,
    MODALS,
    MONTHS_OR_WORDS,
    NEGATIONS,
    PARTS,
    RATED,
    RATES,
    SCALES,
    SHORT_SCALES,
    TENS,
    UNITS,
    WORD_NUMBERS,
    stem,
)

FOLDED = str.maketrans(
    {"‘": "'", "’": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "⁄": "/"}
)
PIECE = re.compile(
    r"(?P<code>[^\W\d_]+-?\d\w*(?:-\w+)*)|(?P<number>(?:(?<![\w)\]])-)?(?:\d+|(?<![\w.)\]])\.\d+)(?:[.,:/]\d+|\^-?\d+)*)"
    r"|(?P<sign>[$€£¥%¢฿₠-⃀])|(?P<word>[^\W\d_]+(?:'[^\W\d_]+)*)|(?P<stop>[,;:()>])"
)
VULGAR = re.compile(r"(?:(\d+) ?)?([¼-¾⅐-⅞])")
RAISED = re.compile(r"(?<=\d)⁻?[⁰¹²³⁴-⁹]+")
# What stands before the first word of a sentence.
OPENING = " \t\n\"'(*_#>|-"
CLAUSE_ENDS = frozenset("and but while whereas or".split())
# Common words that two clauses may share without being built alike.
LINKS = frozenset("a an the to in of for on at by with from as if it".split())
UP_TO = "up to"
# How many content words after a number or "not" belong to it.
REACH = 3


@dataclass(frozen=True, slots=True)
class Bound:
    """A number, date, negation, limit or modal (``kind``), its ``unit`` if it is a number, and the content that follows it closely.

    ``clause`` is all content of its clause, ``of`` the word right behind a number ("two bags"), ``end`` the other end of a range,
    ``edge`` which end of it "from" or "to" tells it to be.
    """

    kind: str
    unit: str = ""
    scope: frozenset[str] = frozenset()
    clause: frozenset[str] = frozenset()
    of: str = ""
    end: str = ""
    edge: str = ""


@dataclass(frozen=True, slots=True)
class Clause:
    """A part of a sentence with numbers of its own: what stands before the last of them, and ``near``, the content word right before that."""

    subject: frozenset[str]
    frame: frozenset[str]
    near: str
    numbers: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a text; ``sequence`` are its content stems and numbers in order, ``ones`` the words right behind a "one" that may be a number."""

    words: frozenset[str]
    sequence: tuple[str, ...]
    numbers: tuple[Bound, ...]
    negations: tuple[Bound, ...]
    limits: tuple[Bound, ...]
    modals: tuple[Bound, ...]
    ones: frozenset[str]
    clauses: tuple[Clause, ...]

    def under(self, negations: Iterable[Bound]) -> Facts:
        """The same beneath a heading or line that denies it: its ``negations`` are of everything."""
        return replace(self, negations=(*(Bound(negation.kind) for negation in negations), *self.negations))


@dataclass(slots=True)
class _Piece:
    """``name`` is the word in lower case; ``capital``: it has one though it does not begin a sentence; ``dashed``: a dash stands before it."""

    group: str
    text: str
    name: str = ""
    capital: bool = False
    dashed: bool = False


def fold(text: str) -> str:
    """Compatibility forms (NFKC), quotes and dashes made one, Markdown emphasis and code marks taken off, lower case.

    "1½" becomes 1.5 and "10⁶" 10^6, where NFKC would make other numbers of them.
    """
    return _levelled(text).lower()


def _levelled(text: str) -> str:
    text = VULGAR.sub(lambda match: f"{int(match[1] or 0) + unicodedata.numeric(match[2]):.3f}".rstrip("0"), text)
    text = RAISED.sub(lambda match: f"^{match[0]}", text)
    plain = unicodedata.normalize("NFKC", text).translate(FOLDED)
    return re.sub(r"(?<!\w)\*\*|\*\*(?!\w)|`+", "", plain)


def read(text: str) -> Facts:
    """The facts of a sentence that carries no list mark."""
    pieces = _pieces(writing.one_way(_levelled(text)))
    units, ends = _units(pieces), _ends(pieces)
    for at, unit in units.items():
        # "$4.50" is $4.5, but behind a name it may be a version: Python 3.10 is not 3.1.
        if unit or not at or pieces[at - 1].group != "content":
            pieces[at].text = value(pieces[at].text)
    sequence, words, ones = list[str](), set[str](), set[str]()
    found: dict[str, list[Bound]] = {group: [] for group in ("number", "date", "negation", "limit", "modal")}
    for at, piece in enumerate(pieces):
        if piece.group in ("content", "number", "date"):
            sequence.append(piece.text)
        if kind := _modal(pieces, at):
            found["modal"].append(Bound(kind, scope=frozenset(_scope(pieces, at))))
        if piece.group == "content":
            words.add(piece.text)
        elif piece.group == "one":
            ones |= {_next_word(pieces, at)} - {""}
        elif piece.group in found and piece.group != "modal":
            scope, clause = frozenset(_scope(pieces, at)), frozenset(_clause(pieces, at)) if piece.group == "negation" else frozenset[str]()
            end = pieces[ends[at]].text if ends.get(at, -1) >= 0 else "0" if at in ends else ""
            of = _next_word(pieces, max(at, ends.get(at, at)))
            found["number" if piece.group == "date" else piece.group].append(
                Bound(piece.text, "date" if piece.group == "date" else units.get(at, ""), scope, clause, of, end, _edge(pieces, at))
            )
    numbers, negations, limits, modals = (tuple(found[group]) for group in ("number", "negation", "limit", "modal"))
    return Facts(frozenset(words), tuple(sequence), numbers, negations, limits, modals, frozenset(ones), _clauses(pieces, units))


def _pieces(text: str) -> list[_Piece]:
    """The tokens of ``text``: words stemmed, numbers in one form, units kept as content until they are bound."""
    pieces: list[_Piece] = []
    until = 0
    for match in PIECE.finditer(text):
        group, token, between = match.lastgroup or "", match[0].lower(), text[until : match.start()]
        until = match.end()
        if group == "number":
            pieces.append(_Piece("number", exact(token)))
        elif group == "code":
            pieces.append(_Piece("number", token))
        elif group != "word":
            pieces.append(_Piece(group, token))
        elif _extends_number(pieces, token, attached=not between) or _extends_unit(pieces, token, between.strip()):
            continue
        else:
            pieces.append(_word(token, pieces))
            pieces[-1].name, pieces[-1].capital = token, match[0].istitle() and text[: match.start()].rstrip(OPENING)[-1:] not in ("", *".!?:…")
        pieces[-1].dashed = between.strip() == "-"
    for at, piece in enumerate(pieces):
        # "One" is a number before a unit, and maybe a pronoun elsewhere.
        if piece.group == "one" and _own_unit(pieces, at):
            pieces[at] = _Piece("number", "1")
        elif piece.name in DATES and (piece.name not in DOUBTFUL or _is_date(pieces, at)):
            pieces[at] = _Piece("date", DATES[piece.name], dashed=piece.dashed)
        elif piece.text == UP_TO and not _counts(pieces, at):
            pieces[at] = _Piece("common", "to", "to")
        elif piece.name == "need" and at + 1 < len(pieces) and pieces[at + 1].name == "not":
            pieces[at] = _Piece("modal", "need", "need")
    _join_parts(pieces)
    return pieces


def _join_parts(pieces: list[_Piece]) -> None:
    """Make one number of "2 h 30 min"."""
    for at in range(len(pieces) - 4, -1, -1):
        part, times = PARTS.get(_unit(pieces[at + 1]), ("", 0))
        second = at + 2 + (pieces[at + 2].text == "and")
        if (
            part
            and second + 1 < len(pieces)
            and _unit(pieces[second + 1]) == part
            and pieces[at].text.isdecimal()
            and pieces[second].text.isdecimal()
        ):
            pieces[at].text = str(int(pieces[at].text) * times + int(pieces[second].text))
            del pieces[at + 1 : second + 1]


def _counts(pieces: list[_Piece], at: int) -> bool:
    """Whether a number follows: "up to $500", but not "up to date"."""
    following = (piece for piece in pieces[at + 1 :] if piece.group != "sign")
    return getattr(next(following, None), "group", "") in ("number", "one", "date")


def _modal(pieces: list[_Piece], at: int) -> str:
    """What may, must or should be, or what need, must or should not; empty for another word."""
    piece = pieces[at]
    if piece.group == "modal":
        following = pieces[at + 1] if _group(pieces, at + 1) == "negation" else None
        return piece.text if not following else DENIED_MODALS[piece.text] if following.text == "not" else ""
    if piece.text in MODAL_VERBS and at + 1 < len(pieces) and pieces[at + 1].text == "to":
        may = MODAL_VERBS[piece.text]
        return may if not at or pieces[at - 1].text != "not" else "must not" if may == "may" else "need not"
    return ""


def _is_date(pieces: list[_Piece], at: int) -> bool:
    """Whether a word that need not be a day or month is one: by its capital, a number beside it, or what stands before it."""
    before = pieces[at - 1] if at else None
    follows = _group(pieces, at + 1)
    if pieces[at].capital or follows == "number" or (before and before.group == "number" and follows in ("", "stop")):
        return True
    return pieces[at].name in MONTHS_OR_WORDS and before is not None and before.name in BEFORE_A_MONTH


def _group(pieces: list[_Piece], at: int) -> str:
    return pieces[at].group if at < len(pieces) else ""


def _next_word(pieces: list[_Piece], at: int) -> str:
    return pieces[at + 1].text if _group(pieces, at + 1) == "content" else ""


def _word(token: str, before: list[_Piece]) -> _Piece:
    if token in NEGATIONS or token.endswith("n't"):
        return _Piece("negation", NEGATIONS.get(token, "not"))
    if token in ("least", "most") and before and before[-1].text == "at":
        return _Piece("limit", f"at {token}")
    if token == "to" and before and before[-1].text == "up":
        return _Piece("limit", UP_TO)
    if token in LIMITS:
        return _Piece("limit", LIMITS[token])
    if token in MODALS:
        return _Piece("modal", MODALS[token])
    if token == "one":
        return _Piece("one", "1")
    if token in WORD_NUMBERS:
        return _Piece("number", str(WORD_NUMBERS[token]))
    if token in SCALES and before and before[-1].text == "a":
        return _Piece("number", str(SCALES[token]))
    return _Piece("common", token) if token in COMMON else _Piece("content", stem(token))


def _extends_number(pieces: list[_Piece], token: str, *, attached: bool) -> bool:
    """Put ``four`` of "twenty four", ``twenty`` of "one hundred and twenty", ``million`` of "1.5 million" or ``k`` of "5k" into the number before
    it."""
    small = WORD_NUMBERS.get(token, 0)
    if small and len(pieces) > 1 and pieces[-1].text == "and" and pieces[-2].name in SCALES and pieces[max(len(pieces) - 3, 0)].text != "between":
        pieces.pop()
    if not pieces or pieces[-1].group not in ("number", "one") or not re.fullmatch(r"\d+(?:\.\d+)?", pieces[-1].text):
        return False
    before, last = pieces[-1], Decimal(pieces[-1].text)
    money = attached and len(pieces) > 1 and _unit(pieces[-2]) in CURRENCIES
    if scale := SCALES.get(token) or (SHORT_SCALES.get(token) if attached and (money or token != "m") else None):
        # "Two thousand five hundred" is no 2005 hundreds.
        low = last % (scale * (10 if scale == 100 else 1000)) if before.name else last
        last += low * (scale - 1)
    elif (before.name in TENS and 0 < small < 10) or (before.name in SCALES and 0 < small < SCALES[before.name]):
        last += small
    else:
        return False
    pieces[-1] = _Piece("number", value(format(last, "f")), token, dashed=before.dashed)
    return True


def _extends_unit(pieces: list[_Piece], token: str, between: str) -> bool:
    """Put the ``h`` of "80 km/h", "80 km per hour" or "80 km an hour" into the unit before it."""
    rate = UNITS.get(stem(token), "")
    at = len(pieces) - (2 if pieces and not between and pieces[-1].text in ("per", "a", "an") else 1)
    if rate not in RATES or at < 1 or (between != "/" and at == len(pieces) - 1) or pieces[at - 1].group not in ("number", "one"):
        return False
    unit = UNITS.get(pieces[at].text, "")
    if unit in RATED:
        pieces[at:] = [_Piece("content", f"{unit}/{rate}")]
    return unit in RATED


def exact(number: str) -> str:
    """A number without what is only a way to write it: ``1,500`` is 1500, ``1,5`` is 1.5, ``.5`` is 0.5; times and versions stay as they are."""
    number = re.sub(r"^(-?)\.", r"\g<1>0.", number)
    if re.fullmatch(r"-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", number):
        return number.replace(",", "")
    return number.replace(",", ".") if re.fullmatch(r"-?\d+,\d+", number) else number


def value(number: str) -> str:
    """One form of a number: as :func:`exact`, and ``4.50`` is 4.5."""
    number = exact(number)
    return number.rstrip("0").rstrip(".") if re.fullmatch(r"-?\d+\.\d+", number) else number


def _unit(piece: _Piece) -> str:
    """The unit that a word or sign stands for; empty for another."""
    return UNITS.get(piece.text) or (piece.text if piece.group == "sign" or (piece.group == "content" and "/" in piece.text) else "")


def _own_unit(pieces: list[_Piece], at: int) -> str:
    """The currency before a number, unless it is that of a number before it, or the unit at most two content words behind ("4 business days")."""
    if at and (unit := _unit(pieces[at - 1])) in CURRENCIES and (at < 2 or pieces[at - 1].group == "sign" or pieces[at - 2].group != "number"):
        return unit
    following = takewhile(lambda piece: piece.group in ("content", "sign") and piece.text not in ("every", "each"), pieces[at + 1 : at + 1 + REACH])
    return next(filter(None, map(_unit, following)), "")


def _units(pieces: list[_Piece]) -> dict[int, str]:
    """The unit of every number; the first of "4 to 6 hours" takes that of the second."""
    units: dict[int, str] = {}
    for at in range(len(pieces) - 1, -1, -1):
        if pieces[at].group == "number":
            joined = at + 2 if at + 1 < len(pieces) and pieces[at + 1].text in ("to", "or", "and") else at + 1
            units[at] = _own_unit(pieces, at) or units.get(joined, "")
    return units


def _ends(pieces: list[_Piece]) -> dict[int, int]:
    """For each end of a range ("4 to 6 hours", "$5-$9", "between 2 and 8 C") where the other is; -1 for what has only the one: "up to 5".

    "From $5 to $9" may also tell of a change, which has no ends.
    """
    ends: dict[int, int] = {}
    places = [at for at, piece in enumerate(pieces) if piece.group == "number"]
    for at in places:
        if [piece.text for piece in pieces[max(at - 2, 0) : at] if piece.group != "sign"][-1:] == [UP_TO]:
            ends[at] = -1
    for low, high in pairwise(places):
        between = [piece.text for piece in pieces[low + 1 : high] if not _unit(piece)]
        before = next((piece.text for piece in reversed(pieces[:low]) if piece.group != "sign"), "")
        dashed = not between and any(piece.dashed for piece in pieces[low + 1 : high + 1])
        if dashed or (between == ["to"] and before != "from") or (between == ["and"] and before == "between"):
            ends[low], ends[high] = high, low
    return ends


def _edge(pieces: list[_Piece], at: int) -> str:
    before = (piece.name for piece in reversed(pieces[max(at - 3, 0) : at]) if piece.group != "sign" and piece.name != "the")
    return EDGES.get(next(before, ""), "")


def _scope(pieces: list[_Piece], at: int) -> list[str]:
    rest = takewhile(lambda piece: piece.group != "stop" and piece.text not in ("and", "but"), pieces[at + 1 :])
    return [piece.text for piece in rest if piece.group in ("content", "number", "date")][:REACH]


def _clause(pieces: list[_Piece], at: int) -> Iterator[str]:
    """The content around a negation, until a stop, and before it also past an "and"."""
    before = takewhile(lambda piece: piece.group != "stop" and piece.text != "but", reversed(pieces[:at]))
    after = takewhile(lambda piece: piece.group != "stop" and piece.text not in ("and", "but"), pieces[at + 1 :])
    return (piece.text for piece in (*before, *after) if piece.group in ("content", "number", "date"))


def _clauses(pieces: list[_Piece], units: dict[int, str]) -> tuple[Clause, ...]:
    """The clauses of a sentence that have numbers of their own; "Basic costs $3 and Plus $6" has two."""
    found: list[Clause] = []
    begin, last = 0, -1
    for at, piece in enumerate([*pieces, _Piece("stop", ".")]):
        if piece.group == "number":
            last = at
        elif last >= begin and (piece.text in CLAUSE_ENDS or piece.group == "stop"):
            inner = range(begin, last)
            subject = frozenset(pieces[i].text for i in inner if pieces[i].group == "content")
            frame = frozenset(pieces[i].text for i in inner if pieces[i].group in ("content", "common", "modal")) - LINKS
            before = next((pieces[i] for i in reversed(inner) if pieces[i].group != "sign"), _Piece("stop", ""))
            numbers = frozenset((pieces[i].text, units.get(i, "")) for i in range(begin, last + 1) if pieces[i].group == "number")
            found.append(Clause(subject, frame, before.text if before.group == "content" else "", numbers))
            begin = at + 1
    return tuple(found)
