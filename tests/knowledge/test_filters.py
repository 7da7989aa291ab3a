from __future__ import annotations

from pathlib import Path

import pytest

from mdsa_local.errors import InputError, UnknownNameError
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.filters import FIELDS, parsed

from .toy_embedder import ToyEmbedder

SOURCES = ("docs/a.md", "docs/b.PDF", "notes/o'hara.txt", "notes/50%.txt")


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> DualRAG:
    made = DualRAG(tmp_path_factory.mktemp("kb"), ToyEmbedder())
    made.add_global_documents(
        {"content": f"apples number {n}", "metadata": {"id": f"d{n}", "source": source, "title": f"Title {n}"}} for n, source in enumerate(SOURCES)
    )
    made.add_local_documents("garden", [{"content": "apples of the garden", "metadata": {"id": "g", "source": "docs/g.md"}}])
    return made


def found(rag: DualRAG, filters: dict[str, str]) -> list[str]:
    return sorted(hit["metadata"]["passage"] for hit in rag.query("apples", domain="garden", filters=filters))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["d0#0", "d1#0", "d2#0", "d3#0", "g#0"]),
        ({"source": "docs/a.md"}, ["d0#0"]),
        ({"source": "docs/*"}, ["d0#0", "d1#0", "g#0"]),
        ({"source": "*.txt"}, ["d2#0", "d3#0"]),
        ({"source": "*hara*"}, ["d2#0"]),
        ({"source": "notes/o'hara.txt"}, ["d2#0"]),
        ({"source": "notes/50%*"}, ["d3#0"]),
        ({"source": "notes/__%.txt"}, []),
        ({"kind": "pdf"}, ["d1#0"]),
        ({"kind": ".MD", "source": "docs/*"}, ["d0#0", "g#0"]),
        ({"document": "d3"}, ["d3#0"]),
        ({"title": "Title 2"}, ["d2#0"]),
        ({"source": "x' OR '1'='1"}, []),
        ({"source": "x'; DROP TABLE global; --"}, []),
        ({"source": "x\\' OR 1=1 --"}, []),
    ],
)
def test_only_what_meets_all_conditions_is_found(rag: DualRAG, filters: dict[str, str], expected: list[str]) -> None:
    assert found(rag, filters) == expected


def test_unknown_fields_and_what_is_no_condition_are_errors(rag: DualRAG) -> None:
    with pytest.raises(UnknownNameError) as error:
        found(rag, {"text = '' OR source": "x"})
    assert all(name in f"{error.value} {error.value.hint}" for name in FIELDS)
    for value in ("", "*", "**"):
        with pytest.raises(InputError):
            found(rag, {"source": value})
    assert parsed(["source=a=b", "kind=pdf"]) == {"source": "a=b", "kind": "pdf"}
    for conditions in (["source"], ["source=a", "source=b"]):
        with pytest.raises(InputError):
            parsed(conditions)


def test_conditions_are_met_before_the_best_are_chosen(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    texts = [{"content": f"apples apples {n}", "metadata": {"id": f"near{n}", "source": "near.md"}} for n in range(200)]
    rag.add_global_documents([*texts, {"content": "something about pears", "metadata": {"id": "far", "source": "far.md"}}])
    assert [hit["metadata"]["passage"] for hit in rag.query("apples", filters={"source": "far.md"})] == ["far#0"]
