"""Names of models, and the files they stand for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdsa_local.errors import ConfigError, ModelFileError, ModelNotFoundError
from mdsa_local.runtime import catalog
from mdsa_local.runtime.catalog import ModelFile, find, known, perhaps_meant, verify


def install(folder: Path, name: str = "nano", **changes: Any) -> Path:
    """A model folder with two files; ``changes`` replace keys of its model.yaml."""
    path = folder / name
    path.mkdir(parents=True)
    files = {}
    for variant in ("int8", "int4"):
        raw = f"{name} {variant}".encode()
        (path / f"{name}-{variant}.gguf").write_bytes(raw)
        files[variant] = {"file": f"{name}-{variant}.gguf", "sha256": hashlib.sha256(raw).hexdigest(), "size_bytes": len(raw)}
    card = {"name": name, "license": "Apache-2.0", "files": files, "default": "int8", **changes}
    (path / "model.yaml").write_text(yaml.safe_dump(card))
    return path


def test_default_and_variants(tmp_path: Path) -> None:
    path = install(tmp_path)
    assert find("nano", [tmp_path]).path == find("nano-int8", [tmp_path]).path == path / "nano-int8.gguf"
    assert find("nano-int4", [tmp_path]).path == path / "nano-int4.gguf"
    verify(find("nano-int4", [tmp_path]))


def test_users_files_and_the_order_of_folders(tmp_path: Path) -> None:
    mine, shipped = tmp_path / "mine", tmp_path / "shipped"
    install(shipped)
    mine.mkdir()
    for name in ("my.model", "nano"):
        (mine / f"{name}.gguf").write_bytes(b"")
    folders = [mine, shipped, tmp_path / "absent"]
    assert find("my.model", folders).path == mine / "my.model.gguf"
    assert find("nano", folders).path == mine / "nano.gguf"
    assert set(known(folders)) == {"my.model", "nano", "nano-int8", "nano-int4"}


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    install(tmp_path)
    for name in ("nanoo", "nano-int2", "../nano", "/etc/passwd"):
        with pytest.raises(ModelNotFoundError, match="unknown model") as caught:
            find(name, [tmp_path])
        assert "nano, nano-int4, nano-int8" in caught.value.hint
        assert "openai://" in caught.value.hint
        assert f"ollama://{name};" in caught.value.hint


def test_a_pulled_file_is_known_by_where_it_came_from(tmp_path: Path) -> None:
    path = install(tmp_path)
    card = yaml.safe_load((path / "model.yaml").read_text())
    card["files"]["int4"]["source"] = source = "hf://owner/repo/nano-int4.gguf"
    (path / "model.yaml").write_text(yaml.safe_dump(card))
    assert find(source, [tmp_path]).path == path / "nano-int4.gguf"
    for other in ("hf://owner/repo/other.gguf", "hf://owner/repo@v2/nano-int4.gguf"):
        with pytest.raises(ModelNotFoundError, match="no model here was pulled from") as caught:
            find(other, [tmp_path])
        assert caught.value.hint.endswith(f"mdsa models pull {other}")


def test_a_colon_for_a_dash_is_guessed(tmp_path: Path) -> None:
    path = install(tmp_path)
    meant = {"nano:int4": "nano-int4", "nano:latest": "nano", "ollama:int4": "", "nano": "", "llama3.2:1b": ""}
    for target, name in meant.items():
        assert perhaps_meant(target, [tmp_path]).endswith(f"is called {name}." if name else ""), target
        assert bool(perhaps_meant(target, [tmp_path])) == bool(name), target
    (path / "model.yaml").write_text("files: {int8: {file: x.gguf}}")
    assert perhaps_meant("nano:int4", [tmp_path]) == ""


def test_models_that_write_no_text_are_no_names(tmp_path: Path) -> None:
    install(tmp_path, "tinybert", files={"int8": {"file": "encoder.onnx"}})
    assert known([tmp_path]) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"default": "fp16"}, "'default' is 'fp16'"),
        ({"default": None}, "'default'"),
        ({"files": {"int8": {"file": "../../secret.gguf"}}}, "file"),
        ({"files": {"int8": {"file": "x.gguf", "sha": "0"}}}, "unknown key"),
        ({"files": {"int8": {"file": "x.gguf", "sha256": "0"}}}, "sha256"),
        ({"files": {"int8": {"file": "x.gguf", "size_bytes": -1}}}, "size_bytes"),
    ],
)
def test_a_wrong_card_names_file_and_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    install(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        known([tmp_path])
    assert "model.yaml" in str(caught.value)


def test_verify(tmp_path: Path) -> None:
    install(tmp_path)
    model = find("nano", [tmp_path])
    model.path.write_bytes(b"nano INT8")
    with pytest.raises(ModelFileError, match="SHA-256"):
        verify(model)
    model.path.write_bytes(b"short")
    with pytest.raises(ModelFileError, match="has 5 bytes"):
        verify(model)
    model.path.unlink()
    with pytest.raises(ModelNotFoundError, match="missing"):
        verify(model)
    plain = tmp_path / "x.gguf"
    plain.write_bytes(b"anything")
    verify(ModelFile("x", plain))


def test_a_large_file_found_right_is_not_read_again_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)
    model, seen = find("nano", [tmp_path]), tmp_path / "seen"
    monkeypatch.setattr(catalog, "REMEMBERED_BYTES", 3)
    hashed: list[str] = []
    real = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        hashed.append(name)
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    for _ in range(3):
        verify(model, seen)
    assert len(hashed) == 1
    model.path.write_bytes(b"nano INT8")
    with pytest.raises(ModelFileError, match="SHA-256"):
        verify(model, seen)
    with pytest.raises(ModelFileError, match="SHA-256"):
        verify(model, seen)
    (tmp_path / "file").write_text("no folder")
    model.path.write_bytes(b"nano int8")
    verify(model, tmp_path / "file" / "seen")


def test_a_file_by_reference(tmp_path: Path) -> None:
    path = install(tmp_path)
    elsewhere = tmp_path / "elsewhere.gguf"
    (path / "nano-int8.gguf").rename(elsewhere)
    card = yaml.safe_load((path / "model.yaml").read_text())
    digest = card["files"]["int8"]["sha256"]
    card["files"]["int8"] = {"path": str(elsewhere), "sha256": digest}
    (path / "model.yaml").write_text(yaml.safe_dump(card))
    model = find("nano", [path.parent])
    assert model.path == elsewhere
    verify(model)
    for wrong in ({"path": "relative.gguf"}, {"path": str(elsewhere), "file": "x.gguf"}, {"sha256": digest}):
        (path / "model.yaml").write_text(yaml.safe_dump(card | {"files": {"int8": wrong, "int4": card["files"]["int4"]}}))
        with pytest.raises(ConfigError, match="give either file"):
            known([path.parent])
