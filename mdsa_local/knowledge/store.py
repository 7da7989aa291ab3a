"""One knowledge base: one LanceDB table of passages, searched by meaning (cosine) and by words (BM25)."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mdsa_local.errors import ConfigError, StorageError
from mdsa_local.knowledge import Embedder, index, searching
from mdsa_local.knowledge.ahead import ahead
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.copied import ROWS_A_SEARCH, copied, matrix
from mdsa_local.knowledge.fusion import Hit, Ranked, Twins, order
from mdsa_local.knowledge.lance import Database, storage_errors
from mdsa_local.knowledge.searching import Found, Snapshot
from mdsa_local.knowledge.thrift import little_memory
from mdsa_local.knowledge.upkeep import Tidied
from mdsa_local.types import Passage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# Candidates each search hands to the fusion, where fewer than a third of them are asked for.
CANDIDATES = 30
# Texts of like length go together within a batch: the larger it is, the less is wasted on padding.
EMBED_BATCH = 512
# Passages whose text is read in case that some of the best have the same one.
SPARE = 3
# A large document is committed in parts of this size: its vectors are never all in memory.
PART_CHUNKS = 2048

_TEXT_COLUMNS = ("id", "document", "source", "hash", "title", "text", "metadata")
_COLUMNS = ["id", "source", "title", "text", "start", "end", "metadata"]
_FINGERPRINT = b"mdsa.embedder"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A document to be stored. ``hash`` is the sha256 of its content; ``source`` is its path as the user knows it."""

    document: str
    source: str
    hash: str
    chunks: tuple[Chunk, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


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


class KnowledgeBase(Tidied):
    """The table ``name`` of a database, for the vectors of one embedder. Made by the first :meth:`add`; until then it is empty.

    ``label`` is what passages call it (default: the name). Threads may share it; processes may share its folder. Methods raise
    :class:`StorageError` when the disk fails, and :class:`ConfigError` when the table holds another encoder's vectors.
    """

    def __init__(self, database: Database, name: str, embedder: Embedder, label: str | None = None) -> None:
        super().__init__(database, name, label)
        self.embedder = embedder
        self._snapshot: Snapshot | None = None
        self._copying = index.Background()

    def add(self, entries: Iterable[Entry]) -> None:
        """Store documents in one commit. What was stored of the same documents is replaced; one without chunks is removed."""
        by_document = {entry.document: entry for entry in entries}
        rows = [(entry, number, chunk) for entry in by_document.values() for number, chunk in enumerate(entry.chunks)]
        if not by_document:
            return
        self._merge(rows, _among(by_document))

    def add_large(self, entry: Entry, chunks: Iterable[Chunk], heard: Callable[[int, int], None] | None = None) -> None:
        """Store a document of any size in commits of :data:`PART_CHUNKS`; ``entry`` has no chunks of its own. Its first chunk is stored last,
        together with the removal of what is left of an earlier version: until then the document counts as interrupted, and storing the same
        again goes on where it stopped. ``heard`` gets, for every part, its number of chunks and where the last one ends."""
        stored = self._ids(entry)
        first: list[tuple[Entry, int, Chunk]] = []
        for part in ahead(_batched(enumerate(chunks), PART_CHUNKS)):
            rows = [(entry, number, chunk) for number, chunk in part]
            first = first or rows[:1]
            missing = [row for row in rows if row[1] and _row_id(row) not in stored]
            if missing:
                self._merge(missing)
            if heard:
                heard(len(rows), rows[-1][2].end)
        self._merge(first, f"{_among([entry.document])} AND hash != '{entry.hash}'")

    def _ids(self, entry: Entry) -> set[str]:
        """The chunks stored of just this version of a document."""
        table = self.opened()
        if table is None:
            return set()
        query = table.query().where(f"{_among([entry.document])} AND hash = '{entry.hash}'").select(["id"])
        return set(self._run(query.to_arrow())["id"].to_pylist())

    def _merge(self, rows: Sequence[tuple[Entry, int, Chunk]], delete: str = "") -> None:
        """Store rows in one commit, in place of those of the same ids and of the others that meet the condition ``delete``."""
        vectors = self._embed([(chunk.title, chunk.text) for _, _, chunk in rows])
        # One commit after the other of an ingestion left 100 MB scattered over glibc's heaps.
        with self.database.writing(self.name), little_memory() if len(rows) >= EMBED_BATCH else nullcontext():
            table = self.opened() or self.database.create(self.name, self._schema())
            self._run(table.checkout_latest())
            self._check(self._run(table.schema()))
            # Where no lock keeps other machines out, only a merge is certain.
            new = self.database.local and not self._replaces(table, rows, delete)
            with self._whole(table):
                data = self._rows(rows, vectors)
                self._run(table.add(data) if new else _merging(table, delete).execute(data))
            # A copy may hold what was replaced.
            self._snapshot = None

    def _replaces(self, table: Any, rows: Sequence[tuple[Entry, int, Chunk]], delete: str) -> bool:
        """Whether there is something to be replaced. With 500,000 rows stored a merge takes 3 seconds and 150 MB, and this a tenth of a second."""
        same = f"{_among({entry.document for entry, _, _ in rows})} AND {_among(map(_row_id, rows), 'id')}" if rows else ""
        return bool(self._run(table.count_rows(" OR ".join(filter(None, (delete, same))))))

    def delete(self, document: str) -> bool:
        """Remove a document; False when it is not there."""
        return self.delete_all([document]) > 0

    def delete_all(self, documents: Sequence[str]) -> int:
        """Remove documents in one commit; the number of chunks that went."""
        with self.database.writing(self.name):
            table = self.opened()
            if table is None or not documents:
                return 0
            self._run(table.checkout_latest())
            with self._whole(table):
                removed = int(self._run(table.delete(_among(documents))).num_deleted_rows)
            # A copy holds what was removed.
            self._snapshot = None
            return removed

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

    def search(self, vector: NDArray[np.float32], text: str, k: int) -> list[Passage]:
        """The best ``k`` passages, best first, see :func:`~mdsa_local.knowledge.fusion.rank`. ``score`` is the cosine with ``vector``, 0 to 1."""
        return [hit.passage for hit in search_all([self], vector, text, k)]

    def passage(self, passage_id: str) -> tuple[Passage, str] | None:
        """The stored passage of this id and its document; None when there is none."""
        table = self.opened()
        if table is None:
            return None
        query = table.query().where("id = '{}'".format(passage_id.replace("'", "''"))).select([*_COLUMNS, "document", "hash"]).limit(1)
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
        query = table.query().where(_among([document]))
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

    async def snapshot(self, table: Any) -> Snapshot:
        """The table as it is now. Raises :class:`ConfigError` when its vectors are another encoder's."""
        with storage_errors(self.database.folder, self.name):
            version = await table.version()
            last = self._snapshot
            if last is not None and last.live is table and last.version == version:
                await self.database.memory.hold(self.name, last, _COLUMNS)
                self._copy_if_worth(last)
                return last
            self.database.memory.drop(self.name)
            pinned = await self.database.pinned(self.name, version)
            schema, count, indices = await asyncio.gather(pinned.schema(), pinned.count_rows(), pinned.list_indices())
        worded = any(one.columns == ["searchable"] for one in indices)
        # Who writes, in another thread, may let go of it at once.
        self._snapshot = now = Snapshot(pinned, table, version, count, bool(index.read(indices).names), worded, self._fits(schema))
        return now

    def _copy_if_worth(self, at: Snapshot) -> None:
        """Have a table too large to be held in memory copied where that pays, while searches go on."""
        at.searches += 1
        if self.database.local and at.held is None and not at.copying and at.searches * ROWS_A_SEARCH >= at.count > searching.HELD_ROWS:
            at.copying = True
            self._copying.start(self.label, lambda: self._copy(at))

    def _copy(self, at: Snapshot) -> None:
        def wanted() -> bool:
            # A program that ends does not wait for it.
            return self._snapshot is at and threading.main_thread().is_alive()

        try:
            with self.database.memory.one_copied, little_memory():
                at.copy = self.database.run(copied(at.table, _COLUMNS, Path(self.database.folder), wanted), self.name)
        except StorageError as error:
            logger.warning("searches of knowledge base %s read it from the table, which takes longer: %s", self.label, error)

    def settle(self) -> None:
        """Wait until nothing is being done in the background."""
        super().settle()
        self._copying.wait()
        if self._snapshot is not None:
            self.database.run(self.database.memory.read())

    async def search_now(
        self, table: Any, vector: NDArray[np.float32] | None, text: str, k: int, where: str | None = None
    ) -> tuple[Snapshot, list[Found]]:
        """The table as it is now, and what :meth:`find` finds there."""
        last = self._snapshot
        # What is held is searched in less time than the loop takes to do two things at once.
        if last is None or last.live is not table or last.held is not None:
            at = await self.snapshot(table)
            return at, await self.find(at, vector, text, k, where)
        # To ask for the latest version takes a third of a millisecond. Mostly it is the last one, and then the search is on its way already; else
        # nothing of it counts, not even an error: what it reads may be gone.
        now, found = await asyncio.gather(self.snapshot(table), self.find(last, vector, text, k, where), return_exceptions=True)
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
        if vector is not None and not at.fits:
            raise self._foreign()
        with storage_errors(self.database.folder, self.name):
            return await searching.candidates(at, vector, text, max(CANDIDATES, 3 * k), where)

    async def hits(self, at: Snapshot, found: Sequence[Found]) -> list[Hit]:
        """Rows with what is stored in them."""
        with storage_errors(self.database.folder, self.name):
            rows = await searching.fetch(at, [one.row for one in found], _COLUMNS)
        return [self._hit(rows[one.row], one) for one in found]

    def fits(self) -> bool:
        """Whether the vectors are this encoder's; True for an empty knowledge base."""
        table = self.opened()
        return table is None or self._fits(self._run(table.schema()))

    def rebuild(self, heard: Callable[[int, int], None] | None = None) -> bool:
        """Embed the stored text again if it was embedded by another encoder; the files are not needed. False when nothing had to be done.

        The rows of the new encoder are written beside the old ones and take their place in one commit: until then searches by the old encoder
        find what they found. ``heard`` gets the passages done and their number.
        """
        with self.database.writing(self.name):
            table = self.opened()
            if table is None:
                return False
            self._run(table.checkout_latest())
            if self._fits(self._run(table.schema())):
                return False
            version, total = self._run(table.version()), self._run(table.count_rows())
            with self._whole(table):
                self._table = self.database.overwrite(self.name, self._again(table, total, heard), self._schema())
                self._take_over(version)
        self.optimize()
        return True

    def dump(self) -> tuple[str, int, Iterator[tuple[list[dict[str, Any]], NDArray[np.float32]]]] | None:
        """The encoder's fingerprint, the width, and every row with its vector, as ``(rows, (n, width) float32)``, some at a time; None when there
        is no table. For :meth:`load`, and for whatever encoder made the vectors."""
        table = self.opened()
        if table is None:
            return None
        schema = self._run(table.schema())
        fingerprint, width = (schema.metadata or {}).get(_FINGERPRINT, b"").decode(), schema.field("vector").type.list_size

        def parts() -> Iterator[tuple[list[dict[str, Any]], NDArray[np.float32]]]:
            columns = [*_TEXT_COLUMNS, "start", "end"]
            with self.database.reading():
                batches = self._run(table.query().select([*columns, "vector"]).to_batches(max_batch_length=PART_CHUNKS))
                while (batch := self._run(_next(batches))) is not None:
                    if batch.schema.field("vector").type.list_size != width:
                        raise StorageError(f"knowledge base {self.label!r} was embedded again meanwhile", "Do it again.")
                    yield batch.select(columns).to_pylist(), matrix(batch["vector"])

        return fingerprint, width, parts()

    def load(self, parts: Iterable[tuple[list[dict[str, Any]], NDArray[np.float32] | None]]) -> None:
        """Put rows as :meth:`dump` gives them in place of all there are, in one commit; those without vectors are embedded."""
        import pyarrow as pa

        schema = self._schema()

        def batches() -> Iterator[pa.RecordBatch]:
            for rows, given in parts:
                vectors = self._embed([(row["title"], row["text"]) for row in rows]) if given is None else given
                columns = {name: [row[name] for row in rows] for name in (*_TEXT_COLUMNS, "start", "end")}
                columns["searchable"] = [f"{row['title']}\n{row['text']}" for row in rows]
                arrays = (_vector_array(vectors) if field.name == "vector" else pa.array(columns[field.name], field.type) for field in schema)
                yield pa.record_batch(list(arrays), schema=schema)

        with self.database.writing(self.name), self._whole(self.opened() or self.database.create(self.name, schema)):
            self._table = self.database.overwrite(self.name, batches(), schema)
        self.optimize()

    def _take_over(self, version: int) -> None:
        """Bring in what another machine, which no lock holds back, committed after ``version`` and before the table was written anew."""
        import pyarrow as pa

        last = self._run(self._table.version()) - 1
        if last <= version:
            return
        then, since = self.database.open(self.name), self.database.open(self.name)
        self._run(then.checkout(version))
        self._run(since.checkout(last))
        before, after = (
            {(row["id"], row["hash"]): row["document"] for row in self._run(table.query().select(["id", "hash", "document"]).to_arrow()).to_pylist()}
            for table in (then, since)
        )
        documents = sorted({(before | after)[key] for key in before.keys() ^ after.keys()})
        for some in _batched(documents, EMBED_BATCH):
            rows = self._run(since.query().where(_among(some)).to_arrow())
            vectors = self._embed(list(zip(rows["title"].to_pylist(), rows["text"].to_pylist(), strict=True)))
            columns = {name: rows[name] for name in (*_TEXT_COLUMNS, "searchable", "start", "end")} | {"vector": _vector_array(vectors)}
            self._run(_merging(self._table, _among(some)).execute(pa.table(columns, schema=self._schema())))

    def _again(self, table: Any, total: int, heard: Callable[[int, int], None] | None) -> Iterator[pa.RecordBatch]:
        """The table's rows with vectors of this encoder, some at a time."""
        import pyarrow as pa

        schema = self._schema()
        batches = self._run(table.query().select([*_TEXT_COLUMNS, "start", "end", "searchable"]).to_batches(max_batch_length=PART_CHUNKS))
        done = 0
        while (batch := self._run(_next(batches))) is not None:
            vectors = self._embed(list(zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)))
            yield pa.record_batch([_vector_array(vectors) if name == "vector" else batch[name] for name in schema.names], schema=schema)
            done += len(vectors)
            if heard:
                heard(done, total)

    def _fits(self, schema: pa.Schema) -> bool:
        return (schema.metadata or {}).get(_FINGERPRINT) == self.embedder.fingerprint.encode()

    def _check(self, schema: pa.Schema) -> None:
        if not self._fits(schema):
            raise self._foreign()

    def _foreign(self) -> ConfigError:
        return ConfigError(
            f"knowledge base {self.label!r} was made with another encoder",
            "Run `mdsa kb optimize` to embed its text again, or set MDSA_ENCODER to the encoder it was made with.",
        )

    def _embed(self, texts: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        import numpy as np

        batches = [[f"{title}\n{text}" for title, text in batch] for batch in _batched(texts, EMBED_BATCH)]
        encoded = [self.embedder.encode(batch) for batch in batches]
        return np.concatenate(encoded) if encoded else np.empty((0, self.embedder.width), np.float32)

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        text = [pa.field(name, pa.string()) for name in (*_TEXT_COLUMNS, "searchable")]
        if not self.database.local:
            # No lock keeps two machines from adding the same document at once: lance has to see that both insert the same key.
            text[0] = pa.field("id", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"})
        rest = [("start", pa.int64()), ("end", pa.int64()), ("vector", pa.list_(pa.float32(), self.embedder.width))]
        return pa.schema([*text, *(pa.field(*field) for field in rest)], metadata={_FINGERPRINT: self.embedder.fingerprint.encode()})

    def _rows(self, rows: Sequence[tuple[Entry, int, Chunk]], vectors: NDArray[np.float32]) -> pa.Table:
        import pyarrow as pa

        columns = {
            "id": list(map(_row_id, rows)),
            "document": [entry.document for entry, _, _ in rows],
            "source": [entry.source for entry, _, _ in rows],
            "hash": [entry.hash for entry, _, _ in rows],
            "title": [chunk.title for _, _, chunk in rows],
            "text": [chunk.text for _, _, chunk in rows],
            "metadata": [json.dumps(dict(entry.metadata), ensure_ascii=False, default=str) for entry, _, _ in rows],
            "searchable": [f"{chunk.title}\n{chunk.text}" for _, _, chunk in rows],
            "start": [chunk.start for _, _, chunk in rows],
            "end": [chunk.end for _, _, chunk in rows],
            "vector": _vector_array(vectors),
        }
        return pa.table(columns, schema=self._schema())

    def _hit(self, row: Mapping[str, Any], found: Found) -> Hit:
        passage = self._passage(row, min(max(found.cosine, 0.0), 1.0))
        return Hit(passage, found.cosine, found.lexical_rank, json.loads(row["metadata"]), found.bm25, found.words)

    def _passage(self, row: Mapping[str, Any], score: float) -> Passage:
        return Passage(row["id"], row["source"], self.label, row["title"], row["text"], row["start"], row["end"], score)


def search_all(knowledge_bases: Iterable[KnowledgeBase], vector: NDArray[np.float32] | None, text: str, k: int) -> list[Hit]:
    """The best ``k`` of knowledge bases in one database, see :func:`rank_all`."""
    return [ranked.hit for ranked in rank_all(knowledge_bases, vector, text, k, every=False) if ranked.twin_of is None][:k]


def rank_all(
    knowledge_bases: Iterable[KnowledgeBase],
    vector: NDArray[np.float32] | None,
    text: str,
    k: int,
    where: str | None = None,
    floor: float | None = None,
    *,
    every: bool = True,
) -> list[Ranked]:
    """The candidates for the best ``k`` of knowledge bases in one database, searched at the same time, best first: ``every`` one, or as many as
    hold ``k`` different texts. Those with the text of a better one are still there.

    ``vector`` is ``(width,) float32, unit length``, or None to search by words alone. ``where``: see :meth:`KnowledgeBase.find`. ``floor``: the
    least cosine of a candidate.
    """
    opened = [(knowledge_base, table) for knowledge_base in knowledge_bases if (table := knowledge_base.opened()) is not None]

    async def search(knowledge_base: KnowledgeBase, table: Any) -> tuple[KnowledgeBase, Snapshot, list[Found]]:
        return knowledge_base, *await knowledge_base.search_now(table, vector, text, k, where)

    async def find() -> list[Ranked]:
        searched = await asyncio.gather(*(search(*one) for one in opened))
        flat = [(number, one) for number, (_, _, found) in enumerate(searched) for one in found if floor is None or one.cosine >= floor]
        placed = order([one for _, one in flat])
        twins, ranked = Twins(), []
        missing = len(placed) if every else k
        while placed and missing > 0:
            wave, placed = placed[: missing + SPARE], placed[missing + SPARE :]
            groups = [[flat[i][1] for i, _, _ in wave if flat[i][0] == number] for number in range(len(searched))]
            fetched = await asyncio.gather(*(base.hits(at, group) for (base, at, _), group in zip(searched, groups, strict=True)))
            following = [iter(hits) for hits in fetched]
            for i, place, score in wave:
                hit = next(following[flat[i][0]])
                ranked.append(Ranked(hit, place, score, twins.of(hit.passage)))
                missing -= ranked[-1].twin_of is None
        return ranked

    return opened[0][0].database.run(find()) if opened else []


def _merging(table: Any, delete: str) -> Any:
    """A merge by id that also removes what it does not bring of the rows that meet the condition ``delete``, if there is one."""
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    return merge.when_not_matched_by_source_delete(delete) if delete else merge


async def _next(batches: AsyncIterator[Any]) -> Any:
    return await anext(batches, None)


def _vector_array(vectors: NDArray[np.float32]) -> pa.FixedSizeListArray:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def _row_id(row: tuple[Entry, int, Chunk]) -> str:
    entry, number, _ = row
    return f"{entry.document}#{number}"


def _among(values: Iterable[str], column: str = "document") -> str:
    """The SQL condition that a row belongs to one of the documents, or has one of the values in another column."""
    return "{} IN ({})".format(column, ", ".join("'{}'".format(value.replace("'", "''")) for value in values))


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
