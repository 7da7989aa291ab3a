"""A small cross-encoder that reads a question and a text together and says whether the one answers the other.

It begins as a BERT that knows the language, the shipped one as all-MiniLM-L6-v2, and learns from groups
(:mod:`~mdsa_local.training.groups`). Loss: cross-entropy of a softmax over each group in which something answers (listwise, Cao et al. 2007), and
binary cross-entropy of each pair, which alone counts where nothing does. Given another judge as a teacher, a larger one or one of more training,
it is held to that one's scores too (distillation, Hinton et al. 2015); the shipped judge had none.

    python -m mdsa_local.training.judge draw  --data DIR --encoder models/tinybert --pool FILE
    python -m mdsa_local.training.judge train --pool FILE --start DIR --work DIR [--teacher DIR]

``--start`` is a folder of a BERT and its tokenizer, which must have the words of the encoder's; ``--teacher`` the result of a finished run.
``--work`` keeps checkpoint and result: ``judge``, the folder of a BERT sequence classifier with one output, log odds, and its tokenizer. A run that
was killed goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, BertForSequenceClassification

from mdsa_local.durable import settle
from mdsa_local.errors import InputError
from mdsa_local.training.checkpoint import Chance, device, keep, resume
from mdsa_local.training.distil import ROUND_TO, Schedule, precision
from mdsa_local.training.groups import SIZE, Group, held_out, titled, training

# Of a pair; the product reads as many.
MAX_TOKENS = 128
WARM = 200
# Steps between two checkpoints.
KEEP_EVERY = 1000
# With a teacher, how much its scores weigh; the labels have the rest.
TAUGHT = 0.6
# Share of hidden values dropped: a question comes up several times.
DROPPED = 0.1
# A log odds that stands for nothing.
NONE = -1e4
Pooled = Mapping[str, NDArray[Any]]


def pooled(groups: Iterable[Group], tokenizer: Any) -> dict[str, NDArray[Any]]:
    """Groups as arrays.

    ``flat``: the tokens of all texts, each text once, one after the other; ``lengths`` ``(texts,)``: how many each has; ``rows``
    ``(groups, 1 + SIZE)``: numbers of texts, the question and what is set beside it, -1 where nothing stands; ``answers`` ``(groups, SIZE)`` bool.
    """
    numbers: dict[str, int] = {}
    rows, answers = [], []
    for group in groups:
        said = [numbers.setdefault(titled(*one), len(numbers)) for one in group.said]
        rows.append([numbers.setdefault(group.question, len(numbers)), *said, *[-1] * (SIZE - len(said))])
        answers.append([*group.answers, *[False] * (SIZE - len(said))])
    texts = list(numbers)
    ids: list[list[int]] = []
    for at in range(0, len(texts), 10_000):
        ids += tokenizer(texts[at : at + 10_000], add_special_tokens=False, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    return {
        "flat": np.array([token for row in ids for token in row], dtype=np.uint16),
        "lengths": np.array([len(row) for row in ids], dtype=np.int16),
        "rows": np.array(rows, dtype=np.int32),
        "answers": np.array(answers, dtype=bool),
    }


class Pool:
    """Drawn groups on the device that computes. ``answers`` and ``there`` ``(groups, SIZE)``: what answers, and where anything stands; ``longest``
    ``(groups,)``: tokens of the longest pair."""

    def __init__(self, arrays: Pooled, ends: tuple[int, int]) -> None:
        """``arrays`` as :func:`pooled` makes them; ``ends``: the tokens that begin and end a text."""
        self._begin, self._end = ends
        lengths = arrays["lengths"].astype(np.int64)
        self._lengths = torch.from_numpy(lengths).to(device())
        self._starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)[:-1]])).to(device())
        self._flat = torch.from_numpy(arrays["flat"].astype(np.int32)).to(device())
        self._rows = torch.from_numpy(arrays["rows"].astype(np.int64)).to(device())
        self.answers = torch.from_numpy(arrays["answers"]).to(device())
        self.there = self._rows[:, 1:] >= 0
        said = np.where(arrays["rows"][:, 1:] >= 0, lengths[arrays["rows"][:, 1:]], 0)
        self.longest = np.minimum(lengths[arrays["rows"][:, 0]] + said.max(1) + 3, MAX_TOKENS)

    def __len__(self) -> int:
        return len(self.longest)

    def pairs(self, which: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids, types and mask ``(pairs, length)`` of all pairs of some groups, and where they stand ``(groups, SIZE)``.

        The question has at most half of a pair, the text what is left.
        """
        chosen = torch.from_numpy(which).to(device())
        there = self.there[chosen]
        group, place = there.nonzero(as_tuple=True)
        asked, said = self._rows[chosen[group], 0], self._rows[chosen[group], place + 1]
        longest = -(-int(self.longest[which].max()) // ROUND_TO) * ROUND_TO
        first = self._lengths[asked].clamp(max=MAX_TOKENS // 2)[:, None]
        second = torch.minimum(self._lengths[said][:, None], MAX_TOKENS - 3 - first)
        at = torch.arange(longest, device=device())[None]
        total = first + second + 3
        from_first = self._flat[(self._starts[asked][:, None] + at - 1).clamp(0, len(self._flat) - 1)]
        from_second = self._flat[(self._starts[said][:, None] + at - first - 2).clamp(0, len(self._flat) - 1)]
        ids = torch.where(at <= first, from_first, from_second)
        ids = torch.where(at == 0, self._begin, torch.where((at == first + 1) | (at == total - 1), self._end, ids))
        mask = at < total
        return (ids * mask).long(), ((at > first + 1) & mask).long(), mask.long(), there


def batches(pool: Pool, size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Groups of like length together, in random order."""
    order = np.argsort(pool.longest + 6 * rng.random(len(pool)))
    parts = [order[at : at + size] for at in range(0, len(order), size)]
    return [parts[at] for at in rng.permutation(len(parts))]


def judged(model: BertForSequenceClassification, pool: Pool, which: NDArray[np.int64]) -> Tensor:
    """Log odds ``(groups, SIZE)``; :data:`NONE` where nothing stands."""
    ids, types, mask, there = pool.pairs(which)
    with precision():
        logits = model(input_ids=ids, token_type_ids=types, attention_mask=mask).logits
    scores = torch.full(there.shape, NONE, device=device())
    scores[there] = logits.float().squeeze(-1)
    return scores


def losses(scores: Tensor, answers: Tensor, there: Tensor) -> Tensor:
    """Listwise and pairwise loss of log odds ``(groups, SIZE)`` by which of them answer; of several that answer, listwise, any will do."""
    some = answers.any(1)
    right = scores.masked_fill(~answers, NONE).logsumexp(1)
    listwise = (scores.logsumexp(1) - right)[some].mean() if bool(some.any()) else scores.sum() * 0
    return listwise + F.binary_cross_entropy_with_logits(scores[there], answers[there].float())


def taught(scores: Tensor, wanted: Tensor, there: Tensor) -> Tensor:
    """Listwise and pairwise loss by a teacher's log odds ``wanted``."""
    listwise = F.kl_div(scores.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)
    return listwise + F.binary_cross_entropy_with_logits(scores[there], wanted[there].sigmoid())


def opened(start: Path) -> BertForSequenceClassification:
    """A classifier with one output upon the BERT in ``start``; where that has no pooler, one that changes nothing to begin with."""
    model: BertForSequenceClassification
    model, told = BertForSequenceClassification.from_pretrained(
        start, num_labels=1, hidden_dropout_prob=DROPPED, attention_probs_dropout_prob=0.0, output_loading_info=True
    )
    if any("pooler" in name for name in told["missing_keys"]):
        with torch.no_grad():
            model.bert.pooler.dense.weight.copy_(torch.eye(model.config.hidden_size))
            model.bert.pooler.dense.bias.zero_()
    return model.to(device())


def scored(model: BertForSequenceClassification, pool: Pool, size: int) -> Tensor:
    """Log odds of all groups of a pool."""
    model.eval()
    out = torch.empty(pool.there.shape, dtype=torch.float16, device=device())
    order = np.argsort(pool.longest)
    with torch.inference_mode():
        for at in range(0, len(order), size):
            which = order[at : at + size]
            out[torch.from_numpy(which).to(device())] = judged(model, pool, which).clamp(-6e4).half()
    model.train()
    return out


def measured(model: BertForSequenceClassification, pool: Pool, size: int) -> dict[str, float]:
    """``right``: how often the best of a group answers, of the groups where one does; ``auc``: how well the best score tells these from the others
    (area under the curve; NaN when all groups are of one kind)."""
    scores = scored(model, pool, size).float()
    some = pool.answers.any(1)
    best, at = scores.max(1)
    right = pool.answers.gather(1, at[:, None]).squeeze(1)[some].float().mean()
    above = (best[some][:, None] > best[~some][None]).float().mean()
    return {"groups": len(pool), "right": round(float(right), 4), "auc": round(float(above), 4)}


def train(
    pool: Pool,
    held: Mapping[str, Pool],
    start: Path,
    work: Path,
    epochs: int,
    rate: float,
    size: int,
    seed: int,
    minutes: float = 0.0,
    wanted: Tensor | None = None,
) -> None:
    """Run or resume; leaves ``work/judge``. ``size``: groups in a step; ``wanted``: a teacher's log odds of the pool."""
    torch.manual_seed(seed)
    model = opened(start)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    checkpoint = work / "judge.pt"
    chance = Chance()
    step = resume(checkpoint, model=model, optimiser=optimiser, chance=chance)
    per_epoch = -(-len(pool) // size)
    plan = Schedule(rate, epochs * per_epoch, min(WARM, epochs * per_epoch // 10), minutes)
    began, first, epoch = time.time(), step, -1
    order: Sequence[NDArray[np.int64]] = ()
    model.train()
    while plan.done(step) < 1:
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = batches(pool, size, np.random.default_rng(seed * 1_000_003 + epoch))
        plan.set(optimiser, step)
        which = order[step % per_epoch]
        chosen = torch.from_numpy(which).to(device())
        scores = judged(model, pool, which)
        loss = losses(scores, pool.answers[chosen], pool.there[chosen])
        if wanted is not None:
            loss = (1 - TAUGHT) * loss + TAUGHT * taught(scores, wanted[chosen].float(), pool.there[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 200 == 0:
            print(f"step {step} of {epochs * per_epoch} loss {float(loss):.3f} {(time.time() - began) / (step - first):.3f} s/step", flush=True)
        if step % KEEP_EVERY == 0:
            keep(checkpoint, step, model=model, optimiser=optimiser, chance=chance)
            print({name: measured(model, one, size) for name, one in held.items()}, flush=True)
    print(f"step {step}, the end:", {name: measured(model, one, size) for name, one in held.items()}, flush=True)
    keep(checkpoint, step, model=model, optimiser=optimiser, chance=chance)
    finish(model, start, work / "judge")


def finish(model: BertForSequenceClassification, start: Path, target: Path) -> None:
    """Write the classifier and its tokenizer; the folder is there when it is whole."""
    partial = target.with_name(f"{target.name}.partial")
    model.cpu().eval().save_pretrained(partial)
    AutoTokenizer.from_pretrained(start).save_pretrained(partial)
    if target.exists():
        shutil.rmtree(target)
    partial.replace(target)


def words(tokenizer: Any) -> str:
    """A digest of a tokenizer's vocabulary: groups drawn with one can be read with another of the same words alone."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def draw(data: Path, encoder: Path, path: Path, seed: int) -> None:
    """Write the groups to learn from and those to measure by, in the encoder's tokens."""
    from mdsa_local.routing.encoder import Encoder

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    loaded = Encoder.load(encoder)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return loaded.encode(list(texts))

    every = {"training": pooled(training(data, embed, seed), tokenizer)}
    every |= {name: pooled(groups, tokenizer) for name, groups in held_out(data, embed).items()}
    arrays: dict[str, Any] = {f"{name}.{key}": value for name, one in every.items() for key, value in one.items()}
    arrays |= {"ends": np.array([tokenizer.cls_token_id, tokenizer.sep_token_id]), "words": words(tokenizer)}
    partial = path.with_name(f"{path.name}.partial.npz")
    np.savez_compressed(partial, **arrays)
    settle(partial, path)
    print({name: len(one["rows"]) for name, one in every.items()}, flush=True)


def pools(path: Path, tokenizer: Any, most: int = 0, seed: int = 0) -> dict[str, Pool]:
    """What :func:`draw` wrote; of the groups to learn from ``most``, drawn by ``seed``, if that is not 0. Raises :class:`InputError` where
    ``tokenizer`` has other words."""
    with np.load(path) as found:
        if str(found["words"]) != words(tokenizer):
            raise InputError(
                f"{path}: drawn with the words of another tokenizer", "Begin with a BERT that has the encoder's, or draw with that BERT's."
            )
        arrays: dict[str, dict[str, NDArray[Any]]] = {}
        for name, _, key in (entry.partition(".") for entry in found.files if "." in entry):
            arrays.setdefault(name, {})[key] = found[f"{name}.{key}"]
        begin, end = (int(token) for token in found["ends"])
    learned = arrays["training"]
    if 0 < most < len(learned["rows"]):
        kept = np.sort(np.random.default_rng(seed).choice(len(learned["rows"]), most, replace=False))
        learned |= {key: learned[key][kept] for key in ("rows", "answers")}
    return {name: Pool(one, (begin, end)) for name, one in arrays.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("draw", "train"))
    parser.add_argument("--pool", type=Path, required=True, help="file of the drawn groups")
    parser.add_argument("--data", type=Path, help="draw: folder with the public data sets")
    parser.add_argument("--encoder", type=Path, help="draw: folder of the routing model")
    parser.add_argument("--start", type=Path, help="train: folder of the BERT to begin with")
    parser.add_argument("--teacher", type=Path, help="train: folder of another judge, trained before, to learn from too")
    parser.add_argument("--work", type=Path, help="train: folder for checkpoint and result")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: after the epochs")
    parser.add_argument("--groups", type=int, default=0, help="groups in a step; 0: 64 on a GPU, 8 on a CPU")
    parser.add_argument("--most", type=int, default=0, help="learn from so many of the groups; 0: from all")
    parser.add_argument("--rate", type=float, default=1.2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    needed = ("data", "encoder") if args.do == "draw" else ("start", "work")
    if missing := [f"--{name}" for name in needed if getattr(args, name) is None]:
        parser.error(f"{args.do} needs {', '.join(missing)}")
    if args.do == "draw":
        from mdsa_local.cli.output import waiting

        with waiting("drawing groups"):
            draw(args.data, args.encoder, args.pool, args.seed)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    every = pools(args.pool, AutoTokenizer.from_pretrained(args.start), args.most, args.seed)
    size = args.groups or (64 if device().type == "cuda" else 8)
    pool = every.pop("training")
    wanted = scored(opened(args.teacher), pool, 4 * size) if args.teacher else None
    train(pool, every, args.start, args.work, args.epochs, args.rate, size, args.seed, args.minutes, wanted)


if __name__ == "__main__":
    from mdsa_local.cli.output import ended

    ended(main)
