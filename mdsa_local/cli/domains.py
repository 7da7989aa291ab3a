"""``mdsa domains``."""

from __future__ import annotations

import typer

from mdsa_local.cli.output import Json, document, table

app = typer.Typer(no_args_is_help=True, help="The domains there are.")


@app.callback()
def _group() -> None:
    """The domains there are."""


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the domains: shipped ones and those in $MDSA_HOME/domains."""
    from mdsa_local.domains.registry import DomainRegistry
    from mdsa_local.settings import Settings

    settings = Settings.load()
    found = list(DomainRegistry.from_folders(settings.domain_dirs))
    if as_json:
        rows = [d.model_dump(mode="json", include={"name", "title", "description", "keywords", "model"}) for d in found]
        document([row | {"examples": len(d.examples), "folder": str(d.folder)} for row, d in zip(rows, found, strict=True)])
        return
    table([(d.name, d.title, d.model or settings.default_model, str(len(d.examples))) for d in found], ("name", "title", "model", "examples"))
