"""Names as programs, devices and offices have them: ``queue_limit``, ``--force``, ``BusyError``, ``readers.lock``, ``E401``, ``F.28``, ``A-25014``.

Models of language read them as rubble, but whoever asks for one means that one, letter by letter: what has it tells of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mdsa_local.validation import facts, vocabulary

# A word with what may stand in a name, without the punctuation around it.
TOKEN = re.compile(r"(?<!\S)[\"'(\[{“‘]*(?P<name>[\w./:-]*\w)(?:\(\))?[\"')\]}”’.,;:?!]*(?!\S)")
CODED = re.compile(r"--[A-Za-z]\w*(?:-\w+)*|\w*[A-Za-z0-9]_\w+|[A-Za-z]{1,4}(?:-\d+)*-\d{3,}[A-Za-z]?|[A-Za-z]{1,3}\.\d{2,3}")
# These may be a brand, a vitamin or a place on the web: only who asks what one is, is surely told by a text that has it.
NAMED = re.compile(r"[A-Za-z]*[a-z][A-Z][A-Za-z]*|[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{1,5}|[A-Za-z]{1,4}[-.]?\d{2,6}[A-Za-z]?")
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


def _nothing_else(question: str, names: Iterable[str]) -> bool:
    rest = facts.fold(question)
    for name in names:
        rest = rest.replace(facts.fold(name), " ")
    return all(word in AROUND for word in re.findall(r"[\w']+", rest))


def _place(text: str, name: str) -> re.Match[str] | None:
    """Where a text has a name first."""
    spelt = "[-. ]?".join(map(re.escape, BETWEEN.split(name)))
    return re.search(rf"(?<![\w-]){spelt}(?!-?\w)", text, re.IGNORECASE)
