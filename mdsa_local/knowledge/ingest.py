"""Files into a knowledge base, incrementally: only what is new or changed is split into chunks and embedded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from unicodedata import normalize

from mdsa_local.errors import InputError
from mdsa_local.knowledge.chunking import chunk_all
from mdsa_local.knowledge.loaders import CONTAINED, LOADERS, UNSUPPORTED, Section, UnreadableError, family, fingerprint
from mdsa_local.knowledge.loaders.contained import Reader
from mdsa_local.knowledge.reading import Document
from mdsa_local.knowledge.store import Entry, KnowledgeBase
from mdsa_local.settings import expanded, shipped
from mdsa_local.threads import Threads

# Documents are committed together until they have this many chunks: every commit makes files and a version.
COMMIT_CHUNKS = 512
# Reasons for which a file that is only met in a folder is passed over, not refused; the first is how a reason begins.
LOCKED = "a lock file of an office program"
OUTSIDE = "leads out of the folder, so it has to be named itself"
LINKED = "is a link to a folder, so it has to be named itself"
MISSING = "does not exist"
EMPTY = "has no text"
PASSED_OVER = (UNSUPPORTED, LOCKED, OUTSIDE, LINKED, MISSING)
# Reasons for which the document of a file is gone although there is something of its name.
GONE = (MISSING, OUTSIDE, EMPTY)


@dataclass(frozen=True, slots=True)
class Tally:
    """How far an ingestion is: files, their bytes, and chunks stored so far; and how many chunks of a large file are embedded beyond those."""

    files_done: int = 0
    files: int = 0
    bytes_done: int = 0
    bytes: int = 0
    chunks: int = 0
    embedded: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Step(Tally):
    """A tally and the file it is about, empty at the end."""

    source: str = ""


Progress = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingestion did, as document ids; ``failed`` holds ``(path, reason)``, and ``passed_over`` the paths among them that were only met in a
    folder and are of no supported type, empty, an office program's lock, or a link to nothing or out of the folder.
    ``kept`` holds folders in which no document was left of those that came from there, each with their ids: none of them was removed.
    ``remarks`` holds ``(path, what)`` of files that were stored without something in them."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    passed_over: tuple[str, ...] = ()
    kept: tuple[tuple[str, tuple[str, ...]], ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    root: Path
    source: str


class _EmptyFileError(ValueError):
    """The file has no text that could be searched."""


def ingest(
    knowledge_base: KnowledgeBase,
    paths: Iterable[Path | str],
    progress: Progress | None = None,
    *,
    follow_deletes: bool = False,
    even_all: bool = False,
) -> Report:
    """Bring files, and folders with all below them, into the knowledge base.

    A document's id is its path relative to the folder given, with that folder's name in front where two files would share an id. A file
    whose content is known by its hash costs nothing more than reading it. A file that cannot be used is reported, and what was stored of it
    stays. ``follow_deletes`` also removes documents whose file in a given folder is gone or empty; where not one of them has its file any more,
    as when a disk is not mounted, it takes ``even_all`` to do so. ``progress`` hears a :class:`Step` before
    each file, while a large one is embedded and stored, and at the end; a file counts once it is stored. Raises
    :class:`InputError` for ``~user`` where there is none, and :class:`StorageError`; running it again completes the work.
    """
    failed: list[tuple[str, str]] = []
    roots = [expanded(path, InputError).resolve() for path in paths]
    files = list({file.source: file for file in _files(roots, failed)}.values())
    documents = knowledge_base.documents()
    with knowledge_base.busy(), Reader() as reader, Threads(1, "mdsa-store") as lane:
        run = _Run(knowledge_base, reader, lane, documents, Tally(files=len(files), bytes=sum(map(_size, files))), progress, failed)
        try:
            for file in files:
                run.take(file)
            run.commit()
            run.settle()
        finally:
            run.end()
    sources, stored = {file.source for file in files}, run.stored
    gone = _gone(stored.values(), roots, sources - run.empty, failed) if follow_deletes else []
    kept = () if even_all else tuple(_all_gone(stored.values(), roots, sources, set(gone)))
    gone = sorted({*gone}.difference(*(names for _, names in kept)))
    if gone:
        knowledge_base.delete_all(gone)
    if run.groups["added"] or run.groups["changed"] or gone:
        knowledge_base.tidy()
    run.tell("")
    named = {str(root) for root in roots}
    passed_over = tuple(path for path, reason in failed if (reason.startswith(PASSED_OVER) or reason == EMPTY) and path not in named)
    # What was stored to its end and is there still.
    removed = set(gone)
    staying = {source for source, document in stored.items() if document.hash and document.document not in removed}
    told = [(path, f"{reason}; the version from before stays" if source_of(Path(path)) in staying else reason) for path, reason in failed]
    added, changed, unchanged = (tuple(run.groups[name]) for name in ("added", "changed", "unchanged"))
    return Report(added, changed, tuple(gone), unchanged, tuple(told), passed_over, kept, tuple(run.remarks))


class _Run:
    """One ingestion: what is waiting for the next commit, and what has been done."""

    def __init__(
        self,
        knowledge_base: KnowledgeBase,
        reader: Reader,
        lane: Threads,
        documents: Collection[Document],
        tally: Tally,
        progress: Progress | None,
        failed: list[tuple[str, str]],
    ) -> None:
        self._knowledge_base, self._reader, self._lane = knowledge_base, reader, lane
        self._taken = {document.document for document in documents}
        self._tally, self._progress, self._failed = tally, progress, failed
        self._pending: list[Entry] = []
        self._waiting = Tally()
        self._storing: tuple[Future[dict[str, str]], Tally] | None = None
        self._at = ""
        # By their sources; a text may have been given with the path of a file.
        self.stored = {document.source: document for document in documents if is_of_file(document.document, document.source)}
        self.groups: dict[str, list[str]] = {"added": [], "changed": [], "unchanged": []}
        self.empty: set[str] = set()
        self.remarks: list[tuple[str, str]] = []

    def tell(self, source: str) -> None:
        """Report how far the work is."""
        if self._progress:
            # What is only split is not done.
            begun = [self._waiting, *([self._storing[1]] if self._storing else [])]
            files, size = sum(part.files_done for part in begun), sum(part.bytes_done for part in begun)
            tally = replace(self._tally, files_done=self._tally.files_done - files, bytes_done=self._tally.bytes_done - size)
            self._progress(Step(source=source, **asdict(tally)))

    def take(self, file: _File) -> None:
        """Store a file, or let it wait for the next commit."""
        self._at = file.source
        self.tell(file.source)
        before = self._tally.bytes_done
        try:
            self._store(file)
        except (OSError, ValueError) as error:
            self._failed.append((str(file.path), _reason(error)))
            if isinstance(error, _EmptyFileError):
                self.empty.add(file.source)
        self._tally = replace(self._tally, files_done=self._tally.files_done + 1, bytes_done=before + _size(file))

    def _store(self, file: _File) -> None:
        known = self.stored.get(file.source)
        if not file.path.stat().st_size:
            raise _EmptyFileError(EMPTY)
        digest = fingerprint(file.path)
        if known and known.hash == digest:
            self.groups["unchanged"].append(known.document)
            return
        name = known.document if known else _new_id(file, self._taken)
        sections = self._sections(file.path)
        beginning = list(islice(sections, 1))
        about = beginning[0].about or {} if beginning else {}
        chunks = chunk_all(chain(beginning, sections), self._knowledge_base.embedder.count_tokens, title=file.path.stem)
        first = list(islice(chunks, COMMIT_CHUNKS))
        if not first:
            raise _EmptyFileError(EMPTY)
        if len(first) < COMMIT_CHUNKS:
            self._pending.append(Entry(name, file.source, digest, tuple(first), about))
            had = self._waiting
            self._waiting = Tally(had.files_done + 1, bytes_done=had.bytes_done + _size(file), chunks=had.chunks + len(first))
        else:
            if family(file.path) not in CONTAINED:
                # What cannot be read to its end must not replace a part of what is stored.
                deque(self._reader.sections(file.path), maxlen=0)
            self.settle()
            renamed = self._knowledge_base.add_large(
                Entry(name, file.source, digest, (), about), chain(first, chunks), partial(self._heard, file, self._tally.bytes_done)
            )
            name = renamed.get(name, name)
        self._taken.add(name)
        self.groups["changed" if known else "added"].append(name)
        if self._waiting.chunks >= COMMIT_CHUNKS:
            self.commit()

    def _sections(self, path: Path) -> Iterator[Section]:
        """The sections of a file, of which remarks are kept."""
        for section in self._reader.sections(path):
            if section.remark:
                self.remarks.append((str(path), section.remark))
            else:
                yield section

    def _heard(self, file: _File, before: int, chunks: int, embedded: int, end: int) -> None:
        # Where text is extracted its length is not that of the file; it cannot be more than done.
        size = before + min(end, _size(file))
        self._tally = replace(self._tally, chunks=self._tally.chunks + chunks, embedded=embedded, bytes_done=size)
        self.tell(file.source)

    def commit(self) -> None:
        """Store what is waiting, while the next files are read and split: two commits' worth of text is in memory at most."""
        self.settle()
        if self._pending:
            self._storing = self._lane.submit(partial(self._knowledge_base.add, self._pending, of_files=True)), self._waiting
        self._pending, self._waiting = [], Tally()

    def settle(self) -> None:
        """Wait until nothing is being stored, and raise what went wrong with it."""
        if self._storing:
            stored, done = self._storing
            renamed = stored.result()
            self.groups["added"] = [renamed.get(name, name) for name in self.groups["added"]]
            self._storing = None
            self._tally = replace(self._tally, chunks=self._tally.chunks + done.chunks)

    def end(self) -> None:
        """Where the run was broken off: wait for what is being stored, and tell of it."""
        if self._storing and self._storing[0].exception() is None:
            self.settle()
            self.tell(self._at)


def source_of(path: Path) -> str:
    """How the file at an absolute path is called in citations: ``domains/...`` for what ships with the product, else the path."""
    domains = shipped("domains").resolve()
    return f"domains/{path.relative_to(domains).as_posix()}" if path.is_relative_to(domains) else path.as_posix()


def _files(roots: Iterable[Path], failed: list[tuple[str, str]]) -> Iterator[_File]:
    """The files to read, in order; what is missing or of another type goes to ``failed``. Hidden files and folders are passed over, and so are links
    to folders and out of the folder given: what they lead to is not what was given."""
    for root in roots:
        if _is_folder(root):
            for folder, below, names in os.walk(root, onerror=lambda error: failed.append((str(error.filename), _reason(error)))):
                # A knowledge base may lie in a folder of documents; its own files are none.
                below[:] = sorted(name for name in below if not name.startswith(".") and not name.endswith(".lance"))
                failed.extend((str(Path(folder, name)), LINKED) for name in below if Path(folder, name).is_symlink())
                found = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
                yield from (_File(path, root, source_of(path)) for path in found if _usable(path, failed, root))
        elif _usable(root, failed):
            yield _File(root, root.parent, source_of(root))


def _usable(path: Path, failed: list[tuple[str, str]], root: Path | None = None) -> bool:
    """Whether a file that was given, or met below ``root``, can be read as far as its name tells; why not goes to ``failed``."""
    try:
        str(path).encode()
        if root is not None and path.name.startswith("~$"):
            failed.append((str(path), LOCKED))
            return False
        if root is not None and _leads_out(path, root):
            failed.append((str(path), OUTSIDE))
            return False
        exists = path.exists()
    except UnicodeEncodeError:
        failed.append((str(path).encode("utf-8", "replace").decode(), "its name is not UTF-8"))
        return False
    except OSError as error:
        failed.append((str(path), _reason(error)))
        return False
    if not exists:
        failed.append((str(path), MISSING))
    elif not path.is_file():
        failed.append((str(path), "not a file"))
    else:
        try:
            family(path)
        except UnreadableError as error:
            failed.append((str(path), str(error)))
            return False
        return True
    return False


def _leads_out(path: Path, root: Path) -> bool:
    """Whether ``path``, below ``root``, is a link to elsewhere. Installers may make links of all that ships with the product."""
    if not path.is_symlink() or root.is_relative_to(shipped("domains").resolve()):
        return False
    return not Path(os.path.realpath(path)).is_relative_to(root)


def _is_folder(root: Path) -> bool:
    """Whether what was given is a folder; not where the system does not say, which is told as of a file."""
    try:
        return root.is_dir()
    except OSError:
        return False


def _size(file: _File) -> int:
    """0 for a file that cannot be asked; reading it will tell why."""
    try:
        return file.path.stat().st_size
    except OSError:
        return 0


def _new_id(file: _File, taken: Collection[str]) -> str:
    """The path below the root; with as many folders in front as make it unique. In one form of Unicode, as it is typed; macOS has another."""
    relative = file.path.relative_to(file.root)
    above = file.root.parts[1:]
    candidates = (normalize("NFC", Path(*above[len(above) - n :], relative).as_posix()) for n in range(len(above) + 1))
    return next((candidate for candidate in candidates if candidate not in taken), file.source)


def _gone(stored: Iterable[Document], roots: Iterable[Path], seen: Collection[str], failed: Iterable[tuple[str, str]]) -> list[str]:
    """Documents that came from below a folder given and whose file is gone. One that was not seen may still be there: a hidden one that was named
    itself, one that cannot be used now, for want of its parser say. A folder that could not be listed hides nothing."""
    folders = tuple(f"{source_of(root).rstrip('/')}/" for root in roots if _is_folder(root))
    unread = tuple(f"{source_of(Path(path))}/" for path, _ in failed)
    lost = {source_of(Path(path)) for path, reason in failed if reason in GONE}
    below = (known for known in stored if known.source.startswith(folders) and known.source not in seen and not known.source.startswith(unread))
    return [known.document for known in below if known.source in lost or _is_no_file(path_of(known.source))]


def _is_no_file(path: Path) -> bool:
    """Whether nothing is there, or a folder of that name; what a link leads to may be back."""
    return not os.path.lexists(path) or path.is_dir()


def is_of_file(document: str, source: str) -> bool:
    """Whether a document was read from the file that is its source; it may be text that was given with a path."""
    return any(path.endswith(document) for path in (source, normalize("NFC", source)))


def path_of(source: str) -> Path:
    """The file that is called ``source`` in citations; see :func:`source_of`."""
    # An absolute source stays as it is.
    return shipped("domains").resolve().parent / source


def file_of(document: str, source: str) -> Path | None:
    """The file that a document was read from, which is called ``source`` in citations; None where text was given with that for its source."""
    path = path_of(source)
    is_file = path.suffix.lower() in LOADERS and (Path(source).is_absolute() or source.startswith("domains/"))
    return path if is_file and is_of_file(document, source) else None


def _all_gone(
    stored: Iterable[Document], roots: Iterable[Path], sources: Collection[str], gone: Collection[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The folders from which documents came that would all go, and these."""
    known = list(stored)
    for root in roots:
        folder = f"{source_of(root).rstrip('/')}/"
        had = [document for document in known if document.source.startswith(folder)]
        if had and _is_folder(root) and all(document.document in gone and document.source not in sources for document in had):
            yield str(root), tuple(document.document for document in had)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)
