"""Set up a checkout: a virtual environment, the package in it, the shipped knowledge bases; then answer or check.

A set-up is safe to repeat, to interrupt and to run twice at once. Everything it owns lies in `.venv`: the lock says that the folder is ours,
the stamp, written last, says that it is complete. What it says goes to stderr; stdout belongs to the command that follows.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NoReturn, Protocol, TextIO

import _machine
from _machine import SetupError
from _progress import Progress, pip_activity, run_step, tail

CHECKS = (("ruff check", ("ruff", "check")), ("ruff format --check", ("ruff", "format", "--check")), ("mypy", ("mypy",)))
LEAKS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
TAIL_LINES = 30
# So `mdsa kb sync` ends when all was done but for files that it refused.
REFUSED = 2


class Runner(Protocol):
    """What `run_step` does; the tests put a recorder in its place."""

    def __call__(
        self,
        command: Sequence[str],
        *,
        label: str,
        log: Path,
        env: Mapping[str, str],
        cwd: Path,
        out: TextIO,
        activity: Callable[[str], str | None] = ...,
        keep_fds: Sequence[int] = ...,
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Checkout:
    """Where things lie in a checkout."""

    root: Path
    windows: bool = os.name == "nt"

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def lock(self) -> Path:
        return self.venv / "mdsa-setup.lock"

    @property
    def stamp(self) -> Path:
        return self.venv / "mdsa-setup.json"

    @property
    def log(self) -> Path:
        return self.venv / "mdsa-setup.log"

    def program(self, name: str) -> Path:
        """A program of the virtual environment: `Scripts/name.exe` on Windows, `bin/name` elsewhere."""
        return self.venv / "Scripts" / f"{name}.exe" if self.windows else self.venv / "bin" / name


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a complete set-up was made from."""

    python: str
    place: str
    pyproject: str
    extras: tuple[str, ...]


def wanted_stamp(checkout: Checkout, extras: Sequence[str]) -> Stamp:
    """The stamp that a set-up of this checkout by this Python would leave."""
    python = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]} {platform.machine()}"
    digest = hashlib.sha256((checkout.root / "pyproject.toml").read_bytes()).hexdigest()
    return Stamp(python, str(checkout.venv), digest, tuple(sorted(extras)))


def read_stamp(path: Path) -> Stamp | None:
    """The stamp of a complete set-up, None where there is none that can be read."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Stamp(fields["python"], fields["place"], fields["pyproject"], tuple(fields["extras"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_stamp(path: Path, stamp: Stamp) -> None:
    """Write the stamp whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(stamp), indent=1), encoding="utf-8")
    temporary.replace(path)


def plan(found: Stamp | None, wanted: Stamp) -> Literal["ready", "update", "rebuild"]:
    """What is left to do; a virtual environment cannot be moved, nor change its Python."""
    if found is None or (found.python, found.place) != (wanted.python, wanted.place):
        return "rebuild"
    return "ready" if found.pyproject == wanted.pyproject and set(wanted.extras) <= set(found.extras) else "update"


def child_environment(environ: Mapping[str, str], cores: int) -> dict[str, str]:
    """`environ` without what would leak another Python or another target into the virtual environment."""
    kept = {name: value for name, value in environ.items() if name not in LEAKS}
    kept.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(cores))
    return {**kept, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def is_ours(checkout: Checkout) -> bool:
    """Whether `.venv` is free to take: not there, empty, or made by an earlier set-up."""
    return checkout.lock.exists() or not checkout.venv.exists() or not any(checkout.venv.iterdir())


def try_lock(descriptor: int) -> bool:
    """Take the lock on an open file without waiting; the system gives it back when the last holder ends, however that ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def locked(checkout: Checkout, out: TextIO, poll_s: float = 0.3) -> Iterator[int]:
    """Hold the checkout's lock, waiting for another set-up of it to end; yields the descriptor that holds it."""
    if not is_ours(checkout):
        raise SetupError("The folder .venv was not made by this script. Move it away or delete it, then run this again.")
    checkout.venv.mkdir(exist_ok=True)
    with checkout.lock.open("ab") as file:
        waiting = Progress(out, "waiting for another set-up of this checkout to end", quiet_s=0.0)
        file.seek(0)
        while not try_lock(file.fileno()):
            waiting.tick()
            time.sleep(poll_s)
        waiting.close("the other set-up has ended")
        yield file.fileno()


def empty_venv(checkout: Checkout) -> None:
    """Remove what an incomplete or outdated set-up left; the lock stays, so that the folder is still known as ours when this is cut short."""
    for child in checkout.venv.iterdir():
        if child == checkout.lock:
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


class Setup:
    """One set-up of one checkout, under its lock: the steps share the log, the environment and the runner."""

    def __init__(self, checkout: Checkout, lock_fd: int, out: TextIO, run: Runner) -> None:
        self._checkout, self._out, self._run = checkout, out, run
        self._env = child_environment(os.environ, available_cores())
        self._keep_fds = () if checkout.windows else (lock_fd,)

    def install(self, extras: Sequence[str]) -> None:
        """Make `.venv` hold the package with `extras`; nothing is touched where the stamp says that it does."""
        checkout, wanted = self._checkout, wanted_stamp(self._checkout, extras)
        found = read_stamp(checkout.stamp) if checkout.program("python").exists() else None
        todo = plan(found, wanted)
        if todo == "ready":
            return
        if todo == "rebuild":
            _machine.require_venv()
            _machine.require_disk(checkout.venv)
        checkout.stamp.unlink(missing_ok=True)
        if todo == "rebuild":
            self._say("Setting up this checkout: once, with the network, some minutes.")
            empty_venv(checkout)
            self.step("virtual environment", [sys.executable, "-I", "-m", "venv", str(checkout.venv)])
            self._require_compiler()
        target = f".[{','.join(wanted.extras)}]" if wanted.extras else "."
        self.step("packages", self._python("-m", "pip", "install", "-e", target), activity=pip_activity)
        # pip does it for what it copies. Without, each start compiles the sources again where PYTHONDONTWRITEBYTECODE is set: 0.15 s.
        self.step("bytecode", self._python("-m", "compileall", "-q", "mdsa_local"))
        write_stamp(checkout.stamp, wanted)

    def sync_knowledge(self) -> None:
        """Bring the user's knowledge bases up to what this checkout ships. A document of theirs that cannot be used is told, and stops nothing."""
        try:
            self.step("knowledge bases", [str(self._checkout.program("mdsa")), "kb", "sync"])
        except SetupError as error:
            if error.exit_code != REFUSED:
                raise
            self._say(str(error))

    def step(self, label: str, command: Sequence[str], *, activity: Callable[[str], str | None] = lambda log_tail: None) -> None:
        """Run a command into the log; raise SetupError with the log's tail, advice and the command's exit code where it fails."""
        log, root = self._checkout.log, self._checkout.root
        log.write_bytes(b"")
        code = self._run(command, label=label, log=log, env=self._env, cwd=root, out=self._out, activity=activity, keep_fds=self._keep_fds)
        if code:
            text = tail(log)
            advice = _machine.diagnose(text, _machine.this_system()) if "pip" in command else ""
            raise SetupError(failure_text(label, code, text, log.relative_to(root), advice), code)

    def _require_compiler(self) -> None:
        """Raise SetupError where llama.cpp would have to be compiled and cannot be."""
        if _machine.compiler_here():
            return
        self._say("No C/C++ compiler here; looking for a llama.cpp that is compiled already ...")
        self._env["PIP_PREFER_BINARY"] = "1"
        cached = _machine.command_output([*self._python("-m", "pip", "cache", "list", "llama_cpp_python")])
        if cached and "llama_cpp_python" in cached:
            return
        search = self._python("-m", "pip", "install", "--dry-run", "--no-deps", "--only-binary=:all:", llama_requirement(self._checkout))
        try:
            self.step("compiled llama.cpp", search)
        except SetupError as error:
            if _machine.NETWORK in str(error):
                raise
            raise SetupError(_machine.compiler_advice(_machine.this_system())) from None

    def _python(self, *arguments: str) -> Sequence[str]:
        return [str(self._checkout.program("python")), "-I", *arguments]

    def _say(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


def llama_requirement(checkout: Checkout) -> str:
    """What pyproject.toml asks of llama-cpp-python, such as `llama-cpp-python>=0.3,<0.4`."""
    project = tomllib.loads((checkout.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next((str(line) for line in project["dependencies"] if line.startswith("llama-cpp-python")), "llama-cpp-python")


def failure_text(label: str, code: int, log: str, log_name: Path, advice: str) -> str:
    """What to print when a step failed: the end of its log, then the advice if there is any."""
    lines = log.replace(str(Path.home()), "~").splitlines()[-TAIL_LINES:]
    shown = [*(f"  {line}" for line in lines), f"{label}: failed with exit code {code}; the whole log is {log_name.as_posix()}"]
    return "\n".join([*shown, advice] if advice else shown)


def available_cores() -> int:
    """How many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_up(checkout: Checkout, extras: Sequence[str], *, knowledge: bool, out: TextIO, run: Runner = run_step) -> None:
    """Make the checkout ready: quick when it is already, and safe against a second set-up of it at the same time."""
    with locked(checkout, out) as lock_fd:
        setup = Setup(checkout, lock_fd, out, run)
        setup.install(extras)
        if knowledge:
            setup.sync_knowledge()


def this_checkout() -> Checkout:
    """The checkout that this file lies in."""
    return Checkout(Path(__file__).resolve().parent.parent)


def become(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Hand over to `command`; where the system cannot replace a process, wait for it and return its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform != "win32":
        os.execve(command[0], list(command), dict(env))
    return subprocess.call(command, env=dict(env))


def answer(arguments: Sequence[str]) -> int:
    """`scripts/run`: set up, then `mdsa ask ...`, or `mdsa tour` without arguments."""
    checkout = this_checkout()
    set_up(checkout, [], knowledge=True, out=sys.stderr)
    command = ["ask", *arguments] if arguments else ["tour"]
    return become([str(checkout.program("mdsa")), *command], child_environment(os.environ, available_cores()))


def check(arguments: Sequence[str], *, run: Runner = run_step, checkout: Checkout | None = None) -> int:
    """`scripts/test`: set up with the extra `dev`, then each check in turn, up to the first that fails."""
    checkout = checkout or this_checkout()
    set_up(checkout, ["dev"], knowledge=False, out=sys.stderr, run=run)
    env = child_environment(os.environ, available_cores())
    log = checkout.venv / "mdsa-check.log"
    python = str(checkout.program("python"))
    for name, module in CHECKS:
        log.write_bytes(b"")
        code = run([python, "-m", *module], label=name, log=log, env=env, cwd=checkout.root, out=sys.stderr)
        if code:
            if isinstance(sys.stdout, io.TextIOWrapper):
                # Into a pipe Windows writes an old encoding, without the signs of a checker.
                sys.stdout.reconfigure(errors="replace")
            print(log.read_text(encoding="utf-8", errors="replace"), end="")
        print(f"{name}: {'failed' if code else 'passed'}", flush=True)
        if code:
            return code
    print("pytest", flush=True)
    os.chdir(checkout.root)
    return become([python, "-m", "pytest", *arguments], env)


def guarded(work: Callable[[], int]) -> int:
    """Run `work`; a failure becomes a message on stderr and an exit code."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
    try:
        return work()
    except SetupError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(_machine.explain_os_error(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. Run this again at any time; an incomplete set-up is made anew.", file=sys.stderr)
        return 130
