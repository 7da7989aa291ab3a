"""Checkpoints outlive a full disk and a flipped bit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mdsa_local.errors import DependencyError, StorageError
from mdsa_local.training.checkpoint import device, load, save


@contextmanager
def full_disk(free_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond that."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def state(step: int) -> dict[str, object]:
    return {"step": step, "weights": torch.full((10_000,), float(step))}


def test_what_is_saved_is_loaded_and_the_one_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    for step in (1, 2, 3):
        save(state(step), path)
    assert load(path)["step"] == 3
    assert load(path.with_name("a.ckpt.previous"))["step"] == 2
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.ckpt", "a.ckpt.previous"]


def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save(state(1), path)
    with full_disk(20_000), pytest.raises(StorageError) as raised:
        save(state(2), path)
    assert str(path) in str(raised.value)
    assert "Free some space" in raised.value.hint
    assert load(path)["step"] == 1
    assert [found.name for found in tmp_path.iterdir()] == ["a.ckpt"], "and no half of one"
    save(state(2), path)
    assert load(path)["step"] == 2


def test_without_second_names_the_one_before_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    path = tmp_path / "a.ckpt"
    for step in (1, 2):
        save(state(step), path)
    assert load(path)["step"] == 2
    assert load(path.with_name("a.ckpt.previous"))["step"] == 1


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "emptied"])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.ckpt"
    save(state(1), path)
    save(state(2), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    # Written anew: the one before is another name of its own bytes.
    path.unlink()
    path.write_bytes({"flipped bit": bytes(data), "cut short": bytes(data[:5000]), "emptied": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert load(path)["step"] == 1
    assert "damaged" in caplog.text
    path.with_name("a.ckpt.previous").write_bytes(b"x")
    with pytest.raises(StorageError, match="damaged"):
        load(path)


def test_a_device_that_is_not_there() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(DependencyError, match="CUDA"):
            device("cuda")
    assert device("cpu").type == "cpu"
