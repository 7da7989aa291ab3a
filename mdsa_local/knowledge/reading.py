"""A table of passages as it is read: searched by meaning (cosine) and by words (BM25), listed and looked up."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import ConfigError, StorageError
from mdsa_local.knowledge import Embedder, index, searching
from mdsa_local.knowledge.chunking import line_feeds
from mdsa_local.knowledge.copied import ROWS_A_SEARCH, copied, matrix
from mdsa_local.knowledge.fusion import Hit
from mdsa_local.knowledge.lance import Database, storage_errors
from mdsa_local.knowledge.searching import AtHand, Found, Snapshot
from mdsa_local.knowledge.thrift import little_memory
from mdsa_local.knowledge.upkeep import Tidied
from mdsa_local.knowledge.wording import lancedb_tokens
from mdsa_local.types import Passage
from mdsa_local.validation import identifiers

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


logger = logging.getLogger(__name__)

# Candidates each search hands to the fusion, where fewer than a third of them are asked for.
CANDIDATES = 30
# By words, of a question with a name as programs have them: its parts may stand in many others.
NAMED_CANDIDATES = 1000

COLUMNS = ["id", "source", "title", "text", "start", "end", "metadata"]
FINGERPRINT = b"mdsa.embedder"
MEND = "Put that right first; see `mdsa doctor`."


@dataclass(frozen=True, slots=True)
class Document:
    """A stored document and how many chunks it has. ``hash`` is empty when storing it was interrupted."""

    document: str
    source: str
    hash: str
    n_chunks: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a document's best passage stands among ``n_passages``: ``(rank, passage id, cosine)`` by vector, and ``(rank, passage id, BM25)``
    among the ``n_matching`` that share a word with the question; None where it has none."""

    n_passages: int = 0
    n_matching: int = 0
    by_vector: tuple[int, str, float] | None = None
    by_words: tuple[int, str, float] | None = None


class Readable(Tidied):
    """The table ``name`` of a database, with the vectors of one embedder, as far as it is read."""

    def __init__(self, database: Database, name: str, embedder: Embedder, label: str | None = None) -> None:
        super().__init__(database, name, label)
        self.embedder = embedder
        self._snapshot: Snapshot | None = None
        self._copying = index.Background()

    def documents(self) -> list[Document]:
        """What is stored, sorted by document."""
        table = self.opened()
        if table is None:
            return []
        query = table.query().select(["id", "document", "source", "hash"])
        counts: Counter[tuple[str, str, str]] = Counter()
        complete: set[str] = set()

        async def read() -> None:
            async for batch in await query.to_batches():
                ids, *columns = (batch[name].to_pylist() for name in ("id", "document", "source", "hash"))
                counts.update(zip(*columns, strict=True))
                complete.update(row_id.removesuffix("#0") for row_id in ids if row_id.endswith("#0"))

        self._run(read())
        found: dict[str, Document] = {}
        for (document, source, digest), count in sorted(counts.items()):
            # Two versions side by side: the later one was not stored to its end.
            whole = document in complete and document not in found
            earlier = found[document].n_chunks if document in found else 0
            found[document] = Document(document, source, digest if whole else "", count + earlier)
        return list(found.values())

    def metadata(self, documents: Iterable[str]) -> dict[str, str]:
        """The metadata, as JSON, of those of ``documents`` that are stored."""
        table = self.opened()
        if table is None:
            return {}
        query = table.query().where(among([f"{document}#0" for document in documents], "id")).select(["document", "metadata"])
        return {row["document"]: row["metadata"] for row in self._run(query.to_arrow()).to_pylist()}

    def passage(self, passage_id: str) -> tuple[Passage, str] | None:
        """The stored passage of this id and its document; None when there is none."""
        table = self.opened()
        if table is None:
            return None
        query = table.query().where("id = '{}'".format(passage_id.replace("'", "''"))).select([*COLUMNS, "document", "hash"]).limit(1)
        rows = self._run(query.to_arrow()).to_pylist()
        return (self._passage(rows[0], 0.0), rows[0]["hash"]) if rows else None

    def standing(self, document: str, vector: NDArray[np.float32], text: str) -> Standing:
        """How a document stands among all passages of this knowledge base, by an exact look at every one of them."""
        from lancedb.query import MatchQuery

        table = self.opened()
        if table is None:
            return Standing()
        self._check(self._run(table.schema()))
        words = self._run(
            table.query().nearest_to_text(MatchQuery(text, "searchable")).select(["id", "document", "_score"]).limit(self._count(table)).to_arrow()
        )
        scored: list[tuple[float, str]] = []

        async def read() -> None:
            async for batch in await table.query().select(["id", "document", "vector"]).to_batches():
                cosines = matrix(batch["vector"]) @ vector
                mine = [name == document for name in batch["document"].to_pylist()]
                ids = batch["id"].to_pylist()
                scored.extend((float(cosine), row_id if own else "") for cosine, row_id, own in zip(cosines, ids, mine, strict=True))

        self._run(read())
        scored.sort(reverse=True)
        by_vector = next(((place, row_id, cosine) for place, (cosine, row_id) in enumerate(scored, 1) if row_id), None)
        matches = enumerate(zip(*(words[name].to_pylist() for name in ("id", "document", "_score")), strict=True), 1)
        by_words = next(((place, row_id, score) for place, (row_id, name, score) in matches if name == document), None)
        return Standing(len(scored), len(words), by_vector, by_words)

    def matching(self, document: str, words: Iterable[str]) -> list[str]:
        """Which of ``words`` occur in a document, by the word index's own idea of a word: case, accents and endings aside."""
        from lancedb.query import MatchQuery

        table = self.opened()
        if table is None:
            return []
        query = table.query().where(among([document]))
        return [
            word
            for word in words
            if len(self._run(query.nearest_to_text(MatchQuery(word, "searchable")).select(["id", "_score"]).limit(1).to_arrow()))
        ]

    def count(self) -> int:
        """How many passages there are."""
        table = self.opened()
        return 0 if table is None else int(self._run(table.count_rows()))

    def _count(self, table: Any) -> int:
        return max(int(self._run(table.count_rows())), 1)

    async def snapshot(self, table: Any, *, hold: bool = True) -> Snapshot:
        """The table as it is now; from the second time on in memory, if it is to ``hold`` and small."""
        # Before the version: what is committed in between is seen next time.
        commits = self.database.commits(self.name)
        with storage_errors(self.database.folder, self.name):
            version = await table.version()
            last = self._snapshot
            if last is not None and last.live is table and last.version == version:
                last.commits = commits
                if hold:
                    await self.database.memory.hold(self.name, last, COLUMNS)
                    self._copy_if_worth(last)
                return last
            self.database.memory.drop(self.name)
            pinned = await self.database.pinned(self.name, version)
            schema, count, indices = await asyncio.gather(pinned.schema(), pinned.count_rows(), pinned.list_indices())
        worded = any(one.columns == ["searchable"] for one in indices)
        # Who writes, in another thread, may let go of it at once.
        self._snapshot = now = Snapshot(pinned, table, version, count, bool(index.read(indices).names), worded, self._fits(schema), commits)
        return now

    def _copy_if_worth(self, at: Snapshot) -> None:
        """Have a table too large to be held in memory copied where that pays, while searches go on."""
        at.searches += 1
        if self.database.local and at.held is None and not at.copying and at.searches * ROWS_A_SEARCH >= at.count > searching.HELD_ROWS:
            # A copy of an earlier version may still be on its way out.
            at.copying = self._copying.start(self.label, lambda: self._copy(at))

    def _copy(self, at: Snapshot) -> None:
        def wanted() -> bool:
            # A program that ends does not wait for it.
            return self._snapshot is at and threading.main_thread().is_alive()

        try:
            with self.database.memory.one_copied, little_memory():
                tokenize = lancedb_tokens() if at.worded else None
                copy = self.database.run(copied(at.table, COLUMNS, Path(self.database.folder), wanted, tokenize), self.name)
                if copy is not None:
                    with storage_errors(self.database.folder, self.name):
                        copy.finish()
                    at.copy = copy
        except StorageError as error:
            logger.warning("searches of knowledge base %s read it from the table, which takes longer: %s", self.label, error)

    def settle(self) -> None:
        """Wait until nothing is being done in the background."""
        super().settle()
        self._copying.wait()
        if self._snapshot is not None:
            self.database.run(self.database.memory.read())

    def let_go(self) -> None:
        super().let_go()
        # A copy in the making is for nobody.
        self._snapshot = None

    def at_hand(self, table: Any) -> tuple[Snapshot, AtHand] | None:
        """The table as it is now and all of it, where this process has that; None where LanceDB has to be asked."""
        last = self._snapshot
        if last is None or last.live is not table or (near := last.at_hand) is None:
            return None
        if last.commits is None or last.commits != self.database.commits(self.name):
            return None
        last.used = time.monotonic()
        return last, near

    async def search_now(
        self, table: Any, vector: NDArray[np.float32] | None, text: str, k: int, where: str | None = None, *, hold: bool = True
    ) -> tuple[Snapshot, list[Found]]:
        """The table as it is now, and what :meth:`find` finds there. ``hold``: see :meth:`snapshot`."""
        last = self._snapshot
        # What is held is searched in less time than the loop takes to do two things at once.
        if last is None or last.live is not table or last.held is not None:
            at = await self.snapshot(table, hold=hold)
            return at, await self.find(at, vector, text, k, where)
        # To ask for the latest version takes a third of a millisecond. Mostly it is the last one, and then the search is on its way already; else
        # nothing of it counts, not even an error: what it reads may be gone.
        now, found = await asyncio.gather(self.snapshot(table, hold=hold), self.find(last, vector, text, k, where), return_exceptions=True)
        if isinstance(now, BaseException):
            raise now
        if now is not last:
            return now, await self.find(now, vector, text, k, where)
        if isinstance(found, BaseException):
            raise found
        return now, found

    async def find(self, at: Snapshot, vector: NDArray[np.float32] | None, text: str, k: int, where: str | None = None) -> list[Found]:
        """Candidates for the best ``k``: the nearest to ``vector``, and those sharing words with ``text``; by words alone when it is None. ``where``:
        the SQL condition they meet, see :func:`mdsa_local.knowledge.filters.sql`."""
        self._refuse_foreign(at, vector)
        with storage_errors(self.database.folder, self.name):
            return await searching.candidates(at, vector, text, *_limits(text, k, at.count), where)

    def find_at_hand(self, at: Snapshot, near: AtHand, vector: NDArray[np.float32] | None, text: str, k: int) -> list[Found]:
        """As :meth:`find`, in what :meth:`at_hand` gave."""
        self._refuse_foreign(at, vector)
        return searching.candidates_at_hand(near, at.count, vector, text, *_limits(text, k, at.count))

    async def stored(self, at: Snapshot, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What is stored in rows, by row id."""
        with storage_errors(self.database.folder, self.name):
            return await searching.fetch(at, rows, COLUMNS)

    @property
    def missing(self) -> str:
        """Why the encoder is not there where words stand in for it; empty when it is."""
        reason: str = getattr(self.embedder, "reason", "")
        return reason

    def fits(self) -> bool:
        """Whether the vectors are this encoder's; True for an empty knowledge base."""
        table = self.opened()
        return table is None or self._fits(self._run(table.schema()))

    def _fits(self, schema: pa.Schema) -> bool:
        return (schema.metadata or {}).get(FINGERPRINT) == self.embedder.fingerprint.encode()

    def _check(self, schema: pa.Schema) -> None:
        if not self._fits(schema):
            raise self._foreign()

    def _refuse_foreign(self, at: Snapshot, vector: NDArray[np.float32] | None) -> None:
        if vector is not None and not at.fits:
            raise self._foreign()

    def _foreign(self) -> ConfigError:
        if reason := self.missing:
            return ConfigError(f"knowledge base {self.label!r} can be searched by words alone: {reason}", MEND)
        return ConfigError(
            f"knowledge base {self.label!r} was made with another encoder",
            "Run `mdsa kb optimize` to embed its text again, or set MDSA_ENCODER to the encoder it was made with.",
        )

    def hit(self, row: Mapping[str, Any], found: Found) -> Hit:
        """A row with what is stored in it."""
        passage = self._passage(row, min(max(found.cosine, 0.0), 1.0))
        return Hit(passage, found.cosine, found.lexical_rank, json.loads(row["metadata"]), found.bm25, found.words)

    def _passage(self, row: Mapping[str, Any], score: float) -> Passage:
        # Stored is the text as the file has it, byte by byte.
        return Passage(row["id"], row["source"], self.label, row["title"], line_feeds(row["text"]), row["start"], row["end"], score)


def _limits(text: str, k: int, count: int) -> tuple[int, int]:
    """How many candidates there are for the best ``k`` of ``count`` rows: the nearest, and those by words."""
    limit = max(CANDIDATES, 3 * k)
    by_words = max(limit, NAMED_CANDIDATES) if identifiers.named(text) else limit
    # LanceDB has no number for what is very much more than there is.
    most = max(count, CANDIDATES)
    return min(limit, most), min(by_words, most)


def among(values: Iterable[str], column: str = "document") -> str:
    """The SQL condition that a row belongs to one of the documents, or has one of the values in another column."""
    return "{} IN ({})".format(column, ", ".join("'{}'".format(value.replace("'", "''")) for value in values))
