"""Which models stay in memory: a pure decision, without threads or files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mdsa_local.errors import ConfigError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30, "k": 2**10, "m": 2**20, "g": 2**30}


State = Literal["absent", "loading", "ready", "unloading", "failed"]
# From each state, those that may follow.
FOLLOWING: Mapping[State, tuple[State, ...]] = {
    "absent": ("loading", "failed"),
    "loading": ("ready", "failed", "absent"),
    "ready": ("unloading",),
    "unloading": ("absent", "failed"),
    "failed": ("loading", "failed"),
}


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory. ``uses`` counts the callers that hold it; ``last_used`` grows with each use; ``reload_s``: what loading it took, in
    seconds; ``pinned``: never to be unloaded for another."""

    name: str
    size_bytes: int
    uses: int
    last_used: int
    reload_s: float = 1.0
    pinned: bool = False


def choose_evictions(loaded: Sequence[Resident], needed_bytes: int, budget_bytes: int, max_models: int | None = None) -> tuple[str, ...] | None:
    """Names to unload so that ``needed_bytes`` more fit; None when models that are in use or pinned leave no room.

    First goes what costs least to lose: seconds to load it again over the turns since it was last used, so the least recently used where loading
    takes alike (GreedyDual's idea, Young 1994). None is chosen that could have stayed.
    """
    limit = max_models or len(loaded) + 1
    now = max((model.last_used for model in loaded), default=0) + 1

    def fits(gone: Sequence[Resident]) -> bool:
        used = sum(model.size_bytes for model in loaded) - sum(model.size_bytes for model in gone)
        return used + needed_bytes <= budget_bytes and len(loaded) - len(gone) < limit

    def loss(model: Resident) -> tuple[float, int]:
        return model.reload_s / (now - model.last_used), model.last_used

    gone: list[Resident] = []
    idle = sorted((model for model in loaded if not model.uses and not model.pinned), key=loss)
    while not fits(gone):
        if not idle:
            return None
        gone.append(idle.pop(0))
    for model in reversed(gone):
        if fits(without := [other for other in gone if other is not model]):
            gone = without
    return tuple(model.name for model in gone)


def parse_bytes(size: int | str) -> int:
    """``4_000_000_000``, ``"4GB"``, ``"512 MiB"`` in bytes. Raises :class:`ConfigError` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(size).lower())
    if not match or match[2] not in UNITS or float(match[1]) <= 0:
        raise ConfigError(f"{size!r} is no memory size", "Write a number of bytes, or a number with KB, MB, GB, KiB, MiB or GiB.")
    return int(float(match[1]) * UNITS[match[2]])


def describe_bytes(size: int) -> str:
    """A size for people: ``1.5 GB``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
