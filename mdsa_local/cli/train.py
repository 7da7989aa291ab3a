"""``mdsa train``."""

from __future__ import annotations

import typer

from mdsa_local.cli.train_adapter import adapter
from mdsa_local.cli.train_router import router

app = typer.Typer(no_args_is_help=True, help="Make models fit your own questions.")
app.command("adapter")(adapter)
app.command("router")(router)


@app.callback()
def _group() -> None:
    """Make models fit your own questions."""
