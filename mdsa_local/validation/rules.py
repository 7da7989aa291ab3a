"""Checks that need nothing but text: of the question before any work, of the draft before any model."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import eq

from mdsa_local.errors import InputError
from mdsa_local.sentences import FENCE, LIST_MARK, sentences, without_list_mark
from mdsa_local.types import Check
from mdsa_local.validation import citations, facts

WORD = re.compile(r"\w+(?:[.,:'/-]\w+)*", re.UNICODE)
LONGEST_ANSWER_WORDS = 600
# Of an earlier message this much is read: what a later one leans on is said at once, and it must not push the passages out.
PREVIOUS_CHARS = 300
# And of so many.
PREVIOUS_TURNS = 6
# What comes back has at least four words from this length on; below it, one is enough.
SHORT_WORDS, LOOP_WORDS = 16, 4
# This much of a text that goes round in a loop is the loop.
REPEATED_SHARE = 1 / 3


def question(text: str, max_chars: int) -> str:
    """The question, stripped, accents and their letters in one. Raises :class:`InputError` when it is empty, too long, or not clean text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("the question is not valid UTF-8 text", "Send it as UTF-8; check your terminal's encoding.") from None
    stripped = text.removeprefix("\ufeff").strip()
    if not stripped:
        raise InputError("the question is empty", "Ask something, in words.")
    if len(stripped) > max_chars:
        raise InputError(
            f"the question has {len(stripped):,} characters; at most {max_chars:,} are accepted",
            "Shorten it, put long text into a knowledge base (mdsa kb add FILE), or raise the setting max_question_chars.",
        )
    bad = next((char for char in stripped if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\r\t"), None)
    if bad is not None:
        raise InputError(f"the question contains the control character U+{ord(bad):04X}", "Remove it and ask again.")
    if not any(char.isalnum() for char in stripped):
        raise InputError("the question has no letter or digit in it", "Ask it in words.")
    return unicodedata.normalize("NFC", stripped)


def previous(history: Sequence[str] | None, max_chars: int) -> tuple[str, ...]:
    """The beginnings of the user's last few earlier messages, oldest first, without those that have no words in them.

    None is no history. Raises :class:`InputError` when ``history`` is no list of texts. What is wrong with an earlier message does not stop the
    present one.
    """
    single = isinstance(history, str | bytes | Mapping) or not isinstance(history, Iterable | None)
    turns = [] if single or history is None else list(history)
    if single or not all(isinstance(turn, str) for turn in turns):
        raise InputError("the history is no list of texts", "Pass a list of the user's earlier turns, each a string, oldest first.")
    heard = []
    for turn in turns[-PREVIOUS_TURNS:]:
        with suppress(InputError):
            heard.append(question(turn[:PREVIOUS_CHARS], max_chars))
    return tuple(heard)


def not_empty(draft: str, thought: bool = False) -> Check:
    """There is something to say, not only a thought before it."""
    nothing = "the model wrote its thoughts and no answer; raise max_tokens, or use one that does not think" if thought else "the model wrote nothing"
    return Check("not_empty", bool(WORD.search(draft)), "" if draft.strip() else nothing)


def not_too_long(draft: str, finish_reason: str) -> Check:
    """The answer ended by itself and is of readable length."""
    words = len(WORD.findall(draft))
    if words > LONGEST_ANSWER_WORDS:
        return Check("length", False, f"{words} words")
    if finish_reason == "stop":
        return Check("length", True)
    return Check("length", False, "cut off at max_tokens" if finish_reason == "length" else f"ended early: {finish_reason or 'no reason given'}")


def not_repeated(draft: str) -> Check:
    """Nothing keeps coming back: a sentence said three times, or some words again and again with nothing between."""
    prose = FENCE.sub("\n", citations.blanked(draft, citations.marks(draft)))
    again = _said_too_often(prose)
    if again:
        return Check("repetition", False, f"{again!r} is said at least three times")
    # A loop goes on to the end.
    words = [word.lower() for word in WORD.findall(prose)][-LONGEST_ANSWER_WORDS:]
    loop = _loop(words, 1 if len(words) < SHORT_WORDS else LOOP_WORDS)
    return Check("repetition", not loop, f"{' '.join(loop)!r} comes back again and again" if loop else "")


def _loop(words: Sequence[str], shortest: int) -> Sequence[str]:
    """What comes three times or more with nothing between, and so makes up much of the text; empty where nothing does. In a list, as of opening
    hours, each line has something of its own."""
    for size in range(shortest, len(words) // 3 + 1):
        at = 0
        for same, run in groupby(map(eq, words, words[size:])):
            length = len(list(run))
            if same and length >= 2 * size and length + size >= REPEATED_SHARE * len(words):
                return words[at : at + size]
            at += length
    return ()


def _said_too_often(prose: str) -> str:
    """A sentence said three times. "Tap Next." may come back in a list of steps, unless in a row or among few others."""
    said = [(" ".join(facts.fold(without_list_mark(sentence)).split()), bool(LIST_MARK.match(sentence))) for sentence in sentences(prose)]
    said = [(sentence, step) for sentence, step in said if WORD.search(sentence)]
    in_a_row = (sentence for sentence, run in groupby(sentence for sentence, _ in said) if len(list(run)) >= 3)
    in_prose = (sentence for sentence, times in Counter(sentence for sentence, step in said if not step).items() if times >= 3)
    steps = Counter(sentence for sentence, step in said if step)
    in_steps = (sentence for sentence, times in steps.items() if times >= 3 and len(steps) * 2 <= steps.total())
    return next(in_a_row, "") or next(in_prose, "") or next(in_steps, "")
