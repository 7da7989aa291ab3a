"""A search in one table at one moment: which rows, how near, how many words. Texts are read only of rows that turn out to be wanted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mdsa_local.knowledge import index
from mdsa_local.knowledge.copied import Copy, matrix
from mdsa_local.knowledge.fusion import saturated
from mdsa_local.knowledge.nearest import block, cosines, ordered, turned
from mdsa_local.knowledge.thrift import little_memory
from mdsa_local.knowledge.wording import Words, lancedb_tokens, searchable
from mdsa_local.threads import Threads

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


# A small table is held in memory, 25 MB at this size: every query to LanceDB takes 1.2 to 2 ms, most of it planning, whatever it finds.
HELD_ROWS = 10_000
# For all tables of a database; those least recently searched go first.
HELD_BYTES = 64 << 20
# One that had to go is not held again before: of tables that are searched in turn and have no room together each would be read for every search.
NOT_AGAIN_S = 60.0


# Beside lancedb's event loop.
ASIDE = Threads(4, "mdsa-aside")


class AtHand(Protocol):
    """What this process has of a table as of one version. A search in it does not ask LanceDB, which takes 1.2 to 2 ms for whatever it is asked."""

    words: Words | None

    def nearest(self, vector: NDArray[np.float32], limit: int, others: Sequence[int] = ()) -> dict[int, float]:
        """Row ids with their exact cosines, nearest first; after them those of ``others`` that are not among them."""

    def by_words(self, words: Words, text: str, limit: int) -> list[tuple[int, float]]:
        """Row ids with their BM25 scores, best first."""

    def fetch(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What is stored in rows, by row id."""


class Held:
    """All rows of a small table in memory: their vectors and ``stored``, the other columns that searches show. ``words`` come later: they take 40 ms
    for 1,000 rows."""

    def __init__(self, found: pa.Table, columns: Sequence[str]) -> None:
        import numpy as np

        self.rows = found["_rowid"].to_numpy()
        vectors = matrix(found["vector"].combine_chunks())
        self._size = block(*vectors.shape)
        # As :func:`~mdsa_local.knowledge.nearest.cosines` wants them.
        self._blocks = np.stack([turned(vectors[start : start + self._size], self._size) for start in range(0, max(len(vectors), 1), self._size)])
        # Cells are read from one part.
        self.stored = found.select([*columns, "_rowid"]).combine_chunks()
        self.places = {row: place for place, row in enumerate(self.rows.tolist())}
        self.size_bytes = int(found.nbytes) + 200 * len(self.rows)
        self.words: Words | None = None

    def read_words(self) -> None:
        """Make ``words``. Takes the processor time of a hundred searches."""
        # What was in between, and what LanceDB took to read the rows, glibc would keep: 115 MB for two tables of 10,000.
        with little_memory():
            titles, texts = (self.stored[name].to_pylist() for name in ("title", "text"))
            words = Words.of(list(map(searchable, titles, texts)), lancedb_tokens())
            del titles, texts
        self.size_bytes += words.size_bytes
        self.words = words

    def by_words(self, words: Words, text: str, limit: int) -> list[tuple[int, float]]:
        """Row ids with their BM25 scores, best first."""
        return [(int(self.rows[place]), score) for place, score in words.best(text, limit)]

    def nearest(self, vector: NDArray[np.float32], limit: int, others: Sequence[int] = ()) -> dict[int, float]:
        """Row ids with their cosines, nearest first; after them those of ``others``."""
        import numpy as np

        found = cosines(self._blocks, vector, len(self.rows))
        places = np.concatenate([ordered(found, limit), np.array([self.places[row] for row in others], np.int64)])
        return dict(zip(self.rows[places].tolist(), found[places].tolist(), strict=True))

    def cosines(self, rows: Sequence[int], vector: NDArray[np.float32]) -> dict[int, float]:
        """The cosines of rows."""
        import numpy as np

        number, place = np.divmod(np.array([self.places[row] for row in rows], np.int64), self._size)
        return dict(zip(rows, (self._blocks[number, :, place] @ vector).tolist(), strict=True))

    def fetch(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What is stored in rows."""
        columns = [(name, self.stored.column(name).chunk(0)) for name in self.stored.column_names] if rows else []
        return {row: {name: cells[self.places[row]].as_py() for name, cells in columns} for row in rows}


class Memory:
    """Which tables of a database are held, within :data:`HELD_BYTES`. Its methods are for lancedb's event loop only, so they need no lock; searches
    elsewhere only note when they used what is held."""

    def __init__(self) -> None:
        self._held: dict[str, Snapshot] = {}
        # When tables that had no room may be held again.
        self._not_before: dict[str, float] = {}
        self._reading: set[asyncio.Future[None]] = set()
        # Copying a table takes 90 MB while it lasts.
        self.one_copied = threading.Lock()

    async def hold(self, name: str, at: Snapshot, columns: Sequence[str]) -> None:
        """Hold a table that is searched a second time; what is written between all searches would be read again for each of them."""
        if at.held is None and at.count <= HELD_ROWS and not at.reading and time.monotonic() >= self._not_before.get(name, 0.0):
            at.reading = True
            try:
                at.held = Held(await at.table.query().select([*columns, "vector"]).with_row_id().to_arrow(), columns)
            finally:
                at.reading = False
            if at.worded:
                # Searches go on meanwhile, and ask LanceDB.
                words = asyncio.wrap_future(ASIDE.submit(at.held.read_words))
                self._reading.add(words)
                words.add_done_callback(self._reading.discard)
        at.used = time.monotonic()
        if at.held is not None:
            self._held[name] = at
        while sum(other.held.size_bytes for other in self._held.values() if other.held) > HELD_BYTES:
            alone_too_large = next((of for of, other in self._held.items() if other.held and other.held.size_bytes > HELD_BYTES), "")
            going = alone_too_large or min(self._held, key=lambda of: self._held[of].used)
            self._held.pop(going).held = None
            self._not_before[going] = time.monotonic() + NOT_AGAIN_S

    def drop(self, name: str) -> None:
        """Forget a table that has changed."""
        self._held.pop(name, None)

    async def read(self) -> None:
        """Wait until all that is held is complete."""
        await asyncio.gather(*self._reading)


@dataclass(slots=True)
class Snapshot:
    """A table as of one version: whatever is written meanwhile, row ids hold, and all parts of a search see the same rows. It is made for the first
    search after a commit and serves those that follow.

    ``searches`` counts those that it served with LanceDB, ``used`` is when the last one was; ``live`` is the handle it was taken from and ``commits``
    what there was of the table's versions, see :meth:`Database.commits`; ``indexed`` tells whether there is a vector index, ``worded`` whether there
    is one of words, and ``fits`` whether the vectors are this encoder's.
    """

    table: Any
    live: Any
    version: int
    count: int
    indexed: bool
    worded: bool
    fits: bool
    commits: object = None
    held: Held | None = None
    reading: bool = False
    copy: Copy | None = None
    copying: bool = False
    searches: int = 0
    used: float = 0.0

    @property
    def at_hand(self) -> AtHand | None:
        """What this process has of all of it, words too. Whoever asked keeps it: it may be let go of meanwhile."""
        held, copy = self.held, self.copy
        return held if held and held.words else copy if copy and copy.words else None


class Found(NamedTuple):
    """A row and how well it fits; see :class:`~mdsa_local.knowledge.fusion.Hit`."""

    row: int
    cosine: float
    lexical_rank: int | None
    bm25: float
    words: float


async def by_words(at: Snapshot, text: str, limit: int, where: str | None = None) -> list[tuple[int, float]]:
    """Row ids with their BM25 scores, best first."""
    if at.held and at.held.words and where is None:
        return at.held.by_words(at.held.words, text, limit)
    from lancedb.query import MatchQuery

    # A MatchQuery is words only: nothing in a question is read as an operator.
    query = at.table.query().nearest_to_text(MatchQuery(text, "searchable")).select(["_score"]).with_row_id().limit(limit)
    found = await (query if where is None else query.where(where)).to_arrow()
    return list(zip(found["_rowid"].to_pylist(), found["_score"].to_pylist(), strict=True))


async def candidates(
    at: Snapshot, vector: NDArray[np.float32] | None, text: str, limit: int, n_by_words: int, where: str | None = None
) -> list[Found]:
    """The ``limit`` nearest to ``vector`` and the ``n_by_words`` that fit best by words; by words alone when it is None: then the best of them counts
    as cosine 1. ``where`` is an SQL condition that rows have to meet."""
    if vector is None:
        return _by_words_alone(await by_words(at, text, n_by_words, where), at.count)
    if where is None and (nearby := at.held or at.copy):
        # Its words are still being read, or were not.
        matching = await by_words(at, text, n_by_words)
        return _both(nearby.nearest(vector, limit, [row for row, _ in matching]), limit, matching, at.count)
    (nearest, exact), matching = await asyncio.gather(_nearest(at, vector, limit, where), by_words(at, text, n_by_words, where))
    known = nearest if exact else {}
    exactly = known | await _cosines(at, [row for row in {**nearest, **dict(matching)} if row not in known], vector)
    dense = sorted(nearest, key=lambda row: -exactly[row])[:limit]
    return _both({row: exactly[row] for row in [*dense, *exactly]}, limit, matching, at.count)


def candidates_at_hand(near: AtHand, count: int, vector: NDArray[np.float32] | None, text: str, limit: int, n_by_words: int) -> list[Found]:
    """As :func:`candidates`, without LanceDB. ``count``: how many rows there are."""
    matching = near.by_words(near.words, text, n_by_words) if near.words else []
    if vector is None:
        return _by_words_alone(matching, count)
    return _both(near.nearest(vector, limit, [row for row, _ in matching]), limit, matching, count)


def _by_words_alone(matching: list[tuple[int, float]], count: int) -> list[Found]:
    return [Found(row, bm25 / matching[0][1], place, bm25, saturated(bm25, count)) for place, (row, bm25) in enumerate(matching, 1)]


def _both(cosines: dict[int, float], limit: int, matching: list[tuple[int, float]], count: int) -> list[Found]:
    """Those that fit by words, and the first ``limit`` of ``cosines``."""
    found = [Found(row, cosines[row], place, bm25, saturated(bm25, count)) for place, (row, bm25) in enumerate(matching, 1)]
    matched = {row for row, _ in matching}
    return found + [Found(row, cosine, None, 0.0, 0.0) for row, cosine in islice(cosines.items(), limit) if row not in matched]


async def fetch(at: Snapshot, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
    """What is stored in rows, by row id."""
    if not rows:
        return {}
    if nearby := at.held or at.copy:
        return nearby.fetch(rows)
    found = await at.table.take_row_ids(list(rows)).select(list(columns)).with_row_id().to_arrow()
    return {row["_rowid"]: row for row in found.to_pylist()}


async def _nearest(at: Snapshot, vector: NDArray[np.float32], limit: int, where: str | None) -> tuple[dict[int, float], bool]:
    """Row ids with their cosines, nearest first, and whether they are exact: roughly, and more of them, where there is an index."""
    query = at.table.query().nearest_to(vector).column("vector").distance_type("dot").select(["_distance"]).with_row_id()
    rough = at.indexed and where is None
    # An index looks at its nearest partitions only, and a condition may leave no row there.
    query = query.nprobes(index.probes(at.count)).limit(index.OVERSAMPLING * limit) if rough else query.bypass_vector_index().limit(limit)
    found = await (query if where is None else query.where(where)).to_arrow()
    return {row: 1.0 - distance for row, distance in zip(found["_rowid"].to_pylist(), found["_distance"].to_pylist(), strict=True)}, not rough


async def _cosines(at: Snapshot, rows: list[int], vector: NDArray[np.float32]) -> dict[int, float]:
    """The exact cosines of rows."""
    if not rows:
        return {}
    if nearby := at.held or at.copy:
        return nearby.cosines(rows, vector)
    found = await at.table.take_row_ids(rows).select(["vector"]).with_row_id().to_arrow()
    return dict(zip(found["_rowid"].to_pylist(), (matrix(found["vector"].combine_chunks()) @ vector).tolist(), strict=True))
