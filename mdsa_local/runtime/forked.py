"""A process that was forked after a model had been loaded into it: the threads that evaluate the model are not in it, and an answer never comes."""

from __future__ import annotations

import os

from mdsa_local.errors import BackendError


class Origin:
    """The process in which something was made; the object itself stays in that of its making."""

    def __init__(self, name: str) -> None:
        self._name, self._pid = name, os.getpid()

    @property
    def left(self) -> bool:
        """Whether this process was forked from it since."""
        return os.getpid() != self._pid

    def refuse_forked(self) -> None:
        """Raise :class:`BackendError` where that is so. Before any lock: one that another thread held at that moment stays locked."""
        if self.left:
            raise BackendError(
                f"this process was forked after {self._name} had been loaded, which llama.cpp does not survive",
                "Make a new ModelManager in this process, or fork before the first question, or start processes with "
                "multiprocessing's \"spawn\" (multiprocessing.get_context('spawn')).",
            )
