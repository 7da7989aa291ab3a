"""One knowledge base: one LanceDB table of passages, as it is written and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from mdsa_local.errors import ModelError, StorageError
from mdsa_local.knowledge.ahead import ahead
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.copied import matrix
from mdsa_local.knowledge.lance import next_of
from mdsa_local.knowledge.reading import FINGERPRINT, MEND, Readable, among
from mdsa_local.knowledge.thrift import little_memory
from mdsa_local.knowledge.together import search_all
from mdsa_local.knowledge.wording import searchable
from mdsa_local.types import Passage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

# Texts of like length go together within a batch: the larger it is, the less is wasted on padding.
EMBED_BATCH = 512
# A large document is committed in parts of this size: its vectors are never all in memory.
PART_CHUNKS = 2048

_TEXT_COLUMNS = ("id", "document", "source", "hash", "title", "text", "metadata")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A document to be stored. ``hash`` changes with its content, a sha256; ``source`` is its path as the user knows it."""

    document: str
    source: str
    hash: str
    chunks: tuple[Chunk, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


class KnowledgeBase(Readable):
    """The table ``name`` of a database, for the vectors of one embedder. Made by the first :meth:`add`; until then it is empty.

    ``label`` is what passages call it (default: the name). Threads may share it; processes may share its folder. Methods raise
    :class:`StorageError` when the disk fails, and :class:`ConfigError` when the table holds another encoder's vectors; those that embed text
    :class:`ModelError`, and store nothing, where words stand in for the encoder.
    """

    def search(self, vector: NDArray[np.float32], text: str, k: int) -> list[Passage]:
        """The best ``k`` passages, best first, as :func:`search_all` finds them. ``score`` is the cosine with ``vector``, 0 to 1."""
        return [hit.passage for hit in search_all([self], vector, text, k)]

    def add(self, entries: Iterable[Entry], *, of_files: bool = False) -> dict[str, str]:
        """Store documents in one commit. What was stored of the same documents is replaced; one without chunks is removed.

        ``of_files``: a document that meanwhile came from another source is another one, and the new one is called by its source; the ids that were
        changed so.
        """
        by_document = {entry.document: entry for entry in entries}
        rows = [(entry, number, chunk) for entry in by_document.values() for number, chunk in enumerate(entry.chunks)]
        return self._merge(rows, among, by_document, of_files) if by_document else {}

    def add_large(self, entry: Entry, chunks: Iterable[Chunk], heard: Callable[[int, int, int], None] | None = None) -> dict[str, str]:
        """Store a file of any size in commits of :data:`PART_CHUNKS`; ``entry`` has no chunks of its own. Its first chunk is stored last,
        together with the removal of what is left of an earlier version: until then the document counts as interrupted, and storing the same
        again goes on where it stopped. ``heard`` gets, for every part, its number of chunks, 0 and where the last one ends; and, while a part is
        embedded, 0, how many of it are and where these end. Returns as :meth:`add`."""
        stored = self._ids(entry)
        first: Chunk | None = None
        renamed: dict[str, str] = {}
        began = False

        def embedded(rows: Sequence[tuple[Entry, int, Chunk]], done: int) -> None:
            if heard:
                heard(0, done, rows[done - 1][2].end)

        for part in ahead(_batched(enumerate(chunks), PART_CHUNKS)):
            rows = [(entry, number, chunk) for number, chunk in part]
            first = first or rows[0][2]
            missing = [row for row in rows if row[1] and _row_id(row) not in stored]
            if missing and (new := self._merge(missing, of_files=not began, heard=partial(embedded, missing))):
                renamed, entry = new, replace(entry, document=new[entry.document])
            # From here on whoever else has a file of this name sees that it is taken.
            began = began or bool(missing)
            if heard:
                heard(len(rows), 0, rows[-1][2].end)
        beginning = [(entry, 0, first)] if first else []
        return self._merge(beginning, lambda documents: f"{among(documents)} AND hash != '{entry.hash}'", [entry.document], not began) or renamed

    def _ids(self, entry: Entry) -> set[str]:
        """The chunks stored of just this version of a document, from the same source."""
        table = self.opened()
        if table is None:
            return set()
        query = table.query().where(f"{among([entry.document])} AND {among([entry.source], 'source')} AND hash = '{entry.hash}'").select(["id"])
        return set(self._run(query.to_arrow())["id"].to_pylist())

    def _merge(
        self,
        rows: Sequence[tuple[Entry, int, Chunk]],
        condition: Callable[[Iterable[str]], str] | None = None,
        documents: Iterable[str] = (),
        of_files: bool = False,
        heard: Callable[[int], None] | None = None,
    ) -> dict[str, str]:
        """Store rows in one commit, in place of those of the same ids and of the others of ``documents`` that meet the ``condition``. ``heard`` gets
        how many are embedded while more are to be. Returns as :meth:`add`."""
        self._refuse_stand_in()
        vectors = self._embed([(chunk.title, chunk.text) for _, _, chunk in rows], heard)
        # One commit after the other of an ingestion left 100 MB scattered over glibc's heaps.
        with self.database.writing(self.name), little_memory() if len(rows) >= EMBED_BATCH else nullcontext():
            table = self.opened() or self.database.create(self.name, self._schema())
            self._run(table.checkout_latest())
            self._check(self._run(table.schema()))
            delete = condition(documents) if condition else ""
            # Where no lock keeps other machines out, only a merge is certain.
            new = self.database.local and not self._replaces(table, rows, delete)
            renamed = self._others(table, rows) if of_files and not (new and delete) else {}
            if renamed:
                rows = [(replace(entry, document=renamed.get(entry.document, entry.document)), number, chunk) for entry, number, chunk in rows]
                delete = condition([renamed.get(document, document) for document in documents]) if condition else ""
                new = False
            with self._whole(table):
                data = self._rows(rows, vectors)
                self._run(table.add(data) if new else _merging(table, delete).execute(data))
            # A copy may hold what was replaced.
            self._snapshot = None
        return renamed

    def _others(self, table: Any, rows: Sequence[tuple[Entry, int, Chunk]]) -> dict[str, str]:
        """The sources of documents in ``rows`` whose ids have come to be those of others."""
        sources = {entry.document: entry.source for entry, _, _ in rows}
        if not sources:
            return {}
        query = table.query().where(f"{among(sources)} AND NOT ({among(sources.values(), 'source')})").select(["document"])
        return {row["document"]: sources[row["document"]] for row in self._run(query.to_arrow()).to_pylist()}

    def _replaces(self, table: Any, rows: Sequence[tuple[Entry, int, Chunk]], delete: str) -> bool:
        """Whether there is something to be replaced. With 500,000 rows stored a merge takes 3 seconds and 150 MB, and this a tenth of a second."""
        same = f"{among({entry.document for entry, _, _ in rows})} AND {among(map(_row_id, rows), 'id')}" if rows else ""
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
                removed = int(self._run(table.delete(among(documents))).num_deleted_rows)
            # A copy holds what was removed.
            self._snapshot = None
            return removed

    def move(self, sources: Collection[str], above: str, instead: str) -> None:
        """Let documents of the sources given, which all begin with ``above``, have come from below ``instead``, in one commit. Names, text and
        vectors stay."""
        with self.database.writing(self.name):
            table = self.opened()
            if table is None or not sources:
                return
            self._run(table.checkout_latest())
            new = "concat('{}', substr(source, {}))".format(instead.replace("'", "''"), len(above) + 1)
            with self._whole(table):
                self._run(table.update(where=among(sources, "source"), updates_sql={"source": new}))
            # A copy holds the sources before.
            self._snapshot = None

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
            self._refuse_stand_in()
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
        fingerprint, width = (schema.metadata or {}).get(FINGERPRINT, b"").decode(), schema.field("vector").type.list_size

        def parts() -> Iterator[tuple[list[dict[str, Any]], NDArray[np.float32]]]:
            columns = [*_TEXT_COLUMNS, "start", "end"]
            with self.database.reading():
                batches = self._run(table.query().select([*columns, "vector"]).to_batches(max_batch_length=PART_CHUNKS))
                while (batch := self._run(next_of(batches))) is not None:
                    if batch.schema.field("vector").type.list_size != width:
                        raise StorageError(f"knowledge base {self.label!r} was embedded again meanwhile", "Do it again.")
                    yield batch.select(columns).to_pylist(), matrix(batch["vector"])

        return fingerprint, width, parts()

    def load(self, parts: Iterable[tuple[list[dict[str, Any]], NDArray[np.float32] | None]]) -> None:
        """Put rows as :meth:`dump` gives them in place of all there are, in one commit; those without vectors are embedded."""
        import pyarrow as pa

        self._refuse_stand_in()
        schema = self._schema()

        def batches() -> Iterator[pa.RecordBatch]:
            for rows, given in parts:
                vectors = self._embed([(row["title"], row["text"]) for row in rows]) if given is None else given
                columns = {name: [row[name] for row in rows] for name in (*_TEXT_COLUMNS, "start", "end")}
                columns["searchable"] = [searchable(row["title"], row["text"]) for row in rows]
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
            rows = self._run(since.query().where(among(some)).to_arrow())
            vectors = self._embed(list(zip(rows["title"].to_pylist(), rows["text"].to_pylist(), strict=True)))
            columns = {name: rows[name] for name in (*_TEXT_COLUMNS, "searchable", "start", "end")} | {"vector": _vector_array(vectors)}
            self._run(_merging(self._table, among(some)).execute(pa.table(columns, schema=self._schema())))

    def _again(self, table: Any, total: int, heard: Callable[[int, int], None] | None) -> Iterator[pa.RecordBatch]:
        """The table's rows with vectors of this encoder, some at a time."""
        import pyarrow as pa

        schema = self._schema()
        batches = self._run(table.query().select([*_TEXT_COLUMNS, "start", "end", "searchable"]).to_batches(max_batch_length=PART_CHUNKS))
        done = 0
        while (batch := self._run(next_of(batches))) is not None:
            vectors = self._embed(list(zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)))
            yield pa.record_batch([_vector_array(vectors) if name == "vector" else batch[name] for name in schema.names], schema=schema)
            done += len(vectors)
            if heard:
                heard(done, total)

    def _refuse_stand_in(self) -> None:
        """Once the encoder is back, what words made in its place would be another encoder's."""
        if reason := self.missing:
            raise ModelError(f"nothing was stored in knowledge base {self.label!r}, as nothing can be embedded: {reason}", MEND)

    def _embed(self, texts: Sequence[tuple[str, str]], heard: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        import numpy as np

        encoded: list[NDArray[np.float32]] = []
        for batch in _batched(texts, EMBED_BATCH):
            if encoded and heard:
                heard(sum(map(len, encoded)))
            encoded.append(self.embedder.encode([searchable(title, text) for title, text in batch]))
        return np.concatenate(encoded) if encoded else np.empty((0, self.embedder.width), np.float32)

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        text = [pa.field(name, pa.string()) for name in (*_TEXT_COLUMNS, "searchable")]
        if not self.database.local:
            # No lock keeps two machines from adding the same document at once: lance has to see that both insert the same key.
            text[0] = pa.field("id", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"})
        rest = [("start", pa.int64()), ("end", pa.int64()), ("vector", pa.list_(pa.float32(), self.embedder.width))]
        return pa.schema([*text, *(pa.field(*field) for field in rest)], metadata={FINGERPRINT: self.embedder.fingerprint.encode()})

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
            "searchable": [searchable(chunk.title, chunk.text) for _, _, chunk in rows],
            "start": [chunk.start for _, _, chunk in rows],
            "end": [chunk.end for _, _, chunk in rows],
            "vector": _vector_array(vectors),
        }
        return pa.table(columns, schema=self._schema())


def _merging(table: Any, delete: str) -> Any:
    """A merge by id that also removes what it does not bring of the rows that meet the condition ``delete``, if there is one."""
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    return merge.when_not_matched_by_source_delete(delete) if delete else merge


def _vector_array(vectors: NDArray[np.float32]) -> pa.FixedSizeListArray:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def _row_id(row: tuple[Entry, int, Chunk]) -> str:
    entry, number, _ = row
    return f"{entry.document}#{number}"


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
