from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mdsa_local.errors import InputError, StorageError
from mdsa_local.training.workshop import opened
from tests.training.conftest import RECIPE


def test_a_run_keeps_what_it_was_begun_with(tmp_path: Path, recipe: Path) -> None:
    folder = tmp_path / "run"
    with opened(folder, str(recipe), seed=3, tokens=9000) as begun:
        assert (begun.seed, begun.recipe.tokens, begun.recipe.name) == (3, 9000, "toy")
    with opened(folder) as again:
        assert again == begun
    with opened(folder, str(recipe), seed=3) as again:
        assert again == begun
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**RECIPE, "rate": 1e-3}), encoding="utf-8")
    for given, said in (
        ({"seed": 4}, "another seed: 3, now 4"),
        ({"tokens": 10}, "another tokens: 9000, now 10"),
        ({"recipe": str(other)}, "another recipe: rate 0.002, now 0.001"),
    ):
        with pytest.raises(InputError, match=said), opened(folder, **given):
            pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path / "run"), pytest.raises(InputError, match="another process"), opened(tmp_path / "run"):
        pass
    with opened(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_and_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError), opened(tmp_path / "file"):
        pass
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text('{"recipe": ', encoding="utf-8")
    with pytest.raises(StorageError, match=r"run\.json: damaged"), opened(tmp_path / "run"):
        pass
