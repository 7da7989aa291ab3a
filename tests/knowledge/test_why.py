from __future__ import annotations

from pathlib import Path

import pytest

from mdsa_local.errors import UnknownNameError
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.why import Why

from .toy_embedder import ToyEmbedder


def why(rag: DualRAG, text: str, document: str, domain: str | None = None, top_k: int = 5) -> Why:
    return rag.why(text, ToyEmbedder().encode([text])[0], document, domain, top_k)


@pytest.fixture
def rag(tmp_path: Path) -> DualRAG:
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag.add_global_documents([{"content": "Freezing of cards takes a minute.", "metadata": {"id": "freeze"}}])
    rag.add_global_documents([{"content": "Phones are answered at night.", "metadata": {"id": "phones"}}])
    rag.add_local_documents("finance", [{"content": f"Filler about cards number {n}.", "metadata": {"id": f"filler{n}"}} for n in range(120)])
    rag.add_local_documents("finance", [{"content": "freezing  of cards takes a minute.", "metadata": {"id": "copy"}}])
    rag.add_local_documents("finance", [{"content": "Loans, rates, and terms of every kind.", "metadata": {"id": "loans"}}])
    return rag


def test_what_is_returned(rag: DualRAG) -> None:
    found = why(rag, "Who answers a phone at night?", "phones", "finance")
    assert (found.knowledge_base, found.passage, found.reason) == ("global", "phones#0", f"returned, as number {found.returned_rank}")
    # The index knows words by their stems, and leaves out those that say nothing.
    assert (found.matched, found.unmatched) == (("answers", "phone", "night"), ("who", "a", "at"))
    assert (found.n_passages, found.vector_rank, found.n_matching, found.words_rank) == (2, 1, 1, 1)
    assert found.bm25 > 0 and 0 < found.cosine < 1
    assert found.vector_passage == found.words_passage == "phones#0"
    assert found.pushed_out_by == ()


def test_a_candidate_below_the_last(rag: DualRAG) -> None:
    question = "Filler about cards number 7"
    ranked = [entry.hit.passage.id for entry in rag.ranked(question, ToyEmbedder().encode([question])[0], "finance", 1)]
    found = why(rag, question, ranked[4].removesuffix("#0"), "finance", top_k=1)
    # Equal scores by words come in any order.
    assert found.fused_rank is not None and found.fused_rank > 1
    assert found.returned_rank is None
    assert found.reason == "a candidate, but 1 passages rank better"
    assert [passage.id for passage in found.pushed_out_by] == [ranked[0]] == ["filler7#0"]


def test_a_copy(rag: DualRAG) -> None:
    # Until then LanceDB weighs words a little differently from a search in memory, and the two are the same but for that.
    rag.optimize()
    found = [why(rag, "freezing of cards takes a minute", name, "finance") for name in ("freeze", "copy")]
    copies = [entry for entry in found if entry.returned_rank is None]
    assert len(copies) == 1
    assert copies[0].reason.startswith("the same text is in ")


def test_no_candidate(rag: DualRAG) -> None:
    found = why(rag, "Filler about cards number 7", "loans", "finance")
    assert (found.fused_rank, found.words_rank, found.words_passage, found.matched) == (None, None, "", ())
    assert found.vector_rank == found.n_passages == 122
    assert found.reason == "no candidate: number 122 of 122 by vector, no word of the question in it, and only the first of each are compared"
    assert len(found.pushed_out_by) == 5


def test_a_document_out_of_scope_is_unknown(rag: DualRAG) -> None:
    with pytest.raises(UnknownNameError, match="loans"):
        why(rag, "loans", "loans")


@pytest.mark.parametrize("question", ["", "'; --", '" OR *', "\x00", "the of and", "x " * 5000])
def test_any_question(rag: DualRAG, question: str) -> None:
    assert why(rag, question, "loans", "finance").document == "loans"
