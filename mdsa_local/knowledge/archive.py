"""Knowledge bases as one file: a backup, or a way to another machine.

The file is a zip without compression, so that it cannot grow when it is read. Members are numbered, never named after anything stored:

    0/00000.jsonl    passages of the first knowledge base, one JSON object a line
    0/00000.f32      their vectors, little-endian float32, one after the other
    ...
    manifest.json    format and version; of each knowledge base its domain, encoder and parts with their sha256

It can be read without this program, and reading it runs no parser but those of zip and JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mdsa_local.domains.config import NAME
from mdsa_local.durable import on_disk
from mdsa_local.errors import InputError
from mdsa_local.settings import explain, storage_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT, VERSION = "mdsa-knowledge", 1
MANIFEST = "manifest.json"
PART_PASSAGES = 2048
# Bounds on what an archive may make this program hold in memory: a passage, the manifest, the directory of the zip (of 70,000 parts).
MAX_LINE_BYTES, MAX_MANIFEST_BYTES, MAX_DIRECTORY_BYTES = 64 << 20, 64 << 20, 16 << 20

Count = Annotated[int, Field(ge=0, strict=True)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Heard = Callable[[int, int], None]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Strict):
    """A passage as it is stored, without its vector. ``metadata`` is JSON text."""

    id: str
    document: str
    source: str
    hash: str
    title: str
    text: str
    metadata: str
    start: Count
    end: Count


class Part(_Strict):
    """Some passages: their number, and the sha256 of both members."""

    passages: Count
    rows_sha256: Digest
    vectors_sha256: Digest


class Archived(_Strict):
    """A knowledge base in an archive. ``domain`` None is the shared one; ``fingerprint`` and ``width`` are its encoder's."""

    domain: Annotated[str, Field(pattern=f"^{NAME.pattern}$")] | None
    fingerprint: str
    width: Annotated[int, Field(ge=1, le=65_536, strict=True)]
    documents: Count
    passages: Count
    parts: tuple[Part, ...]


class Manifest(_Strict):
    """What an archive holds."""

    format: Literal["mdsa-knowledge"]
    version: Literal[1]
    made_by: str
    made_at: datetime
    knowledge_bases: tuple[Archived, ...]


@contextmanager
def writing(path: Path, made_by: str) -> Iterator[Writer]:
    """An archive that appears under ``path`` when all of it is on the disk, readable by its owner alone, and not at all after an error.

    Raises :class:`InputError` when there is something of that name, and :class:`StorageError`.
    """
    taken = InputError(f"{path}: there is already something of this name", "Name another file, or remove it first.")
    temporary: Path | None = None
    try:
        if path.exists():
            raise taken
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".partial", delete=False) as file:
            temporary = Path(file.name)
            with zipfile.ZipFile(file, "w") as archive:
                writer = Writer(archive)
                yield writer
                writer.finish(made_by)
            file.flush()
            on_disk(file.fileno())
        try:
            # Unlike a renaming it fails where something of the name came meanwhile.
            path.hardlink_to(temporary)
        except FileExistsError:
            raise taken from None
        except (OSError, NotImplementedError):
            # Not every disk has links.
            temporary.replace(path)
    except OSError as error:
        raise storage_error(error, path) from None
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


class Writer:
    """Puts knowledge bases into an archive, see :func:`writing`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.knowledge_bases: list[Archived] = []

    def put(self, domain: str | None, fingerprint: str, width: int, parts: Iterator[tuple[list[dict[str, Any]], NDArray[np.float32]]]) -> Archived:
        """Add a knowledge base: its rows, with the keys of :class:`Row`, and ``(n, width) float32`` vectors, some at a time."""
        number, found = len(self.knowledge_bases), list[Part]()
        documents: set[str] = set()
        for at, (rows, vectors) in enumerate(parts):
            documents.update(row["document"] for row in rows)
            lines = [Row.model_validate(row).model_dump_json().encode() + b"\n" for row in rows]
            if max(map(len, lines)) > MAX_LINE_BYTES:
                raise InputError(f"a passage of {domain or 'global'} is larger than an archive may hold, {MAX_LINE_BYTES >> 20} MB", "Shorten it.")
            name = f"{number}/{at:05}"
            digests = [self._member(f"{name}.{kind}", data) for kind, data in (("jsonl", b"".join(lines)), ("f32", vectors.astype("<f4").tobytes()))]
            found.append(Part(passages=len(rows), rows_sha256=digests[0], vectors_sha256=digests[1]))
        passages = sum(part.passages for part in found)
        archived = Archived(domain=domain, fingerprint=fingerprint, width=width, documents=len(documents), passages=passages, parts=tuple(found))
        self.knowledge_bases.append(archived)
        return archived

    def finish(self, made_by: str) -> None:
        """Write the manifest."""
        manifest = Manifest(format=FORMAT, version=VERSION, made_by=made_by, made_at=datetime.now(UTC), knowledge_bases=tuple(self.knowledge_bases))
        self._member(MANIFEST, manifest.model_dump_json(indent=1).encode())

    def _member(self, name: str, data: bytes) -> str:
        # A ZipInfo of its own has no time: the same knowledge makes the same bytes.
        self._archive.writestr(zipfile.ZipInfo(name), data)
        return hashlib.sha256(data).hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """An archive whose every byte has been verified. Raises :class:`InputError` for what is no archive, damaged, or made to do harm."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}", "Check the path.") from None
    with file:
        try:
            _bounded(file)
            with zipfile.ZipFile(file) as archive:
                reader = Reader(archive, os.fstat(file.fileno()).st_size)
                reader.verify()
                yield reader
        except (_BadArchiveError, zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{path} is not a usable archive: {error}", "Make one with `mdsa kb export`, and copy it whole.") from None


class _BadArchiveError(Exception):
    """Why an archive cannot be used."""


class Reader:
    """Takes knowledge bases out of an archive, see :func:`reading`."""

    def __init__(self, archive: zipfile.ZipFile, size_bytes: int) -> None:
        self._archive = archive
        infos = archive.infolist()
        for info in infos:
            # What is stored as it is cannot grow, and what does not share bytes cannot either.
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
                raise _BadArchiveError(f"{info.filename!r} is compressed or encrypted")
        if sum(info.file_size for info in infos) > size_bytes:
            raise _BadArchiveError("its members overlap")
        self.manifest = self._read_manifest()
        expected = [
            MANIFEST,
            *(f"{name}.{kind}" for at, base in enumerate(self.manifest.knowledge_bases) for name in _names(at, base) for kind in ("jsonl", "f32")),
        ]
        names = [info.filename for info in infos]
        if sorted(names) != sorted(expected):
            odd = sorted(set(names) ^ set(expected)) or ["a name twice"]
            raise _BadArchiveError(f"its members are not those of its manifest: {odd[0]!r}")
        domains = [base.domain for base in self.manifest.knowledge_bases]
        if len(set(domains)) < len(domains):
            raise _BadArchiveError("it holds a knowledge base twice")

    def verify(self) -> None:
        """Check every digest, and that every passage and vector can be stored."""
        for at, base in enumerate(self.manifest.knowledge_bases):
            seen: set[int] = set()
            for name, part in zip(_names(at, base), base.parts, strict=True):
                for kind, digest in (("jsonl", part.rows_sha256), ("f32", part.vectors_sha256)):
                    with self._archive.open(f"{name}.{kind}") as member:
                        if hashlib.file_digest(member, "sha256").hexdigest() != digest:  # type: ignore[arg-type]
                            raise _BadArchiveError(f"{name}.{kind} is damaged: its sha256 is not the one in the manifest")
                seen.update(hash(row.id) for row in self._rows(f"{name}.jsonl", part))
                self._vectors(f"{name}.f32", part, base.width)
            if not len(seen) == base.passages == sum(part.passages for part in base.parts):
                raise _BadArchiveError(f"it holds {len(seen)} different passages of {base.domain or 'global'}, its manifest says {base.passages}")

    def parts(self, base: Archived) -> Iterator[tuple[list[Row], NDArray[np.float32]]]:
        """The passages of a knowledge base with ``(n, width) float32, unit length`` vectors, some at a time."""
        at = self.manifest.knowledge_bases.index(base)
        for name, part in zip(_names(at, base), base.parts, strict=True):
            yield list(self._rows(f"{name}.jsonl", part)), self._vectors(f"{name}.f32", part, base.width)

    def _read_manifest(self) -> Manifest:
        try:
            info = self._archive.getinfo(MANIFEST)
        except KeyError:
            raise _BadArchiveError("it has no manifest") from None
        if info.file_size > MAX_MANIFEST_BYTES:
            raise _BadArchiveError("its manifest is too large")
        data = self._archive.read(info)
        try:
            return Manifest.model_validate_json(data)
        except ValidationError as error:
            raise _BadArchiveError(f"its manifest: {explain(error)}") from None

    def _rows(self, name: str, part: Part) -> Iterator[Row]:
        with self._archive.open(name) as member:
            for number in range(1, part.passages + 1):
                line = member.readline(MAX_LINE_BYTES)
                try:
                    row = Row.model_validate_json(line)
                except ValidationError as error:
                    raise _BadArchiveError(f"{name}, line {number}: {explain(error)[:200]}") from None
                if not row.id.startswith(f"{row.document}#") or row.start > row.end or not _is_object(row.metadata):
                    raise _BadArchiveError(f"{name}, line {number}: not a passage of its document")
                yield row
            if member.read(1):
                raise _BadArchiveError(f"{name} holds more passages than its manifest says")

    def _vectors(self, name: str, part: Part, width: int) -> NDArray[np.float32]:
        import numpy as np

        if part.passages > PART_PASSAGES or self._archive.getinfo(name).file_size != 4 * part.passages * width:
            raise _BadArchiveError(f"{name} is not as long as its manifest says")
        vectors = np.frombuffer(self._archive.read(name), "<f4").astype(np.float32).reshape(part.passages, width)
        # NaN is no number near 1.
        if not np.all(np.abs(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64) - 1.0) < 1e-2):
            raise _BadArchiveError(f"{name}: a vector is not of unit length")
        return vectors


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _names(at: int, base: Archived) -> Sequence[str]:
    return [f"{at}/{number:05}" for number in range(len(base.parts))]


def _bounded(file: IO[bytes]) -> None:
    """Refuse a zip whose directory would fill the memory. Both its end record and the one for large files name its size."""
    file.seek(0, os.SEEK_END)
    file.seek(max(file.tell() - 98, 0))
    tail = file.read().rjust(98, b"\0")
    if tail[76:80] != b"PK\5\6":
        raise _BadArchiveError("it is no zip, or not whole")
    sizes = [int.from_bytes(tail[88:92], "little")]
    if tail[56:60] == b"PK\6\7":
        sizes = [int.from_bytes(tail[40:48], "little"), sizes[0] if sizes[0] != 0xFFFFFFFF else 0]
    if max(sizes) > MAX_DIRECTORY_BYTES:
        raise _BadArchiveError("its directory is too large")
    file.seek(0)
