"""A table that looks after itself: small files are merged, indexes follow, and what is old goes once no reader can be using it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import StorageError
from mdsa_local.knowledge import index, sound
from mdsa_local.knowledge.lance import Database, OvertakenError, next_of, storage_errors
from mdsa_local.knowledge.table import Table
from mdsa_local.knowledge.thrift import little_memory
from mdsa_local.machine import give_back_memory

if TYPE_CHECKING:
    import pyarrow as pa

# Readers see every commit at once, so a version that is no longer the latest is in use for one search at most; the longest read all of a table once.
KEEP_VERSIONS = timedelta(seconds=20)
# Reads over a network take longer, and the clocks of several machines differ.
KEEP_ELSEWHERE = timedelta(minutes=10)
# Versions that are removed at rest are older than KEEP_VERSIONS for certain.
AT_REST_S = 1.0
# Of versions that nobody reads all but the latest go; lance warns of zero.
KEEP_NONE = timedelta(milliseconds=1)
# Older than any version.
KEEP_ALL = timedelta(days=36500)
# What is added bit by bit leaves small files: searches slow down after some tens of them.
MOST_SMALL_FILES = 32
# Lance merges all of a table into one file. Where the one before has to stay for KEEP_VERSIONS, only so many times as many small files are worth
# another copy within that time; where it went at once, so many times as many for a table of so many times ROWS_A_HEAP: the more there is to copy, the
# less a small file adds to it.
IN_A_BURST = 8
ROWS_A_HEAP = 2000
# While much is added, this much of what was merged last has to have come beside it: to add n passages then writes some 3 n in merges.
WORTH_MERGING = 0.5
# To bring the word index along, a merge reads all of it, 130 MB of memory for 600,000 rows. From here on it is made anew where
# much of it changes: that takes 20 MB, and for a minute of processor time searches do without it.
REMADE_FROM = 250_000
# Rows that are written anew at a time.
CLEARED_AT_ONCE = 2048


class Tidied(Table):
    """A table, and what keeps it small and quick. Who adds or removes something calls :meth:`tidy` after it; the rest comes by itself."""

    def __init__(self, database: Database, name: str, label: str | None = None) -> None:
        super().__init__(database, name, label)
        self._background = index.Background()
        self._merged_at = -math.inf
        # Whether what the last merge replaced is still there, and how many rows there were.
        self._left_a_copy, self._merged_rows = False, 0
        self._busy = 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While many commits follow each other, the table is not tidied each time that it seems to be at rest."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def _found(self) -> None:
        # A process that wrote before may have ended before it could.
        self._tidy_later()

    def optimize(self) -> None:
        """Bring the indexes up to date, merge small files, drop old versions and the text of what was removed. Once after an ingestion is enough."""
        self._compact(cleared=True)
        self.index_vectors()

    def _compact(self, *, cleared: bool = False) -> None:
        with self.database.writing(self.name), little_memory():
            if self.opened() is not None:
                refused: StorageError | None = None
                try:
                    if cleared:
                        self._clear()
                except StorageError as error:
                    # For want of room perhaps, which the rest may make.
                    refused = error
                table = self.opened()
                self.database.again_after_conflicts(lambda: self._tidied(table))
                self._merged_at = time.monotonic()
                if refused:
                    raise refused

    def _holds_removed(self, table: Any) -> bool:
        """Whether rows that were removed are still in the files of the latest version. Others may be writing to a place that is not local."""
        folder, stats = self.database.folder, self._run(table.stats())
        if not isinstance(folder, Path):
            return False
        files = stats["fragment_stats"]
        if files["num_fragments"] == 1:
            return bool(files["lengths"]["max"] > stats["num_rows"])
        # Of several files only a rounded mean is told; what was removed stands in files of their own.
        with storage_errors(folder, self.name):
            return sound.any_removed(folder / f"{self.name}.lance")

    def _clear(self) -> None:
        """Write the table anew from itself where :meth:`_holds_removed`, since a merge leaves a file of which less than a tenth was removed as it is.
        Indexes have to be made again after it."""
        import pyarrow as pa

        table = self.opened()
        self._run(table.checkout_latest())
        if not self._holds_removed(table):
            return
        schema = self._run(table.schema())
        batches = self._run(table.query().select(schema.names).to_batches(max_batch_length=CLEARED_AT_ONCE))

        def rows() -> Iterator[pa.RecordBatch]:
            while (batch := self._run(next_of(batches))) is not None:
                yield pa.record_batch([batch[name] for name in schema.names], schema=schema)

        with self._whole(table):
            self._table = self.database.overwrite(self.name, rows(), schema)

    def _tidied(self, table: Any) -> None:
        from lancedb.index import FTS

        # A handle that missed another writer's commit fails with a conflict for ever.
        self._run(table.checkout_latest())
        with self._whole(table):
            rows, indices = self._run(table.count_rows()), self._run(table.list_indices())
            if rows > REMADE_FROM and self.database.local and self._grown(table):
                for name in _of_words(indices):
                    self._run(table.drop_index(name))
                indices = []
            # The version before may be an old one: it has to be there until what takes its place is known to be whole.
            self._run(table.optimize(cleanup_older_than=KEEP_ALL))
            if rows and not _of_words(indices):
                give_back_memory()
                self._run(table.create_index("searchable", config=FTS()))
        with self._whole(table):
            self._run(table.optimize(cleanup_older_than=self._unread(table)))
        # Nothing is left for this one but to remove, so that who wants to read waits for some milliseconds.
        with self.database.unread(KEEP_VERSIONS) as certain:
            if certain:
                self.database.run_alone(table.optimize(cleanup_older_than=KEEP_NONE), self.name)
        self._left_a_copy, self._merged_rows = not certain, rows

    def _unread(self, table: Any) -> timedelta:
        """The age from which on nobody can be reading a version, whoever reads now. Lance goes by when a version was made, but one made long ago may
        have been the latest until this moment: a search that began just before reads it."""
        keep, now = KEEP_VERSIONS if self.database.local else KEEP_ELSEWHERE, time.time()
        made = [version["timestamp"].timestamp() for version in self._run(table.list_versions())]
        if max(made) <= now - keep.total_seconds():
            # Lance never removes the latest.
            return keep
        latest_then = max((moment for moment in made if moment <= now - keep.total_seconds()), default=0.0)
        # Some time goes by until lance looks at its clock.
        return timedelta(seconds=now - latest_then + AT_REST_S)

    def index_vectors(self) -> index.Work:
        """Build, extend or drop the vector index where that pays, and tell what was done. Searches go on meanwhile; who wants to write waits."""
        with self.database.writing(self.name), little_memory():
            table = self.opened()
            if table is None:
                return "nothing"
            return self.database.again_after_conflicts(lambda: self._indexed(table))

    def _indexed(self, table: Any) -> index.Work:
        self._run(table.checkout_latest())
        with self._whole(table):
            done: index.Work = self._run(index.build(table, KEEP_ALL))
        return done

    def tidy(self) -> None:
        """:meth:`optimize` when it pays: the first time, when many small writes have piled up, and in the background when the vector index has to
        follow. What every addition and removal ends with."""
        table = self.opened()
        if table is None:
            return
        small, stale = self._heap(table)
        piled_up = small > MOST_SMALL_FILES and small > MOST_SMALL_FILES * self._patience(table)
        if piled_up or (stale and self._merged_long_ago()) or not _of_words(self._run(table.list_indices())):
            # Of a table elsewhere: other machines are tidying it, and what was added is there.
            with suppress(OvertakenError):
                self._compact()
        if self._run(index.pending(table)) != "nothing":
            self._background.start(self.label, self.index_vectors)
        self._tidy_later()

    def _patience(self, table: Any) -> int:
        """How many times :data:`MOST_SMALL_FILES` may pile up."""
        if time.monotonic() - self._merged_at >= KEEP_VERSIONS.total_seconds():
            return 1
        return IN_A_BURST if self._left_a_copy else min(max(self._run(table.count_rows()) // ROWS_A_HEAP, 1), IN_A_BURST)

    def _heap(self, table: Any) -> tuple[int, bool]:
        """How many small files there are, and whether much on the disk would not be needed."""
        stats = self._run(table.stats())
        folder, small = self.database.folder, stats["fragment_stats"]["num_small_fragments"]
        if not isinstance(folder, Path):
            return small, False
        with storage_errors(folder, self.name):
            return small, sound.stale(folder / f"{self.name}.lance", stats["total_bytes"], small)

    def _grown(self, table: Any) -> bool:
        """Whether so much came since the last merge that another one is worth the copy."""
        stats = self._run(table.stats())
        return grown(stats["num_rows"], stats["fragment_stats"]["lengths"]["max"], self._merged_rows)

    def _merged_long_ago(self) -> bool:
        """Whether what the last merge replaced, by whatever process, may be removed."""
        with storage_errors(self.database.folder, self.name):
            return time.time() - sound.last_merge(Path(self.database.folder) / f"{self.name}.lance") > KEEP_VERSIONS.total_seconds()

    def _tidy_later(self) -> None:
        """See to it that nothing old stays after the last write: once no reader can be using it any more."""
        if self.database.local:
            self._background.later(self.label, self._tidied_at_rest, KEEP_VERSIONS.total_seconds() + AT_REST_S)

    def _tidied_at_rest(self) -> None:
        table = self.opened()
        if table is None:
            return
        small, stale = self._heap(table)
        # Of one without a vector index it takes a second of processor time at most.
        cleared = not self._busy and self._run(table.count_rows()) < index.INDEX_FROM and self._holds_removed(table)
        if self._busy and not (small > MOST_SMALL_FILES and self._grown(table)):
            self._tidy_later()
        elif stale or cleared or small > MOST_SMALL_FILES:
            version = self._run(table.version())
            self._compact(cleared=cleared)
            # What has been merged now left a copy of its own. Nothing follows where nothing was merged, so this ends.
            if self._run(self.opened().version()) != version:
                self._tidy_later()

    def settle(self) -> None:
        """Wait until nothing is being done in the background."""
        self._background.wait()

    def let_go(self) -> None:
        """Do nothing later: nobody uses this any more. What is under way in the background, and whoever is still searching, goes on."""
        self._background.call_off()


def grown(rows: int, in_largest_file: int, merged: int) -> bool:
    """Whether of ``rows`` enough came since the last merge; ``merged`` is how many there were then, 0 where another process did it. The largest file
    tells as much in a table of up to a million rows: lance puts no more into one."""
    before = min(max(in_largest_file, merged), rows)
    return rows - before > WORTH_MERGING * before


def _of_words(indices: Iterable[Any]) -> list[str]:
    """The names of the word indexes."""
    return [one.name for one in indices if one.columns == ["searchable"]]
