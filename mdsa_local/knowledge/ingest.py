"""Files into a knowledge base, incrementally: only what is new or changed is split into chunks and embedded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mdsa_local.knowledge.chunking import chunk
from mdsa_local.knowledge.store import Document, Entry, KnowledgeBase
from mdsa_local.settings import shipped

# Suffix to whether the text is Markdown.
TYPES = {".md": True, ".markdown": True, ".txt": False}
# Documents are committed together until they have this many chunks: every commit makes files and a version.
COMMIT_CHUNKS = 512

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingestion did, as document ids; ``failed`` holds ``(path, reason)``."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    root: Path
    source: str


class _EmptyFileError(ValueError):
    """The file has no text that could be searched."""


def ingest(knowledge_base: KnowledgeBase, paths: Iterable[Path | str], progress: Progress | None = None, *, follow_deletes: bool = False) -> Report:
    """Bring files, and folders with all below them, into the knowledge base.

    A document's id is its path relative to the folder given, with that folder's name in front where two files would share an id. A file
    whose content is known by its hash costs nothing more than reading it. A file that cannot be used is reported, and what was stored of it
    stays. ``follow_deletes`` also removes documents whose file in a given folder is gone or empty. ``progress`` hears ``(source, files done,
    files in all)`` before each file and ``("", all, all)`` at the end. Raises :class:`StorageError`; running it again completes the work.
    """
    failed: list[tuple[str, str]] = []
    roots = [Path(path).expanduser().resolve() for path in paths]
    files = list({file.source: file for file in _files(roots, failed)}.values())
    stored = {document.source: document for document in knowledge_base.documents()}
    taken = {document.document for document in stored.values()}
    empty: set[str] = set()
    groups: dict[str, list[str]] = {"added": [], "changed": [], "unchanged": []}
    pending: list[Entry] = []
    for done, file in enumerate(files):
        if progress:
            progress(file.source, done, len(files))
        known = stored.get(file.source)
        try:
            data = file.path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if known and known.hash == digest:
                groups["unchanged"].append(known.document)
                continue
            entry = _entry(file, data, digest, known.document if known else _new_id(file, taken), knowledge_base.embedder.count_tokens)
        except (OSError, ValueError) as error:
            failed.append((str(file.path), _reason(error)))
            if isinstance(error, _EmptyFileError):
                empty.add(file.source)
            continue
        taken.add(entry.document)
        groups["changed" if known else "added"].append(entry.document)
        pending.append(entry)
        if sum(len(waiting.chunks) for waiting in pending) >= COMMIT_CHUNKS:
            knowledge_base.add(pending)
            pending = []
    knowledge_base.add(pending)
    gone = _gone(stored.values(), roots, {file.source for file in files} - empty, failed) if follow_deletes else []
    if gone:
        knowledge_base.delete_all(gone)
    if groups["added"] or groups["changed"] or gone:
        knowledge_base.optimize()
    if progress:
        progress("", len(files), len(files))
    return Report(removed=tuple(gone), failed=tuple(failed), **{name: tuple(documents) for name, documents in groups.items()})


def source_of(path: Path) -> str:
    """How the file at an absolute path is called in citations: ``domains/...`` for what ships with the product, else the path."""
    domains = shipped("domains").resolve()
    return f"domains/{path.relative_to(domains).as_posix()}" if path.is_relative_to(domains) else path.as_posix()


def _files(roots: Iterable[Path], failed: list[tuple[str, str]]) -> Iterator[_File]:
    """The files to read, in order; what is missing or of another type goes to ``failed``. Hidden files and folders are passed over."""
    for root in roots:
        if root.is_dir():
            for folder, below, names in os.walk(root, onerror=lambda error: failed.append((str(error.filename), _reason(error)))):
                below[:] = sorted(name for name in below if not name.startswith("."))
                found = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
                yield from (_File(path, root, source_of(path)) for path in found if _usable(path, failed))
        elif _usable(root, failed):
            yield _File(root, root.parent, source_of(root))


def _usable(path: Path, failed: list[tuple[str, str]]) -> bool:
    try:
        str(path).encode()
        exists = path.exists()
    except UnicodeEncodeError:
        failed.append((str(path).encode("utf-8", "replace").decode(), "its name is not UTF-8"))
        return False
    except OSError as error:
        failed.append((str(path), _reason(error)))
        return False
    if not exists:
        failed.append((str(path), "does not exist"))
    elif not path.is_file():
        failed.append((str(path), "not a file"))
    elif path.suffix.lower() not in TYPES:
        failed.append((str(path), f"not a supported type: {path.suffix or path.name} (supported: {', '.join(TYPES)})"))
    else:
        return True
    return False


def _entry(file: _File, data: bytes, digest: str, document: str, count_tokens: Callable[[str], int]) -> Entry:
    markdown = TYPES[file.path.suffix.lower()]
    chunks = chunk(data.decode("utf-8"), count_tokens, title=file.path.stem, markdown=markdown)
    if not chunks:
        raise _EmptyFileError("has no text")
    return Entry(document, file.source, digest, tuple(chunks))


def _new_id(file: _File, taken: Collection[str]) -> str:
    """The path below the root; with as many folders in front as make it unique."""
    relative = file.path.relative_to(file.root)
    above = file.root.parts[1:]
    candidates = (Path(*above[len(above) - n :], relative).as_posix() for n in range(len(above) + 1))
    return next((candidate for candidate in candidates if candidate not in taken), file.source)


def _gone(stored: Iterable[Document], roots: Iterable[Path], seen: Collection[str], failed: Iterable[tuple[str, str]]) -> list[str]:
    """Documents that came from below a folder given and whose file was not seen; a folder that could not be listed hides nothing."""
    folders = tuple(f"{source_of(root).rstrip('/')}/" for root in roots if root.is_dir())
    unread = tuple(f"{source_of(Path(path))}/" for path, _ in failed)
    return [
        document.document
        for document in stored
        if document.source.startswith(folders) and document.source not in seen and not document.source.startswith(unread)
    ]


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text: {error.reason} at byte {error.start}"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)
