"""Third run of the encoder: pull questions towards the sentences that answer them, and utterances towards others of their intent.

Pairs are contrasted within a batch (InfoNCE, van den Oord et al. 2018; in-batch negatives as in DPR, Karpukhin et al. 2020). A batch holds
several facts of one topic, so that neighbours are told apart. Texts of the earlier runs go on being held to the teacher's vectors.

    python -m mdsa_local.training.contrast --data DIR --teacher DIR --start DIR --work DIR

``--start`` is the folder of a finished distillation, with its labels; ``--work`` keeps checkpoint, log and result. Resumes when killed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer

from mdsa_local.training import sources
from mdsa_local.training.checkpoint import device
from mdsa_local.training.corpus import distillation_texts, windows, with_typo
from mdsa_local.training.distil import MAX_TOKENS, departure, embed, finish, keep, resumed
from mdsa_local.training.grounded import Templates, fill, worded

HELD_OUT = 12
TEMPERATURE = 0.05
Pair = tuple[str, str]


def intents(data: Path) -> dict[str, dict[str, list[str]]]:
    """``{set: {intent in words: its training utterances}}`` of CLINC150 and BANKING77."""
    out: dict[str, dict[str, list[str]]] = {"clinc150": defaultdict(list), "banking77": defaultdict(list)}
    for text, intent in sources.clinc(data, "train"):
        out["clinc150"][intent.replace("_", " ")].append(text)
    for text, category in sources.banking(data):
        out["banking77"][category.replace("_", " ")].append(text)
    return out


def fact_pairs(topics: Sequence[dict[str, Any]], templates: Templates, rng: random.Random, n_topics: int, n_facts: int) -> list[Pair]:
    """Questions and the statements that answer them, ``n_facts`` of each of ``n_topics`` topics."""
    pairs = []
    for topic in rng.sample(topics, n_topics):
        slots, chosen = topic.get("slots") or {}, dict[str, str]()
        title = fill(rng.choice(topic["title"]), slots, chosen, rng)
        facts = topic["facts"]
        for fact in rng.sample(facts, min(n_facts, len(facts))):
            question = worded(fill(rng.choice(fact["asks"]), slots, chosen, rng), rng)
            said = templates.statement(fact, slots, chosen, rng)
            kind = rng.random()
            if kind < 0.15:
                said = fill(rng.choice(fact["asks"]), slots, chosen, rng)
            elif kind < 0.4:
                said = f"{title}: {said}"
            pairs.append((question, said))
    return pairs


def intent_pairs(known: dict[str, dict[str, list[str]]], rng: random.Random, n: int) -> list[Pair]:
    """Utterances with another of their intent, or with its name in words; every intent at most once."""
    pairs = []
    source = known[rng.choice(sorted(known))]
    for name in rng.sample(sorted(source), min(n, len(source))):
        text, other = rng.sample(source[name], 2)
        pairs.append((with_typo(text, rng) if rng.random() < 0.1 else text, name if rng.random() < 0.5 else other))
    return pairs


def passage_pairs(by_focus: Sequence[Sequence[dict[str, object]]], rng: random.Random, n: int) -> list[Pair]:
    """Questions of MedQuAD with a window of their answer: up to three of each of ``n`` subjects, so that a subject's own passages compete."""
    pairs = []
    for rows in rng.sample(by_focus, n):
        for row in rng.sample(rows, min(3, len(rows))):
            passage = rng.choice(list(windows(str(row["answer"]), 50, 40))[:3])
            pairs.append((str(row["question"]), f"{row['focus']}: {passage}" if rng.random() < 0.5 else passage))
    return pairs


def contrasted(questions: Tensor, answers: Tensor) -> Tensor:
    """Symmetric InfoNCE of ``(n, d)`` unit vectors, row by row."""
    scores = questions @ answers.T / TEMPERATURE
    wanted = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)) / 2


def anchored(data: Path, start: Path, rng: random.Random, size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Endless batches of texts of the first run and the teacher's vectors of them."""
    texts = distillation_texts(data, 0, json.loads((start / "texts.json").read_text())["scale"])
    labels = np.concatenate([np.load(path) for path in sorted(start.glob("labels_*.npy"))]).astype(np.float32)
    if len(texts) != len(labels):
        raise SystemExit(f"{start}: {len(labels)} labels for {len(texts)} texts: label them again with distil")
    targets = F.normalize(torch.from_numpy(labels @ np.load(start / "basis.npy")), dim=-1)
    while True:
        chosen = [i for i in rng.sample(range(len(texts)), 2 * size) if len(texts[i]) < 120][:size]
        yield [texts[i] for i in chosen], targets[chosen]


def train(data: Path, teacher: Path, start: Path, labelled: Path, work: Path, steps: int, rate: float, seed: int) -> None:
    """Run or resume; leaves ``work/student`` as :mod:`~mdsa_local.training.distil` does."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    templates = Templates()
    topics = templates.topics[:]
    random.Random(seed).shuffle(topics)
    held, topics = topics[: len(topics) // HELD_OUT], topics[len(topics) // HELD_OUT :]
    known = intents(data)
    by_focus: dict[str, list[dict[str, object]]] = defaultdict(list)
    for row in sources.medquad(data):
        by_focus[row["focus"]].append(row)
    subjects = [rows for rows in by_focus.values() if len(rows) > 1]
    torch.manual_seed(seed)
    checkpoint = work / "contrast.pt"
    student, dense, optimiser, step = resumed(teacher, start / "distil.pt", checkpoint, rate)

    def vectors(texts: list[str]) -> Tensor:
        made = tokenizer(texts, truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt").to(device())
        return embed(student, dense, made["input_ids"], made["attention_mask"])

    def found() -> float:
        """Share of held-out questions nearest to their own statement among those of six topics."""
        rng, right, total = random.Random(1), 0, 0
        with torch.inference_mode():
            for _ in range(8):
                pairs = fact_pairs(held, templates, rng, min(6, len(held)), 8)
                scores = vectors([q for q, _ in pairs]) @ vectors([s for _, s in pairs]).T
                right += int((scores.argmax(1).cpu() == torch.arange(len(pairs))).sum())
                total += len(pairs)
        return right / total

    rng = random.Random(seed * 7919 + step)
    anchors = anchored(data, labelled, rng, 32)
    began, first = time.time(), step
    while step < steps:
        if step % 50 == 0:
            print(f"step {step}/{steps} held-out questions that find their statement: {found():.3f}", flush=True)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * max(0.02, 1 - step / steps)
        optimiser.zero_grad(set_to_none=True)
        running = []
        parts = ((fact_pairs(topics, templates, rng, 12, 5), 1.0), (intent_pairs(known, rng, 48), 0.5), (passage_pairs(subjects, rng, 4), 0.3))
        for pairs, share in parts:
            loss = contrasted(vectors([q for q, _ in pairs]), vectors([a for _, a in pairs]))
            (share * loss).backward()
            running.append(round(loss.item(), 3))
        texts, targets = next(anchors)
        out, wanted = vectors(texts), targets.to(device())
        loss = 3 * departure(out, wanted)[0]
        loss.backward()
        running.append(round(loss.item(), 3))
        torch.nn.utils.clip_grad_norm_([*student.parameters(), *dense.parameters()], 1.0)
        optimiser.step()
        step += 1
        if step % 10 == 0:
            print(f"step {step} losses {running} {(time.time() - began) / (step - first):.2f} s/step", flush=True)
        if step % 50 == 0 or step == steps:
            keep(student, dense, optimiser, step, checkpoint)
    print(f"held-out questions that find their statement: {found():.3f}", flush=True)
    finish(student, dense, tokenizer, work)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the public data sets")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the sentence-transformers teacher")
    parser.add_argument("--start", type=Path, required=True, help="folder of the finished distillation to go on from")
    parser.add_argument("--labelled", type=Path, required=True, help="folder of its first run, with the teacher's labels")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoint and result")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    train(args.data, args.teacher, args.start, args.labelled, args.work, args.steps, args.rate, args.seed)


if __name__ == "__main__":
    main()
