"""Backup and restore: what goes out comes back, and no file that is offered can do harm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mdsa_local.errors import ConfigError, InputError, ModelError, StorageError, UnknownNameError
from mdsa_local.knowledge import archive, store
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.place import stamp
from mdsa_local.routing.lexical import LexicalEncoder

from .s3 import BUCKET, serving
from .toy_embedder import ToyEmbedder

ROOT = Path(__file__).parents[2]


def filled(folder: Path, count: int = 5) -> DualRAG:
    rag = DualRAG(folder, ToyEmbedder())
    rag.add_global_documents([{"content": "Support is open all day.", "metadata": {"id": "hours", "lang": "en"}}])
    rag.add_local_documents("finance", [{"content": f"# Card\n\nCard number {n} ü\u2028.", "metadata": {"id": f"c{n}"}} for n in range(count)])
    rag.add_local_documents("medical", [{"content": "A fever of 39.", "metadata": {"id": "fever"}}])
    return rag


def everything(rag: DualRAG) -> dict[str | None, list[dict[str, Any]]]:
    """All that is stored, vectors included."""
    found: dict[str | None, list[dict[str, Any]]] = {}
    for domain in (None, *rag.domains()):
        dumped = rag._knowledge_base(domain).dump()
        assert dumped is not None
        rows = [row | {"vector": vector.tolist()} for some, vectors in dumped[2] for row, vector in zip(some, vectors, strict=True)]
        found[domain] = sorted(rows, key=lambda row: str(row["id"]))
    return found


def test_what_goes_out_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PART_CHUNKS", 3)
    rag = filled(tmp_path / "kb", 8)
    heard: list[tuple[int, int]] = []
    done = rag.export(tmp_path / "all.mdsa", heard=lambda *at: heard.append(at))
    assert [(base.domain, base.documents, base.passages) for base in done] == [(None, 1, 1), ("finance", 8, 8), ("medical", 1, 1)]
    assert heard == [(1, 1), (3, 8), (6, 8), (8, 8), (1, 1)]
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / "all.mdsa").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    embedder = ToyEmbedder()
    other = DualRAG(tmp_path / "other", embedder)
    assert other.restore(tmp_path / "all.mdsa") == done
    assert everything(other) == everything(rag)
    assert embedder.encoded == [], "the vectors came with it"
    assert other.query("card number 3", "finance")[0]["metadata"]["passage"] == "c3#0"
    assert other.check("finance") == []


def test_chosen_domains_alone(tmp_path: Path) -> None:
    rag = filled(tmp_path / "kb")
    assert [base.domain for base in rag.export(tmp_path / "some", [None, "medical"])] == [None, "medical"]
    other = DualRAG(tmp_path / "other", ToyEmbedder(), "shared")
    assert [base.domain for base in other.restore(tmp_path / "some", ["medical"])] == ["medical"]
    assert other.domains() == ("medical",) and other.list_documents() == []
    # The shared one comes back as the shared one, whatever its table is called.
    other.restore(tmp_path / "some", [None])
    assert [entry.document for entry in other.list_documents()] == ["hours"] and other.domains() == ("medical",)
    with pytest.raises(UnknownNameError, match="finance") as caught:
        other.restore(tmp_path / "some", ["finance"])
    assert "global, medical" in caught.value.hint
    with pytest.raises(UnknownNameError, match="law"):
        rag.export(tmp_path / "law", ["law"])
    assert not (tmp_path / "law").exists()
    assert [base.domain for base in rag.export(tmp_path / "one", "medical")] == ["medical"]
    # As passages call it.
    assert [base.domain for base in rag.export(tmp_path / "shared", "global")] == [None]
    assert [base.domain for base in other.restore(tmp_path / "one", "medical", replace=True)] == ["medical"]
    wrong: Any
    for wrong in (5, [5]):
        for call in (rag.export, other.restore):
            with pytest.raises(InputError, match=r"the knowledge bases? cannot be int 5"):
                call(tmp_path / "one", wrong)


def test_documents_that_are_there_are_replaced_only_when_asked(tmp_path: Path) -> None:
    rag = filled(tmp_path / "kb")
    rag.export(tmp_path / "backup")
    rag.add_local_documents("finance", [{"content": "later", "metadata": {"id": "later"}}])
    rag.remove("fever", "medical")
    before = everything(rag)
    stamp(tmp_path / "kb").write_text("in step")
    with pytest.raises(InputError, match="global, finance") as caught:
        rag.restore(tmp_path / "backup")
    assert "--replace" in caught.value.hint and everything(rag) == before
    assert stamp(tmp_path / "kb").exists()
    rag.restore(tmp_path / "backup", replace=True)
    assert "later" not in [entry.document for entry in rag.list_documents("finance")]
    assert [entry.document for entry in rag.list_documents("medical")] == ["fever"]
    assert not stamp(tmp_path / "kb").exists(), "the documents in the domains' folders may be newer"


def test_another_encoder_embeds_the_text_again(tmp_path: Path) -> None:
    filled(tmp_path / "kb").export(tmp_path / "backup")
    for embedder in (ToyEmbedder("other"), ToyEmbedder("wider", 32)):
        rag = DualRAG(tmp_path / embedder.fingerprint, embedder)
        assert all(base.embedded_again for base in rag.restore(tmp_path / "backup"))
        assert rag.query("card number 3", "finance")[0]["content"].startswith("Card number 3")
        assert len(embedder.encoded) == 7 + 1
    # A knowledge base of another encoder goes out as it is.
    DualRAG(tmp_path / "kb", ToyEmbedder("other")).export(tmp_path / "again")
    assert not any(base.embedded_again for base in DualRAG(tmp_path / "third", ToyEmbedder()).restore(tmp_path / "again"))


def test_an_encoder_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    filled(tmp_path / "kb").export(tmp_path / "backup")

    class Failing(ToyEmbedder):
        left = 1

        def encode(self, texts: list[str]) -> Any:
            self.left -= 1
            if self.left < 0:
                raise InputError("out of order")
            return super().encode(texts)

    rag = DualRAG(tmp_path / "kb", Failing())
    before = everything(rag)
    renewed = DualRAG(tmp_path / "kb", Failing("new"))
    stamp(tmp_path / "kb").write_text("in step")
    with pytest.raises(StorageError, match="out of order"):
        renewed.restore(tmp_path / "backup", ["finance", None], replace=True)
    after = everything(rag)
    # One knowledge base changed as a whole, the other not at all.
    assert after["finance"] == before["finance"] and after["medical"] == before["medical"]
    assert [row["text"] for row in after[None]] == [row["text"] for row in before[None]]
    assert not stamp(tmp_path / "kb").exists(), "the one that changed may be older than the documents in the domains' folders"


def test_words_in_place_of_the_encoder_embed_nothing(tmp_path: Path) -> None:
    rag = filled(tmp_path / "kb")
    rag.export(tmp_path / "backup")
    before = everything(rag)
    lesser = DualRAG(tmp_path / "kb", LexicalEncoder("no encoder"))
    embedding: list[Callable[[], object]] = [
        lambda: lesser.add_local_documents("car", [{"content": "The oil is changed every 9000 km."}]),
        lambda: lesser.add_local_documents("medical", [{"content": "A pulse of 60."}]),
        lambda: lesser.optimize("finance"),
        lambda: lesser.restore(tmp_path / "backup", replace=True),
        lambda: DualRAG(tmp_path / "new", LexicalEncoder("no encoder")).restore(tmp_path / "backup"),
    ]
    for embed in embedding:
        with pytest.raises(ModelError, match=r"nothing was stored .* no encoder"):
            embed()
    assert everything(rag) == before and not (tmp_path / "new" / "global.lance").exists()
    assert [passage.id for passage in lesser.search("fever", None, "medical", 1)] == ["fever#0"]
    assert lesser.check(repair=True) == []
    with pytest.raises(ConfigError, match="by words alone: no encoder"):
        lesser.query("fever", "medical")


def test_nothing_is_overwritten_and_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    rag = filled(tmp_path / "kb")
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.md"):
        rag.export(tmp_path / "notes.md")
    # No name can be so long.
    with pytest.raises(StorageError, match="x" * 300):
        rag.export(tmp_path / ("x" * 300))
    with pytest.raises(StorageError, match="no/such"):
        rag.export(tmp_path / "no/such/file")
    with pytest.raises(InputError, match="no knowledge base"):
        DualRAG(tmp_path / "empty", ToyEmbedder()).export(tmp_path / "nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kb", "notes.md"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the file size are POSIX's")
def test_what_came_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, finish = tmp_path / "backup.mdsa", archive.Writer.finish

    def meanwhile(writer: archive.Writer, made_by: str) -> None:
        finish(writer, made_by)
        target.write_text("mine", encoding="utf-8")

    monkeypatch.setattr(archive.Writer, "finish", meanwhile)
    with pytest.raises(InputError, match="already something of this name"), archive.writing(target, "test"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["backup.mdsa"]
    assert target.read_text(encoding="utf-8") == "mine"


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    filled(tmp_path / "kb", 200)
    script = """
import resource, signal, sys
from mdsa_local.errors import StorageError
from mdsa_local.knowledge.dual_rag import DualRAG
from tests.knowledge.toy_embedder import ToyEmbedder
rag = DualRAG(sys.argv[1], ToyEmbedder())
rag.list_documents()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    rag.export(sys.argv[2])
except StorageError as error:
    print(error, "|", error.hint)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(tmp_path / "kb"), str(tmp_path / "backup")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout and "Free some space" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["kb"]


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backup")
    filled(folder / "kb", 40).export(folder / "backup")
    return folder / "backup"


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def rewritten(path: Path, content: dict[str, bytes], **options: Any) -> None:
    with zipfile.ZipFile(path, "w", **options) as made:
        for name, data in content.items():
            made.writestr(name, data)


def _honest(content: dict[str, bytes]) -> dict[str, bytes]:
    """With the digests of what is there now: damage is told from malice only by looking inside."""
    manifest = json.loads(content[archive.MANIFEST])
    for at, base in enumerate(manifest["knowledge_bases"]):
        for number, part in enumerate(base["parts"]):
            for kind, key in (("jsonl", "rows_sha256"), ("f32", "vectors_sha256")):
                part[key] = hashlib.sha256(content[f"{at}/{number:05}.{kind}"]).hexdigest()
    return content | {archive.MANIFEST: json.dumps(manifest).encode()}


def _edited(content: dict[str, bytes], change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    manifest = json.loads(content[archive.MANIFEST])
    change(manifest)
    return content | {archive.MANIFEST: json.dumps(manifest).encode()}


def _row(content: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    first, rest = content["1/00000.jsonl"].split(b"\n", 1)
    return _honest(content | {"1/00000.jsonl": json.dumps(json.loads(first) | changes).encode() + b"\n" + rest})


BAD: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "no manifest": (lambda c: {k: v for k, v in c.items() if k != archive.MANIFEST}, "no manifest"),
    "a later version": (lambda c: _edited(c, lambda m: m.update(version=2)), "version"),
    "another program's": (lambda c: _edited(c, lambda m: m.update(format="tar")), "format"),
    "a member too many": (lambda c: c | {"../../evil.sh": b"#!/bin/sh"}, "evil.sh"),
    "a member too few": (lambda c: {k: v for k, v in c.items() if k != "0/00000.f32"}, "0/00000.f32"),
    "a name that is a path": (lambda c: _edited(c, lambda m: m["knowledge_bases"][1].update(domain="../../etc")), "domain"),
    "a name with a newline": (lambda c: _edited(c, lambda m: m["knowledge_bases"][1].update(domain="finance\n")), "domain"),
    "a base twice": (lambda c: _edited(c, lambda m: m["knowledge_bases"][1].update(domain="medical")), "twice"),
    "a wrong digest": (lambda c: c | {"1/00000.jsonl": c["1/00000.jsonl"].replace(b"Card", b"Cart")}, "sha256"),
    "fewer passages": (lambda c: _honest(c | {"1/00000.jsonl": c["1/00000.jsonl"].split(b"\n", 1)[1]}), "line 40"),
    "more passages": (lambda c: _honest(c | {"1/00000.jsonl": c["1/00000.jsonl"] * 2}), "more passages"),
    "a passage twice": (lambda c: _row(c, id="c1#0", document="c1"), "different passages"),
    "a passage of no document": (lambda c: _row(c, document="x"), "of its document"),
    "a place before the start": (lambda c: _row(c, start=-1), "start"),
    "metadata that is no mapping": (lambda c: _row(c, metadata="[1"), "of its document"),
    "deep metadata": (lambda c: _row(c, metadata="[" * 100_000), "of its document"),
    "a field too many": (lambda c: _row(c, vector=[1]), "vector"),
    "half a vector": (lambda c: _honest(c | {"1/00000.f32": c["1/00000.f32"][:-8]}), "not as long"),
    "no numbers": (lambda c: _honest(c | {"1/00000.f32": b"\xff" * len(c["1/00000.f32"])}), "unit length"),
    "a huge part": (lambda c: _edited(c, lambda m: m["knowledge_bases"][1]["parts"][0].update(passages=10**9)), "1/00000"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_refused_before_anything_is_touched(name: str, backup: Path, tmp_path: Path) -> None:
    make, said = BAD[name]
    rewritten(tmp_path / "bad", make(members(backup)))
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    with pytest.raises(InputError, match="not a usable archive") as caught:
        rag.restore(tmp_path / "bad", replace=True)
    assert said in str(caught.value) and "mdsa kb export" in caught.value.hint and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_damage_anywhere_is_noticed(backup: Path, tmp_path: Path) -> None:
    """Cut or with one byte changed anywhere, it comes back as it was or not at all."""
    whole = backup.read_bytes()
    damaged = [whole[:cut] for cut in (0, 1, 21, 22, len(whole) // 2, len(whole) - 1)]
    damaged += [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in range(0, len(whole), max(len(whole) // 150, 1))]
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    rag.restore(backup)
    good = everything(rag)
    refused = 0
    for data in damaged:
        (tmp_path / "bad").write_bytes(data)
        try:
            # Times and other fields that nobody reads may be anything.
            with archive.reading(tmp_path / "bad") as reader:
                kept = {base.domain: sorted(row.id for rows, _ in reader.parts(base) for row in rows) for base in reader.manifest.knowledge_bases}
            assert kept == {domain: [row["id"] for row in rows] for domain, rows in good.items()}
        except InputError as error:
            refused += "not a usable archive" in str(error)
    assert refused > len(damaged) * 0.9


@pytest.mark.parametrize("kind", ["compressed", "overlapping", "huge directory", "text", "folder", "missing"])
def test_bombs_and_other_files_cost_nothing(kind: str, backup: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    if kind == "compressed":
        rewritten(bad, members(backup) | {"0/00000.jsonl": b"0" * 50_000_000}, compression=zipfile.ZIP_DEFLATED)
    elif kind == "overlapping":
        bad.write_bytes(_overlapping())
    elif kind == "huge directory":
        bad.write_bytes(b"\0" * 1000 + b"PK\5\6" + b"\0" * 8 + (1 << 30).to_bytes(4, "little") + b"\0" * 6)
    elif kind == "text":
        bad.write_text("not a zip " * 100)
    elif kind == "folder":
        bad.mkdir()
    before = most_memory()
    with pytest.raises(InputError, match="bad"):
        DualRAG(tmp_path / "kb", ToyEmbedder()).restore(bad)
    assert most_memory() - before < 40_000_000
    assert not (tmp_path / "kb").exists()


def most_memory() -> int:
    """The most bytes that this process ever had in memory."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _overlapping() -> bytes:
    """A zip whose directory names the same megabyte a hundred times."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        out.writestr("0/00000.jsonl", b"0" * 1_000_000)
        info = out.infolist()[0]
        out.filelist += [info] * 99
    return made.getvalue()


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, str]]:
    with serving() as found:
        yield found


def test_to_another_place_and_back(backup: Path, tmp_path: Path, options: dict[str, str]) -> None:
    remote = DualRAG(f"s3://{BUCKET}/restored", ToyEmbedder(), storage_options=options)
    remote.restore(backup)
    assert len(remote.query("card number", "finance", top_k=3)) == 3
    remote.export(tmp_path / "again")
    local = DualRAG(tmp_path / "kb", ToyEmbedder())
    local.restore(tmp_path / "again")
    assert everything(local) == everything(remote)


KILLED = """
import sys
from mdsa_local.knowledge.dual_rag import DualRAG
from tests.knowledge.toy_embedder import ToyEmbedder
rag = DualRAG(sys.argv[1], ToyEmbedder())
print("ready", flush=True)
sys.stdin.readline()
while True:
    rag.restore(sys.argv[2], replace=True)
"""


def test_killed_while_importing_it_is_the_old_or_the_new(backup: Path, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    source = random.Random(seed)
    filled(tmp_path / "kb", 3)
    shutil.copy(backup, tmp_path / "new")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(2):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "kb"), str(tmp_path / "new")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
            assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"
            process.stdin.write("go\n")
            process.stdin.flush()
            time.sleep(source.uniform(0.0, 1.0))
            process.kill()
        rag = DualRAG(tmp_path / "kb", ToyEmbedder())
        assert len(rag.list_documents("finance")) in (3, 40)
        assert [rag.check(domain) for domain in (None, "finance", "medical")] == [[], [], []]
        assert rag.query("card number", "finance")
