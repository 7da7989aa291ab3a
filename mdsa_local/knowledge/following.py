"""The knowledge bases kept in step with the domains' folders while a program runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import MDSAError, StorageError
from mdsa_local.settings import Settings

if TYPE_CHECKING:
    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.knowledge.ingest import Report

logger = logging.getLogger(__name__)
# Between two questions documents are looked at again after so long.
AGAIN_S = 1.0
# Or after so many times what looking took; and after so long where it could not be done.
SHARE, AFTER_FAILURE_S = 50, 30.0
# No documents look like this.
NEVER = (("", 0, 0),)


class Following:
    """Brings ``knowledge``, which is opened when first needed, in step with the folders of ``settings``; ``fingerprint`` is the encoder's.

    Safe to share between threads.
    """

    def __init__(self, settings: Settings, knowledge: Callable[[], DualRAG], fingerprint: Callable[[], str]) -> None:
        self._settings, self._knowledge, self._fingerprint = settings, knowledge, fingerprint
        self._lock = threading.Lock()
        # What the documents looked like when they were ingested, None before; and when to look again.
        self._glance: Any = None
        self._look_at = 0.0
        # The stamp as it was then, and those of others after which it was done again.
        self._stamp = ("", "")
        self._answered: set[tuple[str, str]] = set()
        # Domains, each with the folder it was read from, that were looked at for documents that are not followed.
        self._looked_at: set[tuple[str, Path]] = set()

    def prepare(self, progress: Callable[[str, int, int], None] | None = None) -> list[tuple[str, Report]]:
        """Do it now; what was done. Raises :class:`StorageError` where nothing can be written and nothing was ingested before."""
        with self._lock:
            return self._prepare(progress)

    def follow(self) -> None:
        """Before a question: do it where documents, or what is stored of them, have changed. The first time all wait for it; later others go on with
        what is there, and what cannot be done is told and tried again."""
        if not self._due() or not self._lock.acquire(blocking=self._glance is None):
            return
        try:
            # Another may have done it meanwhile.
            if self._due():
                self._look()
        finally:
            self._lock.release()

    def tell_unfollowed(self, domains: Iterable[DomainConfig]) -> None:
        """Warn, once of each, of ``domains`` that were read from a folder with documents which the settings do not name, so that nobody ingests
        them, where nothing was added to the domain's knowledge base either."""
        read = dict.fromkeys((domain.name, domain.folder) for domain in domains if domain.folder is not None)
        new = [one for one in read if one not in self._looked_at]
        self._looked_at.update(new)
        for name, folder in new:
            documents = folder / "knowledge"
            if _any_in(documents) and not self._followed(name, documents) and name not in self._knowledge().domains():
                logger.warning(
                    "domain %s answers from no document of %s: that folder is not followed. Add them with DualRAG.add_paths(%r, %r), again after a "
                    "change, or move the domain's folder to %s.",
                    *(name, documents, str(documents), name, self._settings.home / "domains"),
                )

    def _followed(self, name: str, documents: Path) -> bool:
        from mdsa_local.knowledge import sync

        return any(domain == name and folder.resolve() == documents.resolve() for domain, folder in sync.folders(self._settings))

    def _due(self) -> bool:
        return self._glance is None or time.monotonic() >= self._look_at

    def _look(self) -> None:
        from mdsa_local.knowledge import sync

        if self._glance is None:
            self._prepare()
            return
        began = time.monotonic()
        if self._glance == sync.glance(self._settings) and not self._overtaken():
            # Of many documents, or of slow ones, this is no small part of a question.
            self._look_at = time.monotonic() + max(AGAIN_S, SHARE * (time.monotonic() - began))
            return
        try:
            self._prepare()
        except MDSAError as error:
            self._told(error)

    def _overtaken(self) -> bool:
        """Whether the knowledge bases are not as they were left: restored, or brought in step with other documents by another program. The same
        documents count once: two such programs would undo each other's work for ever. What was embedded by another encoder does not count."""
        from mdsa_local.knowledge import sync

        stamp = sync.stamped(self._settings)
        if stamp == self._stamp or stamp in self._answered or stamp[0] not in ("", self._fingerprint()):
            return False
        if any(stamp):
            self._answered.add(stamp)
        return True

    def _prepare(self, progress: Callable[[str, int, int], None] | None = None) -> list[tuple[str, Report]]:
        from mdsa_local.knowledge import sync

        # Before all else: what is changed meanwhile is seen the next time.
        glance, fingerprint = sync.glance(self._settings), self._fingerprint()
        done: list[tuple[str, Report]] = []
        try:
            if sync.pending(self._settings, fingerprint):
                done = sync.sync(self._knowledge(), self._settings, fingerprint, progress)
        except StorageError as error:
            if not self._knowledge().domains():
                raise
            self._told(error)
            return done
        self._glance, self._look_at = glance, time.monotonic() + AGAIN_S
        self._stamp = sync.stamped(self._settings)
        return done

    def _told(self, error: MDSAError) -> None:
        """Go on with what was ingested before, for a while."""
        logger.warning("knowledge bases could not be brought up to date: %s. %s", error, error.hint)
        self._glance, self._look_at = NEVER, time.monotonic() + AFTER_FAILURE_S


def _any_in(folder: Path) -> bool:
    with suppress(OSError):
        return any(not path.name.startswith(".") for path in folder.iterdir())
    return False
