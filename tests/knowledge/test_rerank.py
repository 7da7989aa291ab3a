from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdsa_local.doctor import examine
from mdsa_local.errors import ModelError, ModelFileError, ModelNotFoundError
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.rerank import load, wide
from mdsa_local.settings import Settings, shipped
from tests.cli.test_cli import inside

from .tiny_cross_encoder import WINDOW
from .toy_embedder import ToyEmbedder

QUESTION = "when are roses pruned"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rerankers")
    subprocess.run([sys.executable, "-m", "tests.knowledge.tiny_cross_encoder", str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("kind", ["one", "two"])
def test_scores_follow_the_model(models: Path, kind: str) -> None:
    reranker = load(models / kind)
    texts = ["gold a a", "a", "gold gold gold gold", "gold gold a a a a a a a a a a a a a a a"]
    scores = [score.value for score in reranker.scores(QUESTION, texts)]
    assert sorted(scores) == [scores[1], scores[3], scores[0], scores[2]]
    assert [reranker.scores(QUESTION, [text])[0].value for text in texts] == pytest.approx(scores, abs=1e-5)
    assert reranker.scores(QUESTION, []) == []


def test_two_outputs_are_the_odds_of_the_second(models: Path) -> None:
    one, two = ([score.value for score in load(models / kind).scores(QUESTION, ["gold", "a gold", "a"])] for kind in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-5)


def test_the_passage_is_cut_first_and_it_is_told(models: Path) -> None:
    reranker = load(models / "one")
    assert reranker.max_tokens == WINDOW
    # Four words of the question and three marks.
    fits, cut = reranker.scores(QUESTION, ["a " * (WINDOW - 7), "a " * (WINDOW - 7) + "gold " * 50])
    assert (fits.cut, cut.cut) == (False, True)
    assert cut.value == pytest.approx(fits.value, abs=1e-5)
    # However long the question, something of the passage is read.
    [nothing], [gold] = (reranker.scores("roses " * 500, [text]) for text in ("a", "gold " * 5))
    assert nothing.cut
    assert gold.value > nothing.value


@pytest.fixture
def rag(tmp_path: Path, models: Path) -> DualRAG:
    rag = DualRAG(tmp_path / "kb", ToyEmbedder(), reranker=models / "one")
    rag.add_global_documents(
        [{"content": f"roses are pruned in march {'a ' * n}", "metadata": {"id": f"plain{n}"}} for n in range(6)]
        + [{"content": "gold gold roses in gold", "metadata": {"id": "golden"}}, {"content": "gold gold roses  in GOLD", "metadata": {"id": "copy"}}]
        + [{"content": f"{'tulips lilies ' * 5} gold gold gold {'in ' * n}", "metadata": {"id": f"far{n}"}} for n in range(4)]
    )
    return rag


def test_search_is_reordered_and_why_tells(rag: DualRAG, tmp_path: Path) -> None:
    vector = ToyEmbedder().encode([QUESTION])[0]
    before = DualRAG(tmp_path / "kb", ToyEmbedder()).search(QUESTION, vector, None, 2)
    assert all(passage.id.startswith("plain") for passage in before)
    found = rag.search(QUESTION, vector, None, 2)
    assert found[0].id in ("golden#0", "copy#0")
    assert len(found) == 2
    assert [hit["metadata"]["passage"] for hit in rag.query(QUESTION, top_k=2)] == [passage.id for passage in found]
    # By words alone as well.
    assert rag.search(QUESTION, None, None, 2)[0].id == found[0].id
    ranked = rag.ranked(QUESTION, vector, None, 2)
    assert [entry.hit.passage.id for entry in ranked if entry.twin_of is None][:2] == [passage.id for passage in found]
    read = [entry.reread for entry in ranked if entry.reread]
    assert len(read) == wide(2) == 8
    assert [entry.score for entry in read] == sorted((entry.score for entry in read), reverse=True)
    first = rag.why(QUESTION, vector, found[0].id.removesuffix("#0"), None, 2)
    assert (first.reranked_rank, first.returned_rank, first.reranked_score) == (1, 1, read[0].score)
    assert first.fused_rank == read[0].fused_rank > 1
    unread = next(entry.hit.passage.id for entry in ranked if entry.twin_of is None and entry.reread is None)
    last = rag.why(QUESTION, vector, unread.removesuffix("#0"), None, 2)
    assert (last.reranked_rank, last.reason) == (None, "a candidate, but only the first 8 are read by the reranker")


def test_a_floor_leaves_out_what_is_not_near(rag: DualRAG) -> None:
    vector = ToyEmbedder().encode([QUESTION])[0]
    scores = sorted(passage.score for passage in rag.search(QUESTION, vector, None, 20))
    floor = (scores[3] + scores[4]) / 2
    assert [passage.score >= floor for passage in rag.search(QUESTION, vector, None, 20, floor)] == [True] * (len(scores) - 4)
    assert rag.query(QUESTION, floor=1.0) == []


@pytest.mark.parametrize("case", ["nowhere", "empty", "other name", "gguf", "text", "damaged", "tokenizer", "no tokenizer", "encoder", "config"])
def test_what_cannot_be_used_is_one_clear_error(models: Path, tmp_path: Path, case: str) -> None:
    folder = shutil.copytree(models / "one", tmp_path / "model")
    path, said = folder, "damaged"
    kind: type[ModelError] = ModelFileError
    if case == "nowhere":
        path, kind, said = tmp_path / "nowhere", ModelNotFoundError, "no such file or folder"
    elif case == "empty":
        (folder / "model.onnx").unlink()
        kind, said = ModelNotFoundError, "no model.onnx in it"
    elif case == "other name":
        (folder / "model.onnx").rename(folder / "model_int8.onnx")
        kind, said = ModelNotFoundError, "model_int8.onnx"
    elif case in ("gguf", "text"):
        path, said = folder / f"model.{case}", "GGUF" if case == "gguf" else "no .onnx file"
        path.write_text("x")
    elif case == "damaged":
        (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:500])
    elif case == "tokenizer":
        (folder / "tokenizer.json").write_text("{")
    elif case == "config":
        (folder / "tokenizer_config.json").write_text("{")
    elif case == "no tokenizer":
        (folder / "tokenizer.json").unlink()
        kind, said = ModelNotFoundError, "has no tokenizer.json"
    else:
        path, said = shipped("models") / "tinybert", "is no cross-encoder"
    with pytest.raises(kind) as caught:
        load(path)
    assert said in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint
    rag = DualRAG(tmp_path / "kb", ToyEmbedder(), reranker=path)
    rag.add_global_documents([{"content": "Roses."}])
    with pytest.raises(ModelError):
        rag.query("roses")


def test_the_tokenizer_may_lie_a_folder_above(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models / "one", tmp_path / "model")
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    for path in (folder, folder / "onnx" / "model.onnx"):
        assert load(path).path == folder / "onnx" / "model.onnx"


def test_the_window_is_the_least_that_is_named(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models / "one", tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 1e30}), encoding="utf-8")
    assert load(folder).max_tokens == WINDOW
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 20}), encoding="utf-8")
    assert load(folder).max_tokens == 20


def test_doctor_says_whether_it_is_there(models: Path, tmp_path: Path) -> None:
    def told(**changes: str) -> tuple[str, str]:
        settings = Settings.load({}, home=tmp_path, ollama_base_url="http://127.0.0.1:9", **changes)
        [found] = [finding for finding in examine(settings) if finding.check == "reranker"]
        return found.level, found.message

    assert told()[1].startswith("none")
    level, message = told(reranker=str(models / "one"))
    assert (level, f"up to {WINDOW} tokens" in message) == ("ok", True)
    # A bare name lies in the user's models.
    assert told(reranker="mine") == ("problem", f"no reranker at {tmp_path / 'models' / 'mine'}: no such file or folder")


def test_the_commands_show_it(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MDSA_HOME", str(tmp_path / "home"))
    # The documents of the shipped ones would be brought in.
    monkeypatch.setenv("MDSA_SHIPPED_DOMAINS", "false")
    for name, text in (("roses.md", "# A\n\nRoses are pruned in march.\n"), ("gold.md", "# A\n\nTulips are gold gold.\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        inside(capsys, "kb", "add", str(tmp_path / name))
    search = ("kb", "search", QUESTION, "--explain")
    assert [found["id"] for found in json.loads(inside(capsys, *search, "--json")[1])] == ["roses.md#0", "gold.md#0"]
    near = inside(capsys, *search, "--floor", "0.6", "--json")
    assert [found["id"] for found in json.loads(near[1])] == ["roses.md#0"]
    assert "no passage meets the conditions" in inside(capsys, *search, "--floor", "1")[2]
    monkeypatch.setenv("MDSA_RERANKER", str(models / "one"))
    found = json.loads(inside(capsys, *search, "--json")[1])
    assert [(one["id"], one["explain"]["fused_rank"], one["explain"]["cut"]) for one in found] == [("gold.md#0", 2, False), ("roses.md#0", 1, False)]
    assert f"reranked {found[0]['explain']['reranked']:.3f}, was number 2" in inside(capsys, *search)[1]
    assert "  reranked   number 2, score" in inside(capsys, "kb", "why", QUESTION, "--doc", "roses.md")[1]
    monkeypatch.setenv("MDSA_RERANKER", str(tmp_path))
    code, _, err = inside(capsys, *search)
    assert (code, "no model.onnx in it" in err) == (5, True)
