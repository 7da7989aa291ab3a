"""Printing: one JSON document on stdout with ``--json``, people's text otherwise; everything else goes to stderr."""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, TextIO
from unicodedata import category

import typer

from mdsa_local.__main__ import INTERRUPTED
from mdsa_local.errors import InputError, MDSAError

# So often a StatusLine is told by what cannot tell it itself.
TICK_S = 1.0
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
Domain = Annotated[str | None, typer.Option("--domain", "-d", help="Name of a domain.")]
Question = Annotated[list[str], typer.Argument(help="The question; - reads it from standard input.", show_default=False)]
# Whether the line on stdout has begun and not ended.
_begun = threading.Event()


def document(value: Any) -> None:
    """Print one JSON document; in ASCII with escapes where stdout is not UTF-8 or the text is not clean Unicode."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    if codecs.lookup(_encoding()).name != "utf-8" or text.encode(errors="replace").decode() != text:
        text = json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def line(text: str = "") -> None:
    """Print a line for people; what the terminal's encoding cannot show becomes ``?``."""
    sys.stdout.write(_showable(text) + "\n")


def piece(text: str) -> None:
    """Print a part of a line at once."""
    sys.stdout.write(_showable(text))
    sys.stdout.flush()
    if text:
        (_begun.clear if text.endswith("\n") else _begun.set)()


def end_line() -> None:
    """End the line that :func:`piece` has begun, if there is one."""
    if _begun.is_set():
        piece("\n")


def escaped(name: str) -> str:
    """A name, as of a file, on one line: line ends and control characters as Python writes them."""
    return "".join(char if category(char) not in ("Cc", "Zl", "Zp") else char.encode("unicode_escape").decode() for char in name)


def quoted(word: str) -> str:
    """A word of a command to be typed: in double quotes where it needs some and holds nothing that is special in them. More shells read these alike,
    and that of Windows knows no others."""
    alone = quote(word)
    return alone if alone == word or set(word) & set('"$`\\!%') else f'"{word}"'


def plain(text: str) -> str:
    """Text of a document or an answer, without what a terminal would take for commands."""
    return "".join(char if char in "\n\t" or category(char) != "Cc" else "\ufffd" for char in text)


def note(text: str) -> None:
    """Tell something that is not output: progress, warnings. On a terminal it stands on a line of its own."""
    if sys.stdout and sys.stdout.isatty():
        end_line()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def tell(error: MDSAError) -> None:
    """An error of ours, with what to do about it."""
    said = f"error: {error}" + (f"\n  {error.hint}" if error.hint else "")
    note("\n".join(map(escaped, said.split("\n"))))


class Warnings(logging.Handler):
    """What is logged, as warnings for people."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one."""
        try:
            note(f"{record.levelname.lower()}: {self.format(record)}")
        except Exception:
            self.handleError(record)


def ended(main: Callable[[], None]) -> None:
    """Run the command of a module; an error of ours is told as by the command ``mdsa``, and ends the program with its code."""
    try:
        main()
    except MDSAError as error:
        tell(error)
        sys.exit(error.exit_code)


def takes_escapes(stream: TextIO) -> bool:
    """Whether a stream leads to a terminal that knows escape sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def styled() -> bool:
    """Whether text on stdout may be bold or dim; NO_COLOR says that it should not."""
    return takes_escapes(sys.stdout) and not os.environ.get("NO_COLOR")


def bold(text: str) -> str:
    """``text`` in bold where it is :func:`styled`."""
    return f"\x1b[1m{text}\x1b[0m" if styled() else text


def dim(text: str) -> str:
    """``text`` dimmed where it is :func:`styled`."""
    return f"\x1b[2m{text}\x1b[0m" if styled() else text


def renewed(text: str, *, last: bool) -> str:
    """``text`` in place of the line that stands there: as far as it fits, as of a longer one the first row would stay; the ``last`` whole."""
    return f"\r\x1b[K{text}\n" if last else f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}"


def joined(words: Sequence[str]) -> str:
    """The question from its words, or from standard input, UTF-8 whatever the locale, when it is ``-``."""
    if list(words) == ["-"]:
        # None when the caller closed it.
        data = sys.stdin.buffer.read() if sys.stdin else b""
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError("standard input is not valid UTF-8 text", "Convert it first, for example with iconv.") from None
    return " ".join(words)


def try_to_write(path: Path) -> None:
    """Raise :class:`StorageError` where nothing can be written to ``path``: for what would be told after minutes of work."""
    from mdsa_local.settings import storage_error

    new = not path.exists()
    try:
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        raise storage_error(error, path) from None


def try_to_draw(path: Path | None) -> None:
    """Raise :class:`DependencyError` without matplotlib, and as :func:`try_to_write`; None: no picture is wanted."""
    if path is not None:
        from mdsa_local.evaluation.plots import figure_class

        try_to_write(path)
        figure_class()


@contextlib.contextmanager
def interrupted_by(handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    """While this lasts Ctrl-C comes to ``handler``."""
    # Whoever has another handler, or has it ignored, wants something else.
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def interrupted_at_once() -> Iterator[None]:
    """While this lasts Ctrl-C ends the program at once: broken off like an exception, an import may leave its lock taken, and a thread that loads a
    model would wait for it for ever. Nothing is lost by it: what is on disk is whole at any time."""

    def end(*_: object) -> None:
        # What was being written when it came cannot be flushed.
        with contextlib.suppress(OSError, RuntimeError, ValueError, AttributeError):
            sys.stdout.flush()
            note("\nAborted!")
        os._exit(INTERRUPTED)

    # On Windows Python calls no handler before what the main thread waits for has come; the system's own ends the program whatever it does.
    with interrupted_by(signal.SIG_DFL if sys.platform == "win32" else end):
        yield


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    """Print columns as wide as their content."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    for at, row in enumerate((header, *rows)):
        text = "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        line(bold(text) if at == 0 else text)


def counts(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> None:
    """Print a table of counts: with ``rich``, diagonal and misses coloured, on a terminal; plain columns elsewhere."""
    if not sys.stdout.isatty():
        table([[str(cell) for cell in row] for row in rows], header)
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None)
    for at, name in enumerate(header):
        shown.add_column(name, justify="right" if at else "left")
    for row in rows:
        cells = [str(row[0])]
        for name, count in zip(header[1:], row[1:], strict=True):
            cells.append(f"[green]{count}[/green]" if name == row[0] else f"[red]{count}[/red]" if count else "[dim]0[/dim]")
        shown.add_row(*cells)
    Console().print(shown)


class StatusLine:
    """How far something is, on stderr: one line that renews itself on a terminal; elsewhere, once it takes more than two seconds, a line now and
    then."""

    def __init__(self) -> None:
        self._live = takes_escapes(sys.stderr)
        self._began = self._shown = time.monotonic()
        self._open = False

    def close(self) -> None:
        """What is written next stands on a line of its own."""
        if self._live and self._open:
            sys.stderr.write("\n")
            sys.stderr.flush()
            self._open = False

    def restart(self) -> None:
        """Count seconds from now."""
        self._began = time.monotonic()

    def tell(self, text: Callable[[float], str], *, last: bool) -> None:
        """Show ``text`` of the seconds since the start, unless the line before is too young; always when it is the ``last``."""
        now = time.monotonic()
        if not last and now - self._shown < (0.1 if self._live else 5.0):
            return
        self._shown = now
        if self._live:
            sys.stderr.write(renewed(text(now - self._began), last=last))
            sys.stderr.flush()
            self._open = not last
        elif now - self._began > 2.0:
            note(text(now - self._began))


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """While this lasts, tell that ``what`` is going on: at once, and then for how long already. For work that cannot say how far it is."""
    note(what)
    status, over = StatusLine(), threading.Event()

    def tell() -> None:
        while not over.wait(TICK_S):
            status.tell(lambda seconds: f"{what}: {seconds:.0f} s", last=False)

    teller = threading.Thread(target=tell, name="mdsa-waiting", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
        status.close()


def progress(what: str, of: str = "files") -> Callable[[str, int, int], None]:
    """A progress callback ``(source, done, all)`` for a :class:`StatusLine`, counting ``of``.

    Each time ``done`` becomes 0 the clock for the time left starts again.
    """
    status, before = StatusLine(), -1

    def tell(source: str, done: int, total: int) -> None:
        nonlocal before
        if done == 0 and before != 0:
            status.restart()
        before = done

        def text(seconds: float) -> str:
            left = f", {(total - done) * seconds / done:.0f} s left" if 0 < done < total else ""
            return f"{what}: {done} of {total} {of}{left}"

        status.tell(text, last=done >= total)

    return tell


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"


def _showable(text: str) -> str:
    return text.encode(_encoding(), "replace").decode(_encoding())
