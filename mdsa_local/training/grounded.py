"""Grounded question-answering examples for the bundled SLM, made without end from templates and public prose.

An example is numbered passages, a question, and the answer: the sentence (or steps) that answers, quoted, then its ``[n]``; or the
fixed refusal when no passage answers. Sources: the fact templates in ``training/templates`` (ours), MedQuAD answers (CC BY 4.0), the
18F handbook (CC0) and The Rust Programming Language (MIT/Apache-2.0). The gold passage is first as often as retrieval puts it first.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mdsa_local.domains.prompts import NOT_FOUND, user_message
from mdsa_local.errors import ConfigError, InputError
from mdsa_local.settings import YamlLoader
from mdsa_local.training import sources
from mdsa_local.training.corpus import sentences, with_typo

TEMPLATES = Path(__file__).parent / "templates"
SLOT = re.compile(r"\{([a-z_]+)(\d?)\}")
WORD = re.compile(r"[A-Za-z][A-Za-z'-]{3,}")
BETWEEN_STEPS = "between steps"
# One is asked about, others stand beside it.
LEAST_FACTS = 3
SYLLABLES = (
    "ar bel cor dan el fen gor hal in jor kel lum mor nev or pel quin ros sel tam ul ver wen xan yor zed bri cla dro fra gri kra pli sto tri vel"
).split()
ROLES = (
    "You are the assistant of {name}.",
    "You answer questions for customers of {name}. Be brief and friendly.",
    "You are a careful assistant for {place}.",
    "You help with {product}. Answer in plain words.",
    "You are a support agent. Be precise.",
    "You give health information from the documents. You are not a doctor. In an emergency, tell people to call {phone}.",
    "You are a technical assistant for developers.",
    "You explain accounts, cards and payments in plain words.",
    "",
)
PREFIXES = (
    "",
    "",
    "",
    "",
    "",
    "",
    "hi, ",
    "hello, ",
    "please tell me: ",
    "quick question, ",
    "um ",
    "can you tell me ",
    "I want to know, ",
    "hey ",
    "sorry, ",
)


def template_texts(seed: int = 0) -> list[str]:
    """Questions and facts of the templates, filled, for the encoder."""
    rng = random.Random(seed)
    texts: set[str] = set()
    for topic in Templates().topics:
        slots = topic.get("slots") or {}
        for _ in range(2):
            chosen: dict[str, str] = {}
            for fact in topic["facts"]:
                texts.update(worded(fill(ask, slots, chosen, rng), rng) for ask in fact["asks"])
                texts.update(fill(says, slots, chosen, rng) for says in fact.get("says", fact.get("steps", ()))[:2])
    return sorted(texts)


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: chat turns ``system`` and ``user``, and the ``answer``; ``question`` is what it asks, before slips of the keyboard."""

    system: str
    user: str
    answer: str
    question: str = ""


def invented(rng: random.Random, parts: int = 2) -> str:
    """An invented proper name."""
    return "".join(rng.choice(SYLLABLES) for _ in range(parts)).capitalize()


def _amount(rng: random.Random) -> str:
    return rng.choice(
        (
            str(rng.randint(1, 99)),
            str(rng.randint(1, 20) * 5),
            f"{rng.randint(1, 40)}.50",
            f"{rng.randint(1, 12)},{rng.randint(0, 9)}00",
            str(rng.randint(100, 950)),
        )
    )


BUILT_IN: dict[str, Callable[[random.Random], str]] = {
    "money": _amount,
    "small": lambda r: str(r.randint(2, 9)),
    "count": lambda r: str(r.choice((r.randint(10, 60), r.randint(2, 50) * 10))),
    "days": lambda r: str(r.choice((r.randint(2, 15), r.choice((20, 21, 28, 30, 45, 60, 90))))),
    "hours": lambda r: str(r.choice((2, 3, 4, 6, 8, 12, 18, 24, 36, 48, 72))),
    "minutes": lambda r: str(r.choice((2, 3, 5, 8, 10, 12, 15, 20, 25, 30, 40, 45, 60, 90))),
    "percent": lambda r: r.choice((str(r.randint(1, 95)), f"{r.randint(0, 19)}.{r.randint(1, 9)}")),
    "temp": lambda r: str(r.choice((r.randint(2, 40), r.randint(60, 250)))),
    "mg": lambda r: str(r.choice((5, 10, 25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 650, 1000))),
    "year": lambda r: str(r.randint(1780, 2031)),
    "name": lambda r: invented(r, r.choice((2, 2, 3))),
    "place": lambda r: invented(r) + r.choice(("", "wick", "ton", "ford", " Bay")),
    "person": lambda r: f"{invented(r)} {invented(r)}",
    "product": lambda r: invented(r) + r.choice(("", " Mini", " Pro", " 2", " Max", "o")),
    "app": lambda r: invented(r),
    "time": lambda r: f"{r.randint(5, 22):02d}:{r.choice(('00', '15', '30', '45'))}",
    "weekday": lambda r: r.choice("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    "month": lambda r: r.choice("January February March April May June July August September October November December".split()),
    "phone": lambda r: r.choice((f"0800 555 {r.randint(0, 9999):04d}", "112", f"01{r.randint(10, 99)} 555 {r.randint(100, 999)}")),
    "email": lambda r: f"{invented(r).lower()}@{invented(r).lower()}.example",
    "code": lambda r: f"{r.choice('ABDEFKLMT')}{r.choice('ABCRSTX')}-{r.randint(10, 9999)}",
    "version": lambda r: f"{r.randint(1, 9)}.{r.randint(0, 14)}",
}


def fill(template: str, slots: dict[str, list[str]], chosen: dict[str, str], rng: random.Random) -> str:
    """``template`` with its slots replaced; values once drawn are kept in ``chosen`` for the rest of the topic."""

    def value(match: re.Match[str]) -> str:
        key, name = match.group(1) + match.group(2), match.group(1)
        if key not in chosen:
            own = slots.get(key) or slots.get(name)
            taken = {v for k, v in chosen.items() if k.rstrip("0123456789") == name}
            for _ in range(8):
                chosen[key] = rng.choice(own) if own else BUILT_IN[name](rng)
                if chosen[key] not in taken:
                    break
        return chosen[key]

    return SLOT.sub(value, template)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def worded(question: str, rng: random.Random) -> str:
    """A question as somebody might type it: prefix, case, slips, punctuation."""
    question = rng.choice(PREFIXES) + question
    style = rng.random()
    if style < 0.35:
        question = question.lower()
    elif style < 0.8:
        question = _capital(question)
    if rng.random() < 0.08:
        question = with_typo(question, rng)
    if rng.random() < 0.5:
        question = question.rstrip("?.! ") + "?"
    elif rng.random() < 0.3:
        question = question.rstrip("?")
    return question


@dataclass(slots=True)
class Passage:
    """A passage in the making: its title, its sentences or step lists, the template file it is from."""

    title: str
    parts: list[str]
    file: str = ""

    def text(self) -> str:
        """Its parts as running text, a list of steps on lines of its own."""
        out = ""
        for part in self.parts:
            out += ("" if not out else "\n" if "\n" in part or out.endswith("\n") else " ") + part + ("\n" if "\n" in part else "")
        return out.strip()


def _topics(path: Path) -> list[dict[str, Any]]:
    """The topics of one file of templates. Raises :class:`ConfigError` that names the file and the topic."""
    hint = "Expected a list of topics: {title: [..], slots: {name: [..]}, facts: [{asks: [..], says: [..]} or {asks: [..], steps: [..]}]}."
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), YamlLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not UTF-8 YAML: {' '.join(str(error).split())}", hint) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "Check its permissions.") from None
    if not isinstance(loaded, list):
        raise ConfigError(f"{path}: expected a list of topics, found {type(loaded).__name__}", hint)
    for number, topic in enumerate(loaded, 1):
        facts = topic.get("facts") if isinstance(topic, dict) else None
        if not isinstance(topic, dict) or not _texts(topic.get("title")) or not isinstance(facts, list) or len(facts) < LEAST_FACTS:
            raise ConfigError(f"{path}: topic {number} has no titles, or fewer than {LEAST_FACTS} facts", hint)
        own = topic.get("slots") or {}
        for fact in facts:
            if not isinstance(fact, dict) or not _texts(fact.get("asks")) or not (_texts(fact.get("says")) or _texts(fact.get("steps"))):
                raise ConfigError(f"{path}: topic {number}: a fact without questions (asks), or without statements (says) or steps: {fact}", hint)
            for match in SLOT.finditer(" ".join([*topic["title"], *fact["asks"], *fact.get("says", ()), *fact.get("steps", ())])):
                if match[1] not in own and match[1] + match[2] not in own and match[1] not in BUILT_IN:
                    raise ConfigError(f"{path}: topic {number}: nothing fills {match[0]}", f"List it in slots. Built in: {', '.join(BUILT_IN)}.")
    return loaded


def _texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text.strip() for text in value)


class Templates:
    """Topics of templated facts."""

    def __init__(self, folder: Path = TEMPLATES) -> None:
        self.topics: list[dict[str, Any]] = []
        for path in sorted(folder.glob("*.yaml")):
            self.topics += [topic | {"file": path.stem} for topic in _topics(path)]
        if not self.topics:
            raise InputError(f"{folder}: no templates (*.yaml) in it", f"{TEMPLATES} holds the shipped ones.")
        self.beside = {stem: [topic for topic in self.topics if topic["file"] == stem] for stem in {topic["file"] for topic in self.topics}}

    def statement(self, fact: dict[str, Any], slots: dict[str, list[str]], chosen: dict[str, str], rng: random.Random) -> str:
        """One fact put into words."""
        if "steps" in fact:
            return self._steps(fact, slots, chosen, rng)
        return _capital(fill(rng.choice(fact["says"]), slots, chosen, rng))

    @staticmethod
    def _steps(fact: dict[str, Any], slots: dict[str, list[str]], chosen: dict[str, str], rng: random.Random) -> str:
        """Numbered steps, in most topics each on a line."""
        between = chosen.setdefault(BETWEEN_STEPS, rng.choice(("\n", "\n", " ")))
        return between.join(f"{i}. {_capital(fill(step, slots, chosen, rng))}" for i, step in enumerate(fact["steps"], 1))

    def passage(self, topic: dict[str, Any], rng: random.Random, facts: Sequence[dict[str, Any]], chosen: dict[str, str]) -> Passage:
        """A passage stating ``facts`` in random order."""
        slots = topic.get("slots") or {}
        title = _capital(fill(rng.choice(topic["title"]), slots, chosen, rng))
        if rng.random() < 0.4:
            title += " > " + rng.choice(("Overview", "Details", "What to know", "Rules", "Questions", "Before you start", "Limits", "Good to know"))
        parts = [self.statement(fact, slots, chosen, rng) for fact in facts]
        rng.shuffle(parts)
        return Passage(title, parts, topic["file"])

    def build(self, rng: random.Random, most: int, size: int) -> tuple[list[Passage], str, list[tuple[int, str]]]:
        """``(passages, question, [(index of passage, quoted text)])``; no quotes when the question has no answer here."""
        topic = rng.choice(self.topics)
        slots = topic.get("slots") or {}
        facts = rng.sample(topic["facts"], len(topic["facts"]))
        chosen: dict[str, str] = {}
        answerable = rng.random() >= 0.12
        two = answerable and most > 1 and len(facts) > 3 and rng.random() < 0.12
        asked = facts[: 2 if two else 1]
        cut = min(len(facts), rng.randint(2, size))
        here = facts[(0 if answerable else 1) : max(cut, 2)]
        elsewhere = facts[max(cut, 2) :]
        if two:
            here = [fact for fact in here if fact is not asked[1]]
            elsewhere = [asked[1], *[fact for fact in elsewhere if fact is not asked[1]]]
        gold = self.passage(topic, rng, here, chosen)
        passages = [gold]
        if elsewhere and most > 1 and (two or rng.random() < 0.6):
            passages.append(self.passage(topic, rng, elsewhere[:size], chosen))
        questions = [fill(rng.choice(fact["asks"]), slots, chosen, rng) for fact in asked]
        if len(passages) < most and slots and rng.random() < 0.45 and any("{" in q and set(SLOT.findall(q)) for q in asked[0]["asks"]):
            twin: dict[str, str] = {}
            for key in chosen:
                name = key.rstrip("0123456789")
                if name in slots and len(slots[name]) > 1:
                    twin[key] = rng.choice([v for v in slots[name] if v != chosen[key]])
            named = [chosen[key] for key in twin if chosen[key].lower() in questions[0].lower()]
            if named:
                passages.append(self.passage(topic, rng, facts[:cut], twin))
        joined = (rng.choice((" and ", ", and ", "? also ", " ... and ")).join(q.rstrip("?.") for q in questions)) if two else questions[0]
        quotes = []
        if answerable:
            for fact in asked:
                wanted = None
                for index, passage in enumerate(passages[:2]):
                    for part in passage.parts:
                        if self._is(fact, slots, chosen, part, rng):
                            wanted = (index, part)
                if wanted:
                    quotes.append(wanted)
        return passages, joined, quotes

    def _is(self, fact: dict[str, Any], slots: dict[str, list[str]], chosen: dict[str, str], part: str, rng: random.Random) -> bool:
        if "steps" in fact:
            return part == self._steps(fact, slots, chosen, rng)
        return any(part == _capital(fill(says, slots, chosen, rng)) for says in fact["says"])

    def distractor(self, rng: random.Random, size: int, beside: str = "") -> Passage:
        """A passage of another topic, from the file ``beside`` when one is given."""
        topic = rng.choice(self.beside[beside] if beside else self.topics)
        return self.passage(topic, rng, rng.sample(topic["facts"], min(len(topic["facts"]), rng.randint(2, size))), {})


class Prose:
    """Passages and questions from public prose."""

    def __init__(self, data: Path) -> None:
        self.by_focus: dict[str, list[tuple[str, list[str]]]] = {}
        answers = [(row, sentences(row["answer"])) for row in sources.medquad(data)]
        seen = Counter(s for _, said in answers for s in set(said))
        for row, said in answers:
            said = [s for s in said if 4 <= len(s.split()) <= 40 and seen[s] < 4 and not s.endswith("?")]
            if said:
                self.by_focus.setdefault(row["focus"], []).append((row["question"].replace(" (are)", "").replace(" ?", "?"), said))
        for name in sources.BOOKS:
            for row in sources.book(data, name):
                said = [s for s in sentences(row["text"]) if 4 <= len(s.split()) <= 40]
                if said:
                    title = f"{row['title']} > {row['heading']}" if row["heading"] else row["title"]
                    self.by_focus.setdefault(title, []).append(("", said))
        self.keys = sorted(self.by_focus)
        if not self.keys:
            raise InputError(f"{data}: no sentence of 4 to 40 words in MedQuAD or the books", "docs/training.md says what their files hold.")

    @staticmethod
    def window(said: list[str], rng: random.Random, words: int, start: int | None = None) -> list[str]:
        """Consecutive sentences of at most about ``words`` words."""
        at = rng.randrange(len(said)) if start is None else start
        out = [said[at]]
        for sentence in said[at + 1 :]:
            if sum(len(s.split()) for s in out) + len(sentence.split()) > words:
                break
            out.append(sentence)
        return out

    def cloze(self, sentence: str, focus: str, rng: random.Random) -> str:
        """A question that shares some words with ``sentence``."""
        words = sentence.rstrip(".").split()
        kind = rng.random()
        if kind < 0.5 or len(words) < 8:
            length = rng.randint(2, min(7, len(words)))
            at = rng.randrange(len(words) - length + 1)
            span = " ".join(words[at : at + length]).strip(",;:()")
            return rng.choice(
                (
                    "what about {}",
                    "{}",
                    "tell me about {}",
                    "what do the documents say about {}",
                    "which {}",
                    "is it true that {}",
                    "explain {}",
                    "I need to know about {}",
                )
            ).format(span)
        content = list(dict.fromkeys(WORD.findall(sentence)))
        picked = rng.sample(content, min(len(content), rng.randint(2, 4)))
        extra = [focus.split(" > ")[0]] if rng.random() < 0.4 else []
        return rng.choice(("{}", "what {}", "how {}", "when {}", "why {}", "{} in short")).format(" ".join(extra + picked))

    def build(self, rng: random.Random, most: int, words: int) -> tuple[list[Passage], str, list[tuple[int, str]]]:
        """As :meth:`Templates.build`."""
        focus = rng.choice(self.keys)
        rows = self.by_focus[focus]
        question, said = rng.choice(rows)
        if question and rng.random() < 0.3:
            window = self.window(said, rng, words, 0)
            quoted = window[0]
        else:
            window = self.window(said, rng, words)
            quoted = rng.choice(window)
            question = self.cloze(quoted, focus, rng)
        passages = [Passage(focus, window)]
        others = [other for _, other in rows if other is not said]
        if others and most > 1 and rng.random() < 0.6:
            passages.append(Passage(focus, [s for s in self.window(rng.choice(others), rng, words) if s != quoted] or ["See the leaflet."]))
        if rng.random() < 0.08:
            # Asked of passages that do not hold it.
            passages[0] = Passage(focus, [s for s in passages[0].parts if s != quoted] or ["See the leaflet."])
            if not question.startswith(("what ", "What ")) or len(set(WORD.findall(question)) & set(WORD.findall(passages[0].text()))) > 2:
                passages = passages[1:] or [self.distractor(rng, words)]
            return passages, question, []
        return passages, question, [(0, quoted)]

    def distractor(self, rng: random.Random, words: int) -> Passage:
        """A passage about something else."""
        focus = rng.choice(self.keys)
        return Passage(focus, self.window(rng.choice(self.by_focus[focus])[1], rng, words))


def example(rng: random.Random, templates: Templates, prose: Prose, most: int, size: int, share: float) -> Example:
    """One example with at most ``most`` passages of about ``size`` sentences; ``share`` of them from templates."""
    words = 16 * size
    from_templates = rng.random() < share
    passages, question, quotes = templates.build(rng, most, size) if from_templates else prose.build(rng, most, words)
    total = rng.randint(1, most)
    while len(passages) < total:
        use = rng.random() < (0.9 if from_templates else 0.4)
        # What retrieval finds besides is mostly about the same things.
        beside = passages[0].file if rng.random() < 0.6 else ""
        passages.append(templates.distractor(rng, size, beside) if use else prose.distractor(rng, words))
    order = list(range(len(passages)))
    rng.shuffle(order)
    if quotes and rng.random() < 0.45:
        gold = quotes[0][0]
        order.remove(gold)
        order.insert(0, gold)
    place = {old: new for new, old in enumerate(order, 1)}
    answer = " ".join(f"{text} [{place[index]}]" for index, text in quotes) if quotes else NOT_FOUND
    role = fill(rng.choice(ROLES), {}, {}, rng) if rng.random() < 0.1 else ""
    shown = [(passages[i].title, passages[i].text()) for i in order]
    return Example(role, user_message(shown, worded(question, rng)), answer, question)
