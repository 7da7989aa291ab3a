"""The words that the checks of an answer know: common ones, negations, limits, numbers, dates, units, opposites."""

from __future__ import annotations

import re

COMMON = frozenset(
    """
    a about all also an and any are as at be been both but by can could did do does for from had has have how i if in into is it
    its may might must my of on or our out per should so some such than that the their them then there these they this those to
    up was we were what when where which while who why will with within would you your
    """.split()
)
NEGATIONS = dict.fromkeys("not no non never cannot none nor neither nobody nothing nowhere".split(), "not")
NEGATIONS |= dict.fromkeys("hardly rarely seldom barely scarcely".split(), "rarely")
NEGATIONS |= {word: word for word in "without unless only except".split()} | {"excluding": "except"}
MODALS = dict.fromkeys("must shall".split(), "must") | dict.fromkeys("may might can".split(), "may") | {"should": "should"}
DENIED_MODALS = {"must": "must not", "may": "must not", "should": "should not", "need": "need not"}
# With "to" behind them, after stem().
MODAL_VERBS = {"allow": "may", "permit": "may", "requir": "must", "oblig": "must"}
# Words for the most there may be, after stem().
CEILINGS = frozenset("maximum max limit cap ceil most".split())
LIMITS = {"before": "before", "after": "after", "until": "until", "till": "until", "above": "more", "over": "more", "more": "more"}
LIMITS |= dict.fromkeys(("below", "under", "less", "fewer"), "less")
SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = {word: 10 * n for n, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
WORD_NUMBERS = {word: n for n, word in enumerate(SMALL)} | TENS
SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000, "trillion": 1_000_000_000_000, "dozen": 12}
# Without a space behind a number; "m" behind an amount of money only.
SHORT_SCALES = {"k": 1000, "m": 1_000_000, "mn": 1_000_000, "bn": 1_000_000_000, "tn": 1_000_000_000_000}
# Days and months as they are written; the short forms and three of the months may be other words.
DATE_LINES = """
january jan|february feb|march mar|april apr|may|june jun|july jul|august aug|september sep sept|october oct|november nov|december dec
monday mon|tuesday tue tues|wednesday wed|thursday thu thurs|friday fri|saturday|sunday
"""
DATES = {way: line.split()[0] for line in re.split(r"[|\n]", DATE_LINES) if line for way in line.split()}
MONTHS = tuple(line.split()[0] for line in DATE_LINES.strip().splitlines()[0].split("|"))
MONTHS_OR_WORDS = frozenset({"may", "march", "august"})
DOUBTFUL = MONTHS_OR_WORDS | (DATES.keys() - DATES.values())
# Right before a day, time or amount: where something begins, or where it ends.
EDGES = dict.fromkeys("from since".split(), "begin") | dict.fromkeys("to until till".split(), "end") | {"by": "by"}
BEFORE_A_MONTH = frozenset("in of by since until till during from before after".split())
# A sentence with one of these does not say what another says with its opposite.
OPPOSITE_LINES = """
allowed permitted|prohibited forbidden banned
accepted|rejected refused declined
included|excluded
required mandatory compulsory obligatory|optional voluntary
maximum|minimum
increase rise grow|decrease fall drop
higher upper|lower
open|closed
begin start|end finish
first|last
first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth
double|half|triple
login|logout
checkin|checkout
optin|optout
signin|signout
clockin|clockout
true|false
am|pm
enabled|disabled
buy|sell
arrive|depart
left|right
"""
OPPOSITE_PREFIXES = ("un", "in", "im", "ir", "il", "non", "dis")
# Every way to write a unit, after stem(); each line begins with the one it stands for.
CURRENCY_LINES = """
$ dollar usd|€ euro eur|£ pound gbp|¥ yen jpy|₹ rupe inr|₽ roubl rubl rub|₩ krw|₪ shekel ils|₫ vnd|₴ uah|₺ lira|฿ baht thb|₿ bitcoin btc|¢ cent
chf franc|sek|nok|dkk|czk|pln zloty|huf|bgn|aud|cad|nzd|sgd|hkd|twd|cny rmb yuan|brl|mxn|zar|aed|myr|idr
"""
UNIT_LINES = """
% percent pct|hour hr h|minut min|second sec s|day|week|month|year yr|time|point|bpm|mmhg|mhz|ghz|hz hertz|v volt|kwh|mah|db decibel|psi|mbps
mg milligram|mcg microgram|g gram gramm|kg kilogram|lb lbs|ounc oz|ton|ml millilitr milliliter|dl|l litr liter|gallon gal|pint
mm millimetr millimeter|cm centimetr centimeter|m metr meter|km kilometr kilometer|inch|foot feet ft|yard yd|mil mile mi|acr acre|hectar ha
kb kilobyt|mb megabyt|gb gigabyt|tb terabyt|mbit|gbit|pixel px|w watt|mmol|kcal calori calory|kj|c celsiu celsius|f fahrenheit
mil/hour mph|km/hour kph kmh
"""


def _units(lines: str) -> dict[str, str]:
    return {way: line.split()[0] for line in re.split(r"[|\n]", lines) if line for way in line.split()}


UNITS = _units(CURRENCY_LINES) | _units(UNIT_LINES)
CURRENCIES = frozenset(_units(CURRENCY_LINES).values())
# What is told in two numbers: "2 h 30 min".
PARTS = {"hour": ("minut", 60), "minut": ("second", 60), "year": ("month", 12), "foot": ("inch", 12)}
# Words of a period, which say how often or for how long. Not hours: they open and close.
PERIOD_LINES = """
day daily
week weekly
month monthly
quarter quarterly
year yearly annual annually
"""
# So much a second, or a litre.
RATED = frozenset("mg mcg g kg ml l gallon mm cm m km foot mil kb mb gb tb mbit gbit mmol w kcal".split())
RATES = frozenset("second minut hour dl l kg".split())
# Words that carry no content of their own, numbers in words among them.
FUNCTION = COMMON | NEGATIONS.keys() | LIMITS.keys() | WORD_NUMBERS.keys() | SCALES.keys() | {"least", "most"}


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


def _opposites() -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for line in OPPOSITE_LINES.strip().split("\n"):
        sides = [frozenset(stem(word) for word in side.split()) for side in line.split("|")]
        for side in sides:
            others = frozenset[str]().union(*(other for other in sides if other is not side))
            found |= {word: found.get(word, frozenset()) | others for word in side}
    return found


OPPOSITES = _opposites()
PERIODS = {stem(word): line.split()[0] for line in PERIOD_LINES.strip().split("\n") for word in line.split()}
