"""Steps of making a model: modules of ``mdsa_local.training``, each run as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# By itself glibc gives the memory of each training step back to the system and gets it anew, page by page: of the encoder's first run a third of the
# time on a CPU. With these it keeps it: 4 GB there in bfloat16, 6 GB in the third run in float32.
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": str(1 << 28), "MALLOC_ARENA_MAX": "1"}


def step(module: str, *arguments: str | Path | float, settings: Mapping[str, str] | None = None) -> str:
    """Run a module of ``mdsa_local.training``, with ``settings`` in its environment; its output shown and returned; ends the script when it fails."""
    command = [sys.executable, "-u", "-m", f"mdsa_local.training.{module}", *map(str, arguments)]
    print("$", " ".join(command[2:]), flush=True)
    said = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **(settings or {})}) as process:
        for text in process.stdout or ():
            print(text, end="", flush=True)
            said.append(text)
    if process.returncode:
        sys.exit(process.returncode)
    return "".join(said)
