"""``mdsa chat``: question after question, with the models loaded once."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from typing import Annotated, Any

import typer

from mdsa_local.cli.ask import Model, opened, show
from mdsa_local.cli.output import Domain, dim, interrupted_at_once, line, note, tell
from mdsa_local.errors import InputError, MDSAError

PROMPT = "> "
ENDS = ("/bye", "/exit", "/quit", "exit", "quit")
# A path has another slash, and is asked about.
COMMAND = re.compile(r"/(\w+|\?)")
END = "Ctrl-Z and Enter" if sys.platform == "win32" else "Ctrl-D"
HELP = f"""Ask, and go on from it: "how long is the warranty?", then "and on batteries?".
/new   forget what was asked     /bye   end, as exit, quit and {END} do
/help  this                      Ctrl-C stops an answer, and drops a line begun"""
STAYS = f"{END} or /bye ends the conversation"


def chat(
    domain: Domain = None,
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line for each question, nothing else on stdout.")] = False,
) -> None:
    """Ask question after question; what a question leans on is taken from those before. Reads lines from standard input, too."""
    from mdsa_local.settings import Settings

    with contextlib.suppress(ImportError):
        # The terminal's lines can be edited and called back.
        import readline  # noqa: F401
    live = bool(sys.stdin) and sys.stdin.isatty() and not as_json
    if not live and isinstance(sys.stdin, io.TextIOWrapper):
        # A line that is no text is one question that cannot be asked, whatever was read ahead with it.
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
    with contextlib.ExitStack() as held:
        with interrupted_at_once():
            orchestrator = held.enter_context(opened(Settings.load(), model))
            # The first answer need not wait for it, nor be broken off where it is loaded.
            _ = orchestrator.router, orchestrator.judge
        if domain is not None:
            orchestrator.registry.get(domain)
        if live:
            line(dim(HELP))
        asked: list[str] = []
        while (text := _read(live)) is not None and (command := _command(text)) not in ENDS:
            if not text:
                continue
            if command == "/new":
                asked = []
                continue
            if command.startswith("/"):
                note(HELP if command in ("/help", "/?") else f"unknown command {command}\n{HELP}")
                continue
            try:
                if as_json:
                    _document(orchestrator.ask(text, domain=domain, history=asked).to_dict())
                else:
                    show(orchestrator, text, domain, asked)
                    line()
                asked.append(text)
            except MDSAError as error:
                # What is wrong with one question does not end the conversation.
                if as_json:
                    _document(error.envelope())
                else:
                    tell(error)
            except KeyboardInterrupt:
                if not live:
                    raise
                line()
                note("stopped")
                # What is asked next may lean on it all the same.
                asked.append(text)
            # Whoever reads at the other end of a pipe waits for it.
            sys.stdout.flush()


def _command(text: str) -> str:
    """The command that a line is: by its first word, or as a whole one that ends the conversation; empty for a question."""
    word = text.split(maxsplit=1)[0] if text else ""
    return word.lower() if COMMAND.fullmatch(word) else text.lower() if text.lower() in ENDS else ""


def _document(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _read(live: bool) -> str | None:
    """The next line, stripped, empty when Ctrl-C dropped it; None at the end. Raises :class:`InputError` for what a terminal sends
    that is no text."""
    if not live:
        # None when the caller closed it; an empty line still has its end.
        text = sys.stdin.readline() if sys.stdin else ""
        return text.strip() if text else None
    try:
        return input(PROMPT).strip()
    except UnicodeDecodeError:
        raise InputError("the line is not text in the terminal's encoding", "Check the locale.") from None
    except EOFError:
        line()
        return None
    except KeyboardInterrupt:
        # Meant for an answer that was through before it came, or for the line: the conversation is not given up for it.
        line()
        note(STAYS)
        return ""
