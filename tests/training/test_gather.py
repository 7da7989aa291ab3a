"""The encoder's third run: episodes are drawn as said, evidence is the router's, and the run ends, resumes, and gathers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mdsa_local.errors import InputError
from mdsa_local.routing.anchors import Anchors, Index
from mdsa_local.settings import shipped
from mdsa_local.training import contrast, gather, utterances
from mdsa_local.training.distil import Tokens, finish
from mdsa_local.training.gather import Known, Steps, episode, evidence, families
from mdsa_local.training.utterances import Domain

TWO = """\
@ bread ovens
> Baking, its faults and its prices.
# oven too hot
it burns everything
the crust is black, why
# price
what's a loaf
@ ferries
# timetable
when does the last boat leave
"""


def test_domains_are_read_and_those_that_ship_are_whole() -> None:
    ovens, ferries = utterances.parsed(TWO.split("\n"))
    known = {"oven too hot": ["it burns everything", "the crust is black, why"], "price": ["what's a loaf"]}
    assert ovens == Domain("bread ovens", "Baking, its faults and its prices.", known)
    assert ovens.names == ["bread ovens", "Baking, its faults and its prices.", "oven too hot", "price"]
    assert ferries.names == ["ferries", "timetable"]
    every = utterances.read()
    assert sum(map(len, every.values())) == 200
    for file, domains in every.items():
        said = [text for domain in domains for texts in domain.intents.values() for text in texts]
        assert len(set(said)) == len(said), file
        assert all(domain.description and [len(texts) for texts in domain.intents.values()] == [7] * 10 for domain in domains), file
        assert len({domain.name for domain in domains}) == len(domains)


@pytest.mark.parametrize("text", ["hello", "# x", "> y", "@ a\nhello", "@ a\n# b\n# b\nc", "@ "])
def test_what_is_wrong_is_told_with_file_and_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.txt:\d: not understood"):
        utterances.read(tmp_path)


def made_up(n: int) -> list[Known]:
    """Domains whose texts tell the domain and the intent."""
    return [
        Known((f"name {i} -", *(f"intent {i} {j}" for j in range(5))), tuple(tuple(f"utterance {i} {j} {k}" for k in range(6)) for j in range(5)))
        for i in range(n)
    ]


def test_what_is_asked_is_none_of_what_the_domain_is_known_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "with_typo", lambda text, rng: text)
    named = 0
    for seed in range(60):
        distinct = seed % 2 == 0
        one = episode(made_up(25), random.Random(seed), distinct)
        known, asked = one.texts[: sum(one.shots)], one.texts[sum(one.shots) :]
        assert not set(known) & set(asked)
        owner = np.repeat(np.arange(len(one.shots)), one.shots)
        number = {int(place): text.split()[1] for place, text in zip(owner, known, strict=True)}
        assert len(set(number.values())) == len(one.shots) == gather.DOMAINS
        assert all(text.split()[1] == number[int(place)] for place, text in zip(owner, known, strict=True))
        told = [(text.split()[1], place) for text, place in zip(asked, one.wanted, strict=True)]
        assert all(domain == number[place] for domain, place in told if place >= 0)
        outside = {domain for domain, place in told if place < 0}
        assert not outside & set(number.values())
        assert bool(outside) is distinct
        assert one.named is not any(text.startswith("utterance") for text in known)
        named += one.named
    assert 5 < named < 30


def test_evidence_is_the_routers() -> None:
    rng = np.random.default_rng(0)
    drawn = [F.normalize(torch.tensor(rng.normal(size=(n, 24)), dtype=torch.float32), dim=-1) for n in (3, 10, 1)]
    asked = F.normalize(torch.tensor(rng.normal(size=(7, 24)), dtype=torch.float32), dim=-1)
    index = Index({str(at): Anchors(tuple(str(i) for i in range(len(one))), ("example",) * len(one), one.numpy()) for at, one in enumerate(drawn)})
    owner = torch.tensor([at for at, one in enumerate(drawn) for _ in one])
    found = evidence(torch.cat(drawn), owner, torch.tensor([len(one) for one in drawn]), asked)
    assert np.allclose(found.numpy(), index.evidence(asked.numpy()), atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_run_gathers_and_resumes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30522, hidden_size=312, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(shipped("models") / "tinybert" / "tokenizer.json"), **special)
    start, work = tmp_path / "second", tmp_path / "third"
    work.mkdir()
    finish(BertModel(config, add_pooling_layer=False), torch.nn.Linear(312, 312), tokenizer, start)

    monkeypatch.setattr(contrast, "read_written", lambda _: [])
    pairs = contrast.Pairs(data, start / "student", 2, 1, 0)
    monkeypatch.setattr(pairs, "parts", lambda step: [([(f"what is {name}", f"it is {name}") for name in ("moss", "coral")], ["a third"])] * 5)
    known = {"work": [Known((domain.name,), tuple(tuple(texts) for texts in domain.intents.values())) for domain in utterances.read()["work"][:6]]}
    steps = Steps(pairs, known, 2, 0)
    assert steps.drawn(1) == Steps(pairs, known, 2, 0).drawn(1)
    assert set(families(data)) >= {"clinc150", "sgd", "topics", "articles", "work"}
    held = Tokens(["a held text", "another one"], tokenizer)

    def losses(folder: Path) -> float:
        encoder = gather.Encoder(folder / "student")
        with torch.inference_mode():
            found = [
                encoder.gathered(encoder(steps[0].texts)[at : at + len(one.texts)], one) for at, one in zip((0,), steps[0].episodes[:1], strict=True)
            ]
        return float(torch.stack(found).mean())

    monkeypatch.setattr(contrast.Pairs, "__len__", lambda _: 12)
    gather.train(steps, held, start, work, 2e-3, 0, 1)
    assert losses(work) < losses(start)
    # Resumed at its end, there is nothing left to do; nothing kept, it is what it began with.
    gather.train(steps, held, start, work, 2e-3, 0, 1, share=0.0)
    assert "resumed at step 12" in capsys.readouterr().out
    assert losses(work) == pytest.approx(losses(start), rel=1e-4)
