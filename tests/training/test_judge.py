"""Training the judge, on groups of a few words and from a BERT of random weights; exporting it, and reading it as the product does."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from mdsa_local.errors import ConfigError, InputError, ModelFileError
from mdsa_local.routing.session import read_card
from mdsa_local.settings import shipped
from mdsa_local.training import judge
from mdsa_local.training.card import refresh
from mdsa_local.training.checkpoint import keep, load
from mdsa_local.training.distil import ROUND_TO
from mdsa_local.training.groups import SIZE, Group
from mdsa_local.training.judge import Pool
from mdsa_local.validation.judge import AnswerJudge

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)
COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one narrow layer with the shipped encoder's words."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    vocabulary = shipped("models") / "tinybert" / "tokenizer.json"
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_file=str(vocabulary), **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(start: Path) -> Any:
    return AutoTokenizer.from_pretrained(start)


def toy(count: int, seed: int = 0) -> list[Group]:
    """Groups where the text answers that has the question's colour; of every fourth none has."""
    rng, found = random.Random(seed), []
    for at in range(count):
        asked, *others = rng.sample(COLOURS, len(COLOURS))
        group = Group(f"the {asked} one")
        for colour in others if at % 4 == 0 else [others[0], asked, others[1]]:
            group.add(("", f"{colour} {rng.choice('abcdef')}"), colour == asked)
        found.append(group)
    return found


def pool_of(groups: list[Group], tokenizer: Any) -> Pool:
    return Pool(judge.pooled(groups, tokenizer), (tokenizer.cls_token_id, tokenizer.sep_token_id))


def test_pairs_are_question_and_text_between_their_marks(tokenizer: Any) -> None:
    long = " ".join(f"word{at}" for at in range(200))
    groups = [
        Group("where is it", [("Title", "It is here."), ("", "there")], [True, False]),
        Group("why", [("T", "so")], [False]),
        Group("short one", [("", long), ("", "x")], [False, True]),
        Group(long, [("", long), ("", "yes it is")], [False, True]),
    ]
    pool = pool_of(groups, tokenizer)
    ids, types, mask, there = pool.pairs(np.array([1, 0]))
    expected = tokenizer(["why", "where is it", "where is it"], ["T: so", "Title: It is here.", "there"], padding=True, return_tensors="pt")
    assert there.sum(1).tolist() == [1, 2] and there[:, 0].all()
    width = expected["input_ids"].shape[1]
    assert ids.shape[1] % ROUND_TO == 0 and not mask[:, width:].any() and not ids[:, width:].any()
    assert torch.equal(ids[:, :width], expected["input_ids"])
    assert torch.equal(types[:, :width], expected["token_type_ids"])
    assert torch.equal(mask[:, :width], expected["attention_mask"])
    assert pool.answers[:2].tolist() == [[True, False] + [False] * (SIZE - 2), [False] * SIZE]

    # What is too long: the text is cut; of a question no more than half a pair is read.
    words = tokenizer(long, add_special_tokens=False)["input_ids"]
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids, types, mask, _ = pool.pairs(np.array([2, 3]))
    short = tokenizer("short one", add_special_tokens=False)["input_ids"]
    half, most = judge.MAX_TOKENS // 2, judge.MAX_TOKENS
    assert ids[0].tolist() == [begin, *short, end, *words[: most - 3 - len(short)], end]
    assert ids[2].tolist() == [begin, *words[:half], end, *words[: most - 3 - half], end]
    assert types[2].sum() == most - half - 2 and mask[2].all()
    rest = [begin, *words[:half], end, *tokenizer("yes it is", add_special_tokens=False)["input_ids"], end]
    assert ids[3, : len(rest)].tolist() == rest and mask[3].sum() == len(rest) and not ids[3, len(rest) :].any()


def test_each_text_is_kept_once(tokenizer: Any) -> None:
    groups = [Group("a question", [("T", "one"), ("T", "two")], [True, False]), Group("another", [("T", "two"), ("", "a question")], [False, True])]
    found = judge.pooled(groups, tokenizer)
    assert found["rows"][:, :3].tolist() == [[2, 0, 1], [3, 1, 2]]
    assert (found["rows"][:, 3:] == -1).all()
    assert len(found["lengths"]) == 4 and found["lengths"].sum() == len(found["flat"])


def test_losses_by_hand() -> None:
    scores = torch.tensor([[2.0, 0.5, -1.0, judge.NONE], [1.0, 0.0, judge.NONE, judge.NONE]])
    there = scores > judge.NONE
    answers = torch.tensor([[True, False, True, False], [False, False, False, False]])
    plain = scores.double().numpy()
    softmax = np.exp(plain[0, :3]) / np.exp(plain[0, :3]).sum()
    likely = 1 / (1 + np.exp(-np.maximum(plain, -50)))
    pairs = [np.log(likely[0, 0]), np.log(1 - likely[0, 1]), np.log(likely[0, 2]), np.log(1 - likely[1, 0]), np.log(1 - likely[1, 1])]
    assert float(judge.losses(scores, answers, there)) == pytest.approx(-np.log(softmax[0] + softmax[2]) - np.mean(pairs), rel=1e-5)
    # Where nothing answers, each pair alone counts.
    assert float(judge.losses(scores[1:], answers[1:], there[1:])) == pytest.approx(-np.mean(pairs[3:]), rel=1e-5)

    wanted = torch.tensor([[0.0, 1.0, 0.0, judge.NONE], [1.0, 0.0, judge.NONE, judge.NONE]])
    theirs = wanted.double().numpy()

    share = np.exp(theirs[0, :3]) / np.exp(theirs[0, :3]).sum()
    second = np.exp(theirs[1, :2]) / np.exp(theirs[1, :2]).sum()
    same = np.exp(plain[1, :2]) / np.exp(plain[1, :2]).sum()
    apart = ((share * np.log(share / softmax)).sum() + (second * np.log(second / same)).sum()) / 2
    hoped = 1 / (1 + np.exp(-np.maximum(theirs, -50)))
    binary = -(hoped * np.log(likely) + (1 - hoped) * np.log(1 - likely))[there.numpy()].mean()
    assert float(judge.taught(scores, wanted, there)) == pytest.approx(apart + binary, rel=1e-5)
    assert float(judge.taught(wanted, wanted, there)) < float(judge.taught(scores, wanted, there))


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    groups = [Group("q", [("", "a"), ("", "b")], answers) for answers in ([True, False], [False, True], [False, False], [False, False])]
    scores = torch.full((4, SIZE), judge.NONE)
    scores[:, :2] = torch.tensor([[3.0, 1.0], [2.0, 0.0], [2.5, 0.0], [-1.0, -2.0]])
    monkeypatch.setattr(judge, "scored", lambda *_: scores)
    # The best answers in one of two groups; of four comparisons one finds a group without an answer above.
    assert judge.measured(None, pool_of(groups, tokenizer), 8) == {"groups": 4, "right": 0.5, "auc": 0.75}


@pytest.mark.parametrize("teacher", [False, True])
def test_training_lowers_the_loss_and_goes_on_where_it_was_stopped(
    start: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], teacher: bool
) -> None:
    pool, held = pool_of(toy(48), tokenizer), {"held": pool_of(toy(16, 1), tokenizer)}
    torch.manual_seed(0)
    wanted = torch.where(pool.there, pool.answers * 6.0 - 3, judge.NONE) if teacher else None

    def run(work: Path) -> dict[str, Any]:
        work.mkdir(exist_ok=True)
        judge.train(pool, held, start, work, 2, 5e-3, 8, 0, wanted=wanted)
        state: dict[str, Any] = load(work / "judge.pt")["model"]
        return state

    def loss(folder: Path) -> float:
        model = judge.opened(folder).eval()
        with torch.inference_mode():
            return float(judge.losses(judge.judged(model, pool, np.arange(len(pool))), pool.answers, pool.there))

    monkeypatch.setattr(judge, "KEEP_EVERY", 4)
    whole = run(tmp_path / "whole")
    assert "step 12, the end: {'held': {'groups': 16, 'right':" in capsys.readouterr().out
    torch.manual_seed(0)
    assert loss(tmp_path / "whole" / "judge") < loss(start) - 0.1

    def kept_and_stopped(*arguments: Any, **parts: Any) -> None:
        keep(*arguments, **parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(judge, "keep", kept_and_stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "judge").exists()
    monkeypatch.setattr(judge, "keep", keep)
    torch.rand(7)
    again = run(tmp_path / "stopped")
    assert "resumed at step 4" in capsys.readouterr().out
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    # Ended, there is nothing left to do.
    run(tmp_path / "stopped")
    assert "resumed at step 12" in capsys.readouterr().out


def test_a_start_without_a_pooler_gets_one_that_changes_nothing(start: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(start, add_pooling_layer=False).save_pretrained(tmp_path)
    assert torch.equal(judge.opened(tmp_path).bert.pooler.dense.weight, torch.eye(32))
    assert not torch.equal(judge.opened(start).bert.pooler.dense.weight, torch.eye(32))


def test_groups_are_drawn_kept_and_read(start: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "training", lambda *_: iter(toy(20)))
    monkeypatch.setattr(judge, "held_out", lambda *_: {"articles": toy(4, 1), "written": toy(6, 2)})
    path = tmp_path / "groups.npz"
    judge.draw(tmp_path, shipped("models") / "tinybert", path, 0)
    assert [one.name for one in tmp_path.iterdir()] == ["groups.npz"]
    found = judge.pools(path, tokenizer)
    assert {name: len(pool) for name, pool in found.items()} == {"training": 20, "articles": 4, "written": 6}
    assert torch.equal(found["training"].pairs(np.arange(20))[0], pool_of(toy(20), tokenizer).pairs(np.arange(20))[0])
    some = judge.pools(path, tokenizer, 5)
    assert {name: len(pool) for name, pool in some.items()} == {"training": 5, "articles": 4, "written": 6}
    assert torch.equal(some["training"].answers, judge.pools(path, tokenizer, 5)["training"].answers)
    assert not torch.equal(some["training"].pairs(np.arange(5))[0], judge.pools(path, tokenizer, 5, 1)["training"].pairs(np.arange(5))[0])

    other = AutoTokenizer.from_pretrained(start)
    other.add_tokens(["zyzzyva"])
    with pytest.raises(InputError, match="words of another tokenizer"):
        judge.pools(path, other)


def test_exported_it_scores_as_it_was_trained(start: Path, tmp_path: Path) -> None:
    from mdsa_local.training.export_judge import export

    torch.manual_seed(3)
    model = BertForSequenceClassification.from_pretrained(start, num_labels=1)
    judge.finish(model, start, tmp_path / "judge")
    out = tmp_path / "out"
    export(tmp_path / "judge", out)
    loaded = AnswerJudge(out)
    assert loaded.max_tokens == judge.MAX_TOKENS
    assert loaded.weighing.odds == (0.0, 1.0, 0.0, 0.0)
    question, texts = (
        "where is the harbour",
        ["The harbour is in the north.", "Opening times: On Monday from nine.", "north", " ".join(["far"] * 300)],
    )
    tokens = AutoTokenizer.from_pretrained(start)([question] * 4, texts, truncation="only_second", max_length=128, padding=True, return_tensors="pt")
    with torch.inference_mode():
        wanted = model.eval()(**tokens).logits[:, 0].numpy()
    scores = np.array(loaded.scores([(question, text) for text in texts]))
    assert np.ptp(wanted) > 0.2
    assert np.abs(scores - wanted).max() < 0.1 * np.ptp(wanted)

    # A card that is there keeps what a person wrote, and knows the new files.
    card = out / "model.yaml"
    written = card.read_text(encoding="utf-8").replace("nearness: 0.0", "nearness: 2.5") + "# A note.\n"
    card.write_text(written.replace(read_card(out)["files"]["model.onnx"]["sha256"], "0" * 64), encoding="utf-8")
    with pytest.raises(ModelFileError):
        AnswerJudge(out)
    export(tmp_path / "judge", out)
    assert card.read_text(encoding="utf-8") == written
    assert AnswerJudge(out).weighing.nearness == 2.5


def test_a_card_without_the_line_is_refused(tmp_path: Path) -> None:
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "model.yaml").write_text("files: {model.onnx: {size_bytes: 3}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no line"):
        refresh(tmp_path, "")
