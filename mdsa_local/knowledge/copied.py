"""A large table in files of this process, so that a search in it need not ask LanceDB: its vectors, its words, and what searches show of its rows.

LanceDB takes 1.2 to 3 ms of processor time for whatever it is asked, to find the nearest, to find words, to read vectors or rows by their ids, most
of it for planning. What takes much is mapped into memory, where it is the system's file cache, which gives way to what others need. The files lie
beside the tables, have no name there, and are gone with the process, however it ends.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import shutil
import sys
import tempfile
import threading
import time
import weakref
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mdsa_local.knowledge.nearest import SAMPLE, block, leading_axes, nearest, turned
from mdsa_local.knowledge.wording import Tokenize, WordReader, Words, searchable
from mdsa_local.threads import Threads

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

# A table is copied once it was searched so often, unchanged: one of 100,000 rows after 100 searches. That takes 6 to 8 seconds of processor time, and
# 500 further searches to have paid.
ROWS_A_SEARCH = 1000
# Of a table, and of what is free on the disk.
MOST_BYTES, MOST_OF_FREE = 3 << 29, 0.1
# Rows copied at once.
PART = 256
# Beside lancedb's event loop.
ADDING = Threads(1, "mdsa-copy")


class Copy:
    """Rows by their ids, in ``folder``: the values of ``columns``, their vectors, and, with ``tokenize``, the words of ``title`` and ``text``. Filled
    by :meth:`add`, and complete after :meth:`finish`; threads may share it then.

    Raises :class:`OSError` when the disk fails.
    """

    def __init__(self, folder: Path, columns: Sequence[str], tokenize: Tokenize | None = None) -> None:
        self._folder, self._columns = folder, [*columns, "_rowid"]
        self._files: list[_File] = []
        self._vectors, self._stored = self._column("float32"), self._file()
        self._reader = WordReader(tokenize, self._column) if tokenize else None
        self._parts: list[NDArray[np.int64]] = []
        self._begins = array("q", [0])
        self.words: Words | None = None

    def _file(self) -> _File:
        self._files.append(_File(self._folder))
        return self._files[-1]

    def _column(self, kind: str) -> _Column:
        return _Column(self._file(), kind)

    def add(self, batch: pa.RecordBatch, vectors: NDArray[np.float32]) -> int:
        """Rows with all columns, ``_rowid`` among them, and their vectors ``(n, width) float32``; how many bytes there are by now."""
        self._vectors.append(vectors)
        self._parts.append(batch["_rowid"].to_numpy().astype("int64"))
        values = {name: batch[name].to_pylist() for name in self._columns}
        for row in zip(*values.values(), strict=True):
            self._begins.append(self._begins[-1] + self._stored.append(json.dumps(row, ensure_ascii=False).encode()))
        if self._reader:
            self._reader.add(list(map(searchable, values["title"], values["text"])))
        return sum(file.size_bytes for file in self._files)

    def finish(self) -> None:
        """Nothing is added any more."""
        import numpy as np

        self._stored.finish()
        rows = np.concatenate([np.empty(0, np.int64), *self._parts])
        self._order = np.argsort(rows, kind="stable")
        self._rows, self._sorted = rows, rows[self._order]
        self._matrix = self._vectors.whole().reshape(len(rows), -1)
        self._axes = leading_axes(self._matrix[:: len(rows) // SAMPLE + 1])
        heads, size = self._column("float32"), block(len(rows), self._axes.shape[1])
        for start in range(0, len(rows), size):
            heads.append(turned(self._matrix[start : start + size] @ self._axes, size))
        self._heads = heads.whole().reshape(-1, self._axes.shape[1], size)
        self.words = self._reader.finish() if self._reader else None
        # What the words were gathered in goes.
        self._reader = None
        self._parts.clear()
        self._files.clear()

    def nearest(self, vector: NDArray[np.float32], limit: int, others: Sequence[int] = ()) -> dict[int, float]:
        """Row ids with their cosines with a vector ``(width,) float32``, nearest first, see :func:`~mdsa_local.knowledge.nearest.nearest`; after them
        those of ``others`` that are not among them."""
        places, cosines = nearest(vector, self._axes, self._heads, self._matrix, limit)
        found = dict(zip(self._rows[places].tolist(), cosines.tolist(), strict=True))
        return found | self.cosines([row for row in others if row not in found], vector)

    def by_words(self, words: Words, text: str, limit: int) -> list[tuple[int, float]]:
        """Row ids with their BM25 scores, best first."""
        return [(int(self._rows[place]), score) for place, score in words.best(text, limit)]

    def cosines(self, rows: Sequence[int], vector: NDArray[np.float32]) -> dict[int, float]:
        """The cosines of rows with a vector ``(width,) float32``, all of unit length."""
        return dict(zip(rows, (self._matrix[self._places(rows)] @ vector).tolist(), strict=True))

    def fetch(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What is stored in rows, by row id."""
        return {row: self._row(place) for row, place in zip(rows, self._places(rows), strict=True)}

    def _places(self, rows: Sequence[int]) -> list[int]:
        places: list[int] = self._order[self._sorted.searchsorted(rows)].tolist()
        return places

    def _row(self, place: int) -> dict[str, Any]:
        begin = self._begins[place]
        return dict(zip(self._columns, json.loads(self._stored.read(begin, self._begins[place + 1] - begin)), strict=True))


class _File:
    """A file without a name, written once and then read at any place by any thread."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as this is used
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self.size_bytes = 0

    def append(self, data: Any) -> int:
        """Write what has a buffer; how many bytes it was."""
        written = self._file.write(data)
        self.size_bytes += written
        return written

    def finish(self) -> None:
        self._file.flush()

    def read(self, begin: int, size: int) -> bytes:
        if sys.platform != "win32":
            return os.pread(self._file.fileno(), size, begin)
        with self._lock:
            self._file.seek(begin)
            return self._file.read(size)

    def mapped(self) -> mmap.mmap:
        """All of it, which stays as long as this; the file itself is closed."""
        with self._file:
            self._file.flush()
            return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)


class _Column:
    """A :class:`~mdsa_local.knowledge.wording.Column` in a file."""

    def __init__(self, file: _File, kind: str) -> None:
        self._file, self._kind = file, kind

    def append(self, numbers: NDArray[Any]) -> None:
        self._file.append(numbers.astype(self._kind).tobytes())

    def whole(self) -> NDArray[Any]:
        import numpy as np

        return np.frombuffer(self._file.mapped() if self._file.size_bytes else b"", self._kind)


async def copied(table: Any, columns: Sequence[str], folder: Path, wanted: Callable[[], bool], tokenize: Tokenize | None = None) -> Copy | None:
    """A copy, to be finished, of a table that stays at one version; None when it would take more than :data:`MOST_BYTES` or :data:`MOST_OF_FREE`, or
    is not ``wanted`` any more, which is asked now and then. Raises :class:`OSError` when the disk fails."""
    copy = Copy(folder, columns, tokenize)
    most = min(MOST_BYTES, int(shutil.disk_usage(folder).free * MOST_OF_FREE))
    async for batch in await table.query().select([*columns, "vector"]).with_row_id().to_batches(max_batch_length=PART):
        began = time.perf_counter()
        if not wanted() or await asyncio.wrap_future(ADDING.submit(partial(copy.add, batch, matrix(batch["vector"])))) > most:
            return None
        # Searches need Python's lock, too.
        await asyncio.sleep(time.perf_counter() - began)
    return copy


def matrix(vectors: pa.FixedSizeListArray) -> NDArray[np.float32]:
    """``(n, width)`` float32. Arrow's own ``flatten`` would import all its functions, 35 ms of a start."""
    width = vectors.type.list_size
    found: NDArray[np.float32] = vectors.values.to_numpy().reshape(-1, width)[vectors.offset : vectors.offset + len(vectors)]
    return found
