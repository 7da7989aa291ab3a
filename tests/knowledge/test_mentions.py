from __future__ import annotations

from pathlib import Path

import pytest

from mdsa_local.errors import StorageError
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.routing.encoder import Encoder


@pytest.fixture
def bases(tmp_path: Path, encoder: Encoder) -> DualRAG:
    made = DualRAG(tmp_path / "kb", encoder)
    made.add_global_documents([{"content": "A parcel arrives within two days."}])
    made.add_local_documents("finance", [{"content": "Refunds are paid to the card."}])
    made.add_local_documents("medical", [{"content": "The zebrafish study was small."}])
    return made


def test_words_are_known_in_either_form_and_from_both_bases(bases: DualRAG) -> None:
    assert bases.unknown(["refund", "Refunded", "PARCELS", "bitcoin", "zebrafish"], "finance") == {"bitcoin", "zebrafish"}
    assert bases.unknown(["zebrafish", "refund"], "medical") == {"refund"}
    assert bases.unknown(["refund", "parcel"], None) == {"refund"}
    assert bases.unknown([], "finance") == set()


def test_tables_in_memory_know_the_same_words(bases: DualRAG, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["refund", "Refunded", "PARCELS", "bitcoin", "zebrafish", "the", "o'brien'; DROP", "refund OR card", '"', "日本語", "Cärd", "days.", ""]
    from_disk = {domain: bases.unknown(asked, domain) for domain in ("finance", "medical", None)}
    assert "refund" not in from_disk["finance"]
    for domain in ("finance", "medical"):
        for _ in range(3):
            bases.search("refund", encoder.encode(["refund"])[0], domain, 2)
    bases.settle()
    # Only this one's: what earlier tests left elsewhere may be tidied meanwhile.
    monkeypatch.setattr(bases._database, "run", lambda *_: pytest.fail("LanceDB was asked"))
    assert {domain: bases.unknown(asked, domain) for domain in from_disk} == from_disk


def test_nothing_is_known_where_nothing_was_added(tmp_path: Path, encoder: Encoder) -> None:
    assert DualRAG(tmp_path / "kb", encoder).unknown(["a", "refund"], "finance") == {"a", "refund"}


def test_words_are_words_and_no_query_language(bases: DualRAG) -> None:
    odd = ["refund OR card", '"', "card:*", "o'brien'; DROP", "\u0000", "日本語"]
    assert set(odd) - bases.unknown(odd, "finance") <= {"refund OR card", "card:*"}


def test_a_damaged_table_is_an_error(bases: DualRAG, tmp_path: Path) -> None:
    for path in (tmp_path / "kb" / "finance.lance").rglob("*.lance"):
        path.write_bytes(b"no table")
    with pytest.raises(StorageError):
        DualRAG(tmp_path / "kb", Encoder.load()).unknown(["refund"], "finance")
