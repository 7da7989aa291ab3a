from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdsa_local.errors import ModelError, ModelFileError
from mdsa_local.onnx_models import OnnxModels
from mdsa_local.routing.lexical import LexicalEncoder
from mdsa_local.settings import Settings, shipped


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A judge and an encoder that are not what their cards say."""
    for name in ("judge", "tinybert"):
        folder = Path(shutil.copytree(shipped("models") / name, tmp_path / name))
        with (folder / "tokenizer.json").open("ab") as file:
            file.write(b" ")
    return tmp_path


def test_what_is_loaded_ahead_is_there_once() -> None:
    models = OnnxModels(Settings.load())
    models.load_ahead()
    encoder, judge = models.encoder, models.judge
    assert encoder.encode(["hello"]).shape == (1, 312)
    assert judge is not None
    models.load_ahead()
    models.load_judge_ahead()
    assert models.encoder is encoder
    assert models.judge is judge
    assert models.unjudged == ""


def test_what_is_damaged_is_stood_in_for(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    models = OnnxModels(Settings.load().changed(encoder=str(damaged / "tinybert"), judge=str(damaged / "judge")))
    models.load_ahead()
    assert isinstance(models.encoder, LexicalEncoder)
    assert models.judge is None
    assert "tokenizer.json is damaged" in models.unjudged
    assert len([record for record in caplog.records if "is damaged" in record.message]) == 2


def test_what_the_system_refuses_is_stood_in_for(tmp_path: Path) -> None:
    # No name can be so long.
    place = str(tmp_path / ("x" * 300))
    models = OnnxModels(Settings.load().changed(encoder=place, judge=place))
    models.load_ahead()
    assert isinstance(models.encoder, LexicalEncoder)
    assert models.judge is None
    assert place in models.unjudged


def test_strict_settings_have_no_stand_ins(damaged: Path) -> None:
    models = OnnxModels(Settings.load().changed(encoder=str(damaged / "tinybert"), judge=str(damaged / "judge"), strict=True))
    models.load_ahead()
    for _ in range(2):
        with pytest.raises(ModelFileError):
            _ = models.encoder
        with pytest.raises(ModelError):
            _ = models.judge


def test_no_judge_is_no_mistake() -> None:
    models = OnnxModels(Settings.load().changed(judge=""))
    assert models.judge is None
    assert models.unjudged == ""


@pytest.mark.parametrize("waiting", [0.0, 0.05, 0.2])
def test_a_program_that_ends_while_they_are_loaded_says_nothing(waiting: float) -> None:
    code = (
        "import time\nfrom mdsa_local.onnx_models import OnnxModels\nfrom mdsa_local.settings import Settings\n"
        f"OnnxModels(Settings.load()).load_ahead()\ntime.sleep({waiting})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=os.environ)
    assert ended.stderr == ""


def test_git_leaves_the_models_byte_for_byte() -> None:
    root = Path(__file__).parent.parent
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("no checkout of git")
    models = ["models/tinybert/tokenizer.json", "models/judge/tokenizer.json"]
    told = subprocess.run(["git", "check-attr", "text", *models], cwd=root, capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [f"{model}: text: unset" for model in models], "Windows would write other line ends, and no hash would be right"
