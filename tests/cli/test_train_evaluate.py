"""``mdsa train evaluate`` on the shipped files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.settings import shipped
from tests.cli.test_cli import inside
from tests.cli.test_eval import LINES
from tests.conftest import json_lines


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return json_lines(tmp_path / "questions.jsonl", LINES)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose model is the shipped one."""
    shutil.copytree(shipped("models") / "nano", tmp_path / "run/model")
    return tmp_path / "run"


def test_measures_each_variant_and_chooses(product: TinyBERTOrchestrator, run: Path, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("train", "evaluate", "--run", str(run), "--questions", str(questions), "--runs", "1", "--json")
    code, out, err = inside(capsys, *arguments, "--part", "answers")
    assert code == 0, err
    report = json.loads(out)
    assert [model["name"] for model in report["models"]] == ["int4", "int8"]
    assert report["questions"].pop("digest")
    assert report["questions"] == {"n": 4, "answerable": 3, "unanswerable": 1, "domain_given": False}
    # Answers by quotation, as the model.yaml beside the file wants it.
    assert all(model["answers"]["unsupported_answers"]["share"] == 0 for model in report["models"])
    assert all(len(model["right"]) == 3 for model in report["models"])
    assert "default" not in report, "cost is not known yet"
    assert not list(run.glob("unfinished-*"))

    code, out, err = inside(capsys, *arguments, "--part", "cost")
    assert code == 0, err
    whole = json.loads(out)
    assert json.loads((run / "report.json").read_text(encoding="utf-8")) == whole
    assert [model["answers"] for model in whole["models"]] == [model["answers"] for model in report["models"]], "kept"
    for model in whole["models"]:
        assert model["memory"]["own_mb"] + model["memory"]["file_mb"] > model["size_bytes"] / 1e6
        assert model["decode_tokens_per_s"] > 0
    assert whole["default"] in ("int4", "int8")
    assert whole["why"]
    assert (run / "report.png").read_bytes()[1:4] == b"PNG"
    assert len(whole["differences"]) == 1
    code, out, err = inside(capsys, *arguments, "--part", "cost", "--model", "nano-int8")
    assert code == 0, err
    alone = json.loads(out)
    assert (len(alone["models"]), alone["differences"], alone["default"]) == (1, [], "int8"), "nothing of the file that is not asked for"


def test_what_an_interrupted_evaluation_had_answered_is_not_answered_again(
    product: TinyBERTOrchestrator, run: Path, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdsa_local.evaluation import answers

    asked: list[str] = []
    real, real_without = answers.with_models, answers.without_model

    def counted(orchestrator, cases, models, **how):  # type: ignore[no-untyped-def]
        asked.extend(Path(model).name for model in models)
        return real(orchestrator, cases, models, **how)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(answers, "with_models", counted)
    monkeypatch.setattr(answers, "without_model", killed)
    arguments = ("train", "evaluate", "--run", str(run), "--questions", str(questions), "--part", "answers", "--json")
    assert inside(capsys, *arguments)[0] == 130
    assert asked == ["nano-q4_0.gguf", "nano-q8_0.gguf"]
    monkeypatch.setattr(answers, "without_model", real_without)
    code, out, _ = inside(capsys, *arguments)
    assert code == 0
    assert len(asked) == 2
    assert len(json.loads(out)["models"]) == 2


def test_says_what_is_missing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = inside(capsys, "train", "evaluate", "--run", str(tmp_path / "other"))
    assert code == 2
    assert "mdsa train quantize" in err
    code, _, err = inside(capsys, "train", "evaluate", "--run", str(run), "--part", "speed")
    assert code == 4
    assert "answers, cost, overlap" in err
    (run / "report.json").write_text("[]", encoding="utf-8")
    code, _, err = inside(capsys, "train", "evaluate", "--run", str(run), "--part", "cost")
    assert code == 2
    assert "not a report" in err


def test_files_of_one_kind_and_one_name_are_told_apart(product: TinyBERTOrchestrator, run: Path, tmp_path: Path) -> None:
    from mdsa_local.cli.train_evaluate import subjects

    first = run / "model" / "nano-q8_0.gguf"
    second = tmp_path / "other" / "nano-q8_0.gguf"
    second.parent.mkdir()
    second.write_bytes(first.read_bytes() + b"\0" * 32)
    found = subjects([str(first), str(second)], product)
    assert [subject.path for subject in found] == [first, second]
    assert len({subject.name for subject in found}) == 2
    assert [subject.name for subject in subjects([str(first)], product)] == ["int8"]
