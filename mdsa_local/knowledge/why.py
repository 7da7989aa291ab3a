"""Why a document was or was not found. Pure functions over what the searches said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdsa_local.knowledge.fusion import Ranked
from mdsa_local.types import Passage

if TYPE_CHECKING:
    from mdsa_local.knowledge.reading import Standing

# Each word is a search of its own, of two or three milliseconds.
MOST_WORDS = 100


@dataclass(frozen=True, slots=True)
class Why:
    """How a document fared with a question.

    Ranks count from 1 and are each those of its best passage, which need not be the same one: ``vector_rank`` of ``vector_passage`` among all
    ``n_passages`` of its knowledge base, ``words_rank`` of ``words_passage`` among the ``n_matching`` that share a word with the question (None and
    empty when it shares none), ``fused_rank`` of ``passage`` among the candidates of all knowledge bases in scope (None when it is no candidate),
    ``reranked_rank`` among those that a reranker read again, ``reranked_score`` what it gave (None when it did not read it, or there is none),
    ``returned_rank`` among what is returned. ``pushed_out_by``: what is returned in its place, best first.
    """

    knowledge_base: str
    document: str
    passage: str
    n_passages: int
    vector_rank: int | None
    vector_passage: str
    cosine: float
    n_matching: int
    words_rank: int | None
    words_passage: str
    bm25: float
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    fused_rank: int | None
    reranked_rank: int | None
    reranked_score: float | None
    returned_rank: int | None
    reason: str
    pushed_out_by: tuple[Passage, ...]


def words(text: str) -> list[str]:
    """The different words of a question, at most 100."""
    return list(dict.fromkeys(re.findall(r"\w+", text.lower())))[:MOST_WORDS]


def explain(
    knowledge_base: str,
    document: str,
    standing: Standing,
    matched: Sequence[str],
    asked: Sequence[str],
    fused: Sequence[Ranked],
    ranked: Sequence[Ranked],
    top_k: int,
) -> Why:
    """Put together where a document stands by itself, what the fusion made of it, and, in ``ranked``, what a reranker made of that; without one
    ``ranked`` is ``fused``."""
    mine = [at for at, entry in enumerate(ranked) if _is(entry, knowledge_base, document)]
    returned = [entry.hit.passage for entry in ranked if entry.twin_of is None][:top_k]
    best = ranked[mine[0]] if mine else None
    kept = next((ranked[at] for at in mine if ranked[at].twin_of is None), None)
    n_reread = sum(entry.reread is not None for entry in ranked)
    reread = kept.reread if kept else None
    place = returned.index(kept.hit.passage) + 1 if kept is not None and kept.hit.passage in returned else None
    vector_rank, passage, cosine = standing.by_vector or (None, "", 0.0)
    words_rank, words_passage, bm25 = standing.by_words or (None, "", 0.0)
    return Why(
        knowledge_base=knowledge_base,
        document=document,
        passage=best.hit.passage.id if best else passage,
        n_passages=standing.n_passages,
        vector_rank=vector_rank,
        vector_passage=passage,
        cosine=cosine,
        n_matching=standing.n_matching,
        words_rank=words_rank,
        words_passage=words_passage,
        bm25=bm25,
        matched=tuple(matched),
        unmatched=tuple(word for word in asked if word not in matched),
        fused_rank=next((at for at, entry in enumerate(fused, 1) if _is(entry, knowledge_base, document)), None),
        reranked_rank=ranked.index(kept) + 1 if kept and reread else None,
        reranked_score=reread.score if reread else None,
        returned_rank=place,
        reason=_reason(best, kept, place, standing, top_k, n_reread),
        pushed_out_by=() if place else tuple(returned),
    )


def _is(entry: Ranked, knowledge_base: str, document: str) -> bool:
    passage = entry.hit.passage
    return passage.knowledge_base == knowledge_base and passage.id.rpartition("#")[0] == document


def _reason(best: Ranked | None, kept: Ranked | None, place: int | None, standing: Standing, top_k: int, n_reread: int) -> str:
    if place:
        return f"returned, as number {place}"
    if kept is not None and n_reread and kept.reread is None:
        return f"a candidate, but only the first {n_reread} are read by the reranker"
    if kept is not None:
        return f"a candidate, but {top_k} passages rank better"
    if best is not None:
        return f"the same text is in {best.twin_of}, which ranks better"
    by_words = f"number {standing.by_words[0]} of {standing.n_matching} by words" if standing.by_words else "no word of the question in it"
    by_vector = f"number {standing.by_vector[0]} of {standing.n_passages} by vector" if standing.by_vector else "no vector"
    return f"no candidate: {by_vector}, {by_words}, and only the first of each are compared"
