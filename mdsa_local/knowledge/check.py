"""Look whether a knowledge base is whole, and put it right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mdsa_local.errors import StorageError
from mdsa_local.knowledge.ingest import file_of, ingest, is_of_file
from mdsa_local.knowledge.loaders import UnreadableError, fingerprint
from mdsa_local.knowledge.loaders.contained import Reader
from mdsa_local.knowledge.place import forget
from mdsa_local.knowledge.reading import Document
from mdsa_local.knowledge.store import KnowledgeBase

Kind = Literal["fingerprint", "interrupted", "missing", "changed", "damaged"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a document, or with the whole table where ``document`` is empty; ``repaired`` says what was done, if anything."""

    kind: Kind
    document: str
    what: str
    repaired: str = ""


def check(knowledge_base: KnowledgeBase, *, repair: bool = False) -> list[Problem]:
    """The problems of a knowledge base; with ``repair`` they are put right as far as that can be done.

    A table that cannot be read becomes again what it was in the newest version that can; of what came later, documents in files are added again by
    the next ``mdsa kb add`` or ``sync``. Vectors of another encoder are made again from the stored text. A document stored in part is read again
    from its file, or its chunks are removed when the file is gone. A document whose file is gone is removed, one whose file has changed is read again
    if it can be. In a place that several machines use, a file that is not here or is another one is no fault and its document is left alone.
    """
    try:
        documents = knowledge_base.documents()
        fits = knowledge_base.fits()
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
    for document in documents:
        path = file_of(document.source)
        gone = path is not None and not path.exists()
        if document.hash == "":
            problems.append(_interrupted(knowledge_base, document, None if gone else path, repair))
        elif gone and knowledge_base.database.local:
            problem = Problem("missing", document.document, f"its file is gone: {path}")
            if repair:
                knowledge_base.delete(document.document)
                problem = replace(problem, repaired="removed")
            problems.append(problem)
        elif path is not None and knowledge_base.database.local and (changed := _changed(path, document)):
            problem = Problem("changed", document.document, f"{changed}: {path}")
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
        forget(knowledge_base.database.folder)
    return replace(problem, repaired=repaired)


def _interrupted(knowledge_base: KnowledgeBase, document: Document, path: Path | None, repair: bool) -> Problem:
    problem = Problem("interrupted", document.document, f"stored in part, {document.n_chunks} chunks")
    if not repair:
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


def _changed(path: Path, document: Document) -> str:
    """What became of the file of a document that was stored whole, empty where it is what it was then. It has to be read for that."""
    if not is_of_file(document):
        return ""
    try:
        # What a later version reads otherwise is no fault of the file.
        if fingerprint(path).partition("-")[0] == document.hash.partition("-")[0]:
            return ""
        with Reader() as reader:
            texts = sum(1 for section in reader.sections(path) if section.about is None and section.text.strip())
        return "its file has changed since" if texts else "its file has no text any more; the version from before stays"
    except UnreadableError as error:
        return f"its file cannot be used any more, the version from before stays: {error}"
    except OSError as error:
        return f"its file cannot be read any more, the version from before stays: {error.strerror or error}"
