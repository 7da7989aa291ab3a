"""How lines of several kinds stand beside one another on a terminal."""

from __future__ import annotations

import logging

import pytest

from mdsa_local.cli import output


@pytest.mark.parametrize(("terminal", "expected"), [(True, "an answer\nand more\n"), (False, "an answerand more\n")])
def test_a_warning_stands_on_a_line_of_its_own(
    terminal: bool, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    logger = logging.Logger("of the test")
    logger.addHandler(output.Warnings())
    output.piece("an answer")
    logger.warning("the answer is not in the log")
    output.piece("and more")
    output.end_line()
    output.end_line()
    out, err = capsys.readouterr()
    assert (out, err) == (expected, "warning: the answer is not in the log\n")


@pytest.mark.parametrize(
    ("terminal", "term", "no_color", "expected"),
    [(True, "xterm", "", True), (True, "xterm", "1", False), (True, "dumb", "", False), (False, "xterm", "", False)],
)
def test_only_what_shows_it_is_sent_bold(terminal: bool, term: str, no_color: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", no_color)
    assert (output.bold("x"), output.dim("x")) == (("\x1b[1mx\x1b[0m", "\x1b[2mx\x1b[0m") if expected else ("x", "x"))
