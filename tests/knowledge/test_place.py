"""Knowledge bases elsewhere: any URI that LanceDB takes, shared by several machines."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mdsa_local.errors import ConfigError, StorageError
from mdsa_local.knowledge import sync
from mdsa_local.knowledge.check import Problem
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.lance import OvertakenError
from mdsa_local.knowledge.place import located, own_folder, stamp
from mdsa_local.knowledge.store import Entry
from mdsa_local.knowledge.upkeep import Tidied
from mdsa_local.settings import Settings

from .s3 import BUCKET, serving
from .toy_embedder import ToyEmbedder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, str]]:
    with serving() as found:
        yield found


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    """A prefix of its own for every test."""
    return f"s3://{BUCKET}/{request.node.name}"


def test_what_a_place_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("kb") == located(Path("kb")) == tmp_path / "kb"
    assert located((tmp_path / "kb ü").as_uri()) == tmp_path / "kb ü"
    assert located("s3://bucket/prefix/") == "s3://bucket/prefix"
    assert located("gs://bucket") == "gs://bucket"
    assert located("C:\\kb" if sys.platform == "win32" else "c:/kb") == Path("c:/kb").absolute()
    for wrong in ("db://mine", "s3:///prefix"):
        with pytest.raises(ConfigError) as caught:
            located(wrong)
        assert "s3://bucket/prefix" in caught.value.hint
    assert own_folder(tmp_path) == tmp_path
    assert own_folder("s3://a/b", tmp_path).is_relative_to(tmp_path)
    assert own_folder("s3://a/b", tmp_path) != own_folder("s3://a/c", tmp_path)


def test_what_this_machine_keeps_of_a_place_elsewhere_is_in_the_home_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSA_HOME", str(tmp_path / "default"))
    home = tmp_path / "home"
    rag = DualRAG("memory://", ToyEmbedder(), home=home)
    rag.add_global_documents([{"content": "Support is open all day."}])
    rag.export(tmp_path / "backup")
    synced = stamp("memory://", home)
    synced.write_text("in step")
    rag.restore(tmp_path / "backup", replace=True)
    assert not synced.exists(), "the documents in the domains' folders may be newer"
    rag.close()
    rag.add_global_documents([{"content": "Support is open all day."}])
    assert (own_folder("memory://", home) / "global.lock").exists() and not (tmp_path / "default").exists()


def test_everything_works_elsewhere(uri: str, options: dict[str, str], tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("# Cards\nA card is frozen in the app.")
    (docs / "b.md").write_text("# Loans\nA loan is repaid early.")
    rag = DualRAG(uri, ToyEmbedder(), storage_options=options)
    assert rag.domains() == () and rag.list_documents() == [] and rag.query("card", "finance") == []
    assert rag.add_paths([docs], "finance").added == ("a.md", "b.md")
    rag.add_global_documents([{"content": f"Support is open all day, says {n}.", "metadata": {"id": f"s{n}"}} for n in range(3)])
    assert rag.domains() == ("finance",)
    other = DualRAG(uri, ToyEmbedder(), storage_options=options)
    assert other.query("freeze my card", "finance")[0]["metadata"]["source"] == str(docs / "a.md")
    rag.remove("s1")
    assert [entry.document for entry in other.list_documents()] == ["s0", "s2"]
    assert rag.add_paths([docs], "finance").unchanged == ("a.md", "b.md")
    assert other.passage("a.md#0", "finance").state == "unchanged"
    assert not other.optimize("finance") and other.check("finance") == []
    renewed = DualRAG(uri, ToyEmbedder("new", width=32), storage_options=options)
    assert [(problem.kind, problem.repaired) for problem in renewed.check("finance", repair=True)] == [("fingerprint", "embedded again")]
    assert len(renewed.list_documents("finance")) == 2
    with pytest.raises(ConfigError):
        other.query("freeze my card", "finance")


def test_a_file_of_another_machine_is_no_fault(uri: str, options: dict[str, str], tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("A card is frozen in the app.")
    rag = DualRAG(uri, ToyEmbedder(), storage_options=options)
    rag.add_paths([docs])
    base = rag._knowledge_base(None)
    base._merge([(Entry("d.md", str(docs / "d.md"), "new", ()), 1, Chunk("t", "part one", 0, 8))])
    (docs / "a.md").unlink()
    what = f"stored in part, 1 chunks; its file cannot be read on this machine: {docs / 'd.md'}"
    assert rag.check(repair=True) == [Problem("interrupted", "d.md", what)]
    assert [entry.document for entry in rag.list_documents()] == ["a.md", "d.md"]


MACHINE = """
import json, sys
from mdsa_local.knowledge.dual_rag import DualRAG
from tests.knowledge.toy_embedder import ToyEmbedder
uri, options, name = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
rag = DualRAG(uri, ToyEmbedder(), storage_options=options)
for n in range(4):
    texts = {f"{name}{n}": f"own {name} {n}", f"same{n}": f"same {n}"}
    rag.add_global_documents([{"content": text, "metadata": {"id": key}} for key, text in texts.items()])
    if n % 2:
        rag.optimize()
    if n == 3:
        rag.remove(f"{name}{n - 1}")
"""


def test_two_machines_write_at_once_and_nothing_is_lost_or_doubled(uri: str, options: dict[str, str], tmp_path: Path) -> None:
    def machine(name: str) -> subprocess.Popen[str]:
        # A home of its own: no lock is shared.
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MDSA_HOME": str(tmp_path / name)}
        return subprocess.Popen(
            [sys.executable, "-c", MACHINE, uri, json.dumps(options), name], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
        )

    machines = [machine(name) for name in ("x", "y")]
    said = [process.communicate(timeout=500)[1] for process in machines]
    assert [process.returncode for process in machines] == [0, 0], said
    expected = {f"{name}{n}" for name in ("x", "y") for n in range(4) if n != 2} | {f"same{n}" for n in range(4)}
    found = DualRAG(uri, ToyEmbedder(), storage_options=options).list_documents()
    assert {entry.document: entry.n_chunks for entry in found} == dict.fromkeys(expected, 1)


def test_who_is_overtaken_by_others_tries_again_and_what_it_added_is_there(
    uri: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.lance.FIRST_WAIT_S", 0.001)
    tidied, overtaken = Tidied._tidied, list[int]()

    def late(self: Tidied, table: Any) -> None:
        # Tables of other tests may be tidied at rest meanwhile.
        if self.database.local:
            return tidied(self, table)
        overtaken.append(1)
        if len(overtaken) <= most:
            raise OvertakenError("commit conflict", "")
        return tidied(self, table)

    monkeypatch.setattr(Tidied, "_tidied", late)
    rag = DualRAG(uri, ToyEmbedder(), storage_options=options)
    most = 10**6
    rag.add_global_documents([{"content": "A card is frozen in the app."}])
    assert overtaken and rag.query("card")
    with pytest.raises(OvertakenError):
        rag.optimize()
    overtaken.clear()
    most = 4
    rag.optimize()
    assert len(overtaken) == 5


def test_what_another_machine_adds_while_the_table_is_embedded_again_stays(
    uri: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = DualRAG(uri, ToyEmbedder(), storage_options=options)
    old.add_global_documents([{"content": f"text {n}", "metadata": {"id": f"{n}"}} for n in range(4)])
    new = DualRAG(uri, ToyEmbedder("new"), storage_options=options)
    # Another machine's locks are its own.
    homes = count()
    monkeypatch.setattr("mdsa_local.knowledge.lance.own_folder", lambda place, home: own_folder(f"{place}{next(homes)}", home))

    def meanwhile(done: int, total: int) -> None:
        old.add_global_documents([{"content": "late", "metadata": {"id": "late"}}, {"content": "text changed", "metadata": {"id": "1"}}])
        old.remove("2")

    assert new._knowledge_base(None).rebuild(meanwhile)
    assert [entry.document for entry in new.list_documents()] == ["0", "1", "3", "late"]
    assert new.query("late")[0]["content"] == "late" and new.passage("1#0").passage.text == "text changed"


def test_a_server_that_is_not_there_and_a_bucket_that_is_none_are_told_soon(options: dict[str, str]) -> None:
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"no connection: .*refused") as caught:
        DualRAG(f"s3://{BUCKET}/x", ToyEmbedder(), storage_options=options | {"endpoint": "http://127.0.0.1:9"}).list_documents()
    with pytest.raises(StorageError, match="404: NoSuchBucket") as missing:
        DualRAG("s3://no-such-bucket/x", ToyEmbedder(), storage_options=options).list_documents()
    assert time.monotonic() - began < 30
    for error in (caught.value, missing.value):
        assert "knowledge_storage_options" in error.hint
        assert "very-secret" not in f"{error} {error.hint}"


def test_settings_name_the_place_and_its_options(uri: str, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps({"knowledge_uri": uri, "knowledge_storage_options": options}))
    settings = Settings.load({"MDSA_HOME": str(tmp_path)})
    assert settings.storage_options == options and "very-secret" not in repr(settings)
    assert settings.changed(top_k=3).storage_options == options
    rag = DualRAG(settings.knowledge_place, ToyEmbedder(), storage_options=settings.storage_options)
    rag.add_global_documents([{"content": "Support is open all day."}])
    monkeypatch.setenv("MDSA_HOME", str(tmp_path))
    assert DualRAG(embedder=ToyEmbedder()).query("support")
    # Keys from the usual variables of S3, the rest from ours.
    plain = {name: value for name, value in options.items() if not name.startswith("aws_")}
    (tmp_path / "config.yaml").write_text("")
    monkeypatch.setenv("MDSA_KNOWLEDGE_URI", uri)
    monkeypatch.setenv("MDSA_KNOWLEDGE_STORAGE_OPTIONS", json.dumps(plain))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["aws_secret_access_key"])
    assert DualRAG(embedder=ToyEmbedder()).query("support")


@pytest.mark.parametrize("given", ["very-secret", '["very-secret"]', '{"aws_secret_access_key": 5}'])
def test_wrong_options_are_not_repeated(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load({"MDSA_HOME": str(tmp_path), "MDSA_KNOWLEDGE_STORAGE_OPTIONS": given})
    said = f"{caught.value} {caught.value.hint}"
    assert "knowledge_storage_options" in said and "MDSA_KNOWLEDGE_STORAGE_OPTIONS" in said and "very-secret" not in said


def test_sync_adds_and_removes_nothing_that_other_machines_may_have(
    uri: str, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdsa_local.settings.shipped", lambda name: tmp_path / name)
    home = tmp_path / "home"
    garden = home / "domains/garden"
    (garden / "knowledge").mkdir(parents=True)
    (garden / "domain.yaml").write_text("name: garden\ndescription: Plants.\n")
    for name in ("a", "b"):
        (garden / f"knowledge/{name}.md").write_text(f"text of {name}")
    (home / "config.yaml").write_text(json.dumps({"knowledge_uri": uri, "knowledge_storage_options": options}))
    settings = Settings.load({"MDSA_HOME": str(home)})
    rag = DualRAG(settings.knowledge_place, ToyEmbedder(), storage_options=settings.storage_options)
    assert sync.pending(settings, "toy")
    sync.sync(rag, settings, "toy")
    assert not sync.pending(settings, "toy") and not (home / "knowledge").exists()
    (garden / "knowledge/b.md").unlink()
    sync.sync(rag, settings, "toy")
    assert [entry.document for entry in rag.list_documents("garden")] == ["a.md", "b.md"]


def test_a_folder_opens_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with the variables of S3 set: a listener in their place hears nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        rag = DualRAG(tmp_path.as_uri(), ToyEmbedder())
        rag.add_global_documents([{"content": "Support is open all day."}])
        assert len(rag.query("support")) == 1 and rag.check() == []
        with pytest.raises(BlockingIOError):
            listener.accept()
