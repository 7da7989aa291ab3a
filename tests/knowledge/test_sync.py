"""The knowledge bases follow the domains' folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mdsa_local.knowledge import sync
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.routing.encoder import Encoder
from mdsa_local.settings import Settings


@pytest.fixture
def garden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a domain, the only one there is."""
    monkeypatch.setattr(Settings, "domain_dirs", property(lambda self: (self.home / "domains",)))
    folder = tmp_path / "domains" / "garden"
    (folder / "knowledge").mkdir(parents=True)
    (folder / "domain.yaml").write_text("description: Plants\n")
    (folder / "knowledge" / "roses.md").write_text("# Roses\n\nRoses are pruned in March.\n")
    yield folder


def test_what_is_added_changed_and_deleted_is_followed(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    rag = DualRAG(settings.knowledge_dir, encoder)
    assert sync.pending(settings, encoder.fingerprint)
    sync.sync(rag, settings, encoder.fingerprint)
    assert not sync.pending(settings, encoder.fingerprint)
    (garden / "knowledge" / "beans.md").write_text("# Beans\n\nBeans are sown in May.\n")
    (garden / "knowledge" / "roses.md").write_text("# Roses\n\nRoses are pruned in late February.\n")
    assert sync.pending(settings, encoder.fingerprint)
    ((_, report),) = sync.sync(rag, settings, encoder.fingerprint)
    assert (report.added, report.changed) == (("beans.md",), ("roses.md",))
    (garden / "knowledge" / "beans.md").unlink()
    ((_, report),) = sync.sync(rag, settings, encoder.fingerprint)
    assert report.removed == ("beans.md",)
    found = rag.search("when are roses pruned", encoder.encode(["when are roses pruned"])[0], "garden", 3)
    assert [passage.text for passage in found] == ["Roses are pruned in late February."]


def test_the_users_own_documents_stay(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    rag = DualRAG(settings.knowledge_dir, encoder)
    own = tmp_path / "notes.md"
    own.write_text("# Notes\n\nThe shed key hangs behind the door.\n")
    rag.add_paths([own], "garden")
    sync.sync(rag, settings, encoder.fingerprint)
    assert {entry.document for entry in rag.list_documents("garden")} == {"notes.md", "roses.md"}


def test_another_encoder_means_work_to_do(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    sync.sync(DualRAG(settings.knowledge_dir, encoder), settings, encoder.fingerprint)
    assert sync.pending(settings, "another fingerprint")


def test_the_shared_folder_and_unnamed_folders(garden: Path, tmp_path: Path) -> None:
    (garden.parent / "_global" / "knowledge").mkdir(parents=True)
    (garden.parent / "stray" / "knowledge").mkdir(parents=True)
    assert [name for name, _ in sync.folders(Settings.load({}, home=tmp_path))] == [None, "garden"]
