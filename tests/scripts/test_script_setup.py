"""The set-up of a checkout: what is done again, what survives an interruption, what a failure says. Nothing is installed here."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import TextIO

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import _machine
import _setup
from _machine import SetupError
from _setup import Checkout, Stamp

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PYPROJECT = '[project]\nname = "x"\ndependencies = ["numpy", "llama-cpp-python>=0.3,<0.4"]\n'


class FakeRunner:
    """Records each command; making the virtual environment leaves a python, and `codes` says which label fails."""

    def __init__(self, checkout: Checkout, codes: Mapping[str, int] | None = None, log: str = "") -> None:
        self.checkout, self.codes, self.log_text = checkout, codes or {}, log
        self.commands: list[list[str]] = []
        self.labels: list[str] = []
        self.envs: list[Mapping[str, str]] = []
        self.before: Callable[[str], None] = lambda label: None

    def __call__(
        self,
        command: Sequence[str],
        *,
        label: str,
        log: Path,
        env: Mapping[str, str],
        cwd: Path,
        out: TextIO,
        activity: Callable[[str], str | None] = lambda log_tail: None,
        keep_fds: Sequence[int] = (),
    ) -> int:
        self.before(label)
        self.commands.append(list(command))
        self.labels.append(label)
        self.envs.append(env)
        if "venv" in command:
            python = self.checkout.program("python")
            python.parent.mkdir(parents=True)
            python.write_text("")
        log.write_text(self.log_text)
        return self.codes.get(label, 0)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A folder with only a pyproject.toml, on a machine that lacks nothing."""
    monkeypatch.setattr(_machine, "compiler_here", lambda: True)
    monkeypatch.setattr(_machine, "require_disk", lambda folder: None)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    return Checkout(tmp_path)


def set_up(checkout: Checkout, runner: FakeRunner, extras: Sequence[str] = (), *, knowledge: bool = False) -> str:
    out = io.StringIO()
    _setup.set_up(checkout, extras, knowledge=knowledge, out=out, run=runner)
    return out.getvalue()


def test_first_set_up_makes_the_environment_installs_and_syncs(checkout: Checkout) -> None:
    runner = FakeRunner(checkout)
    set_up(checkout, runner, knowledge=True)
    assert runner.labels == ["virtual environment", "packages", "bytecode", "knowledge bases"]
    assert runner.commands[0][1:4] == ["-I", "-m", "venv"]
    assert runner.commands[1][1:] == ["-I", "-m", "pip", "install", "-e", "."]
    assert runner.commands[2][1:] == ["-I", "-m", "compileall", "-q", "mdsa_local"]
    assert runner.commands[3] == [str(checkout.program("mdsa")), "kb", "sync"]


def test_second_set_up_leaves_pip_alone(checkout: Checkout) -> None:
    set_up(checkout, FakeRunner(checkout))
    again = FakeRunner(checkout)
    assert set_up(checkout, again) == ""
    assert again.labels == []


def test_changed_pyproject_installs_again_in_the_same_environment(checkout: Checkout) -> None:
    set_up(checkout, FakeRunner(checkout))
    (checkout.root / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    again = FakeRunner(checkout)
    set_up(checkout, again)
    assert again.labels == ["packages", "bytecode"]


def test_developer_tools_are_added_once_and_serve_both_scripts(checkout: Checkout) -> None:
    set_up(checkout, FakeRunner(checkout))
    adding, after = FakeRunner(checkout), FakeRunner(checkout)
    set_up(checkout, adding, ["dev"])
    set_up(checkout, after)
    set_up(checkout, after, ["dev"])
    assert adding.commands[0][-1] == ".[dev]"
    assert after.labels == []


@pytest.mark.parametrize("label", ["virtual environment", "packages"])
def test_interrupted_set_up_leaves_no_stamp_and_is_made_anew(checkout: Checkout, label: str) -> None:
    def interrupt(running: str) -> None:
        if running == label:
            (checkout.venv / "half-written").mkdir()
            raise KeyboardInterrupt

    broken = FakeRunner(checkout)
    broken.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        set_up(checkout, broken)
    assert not checkout.stamp.exists()
    again = FakeRunner(checkout)
    set_up(checkout, again)
    assert again.labels == ["virtual environment", "packages", "bytecode"]
    assert not (checkout.venv / "half-written").exists()


def test_interrupted_update_does_not_keep_the_old_stamp(checkout: Checkout) -> None:
    set_up(checkout, FakeRunner(checkout))
    with pytest.raises(SetupError):
        set_up(checkout, FakeRunner(checkout, {"packages": 1}), ["dev"])
    assert not checkout.stamp.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"python": 1}'])
def test_unreadable_stamp_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "stamp").write_text(content)
    assert _setup.read_stamp(tmp_path / "stamp") is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, "rebuild"),
        (Stamp("3.11", "/a/.venv", "p", ()), "ready"),
        (Stamp("3.11", "/a/.venv", "p", ("dev",)), "ready"),
        (Stamp("3.11", "/a/.venv", "q", ()), "update"),
        (Stamp("3.12", "/a/.venv", "p", ()), "rebuild"),
        (Stamp("3.11", "/moved/.venv", "p", ()), "rebuild"),
    ],
)
def test_plan(found: Stamp | None, expected: str) -> None:
    assert _setup.plan(found, Stamp("3.11", "/a/.venv", "p", ())) == expected


def test_environment_of_somebody_else_is_not_touched(checkout: Checkout) -> None:
    checkout.venv.mkdir()
    (checkout.venv / "pyvenv.cfg").write_text("home = /usr")
    with pytest.raises(SetupError, match="not made by this script"):
        set_up(checkout, FakeRunner(checkout))
    assert [child.name for child in checkout.venv.iterdir()] == ["pyvenv.cfg"]


def test_failing_pip_shows_the_end_of_its_log_and_its_exit_code(checkout: Checkout) -> None:
    log = "\n".join(f"line {number}" for number in range(1, 101))
    with pytest.raises(SetupError) as caught:
        set_up(checkout, FakeRunner(checkout, {"packages": 7}, log))
    text = str(caught.value)
    assert caught.value.exit_code == 7
    assert "line 100" in text and "line 71" in text and "line 70\n" not in text
    assert text.endswith("packages: failed with exit code 7; the whole log is .venv/mdsa-setup.log")


def test_a_document_that_was_refused_is_told_and_stops_nothing(checkout: Checkout) -> None:
    said = set_up(checkout, FakeRunner(checkout, {"knowledge bases": 2}, "not added: broken.md: not UTF-8 text"), knowledge=True)
    assert "not added: broken.md" in said
    with pytest.raises(SetupError, match="exit code 7"):
        set_up(checkout, FakeRunner(checkout, {"knowledge bases": 7}), knowledge=True)


def test_failing_pip_without_network_says_that_the_network_is_needed_once(checkout: Checkout) -> None:
    log = "WARNING: Retrying ... NewConnectionError: [Errno 101] Network is unreachable\nERROR: No matching distribution found for hatchling"
    with pytest.raises(SetupError, match="The first set-up needs the network once"):
        set_up(checkout, FakeRunner(checkout, {"packages": 1}, log))


def test_missing_compiler_stops_before_anything_is_installed(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "compiler_here", lambda: False)
    monkeypatch.setattr(_machine, "command_output", lambda command: "No locally built wheels cached.")
    monkeypatch.setattr(_machine, "this_system", lambda: "Debian, Ubuntu")
    runner = FakeRunner(checkout, {"compiled llama.cpp": 1})
    with pytest.raises(SetupError, match="sudo apt install build-essential"):
        set_up(checkout, runner)
    assert "packages" not in runner.labels
    assert runner.commands[-1][-1] == "llama-cpp-python>=0.3,<0.4"


def test_missing_compiler_does_not_matter_where_pip_has_the_wheel(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "compiler_here", lambda: False)
    monkeypatch.setattr(_machine, "command_output", lambda command: " - llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl (23.8 MB)")
    runner = FakeRunner(checkout)
    set_up(checkout, runner)
    assert runner.labels == ["virtual environment", "packages", "bytecode"]


def test_children_do_not_inherit_another_python(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET"):
        monkeypatch.setenv(name, "/leak")
    monkeypatch.setenv("MDSA_HOME", "/kept")
    runner = FakeRunner(checkout)
    set_up(checkout, runner)
    assert all("/leak" not in env.values() and env["MDSA_HOME"] == "/kept" for env in runner.envs)


def test_parallel_build_is_only_a_default() -> None:
    assert _setup.child_environment({}, 6)["CMAKE_BUILD_PARALLEL_LEVEL"] == "6"
    assert _setup.child_environment({"CMAKE_BUILD_PARALLEL_LEVEL": "1"}, 6)["CMAKE_BUILD_PARALLEL_LEVEL"] == "1"


def test_programs_lie_where_each_system_puts_them() -> None:
    assert Checkout(Path("c"), windows=False).program("mdsa") == Path("c/.venv/bin/mdsa")
    windows = Checkout(Path("c"), windows=True).program("mdsa")
    assert PureWindowsPath(windows) == PureWindowsPath(r"c\.venv\Scripts\mdsa.exe")


def test_checks_stop_at_the_first_failure(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    runner = FakeRunner(checkout, {"mypy": 3}, "what it found\n")
    assert _setup.check([], run=runner, checkout=checkout) == 3
    assert capsys.readouterr().out == "ruff check: passed\nruff format --check: passed\nwhat it found\nmypy: failed\n"


def test_what_a_checker_found_goes_into_a_pipe_of_windows(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", pipe)
    assert _setup.check([], run=FakeRunner(checkout, {"ruff check": 1}, "\u256d\u2500 found\n"), checkout=checkout) == 1
    assert pipe.buffer.seek(0) == 0 and pipe.buffer.read().split() == [b"??", b"found", b"ruff", b"check:", b"failed"]


def test_checks_end_with_pytest_and_its_arguments(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[list[str]] = []

    def become(command: Sequence[str], env: Mapping[str, str]) -> int:
        handed.append(list(command))
        return 5

    monkeypatch.chdir(checkout.root)
    monkeypatch.setattr(_setup, "become", become)
    assert _setup.check(["-k", "routing"], run=FakeRunner(checkout), checkout=checkout) == 5
    assert handed == [[str(checkout.program("python")), "-m", "pytest", "-k", "routing"]]


def test_a_second_set_up_waits_for_the_first(checkout: Checkout) -> None:
    inside: list[bool] = []

    def try_second(label: str) -> None:
        with checkout.lock.open("ab") as file:
            inside.append(_setup.try_lock(file.fileno()))

    runner = FakeRunner(checkout)
    runner.before = try_second
    set_up(checkout, runner)
    assert inside == [False, False, False]


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 and inherited locks are POSIX")
def test_killed_set_up_has_no_stamp_and_the_next_waits_for_its_orphan(checkout: Checkout) -> None:
    program = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(SCRIPTS)!r})
        import _setup
        from pathlib import Path
        checkout = _setup.Checkout(Path({str(checkout.root)!r}))
        with _setup.locked(checkout, sys.stderr) as lock_fd:
            _setup.Setup(checkout, lock_fd, sys.stderr, _setup.run_step).step(
                "slow", [sys.executable, "-c", "print('started', flush=True); import time; time.sleep(2)"])
    """)
    first = subprocess.Popen([sys.executable, "-c", program])
    while not (checkout.log.exists() and checkout.log.read_text().startswith("started")):
        assert first.poll() is None
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with checkout.lock.open("ab") as file:
        assert not _setup.try_lock(file.fileno()), "the orphan still writes"
    runner = FakeRunner(checkout)
    assert "waiting for another set-up of this checkout" in set_up(checkout, runner)
    assert runner.labels == ["virtual environment", "packages", "bytecode"]


def test_failures_become_a_message_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> Callable[[], int]:
        def work() -> int:
            raise error

        return work

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert _setup.guarded(fail(SetupError("missing", 4))) == 4
        assert _setup.guarded(fail(OSError(28, "No space left on device"))) == 1
        assert _setup.guarded(fail(KeyboardInterrupt())) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    error = capsys.readouterr().err
    assert "missing" in error and "The disk is full" in error and "Interrupted" in error
