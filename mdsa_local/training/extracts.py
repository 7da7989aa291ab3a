"""Examples in the form the bundled SLM meets at work: the few sentences an encoder finds nearest to the question, nearest first.

The sentences come from the facts of one topic, of neighbouring topics, and of twins of the topic with other names; a question whose
sentence is not among them is to be refused. The order is that of the shipped encoder's vectors of the unfilled templates, with noise:
the encoder has been trained on these very questions and would put the right sentence first more often than it does elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdsa_local.domains.prompts import NOT_FOUND, user_message
from mdsa_local.domains.quoting import MOST_CHOICES
from mdsa_local.routing.anchors import embed
from mdsa_local.routing.encoder import Encoder
from mdsa_local.training.grounded import SLOT, Example, Prose, Templates, _capital, fill, worded

# With it the right sentence, where it is among those shown, comes first in about seven of ten, as on documents never seen.
NOISE = 0.09
UNANSWERABLE, TWO_QUESTIONS, PROSE = 0.14, 0.06, 0.12


@dataclass(slots=True)
class Candidate:
    """A sentence that may be shown: its nearness to the question, the number and title of its passage, and whether it answers (which part)."""

    near: float
    number: int
    title: str
    text: str
    answers: int = -1


class Extracts:
    """An endless source of examples. ``work`` keeps the vectors of the templates from run to run."""

    def __init__(self, templates: Templates, prose: Prose, work: Path) -> None:
        self.templates, self.prose = templates, prose
        texts: list[str] = []
        self.said: dict[tuple[int, int], slice] = {}
        self.asked: dict[tuple[int, int], slice] = {}
        rng = random.Random(0)
        for t, topic in enumerate(templates.topics):
            slots, chosen = topic.get("slots") or {}, dict[str, str]()
            for f, fact in enumerate(topic["facts"]):
                statements = [" ".join(fact["steps"])] if "steps" in fact else fact["says"]
                for key, group in ((self.said, statements), (self.asked, fact["asks"])):
                    key[t, f] = slice(len(texts), len(texts) + len(group))
                    texts += [fill(text, slots, chosen, rng) for text in group]
        self.vectors = embed(Encoder.load("tinybert"), texts, work)
        self.places = {id(topic): t for t, topic in enumerate(templates.topics)}

    def _candidates(
        self, t: int, facts: Sequence[int], number: int, chosen: dict[str, str], asked: np.ndarray, rng: random.Random, less: float = 0.0
    ) -> dict[int, Candidate]:
        """Facts of topic ``t`` as sentences of passage ``number``, by the place of the fact; ``asked`` are the question's vectors ``(n, d)``."""
        topic = self.templates.topics[t]
        slots = topic.get("slots") or {}
        title = _capital(fill(rng.choice(topic["title"]), slots, chosen, rng))
        if rng.random() < 0.5:
            title += " > " + rng.choice(("Overview", "Details", "What to know", "Rules", "Questions", "Before you start", "Limits", "Good to know"))
        out = {}
        for f in facts:
            fact = topic["facts"][f]
            known = self.said[t, f]
            variant = rng.randrange(known.stop - known.start)
            steps = "steps" in fact
            text = self.templates.statement(fact, slots, chosen, rng) if steps else _capital(fill(fact["says"][variant], slots, chosen, rng))
            near = float((self.vectors[known.start + variant] @ asked.T).max()) + rng.gauss(0, NOISE) - less
            out[f] = Candidate(near, number, title, text)
        return out

    def example(self, rng: random.Random) -> Example:
        """One example."""
        question, found, parts = self._from_prose(rng) if rng.random() < PROSE else self._from_templates(rng)
        shown = sorted(found, key=lambda c: -c.near)[: rng.choice((3, 4, *[MOST_CHOICES] * 4))]
        quotes = sorted((c for c in shown if c.answers >= 0), key=lambda c: c.answers)
        answer = " ".join(f"{c.text} [{c.number}]" for c in quotes) if len(quotes) == parts else NOT_FOUND
        if parts > 1 and len(quotes) == 1:
            answer = f"{quotes[0].text} [{quotes[0].number}]"
        return Example("", user_message([(c.title, c.text) for c in shown], worded(question, rng), [c.number for c in shown]), answer, question)

    def _from_templates(self, rng: random.Random) -> tuple[str, list[Candidate], int]:
        t = rng.randrange(len(self.templates.topics))
        topic = self.templates.topics[t]
        slots, chosen = topic.get("slots") or {}, dict[str, str]()
        order = rng.sample(range(len(topic["facts"])), len(topic["facts"]))
        parts = 2 if rng.random() < TWO_QUESTIONS else 1
        asks = [rng.randrange(len(topic["facts"][f]["asks"])) for f in order[:parts]]
        questions = [fill(topic["facts"][f]["asks"][a], slots, chosen, rng) for f, a in zip(order[:parts], asks, strict=True)]
        asked = self.vectors[[self.asked[t, f].start + a for f, a in zip(order[:parts], asks, strict=True)]]
        numbers = rng.sample(range(1, 5), 4)
        here = order[parts:] if rng.random() < UNANSWERABLE else order[: rng.randint(max(3, parts), len(order))]
        found = self._candidates(t, here, numbers[0], chosen, asked, rng)
        for part, f in enumerate(order[:parts]):
            if f in found:
                found[f].answers = part
        out = list(found.values())
        twin = {}
        for key, value in chosen.items():
            if others := [v for v in slots.get(key.rstrip("0123456789"), ()) if v != value]:
                twin[key] = rng.choice(others)
        if rng.random() < 0.4 and any(chosen[key].lower() in " ".join(questions).lower() for key in twin) and SLOT.search(str(topic["facts"])):
            out += self._candidates(t, order[: len(here)], numbers[1], twin, asked, rng, 0.05).values()
        for number in numbers[2 : 2 + rng.choice((0, 1, 1, 2))]:
            beside = self.templates.beside[topic["file"]] if rng.random() < 0.7 else self.templates.topics
            other = self.places[id(rng.choice(beside))]
            if other != t:
                facts = range(len(self.templates.topics[other]["facts"]))
                out += self._candidates(other, rng.sample(facts, min(len(facts), rng.randint(3, 6))), number, {}, asked, rng).values()
        joined = rng.choice((" and ", ", and ", "? also ", " ... and ")).join(q.rstrip("?.") for q in questions) if parts > 1 else questions[0]
        return joined, out, parts

    def _from_prose(self, rng: random.Random) -> tuple[str, list[Candidate], int]:
        passages, question, quotes = self.prose.build(rng, 3, 60)
        numbers = rng.sample(range(1, 5), len(passages))
        wanted = [text for _, text in quotes]
        out = [
            Candidate(rng.random() + (0.7 if part in wanted else 0.0), number, passage.title, part, 0 if part in wanted else -1)
            for number, passage in zip(numbers, passages, strict=True)
            for part in dict.fromkeys(passage.parts)
        ]
        return question, out, 1
