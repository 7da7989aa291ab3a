"""A process that was forked after LanceDB had been used: the threads LanceDB computes with are not in it, and it waits for them for ever."""

from __future__ import annotations

import os

from mdsa_local.errors import StorageError

_used_in: int | None = None


def used() -> None:
    """LanceDB is about to be used. Raises :class:`StorageError` as :func:`refuse_forked` does."""
    global _used_in
    refuse_forked()
    _used_in = os.getpid()


def refuse_forked() -> None:
    """Raise :class:`StorageError` in a process that was forked after LanceDB had been used. Before anything that may wait: locks that another thread
    held at that moment stay locked."""
    if _used_in not in (None, os.getpid()):
        raise StorageError(
            "this process was forked after the knowledge bases had been used, which LanceDB does not survive",
            "Start processes with multiprocessing's \"spawn\" (multiprocessing.get_context('spawn')), or fork before the first question.",
        )
