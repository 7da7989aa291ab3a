from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unicodedata import normalize

import pytest

from mdsa_local.errors import InputError, UnknownNameError
from mdsa_local.knowledge import filters as filtering
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.filters import FIELDS, parsed, sql

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
        ({"source": "a.md"}, ["d0#0"]),
        ({"source": ".md"}, []),
        ({"source": "/a.md"}, []),
    ],
)
def test_only_what_meets_all_conditions_is_found(rag: DualRAG, filters: dict[str, str], expected: list[str]) -> None:
    assert found(rag, filters) == expected


def test_on_windows_a_path_may_be_typed_with_its_own_slashes(rag: DualRAG, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = {"docs\\*": ["d0#0", "d1#0", "g#0"], "docs\\a.md": ["d0#0"], "notes\\o'hara.txt": ["d2#0"], "a.md": ["d0#0"]}
    assert [found(rag, {"source": value}) for value in typed] == [[], [], [], ["d0#0"]]
    monkeypatch.setattr(filtering, "sys", SimpleNamespace(platform="win32"))
    assert {value: found(rag, {"source": value}) for value in typed} == typed


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


def test_a_path_may_stand_below_any_folder(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    for name in ("docs/a.md", "other/docs/b.md", "mydocs/c.md"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"apples {name}")
    rag.add_paths(tmp_path)
    every = ["docs/a.md#0", "mydocs/c.md#0", "other/docs/b.md#0"]
    for filters, expected in (
        ({"source": "docs/*"}, [every[0], every[2]]),
        ({"source": "a.md"}, every[:1]),
        ({"source": f"{tmp_path}/docs/*"}, every[:1]),
        ({"source": "/docs/*"}, []),
        ({"document": "b.md"}, every[2:]),
        ({"document": "docs/*"}, [every[0], every[2]]),
        ({"document": "docs/*", "source": "b.*"}, every[2:]),
        ({"source": "*docs/*"}, every),
    ):
        assert found(rag, filters) == expected, filters


def test_accents_may_be_apart_from_their_letters_or_not(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    docs = tmp_path / "docs"
    docs.mkdir()
    written, joined = normalize("NFD", "résumé.md"), normalize("NFC", "café.md")
    for name in (written, joined):
        (docs / name).write_text(f"apples {name}")
    rag.add_paths(docs)
    for field, value in (("source", "résumé.md"), ("document", "résumé.md"), ("document", "rés*"), ("source", "*sumé.md")):
        for typed in (normalize("NFC", value), normalize("NFD", value)):
            assert found(rag, {field: typed}) == [f"{normalize('NFC', written)}#0"], (field, ascii(typed))
    for field in ("source", "document"):
        assert found(rag, {field: normalize("NFD", joined)}) == [f"{joined}#0"], field
    assert found(rag, {"source": "resume.md"}) == []


METADATA: list[dict[str, Any]] = [
    {"owner": "Dana"},
    {"owner": "Dana Scully", "n": 5},
    {"n": "5", "owner": 'O\'Hara "the \\ one", 50%_'},
    {"a": [1, {"owner": "Dana"}], "owner": "Fox"},
    {"nested": {"owner": "Dana", "n": 5}},
    {"text": '"owner": "Dana"', "x": ', "owner": "Dana"}', ", ": ": "},
    {"owner": ["Fox", ["x"], {"owner": "Eve"}, "Dana", 7, True], "n": 2.5},
    {"owner": True, "n": False},
    {"owner": None, "n": 2024},
    {"owner": "Jürgen\n\u2028\x01Ω", "the [key]": "a.b*c"},
    {"owner": "JXrgen", "the [key]": "axb*c"},
    {},
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> DualRAG:
    made = DualRAG(tmp_path_factory.mktemp("kb"), ToyEmbedder())
    made.add_global_documents({"content": f"apples number {n}", "metadata": {**given, "id": f"{n}"}} for n, given in enumerate(METADATA))
    return made


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("owner", "Dana", [0, 6]),
        ("owner", "Dana*", [0, 1, 6]),
        ("owner", "*Scully", [1]),
        ("owner", "*an*", [0, 1, 6]),
        ("owner", "Fox", [3, 6]),
        ("owner", 7, [6]),
        ("owner", "x", []),
        ("owner", "Eve", []),
        ("owner", "Fo", []),
        ("owner", 'O\'Hara "the \\ one", 50%_', [2]),
        ("owner", "O'Hara*", [2]),
        ("owner", "*50%*", [2]),
        ("owner", "*, 50__", []),
        ("owner", "dana", []),
        ("owner", "Jürgen\n\u2028\x01Ω", [9]),
        ("owner", "J.rgen", []),
        ("owner", "*01Ω", []),
        ("owner", "Jürgen\n*", [9]),
        ("owner", "Jürgenn*", []),
        ("owner", "true", [6, 7]),
        ("owner", "null", []),
        ("owner", "x' OR '1'='1", []),
        ("owner", '"Dana"', []),
        ("n", "5", [1, 2]),
        ("n", "false", [7]),
        ("n", "f*", [7]),
        ("n", "2*", [6, 8]),
        ("n", "*5", [1, 2, 6]),
        ("n", "2.5", [6]),
        ("n", 5, [1, 2]),
        ("n", 2.5, [6]),
        ("n", False, [7]),
        ("text", '"owner"*', [5]),
        (", ", ": ", [5]),
        ("the [key]", "a.b*c", [9]),
        ("the [key]", "*b*", [9, 10]),
        ("own", "Dana", []),
        ("id", "3", [3]),
    ],
)
def test_metadata_is_compared_as_text_at_its_top_level(described: DualRAG, name: str, value: str | float, expected: list[int]) -> None:
    hits = described.query("apples", top_k=20, filters={f"metadata.{name}": value})
    assert sorted(int(hit["metadata"]["id"]) for hit in hits) == expected


def test_any_metadata_is_found_by_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    """Against a reading of the same metadata in Python."""
    rng = random.Random(7)
    letters = ['"', "\\", ",", ":", " ", "{", "}", "[", "]", "'", "a", "u", "0", "1", "é", "%", "\n", "\x02", ", ", '": "', "\\u0001", "😀"]

    def text() -> str:
        return "".join(rng.choices(letters, k=rng.randrange(5)))

    def value(depth: int) -> Any:
        kind = rng.randrange(8 if depth else 5)
        if kind < 5:
            return (text(), text(), rng.choice([True, False, None]), rng.randrange(-20, 20), rng.random() * 10 ** rng.randrange(-9, 20))[kind]
        if kind == 5:
            return [value(depth - 1) for _ in range(rng.randrange(3))]
        return {text(): value(depth - 1) for _ in range(rng.randrange(4))}

    given = [{text(): value(12) for _ in range(rng.randrange(1, 5))} for _ in range(150)]
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag.add_global_documents({"content": f"apples number {n}", "metadata": {**one, "id": f"{n}"}} for n, one in enumerate(given))
    searched = 0
    for name, wanted in [
        (name, wanted)
        for one in rng.sample(given, 40)
        for name, value in one.items()
        for wanted in (value if isinstance(value, list) else [value])
        if name and not isinstance(wanted, list | dict)
    ]:
        as_text = wanted if isinstance(wanted, str) else json.dumps(wanted)
        if not as_text or wanted is None:
            continue
        expected = {
            f"{n}"
            for n, one in enumerate(given)
            for has in (one[name] if isinstance(one.get(name), list) else [one.get(name)])
            if isinstance(has, str | int | float) and (has if isinstance(has, str) else json.dumps(has)) == as_text
        }
        hits = rag.query("apples", top_k=200, filters={f"metadata.{name}": as_text})
        assert {hit["metadata"]["id"] for hit in hits} == expected, (name, as_text)
        searched += 1
    assert searched > 20


@pytest.mark.parametrize("wrong", [{"metadata.a": "\ud800"}, {"source": "\ud800.md"}, {"metadata.a": "x" * 3000}, {"kind": "*df"}])
def test_what_cannot_be_looked_for_is_an_input_error(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError):
        sql(wrong)


def test_a_field_that_is_no_text_is_unknown() -> None:
    with pytest.raises(UnknownNameError):
        sql({5: "x"})  # type: ignore[dict-item]
