"""Go on under a Python that is new enough, or say which one to install.

Like the two entry scripts, this file stays readable for Python 3.6: an old interpreter has to get as far as the advice.
"""

import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)
NEWER = ("python3.13", "python3.12", "python3.11", "python3.14")


def advice(major: int, minor: int) -> str:
    """What to tell the owner of a Python `major.minor` that is too old."""
    return (
        f"This needs Python 3.11 or newer; this is Python {major}.{minor}, and no newer one is on the PATH. Install one, then run this again:\n"
        "  Debian, Ubuntu  sudo apt install python3 python3-venv   (older releases: python3.11 python3.11-venv)\n"
        "  Fedora          sudo dnf install python3.12\n"
        "  macOS           brew install python@3.12\n"
        "  Windows         winget install Python.Python.3.12\n"
        "  anywhere        https://www.python.org/downloads/"
    )


def newer_python() -> str:
    """The path of a new enough Python that starts, or an empty string."""
    for name in NEWER:
        path = shutil.which(name)
        # Being on the PATH is not enough: pyenv leaves a shim for every version it ever had.
        if path and subprocess.call([path, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            return path
    return ""


def require() -> None:
    """Return when this Python is new enough; otherwise start the script again under a newer one, or exit with advice."""
    if sys.version_info[:2] >= OLDEST:
        return
    newer = newer_python()
    if not newer:
        print(advice(*sys.version_info[:2]), file=sys.stderr)
        sys.exit(1)
    command = [newer, *sys.argv]
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(newer, command)
