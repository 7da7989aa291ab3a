"""A table and its versions: its handle, writes that the disk takes as a whole or not at all, and the way back to an earlier version."""

from __future__ import annotations

import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdsa_local.domains.config import NAME
from mdsa_local.errors import InputError, StorageError
from mdsa_local.knowledge import sound
from mdsa_local.knowledge.forked import refuse_forked
from mdsa_local.knowledge.lance import Database, storage_errors, unfinished


class Table:
    """The table ``name`` of a database; until something makes it there is none. ``label`` is what users know it by (default: the name)."""

    def __init__(self, database: Database, name: str, label: str | None = None) -> None:
        if not NAME.fullmatch(name):
            raise InputError(f"not a name for a knowledge base: {name!r}", "Use a-z, 0-9, _ and -, at most 64 characters.")
        self.database, self.name, self.label = database, name, label or name
        self._lock = threading.Lock()
        self._table: Any = None

    def opened(self) -> Any:
        """The table, or None as long as there is none."""
        refuse_forked()
        with self._lock:
            if not self.database.has(self.name):
                self._table = None
            elif self._table is None:
                self._table = self.database.open(self.name)
                if self._table is not None:
                    self._found()
            return self._table

    def _found(self) -> None:
        """Called when a table has been opened that was there."""

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.database.run(work, self.name)

    def read_all(self) -> None:
        """Read every row once. Raises :class:`StorageError` where a file is damaged."""
        table = self.opened()
        if table is None:
            return

        async def read() -> None:
            async for _ in await table.query().to_batches():
                pass

        self._run(read())

    def bring_back(self) -> str:
        """Make the newest version that has passages and can be read to its end the latest one; what was done, in words. Empty when there is none,
        as for a table whose every version is damaged."""
        with self.database.writing(self.name):
            table = self.opened()
            if table is None:
                return ""
            for version in sorted(self._run(table.list_versions()), key=lambda version: -int(version["version"])):
                rows = self._readable(version["version"])
                if rows:
                    self._return_to(version["version"])
                    return f"as it was at {version['timestamp']:%Y-%m-%d %H:%M:%S} again, {rows} passages; add again what came later"
        return ""

    def _readable(self, version: int) -> int:
        """How many rows of a version can be read; 0 where one cannot."""

        async def read() -> int:
            table = await self.database.pinned(self.name, version)
            rows = 0
            async for batch in await table.query().to_batches():
                rows += len(batch)
            return rows

        try:
            return int(self._run(read()))
        except StorageError:
            return 0

    @contextmanager
    def _whole(self, table: Any) -> Iterator[None]:
        """Keep what is committed inside only if the disk took all of it: else the version before stands again, and :class:`StorageError` is raised.
        Belongs inside ``writing``. An object store takes all of a file or nothing."""
        if not isinstance(self.database.folder, Path):
            yield
            return
        folder = self.database.folder / f"{self.name}.lance"
        with storage_errors(self.database.folder, self.name):
            version, known = self._run(table.version()), sound.files(folder)
        try:
            yield
        except StorageError:
            self._undo(folder, known, version)
            raise
        if self._undo(folder, known, version):
            raise unfinished(self.database.folder, self.name)

    def _undo(self, folder: Path, known: set[Path], version: int) -> bool:
        """Go back to ``version`` if one of the files that came after those ``known`` was cut short; whether it was so."""
        with storage_errors(self.database.folder, self.name):
            cut = sound.cut_short(sound.files(folder) - known)
            # Nobody can read them, and the version before needs some room to be written.
            for path in cut:
                path.unlink()
        if cut:
            self._return_to(version)
        return bool(cut)

    def _return_to(self, version: int) -> None:
        table = self.database.open(self.name)
        with self._lock:
            self._table = None
        if self._run(table.version()) != version:
            self._run(table.checkout(version))
            self._run(table.restore())
