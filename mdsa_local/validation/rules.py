"""Checks that need nothing but text: of the question before any work, of the draft before any model."""

from __future__ import annotations

import re
import unicodedata

from mdsa_local.errors import InputError
from mdsa_local.types import Check

WORD = re.compile(r"\w+(?:[.,:'/-]\w+)*", re.UNICODE)
LONGEST_ANSWER_WORDS = 600


def question(text: str, max_chars: int) -> str:
    """The question, stripped. Raises :class:`InputError` when it is empty, too long, or not clean text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("the question is not valid UTF-8 text", "Send it as UTF-8; check your terminal's encoding.") from None
    stripped = text.strip()
    if not stripped:
        raise InputError("the question is empty", 'Ask something: mdsa ask "How do I dispute a charge?"')
    if len(stripped) > max_chars:
        raise InputError(
            f"the question has {len(stripped):,} characters; at most {max_chars:,} are accepted",
            "Shorten it, put long text into a knowledge base (mdsa kb add FILE), or raise the setting max_question_chars.",
        )
    bad = next((char for char in stripped if unicodedata.category(char) in ("Cc", "Cs", "Co", "Cn") and char not in "\n\r\t"), None)
    if bad is not None:
        raise InputError(f"the question contains the control or unassigned character U+{ord(bad):04X}", "Remove it and ask again.")
    if not any(char.isalnum() for char in stripped):
        raise InputError("the question has no letter or digit in it", "Ask it in words.")
    return stripped


def not_empty(draft: str) -> Check:
    """There is something to say."""
    return Check("not_empty", bool(WORD.search(draft)), "" if draft.strip() else "the model wrote nothing")


def not_too_long(draft: str, finish_reason: str) -> Check:
    """The answer ended by itself and is of readable length."""
    words = len(WORD.findall(draft))
    if words > LONGEST_ANSWER_WORDS:
        return Check("length", False, f"{words} words")
    return Check("length", finish_reason != "length", "cut off at max_tokens" if finish_reason == "length" else "")


def not_repeated(draft: str) -> Check:
    """No run of words keeps coming back: a four-word sequence that makes up a third of the text, or a sentence said three times."""
    words = [word.lower() for word in WORD.findall(draft)]
    if len(words) >= 16:
        runs: dict[tuple[str, ...], int] = {}
        for at in range(len(words) - 3):
            run = tuple(words[at : at + 4])
            runs[run] = runs.get(run, 0) + 1
        run, times = max(runs.items(), key=lambda item: item[1])
        if times >= 3 and times * 4 > len(words) / 3:
            return Check("repetition", False, f"{' '.join(run)!r} occurs {times} times")
    return Check("repetition", True)
