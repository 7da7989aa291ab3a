"""``mdsa models`` as a user meets it, against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.runtime.synthetic import SHAPES, write_random
from mdsa_local.settings import shipped
from tests.runtime.file_server import FileHub
from tests.runtime.gguf_writer import Shape, metadata, random_weights, write_gguf

from .test_cli import inside

NANO = shipped("models") / "nano" / "nano-q4_0.gguf"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileHub]:
    """A hub on loopback, and an empty home that pulls from it."""
    monkeypatch.setenv("MDSA_HOME", str(tmp_path / "home"))
    with FileHub(NANO.read_bytes()) as running:
        monkeypatch.setenv("MDSA_HUB_URL", running.url)
        yield running


def as_json(capsys: Capture, *arguments: str) -> object:
    code, out, err = inside(capsys, "models", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_list_and_show_what_ships(capsys: Capture, hub: FileHub) -> None:
    rows = as_json(capsys, "list")
    assert isinstance(rows, list)
    assert {(row["name"], row["also"], row["quantization"]) for row in rows} == {("nano-int4", "nano", "Q4_0"), ("nano-int8", "", "Q8_0")}
    facts = as_json(capsys, "show", "nano")
    assert isinstance(facts, dict)
    assert facts | {"architecture": "llama", "context_tokens": 1024, "licence": "Apache-2.0", "quantization": "Q4_0"} == facts
    assert facts["memory_bytes"] > facts["size_bytes"]
    _, out, _ = inside(capsys, "models", "list")
    assert "nano-int4 (nano)" in out
    _, out, _ = inside(capsys, "models", "show", "nano")
    assert "architecture     llama" in out


def test_fit_asks_no_network(capsys: Capture, hub: FileHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSA_MEMORY_BUDGET_MB", "3000")
    found = as_json(capsys, "fit")
    assert isinstance(found, dict)
    assert found["memory_budget_bytes"] == 3_000_000_000
    verdicts = {(row["name"], row["file"]): row["verdict"] for row in found["fits"]}
    assert verdicts["granite3.3-8b", "q8_0"] == "no"
    assert verdicts["qwen2.5-0.5b", "q4_k_m"] in ("fits", "tight")
    _, out, _ = inside(capsys, "models", "fit", "qwen2.5-0.5b")
    assert "qwen2.5-0.5b:q8_0" in out
    assert "llama" not in out
    assert inside(capsys, "models", "list", "--catalog")[0] == 0
    assert as_json(capsys, "show", "qwen3-4b-2507")
    assert hub.server.calls == []


def test_show_tells_of_a_file_of_the_catalogue(capsys: Capture, hub: FileHub, tmp_path: Path) -> None:
    _, out, _ = inside(capsys, "models", "show", "qwen3-0.6b:q8_0")
    assert "installed        False" in out and "\nfile q8_0        " in out and "{" not in out
    assert "unknown file of qwen3-0.6b 'q9'" in inside(capsys, "models", "show", "qwen3-0.6b:q9")[2]
    plain = write_random(tmp_path / "plain.gguf", SHAPES["tiny"], "Q8_0")
    as_json(capsys, "add", str(plain), "--name", "qwen3-0.6b")
    assert as_json(capsys, "show", "qwen3-0.6b:Q8_0") == as_json(capsys, "show", "qwen3-0.6b-q8_0")
    facts = as_json(capsys, "show", "qwen3-0.6b")
    assert isinstance(facts, dict) and facts["source"] == str(plain)
    plain.unlink()
    code, _, err = inside(capsys, "models", "show", "qwen3-0.6b:q8_0")
    assert code == 5 and "was moved, mdsa models add FILE --name" in err


def test_what_is_ready_is_called_by_the_name_of_its_own_file(capsys: Capture, hub: FileHub, tmp_path: Path) -> None:
    plain = write_random(tmp_path / "plain.gguf", SHAPES["tiny"], "F16")
    assert 'mdsa ask --model plain "' in inside(capsys, "models", "add", str(plain))[1]
    _, out, err = inside(capsys, "models", "quantize", "plain", "Q8_0")
    assert err == "quantising plain.gguf\n", "it takes minutes for a large one, and llama.cpp does not say how far it is"
    assert 'mdsa ask --model plain-q8_0 "' in out and "`default_model: plain-q8_0`" in out


def test_pull_use_and_remove(capsys: Capture, hub: FileHub) -> None:
    code, out, err = inside(capsys, "models", "pull", "hf://owner/repo/breaks-off.gguf", "--name", "mine", "--allow-host", "localhost")
    assert code == 0, err
    assert "mine-file is ready" in out
    assert as_json(capsys, "pull", "hf://owner/repo/breaks-off.gguf", "--name", "mine", "--allow-host", "localhost")
    assert any(row["name"] == "mine-file" for row in as_json(capsys, "list"))  # type: ignore[attr-defined]
    with ModelManager() as manager:
        assert manager.generate("mine", "hello?", Generation(max_tokens=3)) == manager.generate(str(NANO), "hello?", Generation(max_tokens=3))
    freed = as_json(capsys, "rm", "mine")
    assert isinstance(freed, dict)
    assert freed["freed_bytes"] == NANO.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pull", "hf://owner/repo/good.gguf"], 6, "not allowed"),
        (["pull", "hf://owner/repo/wrong-content.gguf", "--allow-host", "localhost"], 5, "SHA-256"),
        (["pull", "hf://owner/repo/dies.gguf", "--allow-host", "localhost"], 6, "dies.gguf"),
        (["pull", "hf://owner/repo/absent.gguf"], 5, "no such file"),
        (["pull", "http://owner/x"], 2, "no file on a hub"),
        (["pull", "qwen9"], 5, "unknown model 'qwen9'"),
        (["pull", "hf.co/owner/repo:Q4_K_M"], 5, "hf://owner/repository/file.gguf"),
        (["pull", "qwen3-4b-2507"], 5, "no such file"),
        (["show", "nope"], 5, "unknown model 'nope'"),
        (["rm", "nano"], 5, "unknown model of yours"),
        (["remove", "nano"], 5, "unknown model of yours"),
        (["add", "/no/such.gguf"], 5, "no model file"),
        (["quantize", "nano", "Q4_0"], 2, "already"),
        (["quantize", "nano", "Q3"], 4, "unknown quantisation"),
        (["quantise", "nano", "Q3"], 4, "unknown quantisation"),
        (["fit", "nope"], 5, "unknown model"),
    ],
)
def test_what_is_wrong_is_one_clear_error(capsys: Capture, hub: FileHub, arguments: list[str], code: int, said: str) -> None:
    if arguments == ["pull", "qwen3-4b-2507"]:
        hub.server.absent = True
    found, out, err = inside(capsys, "models", *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert "quantising" not in err, "nothing was begun"


def test_the_help_names_the_commands_there_are(capsys: Capture) -> None:
    told = inside(capsys, "models", "--help")[1]
    named = told.partition("Model files: ")[2].partition(".")[0].split(", ")
    assert named == ["list", "show", "fit", "pull", "add", "rm", "quantize"]
    assert sorted(named) == sorted(row.split()[0] for row in told.partition("Commands:")[2].splitlines() if row.strip())


@pytest.mark.parametrize("token", ["hf_se\ncret", "hf_secrét"])
def test_a_wrong_token_is_told_and_not_shown(capsys: Capture, hub: FileHub, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    code, out, err = inside(capsys, "models", "pull", "hf://owner/repo/gated.gguf")
    assert code == 3 and "HF_TOKEN" in err and "hf_" not in out + err
    monkeypatch.setenv("HF_TOKEN", "secret\n")
    assert inside(capsys, "models", "pull", "hf://owner/repo/gated.gguf", "--allow-host", "localhost")[0] == 0


def test_add_and_quantize(capsys: Capture, hub: FileHub, tmp_path: Path) -> None:
    shape = Shape(width=256, inner=512)
    plain = write_gguf(tmp_path / "Plain-F32.gguf", metadata(shape, None), random_weights(shape))
    code, out, err = inside(capsys, "models", "add", str(plain))
    assert (code, "plain-f32 is ready" in out, "no chat template" in err) == (0, True, True)
    made = as_json(capsys, "quantize", "plain", "q8_0", "--name", "plain")
    assert isinstance(made, dict)
    assert made["quantization"] == "Q8_0"
    assert {row["name"] for row in as_json(capsys, "list")} >= {"plain-f32", "plain-q8_0"}  # type: ignore[attr-defined]
    as_json(capsys, "rm", "plain")
    assert plain.exists()
