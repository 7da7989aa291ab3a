"""How near a set of questions comes to text that something was trained on: a figure on known questions says little about new ones."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import mdsa_local
from mdsa_local.evaluation.questions import Case
from mdsa_local.training import articles
from mdsa_local.validation import facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.domains.config import DomainConfig
    from mdsa_local.routing.encoder import Encoder

# Above either bound two questions are taken for the same. By the shipped encoder, questions of one kind about two things ("how long is X kept")
# reach a cosine of 0.8.
COSINE, WORDS = 0.9, 0.75
# Fewer words than this are shared by chance.
WORDS_TO_COMPARE = 3
LISTED = 20
SLOT = re.compile(r"\{([a-z_]+)(\d?)\}")


@dataclass(frozen=True, slots=True)
class Twin:
    """A question and the nearest of the texts it was compared with; ``cosine`` -1..1, ``words``: share of their content in common, 0..1."""

    line: int
    question: str
    nearest: str
    cosine: float
    words: float

    @property
    def near(self) -> bool:
        """Whether the two are too near."""
        return self.cosine >= COSINE or self.words >= WORDS


def training_questions(folder: Path | None = None) -> list[str]:
    """The questions of the templates in ``folder`` (None: those that the shipped models were trained on), their slots filled with the first
    value listed."""
    asked: dict[str, None] = {}
    for path in sorted((folder or Path(mdsa_local.__file__).parent / "training" / "templates").glob("*.yaml")):
        for topic in yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            slots = topic.get("slots") or {}
            asked |= {filled(ask, slots): None for fact in topic["facts"] for ask in fact["asks"]}
    return list(asked)


def written_questions(folder: Path | None = None) -> list[str]:
    """The questions written for public texts (``training/written.py``), on which the shipped encoder was trained."""
    found: dict[str, None] = {}
    for path in sorted((folder or Path(mdsa_local.__file__).parent / "training" / "questions").glob("*.jsonl")):
        for row in path.read_text(encoding="utf-8").splitlines():
            found |= {text: None for _, text in json.loads(row)["questions"]}
    return list(found)


def article_questions(folder: Path | None = None) -> list[str]:
    """The questions asked of the invented articles (``training/articles.py``), on which the shipped judge was trained."""
    organisations = articles.read(folder or articles.ARTICLES)
    return list(dict.fromkeys(text for one in organisations for article in one.articles for _, text in article.questions))


def filled(template: str, slots: dict[str, list[str]]) -> str:
    """``template`` with the first value of each slot; a slot without a list of its own becomes its name."""

    def value(match: re.Match[str]) -> str:
        own = slots.get(match[1] + match[2]) or slots.get(match[1])
        return str(own[0]) if own else match[1].replace("_", " ")

    return SLOT.sub(value, template)


def routing_examples(domains: Iterable[DomainConfig]) -> list[str]:
    """The example questions of the domains, from which the router knows them."""
    return list(dict.fromkeys(text for domain in domains for text in domain.examples))


def trained_on(domains: Iterable[DomainConfig], templates: Path | None = None) -> dict[str, list[str]]:
    """All that a set of questions is compared with, by its name; ``templates`` as in :func:`training_questions`."""
    return {
        "training templates": training_questions(templates),
        "written questions": written_questions(),
        "articles' questions": article_questions(),
        "routing examples": routing_examples(domains),
    }


def twins(cases: Sequence[Case], known: Sequence[str], encoder: Encoder) -> list[Twin]:
    """For each case the text of ``known`` that is nearest, by the larger of cosine and shared words."""
    if not known:
        return []
    import numpy as np

    ours, theirs = encoder.encode([case.question for case in cases]), encoder.encode(list(known))
    shared = _SharedWords(known)
    cosines: NDArray[np.float32] = ours @ theirs.T
    found = []
    for case, row in zip(cases, cosines, strict=True):
        words = shared.with_each(case.question)
        at = int(np.maximum(row / COSINE, words / WORDS).argmax())
        found.append(Twin(case.line, case.question, known[at], float(row[at]), float(words[at])))
    return found


class Guard:
    """Tells texts that are too near to one of a set of questions, by the bounds of :func:`twins`: what trains a model must not be what judges it."""

    def __init__(self, cases: Sequence[Case], encoder: Encoder) -> None:
        """Raises the encoder's errors."""
        self._encoder = encoder
        self._vectors = encoder.encode([case.question for case in cases]) if cases else None
        self._shared = _SharedWords([case.question for case in cases])

    def near(self, texts: Sequence[str]) -> list[bool]:
        """Whether each of ``texts`` is too near to any of the questions."""
        if self._vectors is None or not texts:
            return [False] * len(texts)
        cosines = (self._encoder.encode(list(texts)) @ self._vectors.T).max(axis=1)
        words = [self._shared.with_each(text).max() for text in texts]
        return [bool(cosine >= COSINE or share >= WORDS) for cosine, share in zip(cosines, words, strict=True)]


def report(found: Sequence[Twin]) -> dict[str, Any]:
    """How many are too near, and the worst of all."""
    worst = sorted(found, key=lambda twin: -max(twin.cosine / COSINE, twin.words / WORDS))
    return {
        "n": len(found),
        "near": sum(twin.near for twin in found),
        "share": round(sum(twin.near for twin in found) / len(found), 4) if found else None,
        "bounds": {"cosine": COSINE, "words": WORDS},
        "worst": [
            {"line": t.line, "question": t.question, "nearest": t.nearest, "cosine": round(t.cosine, 3), "words": round(t.words, 3)}
            for t in islice(worst, LISTED)
        ],
    }


def _content(text: str) -> frozenset[str]:
    told = facts.read(text)
    return told.words | {number.kind for number in told.numbers}


class _SharedWords:
    """How much content a text has in common with each of many."""

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np

        content = [_content(text) for text in texts]
        places: defaultdict[str, list[int]] = defaultdict(list)
        for at, words in enumerate(content):
            for word in words:
                places[word].append(at)
        self._sizes = np.array([len(words) for words in content])
        self._places = {word: np.array(where) for word, where in places.items()}

    def with_each(self, text: str) -> NDArray[np.float64]:
        """The words in common, of all words of both; 0 where there is too little to compare."""
        import numpy as np

        own, both = _content(text), np.zeros(len(self._sizes))
        for word in own & self._places.keys():
            both[self._places[word]] += 1
        either = np.maximum(self._sizes + len(own) - both, 1)
        share: NDArray[np.float64] = np.where(both >= WORDS_TO_COMPARE, both / either, 0.0)
        return share
