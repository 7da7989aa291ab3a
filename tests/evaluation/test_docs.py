"""docs/answers.md shows what there is."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from mdsa_local.cli.main import run
from mdsa_local.evaluation import questions

TEXT = (Path(__file__).parent.parent.parent / "docs" / "answers.md").read_text(encoding="utf-8")


def test_its_options_are_those_of_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        run(["eval", "answers", "--help"])
    told = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)) - {"--help"}
    assert told == set(re.findall(r"--[a-z][a-z-]*", TEXT))


def test_its_example_lines_can_be_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "questions.jsonl"
    path.write_text(block, encoding="utf-8")
    read = questions.read(path)
    assert len(read) == len(block.splitlines())
    assert {case.answerable for case in read} == {True, False}
    assert any(len(group) > 1 for case in read for group in case.facts)


def test_its_counts_are_those_of_the_shipped_set() -> None:
    cases = [json.loads(line) for line in questions.SHIPPED.read_text(encoding="utf-8").splitlines()]
    answerable = Counter(bool(case["facts"]) for case in cases)
    assert f"{len(cases)} questions" in TEXT
    assert f"{answerable[True]} answerable" in TEXT
    assert f"{answerable[False]} that" in TEXT
