"""Processes of this package's own, for work that has to be stoppable or contained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


def started(module: str, *arguments: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
    """``python -m module`` with pipes to its standard input and from its errors; ``stdout`` as for :class:`subprocess.Popen`."""
    # The child must find this package however the parent found it.
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, env=environment)


def family(process: psutil.Process, launched: bool = sys.platform == "win32") -> list[psutil.Process]:
    """A process of Python; where it is ``launched``, with those it started: on Windows the ``python.exe`` of a virtual environment is a small program
    that starts the real one. Raises ``psutil.Error`` when it is gone."""
    return [process, *process.children(recursive=True)] if launched else [process]
