"""``mdsa kb``: the knowledge bases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsa_local.cli.meter import Meter
from mdsa_local.cli.output import Domain, Json, Question, document, joined, line, note, progress, table
from mdsa_local.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from mdsa_local.knowledge.ingest import Report
    from mdsa_local.orchestrator import TinyBERTOrchestrator

app = typer.Typer(no_args_is_help=True, help="Add, list, search and remove documents.")
EMPTY = "no documents; add some with: mdsa kb add PATH, or the shipped ones with: mdsa kb sync"


def _parts(domain: str | None) -> TinyBERTOrchestrator:
    """An orchestrator for its knowledge bases; raises when ``domain`` is not a known one."""
    from mdsa_local.knowledge.lance import import_lancedb
    from mdsa_local.orchestrator import TinyBERTOrchestrator

    import_lancedb(trim=True)
    orchestrator = TinyBERTOrchestrator()
    if domain is not None:
        orchestrator.registry.get(domain)
    return orchestrator


def _counts(report: Report) -> dict[str, object]:
    failed = [{"path": path, "reason": reason} for path, reason in report.failed]
    return {name: len(getattr(report, name)) for name in ("added", "changed", "removed", "unchanged")} | {"failed": failed}


@app.command()
def add(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders: text, Markdown, HTML, PDF, DOCX, CSV, JSON, JSONL.", show_default=False)],
    domain: Domain = None,
    as_json: Json = False,
) -> None:
    """Add documents to a domain's knowledge base, or to the shared one."""
    parts = _parts(domain)
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise InputError(f"no such file or folder: {', '.join(missing)}", "Check the path.")
    report = parts.knowledge.add_paths([path.absolute() for path in paths], domain, Meter("adding"))
    if report.failed and not (report.added or report.changed or report.unchanged):
        (path, reason), more = report.failed[0], len(report.failed) - 1
        raise InputError(
            f"nothing was added: {path}: {reason}" + (f"; {more} more failed" if more else ""), "Give files of these types that hold text."
        )
    counts = _counts(report)
    if as_json:
        document({"knowledge_base": domain or "global", **counts})
    else:
        line(f"{domain or 'global'}: " + ", ".join(f"{counts[name]} {name}" for name in ("added", "changed", "unchanged")))
        for path, reason in report.failed:
            note(f"not added: {path}: {reason}")


@app.command("list")
def list_(domain: Domain = None, as_json: Json = False) -> None:
    """List the documents of a domain, or of all knowledge bases."""
    parts = _parts(domain)
    bases: list[str | None] = [domain] if domain else [None, *parts.knowledge.domains()]
    found = [(base or "global", entry) for base in bases for entry in parts.knowledge.list_documents(base)]
    if as_json:
        document([{"knowledge_base": base, "document": e.document, "source": e.source, "chunks": e.n_chunks} for base, e in found])
    elif found:
        table([(base, e.document, str(e.n_chunks), e.source) for base, e in found], ("base", "document", "chunks", "source"))
    if not found:
        note(EMPTY)


@app.command()
def search(
    question: Question,
    domain: Domain = None,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many passages.")] = 5,
    as_json: Json = False,
) -> None:
    """Show the passages a question finds in the shared knowledge base and in that of the domain."""
    from mdsa_local.validation import rules

    parts = _parts(domain)
    text = rules.question(joined(question), parts.settings.max_question_chars)
    passages = parts.knowledge.search(text, parts.encoder.encode([text])[0], domain, k)
    if not passages:
        # A search by meaning finds something wherever there is a document.
        note(EMPTY)
    if as_json:
        keys = ("id", "source", "knowledge_base", "title", "text", "start", "end")
        document([{key: getattr(p, key) for key in keys} | {"score": round(p.score, 4)} for p in passages])
        return
    for number, passage in enumerate(passages, 1):
        line(f"{number}. {passage.score:.2f}  {passage.source}: {passage.title}  ({passage.knowledge_base})")
        line("   " + " ".join(passage.text.split()))


@app.command()
def remove(
    documents: Annotated[list[str], typer.Argument(help="Names as `mdsa kb list` shows them.", show_default=False)],
    domain: Domain = None,
    as_json: Json = False,
) -> None:
    """Remove documents from a knowledge base; all or, when one cannot be removed, none."""
    from mdsa_local.knowledge import sync as syncing

    parts = _parts(domain)
    sources = {known.document: known.source for known in parts.knowledge.list_documents(domain)}
    followed = {source: path for base, source, path in syncing.files(parts.settings) if base == domain}
    names = list(dict.fromkeys(documents))
    for name in names:
        if name not in sources:
            raise UnknownNameError.among("document", name, sources)
        if path := followed.get(sources[name]):
            raise InputError(f"{name} follows a file in the domain's folder and would come back", f"Delete the file instead: {path}")
    for name in names:
        parts.knowledge.remove(name, domain)
    if as_json:
        document({"knowledge_base": domain or "global", "removed": names})
    else:
        line(f"{domain or 'global'}: {len(names)} removed")


@app.command()
def sync(as_json: Json = False) -> None:
    """Bring the knowledge bases in step with the documents in the domains' folders."""
    from mdsa_local.knowledge import sync as syncing

    parts = _parts(None)
    done = []
    if syncing.pending(parts.settings, parts.encoder.fingerprint):
        done = syncing.sync(parts.knowledge, parts.settings, parts.encoder.fingerprint, progress("knowledge bases"))
        # Its examples are embedded and cached now rather than with the first question.
        _ = parts.router
    if as_json:
        document({name: _counts(report) for name, report in done})
        return
    for name, report in done:
        line(f"{name}: {len(report.added)} added, {len(report.changed)} changed, {len(report.removed)} removed, {len(report.unchanged)} unchanged")
        for path, reason in report.failed:
            note(f"not added: {path}: {reason}")
    if not done:
        line("knowledge bases are up to date")


@app.command()
def optimize(domain: Domain = None, as_json: Json = False) -> None:
    """Tidy knowledge bases on disk; embed their text again if the encoder has changed."""
    parts = _parts(domain)
    bases: list[str | None] = [domain] if domain else [None, *parts.knowledge.domains()]
    rebuilt = {base or "global": parts.knowledge.optimize(base) for base in bases}
    if as_json:
        document([{"knowledge_base": base, "embedded_again": again} for base, again in rebuilt.items()])
        return
    for base, again in rebuilt.items():
        line(f"{base}: " + ("embedded again" if again else "tidied"))
