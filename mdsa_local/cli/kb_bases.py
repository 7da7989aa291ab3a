"""What the commands of ``mdsa kb`` share: which knowledge base is meant, opening them, and telling of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsa_local.cli.output import escaped, note, plain, progress
from mdsa_local.cli.output import line as write_line

if TYPE_CHECKING:
    from mdsa_local.orchestrator import TinyBERTOrchestrator

EMPTY = "no documents; add some with: mdsa kb add PATH, or put them into the folder knowledge of a domain's folder"

# What the shared knowledge base is called where it is listed beside the others.
SHARED = "global"


def line(text: str = "") -> None:
    """Print a line without the control characters with which a document could command a terminal."""
    write_line(plain(text))


def own(domain: str | None) -> str | None:
    """The domain of a knowledge base by what it is called; None for the shared one."""
    return None if domain == SHARED else domain


Base = Annotated[str | None, typer.Option("--domain", "-d", help="Name of a domain; the shared knowledge base, global, without.", callback=own)]


def opened(domain: str | None, *, stored: bool = False) -> TinyBERTOrchestrator:
    """An orchestrator for its knowledge bases; raises when ``domain`` is not a known one. ``stored``: one of which documents are left will do."""
    from mdsa_local.knowledge.lance import import_lancedb
    from mdsa_local.knowledge.place import located
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.settings import Settings

    settings = Settings.load()
    import_lancedb(trim=isinstance(located(settings.knowledge_place), Path))
    orchestrator = TinyBERTOrchestrator(settings=settings)
    if domain is not None and not (stored and domain in orchestrator.knowledge.domains() and orchestrator.knowledge.list_documents(domain)):
        orchestrator.registry.get(domain)
    return orchestrator


def in_step(parts: TinyBERTOrchestrator) -> None:
    """Bring the knowledge bases in step with the domains' folders, as a question does."""
    for name, report in parts.prepare(progress("knowledge bases")):
        for path, reason in (*report.failed, *report.remarks):
            note(escaped(f"warning: {name}: {path}: {reason}"))


def listed(parts: TinyBERTOrchestrator, domain: str | None) -> list[str | None]:
    """The knowledge base that was named, or all."""
    return [own(domain)] if domain else [None, *parts.knowledge.domains()]
