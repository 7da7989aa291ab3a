"""What a sentence claims, in a form that can be compared: content words, numbers with their units, negations and limits."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import takewhile

COMMON = frozenset(
    """
    a about all also an and any are as at be been both but by can could did do does for from had has have how i if in into is it
    its may might must my of on or our out per should so some such than that the their them then there these they this those to
    up was we were what when where which while who why will with within would you your
    """.split()
)
NEGATIONS = dict.fromkeys("not no never cannot none nor neither nobody".split(), "not") | {w: w for w in "without unless only except".split()}
LIMITS = {"before": "before", "after": "after", "until": "until", "till": "until", "above": "more", "over": "more", "more": "more"}
LIMITS |= dict.fromkeys(("below", "under", "less", "fewer"), "less")
SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = {word: 10 * n for n, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
WORD_NUMBERS = {word: n for n, word in enumerate(SMALL)} | TENS
SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}
# Every way to write a unit, after stem(); each line begins with the one it stands for.
UNIT_LINES = """
$ dollar usd|€ euro eur|£ gbp|¥ yen|% percent pct|hour hr h|minut min|second sec s|day|week|month|year yr|time|mg milligram|g gram gramm|kg kilogram
ml millilitr milliliter|l litr liter|mm millimetr millimeter|cm centimetr centimeter|m metr meter|km kilometr kilometer|kb kilobyt|mb megabyt
gb gigabyt|tb terabyt|hz hertz|mhz|ghz|w watt|v volt|mmhg|mmol|c celsiu celsius|f fahrenheit|point|mcg microgram|bpm|mbps
"""
UNITS = {way: line.split()[0] for line in re.split(r"[|\n]", UNIT_LINES) if line for way in line.split()}
FOLDED = str.maketrans(
    {"‘": "'", "’": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-"}
)
PIECE = re.compile(
    r"(?P<code>[^\W\d_]+-?\d\w*(?:-\w+)*)|(?P<number>(?<![\w)\]])-(?=\d)\d+(?:[.,:/]\d+)*|\d+(?:[.,:/]\d+)*)"
    r"|(?P<sign>[$€£¥%])|(?P<word>[^\W\d_]+(?:'[^\W\d_]+)*)|(?P<stop>[,;:()])"
)
# Words that carry no content of their own, numbers in words among them.
FUNCTION = COMMON | NEGATIONS.keys() | LIMITS.keys() | WORD_NUMBERS.keys() | SCALES.keys() | {"least", "most"}
# How many content words after a number or "not" belong to it.
REACH = 3
# A clause moved to the front leaves half in order.
ORDER_ENOUGH = 0.5


@dataclass(frozen=True, slots=True)
class Bound:
    """A number, negation or limit (``kind``), its ``unit`` if it is a number, and the content that follows it closely."""

    kind: str
    unit: str
    scope: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a text; ``sequence`` are its content stems and numbers in order."""

    words: frozenset[str]
    sequence: tuple[str, ...]
    numbers: tuple[Bound, ...]
    negations: tuple[Bound, ...]
    limits: tuple[Bound, ...]


@dataclass(slots=True)
class _Piece:
    group: str
    text: str


def fold(text: str) -> str:
    """Compatibility forms (NFKC), quotes and dashes made one, Markdown emphasis and code marks taken off, lower case."""
    plain = unicodedata.normalize("NFKC", text).translate(FOLDED)
    return re.sub(r"(?<!\w)\*\*|\*\*(?!\w)|`+", "", plain).lower()


def stem(word: str) -> str:
    """A crude stem, so that ``charged`` meets ``charge`` and ``policies`` meets ``policy``."""
    word = word.removesuffix("'s")
    if len(word) > 4 and word.endswith(("ies", "ied")):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    elif word.endswith("ed") and not word.endswith("eed") and len(word) > 3:
        word = word[:-2] if len(word) > 4 else word[:-1]
    elif word.endswith("ing") and len(word) > 5:
        word = word[:-3]
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiou" else word


def read(text: str) -> Facts:
    """The facts of a sentence that carries no list mark."""
    pieces = _pieces(fold(text))
    units = _units(pieces)
    words, sequence = set[str](), list[str]()
    numbers, negations, limits = list[Bound](), list[Bound](), list[Bound]()
    for at, piece in enumerate(pieces):
        bound = Bound(piece.text, units.get(at, ""), frozenset(_scope(pieces, at)))
        if piece.group == "number":
            numbers.append(bound)
            sequence.append(piece.text)
        elif piece.group == "negation":
            negations.append(bound)
        elif piece.group == "limit":
            limits.append(bound)
        elif piece.group == "content":
            words.add(piece.text)
            sequence.append(piece.text)
    return Facts(frozenset(words), tuple(sequence), tuple(numbers), tuple(negations), tuple(limits))


def agree(claim: Facts, source: Facts, title: Facts) -> bool:
    """Whether no number, negation, limit or order of ``claim`` speaks against ``source``; numbers may also stand in the title."""
    return _same_numbers(claim, source, title) and _same_negations(claim, source) and _same_limits(claim, source) and _same_order(claim, source)


def _pieces(text: str) -> list[_Piece]:
    """The tokens of ``text``: words stemmed, numbers in one form, units kept as content until they are bound."""
    pieces: list[_Piece] = []
    for match in PIECE.finditer(text):
        group, token = match.lastgroup or "", match[0]
        if group == "number":
            pieces.append(_Piece("number", value(token)))
        elif group == "code":
            pieces.append(_Piece("number", token))
        elif group != "word":
            pieces.append(_Piece(group, token))
        elif not _extends_number(pieces, token):
            pieces.append(_word(token, pieces))
    for at, piece in enumerate(pieces):
        # "One" is a number before a unit, and a pronoun elsewhere.
        if piece.group == "one":
            pieces[at] = _Piece("number", "1") if _own_unit(pieces, at) else _Piece("common", "one")
    return pieces


def _word(token: str, before: list[_Piece]) -> _Piece:
    if token in NEGATIONS or token.endswith("n't"):
        return _Piece("negation", NEGATIONS.get(token, "not"))
    if token in ("least", "most") and before and before[-1].text == "at":
        return _Piece("limit", f"at {token}")
    if token in LIMITS:
        return _Piece("limit", LIMITS[token])
    if token == "one":
        return _Piece("one", "1")
    if token in WORD_NUMBERS:
        return _Piece("number", str(WORD_NUMBERS[token]))
    return _Piece("common", token) if token in COMMON else _Piece("content", stem(token))


def _extends_number(pieces: list[_Piece], token: str) -> bool:
    """Put ``four`` of "twenty four" or ``hundred`` of "two hundred" into the number before it."""
    if not pieces or pieces[-1].group not in ("number", "one") or not pieces[-1].text.isdecimal():
        return False
    last = int(pieces[-1].text)
    if token in SCALES:
        pieces[-1] = _Piece("number", str(last * SCALES[token]))
    elif last in TENS.values() and 0 < WORD_NUMBERS.get(token, 0) < 10:
        pieces[-1] = _Piece("number", str(last + WORD_NUMBERS[token]))
    else:
        return False
    return True


def value(number: str) -> str:
    """One form of a number: ``1,500`` is 1500, ``1,5`` is 1.5, ``4.50`` is 4.5; times and versions stay as they are."""
    if re.fullmatch(r"-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", number):
        number = number.replace(",", "")
    elif re.fullmatch(r"-?\d+,\d+", number):
        number = number.replace(",", ".")
    return number.rstrip("0").rstrip(".") if re.fullmatch(r"-?\d+\.\d+", number) else number


def _own_unit(pieces: list[_Piece], at: int) -> str:
    """The currency before a number, or the unit at most two content words behind it ("4 business days")."""
    if at and (before := pieces[at - 1]).text in UNITS and UNITS[before.text] in "$€£¥":
        return UNITS[before.text]
    following = takewhile(lambda piece: piece.group in ("content", "sign"), pieces[at + 1 : at + 1 + REACH])
    return next((UNITS[piece.text] for piece in following if piece.text in UNITS), "")


def _units(pieces: list[_Piece]) -> dict[int, str]:
    """The unit of every number; the first of "4 to 6 hours" takes that of the second."""
    units: dict[int, str] = {}
    for at in range(len(pieces) - 1, -1, -1):
        if pieces[at].group == "number":
            joined = at + 2 if at + 1 < len(pieces) and pieces[at + 1].text in ("to", "or", "and") else at + 1
            units[at] = _own_unit(pieces, at) or units.get(joined, "")
    return units


def _scope(pieces: list[_Piece], at: int) -> list[str]:
    rest = takewhile(lambda piece: piece.group != "stop" and piece.text not in ("and", "but"), pieces[at + 1 :])
    return [piece.text for piece in rest if piece.group in ("content", "number")][:REACH]


def _touch(one: Bound, other: Bound) -> bool:
    return not one.scope or not other.scope or bool(one.scope & other.scope)


def _is_number(said: Bound, known: Bound) -> bool:
    if said.kind != known.kind:
        return False
    if said.unit != known.unit:
        return not said.unit and not said.scope
    return bool(said.unit) or _touch(said, known)


def _same_numbers(claim: Facts, source: Facts, title: Facts) -> bool:
    """Every number of the claim is in the source; those of one unit stand in the same order, so that two prices cannot change places."""
    at: Counter[str] = Counter()
    for said in claim.numbers:
        found = next((i for i in range(at[said.unit], len(source.numbers)) if _is_number(said, source.numbers[i])), None)
        if found is not None:
            at[said.unit] = found + 1
        elif not any(said.kind == known.kind and said.unit == known.unit for known in title.numbers):
            return False
    return True


def _same_negations(claim: Facts, source: Facts) -> bool:
    if len(claim.negations) != len(source.negations):
        return False
    pairs = zip(claim.negations, source.negations, strict=True)
    return all(said.kind == known.kind and _touch(said, known) for said, known in pairs)


def _same_limits(claim: Facts, source: Facts) -> bool:
    """No limit is made up, and none is left out whose object the claim holds: "less than 4 g" is not "4 g"."""
    content = set(claim.sequence)
    if not all(any(said.kind == known.kind and _touch(said, known) for known in source.limits) for said in claim.limits):
        return False
    needed = Counter(limit.kind for limit in source.limits if limit.scope and limit.scope <= content)
    return needed <= Counter(limit.kind for limit in claim.limits)


def _same_order(claim: Facts, source: Facts) -> bool:
    """Half of what both say comes in the same order (longest common subsequence): "A pays B" is not "B pays A"."""
    shared = [item for item in claim.sequence if item in source.sequence]
    row = [0] * (len(source.sequence) + 1)
    for item in shared:
        diagonal = 0
        for at, other in enumerate(source.sequence, 1):
            diagonal, row[at] = row[at], diagonal + 1 if item == other else max(row[at], row[at - 1])
    return row[-1] >= ORDER_ENOUGH * len(shared)
