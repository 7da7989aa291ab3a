"""One way to write what people write in several: times, dates, parts of a whole, what must be, "log in"."""

from __future__ import annotations

import re
from collections.abc import Callable

from mdsa_local.validation.vocabulary import DATES, MONTHS, SMALL

_MONTH = "|".join(sorted((way for way, name in DATES.items() if name in MONTHS), key=len, reverse=True))
_MONTHS = "|".join(name[:3] for name in MONTHS)
# As they are written before the sign: "A$500".
_DOLLARS = {"A": "AUD", "AU": "AUD", "C": "CAD", "CA": "CAD", "NZ": "NZD", "HK": "HKD", "S": "SGD", "SG": "SGD", "R": "BRL", "NT": "TWD", "MX": "MXN"}
# "Sign in the box" is no signing in.
_THE = " (?:the|an?|your|our|its|their|this|that|these|those|each|every|any|advance|ink|person|writing)\\b"
_FEW = "|".join(SMALL[1:13])


def _part(match: re.Match[str]) -> str:
    """Parts of a whole such as "1/2" and "2 1/2" as 0.5 and 2.5; "5/4" stays."""
    over, under = int(match[2]), int(match[3])
    return f"{int(match[1] or 0) + over / under:.3f}".rstrip("0") if over < under else match[0]


def _and_a_half(match: re.Match[str]) -> str:
    return f"{SMALL.index(match[1].lower()) if match[1].isalpha() else match[1]}.5"


def _date(match: re.Match[str]) -> str:
    return f"{int(match[3])} {MONTHS[int(match[2]) - 1].title()} {match[1]}"


def _dollars(match: re.Match[str]) -> str:
    return f"{_DOLLARS[match[1].upper()]} "


# What a text in lower case has, one or another, wherever the pattern behind it fits: it is seen sooner than that.
_WAYS: list[tuple[str, str, str | Callable[[re.Match[str]], str]]] = [
    ("a.|p.", r"(?<![^\W\d])([ap])\.\s?m\.?(?!\w)", r"\1m"),
    ("per cent", r"\bper cent\b", "percent"),
    ("$", r"(?<!\w)US\$", "$"),
    ("$", r"(?<!\w)(A|AU|C|CA|NZ|HK|S|SG|R|NT|MX)\$", _dollars),
    ("0", r"(?<![\w.:,/])0(?=\d:[0-5]\d(?!\d))", ""),
    ("-", r"(?<![\w./-])((?:18|19|20)\d\d)-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?![\w-])", _date),
    (_MONTHS, rf"(?<![\w.:,/-])0?(\d{{1,2}})(?:st|nd|rd|th)?(?= (?:of )?(?:{_MONTH})\b)", r"\1"),
    (_MONTHS, rf"\b((?:{_MONTH})\.?) 0?(\d{{1,2}})(?:st|nd|rd|th)?(?![\w:]|[.,]\d)", r"\1 \2"),
    ("/", r"(?<![\w.,/:-])(?:(\d{1,2}) )?([1-7])/([2-8])(?![\w/]|[.,]\d)", _part),
    ("check|sign", rf"\b(check|sign)(?:s|ed|ing)?[ -]?(in|out)\b(?!{_THE})", r"\1\2"),
    ("log|opt|clock", rf"\b(log|opt|clock)(?:s|[gt]?ed|[gt]?ing)?[ -]?(?:(in)(?:to\b|\b(?!{_THE}))|(out)\b)", r"\1\2\3"),
    ("log", r"\blog(?:s|ged|ging)?[ -]?(?:on\b|(off\b))", lambda match: "logout" if match[1] else "login"),
    ("can't|cannot", r"\b(?:can't|cannot)(?!\w)", "can not"),
    ("n't", r"\b(must|should|need|may|might|shall)n't(?!\w)", r"\1 not"),
    ("have to|need to", r"\b(?:do|does|did)(?: not|n't) (?:have|need) to\b", "need not"),
    ("have to|need to", r"\b(may|might|can|could) (?:have|need) to\b", r"\1"),
    ("s to|have to|need to", r"\b(?:has|have|needs?) to\b(?! (?:hand|date)\b)", "must"),
    ("ought to", r"\bought to\b", "should"),
    ("minus", r"(?<!\d )(?<!\w)minus (?=\d)", "-"),
    ("once", r"\bonce(?=,? (?:an?|per|each|every|daily|weekly|monthly|yearly)\b)", "1 time"),
    ("twice", r"\btwice\b", "2 times"),
    ("thrice", r"\bthrice\b", "3 times"),
    ("quarter", r"\bthree quarters of an? ", "0.75 "),
    ("quarter", r"\b(?:a |one )?quarter of an? ", "0.25 "),
    ("half", r"\b(?:a )?half (?:of )?an? ", "0.5 "),
    ("half", r"\b(?:an?|one) (\w+) and a half\b", r"1.5 \1"),
    ("half", rf"\b(\d+|{_FEW}) and a half\b", _and_a_half),
]
WAYS = [(hints.split("|"), re.compile(pattern, re.IGNORECASE), way) for hints, pattern, way in _WAYS]


def one_way(text: str) -> str:
    """``text`` with all of them written in one way: "5 p.m." as 5 pm, 09:00 as 9:00, 2024-05-03 as 3 May 2024, 1/2 as 0.5, "has to" as must."""
    text = " ".join(text.split())
    lower = text.lower()
    for hints, pattern, way in WAYS:
        if any(hint in lower for hint in hints):
            text = pattern.sub(way, text)
    return text
