"""Groups that the judge learns from: what stands beside a question, what answers it, and what is held out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from mdsa_local.routing.encoder import Encoder
from mdsa_local.training import articles, groups
from mdsa_local.training.articles import Organisation
from mdsa_local.training.grounded import Templates
from mdsa_local.training.groups import SIZE, Embed, Group
from mdsa_local.training.written import Written

ARTICLE = """\
# The {thing}
S The {thing} is painted red.
S It weighs {number} kilograms.
## Visits
S The {thing} is open on Monday.
S Children see the {thing} free.
S Dogs stay outside the {thing}.
1 which colour has the {thing}
3,4 may my son come on monday
- who built the {thing}"""
PASSAGES = [
    Written(
        "s",
        f"Book > {name}",
        (f"The {name} is old.", f"A {name} is green.", f"Nobody sells a {name}."),
        (((1,), f"colour of a {name}"), ((), f"{name} price")),
    )
    for name in ("fern", "moss", "lichen", "reed", "rush", "sedge")
]


@pytest.fixture(scope="module")
def embed(encoder: Encoder) -> Embed:
    """The shipped encoder."""
    return lambda texts: encoder.encode(list(texts))


def organisation(name: str, things: tuple[str, ...] = ("lighthouse", "windmill", "mill race")) -> Organisation:
    lines = [f"@ {name}", *(line for at, thing in enumerate(things) for line in ARTICLE.format(thing=thing, number=40 + at).split("\n"))]
    return next(articles.parsed(lines))


def shown(group: Group) -> dict[str, bool]:
    """What is said, without its title, and whether it answers."""
    return dict(zip((text for _, text in group.said), group.answers, strict=True))


def test_a_group_takes_nothing_twice_and_no_more_than_it_holds() -> None:
    group = Group("q")
    for at in range(2 * SIZE):
        group.add(("T", f"text {at // 2}"), at % 2 > 0)
    assert group.said == [("T", f"text {at}") for at in range(SIZE)]
    assert group.answers == [False] * SIZE
    group = Group("q", [("T", "a")], [True])
    group.add(("T", "a"))
    assert group.answers == [True]


def test_a_page_s_questions_with_all_that_stands_beside(embed: Embed) -> None:
    tern = organisation("Tern")
    found = list(groups.of_organisation(tern, embed, random.Random(0), 1, plain=True))
    assert [group.question for group in found] == [text for article in tern.articles for _, text in article.questions]
    colour, visit, builder = found[:3]
    assert colour.said[0] == ("The lighthouse", "The lighthouse is painted red.")
    assert colour.answers == [True] + [False] * (len(colour.said) - 1)
    # Answers first, then the rest of the page under its headings, then the nearest of other pages.
    assert visit.answers[:2] == [True, True] and sum(visit.answers) == 2
    assert visit.said[0] == ("The lighthouse > Visits", "The lighthouse is open on Monday.")
    assert [text for _, text in visit.said[2:5]] == [tern.articles[0].sentences[at] for at in (0, 1, 4)]
    assert all("lighthouse" not in title for title, _ in visit.said[5:])
    assert {"The windmill is open on Monday.", "The mill race is open on Monday."} < shown(visit).keys()
    assert not any(builder.answers)
    assert len(builder.said) == SIZE


def test_drawn_groups_keep_what_answers(embed: Embed) -> None:
    tern = organisation("Tern")
    drawn = list(groups.of_organisation(tern, embed, random.Random(0), 24))
    assert len(drawn) == 24 * 9
    answering = {thing.sentences[place] for thing in tern.articles for places, _ in thing.questions for place in places}
    for at, group in enumerate(drawn):
        places, _ = tern.articles[at % 9 // 3].questions[at % 3]
        assert 4 < len(group.said) <= SIZE
        assert len(set(group.said)) == len(group.said)
        # Every text that answers holds a sentence that does, also one merged of several; a question without an answer has none.
        right = [text for text, answers in shown(group).items() if answers]
        assert bool(right) == bool(places)
        assert all(any(sentence in text for sentence in answering) for text in right)
    assert any("\n2. " in text for group in drawn for _, text in group.said)
    assert len({title for group in drawn for title, _ in group.said}) > 6


def test_seeded_alike_drawn_alike(embed: Embed) -> None:
    tern = organisation("Tern")

    def drawn(seed: int) -> list[Group]:
        rng = random.Random(seed)
        return [*groups.of_organisation(tern, embed, rng, 2), *groups.of_written(PASSAGES, embed, rng, 2)]

    assert drawn(4) == drawn(4)
    assert drawn(4) != drawn(5)


def test_beside_a_written_question_stand_its_passage_and_others(embed: Embed) -> None:
    found = list(groups.of_written(PASSAGES, embed, random.Random(0), 1, plain=True))
    colour, price = found[:2]
    assert colour.said[:3] == [("Book > fern", text) for text in ("A fern is green.", "The fern is old.", "Nobody sells a fern.")]
    assert colour.answers == [True] + [False] * (len(colour.said) - 1)
    # The nearest of other passages may answer as well and are spared.
    others = [text for title, text in colour.said if title != "Book > fern"]
    assert others and len(others) <= 3 * (len(PASSAGES) - 1) - groups.SPARED
    near = embed(["colour of a fern"]) @ embed([groups.titled(one.title, text) for one in PASSAGES[1:] for text in one.sentences]).T
    nearest = [text for one in PASSAGES[1:] for text in one.sentences][int(near.argmax())]
    assert nearest not in others
    assert {title for title, _ in price.said} == {"Book > fern"}
    assert not any(price.answers)


def test_beside_a_fact_stand_others_of_its_topic_and_twins(embed: Embed, monkeypatch: pytest.MonkeyPatch, templates: Path) -> None:
    some = Templates(templates)
    monkeypatch.setattr(groups, "NEAREST", 12)
    drawn = list(groups.of_templates(some, embed, random.Random(0), 6))
    assert len(drawn) == 6 * 16
    assert all(sum(group.answers) <= 1 and len(set(group.said)) == len(group.said) <= SIZE for group in drawn)
    answered = [group for group in drawn if any(group.answers)]
    assert 0.7 < len(answered) / len(drawn) < 1
    colours = [group for group in answered if "painted" in group.said[0][1]]
    assert colours and all(group.answers[0] for group in colours)
    assert all(sum("lighthouse" in text for _, text in group.said) >= 2 for group in colours if "lighthouse" in group.said[0][1])


def test_medical_answers_beside_others_of_the_subject_and_of_the_kind(tmp_path: Path) -> None:
    rows = [
        {
            "focus": focus,
            "question_type": kind,
            "question": f"What is (are) the {kind} of {focus} ?",
            "answer": f"The {kind} of {focus} is known well. It is rare.",
        }
        for focus in ("gout", "mumps")
        for kind in ("cause", "cure")
    ]
    # Of one question about a subject nothing is to be learned.
    rows.append({"focus": "rickets", "question_type": "cause", "question": "What causes rickets ?", "answer": "The cause of rickets is known well."})
    (tmp_path / "medquad").mkdir()
    (tmp_path / "medquad" / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = list(groups.of_medical(tmp_path, random.Random(0), 2))
    assert len(found) == 8
    for group, row in zip(found, rows[:4] * 2, strict=True):
        assert group.question.lower().rstrip("?") == f"what is the {row['question_type']} of {row['focus']}"
        title, text = group.said[0]
        assert title == row["focus"] and text.startswith(f"The {row['question_type']} of {row['focus']} is known well.")
        assert group.answers == [True] + [False] * (len(group.said) - 1)
        assert all(title != row["focus"] or not text.startswith(f"The {row['question_type']}") for title, text in group.said[1:])
        assert {title for title, _ in group.said} > {row["focus"]}


def test_held_out_organisations_and_passages_are_not_learned(embed: Embed, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = [organisation(f"Org {at}", (f"thing{at:02} one", f"thing{at:02} two")) for at in range(14)]
    monkeypatch.setattr(articles, "read", lambda: every)
    monkeypatch.setattr(groups, "read_written", lambda _: PASSAGES)
    monkeypatch.setattr(groups, "of_templates", lambda *_: iter(()))
    learned = {text for group in groups.training(data, embed) for _, text in group.said}
    held = groups.held_out(data, embed)
    kept = {text for group in held["articles"] for _, text in group.said}
    assert len(held["articles"]) == 2 * 6
    assert any("thing01" in text for text in learned) and any("thing13" in text for text in learned)
    assert any("thing00" in text for text in kept) and any("thing12" in text for text in kept)
    assert not any("thing00" in text or "thing12" in text for text in learned)
    assert all("thing00" in text or "thing12" in text or "weighs" in text for text in kept)
    assert {group.question for group in held["written"]} == {"colour of a fern", "fern price"}
    assert not any("fern" in text for text in learned)
