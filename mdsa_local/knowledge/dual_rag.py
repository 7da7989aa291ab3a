"""Two knowledge bases for a question: the one all domains share, and the domain's own. There is no way to name a third."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import is_normalized, normalize

from mdsa_local.errors import ConfigError, InputError, StorageError, UnknownNameError, expected, several
from mdsa_local.knowledge import Embedder
from mdsa_local.knowledge import filters as filtering
from mdsa_local.knowledge.forked import refuse_forked
from mdsa_local.knowledge.fusion import Hit, Ranked
from mdsa_local.knowledge.given import DOCUMENT, entries
from mdsa_local.knowledge.ingest import Progress, Report, ingest
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.mentions import unknown
from mdsa_local.knowledge.reading import Document
from mdsa_local.knowledge.rerank import Reranker, load, reordered, wide
from mdsa_local.knowledge.store import KnowledgeBase
from mdsa_local.knowledge.together import nearness, rank_all
from mdsa_local.settings import Settings, user_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.knowledge.check import Problem
    from mdsa_local.knowledge.show import Shown
    from mdsa_local.knowledge.transfer import Heard, Transferred
    from mdsa_local.knowledge.why import Why
    from mdsa_local.types import Passage

logger = logging.getLogger(__name__)

GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a question may see: table ``shared`` and at most one other, ``own``. Raises :class:`InputError` when they are the same."""

    shared: str
    own: str | None = None

    def __post_init__(self) -> None:
        expected(self.own, str | None, "the domain", "Pass the name of one, or None for the shared knowledge base alone.")
        if self.own == self.shared:
            raise InputError(f"{self.own!r} is the shared knowledge base, not a domain's", "Leave the domain out to use the shared one.")

    @property
    def tables(self) -> tuple[str, ...]:
        """The names, one or two."""
        return (self.shared,) if self.own is None else (self.shared, self.own)


class DualRAG:
    """The knowledge bases in one place. Threads may share it, and other processes may write there.

    ``persist_directory`` is a folder or any URI that LanceDB takes, such as ``s3://bucket/prefix``, with LanceDB's ``storage_options`` for it;
    None is the configured place. ``embedder`` None is the shipped encoder, looked up on first use.
    ``reranker`` is where a cross-encoder lies that orders what was found anew, see :mod:`mdsa_local.knowledge.rerank`; the first search opens it,
    on ``threads`` of the CPU where it is a GGUF, 0 for one per core. None is none, or the configured one at the configured place. ``home`` is
    where this machine keeps its locks of a URI, None for ``$MDSA_HOME``. ``domain`` None is the shared knowledge base throughout.

    Methods raise :class:`StorageError` when the disk fails, and in a process forked after LanceDB had been used; :class:`ConfigError` when a table
    holds another encoder's vectors, :class:`InputError` for a domain that is no name; searches :class:`ModelError` when the reranker cannot be used,
    and whatever embeds text, which then stores nothing, where words stand in for the encoder.
    """

    def __init__(
        self,
        persist_directory: str | Path | None = None,
        embedder: Embedder | None = None,
        global_collection_name: str = GLOBAL,
        storage_options: Mapping[str, str] | None = None,
        reranker: str | Path | None = None,
        threads: int = 0,
        home: str | Path | None = None,
    ) -> None:
        if not persist_directory:
            settings = Settings.load()
            reranker, threads, home = reranker or settings.reranker_place, threads or settings.threads, home or settings.home
            persist_directory, storage_options = settings.knowledge_place, {**settings.storage_options, **(storage_options or {})}
        self._storage_options = storage_options
        self._database = connect(persist_directory, storage_options, user_path(home) if home else None)
        self._given_embedder = embedder
        self._shared = global_collection_name
        self._reranker_at, self._threads = reranker or None, threads
        self._opened_reranker: Reranker | None = None
        self._lock = threading.Lock()
        self._knowledge_bases: dict[str, KnowledgeBase] = {}

    @property
    def _embedder(self) -> Embedder:
        refuse_forked()
        with self._lock:
            if self._given_embedder is None:
                from mdsa_local.routing.encoder import Encoder

                self._given_embedder = Encoder.load()
            return self._given_embedder

    @property
    def _reranker(self) -> Reranker | None:
        with self._lock:
            if self._opened_reranker is None and self._reranker_at is not None:
                self._opened_reranker = load(self._reranker_at, self._threads)
            return self._opened_reranker

    def search(
        self, text: str, vector: NDArray[np.float32] | None, domain: str | None, top_k: int, floor: float | None = None
    ) -> tuple[Passage, ...]:
        """The best ``top_k`` passages of the shared and the domain's knowledge base; with a ``floor`` only those whose cosine reaches it.

        ``vector`` is that of ``text``, ``(width,) float32, unit length``; None to search by words alone, with whatever encoder the tables were made.
        """
        return tuple(hit.passage for hit in self._hits(text, vector, Scope(self._shared, domain).tables, top_k, floor=floor))

    def nearest(self, text: str, vector: NDArray[np.float32], domains: Iterable[str], most: int) -> tuple[str, ...]:
        """The ``most`` of ``domains`` whose own knowledge bases have something nearest to ``text`` and its ``vector``, nearest first; without
        those that have none, or one that cannot be searched."""
        found: dict[str, float] = {}
        held = {*self._database.names()}
        # None of them is the one that was asked for. But a store elsewhere that fails does so for all.
        passed_over = (ConfigError, StorageError) if self._database.local else (ConfigError,)
        tables = {name: table for name in domains if (table := Scope(self._shared, name).tables[-1]) in held}
        for name, near in zip(tables, nearness(map(self._named, tables.values()), vector, text), strict=True):
            if isinstance(near, passed_over):
                logger.warning("knowledge base %s is left out: %s", name, near)
            elif isinstance(near, ConfigError | StorageError):
                raise near
            else:
                found[name] = near
        return tuple(sorted(found, key=lambda name: -found[name])[:most])

    def holds(self, domain: str | None) -> bool:
        """Whether there is a knowledge base in the scope of ``domain``."""
        return any(self._database.has(name) for name in Scope(self._shared, domain).tables)

    def query(
        self,
        query: str,
        domain: str | None = None,
        top_k: int = 5,
        use_local: bool = True,
        use_global: bool = True,
        filters: Mapping[str, str | float] | None = None,
        floor: float | None = None,
    ) -> list[dict[str, Any]]:
        """Like :meth:`search`, as ``{content, score, metadata}``: the cosine with the question, the metadata given with the document or of
        its front matter, and where the passage is: ``source``, ``passage``, ``start``, ``end`` and ``knowledge_base``, which nothing given replaces.

        Raises :class:`InputError` for a question that :meth:`~mdsa_local.orchestrator.TinyBERTOrchestrator.ask` would not take, whatever its length.
        ``filters`` restricts what is searched, ``{"source": "docs/*", "metadata.owner": "Dana"}``; see :func:`mdsa_local.knowledge.filters.sql`.
        """
        from mdsa_local.validation import rules

        refuse_forked()
        if not isinstance(query, str):
            raise InputError(f"the question is a {type(query).__name__}, not a string", "Pass the question as text.")
        expected(filters, Mapping | None, "filters", 'Pass a mapping, such as {"source": "docs/*"}, or None.')
        expected(floor, Real | None, "floor", "Pass a cosine, such as 0.3, or None.")
        query = rules.question(query, len(query))
        scope = Scope(self._shared, domain)
        tables = [name for name in scope.tables if (use_global if name == self._shared else use_local)]
        hits = self._hits(query, self._embedder.encode([query])[0], tables, top_k, filtering.sql(filters or {}), floor) if tables else []
        return [{"content": hit.passage.text, "score": hit.passage.score, "metadata": _metadata(hit)} for hit in hits]

    def add_global_documents(self, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        """Add texts for all domains, each ``{content, metadata}``; their document ids, which are ``metadata["id"]`` as text, or made of content and
        metadata where that is missing, None or empty.

        A document with a known id replaces it: give those an id whose text or metadata will change. ``metadata["source"]`` and ``["title"]`` are
        shown with its passages. Raises :class:`InputError`, and adds none, for what is no list of such documents, for another key beside these two,
        and for two documents of one id that differ.
        """
        return self._add(None, documents)

    def add_local_documents(self, domain: str, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        """Add texts for one domain only; else like :meth:`add_global_documents`."""
        return self._add(domain, documents)

    def add_paths(
        self,
        paths: Path | str | Iterable[Path | str],
        domain: str | None = None,
        progress: Progress | None = None,
        *,
        follow_deletes: bool = False,
        even_all: bool = False,
    ) -> Report:
        """Ingest files and folders, or a single one; see :func:`mdsa_local.knowledge.ingest.ingest`. Raises :class:`InputError` for what is no
        path."""
        given = several(paths)
        for path in given:
            expected(path, Path | str, "the path", 'Pass one, such as "docs/returns.md", or a list of several.')
        return ingest(self._knowledge_base(domain), given, progress, follow_deletes=follow_deletes, even_all=even_all)

    def ranked(
        self,
        text: str,
        vector: NDArray[np.float32],
        domain: str | None,
        top_k: int,
        filters: Mapping[str, str | float] | None = None,
        floor: float | None = None,
    ) -> list[Ranked]:
        """All candidates :meth:`search` chooses from, best first, with what decided it; passages whose text a better one has are still there.
        ``filters`` as for :meth:`query`."""
        _counted(top_k)
        fused = self._fused(text, vector, Scope(self._shared, domain).tables, top_k, filtering.sql(filters or {}), floor)
        return self._reranked(text, fused, top_k)

    def why(self, text: str, vector: NDArray[np.float32], document: str, domain: str | None = None, top_k: int = 5) -> Why:
        """Why :meth:`search` does or does not return a document. Raises :class:`UnknownNameError` when neither knowledge base in scope has it."""
        from mdsa_local.knowledge.why import explain, words

        scope = [self._named(name) for name in reversed(Scope(self._shared, domain).tables)]
        known = [(base, [found.document for found in base.documents()]) for base in scope]
        document = _as_stored(document, {name for _, documents in known for name in documents})
        owner = next((base for base, documents in known if document in documents), None)
        if owner is None:
            raise UnknownNameError.among("document", document, {name for _, documents in known for name in documents})
        fused = self._fused(text, vector, Scope(self._shared, domain).tables, top_k)
        ranked, asked = self._reranked(text, fused, top_k), words(text)
        return explain(owner.label, document, owner.standing(document, vector, text), owner.matching(document, asked), asked, fused, ranked, top_k)

    def unknown(self, words: Iterable[str], domain: str | None) -> set[str]:
        """Those of ``words`` that no passage of the shared or the domain's knowledge base contains, by the word index's idea of a word."""
        return unknown([self._named(name) for name in Scope(self._shared, domain).tables], words)

    def passage(self, passage_id: str, domain: str | None = None) -> Shown:
        """A stored passage and what surrounds it in its source. Raises :class:`UnknownNameError` when the knowledge base has none of this id."""
        from mdsa_local.knowledge.show import around

        expected(passage_id, str, "the passage", 'Pass its id, such as "returns.md#0".')
        base = self._knowledge_base(domain)
        found = base.passage(passage_id) or base.passage(normalize("NFC", passage_id))
        if found is None:
            document = passage_id.rpartition("#")[0]
            known = {entry.document: entry.n_chunks for entry in self.list_documents(domain)}
            if document in known:
                raise UnknownNameError(f"document {document!r} has no passage {passage_id!r}", f"Its passages are 0 to {known[document] - 1}.")
            raise UnknownNameError.among("passage", passage_id, (f"{name}#0" for name in known))
        return around(*found)

    def list_documents(self, domain: str | None = None) -> list[Document]:
        """The documents of one knowledge base, sorted; none when nothing was added."""
        return self._knowledge_base(domain).documents()

    def remove(self, document: str | Iterable[str], domain: str | None = None, *, missing_ok: bool = False) -> None:
        """Remove a document, or several in one commit. Raises :class:`UnknownNameError`, and removes none, when one is not there, unless that is
        ``missing_ok``."""
        hint = 'Pass its id, such as "returns.md", or a list of several.'
        expected(document, Iterable, "the document", hint)
        several = [document] if isinstance(document, str) else list(document)
        for one in several:
            expected(one, str, "the document", hint)
        knowledge_base, names = self._knowledge_base(domain), list(dict.fromkeys(several))
        if not all(is_normalized("NFC", name) for name in names):
            stored = {found.document for found in knowledge_base.documents()}
            names = [_as_stored(name, stored) for name in names]
        # That one alone was not there is told by its removal.
        known = set(names) if missing_ok or len(names) == 1 else {found.document for found in knowledge_base.documents()}
        missing = next((name for name in names if name not in known), None)
        if missing is None and not knowledge_base.delete_all(names) and names and not missing_ok:
            missing = names[0]
        if missing is not None:
            raise UnknownNameError.among("document", missing, [found.document for found in knowledge_base.documents()])
        knowledge_base.tidy()

    def move(self, sources: Collection[str], above: str, instead: str, domain: str | None = None) -> None:
        """Let documents of the sources given, which all begin with ``above``, have come from below ``instead``: nothing is read, their names stay."""
        knowledge_base = self._knowledge_base(domain)
        knowledge_base.move(sources, above, instead)
        knowledge_base.tidy()

    def check(self, domain: str | None = None, *, repair: bool = False, even_all: bool = False) -> list[Problem]:
        """What is wrong with a knowledge base; see :func:`mdsa_local.knowledge.check.check`."""
        from mdsa_local.knowledge.check import check

        return check(self._knowledge_base(domain), repair=repair, even_all=even_all)

    def optimize(self, domain: str | None = None) -> bool:
        """Tidy a knowledge base on disk; embed its text again if another encoder made it, and then return True."""
        knowledge_base = self._knowledge_base(domain)
        if knowledge_base.rebuild():
            return True
        knowledge_base.optimize()
        return False

    def export(self, path: str | Path, domains: str | Iterable[str | None] | None = None, heard: Heard | None = None) -> list[Transferred]:
        """Write knowledge bases, all or those of ``domains``, one or several, into one new file; see
        :func:`mdsa_local.knowledge.transfer.export`."""
        from mdsa_local.knowledge import transfer

        names = (None, *self.domains()) if domains is None else _names(domains)
        for name in names:
            if name is not None and name not in self.domains():
                raise UnknownNameError.among("knowledge base", name, (GLOBAL, *self.domains()))
        return transfer.export(user_path(path, InputError), [(name, self._knowledge_base(name)) for name in names], heard)

    def restore(
        self, path: str | Path, domains: str | Iterable[str | None] | None = None, *, replace: bool = False, heard: Heard | None = None
    ) -> list[Transferred]:
        """Bring back what :meth:`export` wrote; see :func:`mdsa_local.knowledge.transfer.restore`."""
        from mdsa_local.knowledge import transfer

        chosen = None if domains is None else _names(domains)
        return transfer.restore(user_path(path, InputError), self._knowledge_base, chosen, replace=replace, heard=heard)

    def domains(self) -> tuple[str, ...]:
        """The domains that have a knowledge base of their own, sorted."""
        return tuple(name for name in self._database.names() if name != self._shared)

    def _knowledge_base(self, domain: str | None) -> KnowledgeBase:
        return self._named(Scope(self._shared, domain).tables[-1])

    def _named(self, name: str) -> KnowledgeBase:
        embedder = self._embedder
        with self._lock:
            if name not in self._knowledge_bases:
                self._knowledge_bases[name] = KnowledgeBase(self._database, name, embedder, GLOBAL if name == self._shared else name)
            return self._knowledge_bases[name]

    def _hits(
        self,
        text: str,
        vector: NDArray[np.float32] | None,
        tables: Iterable[str],
        top_k: int,
        where: str | None = None,
        floor: float | None = None,
    ) -> list[Hit]:
        _counted(top_k)
        ranked = self._reranked(text, self._fused(text, vector, tables, top_k, where, floor, every=False), top_k)
        return [entry.hit for entry in ranked if entry.twin_of is None][:top_k]

    def _fused(
        self,
        text: str,
        vector: NDArray[np.float32] | None,
        tables: Iterable[str],
        top_k: int,
        where: str | None = None,
        floor: float | None = None,
        *,
        every: bool = True,
    ) -> list[Ranked]:
        """The candidates as the search orders them: more than are asked for where a reranker reads them again."""
        wanted = top_k if self._reranker_at is None else wide(top_k)
        return rank_all([self._named(name) for name in tables], vector, text, wanted, where, floor, every=every)

    def _reranked(self, text: str, fused: list[Ranked], top_k: int) -> list[Ranked]:
        reranker = self._reranker
        return fused if reranker is None else reordered(reranker, text, fused, wide(top_k))

    def settle(self) -> None:
        """Wait until nothing is being done in the background: words being read, tables copied, indexes built."""
        with self._lock:
            knowledge_bases = list(self._knowledge_bases.values())
        for knowledge_base in knowledge_bases:
            knowledge_base.settle()

    def close(self) -> None:
        """Free what tables and reranker take, and the connection; what was to be tidied later is left to whoever opens the table next. Safe to call
        twice, and beside searches, additions and what is done in the background, which go on; a later use opens everything again. What is only in
        memory, at ``memory://``, is gone."""
        with self._lock:
            opened, self._opened_reranker = self._opened_reranker, None
            knowledge_bases, self._knowledge_bases = list(self._knowledge_bases.values()), {}
            # Whoever is at work has the one before.
            self._database = connect(self._database.folder, self._storage_options, self._database.home)
        if opened is not None:
            opened.close()
        for knowledge_base in knowledge_bases:
            knowledge_base.let_go()

    def __enter__(self) -> DualRAG:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, domain: str | None, documents: Iterable[Mapping[str, Any]]) -> list[str]:
        if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
            raise InputError(f"the documents are a {type(documents).__name__}, not a list of documents", f"Write [{DOCUMENT}, ...].")
        knowledge_base = self._knowledge_base(domain)
        made = entries(documents, knowledge_base)
        knowledge_base.add(made)
        knowledge_base.tidy()
        return [entry.document for entry in made]


def _counted(top_k: int) -> None:
    if not isinstance(top_k, Integral) or isinstance(top_k, bool) or top_k < 1:
        raise InputError(f"top_k must be a whole number of at least 1, not {top_k!r}", "Pass how many passages to return, such as top_k=5.")


def _names(domains: str | Iterable[str | None]) -> tuple[str | None, ...]:
    """The domains given, one or several, each once; None, or ``global``, among them is the shared knowledge base. Raises :class:`InputError` for
    what is no name."""
    hint = f"Pass the name of a domain, a list of several in which {GLOBAL!r} is the shared knowledge base, or None for all."
    expected(domains, Iterable, "the knowledge bases", hint)
    names = several(domains)
    for name in names:
        expected(name, str | None, "the knowledge base", hint)
    return tuple(dict.fromkeys(None if name == GLOBAL else name for name in names))


def _metadata(hit: Hit) -> dict[str, Any]:
    passage = hit.passage
    own = {"source": passage.source, "knowledge_base": passage.knowledge_base, "passage": passage.id, "start": passage.start, "end": passage.end}
    return {"title": passage.title} | dict(hit.metadata) | own


def _as_stored(document: str, known: Collection[str]) -> str:
    """What a document is called that a shell on macOS completed from the name of its file, which is in another form of Unicode."""
    return document if document in known else normalize("NFC", document)
