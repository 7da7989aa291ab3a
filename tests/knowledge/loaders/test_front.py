from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.loaders import fingerprint
from mdsa_local.knowledge.loaders.front import MOST_CHARS, front_matter
from tests.knowledge.toy_embedder import ToyEmbedder

NOTE = """---
title: Heating manual
author: Tom
version: 1.10
draft: true
date: 2024-05-01
tags: [heating, "boiler: gas"]
aliases:
  - Boiler
empty:
nested: {a: 1}
---
Before all.

## Pressure

Keep it at 1.5 bar – öfter prüfen.
"""


@pytest.fixture
def rag(tmp_path: Path) -> DualRAG:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "manual.md").write_bytes(NOTE.encode())
    (docs / "windows.md").write_bytes(
        ("\ufeff" + NOTE.replace("Tom", "Ann").replace("Keep", "Hold").replace("title: Heating manual\n", "")).replace("\n", "\r\n").encode()
    )
    (docs / "same.md").write_text("---\ntitle: the boiler\n---\n# The Boiler\n\nOne.\n\n## Two\n\nThree.\n")
    (docs / "other.md").write_text("---\ntitle: Manual\ntags: b\n---\n# Boiler\n\nOne.\n")
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    assert len(rag.add_paths(docs).added) == 4
    return rag


def found(rag: DualRAG, filters: dict[str, Any]) -> set[str]:
    return {hit["metadata"]["passage"].rpartition("#")[0] for hit in rag.query("pressure", top_k=50, filters=filters)}


def test_front_matter_is_no_passage_and_gives_title_and_metadata(rag: DualRAG, tmp_path: Path) -> None:
    hits = {hit["metadata"]["passage"]: hit for hit in rag.query("pressure", top_k=50, filters={"document": "manual.md"})}
    assert {name: hit["content"] for name, hit in hits.items()} == {
        "manual.md#0": "Before all.",
        "manual.md#1": "Keep it at 1.5 bar – öfter prüfen.",
    }
    metadata = hits["manual.md#1"]["metadata"]
    assert metadata["source"].endswith("docs/manual.md")
    told = {"author": "Tom", "version": "1.10", "draft": "true", "date": "2024-05-01", "tags": ["heating", "boiler: gas"], "aliases": ["Boiler"]}
    assert {name: metadata[name] for name in told} == told and not {"nested", "empty"} & metadata.keys()
    for document in ("manual.md", "windows.md"):
        for number in (0, 1):
            shown = rag.passage(f"{document}#{number}")
            data = (tmp_path / "docs" / document).read_bytes()
            assert (shown.state, data[shown.passage.start : shown.passage.end].decode()) == ("unchanged", shown.passage.text)
    titles = [rag.passage(name).passage.title for name in ("manual.md#0", "manual.md#1", "windows.md#0", "windows.md#1")]
    assert titles == ["Heating manual", "Heating manual > Pressure", "windows", "Pressure"]
    assert [rag.passage(name).passage.title for name in ("same.md#0", "same.md#1", "other.md#0")] == [
        "The Boiler",
        "The Boiler > Two",
        "Manual > Boiler",
    ]


def test_its_values_are_searched_for_by_conditions(rag: DualRAG) -> None:
    for filters, expected in (
        ({"metadata.author": "Tom"}, {"manual.md"}),
        ({"metadata.tags": "heating"}, {"manual.md", "windows.md"}),
        ({"metadata.tags": "boiler: *", "metadata.author": "A*"}, {"windows.md"}),
        ({"metadata.tags": "b"}, {"other.md"}),
        ({"metadata.draft": True, "metadata.title": "Heating*"}, {"manual.md"}),
        ({"metadata.aliases": "heating"}, set()),
    ):
        assert found(rag, filters) == expected, filters


def test_what_changes_in_it_is_stored_again(rag: DualRAG, tmp_path: Path) -> None:
    (tmp_path / "docs/manual.md").write_text(NOTE.replace("Tom", "Eve"))
    assert rag.add_paths(tmp_path / "docs").changed == ("manual.md",)
    assert found(rag, {"metadata.author": "Eve"}) == {"manual.md"}


def test_only_texts_with_front_matter_or_steps_are_read_again_by_a_later_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text(NOTE)
    (docs / "b.md").write_text("Plain: 2. is no step.\n")
    (docs / "c.md").write_text("1. One.\n2. Two.\n")
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    with monkeypatch.context() as before:
        before.setattr("mdsa_local.knowledge.loaders.REVISIONS", {})
        rag.add_paths(docs)
    report = rag.add_paths(docs)
    assert (report.changed, report.unchanged) == (("a.md", "c.md"), ("b.md",))
    # The line that ends what stands in front may be taken for one that makes a heading of it.
    assert [fingerprint(docs / name)[64:] for name in ("a.md", "b.md", "c.md")] == ["-4", "", "-3"]


def test_where_a_block_ends_steps_are_seen_and_the_digest_is_that_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.md"
    path.write_bytes(b"Do:\r\n1. This.\r\n   2) That.\r\n")
    for size in range(8, 40):
        monkeypatch.setattr("mdsa_local.knowledge.loaders._BLOCK_BYTES", size)
        assert fingerprint(path) == f"{hashlib.sha256(path.read_bytes()).hexdigest()}-3"


def revision(path: Path, content: bytes) -> str:
    """By what the fingerprint of a file says that it is read again."""
    path.write_bytes(content)
    return fingerprint(path)[64:]


@pytest.mark.parametrize(
    "text",
    [
        "Plan A\n------\nText.\n",
        "Plan A\r\n===",
        "# Camping\n\n**Prohibited**\n- Drones\n",
        "Prices\n\nPlan | Price\n--- | ---\nA | 1\n",
        "Allowed:\n- Stoves\n- Dogs\nNot allowed:\n- Drones\n",
        "Text.\n## Head {#id}\n",
    ],
)
def test_texts_of_forms_that_are_read_otherwise_now_are_read_again(tmp_path: Path, text: str) -> None:
    assert revision(tmp_path / "a.md", text.encode()) == "-4"
    assert revision(tmp_path / "a.md", b"Text.\n\n---\n\n- An item: that is all.\n- **Bold** words\n\n| a | b |\n|---|---|\n| 1 | 2 |\n") == ""


@pytest.mark.parametrize("text", ["|a|b|\n|-|-|\n|c|1|\r\n| |2|", "From: A\r\nSubject: B\r\n", "A text.\n\nAnn wrote on Monday:\r\n> No."])
def test_texts_with_blank_cells_or_messages_are_read_again(tmp_path: Path, text: str) -> None:
    assert revision(tmp_path / "a.txt", text.encode()) == "-5"


@pytest.mark.parametrize(
    "text", ["**Who pays?**\n\nYou.", "Who pays? \r\n\r\nYou.", "**Who pays?**\n- You.", "The firm：\n\nYou.", "__Fees__\r\r1. Ours"]
)
def test_texts_with_a_line_that_stands_over_the_next_block_are_read_again(tmp_path: Path, text: str) -> None:
    assert revision(tmp_path / "a.txt", text.encode()) == "-6"
    assert revision(tmp_path / "a.txt", b"Who pays?\r\nYou do.\r\n\r\nFees:\r\n- ours\r\n") == ""


@pytest.mark.parametrize(
    "text",
    ["Never:\n- a\n  more\n\n1. b\n", "1. a\r\n2. b\r\n\r\n- c\r\n", "Do not use it\n\n- if ill\n", "3. USE\r\nTake it.", "A\n§ 2 Fees\n(1) None."],
)
def test_texts_whose_lists_are_told_otherwise_now_are_read_again(tmp_path: Path, text: str) -> None:
    assert revision(tmp_path / "a.txt", text.encode()) == "-6"
    assert revision(tmp_path / "a.txt", b"- a\n- b\n\nThen,\n\n1. c\n\nSection 3 holds.\nIt does.\n") == ""


@pytest.mark.parametrize(
    "text",
    [
        "# Title\n---\na: 1\n---\n",
        "---\nno end: 1\n",
        "---\njust a sentence\n---\nText.",
        "---\n- a\n- list\n---\nText.",
        "---\na: [1\n---\nText.",
        "---\na: &x [1]\nb: *x\n---\nText.",
        "---\na: 1\n...x\nText.",
        "--- a: 1\n---\nText.",
        f"---\na: {'[' * 10_000}\n---\nText.",
        f"---\na: {'x' * MOST_CHARS}\n---\nText.",
        "---\n? [a]\n: b\n---\nText.",
        "---\n!!python/object/apply:os.system {a: }\n--- x\n",
    ],
)
def test_what_is_none_stays_text(text: str) -> None:
    assert front_matter(text) is None


@pytest.mark.parametrize(
    "fenced", ["---\n---\n", "---\r\n# a comment\r\n...\r\n", "\ufeff--- \n\n---", "---\n!!python/object/apply:os.system {}\n---\n"]
)
def test_it_may_hold_nothing(fenced: str) -> None:
    assert front_matter(fenced) == ({}, len(fenced))


def test_a_bomb_of_aliases_is_none_and_takes_no_time() -> None:
    began = time.monotonic()
    lines = ["a0: &a0 [x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    assert front_matter("---\n" + "\n".join(lines) + "\n---\n") is None
    assert time.monotonic() - began < 2
