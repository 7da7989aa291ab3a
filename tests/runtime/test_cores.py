"""Threads for an evaluation: those of the cores that nobody else uses; and that llama.cpp's own threads are gone when nothing is evaluated."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.machine import processors
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.cores import WINDOW_S, Cores, Use, look, others_busy, running, share, within_cores
from mdsa_local.runtime.engine import context_options
from mdsa_local.runtime.hardware import HardwareDetector
from mdsa_local.runtime.llamacpp import LlamaCppBackend
from mdsa_local.runtime.native import Context, Model

from .gguf_writer import VOCABULARY

END = VOCABULARY.index("<|end|>")


def test_no_more_threads_than_processors(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = HardwareDetector().cpu_count()
    with caplog.at_level(logging.WARNING, "mdsa_local.runtime.cores"):
        for _ in range(2):
            backend = LlamaCppBackend(tiny, "tiny", threads=9999)
            assert backend.stats().threads == count
            backend.close()
    assert len([record for record in caplog.records if "threads is 9999" in record.getMessage()]) == 1, "told once"
    assert (within_cores(0), within_cores(1)) == (0, 1)


@pytest.mark.parametrize(
    ("most", "cores", "others", "sharers", "threads"),
    [
        (2, 2, 0.0, 1, 2),
        (2, 2, 0.4, 1, 2),
        (2, 2, 0.6, 1, 1),
        (2, 2, 2.0, 1, 1),
        (2, 2, 0.0, 2, 1),
        (8, 8, 3.0, 1, 5),
        (8, 8, 0.0, 3, 2),
        (8, 16, 6.0, 1, 8),
        (4, 4, 0.0, 9, 1),
        (4, 4, 0.0, 0, 4),
    ],
)
def test_share(most: int, cores: int, others: float, sharers: int, threads: int) -> None:
    assert share(most, cores, others, sharers) == threads


def test_others_are_what_this_process_did_not_do() -> None:
    assert others_busy(Use(10, 100, 5), Use(12, 103, 6)) == 1.0
    assert others_busy(Use(10, 100, 5), Use(12, 101, 6.2)) == 0.0, "counted in steps, so a little below"


class Machine:
    """A machine whose others keep ``others`` cores busy; this process does nothing. It was first seen a minute ago."""

    def __init__(self) -> None:
        self.others, self.looks, self._before = 0.0, 0, Use(time.monotonic() - 60, 0.0, 0.0)

    def look(self) -> Use:
        self.looks += 1
        if self.looks > 1:
            clock = time.monotonic()
            self._before = Use(clock, self._before.busy_s + self.others * (clock - self._before.clock_s), 0.0)
        return self._before


def test_threads_follow_the_load_and_the_engines() -> None:
    machine = Machine()
    cores = Cores(4, machine.look, lambda: None)
    machine.others = 1.0
    cores.enter()
    assert [cores.threads(4), cores.threads(2), cores.threads(1)] == [3, 2, 1]
    assert machine.looks == 2, "one look at the beginning, one for all three"
    cores.enter()
    assert cores.threads(4) == 1
    cores.leave()
    machine.others = 0.0
    time.sleep(WINDOW_S)
    assert cores.threads(4) == 4


@pytest.mark.parametrize(("running", "threads"), [(1, 4), (2, 3), (9, 2), (None, 2)])
def test_a_load_that_is_over_does_not_count(running: int | None, threads: int) -> None:
    machine = Machine()
    cores = Cores(4, machine.look, lambda: running)
    machine.others = 2.0
    cores.enter()
    assert cores.threads(4) == threads
    time.sleep(WINDOW_S)
    assert cores.threads(4) == 2, "what is seen while it evaluates counts in any case"


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
def test_what_runs_is_counted() -> None:
    assert (running() or 0) >= 1


def test_a_busy_process_is_seen() -> None:
    before = look(processors())
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(1)
        after = look(processors())
        busy.kill()
    assert others_busy(before, after) > 0.15, "one that has the core for itself counts 1, one beside six others a seventh"


def test_a_system_that_does_not_tell_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(percpu: bool) -> None:
        raise PermissionError("/proc/stat")

    before = look(processors())
    monkeypatch.setattr("psutil.cpu_times", refuse)
    assert others_busy(before, look(processors())) == 0.0


def threads() -> set[str]:
    return {path.name for path in Path("/proc/self/task").iterdir()}


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    opened = Model(tiny)
    yield opened
    opened.close()


def logits(context: Context) -> np.ndarray:
    context.cut(0, 0)
    context.clear()
    row = context.add(0, 0, list(range(3, 40)), 1)
    assert context.decode() == 0
    return context.logits(row + 36).copy()


def test_no_number_depends_on_the_threads(model: Model) -> None:
    context = Context(model, context_options(256, 2, 3))
    three = logits(context)
    context.use_threads(1)
    one = logits(context)
    context.use_threads(2)
    assert np.array_equal(three, one)
    assert np.array_equal(three, logits(context))
    context.rest()
    context.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted by /proc")
def ended(helping: set[str]) -> int:
    """How many of these threads are gone; the system lists one for a moment after it was waited for."""
    deadline = time.monotonic() + 2
    while (gone := len(helping - threads())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return gone


def test_helping_threads_end_when_the_context_rests(model: Model) -> None:
    before = threads()
    context = Context(model, context_options(256, 2, 3))
    logits(context)
    # Other threads of the process come and go meanwhile; two help with an evaluation on three.
    helping = threads() - before
    context.rest()
    assert ended(helping) >= 2
    before = threads()
    again = logits(context)
    helping = threads() - before
    context.use_threads(1)
    assert ended(helping) >= 2
    assert np.array_equal(again, logits(context))
    context.close()


def test_an_engine_uses_what_is_free_unless_told(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    cores = Cores(2, machine.look, lambda: None)
    monkeypatch.setattr("mdsa_local.runtime.llamacpp.machine", lambda: cores)
    monkeypatch.setattr("mdsa_local.runtime.llamacpp.default_threads", lambda: 2)
    machine.others = 1.0
    beside, told = (LlamaCppBackend(tiny, "tiny", 256, threads) for threads in (0, 2))
    assert (answered(beside), answered(told)) == (1, 2)
    machine.others = 0.0
    time.sleep(WINDOW_S)
    assert answered(beside) == 2
    beside.close()
    told.close()


def test_engines_that_evaluate_at_once_share(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = Cores(2, Machine().look, lambda: None)
    monkeypatch.setattr("mdsa_local.runtime.llamacpp.machine", lambda: cores)
    monkeypatch.setattr("mdsa_local.runtime.llamacpp.default_threads", lambda: 2)
    one, other = (LlamaCppBackend(tiny, "tiny", 0) for _ in range(2))
    running = one.stream([Message("user", "hello")], Generation(max_tokens=400, logit_bias=((END, -1e9),)), deadline_s=60)
    next(running)
    assert answered(other) == 1
    running.close()
    # What waits for nothing any more has let go of its share.
    other.close()
    assert answered(one) == 2
    one.close()


def answered(model: LlamaCppBackend) -> int:
    """The threads that a short answer was evaluated with."""
    list(model.stream([Message("user", "hello")], Generation(max_tokens=4), deadline_s=60))
    return model.stats().threads
