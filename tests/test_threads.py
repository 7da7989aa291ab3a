"""Threads for event loops: a bounded number, begun when needed, ended when not."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from mdsa_local import threads
from mdsa_local.threads import Threads


def running(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def gone(name: str) -> bool:
    until = time.monotonic() + 5
    while running(name) and time.monotonic() < until:
        time.sleep(0.01)
    return not running(name)


def test_no_more_than_so_many_work_at_once_and_all_work_is_done() -> None:
    pool, go = Threads(3, "three"), threading.Event()
    assert not running("three")
    done = [pool.submit(lambda n=n: (go.wait(5), n)[1]) for n in range(10)]  # type: ignore[misc]
    assert running("three") == 3
    go.set()
    assert [future.result(5) for future in done] == list(range(10))
    assert all(pool.submit(lambda: threading.current_thread().daemon).result(5) for _ in range(5))
    assert running("three") <= 3
    pool.close()
    pool.close()
    assert gone("three")
    # Whoever comes later still gets what it waits for.
    assert pool.submit(lambda: 1).result(5) == 1
    assert gone("three")


def test_what_is_raised_is_the_futures_and_what_was_cancelled_is_not_done() -> None:
    pool, go, done = Threads(1, "one"), threading.Event(), list[int]()
    first = pool.submit(lambda: go.wait(5))
    second = pool.submit(lambda: done.append(1))
    third: Future[float] = pool.submit(lambda: 1 / 0)
    assert second.cancel()
    go.set()
    assert first.result(5)
    with pytest.raises(ZeroDivisionError):
        third.result(5)
    assert done == []
    pool.close()


def test_a_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE_S", 0.05)
    pool = Threads(2, "idle")
    assert pool.submit(lambda: 5).result(5) == 5
    assert gone("idle")
    assert pool.submit(lambda: 6).result(5) == 6


def test_a_program_that_ends_stops_what_is_done_and_waits_for_it() -> None:
    ends = """
import threading
from mdsa_local.threads import Threads

pool, stopped, begun = Threads(2, "ends"), threading.Event(), threading.Event()
def work():
    begun.set()
    print("stopped" if stopped.wait(30) else "not stopped", flush=True)
    threading.Event().wait(0.2)
    print("cancelled" if pool.submit(int).cancelled() else "begun", flush=True)
    print("done", flush=True)
def fails():
    raise RuntimeError
pool.submit(work, stopped.set)
pool.submit(lambda: stopped.wait(30), fails)
pool.submit(lambda: print("never begun", flush=True))
begun.wait(30)
"""
    run = subprocess.run([sys.executable, "-c", ends], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "stopped\ncancelled\ndone\n", "")


def test_a_program_that_ends_does_not_wait_for_idle_threads() -> None:
    ends = """
import time
from mdsa_local.threads import Threads

pool = Threads(2, "idle")
pool.submit(int).result(30)
print(time.time())
"""
    run = subprocess.run([sys.executable, "-c", ends], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and time.time() - float(run.stdout) < threads.IDLE_S / 2


def test_threads_of_a_program_whose_main_thread_has_ended_are_answered(tmp_path: Path) -> None:
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text(f"# Warranty {name}\n\nThe warranty of your device lasts two years.\n")
    late = f"""
import threading, traceback
from pathlib import Path
from mdsa_local import TinyBERTOrchestrator
from mdsa_local.settings import Settings

home = Path({str(tmp_path)!r})
def ask():
    threading.main_thread().join()
    with TinyBERTOrchestrator(settings=Settings.load(home=home / "home")) as mdsa:
        mdsa.register_domain("devices", "Devices and their warranty", ["warranty"])
        print(len(mdsa.encoder.encode([f"text number {{i}}" for i in range(40)])))
        print(len(mdsa.knowledge.add_paths([home / "a.md", home / "b.md"], "devices").added))
        for _ in range(3):
            print(len(mdsa.knowledge.query("How long does the warranty last?", "devices")) > 0)
        mdsa.knowledge.settle()
threading.Thread(target=ask).start()
"""
    run = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout.split(), run.stderr) == (0, ["40", "2", "True", "True", "True"], "")
