"""What this machine lacks for a set-up, and how to install it: pure decisions, with thin probes at the end."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

NEEDED_DISK_BYTES = 1_500_000_000

NETWORK = (
    "pip could not reach the package index. The first set-up needs the network once; nothing after that does.\n"
    "Connect (behind a proxy: set HTTPS_PROXY), then run this again."
)
DISK = (
    "The disk is full. A set-up needs about 1.5 GB in this checkout, 4 GB with the developer tools, and some in the temporary folder. "
    "Free some space, then run this again."
)
MEMORY = (
    "The compiler ran out of memory. Close other programs or compile one file at a time (environment variable CMAKE_BUILD_PARALLEL_LEVEL=1), "
    "then run this again."
)

BUILDS = (
    "A package has no build for this Python. They are made for Linux, for macOS on Apple silicon and for Windows on x64, 64 bits each, and for "
    "versions of Python that are not brand-new.\n"
    "On a Mac with Apple silicon take a Python for arm64, not for Intel; on Windows for ARM one for x64; then run this again under it."
)

_COMPILER_COMMANDS = {
    "Debian, Ubuntu": "sudo apt install build-essential",
    "Fedora": "sudo dnf install gcc-c++ make",
    "macOS": "xcode-select --install",
    "Windows": 'Visual Studio Build Tools, workload "Desktop development with C++": https://visualstudio.microsoft.com/downloads/',
}

_LOG_SIGNS = (
    (DISK, r"No space left on device|\[Errno 28\]|not enough space on the disk|WinError 112"),
    (MEMORY, r"Killed signal terminated program|out of memory allocating|virtual memory exhausted|compiler is out of heap space"),
    ("compiler", r"CMAKE_C(XX)?_COMPILER not set|No CMAKE_C(XX)?_COMPILER could be found|could not find any instance of Visual Studio"),
    (
        NETWORK,
        r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|Network is unreachable|getaddrinfo failed"
        r"|Temporary failure in name resolution|nodename nor servname|Max retries exceeded|Connection refused|Connection reset",
    ),
    (BUILDS, r"No matching distribution found for (lancedb|onnxruntime|pyarrow|tokenizers)\b"),
)


class SetupError(Exception):
    """The set-up cannot go on; the message says what is missing and what to do about it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def system_name(sys_platform: str, os_release: str) -> str:
    """A key of the table of compilers, or an empty string where the system is not one of them."""
    if sys_platform in ("darwin", "win32"):
        return {"darwin": "macOS", "win32": "Windows"}[sys_platform]
    ids = " ".join(re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)', os_release, re.MULTILINE)).split()
    if {"debian", "ubuntu"} & set(ids):
        return "Debian, Ubuntu"
    return "Fedora" if {"fedora", "rhel"} & set(ids) else ""


def compiler_advice(system: str) -> str:
    """How to get a C/C++ compiler on `system`, a name from `system_name`."""
    known = {system: _COMPILER_COMMANDS[system]} if system in _COMPILER_COMMANDS else _COMPILER_COMMANDS
    lines = "\n".join(f"  {name:<15} {command}" for name, command in known.items())
    return f"A C/C++ compiler is missing: llama.cpp is compiled once on this machine. Install one, then run this again:\n{lines}"


def venv_advice(version: tuple[int, int], system: str) -> str:
    """How to get the modules `venv` and `ensurepip` for the running Python."""
    named = f"python{version[0]}.{version[1]}-venv"
    how = (
        f"  sudo apt install python3-venv   (or {named})"
        if system in ("Debian, Ubuntu", "")
        else "  reinstall Python with pip and venv: https://www.python.org/downloads/"
    )
    missing = f"This Python {version[0]}.{version[1]} cannot make virtual environments: its module venv or ensurepip is missing."
    return f"{missing} Install it, then run this again:\n{how}"


def diagnose(log: str, system: str) -> str:
    """Advice for the failure that the log of pip shows, or an empty string where it is none that we know."""
    for text, sign in _LOG_SIGNS:
        if re.search(sign, log, re.IGNORECASE):
            return compiler_advice(system) if text == "compiler" else text
    return ""


def explain_os_error(error: OSError) -> str:
    """One sentence for a failure to write in the checkout."""
    if error.errno == errno.ENOSPC:
        return DISK
    return f"The set-up could not write in this checkout: {error}"


def has_compiler(
    sys_platform: str, environ: Mapping[str, str], which: Callable[[str], str | None], output: Callable[[list[str]], str | None]
) -> bool:
    """Whether CMake will find a C and a C++ compiler; `output` gives a command's stdout, None where it fails."""
    if sys_platform == "win32":
        folder = environ.get("ProgramFiles(x86)", r"C:\Program Files (x86)")
        vswhere = folder + r"\Microsoft Visual Studio\Installer\vswhere.exe"
        tools = ["-latest", "-products", "*", "-requires", "Microsoft.VisualStudio.Component.VC.Tools.x86.x64", "-property", "installationPath"]
        return bool(which("cl") or (output([vswhere, *tools]) or "").strip())
    if sys_platform == "darwin" and output(["xcode-select", "-p"]) is None:
        return False  # /usr/bin/cc is there all the same: a stub that asks to install the tools
    return all(
        environ.get(variable) or any(which(name) for name in names)
        for variable, names in (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++")))
    )


def command_output(command: list[str]) -> str | None:
    """The stdout of a command, None where it is missing or fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
    except OSError:
        return None
    # A folder in it may have letters of any encoding.
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def this_system() -> str:
    """`system_name` of this machine."""
    release = Path("/etc/os-release")
    return system_name(sys.platform, release.read_text(errors="replace") if release.is_file() else "")


def compiler_here() -> bool:
    """`has_compiler` for this machine."""
    return has_compiler(sys.platform, os.environ, shutil.which, command_output)


def require_venv(find_spec: Callable[[str], object] = importlib.util.find_spec) -> None:
    """Raise SetupError where this Python cannot make a virtual environment with pip in it (Debian ships the two apart)."""
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        raise SetupError(venv_advice(sys.version_info[:2], this_system()))


def require_disk(folder: Path, free_bytes: int | None = None) -> None:
    """Raise SetupError where `folder` has too little room for the virtual environment."""
    free = shutil.disk_usage(folder).free if free_bytes is None else free_bytes
    if free < NEEDED_DISK_BYTES:
        raise SetupError(f"Only {free / 1e9:.1f} GB are free here. {DISK}")
