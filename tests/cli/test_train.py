"""``mdsa train`` as a user meets it: killed, gone on with, without torch, without data."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mdsa_local.runtime.catalog import find
from mdsa_local.training import curve
from mdsa_local.training.workshop import opened
from tests.cli.test_cli import inside
from tests.cli.test_eval import LINES
from tests.conftest import json_lines
from tests.training.conftest import data, recipe, templates

# Fixtures of the training tests.
__all__ = ["data", "recipe", "templates"]


def arguments(step: str, run: Path, data: Path, templates: Path, recipe: Path) -> list[str]:
    return ["train", step, "--run", str(run), "--data", str(data), "--templates", str(templates), "--recipe", str(recipe)]


def test_killed_in_the_middle_it_ends_with_the_same_losses(
    tmp_path: Path, data: Path, templates: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for run in (whole, killed):
        code, out, err = inside(capsys, *arguments("tokenizer", run, data, templates, recipe), "--json")
        assert code == 0, err
        assert json.loads(out)["tokens"] == 600
        assert err.startswith("tokenizer: learning the vocabulary\n"), "with all the data that takes a while"
    assert (whole / "tokenizer.json").read_bytes() == (killed / "tokenizer.json").read_bytes()
    training = ("--threads", "1", "--keep-every", "4", "--device", "cpu", "--json")
    command = [sys.executable, "-m", "mdsa_local", *arguments("pretrain", killed, data, templates, recipe), *training]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (killed / "pretrain.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    _, said = process.communicate()
    assert process.returncode != 0, "it was not killed in the middle"
    assert not said or b"error" not in said, said.decode()
    for run in (whole, killed):
        code, out, err = inside(capsys, *arguments("pretrain", run, data, templates, recipe), *training)
        assert code == 0, err
        done = json.loads(out)
        assert done["finished"]
        assert "pretrain: " in err
        assert (run / "loss.png").read_bytes()[1:4] == b"PNG"
    assert done["steps"] > 20
    first, second = (curve.read(run / "loss.jsonl") for run in (whole, killed))
    assert [line["step"] for line in first] == [line["step"] for line in second]
    for one, other in zip(first, second, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["tokens"] == other["tokens"]


def test_all_steps_in_one_command_make_a_model(tmp_path: Path, data: Path, templates: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*arguments("nano", tmp_path / "run", data, templates, recipe), "--tokens", "4000", "--threads", "1", "--json"]
    code, out, err = inside(capsys, *command, "--steps", "2")
    assert code == 0, err
    assert set(json.loads(out)) == {"tokenizer", "pretrain"}
    code, out, err = inside(capsys, *command)
    assert code == 0, err
    done = json.loads(out)
    assert done["ground"]["of_tokens"] == 4000
    assert [Path(made["file"]).name for made in done["quantize"]["files"]] == ["toy-q8_0.gguf", "toy-q4_0.gguf"]
    questions = json_lines(tmp_path / "questions.jsonl", LINES[:2])
    judge = ("train", "evaluate", "--run", str(tmp_path / "run"), "--questions", str(questions), "--runs", "1", "--part", "cost", "--part", "answers")
    code, out, err = inside(capsys, *judge, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert [model["quantization"] for model in report["models"]] == ["F32", "Q4_0", "Q8_0"]
    assert report["default"] in ("int4", "int8"), "F32 is there to compare with"
    card = yaml.safe_load((tmp_path / "run/model/model.yaml").read_text(encoding="utf-8"))
    assert card["default"] == report["default"]
    assert find("model", [tmp_path / "run"]).path.name == {"int8": "toy-q8_0.gguf", "int4": "toy-q4_0.gguf"}[report["default"]]
    code, _, err = inside(capsys, *arguments("tokenizer", tmp_path / "run", data, templates, recipe))
    assert code == 2, "its tokenizer is in use"


@pytest.mark.parametrize("step", ["export", "quantize"])
def test_what_begins_no_run_leaves_no_folder(step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = inside(capsys, "train", step, "--run", str(tmp_path / "mistyped"))
    assert (code, "no run was begun in it" in err) == (2, True)
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize("step", ["tokenizer", "pretrain", "ground", "nano"])
def test_without_the_data_it_says_which_and_whose(
    step: str, tmp_path: Path, data: Path, templates: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if step in ("pretrain", "ground"):
        run = tmp_path / "run"
        assert inside(capsys, *arguments("tokenizer", run, data, templates, recipe))[0] == 0
        (run / "pretrain.ckpt").write_bytes(b"")
    code, out, _ = inside(capsys, *arguments(step, tmp_path / "run", tmp_path / "nothing", templates, recipe), "--json")
    assert code == 2
    error = json.loads(out)["error"]
    assert "CC BY" in error["message"]
    assert "docs/training.md" in error["hint"]


@pytest.mark.parametrize(("step", "missing"), [("pretrain", "torch"), ("ground", "torch"), ("export", "torch"), ("quantize", "gguf")])
def test_without_the_extra_it_names_it(step: str, missing: str, tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    given = ["train", step, "--run", str(tmp_path), *(["--data", str(tmp_path)] if step in ("pretrain", "ground") else [])]
    code = f"import sys; sys.modules[{missing!r}] = None; from mdsa_local.cli.main import run; run({given!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 3
    assert missing in ran.stderr
    assert "mdsa-local[train]" in ran.stderr


def test_a_device_that_is_not_there(tmp_path: Path, data: Path, templates: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    code, _, err = inside(capsys, *arguments("pretrain", tmp_path / "run", data, templates, recipe), "--device", "cuda")
    assert code == 3
    assert "--device cpu" in err
