from __future__ import annotations

import itertools
import re
import signal
import sys
import threading
from types import SimpleNamespace

import pytest
import typer

from mdsa_local.__main__ import INTERRUPTED
from mdsa_local.cli import output
from mdsa_local.cli.meter import STOPPING, Meter, said
from mdsa_local.knowledge.ingest import Step


def test_the_time_left_goes_by_bytes() -> None:
    step = Step(1, 4, 1_000_000, 5_000_000, 500, "a.md")
    assert said(step, 2.0) == "1 of 4 files, 500 passages, 250/s, 8 s left"
    assert said(Step(0, 4, 0, 5_000_000, 0, "a.md"), 0.1) == "0 of 4 files, 0 passages"
    assert said(Step(4, 4, 5_000_000, 5_000_000, 2500, ""), 10.0) == "4 of 4 files, 2500 passages, 250/s"
    assert said(Step(0, 4, 1_000_000, 5_000_000, 0, "a.md", embedded=500), 2.0) == "0 of 4 files, 500 passages, 250/s, 8 s left"


def test_an_interrupt_is_answered_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, Meter("adding").told():
        signal.raise_signal(signal.SIGINT)
    assert ended.value.exit_code == INTERRUPTED
    stopping, stopped = filter(None, capsys.readouterr().err.splitlines())
    assert stopping == STOPPING and stopped == "stopped; nothing is stored; the same command starts again"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_elsewhere_than_on_a_terminal_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("mdsa_local.cli.output.time.monotonic", lambda: clock["now"])
    meter = Meter("adding")
    for now, step in (
        (1.0, Step(1, 9, 1, 9, 10, "a")),
        (6.0, Step(2, 9, 2, 9, 12, "b")),
        (7.0, Step(3, 9, 3, 9, 14, "c")),
        (8.0, Step(9, 9, 9, 9, 40)),
    ):
        clock["now"] = now
        meter(step)
    assert capsys.readouterr().err.splitlines() == ["adding: 2 of 9 files, 12 passages, 2/s, 21 s left", "adding: 9 of 9 files, 40 passages, 5/s"]


def test_what_cannot_say_how_far_it_is_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    passed, told = itertools.count(step=3), threading.Event()

    def monotonic() -> float:
        now = float(next(passed))
        if now > 20:
            told.set()
        return now

    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(output, "TICK_S", 0.001)
    with output.waiting("fitting to 9 examples"):
        assert told.wait(60)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert (first, second) == ("fitting to 9 examples", "fitting to 9 examples: 6 s")


def test_a_line_that_renews_itself_ends_before_the_next(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(output, "TICK_S", 0.01)
    written, write = threading.Event(), sys.stderr.write

    def noticed(text: str) -> int:
        if text.startswith("\r"):
            written.set()
        return write(text)

    monkeypatch.setattr("sys.stderr.write", noticed)
    with output.waiting("fitting"):
        assert written.wait(60)
    assert re.search(r"\r\x1b\[Kfitting: \d+ s\n\Z", capsys.readouterr().err)


def test_a_line_that_renews_itself_stays_on_one_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("mdsa_local.cli.output.time.monotonic", lambda: clock["now"])
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    text = "adding: 2 of 9 files, 12 passages"
    for term, told in (("xterm", f"\r\x1b[K{text[:19]}\r\x1b[K{text}\n"), ("dumb", f"{text}\n{text}\n")):
        monkeypatch.setenv("TERM", term)
        status = output.StatusLine()
        for last in (False, True):
            clock["now"] += 6.0
            status.tell(lambda _: text, last=last)
        assert capsys.readouterr().err == told
