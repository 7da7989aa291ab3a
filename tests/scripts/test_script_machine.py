"""What is missing on a machine is said plainly, before anything is installed, even by an interpreter that is too old."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import _machine
import _python
from _machine import SetupError

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = ("run", "test")


def as_old_python(entry: str, path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an entry script with an interpreter that says it is 3.9, seeing only the programs in `path`."""
    script = str(ROOT / "scripts" / entry)
    pretence = f"import runpy, sys; sys.version_info = (3, 9, 2, 'final', 0); sys.argv = {[script, *arguments]!r}"
    program = f"{pretence}; runpy.run_path({script!r}, run_name='__main__')"
    return subprocess.run([sys.executable, "-B", "-c", program], env={"PATH": str(path)}, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("entry", ENTRIES)
def test_old_python_gets_advice(entry: str, tmp_path: Path) -> None:
    done = as_old_python(entry, tmp_path)
    assert done.returncode == 1
    assert "This needs Python 3.11 or newer; this is Python 3.9" in done.stderr
    assert "sudo apt install python3" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the fake interpreter is a shell script")
def test_old_python_hands_over_to_a_newer_one_that_starts(tmp_path: Path) -> None:
    for name, body in (("python3.13", "exit 1"), ("python3.12", 'echo "newer: $*"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = as_old_python("run", tmp_path, "what is an index fund?")
    assert done.returncode == 0
    assert done.stdout.strip() == f"newer: {ROOT / 'scripts' / 'run'} what is an index fund?"


@pytest.mark.parametrize("entry", [*ENTRIES, "_python.py"])
def test_old_python_can_parse_what_it_has_to(entry: str) -> None:
    ast.parse((ROOT / "scripts" / entry).read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_sets_nothing_up(entry: str, tmp_path: Path) -> None:
    done = as_old_python(entry, tmp_path, "--help")
    assert done.returncode == 0
    assert f"scripts/{entry}" in done.stdout


def test_new_python_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_python, "newer_python", lambda: pytest.fail("looked for another Python"))
    _python.require()


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_missing_venv_module(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "this_system", lambda: "Debian, Ubuntu")
    with pytest.raises(SetupError, match="sudo apt install python3-venv"):
        _machine.require_venv(lambda name: None if name == missing else object())


@pytest.mark.parametrize(
    ("platform", "release", "command"),
    [
        ("linux", 'ID=debian\nVERSION_ID="12"', "sudo apt install build-essential"),
        ("linux", "ID=linuxmint\nID_LIKE=ubuntu", "sudo apt install build-essential"),
        ("linux", 'ID="rocky"\nID_LIKE="rhel centos fedora"', "sudo dnf install gcc-c++ make"),
        ("darwin", "", "xcode-select --install"),
        ("win32", "", "Visual Studio Build Tools"),
    ],
)
def test_missing_compiler_names_the_one_command_for_this_system(platform: str, release: str, command: str) -> None:
    advice = _machine.compiler_advice(_machine.system_name(platform, release))
    assert command in advice
    assert len(advice.splitlines()) == 2


def test_missing_compiler_on_an_unknown_system_lists_all() -> None:
    advice = _machine.compiler_advice(_machine.system_name("linux", "ID=arch"))
    assert all(command in advice for command in ("apt install", "dnf install", "xcode-select", "Build Tools"))


def only(*names: str) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in names else None


@pytest.mark.parametrize(
    ("platform", "environ", "programs", "output", "expected"),
    [
        ("linux", {}, ("cc", "c++"), None, True),
        ("linux", {}, ("clang", "clang++"), None, True),
        ("linux", {}, ("gcc",), None, False),
        ("linux", {"CC": "zig cc", "CXX": "zig c++"}, (), None, True),
        ("linux", {}, (), None, False),
        ("darwin", {}, ("cc", "c++"), None, False),
        ("darwin", {}, ("cc", "c++"), "/Library/Developer/CommandLineTools\n", True),
        ("win32", {}, ("cc", "c++"), "", False),
        ("win32", {}, (), "C:\\BuildTools\r\n", True),
        ("win32", {}, ("cl",), None, True),
    ],
)
def test_has_compiler(platform: str, environ: dict[str, str], programs: tuple[str, ...], output: str | None, expected: bool) -> None:
    assert _machine.has_compiler(platform, environ, only(*programs), lambda command: output) is expected


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", _machine.DISK),
        ("Temporary failure in name resolution\nERROR: No matching distribution found for numpy", _machine.NETWORK),
        ("ERROR: Could not find a version\nERROR: No matching distribution found for lancedb<0.41,>=0.40", _machine.BUILDS),
        ("CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage", _machine.compiler_advice("Fedora")),
        ("c++: fatal error: Killed signal terminated program cc1plus", _machine.MEMORY),
        ("ERROR: ResolutionImpossible", ""),
    ],
)
def test_the_log_of_pip_is_explained(log: str, advice: str) -> None:
    assert _machine.diagnose(log, "Fedora") == advice


def test_too_little_disk_is_said_before_the_set_up(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"Only 0\.4 GB are free"):
        _machine.require_disk(tmp_path, free_bytes=400_000_000)
    _machine.require_disk(tmp_path, free_bytes=10_000_000_000)


def test_command_output_of_a_missing_program_is_none() -> None:
    assert _machine.command_output(["no-such-program-anywhere"]) is None
    assert _machine.command_output([sys.executable, "-c", "print(1, end='')"]) == "1"
    assert _machine.command_output([sys.executable, "-c", "import os; os.write(1, b'C:\\\\M\\xfcll')"]) == "C:\\M\ufffdll"
