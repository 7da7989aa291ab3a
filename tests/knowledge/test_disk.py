"""The disk fails: full, read-only, damaged. What was confirmed stays, and the error says what to do."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mdsa_local.errors import StorageError
from mdsa_local.knowledge.dual_rag import DualRAG

from .toy_embedder import ToyEmbedder

ROOT = Path(__file__).parents[2]
# In a long run every file is damaged in every way: MDSA_TEST_DAMAGE=1.
EVERY = bool(os.environ.get("MDSA_TEST_DAMAGE"))

FILL = """
import sys
from mdsa_local.errors import StorageError
from mdsa_local.knowledge.dual_rag import DualRAG
from tests.knowledge.toy_embedder import ToyEmbedder
rag = DualRAG(sys.argv[1], ToyEmbedder())
for n in range(400):
    try:
        # A hundred passages more each time.
        texts = [f"word{n} " + f"filling{n}x{m} " * 30 for m in range(5 * n)]
        rag.add_global_documents([{"content": f"document {n}", "metadata": {"id": f"d{n}"}}])
        if texts:
            rag.add_local_documents("bulk", [{"content": text, "metadata": {"id": f"{n}-{m}"}} for m, text in enumerate(texts)])
        print("stored", n, flush=True)
    except StorageError as error:
        print("failed", n, error, "|", error.hint, flush=True)
        break
"""


def fill(folder: Path) -> tuple[int, str]:
    """Add until the disk is full; how many additions were confirmed, and what the error said."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FILL, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    *stored, failed = done.stdout.splitlines()
    assert failed.startswith("failed"), done.stdout
    return len(stored), failed


def whole(folder: Path, confirmed: int) -> None:
    """What was confirmed is there, once, and the knowledge bases open and work."""
    rag = DualRAG(folder, ToyEmbedder())
    documents = {entry.document: entry.n_chunks for entry in rag.list_documents()}
    assert {f"d{n}" for n in range(confirmed)} <= documents.keys() <= {f"d{n}" for n in range(confirmed + 1)}
    bulk = rag.list_documents("bulk")
    assert {entry.document for entry in bulk} >= {f"{n}-{m}" for n in range(confirmed) for m in range(5 * n)}
    assert all(entry.n_chunks == 1 for entry in bulk)
    assert rag.check() == rag.check("bulk") == []
    assert rag.query("document 0")


# What a child does under a limit on the size of a file: the disk takes the first part of a file and no more, as a full one does, without root.
LIMITED = """
import resource, sys
from datetime import timedelta
from mdsa_local.errors import StorageError
from mdsa_local.knowledge import upkeep
from mdsa_local.knowledge.dual_rag import DualRAG
from tests.knowledge.toy_embedder import ToyEmbedder
folder, limit, passages = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
# No version before the last stays for long.
upkeep.KEEP_VERSIONS = timedelta(milliseconds=1)
rag = DualRAG(folder, ToyEmbedder())
rag.list_documents()
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for n in range(200):
    try:
        text = f"word{n} " + f"filling{n} " * 30
        rag.add_global_documents([{"content": text, "metadata": {"id": f"{n}-{m}"}} for m in range(1 + passages * n)])
        print("stored", n, flush=True)
    except StorageError as error:
        print("failed", n, error, "|", error.hint, flush=True)
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
@pytest.mark.parametrize(
    ("limit", "passages"),
    # An addition is cut short, the first of them or a later one; small ones fit and what merges them is cut short, a data file or an index.
    [(8_000, 20), (60_000, 5), (60_000, 0), (20_000, 0), (2_000, 0)],
)
def test_what_was_confirmed_stays_where_a_file_is_cut_short(tmp_path: Path, limit: int, passages: int) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "kb"), str(limit), str(passages)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    *stored, failed = done.stdout.splitlines()
    assert failed.startswith("failed"), done.stdout
    assert "Free some space" in failed
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    confirmed = {f"{n}-{m}" for n in range(len(stored)) for m in range(1 + passages * n)}
    following = {f"{len(stored)}-{m}" for m in range(1 + passages * len(stored))}
    # The addition that failed is there as a whole, where only what tidies up after it failed, or not at all.
    assert {entry.document for entry in rag.list_documents()} in (confirmed, confirmed | following)
    assert rag.check() == []
    for n in range(len(stored)):
        assert rag.passage(f"{n}-0#0").passage.text.startswith(f"word{n} ")
    if stored:
        assert rag.query("word0 filling0")[0]["content"].startswith("word0 ")
    rag.add_global_documents([{"content": "there is room again", "metadata": {"id": "later"}}])
    rag.optimize()
    assert rag.check() == []
    assert {entry.document for entry in rag.list_documents()} >= confirmed | {"later"}


def test_check_brings_back_the_newest_version_that_can_be_read(tmp_path: Path) -> None:
    """A stop between a commit that the disk took in part and the look at it."""
    rag = DualRAG(tmp_path, ToyEmbedder())
    data = tmp_path / "global.lance" / "data"
    for n in range(3):
        before = set(data.glob("*"))
        rag.add_global_documents([{"content": f"apples {n}", "metadata": {"id": f"{n}"}}])
    (last,) = set(data.glob("*")) - before
    last.write_bytes(last.read_bytes()[:-100])
    rag = DualRAG(tmp_path, ToyEmbedder())
    (problem,) = rag.check()
    assert problem.kind == "damaged" and not problem.repaired and "--repair" in problem.what
    (problem,) = rag.check(repair=True)
    assert "2 passages" in problem.repaired
    assert rag.check() == []
    assert {entry.document for entry in rag.list_documents()} == {"0", "1"}
    assert rag.query("apples 1")[0]["content"] == "apples 1"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting needs Linux and root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    confirmed, said = fill(small_disk / "kb")
    assert confirmed > 2 and "No space left" in said and "Free some space" in said
    whole(small_disk / "kb", confirmed)
    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    rag = DualRAG(small_disk / "kb", ToyEmbedder())
    rag.add_global_documents([{"content": "there is room again", "metadata": {"id": f"d{confirmed}"}}])
    rag.optimize("bulk")
    whole(small_disk / "kb", confirmed)


def test_a_disk_that_cannot_be_written_can_be_read(small_disk: Path, tmp_path: Path) -> None:
    rag = DualRAG(small_disk / "kb", ToyEmbedder())
    rag.add_global_documents([{"content": "Support is open all day.", "metadata": {"id": "hours"}}])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for opened in (rag, DualRAG(small_disk / "kb", ToyEmbedder())):
        assert opened.query("support")[0]["content"] == "Support is open all day."
        assert opened.check() == []
        writes: list[Callable[[], object]] = [
            partial(opened.add_global_documents, [{"content": "new"}]),
            partial(opened.add_local_documents, "other", [{"content": "new"}]),
            partial(opened.remove, "hours"),
            opened.optimize,
        ]
        for write in writes:
            with pytest.raises(StorageError, match="Read-only file system") as caught:
                write()
            assert "MDSA_HOME" in caught.value.hint
    # A backup is how it gets away from there.
    assert rag.export(tmp_path / "backup")[0].documents == 1
    with pytest.raises(StorageError, match="Read-only"):
        rag.export(small_disk / "backup")


def test_a_damaged_file_of_any_kind_is_told_or_does_not_matter(tmp_path: Path) -> None:
    """Cut short, emptied or overwritten with noise, whichever file it is: only :class:`StorageError` comes out."""
    seed = random.randrange(10**6)
    print("seed", seed)
    source = random.Random(seed)
    good = tmp_path / "good"
    rag = DualRAG(good, ToyEmbedder())
    for n in range(3):
        rag.add_global_documents([{"content": f"apples {n}", "metadata": {"id": f"{n}"}}])
    rag.remove("1")
    rag.optimize()
    files = sorted(path.relative_to(good) for path in (good / "global.lance").rglob("*") if path.is_file())
    assert len({path.parts[1] for path in files}) >= 4, "data, versions, transactions and indices"
    told = 0
    kinds = ("cut", "empty", "noise")
    for at, name in enumerate(files):
        for kind in kinds if EVERY else [kinds[at % 3]]:
            folder = tmp_path / "bad"
            shutil.copytree(good, folder)
            data = (folder / name).read_bytes()
            (folder / name).write_bytes({"cut": data[: len(data) // 2], "empty": b"", "noise": source.randbytes(len(data))}[kind])
            told += _survives(folder, f"{name} {kind}")
            shutil.rmtree(folder)
    assert told > 3


def _survives(folder: Path, what: str) -> bool:
    """Whether anything was said about the damage; what works gives what is right."""
    rag = DualRAG(folder, ToyEmbedder())
    said = 0
    works: list[Callable[[], bool]] = [
        lambda: {entry.document for entry in rag.list_documents()} == {"0", "2"},
        lambda: {found["content"] for found in rag.query("apples")} == {"apples 0", "apples 2"},
        lambda: all(problem.kind == "damaged" for problem in rag.check()),
        lambda: rag.add_global_documents([{"content": "pears", "metadata": {"id": "3"}}]) == ["3"],
        lambda: rag.optimize() is False,
    ]
    for work in works:
        try:
            assert work(), what
        except StorageError as error:
            said += 1
            assert error.hint
    return said > 0
