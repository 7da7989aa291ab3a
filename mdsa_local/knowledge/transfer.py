"""Knowledge bases out of and into archives; see :mod:`mdsa_local.knowledge.archive` for the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local import __version__
from mdsa_local.errors import InputError, UnknownNameError
from mdsa_local.knowledge import archive
from mdsa_local.knowledge.place import out_of_step, own_folder
from mdsa_local.knowledge.store import KnowledgeBase

if TYPE_CHECKING:
    pass

Heard = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Transferred:
    """A knowledge base that went into or came out of an archive. ``domain`` None is the shared one."""

    domain: str | None
    documents: int
    passages: int
    embedded_again: bool = False


def export(path: Path, bases: Sequence[tuple[str | None, KnowledgeBase]], heard: Heard | None = None) -> list[Transferred]:
    """Write knowledge bases into one new file; ``heard`` gets the passages done and their number. Nobody writes to one while it is read.

    Raises :class:`InputError` when the file exists or there is nothing to export.
    """
    with archive.writing(path, __version__) as writer:
        for domain, base in bases:
            with ExitStack() as stack:
                # Where this machine cannot write, none of its processes does.
                if base.opened() is not None and os.access(own_folder(base.database.folder, base.database.home), os.W_OK):
                    stack.enter_context(base.database.writing(base.name))
                if dumped := base.dump():
                    fingerprint, width, parts = dumped
                    writer.put(domain, fingerprint, width, _told(parts, base.count(), heard))
        if not writer.knowledge_bases:
            raise InputError("there is no knowledge base to export", "Add documents first: mdsa kb add PATH, or mdsa kb sync.")
        return [Transferred(found.domain, found.documents, found.passages) for found in writer.knowledge_bases]


def restore(
    path: Path,
    base_of: Callable[[str | None], KnowledgeBase],
    domains: Collection[str | None] | None = None,
    *,
    replace: bool = False,
    heard: Heard | None = None,
) -> list[Transferred]:
    """Bring the knowledge bases of an archive, or those of ``domains``, back. The whole file is verified before anything is touched, and each
    knowledge base then changes in one commit or not at all; vectors of another encoder are made again from the text.

    Raises :class:`InputError` for a file that cannot be used, and when there are documents already and ``replace`` is not set.
    """
    with archive.reading(path) as reader:
        found = {base.domain: base for base in reader.manifest.knowledge_bases}
        for domain in domains or ():
            if domain not in found:
                raise UnknownNameError.among("knowledge base in the archive", domain or "global", (name or "global" for name in found))
        chosen = [(archived, base_of(domain)) for domain, archived in found.items() if not domains or domain in domains]
        taken = [base.label for _, base in chosen if base.opened() is not None and base.count()]
        if taken and not replace:
            raise InputError(f"there are documents already in {', '.join(taken)}", "Add --replace to put those of the archive in their place.")
        done = []
        for archived, base in chosen:
            again = (archived.fingerprint, archived.width) != (base.embedder.fingerprint, base.embedder.width)
            parts = (([row.model_dump() for row in rows], None if again else vectors) for rows, vectors in reader.parts(archived))
            # What comes back may be older than the documents in the domains' folders.
            with out_of_step(base.database.folder, base.database.home):
                base.load(_told(parts, archived.passages, heard))
            done.append(Transferred(archived.domain, archived.documents, archived.passages, again))
        return done


def _told(parts: Iterator[tuple[list[dict[str, Any]], Any]], total: int, heard: Heard | None) -> Iterator[tuple[list[dict[str, Any]], Any]]:
    done = 0
    for rows, vectors in parts:
        yield rows, vectors
        done += len(rows)
        if heard:
            heard(done, total)
