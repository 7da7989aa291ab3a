"""The command ``mdsa``: its tree of commands, and the edge where errors become a message and an exit code."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from mdsa_local import __version__
from mdsa_local.cli.output import Warnings, document, interrupted_at_once, line, note, tell
from mdsa_local.errors import InputError, MDSAError, StorageError, of_system

# The module of each command and what it is there: a function, or an app with commands of its own.
COMMANDS = {
    "ask": ("ask", "ask"),
    "chat": ("chat", "chat"),
    "tour": ("ask", "tour"),
    "route": ("route", "route"),
    "bench": ("bench", "bench"),
    "doctor": ("doctor", "doctor"),
    **{name: (name, "app") for name in ("kb", "domains", "router", "models", "eval", "feedback", "train")},
}

# What Ctrl-C ends at once: they import much and leave nothing half done.
AT_ONCE = {("ask",), ("tour",), ("route",), ("kb", "search"), ("kb", "why"), ("kb", "show"), ("kb", "list")}

# From glibc's malloc.h.
M_ARENA_MAX = -8
# STD_OUTPUT_HANDLE, STD_ERROR_HANDLE and ENABLE_VIRTUAL_TERMINAL_PROCESSING of Windows.
STREAMS, TAKES_ESCAPES = (-11, -12), 4

WELCOME = """mdsa_local {version}: several small language models on your own machine behind one front door.

  mdsa ask "My card was charged twice, how do I get my money back?"
  mdsa chat                    question after question
  mdsa tour                    a question for each domain
  mdsa route "..."             which domain, how sure, and why
  mdsa kb add PATH -d DOMAIN   add your own documents
  mdsa kb search "..."         what the knowledge bases hold
  mdsa domains list            the domains there are
  mdsa models fit              which models fit this machine
  mdsa doctor                  what is there, what is wrong, what would serve better

mdsa --help lists all commands. Nothing leaves this machine."""


def root(context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False) -> None:
    """Several small language models on your own machine behind one front door."""
    if version:
        line(f"mdsa_local {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        line(WELCOME.format(version=__version__))


def tree(only: str | None = None) -> typer.Typer:
    """All commands, or one alone: to read and build the others takes 60 ms."""
    app = typer.Typer(add_completion=False, no_args_is_help=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(root)
    for name, (module, attribute) in COMMANDS.items():
        if only in (None, name):
            found = getattr(import_module(f"mdsa_local.cli.{module}"), attribute)
            if isinstance(found, typer.Typer):
                app.add_typer(found, name=name)
            else:
                app.command(name)(found)
    return app


def few_arenas() -> None:
    """Keep glibc from giving each thread a heap of its own: LanceDB's threads would hold 100 MB between them."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def nowhere() -> None:
    """Have output go nowhere that the caller closed, as for a daemon: what is done and the exit code are wanted all the same."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def show_escapes() -> None:
    """Have a console of Windows take the escape sequences of bold, dim and a line that renews itself: by itself it writes them out."""
    if sys.platform == "win32":
        from ctypes import wintypes

        console = ctypes.WinDLL("kernel32")
        console.GetStdHandle.restype = wintypes.HANDLE
        for stream in STREAMS:
            handle, mode = wintypes.HANDLE(console.GetStdHandle(stream)), wintypes.DWORD()
            # False where it leads to a file or a pipe.
            if console.GetConsoleMode(handle, ctypes.byref(mode)):
                console.SetConsoleMode(handle, mode.value | TAKES_ESCAPES)


def report(error: MDSAError, *, as_json: bool) -> int:
    """Tell an error of ours; its exit code."""
    try:
        if as_json:
            document(error.envelope())
        else:
            tell(error)
    except OSError:
        # Nobody reads it, or it cannot be written: the code tells, and what is left in the buffer would fail again at the end.
        os._exit(error.exit_code)
    return error.exit_code


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the command; exits with 0, or with the code of the error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    nowhere()
    few_arenas()
    show_escapes()
    logging.basicConfig(format="%(message)s", handlers=[Warnings()])
    # Pydantic would look through every installed package for plugins, 15 ms; code of others has no business in our models.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        only = arguments[0] if arguments and arguments[0] in COMMANDS else None
        with interrupted_at_once() if AT_ONCE & {tuple(arguments[:1]), tuple(arguments[:2])} else contextlib.nullcontext():
            code = tree(only)(arguments, prog_name="mdsa", standalone_mode=True)
    except SystemExit as ended:
        # The usage message went to stderr; whoever asked for JSON gets the envelope as well, unless the command itself chose the code and told all.
        if ended.code == InputError.exit_code and "--json" in arguments and not isinstance(ended.__context__, typer.Exit):
            report(InputError("the arguments do not fit this command", "The message on stderr says why; see --help."), as_json=True)
        raise
    except MDSAError as error:
        code = report(error, as_json="--json" in arguments)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            with contextlib.suppress(OSError):
                note(f"error: {error.filename or 'the output'}: {error.strerror}\n  Free some space, or write elsewhere.")
            # What is left in the buffer would fail again at the end, in words of Python's own.
            os._exit(StorageError.exit_code)
        if sys.platform == "win32" and isinstance(error, OSError) and error.errno == errno.EINVAL and not error.filename:
            # So it says there that who read the output has gone; elsewhere it is a broken pipe, of which Typer knows.
            os._exit(1)
        if os.environ.get("MDSA_DEBUG"):
            raise
        if isinstance(error, RuntimeError) and "home directory" in str(error):
            # pathlib's only word on it.
            sys.exit(
                report(InputError("a path begins with ~ where there is no such user", "Write the folder in full."), as_json="--json" in arguments)
            )
        unforeseen = MDSAError(f"internal error: {type(error).__name__}: {error}", "Run it again with MDSA_DEBUG=1 and report what it prints.")
        if isinstance(error, OSError) and error.filename:
            unforeseen = of_system(error)
        code = report(unforeseen, as_json="--json" in arguments)
    sys.exit(code)
