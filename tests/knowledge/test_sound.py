"""What the files of a table tell: which were cut short, and how much is old."""

from __future__ import annotations

import os
from pathlib import Path

from mdsa_local.knowledge import sound
from mdsa_local.knowledge.dual_rag import DualRAG

from .toy_embedder import ToyEmbedder


def table(tmp_path: Path) -> Path:
    rag = DualRAG(tmp_path, ToyEmbedder())
    for n in range(3):
        rag.add_global_documents([{"content": f"apples {n}", "metadata": {"id": f"{n}"}}])
    return tmp_path / "global.lance"


def test_every_file_that_lance_writes_has_the_ending_until_it_is_cut(tmp_path: Path) -> None:
    folder = table(tmp_path)
    files = sound.files(folder)
    assert {path.parent.parent.name for path in files} == {"global.lance", "_indices"} and len(files) > 5
    assert sound.cut_short(files) == []
    for path in files:
        whole = path.read_bytes()
        for size in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            assert sound.cut_short(files) == [path]
        path.write_bytes(whole)


def test_stale_and_the_last_merge(tmp_path: Path) -> None:
    folder = table(tmp_path)
    data = sorted((folder / "data").iterdir())
    live = sum(path.stat().st_size for path in data)
    assert not sound.stale(folder, live)
    assert not sound.stale(folder, live, 1)
    assert not sound.stale(folder, live, live // sound.SMALL_FILE_BYTES // 4) and sound.stale(folder, live, live // sound.SMALL_FILE_BYTES // 4 + 2)
    old = folder / "data" / "old.lance"
    old.write_bytes(b"0" * live)
    assert sound.stale(folder, live)
    os.utime(old, (1000, 1000))
    assert sound.last_merge(folder) == 1000
    assert sound.last_merge(tmp_path / "none") == 0 and sound.files(tmp_path / "none") == set() and not sound.stale(tmp_path / "none", 0)
