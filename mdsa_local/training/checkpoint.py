"""Checkpoints that survive a kill, a full disk and a flipped bit.

A checkpoint is written beside its place, flushed to the disk and renamed; the one before is kept as ``NAME.previous``. It ends in the SHA-256
of what it holds: torch itself does not notice a flipped bit.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch

from mdsa_local.durable import on_disk, replacing
from mdsa_local.errors import DependencyError, StorageError

logger = logging.getLogger(__name__)

DIGEST_BYTES = 32


def device(wanted: str = "auto") -> torch.device:
    """CUDA when there is one, else the CPU; or the one that is asked for. Raises :class:`DependencyError` for a GPU that torch does not see."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DependencyError("torch sees no CUDA device", "Use --device cpu, or install a build of torch for your GPU and its driver.")
    return torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu")


def save(state: object, path: Path) -> None:
    """Write ``state``. Raises :class:`StorageError`; what ``path`` held before is then still there."""
    # By way of memory: torch's own writer takes a full disk for a fault of its own.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    with replacing(path) as partial:
        with partial.open("wb") as file:
            file.write(data)
            file.write(hashlib.sha256(data).digest())
            file.flush()
            # Before the one of before goes.
            on_disk(file.fileno())
        if path.exists():
            previous = _previous(path)
            previous.unlink(missing_ok=True)
            try:
                # A second name for the same bytes: there is no moment without a checkpoint.
                os.link(path, previous)
            except OSError:
                # Not every file system knows second names.
                shutil.copyfile(path, previous)


def load(path: Path, where: torch.device | str = "cpu") -> dict[str, Any]:
    """The state of a checkpoint; of the one before, with a warning, when this one is damaged. Raises :class:`StorageError` when both are."""
    state = _whole(path, where)
    if state is None and _previous(path).is_file():
        state = _whole(_previous(path), where)
        if state is not None:
            logger.warning("%s is damaged; going on from the one before, %s", path, _previous(path).name)
    if state is None:
        raise StorageError(f"{path}: damaged, or no checkpoint of this program", "Delete it to begin this step again.")
    return state


class Stateful(Protocol):
    """What a checkpoint keeps and gives back: a model, an optimiser."""

    def state_dict(self) -> Any:
        """Its state."""

    def load_state_dict(self, state: Any, /) -> object:
        """Be as it was."""


class Chance:
    """The state of chance, kept that what is drawn is the same as without a stop."""

    def state_dict(self) -> torch.Tensor:
        """That of the device that trains."""
        return torch.cuda.get_rng_state() if device().type == "cuda" else torch.get_rng_state()

    def load_state_dict(self, state: torch.Tensor, /) -> None:
        """Go on from it."""
        (torch.cuda.set_rng_state if device().type == "cuda" else torch.set_rng_state)(state)


def keep(path: Path, step: int, **parts: Stateful) -> None:
    """Write what :func:`resume` reads: the state of each part under its name, and the step. Raises as :func:`save`."""
    save({name: part.state_dict() for name, part in parts.items()} | {"step": step}, path)


def resume(path: Path, **parts: Stateful) -> int:
    """Put the state of each part in place and tell it, if there is a checkpoint; the step to go on with. Raises as :func:`load`."""
    if not path.exists():
        return 0
    step = restore(path, **parts)
    print(f"resumed at step {step}", flush=True)
    return step


def restore(path: Path, **parts: Stateful) -> int:
    """Put the state of these parts in place, whatever else the checkpoint holds; its step. Raises as :func:`load`."""
    state = load(path)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _whole(path: Path, where: torch.device | str) -> dict[str, Any] | None:
    """The state, or None where the digest is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}", "Check the file and its permissions.") from None
    body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        return None
    state = torch.load(io.BytesIO(body), map_location=where, weights_only=True)
    return state if isinstance(state, dict) else None
