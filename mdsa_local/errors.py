"""Every error the product raises on purpose.

    MDSAError
    ├── InputError               the question or an argument cannot be used
    │   └── ContextOverflowError the question alone does not fit the model's context
    ├── ConfigError              a YAML file or setting is wrong; names file and key
    ├── UnknownNameError         no such domain, document or backend; lists the known ones
    ├── ModelError               a model cannot be used
    │   ├── ModelNotFoundError   its file or name does not exist
    │   ├── ModelFileError       the file is truncated, damaged or no GGUF
    │   └── ModelMemoryError     it does not fit the memory budget
    ├── BackendError             a runtime failed
    │   ├── BackendUnavailableError   not installed, not running, not reachable, or it broke off
    │   ├── BackendTimeoutError       did not answer in time
    │   ├── ClosedError               it, or the whole orchestrator, was closed
    │   ├── BusyError                 its queue is full; says when to come back
    │   └── InvalidOutputError        answered what does not follow the schema, twice
    ├── DependencyError          an optional package is missing; says how to install it
    └── StorageError             the disk: read-only, full, locked or damaged

Each carries a ``hint`` (what to do next), whether a retry can help, an HTTP status and an exit code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher, get_close_matches
from types import UnionType
from typing import Any, Self


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that ``name`` is most like, in whatever case, empty where none is near."""
    folded = {other.casefold(): other for other in sorted(known)}
    return next((folded[close] for close in get_close_matches(name.casefold(), folded, 1)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The beginning of a hint that asks for the nearest known name, empty where none is near."""
    return f"Did you mean {close!r}? " if (close := nearest(name, known)) else ""


# Of more names than this only so many are told.
MOST_TOLD, SHORT = 40, 10


class MDSAError(Exception):
    """Base of all. ``str(error)`` says what happened; ``hint`` says what to do about it."""

    status = 500
    exit_code = 1
    retryable = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def told(self) -> str:
        """What happened and what to do about it, as sentences of one line."""
        return " ".join(f"{part.rstrip('. ')}." for part in (str(self), self.hint) if part)

    @property
    def code(self) -> str:
        """Stable snake-case name for envelopes: ``UnknownNameError`` is ``unknown_name``."""
        name = type(self).__name__.removesuffix("Error")
        return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name)).replace("m_d_s_a", "internal")

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> Self:
        """The error for the unknown ``name``, listing what is known, of very much the most alike, and the nearest match."""
        names = sorted(known)
        told, more = names, ""
        if len(names) > MOST_TOLD:
            alike = {other: SequenceMatcher(None, name.lower(), other.lower()).quick_ratio() for other in names}
            told, more = sorted(sorted(names, key=lambda other: -alike[other])[:SHORT]), f" and {len(names) - SHORT} more"
        # A file may have a line end in its name.
        shown = ", ".join(one if one.isprintable() else repr(one)[1:-1] for one in told)
        return cls(f"unknown {kind} {name!r}", f"{did_you_mean(name, names)}Known: {shown or 'none'}{more}.")

    def envelope(self) -> dict[str, object]:
        """The one shape in which an error leaves the program, on the command line and over HTTP."""
        return {"error": {"code": self.code, "message": str(self), "hint": self.hint, "retryable": self.retryable}}


def expected(value: object, kind: type | UnionType, what: str, hint: str, error: type[MDSAError] | None = None) -> None:
    """Raise ``error``, :class:`InputError` when None, where an argument, called ``what`` in its message, is not of ``kind``."""
    if not isinstance(value, kind):
        shown = "None" if value is None else f"{type(value).__name__} {value!r:.60}"
        raise (error or InputError)(f"{what} cannot be {shown}", hint)


def several(given: object) -> list[Any]:
    """One or several arguments as a list: a text or bytes, and what is no list, is one, for :func:`expected` to tell of."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else [given]


class InputError(MDSAError):
    """The question or an argument cannot be used."""

    status, exit_code = 400, 2


class ContextOverflowError(InputError):
    """The question alone does not fit the model's context."""

    status = 413


class ConfigError(MDSAError):
    """A YAML file or a setting is wrong."""

    exit_code = 3


class UnknownNameError(MDSAError):
    """No domain, document or backend has this name."""

    status, exit_code = 404, 4


class ModelError(MDSAError):
    """A model cannot be used."""

    status, exit_code = 503, 5


class ModelNotFoundError(ModelError):
    """The model's file or name does not exist."""

    status = 404


class ModelFileError(ModelError):
    """The model's file is truncated, damaged or not a GGUF."""


class ModelMemoryError(ModelError):
    """The model does not fit the memory budget."""


class BackendError(MDSAError):
    """A runtime failed."""

    status, exit_code = 502, 6


class BackendUnavailableError(BackendError):
    """The runtime is not installed, not running or not reachable, or broke off in the middle of an answer."""

    status, retryable = 503, True


class BackendTimeoutError(BackendError):
    """The runtime did not answer in time."""

    status, retryable = 504, True


class ClosedError(BackendError):
    """The orchestrator, or its model manager, was closed."""

    status = 503


class BusyError(BackendError):
    """The runtime's queue is full. ``retry_after_s`` says when to come back."""

    status, retryable = 429, True

    def __init__(self, message: str, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s


class InvalidOutputError(BackendError):
    """The model's answer does not follow the schema, and neither does the second one."""


class DependencyError(MDSAError):
    """An optional package is missing."""

    status, exit_code = 501, 3


class StorageError(MDSAError):
    """The disk: read-only, full, locked or damaged."""

    status, exit_code = 507, 7


def of_system(error: OSError, kind: type[MDSAError] = StorageError) -> MDSAError:
    """What an error of the operating system that names a path is told as: an error of ``kind``."""
    return kind(f"{error.filename}: {error.strerror or error}", "Check the path, and the permissions of its folders.")


@contextmanager
def looking(kind: type[MDSAError]) -> Iterator[None]:
    """For a block or, as its decorator, for a function: raise ``kind`` where the system does not let it see what is at a path."""
    try:
        yield
    except OSError as error:
        raise of_system(error, kind) from None
