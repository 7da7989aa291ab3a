"""Look whether a knowledge base is whole, and put it right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mdsa_local.errors import StorageError
from mdsa_local.knowledge.ingest import file_of, ingest
from mdsa_local.knowledge.loaders import UnreadableError, fingerprint
from mdsa_local.knowledge.loaders.contained import Reader
from mdsa_local.knowledge.place import forget
from mdsa_local.knowledge.reading import Document
from mdsa_local.knowledge.store import KnowledgeBase

Kind = Literal["fingerprint", "interrupted", "missing", "changed", "unreadable", "damaged"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a document, or with the whole table where ``document`` is empty; ``repaired`` says what was done, if anything.

    Of an ``unreadable`` file there is nothing to be had in place of what is stored, so no repair helps. ``kept`` is the folder that the document came
    from where not one file is left of all that came from there: it is not removed.
    """

    kind: Kind
    document: str
    what: str
    repaired: str = ""
    kept: str = ""


def check(knowledge_base: KnowledgeBase, *, repair: bool = False, even_all: bool = False) -> list[Problem]:
    """The problems of a knowledge base; with ``repair`` they are put right as far as that can be done.

    A table that cannot be read becomes again what it was in the newest version that can; of what came later, documents in files are added again by
    the next ``mdsa kb add`` or ``sync``. Vectors of another encoder are made again from the stored text. A document stored in part is read again
    from its file, or its chunks are removed when the file is gone. A document whose file is gone is removed, one whose file has changed is read again
    if it can be. Where not one file is left of the documents that came from a folder, as when a disk is not mounted, it takes ``even_all`` to remove
    them. In a place that several machines use, a file that is not here or is another one is no fault and its document is left alone.
    """
    try:
        documents = knowledge_base.documents()
        # Whose vectors they are cannot be told where words stand in for the encoder.
        fits = bool(knowledge_base.missing) or knowledge_base.fits()
        knowledge_base.read_all()
    except StorageError as error:
        problem = Problem("damaged", "", f"{error} {error.hint}")
        return [_damaged(knowledge_base, problem) if repair else problem]
    problems: list[Problem] = []
    if not fits:
        problem = Problem("fingerprint", "", "its vectors are another encoder's")
        if repair and knowledge_base.rebuild():
            problem = replace(problem, repaired="embedded again")
        problems.append(problem)
    paths = {document.document: path for document in documents if (path := file_of(document.document, document.source)) is not None}
    lost = {name for name, path in paths.items() if not path.exists() or path.is_dir()}
    kept = {} if even_all or not knowledge_base.database.local else _all_gone(paths, lost)
    for document in documents:
        path, gone, whole = paths.get(document.document), document.document in lost, kept.get(document.document, "")
        if document.hash == "":
            problems.append(_interrupted(knowledge_base, document, None if gone else path, repair, whole))
        elif gone and knowledge_base.database.local:
            problem = Problem("missing", document.document, f"its file is gone: {path}", kept=whole)
            if repair and not whole:
                knowledge_base.delete(document.document)
                problem = replace(problem, repaired="removed")
            problems.append(problem)
        elif path is not None and knowledge_base.database.local and (changed := _changed(path, document)):
            problem = Problem(changed[0], document.document, f"{changed[1]}: {path}")
            # By a link another document would be read.
            if repair and path == path.resolve() and document.document in ingest(knowledge_base, [path]).changed:
                problem = replace(problem, repaired="read again")
            problems.append(problem)
    if repair and problems:
        knowledge_base.optimize()
    return problems


def _damaged(knowledge_base: KnowledgeBase, problem: Problem) -> Problem:
    try:
        repaired = knowledge_base.bring_back()
    except StorageError as error:
        return replace(problem, what=f"{problem.what} It could not be repaired: {error}")
    if repaired:
        forget(knowledge_base.database.folder, knowledge_base.database.home)
    return replace(problem, repaired=repaired)


def _all_gone(paths: Mapping[str, Path], lost: set[str]) -> dict[str, str]:
    """Of the documents whose file is gone, those with which all would go that came from a folder, and that folder. One that came from there alone may
    have been named itself: its folder counts where nothing is left in it."""
    came = Counter(_folder(name, path) for name, path in paths.items())
    left = {folder for name, path in paths.items() if name not in lost for folder in path.parents}
    whole = {folder for folder, n_documents in came.items() if n_documents > 1} - left
    kept = {name: next((folder for folder in paths[name].parents if folder in whole), None) for name in lost}
    return {name: str(folder or paths[name].parent) for name, folder in kept.items() if folder or _empty(paths[name].parent)}


def _folder(document: str, path: Path) -> Path:
    """The folder that was given when a document's file was added, as its name below that tells; the one that the file is in where it has the whole
    path for its name."""
    below = Path(document)
    return path.parent if below.is_absolute() else path.parents[len(below.parts) - 1]


def _empty(folder: Path) -> bool:
    """Whether a folder shows nothing, or is not there."""
    try:
        return all(path.name.startswith(".") for path in folder.iterdir())
    except OSError:
        return True


def _interrupted(knowledge_base: KnowledgeBase, document: Document, path: Path | None, repair: bool, kept: str) -> Problem:
    problem = Problem("interrupted", document.document, f"stored in part, {document.n_chunks} chunks", kept=kept)
    if not repair or kept:
        return problem
    if path is not None:
        # By a link another document would be read.
        report = ingest(knowledge_base, [path]) if path == path.resolve() else None
        if report and document.document in (*report.added, *report.changed):
            return replace(problem, repaired="read again")
        why = report.failed[0][1] if report and report.failed else "it is a link, so add the folder that it is in again"
        return replace(problem, what=f"{problem.what}; its file cannot be read again: {why}")
    if not knowledge_base.database.local:
        return replace(problem, what=f"{problem.what}; its file cannot be read on this machine: {document.source}")
    knowledge_base.delete(document.document)
    return replace(problem, repaired="removed")


def _changed(path: Path, document: Document) -> tuple[Kind, str] | None:
    """What became of the file of a document that was stored whole, None where it is what it was then. It has to be read for that."""
    try:
        # What a later version reads otherwise is no fault of the file.
        if fingerprint(path).partition("-")[0] == document.hash.partition("-")[0]:
            return None
        with Reader() as reader:
            texts = sum(1 for section in reader.sections(path) if section.about is None and section.text.strip())
        return ("changed", "its file has changed since") if texts else ("unreadable", "its file has no text any more; the version from before stays")
    except UnreadableError as error:
        return "unreadable", f"its file cannot be used any more, the version from before stays: {error}"
    except OSError as error:
        return "unreadable", f"its file cannot be read any more, the version from before stays: {error.strerror or error}"
