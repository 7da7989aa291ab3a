"""What a model file takes in memory: loaded by llama.cpp in a fresh process and asked once.

python -m mdsa_local.runtime.footprint FILE.gguf
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from mdsa_local.domains.config import Generation
from mdsa_local.errors import ModelError
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.library import library
from mdsa_local.runtime.llamacpp import LlamaCppBackend

CONTEXT = 1024
MB = 1e6


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the process grew by, in MB: ``own_mb`` is its alone; ``file_mb`` are pages of the file, which the system can take back (0 where it
    does not tell them apart)."""

    own_mb: float
    file_mb: float


def measure(path: Path) -> Footprint:
    """The footprint of a GGUF. Raises :class:`ModelError` with what the process said when it does not load."""
    command = [sys.executable, "-m", "mdsa_local.runtime.footprint", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ModelError(f"{path}: cannot be loaded: {said[-1] if said else 'the process ended'}", "Make the file again, or ask `mdsa models show`.")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def _resident() -> tuple[int, int]:
    """Bytes in memory that are this process's alone, and those that are pages of files."""
    memory = psutil.Process().memory_info()
    shared = int(getattr(memory, "shared", 0))
    return memory.rss - shared, shared


def _here(path: Path) -> Footprint:
    # The library itself, and what it sets up once, belong to no model.
    library()
    before = _resident()
    backend = LlamaCppBackend(path, path.stem, CONTEXT, parallel=1, gpu_layers=0)
    for _ in backend.stream([Message("user", "What does a new card cost?")], Generation(max_tokens=16), deadline_s=600):
        pass
    after = _resident()
    backend.close()
    return Footprint(*(round((now - then) / MB, 1) for now, then in zip(after, before, strict=True)))


if __name__ == "__main__":
    print(json.dumps(asdict(_here(Path(sys.argv[1])))))
