"""The knowledge bases kept in step with the domains' folders while a program runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import StorageError
from mdsa_local.settings import Settings

if TYPE_CHECKING:
    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.knowledge.ingest import Report

logger = logging.getLogger(__name__)
# Between two questions documents are looked at again after so long.
AGAIN_S = 1.0


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

    def prepare(self, progress: Callable[[str, int, int], None] | None = None) -> list[tuple[str, Report]]:
        """Do it now; what was done. Raises :class:`StorageError` where nothing can be written and nothing was ingested before."""
        with self._lock:
            return self._prepare(progress)

    def follow(self) -> None:
        """Before a question: do it where documents have changed. The first time all wait for it, later others go on with what is there."""
        if (self._glance is not None and time.monotonic() < self._look_at) or not self._lock.acquire(blocking=self._glance is None):
            return
        try:
            from mdsa_local.knowledge import sync

            if self._glance is None or self._glance != sync.glance(self._settings):
                self._prepare()
            self._look_at = time.monotonic() + AGAIN_S
        finally:
            self._lock.release()

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
            logger.warning("knowledge bases could not be brought up to date: %s", error)
        self._glance = glance
        return done
