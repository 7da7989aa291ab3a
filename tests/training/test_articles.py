"""Help articles of invented organisations: read line by line, and those that ship are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdsa_local.errors import InputError
from mdsa_local.training import articles
from mdsa_local.training.articles import Article, Organisation

TWO = """\
@ Tern Ferries
# Tickets
S Tickets are sold on board.
## Children
S Children under six sail free.
S A dog needs a ticket.

1 where do i buy one
2,3 does my family pay
- is there a bar
# Bicycles
S A bicycle costs 2 euros.
1 price of a bike
@ Moss Bank
# Cards
S A card lasts four years.
"""


def test_organisations_articles_and_questions_are_read() -> None:
    tern, moss = articles.parsed(TWO.split("\n"))
    tickets = Article(
        "Tickets",
        ["Tickets are sold on board.", "Children under six sail free.", "A dog needs a ticket."],
        ["", "Children", "Children"],
        [((0,), "where do i buy one"), ((1, 2), "does my family pay"), ((), "is there a bar")],
    )
    # A heading ends with its article.
    assert tern == Organisation("Tern Ferries", [tickets, Article("Bicycles", ["A bicycle costs 2 euros."], [""], [((0,), "price of a bike")])])
    assert moss == Organisation("Moss Bank", [Article("Cards", ["A card lasts four years."], [""])])


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("@ A\n# B\nS one\n2 which", 4, "the article has 1 sentences: 2 which"),
        ("@ A\n# B\nS one\n0 which", 4, "the article has 1 sentences"),
        ("# B", 1, "not understood: # B"),
        ("@ A\n\nS one", 3, "not understood: S one"),
        ("@ A\n# B\n@ C\nS one", 4, "not understood"),
        ("@ A\n# B\nS one\nwhat is it", 4, "not understood: what is it"),
        ("@ A\n# B\nS one\n1,x what", 4, "not understood"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(text: str, line: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TWO, encoding="utf-8")
    (tmp_path / "b.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        articles.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'b.txt'}:{line}: {says}")


def test_shipped_articles_are_whole() -> None:
    every = [article for organisation in articles.read() for article in organisation.articles]
    asked = [(places, text) for article in every for places, text in article.questions]
    assert len(every) == 3394
    assert len(asked) > 44_000
    assert all(article.sentences and article.questions for article in every)
    assert len({text for _, text in asked}) > 0.99 * len(asked)
    unanswered = sum(not places for places, _ in asked)
    assert 0.2 < unanswered / len(asked) < 0.5
