"""Printing: one JSON document on stdout with ``--json``, people's text otherwise; everything else goes to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from mdsa_local.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
Domain = Annotated[str | None, typer.Option("--domain", "-d", help="Name of a domain.")]
Question = Annotated[list[str], typer.Argument(help="The question; - reads it from standard input.", show_default=False)]


def document(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
    sys.stdout.flush()


def line(text: str = "") -> None:
    """Print a line for people, whatever the terminal's encoding can show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")


def piece(text: str) -> None:
    """Print a part of a line at once."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def note(text: str) -> None:
    """Tell something that is not output: progress, warnings."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def bold(text: str) -> str:
    """``text`` in bold on a terminal."""
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else text


def dim(text: str) -> str:
    """``text`` dimmed on a terminal."""
    return f"\x1b[2m{text}\x1b[0m" if sys.stdout.isatty() else text


def joined(words: Sequence[str]) -> str:
    """The question from its words, or from standard input when it is ``-``."""
    if list(words) == ["-"]:
        try:
            return sys.stdin.read()
        except UnicodeDecodeError:
            raise InputError("standard input is not valid UTF-8 text", "Convert it first, for example with iconv.") from None
    return " ".join(words)


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    """Print columns as wide as their content."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    for at, row in enumerate((header, *rows)):
        text = "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        line(bold(text) if at == 0 else text)


def progress(what: str) -> Callable[[str, int, int], None]:
    """A progress callback ``(source, done, all)`` for stderr: one line that renews itself on a terminal, now and then a line elsewhere."""
    began = shown = time.monotonic()
    live = sys.stderr.isatty()

    def tell(source: str, done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if done < total and now - shown < (0.1 if live else 5.0):
            return
        shown = now
        rate = done / max(now - began, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if done and done < total else ""
        text = f"{what}: {done} of {total} files{left}"
        if live:
            sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if done == total else ""))
            sys.stderr.flush()
        elif now - began > 2.0:
            note(text)

    return tell
