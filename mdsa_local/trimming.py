"""Import a large library without the parts of it that this program has no use for."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Trim:
    """What to leave out: modules ``unused`` and all below them, of the packages ``providers`` all modules but those named, what is imported when
    a name in it is first used, ``later``, and modules of decorators that only check, ``checks``."""

    unused: Sequence[str] = ()
    providers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    later: Sequence[str] = ()
    checks: Sequence[str] = ()

    def drops(self, name: str) -> bool:
        """Whether module ``name`` is not to be loaded now."""
        parent, _, own = name.rpartition(".")
        if parent in self.providers and own not in self.providers[parent]:
            return True
        return name in (*self.later, *self.checks) or any(name == unused or name.startswith(f"{unused}.") for unused in self.unused)


@contextmanager
def trimmed(trim: Trim) -> Iterator[None]:
    """Serve placeholders for what ``trim`` drops. They leave ``sys.modules`` in the end, so that whoever imports one of these modules later gets
    the real one. For one thread at a time."""
    finder = _Finder(trim)
    # A new list each time: other threads, which import meanwhile, go on with the one they are looking through.
    sys.meta_path = [finder, *sys.meta_path]
    try:
        yield
    finally:
        sys.meta_path = [other for other in sys.meta_path if other is not finder]
        for name in finder.served:
            sys.modules.pop(name, None)


class _Placeholder(ModuleType):
    """A module in which every public name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Later(ModuleType):
    """A module that imports the real one when a name in it is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


class _Unchecked(_Placeholder):
    """A module in which every class is empty, and every function a decorator that changes nothing."""

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name[0].isupper() or name.startswith("__") else lambda decorated: decorated


class _Finder(MetaPathFinder, Loader):
    def __init__(self, trim: Trim) -> None:
        self.trim = trim
        self.served: list[str] = []
        # Another thread wants the real ones.
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        wanted = threading.get_ident() == self._thread and self.trim.drops(fullname)
        return ModuleSpec(fullname, self, is_package=True) if wanted else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.served.append(spec.name)
        kind = _Later if spec.name in self.trim.later else _Unchecked if spec.name in self.trim.checks else _Placeholder
        return kind(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass
