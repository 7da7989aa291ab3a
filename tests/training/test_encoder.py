"""Distilling and contrasting an encoder, on toy data and from a teacher of random weights: both runs end, resume, and do what they are for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mdsa_local.errors import InputError
from mdsa_local.settings import shipped
from mdsa_local.training import contrast, distil, written
from mdsa_local.training.checkpoint import load
from mdsa_local.training.contrast import contrasted, written_pairs
from mdsa_local.training.grounded import Templates
from mdsa_local.training.written import Written

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30522, hidden_size=320, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    vocabulary = shipped("models") / "tinybert" / "tokenizer.json"
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_file=str(vocabulary), **special).save_pretrained(folder)
    return folder


def test_both_runs(teacher: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    texts = distil.first_texts(data, 0, 60)
    distil_work, contrast_work = tmp_path / "first", tmp_path / "second"
    distil_work.mkdir()
    contrast_work.mkdir()
    distil.train(texts, teacher, distil_work, 3, 32, 1e-3, 0)
    said = capsys.readouterr().out
    assert "60 texts; 312 directions keep" in said
    assert (distil_work / "student" / "modules.json").is_file()
    labels = np.load(distil_work / "labels_00000000.npy")
    assert labels.shape == (60, 320)
    assert np.allclose(np.linalg.norm(labels.astype(np.float32), axis=1), 1, atol=1e-2)
    # Resumed at its end, there is nothing left to do.
    distil.train(texts, teacher, distil_work, 3, 32, 1e-3, 0)
    assert "resumed at step" in capsys.readouterr().out
    with pytest.raises(InputError, match="made of other texts"):
        distil.train(texts[1:], teacher, distil_work, 3, 32, 1e-3, 0)

    sentences = ["The moss grows slowly near the old harbour wall.", "A moss is found at 2 metres.", "Nobody sells moss on Sunday."]
    row = {
        "source": "manual",
        "title": "Moss",
        "sentences": [written.digest(text) for text in sentences],
        "questions": [[[1], "where does moss grow"], [[3], "sunday moss"]],
    }
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "some.jsonl").write_text((json.dumps(row) + "\n") * 13, encoding="utf-8")
    monkeypatch.setattr(contrast, "read_written", lambda folder: written.read(folder, tmp_path / "q"))
    monkeypatch.setattr(contrast, "HELD_OUT", 6)
    templates = Templates()
    monkeypatch.setattr(templates, "topics", templates.topics[:18])
    monkeypatch.setattr(contrast, "Templates", lambda: templates)
    pairs = contrast.Pairs(data, teacher, 2, 1, 0)
    again = zip(pairs[1], pairs[1], strict=True)
    assert all(torch.equal(one[0][0], other[0][0]) for one, other in again), "a step's pairs depend on its number alone"
    contrast.train(data, teacher, distil_work, contrast_work, 2, 1e-4, 0, 1, 0, 0.0)
    assert "step 2, the end: (" in capsys.readouterr().out
    assert (contrast_work / "student" / "modules.json").is_file()
    ends = (load(path)["student"]["encoder.layer.0.output.dense.weight"] for path in (distil_work / "distil.pt", contrast_work / "contrast.pt"))
    assert not torch.equal(*ends)


def test_answers_that_say_the_same_are_not_held_against_one_another() -> None:
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(4, 16), dim=-1)
    twice = torch.cat([vectors, vectors[:1]])
    assert float(contrasted(twice, twice)) == pytest.approx(float(contrasted(vectors, vectors)), abs=0.05)
    assert float(contrasted(vectors, vectors, vectors.flip(0)[:0])) == float(contrasted(vectors, vectors))
    far = torch.nn.functional.normalize(vectors.roll(1, 0) + 0.2 * vectors, dim=-1)
    assert float(contrasted(vectors, vectors, far)) >= float(contrasted(vectors, vectors))


def test_no_sentence_is_wanted_and_set_beside_at_once() -> None:
    import random

    passage = Written("s", "T", ("one", "two", "three", "four"), (((0,), "q1"), ((0, 1), "q2"), ((2,), "q3"), ((), "q4")))
    for seed in range(20):
        pairs, others = written_pairs([passage], random.Random(seed), 1)
        plain = [said.removeprefix("T: ") for _, said in pairs]
        beside = [said.removeprefix("T: ") for said in others]
        assert len(set(plain)) == len(plain) >= 1
        assert not set(plain) & set(beside)
        assert "four" in beside
