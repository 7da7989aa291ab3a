"""The knowledge bases follow the domains' folders."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from mdsa_local.errors import StorageError
from mdsa_local.knowledge import following, sync
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.encoder import Encoder
from mdsa_local.settings import Settings, shipped

from .toy_embedder import ToyEmbedder


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
    text = {"content": "The shed is open.", "metadata": {"id": "shed", "source": str(garden / "knowledge" / "shed.md")}}
    rag.add_local_documents("garden", [text])
    sync.sync(rag, settings, encoder.fingerprint)
    assert {entry.document for entry in rag.list_documents("garden")} == {"notes.md", "roses.md", "shed"}


def test_another_encoder_means_work_to_do(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    sync.sync(DualRAG(settings.knowledge_dir, encoder), settings, encoder.fingerprint)
    assert sync.pending(settings, "another fingerprint")


def test_what_is_only_in_memory_is_ingested_by_every_program(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path, knowledge_uri="memory://")
    for _ in range(2):
        with DualRAG(settings.knowledge_place, encoder) as rag:
            assert sync.pending(settings, encoder.fingerprint) and not sync.settled(settings)
            ((_, report),) = sync.sync(rag, settings, encoder.fingerprint)
            assert report.added == ("roses.md",)
    assert not sync.stamp(settings).exists()


def test_the_shared_folder_and_unnamed_folders(garden: Path, tmp_path: Path) -> None:
    (garden.parent / "_global" / "knowledge").mkdir(parents=True)
    (garden.parent / "stray" / "knowledge").mkdir(parents=True)
    assert [name for name, _ in sync.folders(Settings.load({}, home=tmp_path))] == [None, "garden"]


def test_a_reinstall_or_a_moved_checkout_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str, text: str = "# Cards\n\nA card costs 5 euros.\n") -> str:
        domains = tmp_path / name / "domains"
        (domains / "bank" / "knowledge").mkdir(parents=True)
        (domains / "bank" / "domain.yaml").write_text("description: Bank\n")
        (domains / "bank" / "knowledge" / "cards.md").write_text(text)
        os.utime(domains / "bank" / "knowledge" / "cards.md", (len(name), len(name)))
        for module in ("settings", "knowledge.ingest", "knowledge.sync"):
            monkeypatch.setattr(f"mdsa_local.{module}.shipped", lambda _: domains)
        return sync.state(Settings.load({}, home=tmp_path / "home"), "encoder")

    first = install("one")
    assert install("another") == first
    assert install("third", "# Cards\n\nA card costs 6 euros.\n") != first


def test_in_step_no_table_is_locked_or_written(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    rag = DualRAG(settings.knowledge_dir, encoder)
    sync.sync(rag, settings, encoder.fingerprint)
    before = {path: path.stat().st_mtime_ns for path in settings.knowledge_dir.rglob("*")}
    # Only the encoder is known, as after a sync with failures.
    sync.stamp(settings).write_text(encoder.fingerprint)
    (settings.knowledge_dir / "garden.lock").unlink()
    sync.sync(rag, settings, encoder.fingerprint)
    after = {path: path.stat().st_mtime_ns for path in settings.knowledge_dir.rglob("*")}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {"garden.lock", "synced", "knowledge"}
    assert not (settings.knowledge_dir / "garden.lock").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_hidden_dangling_and_vanished_files_stop_nothing(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    rag = DualRAG(settings.knowledge_dir, encoder)
    sync.sync(rag, settings, encoder.fingerprint)
    (garden / "knowledge" / ".#roses.md").symlink_to("me@host.1234")
    (garden / "knowledge" / ".git").mkdir()
    (garden / "knowledge" / ".git" / "notes.md").write_text("# Hidden\n")
    assert not sync.pending(settings, encoder.fingerprint)
    (garden / "knowledge" / "lost.md").symlink_to(tmp_path / "nowhere.md")
    ((_, report),) = sync.sync(rag, settings, encoder.fingerprint)
    assert [Path(path).name for path, _ in report.failed] == ["lost.md"]
    assert report.unchanged == ("roses.md",)


@pytest.mark.parametrize("deleted", ["garden", "garden/knowledge", "garden/domain.yaml"])
def test_a_deleted_domain_takes_its_documents_along(garden: Path, encoder: Encoder, tmp_path: Path, deleted: str) -> None:
    settings = Settings.load({}, home=tmp_path)
    rag = DualRAG(settings.knowledge_dir, encoder)
    for name in ("notes.md", "domains/garden/aside.md"):
        (tmp_path / name).write_text("# Notes\n\nThe shed key hangs behind the door.\n")
    rag.add_paths([tmp_path / "notes.md", garden / "aside.md"], "garden")
    sync.sync(rag, settings, encoder.fingerprint)
    target = garden.parent / deleted
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert sync.pending(settings, encoder.fingerprint)
    assert [(name, report.removed) for name, report in sync.sync(rag, settings, encoder.fingerprint)] == [("garden", ("roses.md",))]
    assert [entry.document for entry in rag.list_documents("garden")] == ["aside.md", "notes.md"]
    assert not sync.pending(settings, encoder.fingerprint)


def test_a_deleted_shared_folder_takes_its_documents_along(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    rag = DualRAG(settings.knowledge_dir, encoder)
    shared = garden.parent / "_global" / "knowledge"
    shared.mkdir(parents=True)
    (shared / "hours.md").write_text("# Hours\n\nOpen from nine to five.\n")
    sync.sync(rag, settings, encoder.fingerprint)
    assert [entry.document for entry in rag.list_documents()] == ["hours.md"]
    shutil.rmtree(shared.parent)
    sync.sync(rag, settings, encoder.fingerprint)
    assert rag.list_documents() == []
    assert [entry.document for entry in rag.list_documents("garden")] == ["roses.md"]


def test_a_later_domain_of_the_same_name_hides_the_earlier_one(
    garden: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load({}, home=tmp_path)
    rag = DualRAG(settings.knowledge_dir, encoder)
    sync.sync(rag, settings, encoder.fingerprint)
    own = tmp_path / "own"
    for folder in (own / "garden", own / "_global", garden.parent / "_global"):
        (folder / "knowledge").mkdir(parents=True)
    (own / "garden" / "domain.yaml").write_text("description: My plants\n")
    (own / "garden" / "knowledge" / "tulips.md").write_text("# Tulips\n\nTulips are planted in October.\n")
    monkeypatch.setattr(Settings, "domain_dirs", property(lambda self: (self.home / "domains", own)))
    assert [(name, folder.parents[1].name) for name, folder in sync.folders(settings)] == [(None, "domains"), (None, "own"), ("garden", "own")]
    sync.sync(rag, settings, encoder.fingerprint)
    assert [entry.document for entry in rag.list_documents("garden")] == ["tulips.md"]


class Counting:
    """An encoder that counts the texts it is given."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self.n_texts = encoder, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def encode(self, texts: list[str]) -> object:
        self.n_texts += len(texts)
        return self._encoder.encode(texts)


def test_a_copy_of_a_shipped_domain_keeps_its_documents_and_their_names(encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    counting = Counting(encoder)
    rag = DualRAG(settings.knowledge_dir, counting)  # type: ignore[arg-type]
    sync.sync(rag, settings, encoder.fingerprint)
    before = {known.document: known.n_chunks for known in rag.list_documents("finance")}
    copy = tmp_path / "domains" / "finance"
    shutil.copytree(shipped("domains") / "finance", copy)
    (copy / "knowledge" / "atm-withdrawals.md").write_text("# Cash\n\nYou may withdraw 700 dollars a day.\n")
    (copy / "knowledge" / "new'.md").write_text("# Mine\n\nMy broker is called Ada.\n")
    counting.n_texts = 0
    reports = dict(sync.sync(rag, settings, encoder.fingerprint))
    report = reports["finance"]
    assert (report.added, report.changed, report.removed) == (("new'.md",), ("atm-withdrawals.md",), ())
    assert counting.n_texts == 2, "what is the same is not embedded again"
    assert {known.document for known in rag.list_documents("finance")} == {*before, "new'.md"}
    assert all(known.source.startswith(str(copy.resolve())) for known in rag.list_documents("finance"))
    assert rag.passage("charged-twice.md#0", "finance").state == "unchanged"
    assert "700 dollars" in rag.passage("atm-withdrawals.md#0", "finance").passage.text
    found = rag.search("charged twice", encoder.encode(["charged twice"])[0], "finance", 3)
    assert found[0].source == (copy.resolve() / "knowledge" / "charged-twice.md").as_posix()
    assert rag.check("finance") == []
    # And back.
    shutil.rmtree(copy)
    report = dict(sync.sync(rag, settings, encoder.fingerprint))["finance"]
    assert (report.added, report.changed, report.removed) == ((), ("atm-withdrawals.md",), ("new'.md",))
    assert {known.document: known.n_chunks for known in rag.list_documents("finance")} == before
    assert not sync.pending(settings, encoder.fingerprint)


@pytest.mark.parametrize("how", ["moved", "copied", "restored", "restored beside"])
def test_a_home_in_another_place_has_its_documents_once(garden: Path, encoder: Encoder, tmp_path: Path, how: str) -> None:
    before, after = tmp_path / "one", tmp_path / "two"
    before.mkdir()
    (tmp_path / "domains").rename(before / "domains")
    (before / "domains/garden/knowledge/beans.md").write_text("# Beans\n\nBeans are sown in May.\n")
    old = Settings.load({}, home=before)
    rag = DualRAG(old.knowledge_dir, encoder)
    sync.sync(rag, old, encoder.fingerprint)
    rag.export(tmp_path / "backup.mdsa")
    rag.close()
    if how == "moved":
        before.rename(after)
    else:
        part = "domains" if "restored" in how else "."
        shutil.copytree(before / part, after / part)
    (after / "domains/garden/knowledge/roses.md").write_text("# Roses\n\nRoses are pruned in late February.\n")
    new = Settings.load({}, home=after)
    counting = Counting(encoder)
    again = DualRAG(new.knowledge_dir, counting)  # type: ignore[arg-type]
    if how == "restored beside":
        sync.sync(again, new, encoder.fingerprint)
    if "restored" in how:
        again.restore(tmp_path / "backup.mdsa", replace=True)
        sync.stamp(new).unlink(missing_ok=True)
    counting.n_texts = 0
    ((_, report),) = sync.sync(again, new, encoder.fingerprint)
    assert (report.added, report.changed, counting.n_texts) == ((), ("roses.md",), 1)
    folder = (after / "domains/garden/knowledge").resolve().as_posix()
    assert {(known.document, known.source) for known in again.list_documents("garden")} == {
        (name, f"{folder}/{name}") for name in ("beans.md", "roses.md")
    }
    assert again.check("garden") == []


def test_a_document_that_stands_twice_since_a_home_moved_goes(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    rag = DualRAG(settings.knowledge_dir, encoder)
    elsewhere = tmp_path / "old/domains/garden/knowledge"
    shutil.copytree(garden / "knowledge", elsewhere)
    own = tmp_path / "own/knowledge"
    own.mkdir(parents=True)
    (own / "tools.md").write_text("# Tools\n\nThe shed key hangs behind the door.\n")
    rag.add_paths([elsewhere, own], "garden")
    rag.add_paths([garden / "knowledge"], "garden")
    assert len(rag.list_documents("garden")) == 3
    sync.sync(rag, settings, encoder.fingerprint)
    assert {Path(known.source).name for known in rag.list_documents("garden")} == {"roses.md", "tools.md"}
    assert (garden / "knowledge/roses.md").resolve().as_posix() in {known.source for known in rag.list_documents("garden")}


def test_what_a_copy_lacks_goes(garden: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load({}, home=tmp_path)
    rag = DualRAG(settings.knowledge_dir, encoder)
    for name in ("beans.md", "sub/roses.md"):
        (garden / "knowledge" / name).parent.mkdir(exist_ok=True)
        (garden / "knowledge" / name).write_text(f"# {name}\n\nText of {name}.\n")
    sync.sync(rag, settings, encoder.fingerprint)
    own = tmp_path / "own"
    shutil.copytree(garden, own / "garden")
    (own / "garden" / "knowledge" / "beans.md").unlink()
    monkeypatch.setattr(Settings, "domain_dirs", property(lambda self: (self.home / "domains", own)))
    ((_, report),) = sync.sync(rag, settings, encoder.fingerprint)
    assert (report.added, report.changed, report.unchanged, report.removed) == ((), (), ("roses.md", "sub/roses.md"), ("beans.md",))
    assert {known.source for known in rag.list_documents("garden")} == {
        (own.resolve() / "garden" / "knowledge" / name).as_posix() for name in ("roses.md", "sub/roses.md")
    }


def test_a_file_that_cannot_be_read_is_told_each_time_and_embeds_nothing(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    rag = DualRAG(settings.knowledge_dir, encoder)
    (garden / "knowledge" / "latin.md").write_bytes(b"caf\0")
    for _ in range(2):
        ((_, report),) = sync.sync(rag, settings, encoder.fingerprint)
        assert [Path(path).name for path, _ in report.failed] == ["latin.md"]
        assert sync.pending(settings, encoder.fingerprint)
    assert (report.added, report.unchanged) == ((), ("roses.md",))
    (garden / "knowledge" / "latin.md").write_text("# Coffee\n\nCoffee is no plant of ours.\n")
    sync.sync(rag, settings, encoder.fingerprint)
    assert not sync.pending(settings, encoder.fingerprint)


def test_what_is_no_document_is_told_once(garden: Path, encoder: Encoder, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    (garden / "knowledge" / "image.png").write_bytes(b"\x89PNG")
    (garden / "knowledge" / "later.md").write_text("")
    ((_, report),) = sync.sync(DualRAG(settings.knowledge_dir, encoder), settings, encoder.fingerprint)
    assert [Path(path).name for path, _ in report.failed] == ["image.png", "later.md"]
    assert not sync.pending(settings, encoder.fingerprint)


def test_the_shipped_domains_can_be_left_out_with_all_their_documents(encoder: Encoder, tmp_path: Path) -> None:
    garden = tmp_path / "domains" / "garden"
    (garden / "knowledge").mkdir(parents=True)
    (garden / "domain.yaml").write_text("description: Plants\nkeywords: [roses, pruning]\n")
    (garden / "knowledge" / "roses.md").write_text("# Roses\n\nRoses are pruned in March.\n")
    both = Settings.load({}, home=tmp_path)
    rag = DualRAG(both.knowledge_dir, encoder)
    sync.sync(rag, both, encoder.fingerprint)
    rag.add_global_documents([{"content": "The gate is locked at ten.", "metadata": {"id": "note"}}])
    rag.add_local_documents("finance", [{"content": "My broker is called Ada.", "metadata": {"id": "mine"}}])
    shipped_ones = len(rag.list_documents("finance"))
    assert shipped_ones > 25
    alone = Settings.load({"MDSA_SHIPPED_DOMAINS": "false"}, home=tmp_path)
    assert sync.pending(alone, encoder.fingerprint)
    sync.sync(rag, alone, encoder.fingerprint)
    assert not sync.pending(alone, encoder.fingerprint)
    # What the user added stays, wherever it is.
    documents = {domain: [entry.document for entry in rag.list_documents(domain)] for domain in (None, "garden", "finance", "medical")}
    assert documents == {None: ["note"], "garden": ["roses.md"], "finance": ["mine"], "medical": []}
    with TinyBERTOrchestrator(settings=alone, knowledge=rag) as front:
        assert [domain.name for domain in front.registry] == ["garden"]
        assert front.ask("when are roses pruned").citations[0].passage.source.endswith("roses.md")
        assert front.ask("how much does a replacement debit card cost").status in ("abstained", "not_found")
    sync.sync(rag, both, encoder.fingerprint)
    assert len(rag.list_documents("finance")) == shipped_ones


def test_without_any_domain_the_answer_says_how_to_come_by_one(tmp_path: Path, encoder: Encoder) -> None:
    settings = Settings.load({"MDSA_SHIPPED_DOMAINS": "false"}, home=tmp_path)
    with TinyBERTOrchestrator(settings=settings, knowledge=DualRAG(settings.knowledge_dir, encoder)) as front:
        answer = front.ask("when are roses pruned")
    assert answer.status == "abstained"
    assert str(tmp_path / "domains") in answer.response
    assert "shipped_domains" in answer.response


def test_two_programs_with_other_settings_leave_no_half(encoder: Encoder, tmp_path: Path) -> None:
    for name in ("_global", "garden"):
        (tmp_path / "domains" / name / "knowledge").mkdir(parents=True)
        (tmp_path / "domains" / name / "knowledge" / "own.md").write_text(f"# Own\n\nThis is about {name}.\n")
    (tmp_path / "domains" / "garden" / "domain.yaml").write_text("description: Plants\n")
    both, alone = (Settings.load({"MDSA_SHIPPED_DOMAINS": wanted}, home=tmp_path) for wanted in ("true", "false"))
    other = ThreadPoolExecutor(1)

    def run(settings: Settings, progress: Callable[[str, int, int], None] | None = None) -> None:
        rag = DualRAG(settings.knowledge_dir, encoder)
        sync.sync(rag, settings, encoder.fingerprint, progress)
        rag.close()

    def told(source: str, *_: int) -> None:
        # The shared documents are in by now. The second begins, and has time to remove them.
        if source.startswith("domains/finance/") and not second:
            second.append(other.submit(run, alone))
            wait(second, timeout=3)

    second: list[Future[None]] = []
    run(both, told)
    second[0].result()
    other.shutdown()
    # Whoever came last has all of its own, or there is work to do.
    rag = DualRAG(both.knowledge_dir, encoder)
    for settings, least in ((both, 20), (alone, 1)):
        if sync.pending(settings, encoder.fingerprint):
            sync.sync(rag, settings, encoder.fingerprint)
        assert len(rag.list_documents()) >= least
    assert [entry.document for entry in rag.list_documents()] == ["own.md"]


def test_where_nothing_can_be_locked_it_goes_on(garden: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(sync, "acquire", refused)
    settings = Settings.load({}, home=tmp_path)
    ((_, report),) = sync.sync(DualRAG(settings.knowledge_dir, encoder), settings, encoder.fingerprint)
    assert report.added == ("roses.md",)


def test_a_program_that_goes_on_follows_too(garden: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "AGAIN_S", 0.0)
    settings, article = Settings.load({}, home=tmp_path), garden / "knowledge" / "roses.md"
    with TinyBERTOrchestrator(settings=settings) as front:
        assert "March" in front.ask("When are roses pruned?", domain="garden").response
        article.write_text("# Roses\n\nRoses are pruned in late February.\n")
        assert "February" in front.ask("When are roses pruned?", domain="garden").response
        article.write_text("# Roses\n\nRoses are pruned in the first week of April.\n")
        ((name, report),) = front.prepare()
        assert (name, report.changed) == ("garden", ("roses.md",))
        assert front.prepare() == []
        assert "April" in front.ask("When are roses pruned?", domain="garden").response


def test_a_program_that_goes_on_brings_in_step_what_was_restored(
    garden: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "AGAIN_S", 0.0)
    monkeypatch.setattr(following, "SHARE", 0)
    settings, article = Settings.load({}, home=tmp_path), garden / "knowledge" / "roses.md"
    with TinyBERTOrchestrator(settings=settings) as front:
        assert "March" in front.ask("When are roses pruned?", domain="garden").response
        front.knowledge.export(tmp_path / "backup")
        article.write_text("# Roses\n\nRoses are pruned in late February.\n")
        assert "February" in front.ask("When are roses pruned?", domain="garden").response
        # By another program, say.
        with DualRAG(settings.knowledge_dir, encoder) as rag:
            rag.restore(tmp_path / "backup", replace=True)
        assert "February" in front.ask("When are roses pruned?", domain="garden").response


def test_two_programs_with_other_documents_bring_them_back_and_come_to_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "AGAIN_S", 0.0)
    monkeypatch.setattr(following, "SHARE", 0)
    for module in ("mdsa_local.settings", "mdsa_local.knowledge.sync"):
        monkeypatch.setattr(f"{module}.shipped", lambda name: tmp_path / "shipped" / name)
    for folder, name in (("shipped", "bank"), ("home", "garden")):
        domain = tmp_path / folder / "domains" / name
        (domain / "knowledge").mkdir(parents=True)
        (domain / "domain.yaml").write_text("description: D\n")
        (domain / "knowledge" / "a.md").write_text(f"This is about the {name}.")
    synced, original = list[bool](), sync.sync

    def counted(rag: DualRAG, settings: Settings, *rest: str) -> object:
        synced.append(settings.shipped_domains)
        return original(rag, settings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sync, "sync", counted)
    with DualRAG(tmp_path / "home" / "knowledge", ToyEmbedder()) as rag:
        both, own = (
            following.Following(Settings.load({}, home=tmp_path / "home", shipped_domains=wanted), lambda: rag, lambda: "toy")
            for wanted in (True, False)
        )
        both.follow()
        own.follow()
        assert rag.list_documents("bank") == []
        both.follow()
        assert [known.document for known in rag.list_documents("bank")] == ["a.md"]
        for _ in range(5):
            own.follow()
            both.follow()
        assert synced == [True, False, True, False]


def test_questions_do_not_wait_for_what_another_follows(garden: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "AGAIN_S", 0.0)
    begun, done = threading.Event(), threading.Event()
    original = sync.sync

    def slow(*arguments: object) -> object:
        begun.set()
        assert done.wait(30)
        return original(*arguments)  # type: ignore[arg-type]

    with TinyBERTOrchestrator(settings=Settings.load({}, home=tmp_path)) as front, ThreadPoolExecutor(1) as pool:
        front.ask("When are roses pruned?", domain="garden")
        (garden / "knowledge" / "roses.md").write_text("# Roses\n\nRoses are pruned in late February.\n")
        monkeypatch.setattr(sync, "sync", slow)
        first = pool.submit(front.ask, "When are roses pruned?", domain="garden")
        assert begun.wait(30)
        assert "March" in front.ask("When are roses pruned?", domain="garden").response
        done.set()
        assert "February" in first.result(60).response


def test_what_cannot_be_followed_is_told_and_tried_again(
    garden: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(following, "AGAIN_S", 0.0)
    monkeypatch.setattr(following, "AFTER_FAILURE_S", 0.0)
    monkeypatch.setattr(following, "SHARE", 0)
    with TinyBERTOrchestrator(settings=Settings.load({}, home=tmp_path)) as front:
        assert "March" in front.ask("When are roses pruned?", domain="garden").response
        article = garden / "knowledge" / "roses.md"
        article.write_text("# Roses\n\nRoses are pruned in late February.\n")
        # A folder that can be no domain: its name is none.
        wrong = garden.parent / "My Domain"
        (wrong / "knowledge").mkdir(parents=True)
        (wrong / "domain.yaml").write_text("description: Wrong\n")
        (wrong / "knowledge" / "a.md").write_text("# A\n\nAll is wrong here.\n")
        assert front.ask("When are roses pruned?", domain="garden").status == "success"
        assert "could not be brought up to date" in caplog.text and "My Domain" in caplog.text
        shutil.rmtree(wrong)
        assert "February" in front.ask("When are roses pruned?", domain="garden").response
        with monkeypatch.context() as failing:
            failing.setattr(sync, "sync", Raising(StorageError("the disk is full", "Free some space.")))
            article.write_text("# Roses\n\nRoses are pruned in the first week of April.\n")
            assert "February" in front.ask("When are roses pruned?", domain="garden").response
        assert "April" in front.ask("When are roses pruned?", domain="garden").response


class Raising:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *_: object) -> None:
        raise self.error


def test_many_documents_are_looked_at_less_often(garden: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "AGAIN_S", 0.0)
    looked = 0

    def slow(settings: Settings) -> tuple[tuple[str, int, int], ...]:
        nonlocal looked
        looked += 1
        time.sleep(0.1)
        return ()

    monkeypatch.setattr(sync, "glance", slow)
    kept = following.Following(Settings.load({}, home=tmp_path), lambda: DualRAG(tmp_path / "knowledge", encoder), lambda: encoder.fingerprint)
    for _ in range(5):
        kept.follow()
    assert looked == 2
