"""The words of a table in memory, scored as LanceDB scores them: its own tokenizer, and BM25 with its constants.

A search by words takes LanceDB 1.1 ms of processor time before it has looked at anything; here it takes 0.3 for 10,000 passages. Rows that came
after the last merge count as all others do, which they do not in the index of LanceDB, and removed ones no longer.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Protocol
from unicodedata import normalize

from mdsa_local.knowledge.nearest import ordered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond"; the values are LanceDB's.
K1, B = 1.2, 0.75
# No stemmer changes it, and it is no word of any language.
_BETWEEN = "0qxz0between0qxz0"
_TEXTS_AT_ONCE = 1000
# What stands between white space is forgotten at so many, 20 MB.
_MOST_KNOWN = 100_000
# Places that are sorted by word at once, 20 MB.
_AT_ONCE = 1 << 18
# Rough sizes of a Python string with its place in a dictionary.
_ENTRY_BYTES = 120

Tokenize = Callable[[str], list[str]]


def searchable(title: str, text: str) -> str:
    """What of a passage is indexed, by its words and by the encoder: PDF files may have ligatures, and accents apart from their letters, where the
    word index would cut."""
    return normalize("NFKC", f"{title}\n{text}")


def lancedb_tokens() -> Tokenize:
    """The words of a text as LanceDB's index with default settings sees them: lower case, stems, without stop words and accents."""
    from lancedb import tokenize

    return lambda text: [token.text for token in tokenize(text)]


class Column(Protocol):
    """Numbers that come some at a time, wherever they are kept."""

    def append(self, numbers: NDArray[Any]) -> object:
        """Put these at the end."""

    def whole(self) -> NDArray[Any]:
        """All of them; nothing is put at the end any more."""


class InMemory:
    """A :class:`Column` in memory."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._parts: list[NDArray[Any]] = []

    def append(self, numbers: NDArray[Any]) -> None:
        """Put these at the end."""
        self._parts.append(numbers.astype(self._kind))

    def whole(self) -> NDArray[Any]:
        """All of them."""
        import numpy as np

        return np.concatenate([np.empty(0, self._kind), *self._parts])


@dataclass(frozen=True, slots=True)
class Words:
    """Which of ``count`` texts hold which words, and what each is worth there: of word ``n`` in ``terms`` the ``places`` and ``worth`` from
    ``ends[n - 1]`` to ``ends[n]``."""

    tokenize: Tokenize
    count: int
    terms: Mapping[str, int]
    ends: NDArray[np.int64]
    places: NDArray[np.int32]
    worth: NDArray[np.float32]

    @classmethod
    def of(cls, texts: Sequence[str], tokenize: Tokenize) -> Words:
        """The words of texts, in memory."""
        reader = WordReader(tokenize)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            reader.add(texts[start : start + _TEXTS_AT_ONCE])
        return reader.finish()

    @property
    def size_bytes(self) -> int:
        """What it takes, roughly."""
        return self.places.nbytes + self.worth.nbytes + self.ends.nbytes + _ENTRY_BYTES * len(self.terms)

    def best(self, text: str, limit: int) -> list[tuple[int, float]]:
        """The ``limit`` places that fit best, best first, with their BM25 scores; only those that hold one of the words."""
        import numpy as np

        terms = [self.terms[token] for token in self.tokenize(text) if token in self.terms]
        if not terms:
            return []
        parts = [slice(self.ends[term - 1] if term else 0, self.ends[term]) for term in terms]
        places, worth = (np.concatenate([column[part] for part in parts]) for column in (self.places, self.worth))
        scores = np.asarray(np.bincount(places, worth, self.count), np.float64)
        found = ordered(scores, limit)
        found = found[scores[found] > 0]
        return list(zip(found.tolist(), scores[found].tolist(), strict=True))


class WordReader:
    """Reads the words of texts that come some at a time. Where ``column`` does not keep them in memory, neither does this: of 100,000 passages, only
    which words there are.

    White space always parts words, so what stands between it is tokenized once, however often it occurs.
    """

    def __init__(self, tokenize: Tokenize, column: Callable[[str], Column] = InMemory) -> None:
        self._tokenize, self._column = tokenize, column
        self._terms: dict[str, int] = {}
        self._forget()
        # The words of each part of the texts, sorted; in which text; and how often. Where each part ends.
        self._term, self._place, self._often = (column(kind) for kind in ("int32", "int32", "int32"))
        self._ends = [0]
        self._lengths: list[NDArray[np.int64]] = []
        self._count = 0

    def _forget(self) -> None:
        # What stands between white space, the words of all of it one after the other, and how many each has.
        self._known: dict[str, int] = {}
        self._words, self._sizes = array("i"), array("i")

    def add(self, texts: Sequence[str]) -> None:
        """The next texts, some hundreds: what is in between takes ten times their memory."""
        import numpy as np

        ids, lengths = self._numbered(texts)
        # Sorted by word, then by place; each pair once, with how often it occurs.
        pairs, often = np.unique(ids.astype(np.int64) * len(texts) + np.repeat(np.arange(len(texts)), lengths), return_counts=True)
        term, place = np.divmod(pairs, max(len(texts), 1))
        for column, numbers in ((self._term, term), (self._place, place + self._count), (self._often, often)):
            column.append(numbers.astype(np.int32))
        self._ends.append(self._ends[-1] + len(pairs))
        self._lengths.append(lengths)
        self._count += len(texts)

    def finish(self) -> Words:
        """All that was read."""
        import numpy as np

        lengths = np.concatenate([np.empty(0, np.int64), *self._lengths])
        # A text without words, of stop words only, is no document to LanceDB.
        documents = max(int(np.count_nonzero(lengths)), 1)
        norm = K1 * (1 - B + B * lengths * documents / max(int(lengths.sum()), 1))
        term, place, often = self._term.whole(), self._place.whole(), self._often.whole()
        parts = [slice(*bounds) for bounds in pairwise(self._ends)]
        holding = np.zeros(len(self._terms), np.int64)
        for part in parts:
            holding += np.bincount(term[part], minlength=len(holding))
        rarity = np.log(1 + (documents - holding + 0.5) / (holding + 0.5))
        ends, places, worth = np.cumsum(holding), self._column("int32"), self._column("float32")
        for first, last in _ranges(ends):
            within = [slice(part.start + low, part.start + high) for part in parts for low, high in [np.searchsorted(term[part], (first, last))]]
            terms, found, times = (np.concatenate([column[some] for some in within]) for column in (term, place, often))
            # Parts follow each other as texts do, so that places stay sorted.
            order = np.argsort(terms, kind="stable")
            terms, found, times = terms[order], found[order], times[order]
            places.append(found)
            worth.append((rarity[terms] * (K1 + 1) * times / (times + norm[found])).astype(np.float32))
        return Words(self._tokenize, self._count, self._terms, ends, places.whole(), worth.whole())

    def _numbered(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The words of all texts one after the other, as numbers, and how many each text has."""
        import numpy as np

        if len(self._known) > _MOST_KNOWN:
            self._forget()
        pieces = [text.split() for text in texts]
        fresh = [piece for piece in dict.fromkeys(chain.from_iterable(pieces)) if piece not in self._known]
        for piece, tokens in zip(fresh, _tokens_of(fresh, self._tokenize), strict=True):
            self._known[piece] = len(self._sizes)
            self._sizes.append(len(tokens))
            self._words.extend(self._terms.setdefault(token, len(self._terms)) for token in tokens)
        counts = np.array([len(some) for some in pieces], np.int64)
        found = np.fromiter(map(self._known.__getitem__, chain.from_iterable(pieces)), np.int64, int(counts.sum()))
        size = np.array(self._sizes, np.int32)
        each, first = size[found], np.cumsum(size) - size
        # Where each word of each piece stands among the words.
        places = np.arange(each.sum()) + np.repeat(first[found] - (np.cumsum(each) - each), each)
        lengths = np.bincount(np.repeat(np.arange(len(pieces)), counts), weights=each, minlength=len(pieces))
        return np.array(self._words, np.int32)[places], lengths.astype(np.int64)


def _ranges(ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Words that follow each other, ``(first, last + 1)``, with :data:`_AT_ONCE` places at most, or one word with more."""
    import numpy as np

    first = 0
    while first < len(ends):
        last = max(int(np.searchsorted(ends, (ends[first - 1] if first else 0) + _AT_ONCE, "right")), first + 1)
        yield first, last
        first = last


def _tokens_of(pieces: Sequence[str], tokenize: Tokenize) -> Iterator[list[str]]:
    """The words of each piece, from as few calls as possible: each makes a tokenizer."""
    if any(_BETWEEN in piece.casefold() for piece in pieces):
        yield from map(tokenize, pieces)
        return
    waiting: list[str] = []
    for token in tokenize(f" {_BETWEEN} ".join([*pieces, ""])):
        if token == _BETWEEN:
            yield waiting
            waiting = []
        else:
            waiting.append(token)
