"""``mdsa kb``: the knowledge bases."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsa_local.cli.meter import Meter
from mdsa_local.cli.output import Domain, Json, Question, bold, dim, document, escaped, joined, note, plain, progress, quoted, table
from mdsa_local.cli.output import line as write_line
from mdsa_local.errors import InputError, MDSAError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.knowledge.evaluate import Judged
    from mdsa_local.knowledge.fusion import Ranked
    from mdsa_local.knowledge.ingest import Report
    from mdsa_local.knowledge.transfer import Transferred
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.types import Passage

app = typer.Typer(no_args_is_help=True, help="Add, list, search and remove documents.")
Domains = Annotated[
    list[str] | None, typer.Option("--domain", "-d", help="A domain, or global for the shared one; again for more.", show_default="all")
]
EMPTY = "no documents; add some with: mdsa kb add PATH, or put them into the folder knowledge of a domain's folder"


def line(text: str = "") -> None:
    """Print a line without the control characters with which a document could command a terminal."""
    write_line(plain(text))


# Where a passage begins and ends in what surrounds it.
BEGINS, ENDS = ">>>", "<<<"
# What the shared knowledge base is called where it is listed beside the others.
SHARED = "global"


def _own(domain: str | None) -> str | None:
    return None if domain == SHARED else domain


Base = Annotated[str | None, typer.Option("--domain", "-d", help="Name of a domain; the shared knowledge base, global, without.", callback=_own)]


def _parts(domain: str | None, *, stored: bool = False) -> TinyBERTOrchestrator:
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


def _in_step(parts: TinyBERTOrchestrator) -> None:
    """Bring the knowledge bases in step with the domains' folders, as a question does."""
    for name, report in parts.prepare(progress("knowledge bases")):
        for path, reason in (*report.failed, *report.remarks):
            note(escaped(f"warning: {name}: {path}: {reason}"))


def _listed(parts: TinyBERTOrchestrator, domain: str | None) -> list[str | None]:
    """The knowledge base that was named, or all."""
    return [_own(domain)] if domain else [None, *parts.knowledge.domains()]


def _counts(report: Report) -> dict[str, object]:
    failed = [{"path": path, "reason": reason} for path, reason in report.failed]
    remarks = [{"path": path, "remark": remark} for path, remark in report.remarks]
    return {name: len(getattr(report, name)) for name in ("added", "changed", "removed", "unchanged")} | {"failed": failed, "remarks": remarks}


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
    parts = _parts(domain)
    # A shell expands no ~ in quotes.
    paths = [path.expanduser() if path.parts[:1] == ("~",) and not path.exists() else path for path in paths]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise InputError(f"no such file or folder: {', '.join(missing)}", "Check the path.")
    meter = Meter("adding")
    with meter.told():
        report = parts.knowledge.add_paths([path.absolute() for path in paths], domain, meter, follow_deletes=follow_deletes)
    refused = [(path, reason) for path, reason in report.failed if path not in report.passed_over]
    if refused and not (report.added or report.changed or report.unchanged or report.removed):
        (path, reason), more = refused[0], len(refused) - 1
        raise InputError(
            f"nothing was added: {path}: {reason}" + (f"; {more} more failed" if more else ""), "Give files of these types that hold text."
        )
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
    some = " ".join(quoted(escaped(name)) for name in names[:3]) + (" ..." if len(names) > 3 else "")
    where = "; ".join(f"{folder}: {len(documents)}" for folder, documents in folders.items())
    every = f"mdsa kb check --repair --even-all -d {domain or SHARED}"
    return (
        escaped(f"not one file is left of the documents that came from there, and none of them was removed: {where}"),
        f"Is the disk there? To remove them: mdsa kb remove {some}{base}; or all whose files are gone: {every}",
    )


@app.command("list")
def list_(domain: Domain = None, as_json: Json = False) -> None:
    """List the documents of a domain, of the shared knowledge base, which is called global, or of all."""
    from mdsa_local.knowledge import sync as syncing

    parts = _parts(_own(domain), stored=True)
    if not syncing.settled(parts.settings):
        try:
            _in_step(parts)
        except MDSAError as error:
            # What is there can be listed all the same.
            note(escaped(f"warning: the domains' folders are not followed: {error}"))
    bases = _listed(parts, domain)
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


@app.command()
def search(
    question: Question,
    domain: Base = None,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many passages.")] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="field=value: document, source, title, kind (pdf, md) or metadata.NAME; * at the ends.", show_default=False),
    ] = None,
    floor: Annotated[float | None, typer.Option(min=-1, max=1, help="Least cosine of a passage with the question.", show_default=False)] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Tell what decided the order.")] = False,
    as_json: Json = False,
) -> None:
    """Show the passages a question finds in the shared knowledge base and in that of the domain."""
    from mdsa_local.knowledge.filters import parsed

    filters = parsed(where or ())
    parts, text, vector = _asked(question, domain)
    ranked = [entry for entry in parts.knowledge.ranked(text, vector, domain, k, filters, floor) if entry.twin_of is None][:k]
    if not ranked:
        # A search by meaning finds something wherever there is a document.
        note("no passage meets the conditions" if filters or floor is not None else EMPTY)
    if as_json:
        document([_passage(entry.hit.passage) | (_decided(entry) if explain else {}) for entry in ranked])
        return
    for number, entry in enumerate(ranked, 1):
        passage = entry.hit.passage
        line(escaped(f"{number}. {passage.score:.2f}  {passage.source}: {passage.title}  ({passage.knowledge_base})"))
        if explain:
            by_words = f"number {entry.hit.lexical_rank} by words (BM25 {entry.hit.bm25:.2f})" if entry.hit.lexical_rank else "no word in common"
            line(
                f"   {escaped(passage.id)}: number {entry.cosine_rank} by vector (cosine {entry.hit.cosine:.3f}), {by_words}, fused {entry.score:.4f}"
            )
            if entry.reread:
                cut = "; too long, its end was not read" if entry.reread.cut else ""
                line(f"   reranked {entry.reread.score:.3f}, was number {entry.reread.fused_rank}{cut}")
        line("   " + " ".join(passage.text.split()))


@app.command()
def why(
    question: Question,
    name: Annotated[str, typer.Option("--doc", help="Name of the document as `mdsa kb list` shows it.", show_default=False)],
    domain: Base = None,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many passages are returned.")] = 5,
    as_json: Json = False,
) -> None:
    """Tell why a document is or is not found: its rank by vector, by words and fused, which words matched, and what came in its place."""
    parts, text, vector = _asked(question, domain)
    found = parts.knowledge.why(text, vector, name, domain, k)
    if as_json:
        document({**asdict(found), "pushed_out_by": [_passage(passage) for passage in found.pushed_out_by]})
        return
    line(escaped(f"{found.document} ({found.knowledge_base}): {found.reason}"))
    line(escaped(f"  by vector  {_place(found.vector_rank, found.n_passages)}, cosine {found.cosine:.3f}: {found.vector_passage}"))
    worded = found.words_passage and f": {found.words_passage}"
    line(escaped(f"  by words   {_place(found.words_rank, found.n_matching)}, BM25 {found.bm25:.2f}{worded}"))
    line(escaped(f"  fused      {_place(found.fused_rank, None)}: {found.passage}"))
    if found.reranked_score is not None:
        line(f"  reranked   {_place(found.reranked_rank, None)}, score {found.reranked_score:.3f}")
    line(f"  words in it      {', '.join(found.matched) or 'none'}")
    line(f"  words not in it  {', '.join(found.unmatched) or 'none'}")
    for number, passage in enumerate(found.pushed_out_by, 1):
        line(f"  returned as {number}: {escaped(passage.id)} ({passage.knowledge_base}), {passage.score:.2f}")


@app.command()
def show(
    passage: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a passage, as citations and `mdsa kb search --json` show it.", show_default=False)
    ],
    domain: Base = None,
    as_json: Json = False,
) -> None:
    """Open the source of a passage at its place."""
    parts = _parts(domain)
    try:
        shown = parts.knowledge.passage(passage, domain)
    except UnknownNameError:
        # It may be in what was not followed yet.
        _in_step(parts)
        shown = parts.knowledge.passage(passage, domain)
    found = shown.passage
    if as_json:
        fields = {key: value for key, value in _passage(found).items() if key != "score"}
        document({**fields, "state": shown.state, "before": shown.before, "after": shown.after})
        return
    line(escaped(f"{found.source}, bytes {found.start} to {found.end}: {found.title}  ({found.knowledge_base})"))
    if shown.state in ("changed", "missing"):
        note(f"the file is {shown.state}; this is what was stored of it")
    if sys.stdout.isatty():
        write_line(dim(plain(shown.before)) + bold(plain(found.text)) + dim(plain(shown.after)))
    else:
        # Without bold the passage stands between two marks, on lines of its own.
        around = ((shown.before, BEGINS), (found.text, ENDS), (shown.after, ""))
        line("\n".join(text for part, mark in around for text in (part.strip("\n"), mark) if text))


@app.command("eval")
def evaluate(
    file: Annotated[Path, typer.Argument(help='JSON lines {"question", "relevant": [documents]}.', show_default=False)],
    domain: Base = None,
    as_json: Json = False,
) -> None:
    """Measure how well questions find the documents that answer them; an error where there are no documents."""
    from mdsa_local.knowledge.evaluate import PASSAGES, measure
    from mdsa_local.validation import rules

    judged = read_judged(file)
    parts = _parts(domain)
    _in_step(parts)
    limit = parts.settings.max_question_chars

    def find(question: str) -> Sequence[Passage]:
        text = rules.question(question, limit)
        return parts.knowledge.search(text, parts.encoder.encode([text])[0], domain, PASSAGES)

    own = {entry.document for entry in parts.knowledge.list_documents(domain)}
    in_scope = own.union(entry.document for entry in parts.knowledge.list_documents())
    wanted = {name for item in judged for name in item.relevant}
    if not own and not wanted & in_scope:
        base, add = (f"domain {domain}", f" -d {domain}") if domain else ("shared knowledge base", "")
        raise InputError(f"the {base} has no documents, so nothing can be measured", f"Add them first: mdsa kb add PATH{add}")
    for name in sorted(wanted - in_scope)[:5]:
        note(escaped(f"not in the knowledge bases, so it cannot be found: {name}"))
    # The first search opens the tables.
    find(judged[0].question)
    quality = {key: round(value, 4) for key, value in asdict(measure(find, judged)).items()}
    if as_json:
        document(quality)
    else:
        table([(key, str(value)) for key, value in quality.items()], ("measure", "value"))


def read_judged(path: Path) -> list[Judged]:
    """Questions with their documents. Raises :class:`InputError` with the line."""
    from mdsa_local.jsonlines import rows
    from mdsa_local.knowledge.evaluate import Judged

    expected = 'Write lines like {"question": "...", "relevant": ["document.md"]}.'

    def parse(row: Any) -> Judged:
        question, relevant = (row.get("question"), row.get("relevant")) if isinstance(row, dict) else (None, None)
        if not isinstance(question, str) or not isinstance(relevant, list) or not relevant or not all(isinstance(name, str) for name in relevant):
            raise ValueError("expected a question, a string, and relevant, a list of documents")
        return Judged(question, tuple(relevant))

    judged = [item for _, item in rows(path, expected, parse)]
    if not judged:
        raise InputError(f"{path}: no questions in it", expected)
    return judged


def _asked(question: list[str], domain: str | None) -> tuple[TinyBERTOrchestrator, str, NDArray[np.float32]]:
    """The parts, the question as it is searched for, and its vector."""
    from mdsa_local.validation import rules

    parts = _parts(domain)
    text = rules.question(joined(question), parts.settings.max_question_chars)
    _in_step(parts)
    return parts, text, parts.encoder.encode([text])[0]


def _passage(passage: Passage) -> dict[str, object]:
    return {**asdict(passage), "score": round(passage.score, 4)}


def _decided(entry: Ranked) -> dict[str, object]:
    hit = entry.hit
    decided = {"vector_rank": entry.cosine_rank, "cosine": hit.cosine, "words_rank": hit.lexical_rank, "bm25": hit.bm25, "fused": entry.score}
    if entry.reread:
        decided |= {"fused_rank": entry.reread.fused_rank, "reranked": entry.reread.score, "cut": entry.reread.cut}
    return {"explain": {key: round(value, 5) if isinstance(value, float) else value for key, value in decided.items()}}


def _place(rank: int | None, among: int | None) -> str:
    return "not among them" if rank is None else f"number {rank}" + (f" of {among}" if among is not None else "")


@app.command()
def remove(
    documents: Annotated[list[str], typer.Argument(help="Names as `mdsa kb list` shows them.", show_default=False)],
    domain: Base = None,
    as_json: Json = False,
) -> None:
    """Remove documents from a knowledge base; all or, when one cannot be removed, none."""
    from mdsa_local.knowledge import sync as syncing

    parts = _parts(domain, stored=True)
    sources = {known.document: known.source for known in parts.knowledge.list_documents(domain)}
    followed = {source: path for base, source, path in syncing.files(parts.settings) if base == domain}
    names = list(dict.fromkeys(documents))
    for name in names:
        if name not in sources:
            raise UnknownNameError.among("document", name, sources)
        if path := followed.get(sources[name]):
            raise InputError(f"{name} follows a file in the domain's folder and would come back", f"Delete the file instead: {path}")
    parts.knowledge.remove(names, domain)
    if as_json:
        document({"knowledge_base": domain or SHARED, "removed": names})
    else:
        line(f"{domain or SHARED}: {len(names)} removed")


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
        _tell(name, ("added", "changed", "removed", "unchanged"), report)
    if not done:
        line("knowledge bases are up to date")


@app.command()
def optimize(domain: Domain = None, as_json: Json = False) -> None:
    """Tidy knowledge bases on disk; embed their text again if the encoder has changed."""
    parts = _parts(_own(domain))
    bases = _listed(parts, domain)
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
    even_all: Annotated[bool, typer.Option("--even-all", help="Also remove what came from a folder of which no file is left.")] = False,
    as_json: Json = False,
) -> None:
    """Look for documents stored in part, files that are gone or have changed, vectors of another encoder and damaged tables; exit code 1 when any are
    left. Where not one file is left of what came from a folder, as when a disk is not mounted, its documents stay."""
    parts = _parts(_own(domain))
    bases = _listed(parts, domain)
    found = [(base or SHARED, problem) for base in bases for problem in parts.knowledge.check(base, repair=repair, even_all=even_all)]
    if as_json:
        document([{"knowledge_base": base, **asdict(problem)} for base, problem in found])
    else:
        for base, problem in found:
            repaired = f"; repaired: {problem.repaired}" if problem.repaired else ""
            line(escaped(f"{base}: {problem.document or 'table'}: {problem.what}{repaired}"))
        if not found:
            line("nothing is wrong")
        elif not repair and not all(problem.kept for _, problem in found):
            note(f"To put it right: mdsa kb check --repair{f' -d {domain}' if domain else ''}; what is gone is removed then.")
    for base in dict.fromkeys(base for base, problem in found if problem.kept):
        folders: dict[str, list[str]] = {}
        for _, problem in (entry for entry in found if entry[0] == base and entry[1].kept):
            folders.setdefault(problem.kept, []).append(problem.document)
        for told in _kept(folders, _own(base)):
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
    done = _parts(None).knowledge.export(file, _bases(domain), _passages_done("exporting"))
    _tell_transferred(done, "exported", as_json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file made by `mdsa kb export`.", show_default=False)],
    domain: Domains = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in place of the documents there are.")] = False,
    as_json: Json = False,
) -> None:
    """Bring knowledge bases back from a file. It is verified as a whole first; text of another encoder is embedded again."""
    done = _parts(None).knowledge.restore(file, _bases(domain), replace=replace, heard=_passages_done("importing"))
    _tell_transferred(done, "imported", as_json)


def _bases(domains: list[str] | None) -> list[str | None] | None:
    return [_own(name) for name in domains] if domains else None


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
