"""The edge to LanceDB: importing it, connecting, what its errors mean, and one writer at a time."""

from __future__ import annotations

import importlib
import os
import random
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import timedelta
from errno import ENOSPC, ENOTDIR
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mdsa_local.errors import StorageError
from mdsa_local.knowledge.forked import refuse_forked, used
from mdsa_local.knowledge.locks import Readers, acquire
from mdsa_local.knowledge.place import located, own_folder
from mdsa_local.knowledge.searching import Memory
from mdsa_local.knowledge.thrift import MODEST
from mdsa_local.machine import available_cores
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

# Its own number, LANCE_IO_CORE_RESERVATION. On two cores a search of two tables with 100,000 rows takes 26 ms with both of them, 34 with one.
LANCE_RESERVES = 2

# By default lance tries for minutes to reach a server that is not there.
PATIENCE = {"connect_timeout": "5s", "client_max_retries": "2", "client_retry_timeout": "20"}
# What lance does not try again by itself, two machines that tidy at once. Between two attempts, each waits for a random time of up to so many
# seconds, doubled each time: both in step would meet again.
MOST_CONFLICTS, FIRST_WAIT_S = 7, 0.1

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
    # Who needs it imports it again, and meets the error. In a program that has ended meanwhile nobody does, and Python refuses new threads.
    with suppress(ImportError, RuntimeError):
        import_lancedb(trim=True)


def use_few_cores(cores: int) -> None:
    """Let lance compute on all cores where there are few: it leaves two to reading, and of two it would use one. It asks once."""
    if cores <= LANCE_RESERVES + 1:
        os.environ.setdefault("LANCE_CPU_THREADS", str(cores))


class OvertakenError(StorageError):
    """Another writer's commit was quicker; nothing of this one is kept."""


class Database:
    """LanceDB tables in a folder or at a URI. Nothing is imported, made or opened before it is needed; methods raise :class:`StorageError`, and all
    of them in a process forked after LanceDB had been used, see :mod:`forked`.

    ``folder`` is a path, or the URI of a place elsewhere, whose locks are in ``home``; see :func:`own_folder`. Tables are lancedb's
    ``AsyncTable``: its synchronous one needs twice the time for a search, and one search after the other.
    """

    def __init__(self, folder: Path | str, storage_options: Mapping[str, str] | None = None, home: Path | None = None) -> None:
        self.folder, self.home = folder, home
        self._options = dict(storage_options or {})
        self._lock = threading.Lock()
        self._connection: Any = None
        self.memory = Memory()
        self._readers = Readers(folder) if isinstance(folder, Path) else None

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine; what is elsewhere other machines may use too."""
        return isinstance(self.folder, Path)

    def run(self, work: Coroutine[Any, Any, T], table: str = "") -> T:
        """The result of ``work``, run on lancedb's own event loop. What it reads stays until it is done."""
        with self.reading():
            return self.run_alone(work, table)

    def run_alone(self, work: Coroutine[Any, Any, T], table: str = "") -> T:
        """As :meth:`run`, where :meth:`unread` keeps all readers out."""
        from lancedb.background_loop import LOOP

        with storage_errors(self.folder, table):
            return cast(T, LOOP.run(work))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the latest versions of all tables until the end of the block, for what reads with more than one :meth:`run`; see :mod:`locks`."""
        refuse_forked()
        with self._readers.reading() if self._readers else nullcontext():
            yield

    @contextmanager
    def unread(self, keep: timedelta) -> Iterator[bool]:
        """Whether it is certain that nobody on this machine reads any table, and nobody begins to until the end of the block. ``keep``: no read takes
        longer. False for what is elsewhere: other machines may read it."""
        if self._readers is None:
            yield False
            return
        with ExitStack() as held:
            with storage_errors(self.folder):
                certain = held.enter_context(self._readers.none(keep.total_seconds()))
            yield certain

    def names(self) -> tuple[str, ...]:
        """The tables there are, sorted."""
        refuse_forked()
        if isinstance(self.folder, Path):
            with storage_errors(self.folder):
                try:
                    # Unlike glob it tells of what cannot be read.
                    return tuple(sorted(path.stem for path in self.folder.iterdir() if path.suffix == ".lance"))
                except FileNotFoundError:
                    return ()
        connection = self._connect()

        async def work() -> list[str]:
            page = await connection.list_tables()
            names = list(page.tables)
            while page.page_token:
                page = await connection.list_tables(page_token=page.page_token)
                names += page.tables
            return names

        return tuple(sorted(self.run(work())))

    def has(self, name: str) -> bool:
        """Whether table ``name`` has a folder. Elsewhere always True: to ask costs as much as to open it, and nothing here drops a table."""
        refuse_forked()
        if not isinstance(self.folder, Path):
            return True
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

    def commits(self, name: str) -> object:
        """What is not the same any more once somebody, in whatever process, has committed to table ``name``: the list of its versions, which
        Lance keeps as files. To look takes 20 microseconds, and to ask LanceDB for the latest version twenty times that. None where that is not
        known, as elsewhere than in a folder."""
        if not isinstance(self.folder, Path):
            return None
        versions = self.folder / f"{name}.lance" / "_versions"
        try:
            with os.scandir(versions) as files:
                return versions.stat().st_mtime_ns, frozenset(file.name for file in files)
        except OSError:
            return None

    async def pinned(self, name: str, version: int) -> Any:
        """A handle of table ``name``, which was opened before, that stays at one version whatever is written; half a millisecond."""
        table = await self._connection.open_table(name)
        await table.checkout(version)
        return table

    def create(self, name: str, schema: pa.Schema) -> Any:
        """A new, empty table."""
        if self._readers and not self.names():
            with storage_errors(self.folder, name):
                self._readers.begin()
        # Another machine may be making it.
        return self.run(self._connect().create_table(name, schema=schema, exist_ok=not self.local), name)

    def overwrite(self, name: str, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Any:
        """Replace all of table ``name``, schema included, in one commit; the batches are never all in memory."""
        import pyarrow as pa

        data = pa.RecordBatchReader.from_batches(schema, batches)
        return self.run(self._connect().create_table(name, data=data, mode="overwrite"), name)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Be the only writer of table ``name``, among the threads and processes of this machine."""
        refuse_forked()
        folder = own_folder(self.folder, self.home)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / f"{name}.lock").open("ab")
        with file:
            with storage_errors(folder):
                acquire(file)
            yield

    def again_after_conflicts(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which is done again when a commit of another machine, which no lock holds back, was quicker. Raises
        :class:`OvertakenError` when others were quicker each time."""
        for attempt in range(0 if self.local else MOST_CONFLICTS):
            with suppress(OvertakenError):
                return work()
            time.sleep(random.uniform(0, FIRST_WAIT_S * 2**attempt))
        return work()

    def _connect(self) -> Any:
        used()
        with self._lock:
            if self._connection is None:
                use_few_cores(available_cores())
                for name, value in MODEST.items():
                    os.environ.setdefault(name, value)
                lancedb = import_lancedb()
                session = lancedb.Session(index_cache_size_bytes=INDEX_CACHE_BYTES, metadata_cache_size_bytes=METADATA_CACHE_BYTES)
                # Zero: every read sees what other processes wrote, for about half a millisecond.
                options = None if self.local else PATIENCE | self._options
                self._connection = self.run(
                    lancedb.connect_async(self.folder, read_consistency_interval=timedelta(0), storage_options=options, session=session)
                )
            return self._connection


def connect(place: Path | str, storage_options: Mapping[str, str] | None = None, home: Path | None = None) -> Database:
    """The tables in a folder or at a URI; ``storage_options`` are LanceDB's for that URI, and its locks are in ``home``, None for the default one.
    Raises :class:`ConfigError` for a URI it cannot use."""
    return Database(located(place), storage_options, home)


@contextmanager
def storage_errors(folder: Path | str, table: str = "") -> Iterator[None]:
    """Turn what the file system and lancedb raise into :class:`StorageError`. Only their calls belong inside."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"knowledge base in {folder}: {error.strerror or error}", _hint(error.errno, folder, table)) from error
    except (RuntimeError, ValueError) as error:
        # lancedb raises plain RuntimeError and ValueError; the operating system's number is only in their text.
        number = re.search(r"os error (\d+)", str(error))
        # The text ends in the place in lancedb's own source code.
        message = re.sub(r",? /\S+\.rs:\d+:\d+", "", str(error) if isinstance(folder, Path) else _said(str(error)))
        kind = OvertakenError if "conflict" in message.lower() else StorageError
        raise kind(f"knowledge base {table!r} in {folder}: {message}", _hint(int(number[1]) if number else None, folder, table)) from error


async def next_of(batches: AsyncIterator[Any]) -> Any:
    """The next of ``batches``, None after the last."""
    return await anext(batches, None)


def unfinished(folder: Path, table: str) -> StorageError:
    """The error for a write of which the disk took only a part; the operating system's own was lost on the way."""
    return StorageError(
        f"knowledge base {table!r} in {folder}: a file could not be written to its end, and nothing of this write is kept. No space left on the "
        "disk, or a limit on the size of files?",
        _hint(ENOSPC, folder, table),
    )


def _said(text: str) -> str:
    """What the server or the network said, which an object store's error carries deep inside; else the error as it is."""
    answer = re.search(r"status: (\d+).*?<Code>(.*?)</Code><Message>(.*?)</Message>", text, re.DOTALL)
    if answer:
        return f"the server answered {answer[1]}: {answer[2]}: {answer[3]}"
    cause = re.search(r'ConnectError\(.*?message: "(.*?)"', text, re.DOTALL) or re.search(r"(operation timed out|dns error[^\"]*)", text)
    return f"no connection: {cause[1]}" if cause else text


def _hint(number: int | None, folder: Path | str, table: str) -> str:
    if isinstance(folder, str):
        return "Check the network, the bucket and the credentials: the setting knowledge_storage_options, or the AWS_* variables for s3://."
    if number is not None:
        return "Free some space, fix the folder's permissions, or set MDSA_HOME to a writable folder."
    # lance does not always tell a full disk from damage: "failed to fill whole buffer".
    path = folder / f"{table}.lance"
    return (
        "The disk is full, or the table may be damaged. Where `mdsa kb check` says so, `mdsa kb check --repair` brings back the newest version that "
        f"can be read; where there is none, delete {path} and add its documents again: `mdsa kb add`."
    )
