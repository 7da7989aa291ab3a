"""A domain gets an adapter, and nothing else of it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mdsa_local.domains.config import DomainConfig
from mdsa_local.domains.installing import edited, install, installable
from mdsa_local.domains.registry import DomainRegistry
from mdsa_local.errors import ConfigError, StorageError
from mdsa_local.settings import Settings

YAML = "# mine\nname: x\n\nadapter: old.gguf  # the old one\ngeneration:\n  max_tokens: 9\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({}, home=tmp_path / "home")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "made.gguf"
    path.write_bytes(b"an adapter")
    return path


def domain(settings: Settings, text: str = YAML) -> DomainConfig:
    folder = settings.home / "domains" / "x"
    folder.mkdir(parents=True)
    (folder / "domain.yaml").write_text(text, encoding="utf-8")
    return DomainConfig.read(folder)


def test_one_line_changes(settings: Settings, adapter: Path) -> None:
    done = install(adapter, domain(settings), settings)
    text = (done.folder / "domain.yaml").read_text(encoding="utf-8")
    assert text.splitlines() == ["# mine", "name: x", "", f"adapter: {done.adapter.name}  # the old one", "generation:", "  max_tokens: 9"]
    assert done.before == {"adapter": "old.gguf"}
    assert Path(DomainConfig.read(done.folder).sampling.adapter).read_bytes() == b"an adapter"
    assert sorted(path.name for path in done.folder.iterdir()) == [done.adapter.name, "domain.yaml"]
    assert install(adapter, DomainConfig.read(done.folder), settings).adapter == done.adapter
    adapter.write_bytes(b"a better one")
    assert install(adapter, DomainConfig.read(done.folder), settings).before["adapter"] == done.adapter.name
    assert done.adapter.read_bytes() == b"an adapter", "one in use is not written over"


def test_ends_of_lines_stay(settings: Settings, adapter: Path) -> None:
    own = domain(settings)
    assert own.folder is not None
    (own.folder / "domain.yaml").write_bytes(YAML.replace("\n", "\r\n").encode())
    done = install(adapter, own, settings)
    expected = YAML.replace("old.gguf", done.adapter.name).replace("\n", "\r\n")
    assert (done.folder / "domain.yaml").read_bytes() == expected.encode()
    assert edited("a: 1\r\n", {"adapter": "x.gguf"}) == "a: 1\r\nadapter: x.gguf\r\n"
    assert edited("adapter: a#b.gguf\n", {"adapter": "x.gguf"}) == "adapter: x.gguf\n"


def test_a_shipped_domain_comes_beside_what_the_user_has_in_a_folder_of_its_name(settings: Settings, adapter: Path) -> None:
    knowledge = settings.home / "domains" / "finance" / "knowledge"
    knowledge.mkdir(parents=True)
    (knowledge / "atm-withdrawals.md").write_text("mine", encoding="utf-8")
    shipped = DomainRegistry.from_folders(settings.domain_dirs).get("finance")
    assert shipped.folder is not None and shipped.folder.parent != settings.home / "domains"
    done = install(adapter, shipped, settings)
    assert (knowledge / "atm-withdrawals.md").read_text(encoding="utf-8") == "mine"
    assert {path.name for path in knowledge.iterdir()} == {path.name for path in (shipped.folder / "knowledge").iterdir()}
    assert DomainRegistry.from_folders(settings.domain_dirs).get("finance").folder == done.folder


def test_a_domain_without_a_folder_is_told_before(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        installable(DomainConfig(name="x", description="Of a program."), settings)
    installable(domain(settings), settings)


def test_a_shipped_domain_is_copied_whole(settings: Settings, adapter: Path) -> None:
    before = DomainRegistry.from_folders(settings.domain_dirs).get("finance")
    done = install(adapter, before, settings)
    assert done.copied
    after = DomainRegistry.from_folders(settings.domain_dirs).get("finance")
    assert after.folder == settings.home / "domains" / "finance"
    assert after.model_copy(update={"adapter": "", "folder": before.folder}) == before
    assert before.folder is not None
    names = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in (before.folder, done.folder)]
    assert names[1] - names[0] == {Path(done.adapter.name)}
    assert names[0] <= names[1]
    assert not list((settings.home / "cache").iterdir())


def test_what_cannot_be_written_changes_nothing(settings: Settings, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = domain(settings)
    (given.folder / "domain.yaml.partial").mkdir() if given.folder else None
    with pytest.raises(StorageError):
        install(adapter, given, settings)
    assert given.folder
    assert (given.folder / "domain.yaml").read_text(encoding="utf-8") == YAML
    with pytest.raises(StorageError):
        install(adapter.with_name("absent"), given, settings)
    with pytest.raises(ConfigError, match="no folder"):
        install(adapter, DomainConfig(name="y"), settings)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_adapter_before(settings: Settings, adapter: Path) -> None:
    import hashlib

    given = domain(settings)
    assert given.folder
    name = f"adapter-{hashlib.sha256(b'an adapter').hexdigest()[:12]}.gguf"
    (given.folder / f"{name}.partial").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left"):
        install(adapter, given, settings)
    assert [path.name for path in given.folder.iterdir()] == ["domain.yaml"]
    assert DomainConfig.read(given.folder).adapter == "old.gguf"


def test_what_cannot_be_edited_is_left_alone(settings: Settings, adapter: Path) -> None:
    text = "name: x\nadapter: >-\n  old.gguf\n"
    given = domain(settings, text)
    with pytest.raises(ConfigError, match="without touching the rest") as error:
        install(adapter, given, settings)
    assert "adapter: adapter-" in error.value.hint
    assert given.folder
    assert (given.folder / "domain.yaml").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("value", ["adapter-1.gguf", "/a/b c.gguf", "C:\\x\\y.gguf", "it's: #1"])
def test_values_come_back_as_they_were(value: str) -> None:
    for text in ("", "name: x", "model: old\nname: x\n"):
        assert yaml.safe_load(edited(text, {"model": value}))["model"] == value
