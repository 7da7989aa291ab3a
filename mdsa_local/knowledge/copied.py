"""A large table's rows in two files of this process: what searches show of them, and their vectors.

LanceDB takes 1.3 to 3 ms of processor time to read some rows by their ids, most of it for planning and column by column, however few they are. From
these files it takes a tenth of that. They are read and not mapped: what of them is in memory is the system's file cache, which gives way to
what others need. They lie beside the tables, have no name there, and are gone with the process, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

# A table is copied once it was searched so often, unchanged, that it would have paid: for 100,000 rows, a second of processor
# time, after 100 searches.
ROWS_A_SEARCH = 1000
# Of a table, and of what is free on the disk.
MOST_BYTES, MOST_OF_FREE = 1 << 30, 0.1
# Rows that are read at once to show one of them, and rows copied at once.
PIECE, PART = 64, 512


class Copy:
    """Rows by their ids, in ``folder``. Filled by :meth:`add`, and complete after :meth:`finish`; threads may share it then.

    Raises :class:`OSError` when the disk fails.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._vectors, self._stored = _File(folder), _File(folder)
        self._parts: list[NDArray[np.int64]] = []
        # Of each piece the place of its first row.
        self._firsts: list[int] = []
        self._begins = [0]
        self._count, self._width = 0, 0

    def add(self, batch: pa.RecordBatch, vectors: NDArray[np.float32]) -> int:
        """Rows with all columns of the schema, ``_rowid`` among them, and their vectors ``(n, width) float32``; how many bytes there are by now."""
        self._width = vectors.shape[1]
        self._vectors.append(vectors.tobytes())
        self._parts.append(batch["_rowid"].to_numpy().astype("int64"))
        stored = batch.select(self._schema.names)
        for start in range(0, len(batch), PIECE):
            self._firsts.append(self._count + start)
            self._begins.append(self._begins[-1] + self._stored.append(stored.slice(start, PIECE).serialize()))
        self._count += len(batch)
        return self._begins[-1] + self._count * self._width * vectors.itemsize

    def finish(self) -> None:
        """Nothing is added any more."""
        import numpy as np

        for file in (self._vectors, self._stored):
            file.finish()
        rows = np.concatenate([np.empty(0, np.int64), *self._parts])
        self._order = np.argsort(rows, kind="stable")
        self._rows = rows[self._order]
        self._parts.clear()

    def cosines(self, rows: Sequence[int], vector: NDArray[np.float32]) -> dict[int, float]:
        """The cosines of rows with a vector ``(width,) float32``, all of unit length."""
        import numpy as np

        size = self._width * vector.itemsize
        found = b"".join([self._vectors.read(place * size, size) for place in self._places(rows)])
        return dict(zip(rows, (np.frombuffer(found, np.float32).reshape(-1, self._width) @ vector).tolist(), strict=True))

    def fetch(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What is stored in rows, by row id."""
        return {row: self._row(place) for row, place in zip(rows, self._places(rows), strict=True)}

    def _places(self, rows: Sequence[int]) -> list[int]:
        places: list[int] = self._order[self._rows.searchsorted(rows)].tolist()
        return places

    def _row(self, place: int) -> dict[str, Any]:
        import pyarrow as pa

        piece = bisect_right(self._firsts, place) - 1
        begin = self._begins[piece]
        batch = pa.ipc.read_record_batch(pa.py_buffer(self._stored.read(begin, self._begins[piece + 1] - begin)), self._schema)
        row: dict[str, Any] = batch.slice(place - self._firsts[piece], 1).to_pylist()[0]
        return row


class _File:
    """A file without a name, written once and then read at any place by any thread."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as this is used
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()

    def append(self, data: Any) -> int:
        """Write what has a buffer; how many bytes it was."""
        return self._file.write(data)

    def finish(self) -> None:
        self._file.flush()

    def read(self, begin: int, size: int) -> bytes:
        if sys.platform != "win32":
            return os.pread(self._file.fileno(), size, begin)
        with self._lock:
            self._file.seek(begin)
            return self._file.read(size)


async def copied(table: Any, columns: Sequence[str], folder: Path, wanted: Callable[[], bool]) -> Copy | None:
    """A copy of a table that stays at one version; None when it would take more than :data:`MOST_BYTES` or :data:`MOST_OF_FREE`, or is not
    ``wanted`` any more, which is asked now and then. Raises :class:`OSError` when the disk fails."""
    import pyarrow as pa

    schema = await table.schema()
    copy = Copy(folder, pa.schema([*(schema.field(name) for name in columns), pa.field("_rowid", pa.uint64())]))
    most = min(MOST_BYTES, int(shutil.disk_usage(folder).free * MOST_OF_FREE))
    loop = asyncio.get_running_loop()
    async for batch in await table.query().select([*columns, "vector"]).with_row_id().to_batches(max_batch_length=PART):
        if not wanted() or await loop.run_in_executor(None, copy.add, batch, matrix(batch["vector"])) > most:
            return None
    copy.finish()
    return copy


def matrix(vectors: pa.FixedSizeListArray) -> NDArray[np.float32]:
    """``(n, width)`` float32. Arrow's own ``flatten`` would import all its functions, 35 ms of a start."""
    width = vectors.type.list_size
    found: NDArray[np.float32] = vectors.values.to_numpy().reshape(-1, width)[vectors.offset : vectors.offset + len(vectors)]
    return found
