"""``mdsa train adapter`` from the file of pairs to the domain that answers with the adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mdsa_local.cli.train_adapter import NOT_BETTER
from mdsa_local.domains.config import DomainConfig
from mdsa_local.domains.executor import DomainExecutor
from mdsa_local.routing.encoder import Encoder
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.runtime.synthetic import SHAPES, write_random
from mdsa_local.settings import Settings
from mdsa_local.types import Draft, Passage
from tests.cli.test_cli import inside

TINY = replace(SHAPES["tiny"], width=128, inner=256, context=512, vocabulary=512)
ANSWER = "Ask at the desk"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("base") / "tiny.gguf", TINY, "Q8_0")


@pytest.fixture
def home(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home" / "domains" / "desk"
    folder.mkdir(parents=True)
    (folder / "domain.yaml").write_text(f"# the desk\nmodel: {base}\ngeneration: {{max_tokens: 16}}\n", encoding="utf-8")
    monkeypatch.setenv("MDSA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MDSA_THREADS", "1")
    return tmp_path / "home"


def pairs(path: Path, answer: str = ANSWER) -> Path:
    rows = [{"question": f"where is number {n}?", "answer": answer.format(n=n), "context": "Ask at the desk."} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def train(capsys: pytest.CaptureFixture[str], data: Path, *more: str) -> tuple[int, dict[str, Any]]:
    code, out, err = inside(capsys, "train", "adapter", "--domain", "desk", "--data", str(data), "--json", *more)
    assert out, err
    assert err.startswith("loading what trains\n"), "torch and peft take seconds to import"
    return code, json.loads(out)


def test_one_that_wins_is_installed_and_one_that_does_not_is_not(
    home: Path, base: Path, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "domains" / "desk"
    code, told = train(capsys, pairs(tmp_path / "pairs.jsonl"), "--epochs", "5", "--rate", "5e-3", "--keep", str(tmp_path / "kept.gguf"))
    assert code == 0, told
    assert told["installed"]
    assert told["with_adapter"]["answer_f1"] > told["base"]["answer_f1"]
    assert told["agreement_nats"] < 0.05
    domain = DomainConfig.read(folder)
    adapter = Path(domain.sampling.adapter)
    assert adapter.read_bytes() == (tmp_path / "kept.gguf").read_bytes()
    assert (folder / "domain.yaml").read_text(encoding="utf-8").startswith("# the desk\nmodel: ")
    assert told["with_adapter"]["answer_f1"] > 0.9
    passage = Passage("1", "desk.md", "desk", "", "Ask at the desk.", 0, 16, 1.0)
    with ModelManager(Settings.load()) as manager:
        *_, draft = DomainExecutor(manager).stream(domain, "where is number 99?", [passage], encoder.encode)
    assert isinstance(draft, Draft)
    assert draft.text.startswith(ANSWER)
    before = (folder / "domain.yaml").read_bytes()
    # No training: as the model is.
    code, told = train(capsys, tmp_path / "pairs.jsonl", "--epochs", "1", "--rate", "1e-7")
    assert (code, told["installed"], told["adapter"]) == (NOT_BETTER, False, None)
    assert told["with_present_adapter"]["answer_f1"] > told["with_adapter"]["answer_f1"]
    assert (folder / "domain.yaml").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [adapter.name, "domain.yaml"]
    assert not list((home / "cache").glob("adapter-*"))


def test_what_does_not_fit_is_told_before_anything_is_trained(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pairs(tmp_path / "pairs.jsonl")
    text = (home / "domains" / "desk" / "domain.yaml").read_bytes()
    few = tmp_path / "few.jsonl"
    few.write_text("".join(data.read_text(encoding="utf-8").splitlines(keepends=True)[:20]), encoding="utf-8")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("{}", encoding="utf-8")
    folder = str(tmp_path / "hub")
    for arguments, code, said in (
        (("--data", str(few)), "input", "20 different questions"),
        (("--data", str(tmp_path / "absent.jsonl")), "input", "cannot be read"),
        (("--data", str(data), "--base", "nano"), "input", "would not fit"),
        (("--data", str(data), "--base", "nonsuch"), "model_not_found", "nonsuch"),
        (("--data", str(data), "--base", "ollama://llama3.2:1b"), "input", "only a GGUF file"),
        (("--data", str(data), "--base", folder), "input", "--llama-cpp"),
        (("--data", str(data), "--base", folder, "--llama-cpp", str(tmp_path)), "dependency", "convert_hf_to_gguf.py is not there"),
        (("--data", str(data), "--domain", "nonsuch"), "unknown_name", "nonsuch"),
        (("--data", str(data), "--keep", str(tmp_path)), "storage", "cannot write"),
        (("--data", str(data), "--keep", str(tmp_path / "none" / "a.gguf")), "storage", f"There is no folder {tmp_path / 'none'}: make it first"),
    ):
        exit_code, out, _ = inside(capsys, "train", "adapter", "--domain", "desk", *arguments, "--json")
        error = json.loads(out)["error"]
        assert exit_code not in (0, NOT_BETTER)
        assert error["code"] == code, error
        assert said in error["message"] + error["hint"], error
    assert (home / "domains" / "desk" / "domain.yaml").read_bytes() == text
