"""Keep the knowledge bases in step with the domains' folders: ``domains/<name>/knowledge`` and ``domains/_global/knowledge``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

from mdsa_local.domains.registry import owners
from mdsa_local.errors import StorageError
from mdsa_local.knowledge import place
from mdsa_local.knowledge.ingest import EMPTY, PASSED_OVER, Report, Step, is_of_file, path_of, source_of
from mdsa_local.knowledge.loaders import REVISIONS
from mdsa_local.knowledge.locks import acquire
from mdsa_local.settings import Settings, shipped, storage_error

if TYPE_CHECKING:
    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.knowledge.reading import Document

GLOBAL_FOLDER = "_global"
# Starts of ingest's reasons that stay true until the file changes. The user hears of them once; any other failure is tried again.
SETTLED = (*PASSED_OVER, EMPTY, "its name is not UTF-8")


def folders(settings: Settings) -> Iterator[tuple[str | None, Path]]:
    """``(domain, folder of documents)``; the domain is None for what all share.

    A domain's folder hides the one of that name in an earlier folder of domains, as its ``domain.yaml`` does; the shared ones add up.
    """
    for parent in settings.domain_dirs:
        yield from ((None, folder) for folder in parent.glob(f"{GLOBAL_FOLDER}/knowledge") if folder.is_dir())
    for domain, owner in owners(settings.domain_dirs).items():
        yield from ((domain, folder) for folder in owner.glob("knowledge") if folder.is_dir() and domain != GLOBAL_FOLDER)


def files(settings: Settings) -> Iterator[tuple[str | None, str, Path]]:
    """``(domain, source, path)`` of every file in :func:`folders`, in order. Hidden files and folders are passed over, as in ``ingest``."""
    for domain, folder in folders(settings):
        for here, below, names in os.walk(folder.resolve()):
            below[:] = sorted(name for name in below if not name.startswith("."))
            source = source_of(Path(here))
            yield from ((domain, f"{source}/{name}", Path(here, name)) for name in sorted(names) if not name.startswith("."))


def state(settings: Settings, fingerprint: str) -> str:
    """A digest of the encoder and all documents: the content of those shipped, size and time of the user's."""
    digest = hashlib.sha256(f"{fingerprint}{REVISIONS}".encode())
    for _, source, path in files(settings):
        digest.update(f"{source}\0{_version(source, path)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def glance(settings: Settings) -> tuple[tuple[str, int, int], ...]:
    """Source, size and time of every document: tells a program that goes on whether to look closer. Two milliseconds for 200 of them."""

    def seen(path: Path) -> tuple[int, int]:
        with suppress(OSError):
            status = path.stat()
            return status.st_size, status.st_mtime_ns
        return -1, -1

    return tuple((source, *seen(path)) for _, source, path in files(settings))


def stamp(settings: Settings) -> Path:
    """The file that holds the encoder and the :func:`state` last ingested; no state when files have to be tried again."""
    return place.stamp(place.located(settings.knowledge_place), settings.home)


def _keeps_stamp(settings: Settings) -> bool:
    """Whether there is a stamp to be read and written: none outlives what is only in memory."""
    return place.lasts(place.located(settings.knowledge_place))


def pending(settings: Settings, fingerprint: str) -> bool:
    """Whether :func:`sync` has something to do; always where the place is in memory. Costs a few milliseconds."""
    return stamped(settings)[1] != state(settings, fingerprint)


def settled(settings: Settings) -> bool:
    """Whether the documents are those last ingested, by whatever encoder: to be known without loading it. Costs as much as :func:`pending`."""
    fingerprint, digest = stamped(settings)
    return bool(digest) and digest == state(settings, fingerprint)


def sync(rag: DualRAG, settings: Settings, fingerprint: str, progress: Callable[[str, int, int], None] | None = None) -> list[tuple[str, Report]]:
    """Ingest what is new or changed and drop what is gone; ``(knowledge base, report)`` for each. Raises :class:`StorageError`.

    Documents that were added from elsewhere stay, and so do all in a place that other machines
    may use: what is gone here may be there. Files that could not be read are in the reports, and leave the work pending.
    """
    with _one_at_a_time(settings):
        return _synced(rag, settings, fingerprint, progress)


@contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    """Let no other program with the same home bring the place in step meanwhile: with other settings it would undo what the stamp will say. Where
    nothing can be locked, as in a home that cannot be written, it goes without."""
    with ExitStack() as held:
        with suppress(OSError, StorageError):
            file = held.enter_context(settings.writable(stamp(settings).parent).joinpath("syncing.lock").open("ab"))
            acquire(file)
        yield


def _synced(rag: DualRAG, settings: Settings, fingerprint: str, progress: Callable[[str, int, int], None] | None) -> list[tuple[str, Report]]:
    before = state(settings, fingerprint)
    if stamped(settings)[0] != fingerprint:
        _embed_again(rag)

    def tell(step: Step) -> None:
        if progress:
            progress(step.source, step.files_done, step.files)

    alone = isinstance(place.located(settings.knowledge_place), Path)
    if alone:
        _hand_over(rag, settings)
    reports = {domain: rag.add_paths(group, domain, tell, follow_deletes=alone, even_all=True) for domain, group in _by_domain(folders(settings))}
    for domain, gone in _orphans(rag, settings) if alone else ():
        documents = [known.document for known in gone]
        # Another process may have been quicker.
        rag.remove(documents, domain, missing_ok=True)
        rag.optimize(domain)
        report = reports.get(domain, Report())
        reports[domain] = replace(report, removed=(*report.removed, *documents))
    unread = any(not reason.startswith(SETTLED) for report in reports.values() for _, reason in report.failed)
    _write_stamp(settings, fingerprint, "" if unread else before)
    return [(domain or "global", report) for domain, report in reports.items()]


def _version(source: str, path: Path) -> str:
    """What changes with the file. A reinstall gives shipped files other times; reading all 212 of them costs 7 ms."""
    try:
        if source != path.as_posix():
            return hashlib.sha256(path.read_bytes()).hexdigest()
        status = path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    except OSError as error:
        return f"error {error.errno}"


def stamped(settings: Settings) -> tuple[str, str]:
    """``(fingerprint, state)`` in the :func:`stamp`, empty where it has none, as after a restore."""
    if not _keeps_stamp(settings):
        return "", ""
    path = stamp(settings)
    try:
        fingerprint, _, digest = (path.read_text(encoding="utf-8") if path.is_file() else "").partition("\n")
    except (OSError, UnicodeDecodeError):
        return "", ""
    return fingerprint, digest.strip()


def _write_stamp(settings: Settings, fingerprint: str, digest: str) -> None:
    # A home that is read-only needs no writing when nothing has changed.
    if not _keeps_stamp(settings) or stamped(settings) == (fingerprint, digest):
        return
    try:
        settings.writable(stamp(settings).parent)
        stamp(settings).write_text(f"{fingerprint}\n{digest}\n", encoding="utf-8")
    except OSError as error:
        raise storage_error(error, stamp(settings)) from None


def _embed_again(rag: DualRAG) -> None:
    """Make vectors of another encoder anew from the stored text: a table never mixes two."""
    for domain in (None, *rag.domains()):
        if rag.list_documents(domain):
            rag.optimize(domain)


def _hand_over(rag: DualRAG, settings: Settings) -> None:
    """Where another folder has become a domain's, as a copy of the shipped one, let its files take over the documents of the same names below the one
    before. So where a home has moved, was copied or comes from an archive: those that came from below ``domains/<name>/knowledge`` in another place
    go where they cannot be taken over."""
    ours, parents = dict(_by_domain(folders(settings))), _parents(settings)
    now = {source for _, source, _ in files(settings)}
    roots = {domain: [f"{source_of(folder.resolve())}/" for folder in found] for domain, found in ours.items()}
    for domain, gone in _orphans(rag, settings):
        _take_over(rag, domain, [(known, "/".join(_within(known.source, parents)[1][2:])) for known in gone], roots.get(domain, ()), now)
    for domain, own in roots.items():
        elsewhere: list[tuple[Document, str]] = []
        for known in rag.list_documents(domain):
            if known.source in now or not is_of_file(known.document, known.source) or _within(known.source, parents)[0]:
                continue
            # The folders of domains, the domain's, and that of its documents.
            ways = (known.source.rpartition("/".join(["", *root.split("/")[-4:]])) for root in own)
            below = next((way[2] for root, way in zip(own, ways, strict=True) if way[0] and f"{root}{way[2]}" in now), "")
            elsewhere += [(known, below)] if below else []
        # Mostly there is none, and to list documents takes a while.
        if elsewhere and (left := _take_over(rag, domain, elsewhere, own, now)):
            rag.remove([known.document for known in left], domain, missing_ok=True)


def _take_over(rag: DualRAG, domain: str | None, gone: Iterable[tuple[Document, str]], roots: Iterable[str], now: Container[str]) -> list[Document]:
    """Let the files below ``roots`` that are there ``now`` take over the documents ``gone``, each with the way to its file below its own folder: they
    keep their names, are found all the time, and are embedded again only where the text is another. Those that are not taken over: a document of
    another name had to be told from one that is still there."""
    taken = {known.source for known in rag.list_documents(domain)}
    moved: dict[tuple[str, str], list[str]] = {}
    left: list[Document] = []
    for known, below in gone:
        free = (root for root in roots if f"{root}{below}" in now and f"{root}{below}" not in taken)
        if normalize("NFC", below) == known.document and (root := next(free, None)):
            taken.add(f"{root}{below}")
            moved.setdefault((known.source.removesuffix(below), root), []).append(known.source)
        else:
            left.append(known)
    for (above, instead), sources in moved.items():
        rag.move(sources, above, instead, domain)
    return left


def _orphans(rag: DualRAG, settings: Settings) -> Iterator[tuple[str | None, list[Document]]]:
    """``(domain, documents)`` that came from a domain's folder of documents and are in none any more."""
    parents, seen = _parents(settings), {source for _, source, _ in files(settings)}
    used = {folder.resolve() for _, folder in folders(settings)}
    for domain in (None, *rag.domains()):
        came = [known for known in rag.list_documents(domain) if is_of_file(known.document, known.source)]
        if gone := [known for known in came if known.source not in seen and _dropped(known.source, parents, used)]:
            yield domain, gone


def _dropped(source: str, parents: Iterable[Path], used: Container[Path]) -> bool:
    """Whether a file that no folder of documents shows belonged to one, which may be there but not in use: the shipped one of a domain that the user
    has a folder of, or does not want. False as well when its folder cannot be read."""
    parent, inside = _within(source, parents)
    if parent is None or inside[1:2] != ("knowledge",):
        return False
    try:
        path_of(source).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return parent.joinpath(*inside[:2]) not in used


def _parents(settings: Settings) -> set[Path]:
    """Where domains' folders are or were."""
    return {parent.resolve() for parent in (shipped("domains"), *settings.domain_dirs)}


def _within(source: str, parents: Iterable[Path]) -> tuple[Path | None, tuple[str, ...]]:
    """The folder of domains' folders that a file is in, and the way to it from there; None and nothing where it is in none."""
    path = path_of(source)
    parent = next((parent for parent in parents if path.is_relative_to(parent)), None)
    return parent, path.relative_to(parent).parts if parent else ()


def _by_domain(found: Iterable[tuple[str | None, Path]]) -> list[tuple[str | None, list[Path]]]:
    grouped: dict[str | None, list[Path]] = {}
    for domain, folder in found:
        grouped.setdefault(domain, []).append(folder)
    return list(grouped.items())
