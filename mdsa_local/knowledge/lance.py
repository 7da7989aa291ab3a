"""The edge to LanceDB: importing it, connecting, what its errors mean, and one writer at a time."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from errno import ENOTDIR
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from mdsa_local.errors import StorageError
from mdsa_local.knowledge.searching import Memory
from mdsa_local.trimming import Trim, trimmed

if TYPE_CHECKING:
    import pyarrow as pa

# lancedb 0.40 imports these for catalogues over HTTP, remote tables, cloud file systems and functions that a server runs; a local table touches none
# of them, nor any provider of embeddings or rankings. They are two thirds of its import time and 30 MB of memory. Arrow's functions, 35 ms, are
# needed to make and fill a table, not to search. Before Python 3.12, which brings an `override` that does nothing, lancedb's compares the signatures
# of some hundred methods, 50 ms.
TRIM = Trim(
    unused=("lance_namespace_urllib3_client", "lancedb.functions", "lancedb.namespace", "lancedb.remote.db", "pyarrow.dataset", "pyarrow.fs"),
    providers={"lancedb.embeddings": ("base", "registry", "utils"), "lancedb.rerankers": ("base", "rrf", "util")},
    later=("pyarrow.compute",),
    checks=("overrides",),
)

# The defaults, 6 GB and 1 GB, are meant for servers.
INDEX_CACHE_BYTES, METADATA_CACHE_BYTES = 64 << 20, 32 << 20

T = TypeVar("T")

_import_lock = threading.Lock()


def import_lancedb(trim: bool = False) -> Any:
    """The module ``lancedb``. ``trim`` leaves out :data:`TRIM`, for a program that owns its process and opens local tables only."""
    with _import_lock:
        if not trim or "lancedb" in sys.modules:
            return importlib.import_module("lancedb")
        with trimmed(TRIM):
            return importlib.import_module("lancedb")


def import_ahead() -> threading.Thread:
    """Import a trimmed ``lancedb`` on a thread of its own, while this one does something else. Whoever needs it waits for the rest."""
    thread = threading.Thread(target=_import_quietly, name="import-lancedb")
    thread.start()
    return thread


def _import_quietly() -> None:
    # Who needs it imports it again, and meets the error.
    with suppress(ImportError):
        import_lancedb(trim=True)


class Database:
    """A folder of LanceDB tables. Nothing is imported, made or opened before it is needed; methods raise :class:`StorageError`.

    Tables are lancedb's ``AsyncTable``: its synchronous one needs twice the time for a search, and one search after the other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._connection: Any = None
        self.memory = Memory()

    def run(self, work: Coroutine[Any, Any, T], table: str = "") -> T:
        """The result of ``work``, run on lancedb's own event loop."""
        from lancedb.background_loop import LOOP

        with storage_errors(self.folder, table):
            return cast(T, LOOP.run(work))

    def names(self) -> tuple[str, ...]:
        """The tables there are, sorted."""
        with storage_errors(self.folder):
            return tuple(sorted(path.stem for path in self.folder.glob("*.lance")))

    def has(self, name: str) -> bool:
        """Whether table ``name`` has a folder."""
        with storage_errors(self.folder):
            if self.folder.exists() and not self.folder.is_dir():
                raise NotADirectoryError(ENOTDIR, "not a folder")
            return (self.folder / f"{name}.lance").is_dir()

    def open(self, name: str) -> Any:
        """Table ``name``, or None when there is none."""
        if not self.has(name):
            return None
        connection = self._connect()

        async def work() -> Any:
            try:
                return await connection.open_table(name)
            except ValueError as error:
                # A crash between making the folder and the first commit leaves a folder without a table; creating it works.
                if "was not found" in str(error):
                    return None
                raise

        return self.run(work(), name)

    async def pinned(self, name: str, version: int) -> Any:
        """A handle of table ``name``, which was opened before, that stays at one version whatever is written; half a millisecond."""
        table = await self._connection.open_table(name)
        await table.checkout(version)
        return table

    def create(self, name: str, schema: pa.Schema) -> Any:
        """A new, empty table."""
        return self.run(self._connect().create_table(name, schema=schema), name)

    def overwrite(self, name: str, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Any:
        """Replace all of table ``name``, schema included, in one commit; the batches are never all in memory."""
        import pyarrow as pa

        data = pa.RecordBatchReader.from_batches(schema, batches)
        return self.run(self._connect().create_table(name, data=data, mode="overwrite"), name)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Be the only writer of table ``name``, among threads and processes."""
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / f"{name}.lock").open("ab")
        with file:
            with storage_errors(self.folder):
                _acquire(file)
            yield

    def _connect(self) -> Any:
        with self._lock:
            if self._connection is None:
                lancedb = import_lancedb()
                session = lancedb.Session(index_cache_size_bytes=INDEX_CACHE_BYTES, metadata_cache_size_bytes=METADATA_CACHE_BYTES)
                # Zero: every read sees what other processes wrote, for about half a millisecond.
                self._connection = self.run(lancedb.connect_async(self.folder, read_consistency_interval=timedelta(0), session=session))
            return self._connection


def connect(path: Path) -> Database:
    """The tables in folder ``path``."""
    return Database(path)


if sys.platform == "win32":
    import msvcrt
    import time

    def _acquire(file: IO[bytes]) -> None:
        file.seek(0)
        while True:
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except PermissionError:
                time.sleep(0.05)
else:
    import fcntl

    def _acquire(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def storage_errors(folder: Path, table: str = "") -> Iterator[None]:
    """Turn what the file system and lancedb raise into :class:`StorageError`. Only their calls belong inside."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"knowledge base in {folder}: {error.strerror or error}", _hint(error.errno, folder, table)) from error
    except (RuntimeError, ValueError) as error:
        # lancedb raises plain RuntimeError and ValueError; the operating system's number is only in their text.
        number = re.search(r"os error (\d+)", str(error))
        # The text ends in the place in lancedb's own source code.
        message = re.sub(r",? /\S+\.rs:\d+:\d+", "", str(error))
        raise StorageError(f"knowledge base {table!r} in {folder}: {message}", _hint(int(number[1]) if number else None, folder, table)) from error


def _hint(number: int | None, folder: Path, table: str) -> str:
    if number is not None:
        return "Free some space, fix the folder's permissions, or set MDSA_HOME to a writable folder."
    return f"The table may be damaged: delete {folder / f'{table}.lance'} and add its documents again with `mdsa kb add`."
