"""What the judge (:mod:`~mdsa_local.training.judge`) learns from: groups of a question, texts that answer it, and texts that are near and do not.

Beside an answer stand other sentences of its page, sentences of the same organisation's other pages that the encoder finds nearest to the question,
facts of the same topic, and twins of the answer with other names; beside a question that nothing answers stand only such. Sources: the articles
(:mod:`~mdsa_local.training.articles`), the written questions (:mod:`~mdsa_local.training.written`), the fact templates
(:mod:`~mdsa_local.training.grounded`) and MedQuAD. The same seed, data and encoder draw the same groups.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mdsa_local.training import articles, sources
from mdsa_local.training.articles import Organisation
from mdsa_local.training.corpus import sentences, with_typo
from mdsa_local.training.grounded import Templates, fill, worded
from mdsa_local.training.written import Written
from mdsa_local.training.written import read as read_written

# Texts to unit vectors (n, width).
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
# A title and a text.
Said = tuple[str, str]
Part = TypeVar("Part")

# Texts beside a question, at most.
SIZE = 12
# One in so many organisations and written passages is held out.
HELD_OUT = 12
# Texts that the encoder finds nearest, of which rivals are drawn.
NEAREST = 24
# Passages of one manual say the same more than once: the nearest sentences of others, so many, are not taken for rivals, as they may well answer.
SPARED = 3
# How often each question is drawn, by source.
TIMES = {"articles": 8, "papers": 16, "written": 3, "templates": 6, "medical": 1}
HEADING_TAILS = ("Overview", "Details", "What to know", "Rules", "Questions", "Before you start", "Limits", "Good to know")


@dataclass(slots=True)
class Group:
    """A question, what is set beside it, and which of it answers."""

    question: str
    said: list[Said] = field(default_factory=list)
    answers: list[bool] = field(default_factory=list)

    def add(self, said: Said, answers: bool = False) -> None:
        """One more, unless it stands there already or the group is full."""
        if len(self.said) < SIZE and said not in self.said:
            self.said.append(said)
            self.answers.append(answers)


def split(every: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """``(learned, held out)``."""
    return [one for at, one in enumerate(every) if at % HELD_OUT], list(every[::HELD_OUT])


def training(data: Path, embed: Embed, seed: int = 0) -> Iterator[Group]:
    """All groups to learn from, source after source. ``data`` is the folder of the public sets, ``embed`` the encoder."""
    rng = random.Random(seed)
    learned, _ = split(articles.read())
    # Read before anything is drawn: a data set that is missing is told at once.
    passages, _ = split(read_written(data))
    for organisation in learned:
        yield from of_organisation(organisation, embed, rng, TIMES["papers" if organisation.unofficial else "articles"])
    yield from of_written(passages, embed, rng, TIMES["written"])
    yield from of_templates(Templates(), embed, rng, TIMES["templates"])
    yield from of_medical(data, rng, TIMES["medical"])


def held_out(data: Path, embed: Embed) -> dict[str, list[Group]]:
    """Groups to measure by, none of an organisation or passage learned from: each question once, as it stands, with what answers, the first other
    sentences of its page, and, as far as there is room, those nearest elsewhere."""
    rng = random.Random(1)
    _, organisations = split(articles.read())
    _, passages = split(read_written(data))
    return {
        "articles": [group for one in organisations if not one.unofficial for group in of_organisation(one, embed, rng, 1, plain=True)],
        "papers": [group for one in organisations if one.unofficial for group in of_organisation(one, embed, rng, 1, plain=True)],
        "written": list(of_written(passages, embed, rng, 1, plain=True)),
    }


def titled(title: str, text: str) -> str:
    """A text under its title, as the judge reads it."""
    return f"{title}: {text}" if title else text


def typed(question: str, rng: random.Random) -> str:
    """A question as it is, or with a slip or without its punctuation."""
    kind = rng.random()
    if kind < 0.08:
        return with_typo(question, rng)
    return question.lower().rstrip("?.") if kind < 0.2 else question


@dataclass(frozen=True, slots=True)
class _Page:
    """Which of an organisation's sentences: article and place in it."""

    article: int
    place: int


def of_organisation(organisation: Organisation, embed: Embed, rng: random.Random, times: int, plain: bool = False) -> Iterator[Group]:
    """Groups of each question of an organisation's pages, ``times`` over; ``plain``: as it stands, with nothing drawn.

    A question that its page does not answer is answered by no page.
    """
    pages = [_Page(at, place) for at, article in enumerate(organisation.articles) for place in range(len(article.sentences))]
    asked = [(at, places, text) for at, article in enumerate(organisation.articles) for places, text in article.questions]
    if not asked:
        return
    texts = [_under(organisation, page, 0) for page in pages]
    near = _order(embed([text for *_, text in asked]), embed([titled(*said) for said in texts]))
    for _ in range(times):
        for row, (at, places, question) in enumerate(asked):
            form = 0 if plain else rng.choices((0, 1, 2, 3), (6, 2, 1, 1))[0]
            group = Group(question if plain else typed(question, rng))
            steps = None if plain or rng.random() > 0.15 else _merged(organisation, at, rng)
            own = [page for page in pages if page.article == at]
            right = [page for page in own if page.place in places]
            beside = [page for page in own if page.place not in places]
            rivals = [pages[i] for i in near[row] if pages[i].article != at or not places]
            if plain:
                chosen = [*right, *beside[: SIZE // 2 + 1], *rivals[:SIZE]]
            else:
                drawn = rivals[:4] + rng.sample(rivals[4:NEAREST], min(4, len(rivals[4:NEAREST])))
                chosen = [*right[:3], *rng.sample(beside, min(len(beside), 4)), *rng.sample(drawn, len(drawn))]
            for page in chosen:
                said = _under(organisation, page, form)
                answers = page.article == at and page.place in places
                if steps and page.article == at and steps[0] <= page.place < steps[1]:
                    said = (said[0], _steps(organisation, at, steps, rng.random() < 0.5))
                    answers = any(steps[0] <= place < steps[1] for place in places)
                group.add(said, answers)
            yield group


def _under(organisation: Organisation, page: _Page, form: int) -> Said:
    """A sentence under its titles: all, the article's, the heading, none."""
    article = organisation.articles[page.article]
    heading = article.headings[page.place]
    whole = f"{article.title} > {heading}" if heading else article.title
    return (whole, article.title, heading or article.title, "")[form], article.sentences[page.place]


def _merged(organisation: Organisation, at: int, rng: random.Random) -> tuple[int, int] | None:
    """Two to four sentences in a row under one heading, to be read as one list."""
    article = organisation.articles[at]
    start = rng.randrange(len(article.sentences))
    end = min(start + rng.randint(2, 4), len(article.sentences))
    while end > start and article.headings[end - 1] != article.headings[start]:
        end -= 1
    return (start, end) if end - start > 1 else None


def _steps(organisation: Organisation, at: int, span: tuple[int, int], numbered: bool) -> str:
    """The sentences that :func:`_merged` gave, as one text."""
    said = organisation.articles[at].sentences[span[0] : span[1]]
    return "\n".join(f"{i}. {text}" for i, text in enumerate(said, 1)) if numbered else " ".join(said)


def _order(asked: NDArray[np.float32], said: NDArray[np.float32]) -> NDArray[np.int64]:
    """The places of the nearest of ``said`` to each of ``asked``, nearest first."""
    return np.argsort(-(asked @ said.T), axis=1, kind="stable")[:, : 3 * NEAREST]


def of_written(passages: Sequence[Written], embed: Embed, rng: random.Random, times: int, plain: bool = False) -> Iterator[Group]:
    """Groups of the questions written for public passages; ``times`` and ``plain`` as in :func:`of_organisation`.

    Beside a question that its passage does not answer stand sentences of that alone: who wrote it had seen no other.
    """
    library = [(at, place) for at, one in enumerate(passages) for place in range(len(one.sentences))]
    asked = [(at, places, text) for at, one in enumerate(passages) for places, text in one.questions]
    known = embed([titled(passages[at].title, passages[at].sentences[place]) for at, place in library])
    vectors = embed([text for *_, text in asked])
    near = np.concatenate([_order(vectors[i : i + 512], known) for i in range(0, len(asked), 512)])
    for _ in range(times):
        for row, (at, places, question) in enumerate(asked):
            passage = passages[at]
            group = Group(question if plain else typed(question, rng))
            title = passage.title if plain or rng.random() < 0.8 else passage.title.split(" > ")[-1] if rng.random() < 0.5 else ""
            for place in places if plain else rng.sample(places, min(len(places), 2)):
                group.add((title, passage.sentences[place]), True)
            beside = [place for place in range(len(passage.sentences)) if place not in places]
            for place in beside[:7] if plain else rng.sample(beside, min(len(beside), 6)):
                group.add((title, passage.sentences[place]))
            elsewhere = [library[i] for i in near[row] if library[i][0] != at][SPARED:NEAREST] if places else []
            for other, place in elsewhere if plain else rng.sample(elsewhere, min(len(elsewhere), 5)):
                group.add((passages[other].title, passages[other].sentences[place]))
            yield group


def of_templates(templates: Templates, embed: Embed, rng: random.Random, times: int) -> Iterator[Group]:
    """Groups of the templates' facts: others of the topic, the same with other names, and those nearest in other topics."""
    facts = [(topic, fact) for topic in templates.topics for fact in topic["facts"]]
    asks = [fill(rng.choice(fact["asks"]), topic.get("slots") or {}, {}, rng) for topic, fact in facts]
    says = [fill(rng.choice(fact.get("says") or fact["steps"]), topic.get("slots") or {}, {}, rng) for topic, fact in facts]
    near = _order(embed(asks), embed(says))
    for _ in range(times):
        for row, (topic, fact) in enumerate(facts):
            slots = topic.get("slots") or {}
            chosen: dict[str, str] = {}
            asked = fill(rng.choice(fact["asks"]), slots, chosen, rng)
            group = Group(worded(asked, rng))
            title = _title(topic, chosen, rng)
            if rng.random() < 0.85:
                group.add((title, templates.statement(fact, slots, chosen, rng)), True)
            others = [other for other in topic["facts"] if other is not fact]
            for other in rng.sample(others, min(len(others), rng.randint(2, 5))):
                group.add((title if rng.random() < 0.7 else _title(topic, chosen, rng), templates.statement(other, slots, chosen, rng)))
            twin = {k: rng.choice(rest) for k, value in chosen.items() if (rest := [v for v in slots.get(k.rstrip("0123456789"), ()) if v != value])}
            if twin and any(chosen[key].lower() in asked.lower() for key in twin) and rng.random() < 0.5:
                group.add((_title(topic, twin, rng), templates.statement(fact, slots, twin, rng)))
            for at in rng.sample(list(near[row][:NEAREST]), 8):
                beside, told = facts[at]
                if beside is not topic:
                    drawn: dict[str, str] = {}
                    group.add((_title(beside, drawn, rng), templates.statement(told, beside.get("slots") or {}, drawn, rng)))
            yield group


def _title(topic: dict[str, Any], chosen: dict[str, str], rng: random.Random) -> str:
    """The title of a topic's page, half of the time with a heading."""
    title = fill(rng.choice(topic["title"]), topic.get("slots") or {}, chosen, rng)
    title = title[:1].upper() + title[1:]
    return f"{title} > {rng.choice(HEADING_TAILS)}" if rng.random() < 0.5 else title


def of_medical(data: Path, rng: random.Random, times: int) -> Iterator[Group]:
    """Questions of MedQuAD with the beginning of the answer, among answers to others about the same subject and of the same kind."""
    by_focus: dict[str, list[dict[str, Any]]] = defaultdict(list)
    by_type: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sources.medquad(data):
        by_focus[row["focus"]].append(row)
        by_type[row.get("question_type", "")].append(row)

    def window(of: dict[str, Any], first: bool) -> Said:
        said = [text for text in sentences(of["answer"]) if len(text.split()) > 3] or [of["answer"][:200]]
        at = 0 if first else rng.randrange(len(said))
        return of["focus"], " ".join(" ".join(said[at : at + rng.choice((1, 1, 2))]).split()[:60])

    subjects = [rows for rows in by_focus.values() if len(rows) > 1]
    for _ in range(times):
        for rows in subjects:
            for row in rows:
                question = row["question"].replace(" (are)", "").replace(" ?", "?")
                group = Group(question if rng.random() < 0.6 else question.lower().rstrip("?"))
                group.add(window(row, True), True)
                for other in rng.sample(rows, min(len(rows), SIZE // 2)):
                    if other is not row and other.get("question_type") != row.get("question_type"):
                        group.add(window(other, rng.random() < 0.5))
                for other in rng.choices(by_type[row.get("question_type", "")], k=2 * SIZE):
                    if other["focus"] != row["focus"]:
                        group.add(window(other, True))
                yield group
