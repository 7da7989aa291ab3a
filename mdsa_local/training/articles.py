"""Help articles of invented organisations, and papers of invented households and clubs (the files ``unofficial_*``: notes, lists, contracts, rows of
tables), with the questions people ask of them, and which sentences answer; all written for this project.

``training/articles/*.txt``, line by line: ``@ `` begins an organisation, ``# `` an article, ``## `` a heading in it, ``S `` a sentence. Below its
sentences stand an article's questions, each after the numbers of the sentences of the article that answer it, from 1, or after ``- `` when no page
of the organisation does, though it sounds so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mdsa_local.training.marked import files, marked

ARTICLES = Path(__file__).parent / "articles"
UNOFFICIAL = "unofficial"
QUESTION = re.compile(r"(-|\d+(?:,\d+)*) (\S.*)")
FORM = "Lines begin with '@ ', '# ', '## ', 'S ', numbers of sentences, or '- '."


@dataclass(slots=True)
class Article:
    """An article: of each sentence the heading it stands under, ``""`` above the first, and questions with the places that answer, from 0."""

    title: str
    sentences: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    questions: list[tuple[tuple[int, ...], str]] = field(default_factory=list)


@dataclass(slots=True)
class Organisation:
    """All pages of one organisation; ``unofficial``: they are somebody's papers, no help articles."""

    name: str
    articles: list[Article] = field(default_factory=list)
    unofficial: bool = False


def read(folder: Path = ARTICLES) -> list[Organisation]:
    """All organisations, in the order of the files. Raises :class:`InputError` that names file and line."""
    found: list[Organisation] = []
    for path, lines in files(folder):
        for organisation in parsed(lines, str(path)):
            organisation.unofficial = path.name.startswith(UNOFFICIAL)
            found.append(organisation)
    return found


def parsed(lines: Sequence[str], name: str = "articles") -> Iterator[Organisation]:
    """The organisations of one file's lines."""
    organisation: Organisation | None = None
    article: Article | None = None
    heading = ""
    for line in marked(lines, name):
        if line.mark == "@":
            if organisation:
                yield organisation
            organisation, article = Organisation(line.rest), None
        elif line.mark == "#" and organisation:
            article, heading = Article(line.rest), ""
            organisation.articles.append(article)
        elif line.mark == "##" and article:
            heading = line.rest
        elif line.mark == "S" and article:
            article.sentences.append(line.rest)
            article.headings.append(heading)
        elif (match := QUESTION.fullmatch(line.text)) and article:
            places = tuple(int(place) - 1 for place in match[1].split(",")) if match[1] != "-" else ()
            if any(not 0 <= place < len(article.sentences) for place in places):
                raise line.refused(FORM, f"the article has {len(article.sentences)} sentences")
            article.questions.append((places, match[2]))
        else:
            raise line.refused(FORM)
    if organisation:
        yield organisation
