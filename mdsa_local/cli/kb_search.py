"""``mdsa kb search|why|show|eval``: what is found, why, where it stands, and how well that works."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsa_local.cli.kb_bases import EMPTY, Base, in_step, line, opened
from mdsa_local.cli.output import Json, Question, bold, dim, document, escaped, joined, note, plain, styled, table
from mdsa_local.cli.output import line as write_line
from mdsa_local.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.knowledge.evaluate import Judged
    from mdsa_local.knowledge.fusion import Ranked
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.types import Passage

# Where a passage begins and ends in what surrounds it.
BEGINS, ENDS = ">>>", "<<<"


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


def show(
    passage: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a passage, as citations and `mdsa kb search --json` show it.", show_default=False)
    ],
    domain: Base = None,
    as_json: Json = False,
) -> None:
    """Open the source of a passage at its place."""
    parts = opened(domain)
    try:
        shown = parts.knowledge.passage(passage, domain)
    except UnknownNameError:
        # It may be in what was not followed yet.
        in_step(parts)
        shown = parts.knowledge.passage(passage, domain)
    found = shown.passage
    if as_json:
        fields = {key: value for key, value in _passage(found).items() if key != "score"}
        document({**fields, "state": shown.state, "before": shown.before, "after": shown.after})
        return
    line(escaped(f"{found.source}, bytes {found.start} to {found.end}: {found.title}  ({found.knowledge_base})"))
    if shown.state in ("changed", "missing"):
        note(f"the file is {shown.state}; this is what was stored of it")
    if styled():
        write_line(dim(plain(shown.before)) + bold(plain(found.text)) + dim(plain(shown.after)))
    else:
        # Without bold the passage stands between two marks, on lines of its own.
        around = ((shown.before, BEGINS), (found.text, ENDS), (shown.after, ""))
        line("\n".join(text for part, mark in around for text in (part.strip("\n"), mark) if text))


def evaluate(
    file: Annotated[Path, typer.Argument(help='JSON lines {"question", "relevant": [documents]}.', show_default=False)],
    domain: Base = None,
    as_json: Json = False,
) -> None:
    """Measure how well questions find the documents that answer them; an error where there are no documents."""
    from mdsa_local.knowledge.evaluate import PASSAGES, measure
    from mdsa_local.validation import rules

    judged = read_judged(file)
    parts = opened(domain)
    in_step(parts)
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

    parts = opened(domain)
    text = rules.question(joined(question), parts.settings.max_question_chars)
    in_step(parts)
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
