"""Small talk: greetings, thanks, what people say to a machine to try it. No domain is for it, unless one is, and documents have no answer to it,
though some sentence always resembles one ("good morning!" is near to what helps against lying awake).
"""

from __future__ import annotations

import re

from mdsa_local.routing.anchors import Anchors, Floats, Index

# A message this near (cosine) to one of the phrases is small talk, if it is less near by NEARER to all that domains are recognised by. So are
# 20 % of CLINC150's small talk, of 3,000 questions to invented organisations none, and of 636 to the shipped domains none.
ALIKE, NEARER = 0.75, 0.1
# A message of up to MOST_WORDS is also small talk where each of its clauses is ("hi there, how's your day going"): longer ones rarely are.
MOST_WORDS = 12
CLAUSE, WORD = re.compile(r"[^,.;:!?\n–—]+[!?]?"), re.compile(r"\w")
# "that" may point to what was said before, not in "thanks, that helped a lot".
SAME = 0.95
# A domain that knows something as NEAR (cosine) to so large a share of the phrases, and NEAR_ENOUGH to the one at hand, is there for it. Of the
# domains of CLINC150 small talk knows 86 % of them, ten examples of it 19 to 34, greetings alone 13, ten examples of "meta" 2 to 16, of the
# others at most 1; the shipped domains at most 7.
NEAR, NEAR_ENOUGH, CLAIMED = 0.5, 0.45, 0.1

# What may also be a reply ("yes", "why?") or be asked of those whose documents these are ("how old are you?") is not among them.
PHRASES = (
    "hi", "hello", "hey there", "hello, anyone there?", "good morning", "good afternoon", "good evening", "goodnight", "goodbye",
    "bye, see you later", "have a nice day", "nice to meet you", "welcome back", "congratulations", "happy birthday", "merry christmas",
    "how are you?", "how are you doing today?", "how's it going?", "how's your day going?", "I hope you're well", "what's up?",
    "what's up with you?", "did you sleep well?", "good night, sleep well", "happy new year",
    "thanks", "thx", "thanks a lot", "thank you very much", "thanks, that helped a lot", "you're welcome", "sorry", "sorry, my mistake",
    "no problem", "no worries", "never mind", "forget it", "ok", "ok thanks", "alright", "got it", "I see",
    "cool", "great, perfect", "wow, amazing", "that's nice", "well done", "that was helpful", "good one", "haha", "lol", "damn",
    "this is useless", "you are stupid", "shut up", "I hate you",
    "I love you", "you're funny", "you are great, I like talking to you", "do you like me?", "do you have feelings?", "do you have a hobby?",
    "who are you?", "what are you?", "what's your name?",
    "are you a robot?", "are you a real person?", "am I talking to a human?", "are you real?", "what's your favourite colour?",
    "I have a question",
    "this is just a test", "test, test, one two three", "is this thing on?", "say something",
    "tell me a joke", "make me laugh", "sing me a song", "tell me a story", "tell me something interesting", "what is the meaning of life?",
    "I'm bored", "I'm busy right now", "I'm sad today", "I'm so happy", "let's talk",
)  # fmt: skip


def resembled(vectors: Floats, phrases: Anchors, index: Index, leans: bool) -> int | None:
    """The place of the phrase that a message with this vector ``(1, d)`` is small talk like. ``leans``: it may be about what was said before."""
    found = phrases.rows.cosines(vectors)
    best = found.item(place := int(found.argmax()))
    return place if best >= (SAME if leans else ALIKE) and best - index.best(vectors[0]) >= NEARER else None


def clauses(text: str) -> list[str]:
    """The clauses of a short message of several; none of any other."""
    if len(text.split()) > MOST_WORDS:
        return []
    found = [clause.strip() for clause in CLAUSE.findall(text) if WORD.search(clause)]
    return found if len(found) > 1 else []


def claimed(phrases: Anchors, domain: Anchors, said: int) -> bool:
    """Whether a domain known by such anchors is there for small talk like the phrase at place ``said``."""
    near = (phrases.vectors @ domain.vectors.T).max(axis=1, initial=-1.0)
    return bool(near[said] >= NEAR_ENOUGH and (near >= NEAR).mean() >= CLAIMED)
