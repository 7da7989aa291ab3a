"""``mdsa chat``: question after question, with the models loaded once."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Annotated

import typer

from mdsa_local.cli.ask import Model, opened, show
from mdsa_local.cli.output import Domain, dim, interrupted_at_once, line, note
from mdsa_local.errors import InputError, MDSAError

PROMPT = "> "
HELP = """Ask, and go on from it: "how long is the warranty?", then "and on batteries?".
/new   forget what was asked     /bye   end, as Ctrl-D does
/help  this                      Ctrl-C stops an answer"""


def chat(
    domain: Domain = None,
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line for each answer, nothing else on stdout.")] = False,
) -> None:
    """Ask question after question; what a question leans on is taken from those before. Reads lines from standard input, too."""
    from mdsa_local.settings import Settings

    with contextlib.suppress(ImportError):
        # The terminal's lines can be edited and called back.
        import readline  # noqa: F401
    live = bool(sys.stdin) and sys.stdin.isatty()
    with contextlib.ExitStack() as held:
        with interrupted_at_once():
            orchestrator = held.enter_context(opened(Settings.load(), model))
            # The first answer need not wait for it, nor be broken off where it is loaded.
            _ = orchestrator.router, orchestrator.judge
        if domain is not None:
            orchestrator.registry.get(domain)
        if live and not as_json:
            line(dim(HELP))
        asked: list[str] = []
        while (text := _read(live)) is not None and text != "/bye":
            if not text:
                continue
            if text == "/new":
                asked = []
                continue
            if text.startswith("/"):
                note(HELP if text == "/help" else f"unknown command {text}\n{HELP}")
                continue
            try:
                if as_json:
                    sys.stdout.write(json.dumps(orchestrator.ask(text, domain=domain, history=asked).to_dict()) + "\n")
                    sys.stdout.flush()
                else:
                    show(orchestrator, text, domain, asked)
                    line()
                asked.append(text)
            except MDSAError as error:
                # What is wrong with one question does not end the conversation.
                if as_json:
                    sys.stdout.write(json.dumps(error.envelope()) + "\n")
                else:
                    note(f"error: {error}" + (f"\n  {error.hint}" if error.hint else ""))
            except KeyboardInterrupt:
                if not live:
                    raise
                line()
                note("stopped")


def _read(live: bool) -> str | None:
    """The next line, stripped; None at the end. Raises :class:`InputError` for what is no text."""
    try:
        if live:
            return input(PROMPT).strip()
        text = sys.stdin.readline() if sys.stdin else ""
    except UnicodeDecodeError:
        raise InputError("standard input is not valid UTF-8 text", "Convert it first, for example with iconv.") from None
    except (EOFError, KeyboardInterrupt):
        line()
        return None
    return text.strip() if text else None
