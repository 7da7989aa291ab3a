"""``mdsa eval`` as a user meets it."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.settings import shipped
from tests.cli.test_cli import inside
from tests.conftest import json_lines

LINES: list[dict[str, Any]] = [
    {"question": "what is the daily atm limit", "domain": "finance", "facts": ["$400"], "sources": ["atm-withdrawals.md"]},
    {"question": "what does plus cost a month", "domain": "support", "facts": [["$6", "six dollars"]], "sources": ["plans-and-prices.md"]},
    {
        "question": "how long is the warranty, and with plus?",
        "domain": "support",
        "facts": ["24 months", "36 months"],
        "sources": ["warranty-coverage.md", "plans-and-prices.md"],
    },
    {"question": "which elliptic curve does pairing use", "domain": "technical", "facts": [], "sources": []},
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return json_lines(tmp_path / "questions.jsonl", LINES)


def test_answers_in_json_with_picture_and_every_answer(
    product: TinyBERTOrchestrator, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, saved = tmp_path / "p.png", tmp_path / "answers.jsonl"
    code, out, _ = inside(
        capsys, "eval", "answers", str(questions), "-m", "nano", "-m", "nano-int4", "--json", "--plot", str(picture), "--save", str(saved)
    )
    assert code == 0
    result = json.loads(out)
    assert result["questions"] == {
        "file": str(questions),
        "n": 4,
        "answerable": 3,
        "unanswerable": 1,
        "by_kind": {"own": 1, "shared": 1, "both": 1, "none": 1},
    }
    assert [model["model"] for model in result["models"]] == ["nano", "nano-int4", "no model"]
    assert result["models"][0]["key_fact"]["n"] == 3
    assert result["models"][0]["tokens_per_s"] > 0
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert width > height > 300
    rows = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
    assert [(row["model"], row["line"]) for row in rows][3:5] == [("nano", 4), ("nano-int4", 1)]
    assert len(rows) == 12
    shares = {name: sum(row["right"] for row in rows if row["model"] == name) for name in ("nano", "no model")}
    assert {model["model"]: round(model["key_fact"]["share"] * 3) for model in result["models"] if model["model"] in shares} == shares


def test_answers_as_a_table(
    product: TinyBERTOrchestrator, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = inside(capsys, "eval", "answers", str(questions), "--domain-given")
    assert code == 0
    assert out.startswith(f"4 questions ({questions}): 3 answerable (1 own, 1 shared, 1 both), 1 not")
    for label in (
        "key fact in the answer",
        "citations: precision",
        "abstains where nothing answers",
        "unsupported content",
        "tokens a second",
        "no model",
    ):
        assert label in out
    assert "routed" not in out
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    inside(capsys, "eval", "answers", str(questions))
    assert "routed to the right domain" in terminal.getvalue()
    assert "no model" in terminal.getvalue()


def test_overlap_lists_the_nearest(
    product: TinyBERTOrchestrator, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The texts themselves are compared in tests/evaluation: embedding all of them takes minutes.
    overlap = "mdsa_local.evaluation.overlap"
    monkeypatch.setattr(f"{overlap}.training_questions", lambda _: ["what is the daily limit of an atm", "who sings here"])
    monkeypatch.setattr(f"{overlap}.written_questions", lambda: ["how does moss grow"])
    monkeypatch.setattr(f"{overlap}.article_questions", lambda: ["when does the last ferry leave", "is the ferry late"])
    code, out, _ = inside(capsys, "eval", "answers", str(questions), "--overlap", "--json")
    found = json.loads(out)["overlap"]
    assert code == 0
    assert found["training templates"]["compared_with"] == 2
    assert found["training templates"]["worst"][0]["question"] == LINES[0]["question"]
    assert {name: part["compared_with"] for name, part in found.items() if name != "routing examples"} == {
        "training templates": 2,
        "written questions": 1,
        "articles' questions": 2,
    }
    assert found["routing examples"]["n"] == 4
    code, out, _ = inside(capsys, "eval", "answers", str(questions), "--overlap")
    assert out.startswith("training templates: 1 of 4 questions")
    assert "what is the daily limit of an atm" in out


def test_overlap_takes_nothing_that_is_for_answers(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--plot", str(tmp_path / "p.png"), "--save", str(tmp_path / "s.jsonl"), "-m", "nano", "--domain-given"]
    code, out, err = inside(capsys, "eval", "answers", str(questions), "--overlap", *options)
    assert (code, out) == (2, "")
    assert "no use for --model, --domain-given, --plot, --save" in err
    assert not (tmp_path / "s.jsonl").exists()


def test_a_wrong_file_is_one_message(questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions.write_text(questions.read_text(encoding="utf-8").replace('"domain": "finance", ', ""), encoding="utf-8")
    code, out, err = inside(capsys, "eval", "answers", str(questions))
    assert (code, out) == (2, "")
    assert f"{questions}, line 1: " in err
    assert "domain" in err
    code, out, _ = inside(capsys, "eval", "answers", str(questions), "--json")
    assert code == 2
    assert json.loads(out)["error"]["code"] == "input"


def test_an_unknown_document_names_its_line(product: TinyBERTOrchestrator, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions.write_text(questions.read_text(encoding="utf-8").replace("warranty-coverage", "waranty-coverage"), encoding="utf-8")
    code, _, err = inside(capsys, "eval", "answers", str(questions))
    assert code == 2
    assert "line 3: no document 'waranty-coverage.md'" in err
    assert "Did you mean 'warranty-coverage.md'?" in err


def test_without_matplotlib_it_says_so_before_it_asks(questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = inside(capsys, "eval", "answers", str(questions), "--plot", "p.png")
    assert (code, out) == (3, "")
    assert "mdsa-local[plots]" in err


@pytest.mark.parametrize("option", ["--plot", "--save"])
def test_what_cannot_be_written_is_told_before_it_asks(option: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "none" / "out", tmp_path):
        code, out, err = inside(capsys, "eval", "answers", str(questions), option, str(path))
        assert (code, out) == (7, "")
        assert str(path) in err


def test_models_that_are_through_are_kept_when_a_later_one_fails(
    product: TinyBERTOrchestrator, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((shipped("models") / "nano" / "nano-q4_0.gguf").read_bytes()[:100_000])
    saved = tmp_path / "saved.jsonl"
    code, out, err = inside(capsys, "eval", "answers", str(questions), "-m", "nano", "-m", str(cut), "--save", str(saved))
    assert (code, out, saved.exists()) == (5, "", False), "told before the first question"
    assert "truncated" in err
    monkeypatch.setattr("mdsa_local.evaluation.answers.without_model", Mock(side_effect=KeyboardInterrupt))
    code, out, _ = inside(capsys, "eval", "answers", str(questions), "-m", "nano", "--save", str(saved))
    assert code == 130
    assert "key fact in the answer" in out
    assert len(saved.read_text(encoding="utf-8").splitlines()) == 4


def test_what_is_evaluated_is_not_logged_as_asked(
    product: TinyBERTOrchestrator, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDSA_ANSWER_LOG", "3")
    assert inside(capsys, "eval", "answers", str(questions), "--json")[0] == 0
    assert json.loads(inside(capsys, "feedback", "recent", "--json")[1]) == []


def test_trying_leaves_no_file_behind(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions.write_text(questions.read_text(encoding="utf-8").replace("warranty-coverage", "none"), encoding="utf-8")
    kept = tmp_path / "kept"
    kept.write_text("mine", encoding="utf-8")
    for path in (tmp_path / "new", kept):
        assert inside(capsys, "eval", "answers", str(questions), "--save", str(path))[0] == 2
    assert not (tmp_path / "new").exists()
    assert kept.read_text(encoding="utf-8") == "mine"
