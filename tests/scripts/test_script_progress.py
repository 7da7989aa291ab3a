"""What a step says while it runs, and what is left of it when it fails."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from _progress import Progress, elapsed_text, pip_activity, run_step


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.9, "59s"), (75.0, "1m 15s"), (240.0, "4m 0s"), (3720.0, "1h 2m")])
def test_elapsed_text(seconds: float, text: str) -> None:
    assert elapsed_text(seconds) == text


def test_without_a_terminal_a_plain_line_every_fifteen_seconds() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress(out, "packages", clock=clock)
    for _ in range(80):
        clock.now_s += 1
        progress.tick("building llama.cpp")
    progress.close("packages: done")
    lines = [
        "building llama.cpp ...",
        *(f"building llama.cpp: {text}" for text in ("15s", "30s", "45s", "1m 0s", "1m 15s")),
        "packages: done (1m 20s)",
    ]
    assert out.getvalue().splitlines() == lines


def test_quick_steps_say_nothing() -> None:
    for out in (io.StringIO(), Terminal()):
        clock = Clock()
        progress = Progress(out, "packages", clock=clock)
        clock.now_s += 1.9
        progress.tick()
        progress.close("packages: done")
        assert out.getvalue() == ""


def test_on_a_terminal_one_line_is_drawn_over() -> None:
    out, clock = Terminal(), Clock()
    progress = Progress(out, "packages", clock=clock)
    clock.now_s += 75
    progress.tick()
    clock.now_s += 1
    progress.tick()
    text = out.getvalue()
    assert "\r| packages: 1m 15s" in text and "\r/ packages: 1m 16s" in text and "\n" not in text
    progress.close("packages: done")
    assert out.getvalue().endswith("\rpackages: done (1m 16s)\n")


@pytest.mark.parametrize(
    ("log", "activity"),
    [
        ("", None),
        ("Collecting numpy\n  Downloading numpy.whl", "downloading packages"),
        ("Collecting x\n  Building wheel for llama-cpp-python (pyproject.toml): started", "building llama.cpp"),
        ("  Building wheel for llama-cpp-python (pyproject.toml): started\n  Building wheel ...: still running...", "building packages"),
        ("  Building wheel for llama-cpp-python (pyproject.toml): still running...", "building llama.cpp"),
        (
            "  Building wheel for llama-cpp-python (pyproject.toml): finished with status 'done'\nInstalling collected packages: x",
            "installing packages",
        ),
    ],
)
def test_the_log_of_pip_tells_what_it_is_doing(log: str, activity: str | None) -> None:
    assert pip_activity(log) == activity


def test_a_step_writes_to_the_log_shows_progress_and_returns_the_exit_code(tmp_path: Path) -> None:
    out, log = io.StringIO(), tmp_path / "log"
    program = "import sys, time; print('Building wheel for llama-cpp-python: started', flush=True); time.sleep(1); sys.exit(7)"
    command = [sys.executable, "-c", program]
    code = run_step(command, label="packages", log=log, env=dict(os.environ), cwd=tmp_path, out=out, activity=pip_activity, quiet_s=0.1)
    assert code == 7
    assert log.read_text() == "Building wheel for llama-cpp-python: started\n"
    assert "building llama.cpp ...\n" in out.getvalue()
    assert "packages: failed (" in out.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_killed_step_is_a_failure(tmp_path: Path) -> None:
    program = f"import os; os.kill(os.getpid(), {int(signal.SIGTERM)})"
    code = run_step([sys.executable, "-c", program], label="x", log=tmp_path / "log", env=dict(os.environ), cwd=tmp_path, out=io.StringIO())
    assert code == 128 + signal.SIGTERM
