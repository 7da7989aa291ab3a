"""The doctor finds what is wrong, says how to mend it, and goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdsa_local import doctor
from mdsa_local.doctor import Finding, examine
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.runtime import synthetic
from mdsa_local.runtime.hardware import Gpu, HardwareDetector, Integer, Number
from mdsa_local.runtime.library import library
from mdsa_local.runtime.synthetic import SHAPES, write_lora
from mdsa_local.settings import Settings, shipped
from tests.cli.test_cli import inside
from tests.runtime.ollama_server import Daemon

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({}, home=tmp_path / "home", ollama_base_url=NOBODY)


@pytest.fixture
def ollama() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


def findings(settings: Settings, check: str) -> list[Finding]:
    return [finding for finding in examine(settings) if finding.check == check]


def only(found: Iterator[Finding], level: str) -> list[Finding]:
    return [finding for finding in found if finding.level == level]


def test_a_sound_installation_has_no_problems(settings: Settings) -> None:
    found = list(examine(settings))
    assert only(iter(found), "problem") == []
    assert [f.check for f in found if f.check != "models"] == [
        "python", "processor", "gpu", "memory", "disk", "llama.cpp", "encoder", "reranker", "judge", "ollama", "knowledge",
    ]  # fmt: skip
    assert all(finding.fix for finding in found if finding.level != "ok")
    assert not settings.home.exists(), "looking changes nothing"


def test_ollama_that_would_serve_better(settings: Settings, ollama: Daemon) -> None:
    with_daemon = settings.changed(ollama_base_url=ollama.url)
    there, better = findings(with_daemon, "ollama")
    assert there.facts == {"version": "0.13.0", "models": ["llama3.2:1b", "nano"]}
    assert "`default_model: ollama://" in better.fix
    assert not [path for path, _ in ollama.server.calls if path == "/api/chat"], "nothing is loaded to look"
    assert len(findings(with_daemon.changed(default_model="ollama://llama3.2:1b"), "ollama")) == 1


def test_ollama_that_is_needed_and_not_there(settings: Settings, ollama: Daemon) -> None:
    [absent] = findings(settings.changed(default_model="ollama://llama3.2:1b"), "ollama")
    assert (absent.level, absent.fix) == ("problem", "Start it: ollama serve")
    [missing] = findings(settings.changed(default_model="ollama://other:1b", ollama_base_url=ollama.url), "ollama")
    assert (missing.level, missing.fix) == ("problem", "ollama pull other:1b")


def test_ollama_that_a_domain_needs(settings: Settings, ollama: Daemon) -> None:
    for name, model in (("garden", "ollama://llama3.2:1b"), ("lawn", "other:1b"), ("broken", "[")):
        (settings.home / "domains" / name).mkdir(parents=True)
        (settings.home / "domains" / name / "domain.yaml").write_text(f"description: Plants.\nmodel: {model}\n")
    [absent] = findings(settings, "ollama")
    assert (absent.level, absent.fix) == ("problem", "Start it: ollama serve")
    missing = findings(settings.changed(ollama_base_url=ollama.url), "ollama")[0]
    assert (missing.level, missing.fix) == ("problem", "ollama pull other:1b")
    assert missing.message.endswith("domain lawn: ollama://other:1b is not there")


def test_an_address_that_is_not_ollamas(settings: Settings, ollama: Daemon) -> None:
    [found] = findings(settings.changed(ollama_base_url=f"{ollama.url}/v1"), "ollama")
    assert (found.level, "answers, but not with Ollama's API" in found.message) == ("note", True)
    assert "/v1" in found.fix
    assert "ollama pull" not in found.fix


def test_an_old_ollama(settings: Settings) -> None:
    with Daemon(version="0.11.4") as old:
        found = findings(settings.changed(ollama_base_url=old.url), "ollama")[0]
    assert found.level == "note"
    assert "silence" in found.message
    assert "0.12.6" in found.fix


@pytest.mark.parametrize(
    ("changes", "check", "said"),
    [
        ({"default_model": "nope"}, "models", "unknown model 'nope'"),
        ({"default_model": "/no/such.gguf"}, "models", "no model file"),
        ({"memory_budget_mb": 1}, "models", "the budget is 1.0 MB"),
        ({"memory_budget_mb": 10**9}, "memory", "more than there is"),
        ({"encoder": "/no/such/folder"}, "encoder", "/no/such/folder"),
        # The system does not even look for a name as long as this one.
        *(({part: f"/{'x' * 300}"}, part, "x" * 300) for part in ("encoder", "reranker", "judge")),
        ({"default_model": f"/{'x' * 300}.gguf"}, "models", "x" * 300),
    ],
)
def test_what_is_wrong_is_found_with_its_fix_and_the_rest_is_still_examined(
    settings: Settings, changes: dict[str, object], check: str, said: str
) -> None:
    found = list(examine(settings.changed(**changes)))
    problems = [finding for finding in found if finding.level == "problem"]
    assert any(finding.check == check and said in finding.message and finding.fix for finding in problems), problems
    assert {"llama.cpp", "ollama", "knowledge"} <= {finding.check for finding in found}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "no chat template"),
        ("{{ raise_exception('nothing') }}", "its chat template failed"),
        ("{% if messages[0]['from'] %}x{% endif %}", "its chat template made an empty prompt"),
    ],
)
def test_a_model_that_cannot_be_asked(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, said: str) -> None:
    monkeypatch.setattr(synthetic, "TEMPLATE", template)
    path = synthetic.write_random(tmp_path / "x.gguf", SHAPES["tiny"])
    [problem] = only(iter(findings(settings.changed(default_model=str(path)), "models")), "problem")
    assert said in problem.message
    assert problem.fix


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    found = list(doctor.disk(Settings.load({}, home=tmp_path / "file" / "home")))
    assert [(finding.level, "MDSA_HOME" in finding.fix) for finding in found] == [("problem", True)]


def test_an_unfinished_download(settings: Settings) -> None:
    folder = settings.home / "models" / "x"
    folder.mkdir(parents=True)
    (folder / "x.gguf.partial").write_bytes(b"x" * 100)
    assert any("unfinished" in finding.message and finding.level == "note" for finding in findings(settings, "models"))


def test_what_a_killed_quantisation_left(settings: Settings) -> None:
    folder = settings.home / "models" / "x"
    folder.mkdir(parents=True)
    (folder / "x.gguf.quantising.partial").write_bytes(b"x" * 100)
    found = [finding for finding in findings(settings, "models") if "x.gguf.quantising.partial" in finding.message]
    assert [(finding.level, "leftover of quantising" in finding.message, "mdsa models rm x" in finding.fix) for finding in found] == [
        ("note", True, True)
    ]


def test_adapters_of_domains(settings: Settings, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora.gguf", SHAPES["tiny"])
    model = shipped("models") / "nano" / "nano-q4_0.gguf"
    for name, adapter in (("sound", lora), ("missing", "nosuch.gguf"), ("other", model)):
        folder = settings.home / "domains" / name
        folder.mkdir(parents=True)
        (folder / "domain.yaml").write_text(f"adapter: {adapter}\n")
    found = {finding.message.split(":")[0]: finding for finding in findings(settings, "models") if "adapter" in finding.facts}
    assert {name: finding.level for name, finding in found.items()} == {"domain sound": "ok", "domain missing": "problem", "domain other": "problem"}
    assert found["domain missing"].fix == "Check the path."
    assert "is no adapter" in found["domain other"].message


def test_knowledge_bases_are_counted(product: TinyBERTOrchestrator) -> None:
    found = findings(product.settings, "knowledge")
    assert {finding.facts["name"] for finding in found} >= {"global", "finance", "medical", "support", "technical"}
    assert all(finding.facts["documents"] > 0 for finding in found)


class Machine(HardwareDetector):
    """A machine of which everything is told."""

    def __init__(self, features: tuple[str, ...], gpus: tuple[Gpu, ...] = (), memory_gb: float = 16.0) -> None:
        self.__dict__ |= {"cpu_features": features, "gpus": gpus, "memory_gb": Number(memory_gb), "memory_bytes": Integer(int(memory_gb * 1e9))}


def test_processors() -> None:
    for features, level in ((("avx", "avx2"), "ok"), (("avx",), "note"), (("sse3",), "problem"), (("asimd",), "ok"), ((), "ok")):
        first = next(doctor.processor(Machine(features)))
        assert (first.level, bool(first.fix)) == (level, level != "ok")


def test_a_build_that_leaves_the_machine_unused() -> None:
    has = library().llama_print_system_info().decode()
    assert "AVX512" not in has or "AVX512 = 1" in has
    [gpu] = doctor.llama(Machine(("avx2",), (Gpu("cuda", "RTX", 8 * 2**30),)))
    assert gpu.level == ("ok" if gpu.facts["gpu_offload"] else "note")
    assert gpu.facts["gpu_offload"] or "GGML_CUDA" in gpu.fix
    if "AVX512 = 1" not in has:
        [plain] = doctor.llama(Machine(("avx512f",)))
        assert plain.level == "note"
        assert "avx512f" in plain.message
        assert "--no-binary" in plain.fix


def test_the_better_model_depends_on_the_memory(settings: Settings) -> None:
    for memory_gb, name in ((4.0, ""), (16.0, "qwen3-4b-2507"), (64.0, "granite3.3-8b")):
        notes = only(doctor.models(settings, Machine((), (), memory_gb)), "note")
        assert [name in finding.fix for finding in notes] == ([True] if name else [])


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MDSA_HOME", str(tmp_path))
    monkeypatch.setenv("MDSA_OLLAMA_BASE_URL", NOBODY)
    code, out, _ = inside(capsys, "doctor", "--json")
    found = json.loads(out)
    assert (code, found["healthy"]) == (0, True)
    assert found["hardware"]["cpu_count"] >= 1
    assert all(set(finding) == {"check", "level", "message", "fix", "facts"} for finding in found["findings"])
    monkeypatch.setenv("MDSA_DEFAULT_MODEL", str(shipped("models") / "nano" / "model.yaml"))
    code, out, _ = inside(capsys, "doctor")
    assert code == 1
    assert "BAD" in out
    assert "1 problem," in out
