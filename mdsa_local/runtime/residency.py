"""Which models stay in memory: a pure decision, without threads or files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mdsa_local.errors import ConfigError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30, "k": 2**10, "m": 2**20, "g": 2**30}


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory. ``uses`` counts the callers that hold it; ``last_used`` grows with each use."""

    name: str
    size_bytes: int
    uses: int
    last_used: int


def choose_evictions(loaded: Sequence[Resident], needed_bytes: int, budget_bytes: int, max_models: int | None = None) -> tuple[str, ...] | None:
    """Names to unload, least recently used first, so that ``needed_bytes`` more fit; None when models in use leave no room.

    Models in use are never chosen, and none is chosen that could have stayed.
    """
    limit = max_models or len(loaded) + 1

    def fits(gone: Sequence[Resident]) -> bool:
        used = sum(model.size_bytes for model in loaded) - sum(model.size_bytes for model in gone)
        return used + needed_bytes <= budget_bytes and len(loaded) - len(gone) < limit

    gone: list[Resident] = []
    idle = sorted((model for model in loaded if not model.uses), key=lambda model: model.last_used)
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
