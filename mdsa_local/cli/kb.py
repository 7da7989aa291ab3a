"""``mdsa kb``: the knowledge bases."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsa_local.cli.kb_bases import EMPTY, SHARED, Base, in_step, line, listed, opened, own
from mdsa_local.cli.kb_search import evaluate, search, show, why
from mdsa_local.cli.meter import Meter
from mdsa_local.cli.output import Domain, Json, document, escaped, note, progress, quoted, table
from mdsa_local.errors import InputError, MDSAError, UnknownNameError, looking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mdsa_local.knowledge.ingest import Report
    from mdsa_local.knowledge.transfer import Transferred
    from mdsa_local.orchestrator import TinyBERTOrchestrator

app = typer.Typer(no_args_is_help=True, help="Add, list, search and remove documents.")
Domains = Annotated[
    list[str] | None, typer.Option("--domain", "-d", help="A domain, or global for the shared one; again for more.", show_default="all")
]


def _counts(report: Report) -> dict[str, object]:
    failed = [{"path": path, "reason": reason} for path, reason in report.failed]
    remarks = [{"path": path, "remark": remark} for path, remark in report.remarks]
    return {name: len(getattr(report, name)) for name in ("added", "changed", "removed", "unchanged")} | {"failed": failed, "remarks": remarks}


def _refused(report: Report) -> list[tuple[str, str]]:
    """The files that were not taken and not only passed over, each with the reason."""
    return [(path, reason) for path, reason in report.failed if path not in report.passed_over]


def _tell(name: str, kinds: Sequence[str], report: Report) -> None:
    """What an ingestion did, and which files it did not take."""
    from mdsa_local.knowledge.ingest import LINKED, OUTSIDE

    counts = [f"{len(getattr(report, kind))} {kind}" for kind in kinds]
    line(f"{name}: {', '.join([*counts, *([f'{len(report.failed)} not read'] if report.failed else [])])}")
    for path, reason in report.failed:
        note(escaped(f"not followed: {path} {reason}" if reason.startswith((OUTSIDE, LINKED)) else f"not added: {path}: {reason}"))
    for path, remark in report.remarks:
        note(escaped(f"warning: {path}: {remark}"))


@app.command()
def add(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders: text, Markdown, HTML, PDF, DOCX, CSV, JSON, JSONL.", show_default=False)],
    domain: Base = None,
    follow_deletes: Annotated[bool, typer.Option("--follow-deletes", help="Also remove what a given folder had and has no more.")] = False,
    as_json: Json = False,
) -> None:
    """Add documents to a domain's knowledge base, or to the shared one; exit code 2 when a file was refused, whatever else was added. In a folder,
    files of other types, empty ones, office programs' locks and links that lead out of it or nowhere are passed over."""
    parts = opened(domain)
    # A shell expands no ~ in quotes.
    with looking(InputError):
        paths = [path.expanduser() if path.parts[:1] == ("~",) and not path.exists() else path for path in paths]
        missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise InputError(f"no such file or folder: {', '.join(missing)}", "Check the path.")
    meter = Meter("adding")
    with meter.told():
        report = parts.knowledge.add_paths([path.absolute() for path in paths], domain, meter, follow_deletes=follow_deletes)
    refused = _refused(report)
    if refused and not (report.added or report.changed or report.unchanged or report.removed):
        (path, reason), more = refused[0], len(refused) - 1
        hint = "Fix its permissions." if reason.startswith("cannot be read:") else "Give files of these types that hold text."
        raise InputError(f"nothing was added: {path}: {reason}" + (f"; {more} more failed" if more else ""), hint)
    if as_json and not report.kept:
        document({"knowledge_base": domain or SHARED, **_counts(report)})
    elif not as_json:
        _tell(domain or SHARED, ("added", "changed", "unchanged", *(["removed"] if follow_deletes else [])), report)
    if report.kept:
        raise _all_gone(report, domain)
    if refused:
        raise typer.Exit(InputError.exit_code)


def _all_gone(report: Report, domain: str | None) -> InputError:
    """The error for folders none of whose documents has its file any more."""
    said, hint = _kept(dict(report.kept), domain)
    return InputError(said, hint)


def _kept(folders: Mapping[str, Sequence[str]], domain: str | None) -> tuple[str, str]:
    """What is told of folders none of whose documents has its file any more, and what to do."""
    base = f" -d {domain}" if domain else ""
    names = [name for documents in folders.values() for name in documents]
    where = "; ".join(f"{folder}: {len(documents)}" for folder, documents in folders.items())
    every = f"mdsa kb check --repair --even-all -d {domain or SHARED}"
    return (
        escaped(f"not one file is left of the documents that came from there, and none of them was removed: {where}"),
        f"Is the disk there? To remove them: mdsa kb remove {_some(names)}{base}; or all whose files are gone: {every}",
    )


def _some(names: Sequence[str]) -> str:
    """The first documents of several, as arguments of a command."""
    return " ".join(quoted(escaped(name)) for name in names[:3]) + (" ..." if len(names) > 3 else "")


@app.command("list")
def list_(domain: Domain = None, as_json: Json = False) -> None:
    """List the documents of a domain, of the shared knowledge base, which is called global, or of all."""
    from mdsa_local.knowledge import sync as syncing

    parts = opened(own(domain), stored=True)
    if not syncing.settled(parts.settings):
        try:
            in_step(parts)
        except MDSAError as error:
            # What is there can be listed all the same.
            note(escaped(f"warning: the domains' folders are not followed: {error}"))
    bases = listed(parts, domain)
    found = [(base or SHARED, entry) for base in bases for entry in parts.knowledge.list_documents(base)]
    if as_json:
        document([{"knowledge_base": base, "document": e.document, "source": e.source, "chunks": e.n_chunks} for base, e in found])
    elif found:
        table([(base, escaped(e.document), str(e.n_chunks), escaped(e.source)) for base, e in found], ("base", "document", "chunks", "source"))
    if not found:
        note(EMPTY)
    _tell_orphans(parts, (base for base, _ in found))


def _tell_orphans(parts: TinyBERTOrchestrator, bases: Iterable[str]) -> None:
    """Tell of knowledge bases that hold documents for a domain which is not there."""
    for base in dict.fromkeys(base for base in bases if base != SHARED and base not in parts.registry):
        note(f"no domain is called {base}: nobody is answered from its documents; add one, or remove them: mdsa kb remove NAME -d {base}")


app.command()(search)
app.command()(why)
app.command()(show)
app.command("eval")(evaluate)


@app.command()
def remove(
    documents: Annotated[list[str], typer.Argument(help="Names as `mdsa kb list` shows them.", show_default=False)],
    domain: Base = None,
    as_json: Json = False,
) -> None:
    """Remove documents from a knowledge base; all or, when one cannot be removed, none."""
    from mdsa_local.knowledge import sync as syncing
    from mdsa_local.knowledge.ingest import is_of_file

    parts = opened(domain, stored=True)
    sources = {known.document: known.source for known in parts.knowledge.list_documents(domain)}
    followed = {source: path for base, source, path in syncing.files(parts.settings) if base == domain}
    names = list(dict.fromkeys(documents))
    for name in names:
        if name not in sources:
            raise UnknownNameError.among("document", name, sources)
        if is_of_file(name, sources[name]) and (path := followed.get(sources[name])):
            raise InputError(f"{name} follows a file in the domain's folder and would come back", f"Delete the file instead: {path}")
    parts.knowledge.remove(names, domain)
    if as_json:
        document({"knowledge_base": domain or SHARED, "removed": names})
    else:
        line(f"{domain or SHARED}: {len(names)} removed")


@app.command()
def sync(as_json: Json = False) -> None:
    """Bring the knowledge bases in step with the documents in the domains' folders; exit code 2 when a file was refused, whatever else was done."""
    from mdsa_local.knowledge import sync as syncing

    parts = opened(None)
    done = []
    if syncing.pending(parts.settings, parts.encoder.fingerprint):
        done = syncing.sync(parts.knowledge, parts.settings, parts.encoder.fingerprint, progress("knowledge bases"))
        # Its examples are embedded and cached now rather than with the first question.
        _ = parts.router
    if as_json:
        document({name: _counts(report) for name, report in done})
    else:
        for name, report in done:
            _tell(name, ("added", "changed", "removed", "unchanged"), report)
        if not done:
            line("knowledge bases are up to date")
    if any(_refused(report) for _, report in done):
        raise typer.Exit(InputError.exit_code)


@app.command()
def optimize(domain: Domain = None, as_json: Json = False) -> None:
    """Tidy knowledge bases on disk; embed their text again if the encoder has changed."""
    parts = opened(own(domain))
    bases = listed(parts, domain)
    rebuilt = {base or SHARED: parts.knowledge.optimize(base) for base in bases}
    if as_json:
        document([{"knowledge_base": base, "embedded_again": again} for base, again in rebuilt.items()])
        return
    for base, again in rebuilt.items():
        line(f"{base}: " + ("embedded again" if again else "tidied"))


@app.command()
def check(
    domain: Domain = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what was found.")] = False,
    even_all: Annotated[
        bool, typer.Option("--even-all", help="With --repair: also remove what came from a folder of which no file is left.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look for documents stored in part, files that are gone or have changed, vectors of another encoder and damaged tables; exit code 1 when any are
    left. Where not one file is left of what came from a folder, as when a disk is not mounted, its documents stay."""
    if even_all and not repair:
        raise InputError("--even-all without --repair removes nothing", "Add --repair.")
    parts = opened(own(domain))
    bases = listed(parts, domain)
    found = [(base or SHARED, problem) for base in bases for problem in parts.knowledge.check(base, repair=repair, even_all=even_all)]
    if as_json:
        document([{"knowledge_base": base, **asdict(problem)} for base, problem in found])
    else:
        for base, problem in found:
            repaired = f"; repaired: {problem.repaired}" if problem.repaired else ""
            line(escaped(f"{base}: {problem.document or 'table'}: {problem.what}{repaired}"))
        if not found:
            line("nothing is wrong")
        elif not repair and not all(problem.kept or problem.kind == "unreadable" for _, problem in found):
            note(f"To put it right: mdsa kb check --repair{f' -d {domain}' if domain else ''}; what is gone is removed then.")
        stuck = [(base, problem.document) for base, problem in found if problem.kind == "unreadable"]
        for base in dict.fromkeys(base for base, _ in stuck):
            some = _some([document for other, document in stuck if other == base])
            note(f"What cannot be read: make it readable, or remove it: mdsa kb remove {some}{f' -d {base}' if own(base) else ''}")
    for base in dict.fromkeys(base for base, problem in found if problem.kept):
        folders: dict[str, list[str]] = {}
        for _, problem in (entry for entry in found if entry[0] == base and entry[1].kept):
            folders.setdefault(problem.kept, []).append(problem.document)
        for told in _kept(folders, own(base)):
            note(told)
    _tell_orphans(parts, (base for base in bases if base and base not in parts.registry and parts.knowledge.list_documents(base)))
    if any(not problem.repaired for _, problem in found):
        raise typer.Exit(1)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The new file.", show_default=False)],
    domain: Domains = None,
    as_json: Json = False,
) -> None:
    """Write knowledge bases, with their vectors, into one file: a backup, or a way to another machine."""
    done = opened(None).knowledge.export(file, _bases(domain), _passages_done("exporting"))
    _tell_transferred(done, "exported", as_json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file made by `mdsa kb export`.", show_default=False)],
    domain: Domains = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in place of the documents there are.")] = False,
    as_json: Json = False,
) -> None:
    """Bring knowledge bases back from a file. It is verified as a whole first; text of another encoder is embedded again."""
    done = opened(None).knowledge.restore(file, _bases(domain), replace=replace, heard=_passages_done("importing"))
    _tell_transferred(done, "imported", as_json)


def _bases(domains: list[str] | None) -> list[str | None] | None:
    return [own(name) for name in domains] if domains else None


def _passages_done(what: str) -> Callable[[int, int], None]:
    tell = progress(what, "passages")
    return lambda done, total: tell("", done, total)


def _tell_transferred(done: list[Transferred], what: str, as_json: bool) -> None:
    if as_json:
        document([{"knowledge_base": base.domain or SHARED, **{k: v for k, v in asdict(base).items() if k != "domain"}} for base in done])
        return
    for base in done:
        again = ", embedded again" if base.embedded_again else ""
        line(f"{base.domain or SHARED}: {base.documents} documents, {base.passages} passages {what}{again}")
