"""Routing within a conversation: when the user's previous turn is read together with the present one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import dropwhile
from typing import NamedTuple

from mdsa_local.routing.fitting import Thresholds
from mdsa_local.types import Route, Turn

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
# Words that say nothing of a topic: closed classes, courtesies, and what questions are made with.
EMPTY = frozenset(
    """a about actually after again all also always am an and another any anyone anything are around as ask at away back be because been before
    being both but by can can't come could did didn't do does doesn't doing don't done each either else even ever every everything few first
    for from get gets getting give go goes going gone good got had happen happens has have having hello help her here hey hi him his how i i'd
    i'll i'm i've if in instead into is isn't it it's its just keep know last later least less let like long look lot made make makes many
    matter may maybe me mean means might mine more most much must my need needs never next no none not nothing now of off often oh ok okay old on once
    one only or other our out over own part per please possible quite rather really right said same say says second see should shouldn't so
    some something sometimes soon sorry still such sure take takes tell than thank thanks that that's the their them then there these they thing
    things think this those though through till time times to too try trying two under until up us use used usually very want was wasn't way we
    well were what what's when where which while who whole whom why will with within without won't work works would yes yet you your yours""".split()
)
OPENING = re.compile(r"(?:(?:ok|okay|alright|oh|hm+|right|well|sure|thanks|thank you|great|fine|yes|no|yeah)[,.! ]+)*(.*)", re.IGNORECASE | re.DOTALL)
LEANING = re.compile(
    r"(and|but|or|so|then|also|because|what about|how about|what if|even if|only if|same|either way|in that case|else)\b", re.IGNORECASE
)
POINTING = frozenset(
    "it its it's that that's this these those they them their there one ones same he him his she her such both either neither".split()
)
# Of the words that say nothing of a topic those that make a question of others.
VERBS = frozenset(
    """am are be can can't could did didn't do does doesn't don't had has have is isn't may might must should shouldn't was wasn't were what's will
    won't would""".split()
)
# At this confidence a message with a topic of its own, of another domain than the one before it, does not go on with that, however short it is.
CLEAR = 0.9
# What is no sentence, as "brakes?" and "what about brakes?", mostly goes on: it needs this confidence. It also has to be less like the turn before
# than this cosine, and so has what opens like a continuation and is a sentence. Each in three forms, "X?", "and X?" and "what about X?": of 955
# keywords after a turn of another of the shipped domains 24 % go where they belong (15 % before), and all follow-ups in words of another domain stay
# (72 of 120); among eight domains of ten examples it is 69 % (12) of 1,260, and 60 of 108 follow-ups (86).
CERTAIN, UNLIKE = 0.99, 0.1
# Below this one, a message with words enough of its own belongs nowhere, whatever it comes after.
FOREIGN = 0.15


class Leaning(NamedTuple):
    """How much a message leans on what came before: it opens like a continuation; words that point elsewhere; words of its own; whether something
    stands behind an opening like "ok"; whether it has words that make a sentence; whether there is a verb behind an opening like "and"."""

    continues: bool
    points: int
    content: int
    opened: bool
    sentence: bool
    verb: bool

    @property
    def alone(self) -> bool:
        """Whether the message can be understood by itself."""
        weight = 2 * self.continues + self.points
        return self.content >= 2 + weight

    @property
    def apart(self) -> bool:
        """Whether nothing in the message speaks of what came before, and something of a topic; "delivery time" may do both."""
        return self.content > 0 and self.sentence and not self.continues and not self.points

    @property
    def leans(self) -> bool:
        """Whether the message may be about what came before."""
        return self.continues or self.points > 0 or self.opened

    @property
    def stands(self) -> bool:
        """Whether the message names its topic."""
        return self.alone or (self.content > 0 and not self.leans) or (self.content > 1 and self.sentence)


def leaning(text: str) -> Leaning:
    """Judge ``text`` by its words."""
    opened = OPENING.match(text.strip())
    body = opened.group(1) if opened else text
    words = [word.lower() for word in WORD.findall(body)]
    continued = LEANING.match(body)
    content = {word for word in words if word not in EMPTY and len(word) > 1}
    return Leaning(
        continues=bool(continued),
        points=sum(word in POINTING for word in words),
        content=len(content),
        opened=len(body) < len(text.strip()) and bool(words),
        sentence=sum(word in EMPTY for word in words) >= 2,
        verb=any(word.lower() in VERBS for word in WORD.findall(body[continued.end() :] if continued else body)),
    )


def topic(turns: Sequence[str], idle: Callable[[str], bool] = lambda _: False) -> str:
    """The last of a user's ``turns``, at least one, that names its topic; the last where none does: after "how long is the warranty?" and "and on
    batteries?", "and on straps?" goes on from the first. What is ``idle``, small talk, is passed over unless all of them are."""
    spoken = list(dropwhile(idle, reversed(turns)))
    if not spoken:
        return topic(turns)
    return next((turn for turn in spoken if leaning(turn).stands and not idle(turn)), spoken[0])


def route(
    text: str,
    previous: str,
    alone: Route,
    routes: Callable[[list[str]], list[Route]],
    cosine: Callable[[str, str], float],
    thresholds: Thresholds,
) -> tuple[Route, str]:
    """The route of ``text`` after ``previous``, and the text it was found by; ``alone`` is that of ``text`` by itself, ``cosine`` says how like two
    texts are."""
    joined = Turn(previous, text).together
    judged = leaning(text)
    ranked = sorted(alone.scores.values(), reverse=True)
    thin = alone.confidence < thresholds.accept or (len(ranked) > 1 and ranked[0] - ranked[1] < 0.2)
    foreign = alone.domain is None and alone.confidence < FOREIGN
    if judged.alone and (foreign or not thin or judged.content >= 4):
        (earlier,) = routes([previous])
        return replace(alone, switched=alone.domain != earlier.domain), text
    earlier, together = routes([previous, joined])
    if alone.domain not in (None, earlier.domain):
        apart = judged.apart and alone.confidence >= CLEAR
        if apart or (earlier.domain and _left(judged, alone.confidence) and cosine(previous, text) < UNLIKE):
            return replace(alone, switched=True), text
    return replace(together, context="with_previous", switched=together.domain != earlier.domain), joined


def _left(judged: Leaning, confidence: float) -> bool:
    """Whether a message of another domain than the one before it may be about that alone, though it is no sentence or opens like a continuation."""
    return judged.content > 0 and not judged.points and confidence >= (CLEAR if judged.verb else CERTAIN)
