"""The words of a table in memory, scored as LanceDB scores them: its own tokenizer, and BM25 with its constants.

A search by words takes LanceDB 1.1 ms of processor time before it has looked at anything; here it takes 0.3 for 10,000 passages. Rows that came
after the last merge count as all others do, which they do not in the index of LanceDB, and removed ones no longer.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond"; the values are LanceDB's.
K1, B = 1.2, 0.75
# No stemmer changes it, and it is no word of any language.
_BETWEEN = "0qxz0between0qxz0"
# What is in between takes ten times the memory of so many texts.
_TEXTS_AT_ONCE = 1000
# Rough sizes of a Python string with its place in a dictionary.
_ENTRY_BYTES = 120

Tokenize = Callable[[str], list[str]]


def lancedb_tokens() -> Tokenize:
    """The words of a text as LanceDB's index with default settings sees them: lower case, stems, without stop words and accents."""
    from lancedb import tokenize

    return lambda text: [token.text for token in tokenize(text)]


class Words:
    """Which of ``texts`` hold which words, and what each is worth there. Places are places in ``texts``."""

    def __init__(self, texts: Sequence[str], tokenize: Tokenize) -> None:
        import numpy as np

        self._tokenize, self._count = tokenize, len(texts)
        self._terms: dict[str, int] = {}
        ids, lengths = _numbered(texts, tokenize, self._terms)
        # Sorted by word, then by place; each pair once, with how often it occurs.
        pairs, often = np.unique(ids.astype(np.int64) * self._count + np.repeat(np.arange(len(texts)), lengths), return_counts=True)
        term, place = np.divmod(pairs, max(self._count, 1))
        self._ends = np.cumsum(np.bincount(term, minlength=len(self._terms)))
        self._places = place.astype(np.int32)
        # A text without words, of stop words only, is no document to LanceDB.
        documents = max(int(np.count_nonzero(lengths)), 1)
        norm = K1 * (1 - B + B * lengths * documents / max(int(lengths.sum()), 1))
        holding = np.diff(self._ends, prepend=0)
        rarity = np.log(1 + (documents - holding + 0.5) / (holding + 0.5))
        self._worth = (rarity[term] * (K1 + 1) * often / (often + norm[place])).astype(np.float32)
        self.size_bytes = self._places.nbytes + self._worth.nbytes + self._ends.nbytes + _ENTRY_BYTES * len(self._terms)

    def best(self, text: str, limit: int) -> list[tuple[int, float]]:
        """The ``limit`` places that fit best, best first, with their BM25 scores; only those that hold one of the words."""
        import numpy as np

        terms = [self._terms[token] for token in self._tokenize(text) if token in self._terms]
        if not terms:
            return []
        scores = np.zeros(self._count, np.float32)
        for term in terms:
            part = slice(self._ends[term - 1] if term else 0, self._ends[term])
            scores[self._places[part]] += self._worth[part]
        best = np.argpartition(-scores, limit - 1)[:limit] if limit < self._count else np.arange(self._count)
        best = best[scores[best] > 0]
        order = best[np.lexsort((best, -scores[best]))]
        return list(zip(order.tolist(), scores[order].tolist(), strict=True))


def _numbered(texts: Sequence[str], tokenize: Tokenize, vocabulary: dict[str, int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The words of all texts one after the other, as numbers in ``vocabulary``, and how many each text has.

    White space always parts words, so what stands between it is tokenized once, however often it occurs.
    """
    import numpy as np

    known: dict[str, int] = {}
    # The words of all pieces, one after the other, and how many each has.
    words, sizes = array("i"), array("i")
    numbers: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        pieces = [text.split() for text in texts[start : start + _TEXTS_AT_ONCE]]
        fresh = [piece for piece in dict.fromkeys(chain.from_iterable(pieces)) if piece not in known]
        for piece, tokens in zip(fresh, _tokens_of(fresh, tokenize), strict=True):
            known[piece] = len(sizes)
            sizes.append(len(tokens))
            words.extend(vocabulary.setdefault(token, len(vocabulary)) for token in tokens)
        counts = np.array([len(some) for some in pieces])
        found = np.fromiter(map(known.__getitem__, chain.from_iterable(pieces)), np.int64, int(counts.sum()))
        size = np.array(sizes, np.int32)
        each, first = size[found], np.cumsum(size) - size
        # Where each word of each piece stands in ``words``.
        places = np.arange(each.sum()) + np.repeat(first[found] - (np.cumsum(each) - each), each)
        numbers.append(np.array(words, np.int32)[places])
        lengths.append(np.bincount(np.repeat(np.arange(len(pieces)), counts), weights=each, minlength=len(pieces)).astype(np.int64))
    return np.concatenate([np.empty(0, np.int32), *numbers]), np.concatenate([np.empty(0, np.int64), *lengths])


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
