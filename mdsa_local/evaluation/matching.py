"""Whether a text holds a fact, however numbers, units and currencies are written."""

from __future__ import annotations

import re

from mdsa_local.validation import citations, facts, vocabulary

# "10 000" and "10'000"; not the groups of a phone or card number.
SPACED_THOUSANDS = re.compile(r"(?<![\d.,:/])(?<!\d )[1-9]\d{0,2}(?:[ ']\d{3})+(?![ ']?\d)")
DIGIT_NEXT = re.compile(r"\s*\d")
# Words that say nothing: "$25 to $200" is "$25-$200", "38 degrees Celsius" is "38 C".
SILENT = frozenset("a an the to degree degrees".split())
CURRENCIES = frozenset("$€£¥")
UNIT_NAMES = frozenset(vocabulary.UNITS.values())
ORDINALS = frozenset("st nd rd th".split())


def tokens(text: str) -> tuple[str, ...]:
    """The words of ``text`` in a form to compare: stems, numbers in digits without separators, one name for each unit, behind its number.

    Case, punctuation, ``[n]`` marks and words that say nothing are gone: ``$1,500`` and "1500 dollars" are both
    ``("1500", "$")``.
    """
    bare = facts.fold(citations.blanked(text, citations.marks(text)))
    bare = SPACED_THOUSANDS.sub(lambda match: re.sub(r"\D", "", match[0]), bare)
    found: list[str] = []
    numbers: set[int] = set()
    currency = ""
    for match in facts.PIECE.finditer(bare):
        group, token = match.lastgroup, match[0]
        word = vocabulary.stem(token) if group == "word" else token
        name = vocabulary.UNITS.get(word, word)
        after_number = len(found) - 1 in numbers
        if group == "stop" or token in SILENT or (after_number and token in ORDINALS):
            continue
        if name in CURRENCIES and DIGIT_NEXT.match(bare, match.end()):
            currency = name
        elif after_number and token in vocabulary.SCALES and found[-1].isdecimal():
            found[-1] = str(int(found[-1]) * vocabulary.SCALES[token])
        elif after_number and _completes(found[-1], vocabulary.WORD_NUMBERS.get(token, 0)):
            found[-1] = str(int(found[-1]) + vocabulary.WORD_NUMBERS[token])
        elif group == "number" or token in vocabulary.WORD_NUMBERS:
            numbers.add(len(found))
            found.append(facts.value(token) if group == "number" else str(vocabulary.WORD_NUMBERS[token]))
            if currency:
                found.append(currency)
                currency = ""
        else:
            found.append(name)
    return tuple(found)


def holds(text: str, fact: str) -> bool:
    """Whether the tokens of ``fact`` occur in ``text`` one behind the other; an empty fact occurs nowhere."""
    return within(tokens(text), tokens(fact))


def within(said: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether ``wanted`` is a run of ``said``; where it ends with a bare number, no unit may follow: "24 hours" is not the fact "24"."""
    bare = bool(wanted) and wanted[-1].isdecimal()
    for end in range(len(wanted), len(said) + 1) if wanted else ():
        if said[end - len(wanted) : end] == wanted and not (bare and said[end : end + 1] and said[end] in UNIT_NAMES):
            return True
    return False


def _completes(tens: str, ones: int) -> bool:
    """Whether "four" belongs to the "twenty" before it."""
    return tens.isdecimal() and int(tens) in vocabulary.TENS.values() and 0 < ones < 10
