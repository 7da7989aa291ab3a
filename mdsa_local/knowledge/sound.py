"""The files of a table in a folder: which were cut short, and how many bytes no longer belong to it.

LanceDB 0.40 commits a data file even where the disk took only the first part of it (seen with a limit on the size of files): the error of the last
write is lost, the commit succeeds, and from then on no read of the table does. A Lance file ends in its table of contents and four known letters, so
a look at its end tells.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

ENDING = b"LANC"
# What a file of one row takes beside its row, with its part of the versions since the last merge: 21 of them took 134 kB.
SMALL_FILE_BYTES = 6000
# Less than this beside the data that is live is not worth writing all of it again.
WORTH_REMOVING = 0.25


def files(table: Path) -> set[Path]:
    """The data and index files there are, those of earlier versions and of interrupted writes too."""
    return set(_lance_files(table / "data")) | {path for folder in _entries(table / "_indices") for path in _lance_files(Path(folder.path))}


def cut_short(paths: Iterable[Path]) -> list[Path]:
    """Those that were not written to their end."""
    return [path for path in paths if not _has_ending(path)]


def stale(table: Path, live_bytes: int, n_small: int = 0) -> bool:
    """Whether a noticeable part of what is on disk belongs to earlier versions, or would not be there if the ``n_small`` small files were one;
    ``live_bytes`` is what the latest has."""
    avoidable = SMALL_FILE_BYTES * max(0, n_small - 1)
    return sum(stat.st_size for stat in _stats(table / "data")) + avoidable > (1 + WORTH_REMOVING) * live_bytes


def any_removed(table: Path) -> bool:
    """Whether there are lists of removed rows, of whatever version."""
    return bool(_entries(table / "_deletions"))


def last_merge(table: Path) -> float:
    """When the largest data file was written, which is what small ones were last merged into; seconds since 1970, 0 where there is none."""
    largest = max(_stats(table / "data"), key=lambda stat: stat.st_size, default=None)
    return largest.st_mtime if largest else 0.0


def _lance_files(folder: Path) -> Iterator[Path]:
    return (Path(entry.path) for entry in _entries(folder) if entry.name.endswith(".lance"))


def _stats(folder: Path) -> Iterator[os.stat_result]:
    for entry in _entries(folder):
        # Another process may be removing what is old.
        with suppress(FileNotFoundError):
            yield entry.stat()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _has_ending(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(ENDING)))
        return file.read() == ENDING
