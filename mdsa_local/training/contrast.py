"""Second run of the encoder: pull questions towards the sentences that answer them, and utterances towards others of their intent.

Pairs are contrasted within a batch (InfoNCE, van den Oord et al. 2018; in-batch negatives as in DPR, Karpukhin et al. 2020). A batch holds
several facts of one topic and all sentences of a passage, so that neighbours are told apart. Texts of the first run go on being held to the
teacher's vectors. Each step's pairs are drawn by the seed and the step's number, by any number of workers, so that a run resumes alike.

    python -m mdsa_local.training.contrast --data DIR --teacher DIR --start DIR --work DIR

``--start`` is the folder of a finished distillation, with its labels; ``--work`` keeps checkpoint, log and result. Resumes when killed.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer

from mdsa_local.training import sources
from mdsa_local.training.checkpoint import device, keep
from mdsa_local.training.corpus import windows, with_typo
from mdsa_local.training.distil import MAX_TOKENS, ROUND_TO, Schedule, Tokens, begun, departure, embed, finish, label, projected, resumed
from mdsa_local.training.grounded import Templates, fill, worded
from mdsa_local.training.written import Written
from mdsa_local.training.written import read as read_written

HELD_OUT = 12
TEMPERATURE = 0.05
# An answer that is nearer than this to the wanted one says the same, and is not held against it.
ALIKE = 0.93
WARM = 50
Pair = tuple[str, str]
# More intents than so many are drawn from all sets together.
WHOLE = 100
# Ids and mask.
Block = tuple[Tensor, Tensor]
# What counts how much: facts, intents, answers of MedQuAD, written questions, headings.
SHARES = (1.0, 0.5, 0.3, 1.0, 0.3)
HOLDING = 3.0


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
    source = known[rng.choice(sorted(known))] if n <= WHOLE else {name: texts for one in known.values() for name, texts in one.items()}
    for name in rng.sample(sorted(source), min(n, len(source))):
        text, *others = rng.sample(source[name], min(2, len(source[name])))
        pairs.append((with_typo(text, rng) if rng.random() < 0.1 else text, others[0] if others and rng.random() < 0.5 else name))
    return pairs


def passage_pairs(by_focus: Sequence[Sequence[dict[str, object]]], rng: random.Random, n: int) -> list[Pair]:
    """Questions of MedQuAD with a window of their answer: up to three of each of ``n`` subjects, so that a subject's own passages compete."""
    pairs = []
    for rows in rng.sample(by_focus, min(n, len(by_focus))):
        for row in rng.sample(rows, min(3, len(rows))):
            passage = rng.choice(list(windows(str(row["answer"]), 50, 40))[:3])
            pairs.append((str(row["question"]), f"{row['focus']}: {passage}" if rng.random() < 0.5 else passage))
    return pairs


def written_pairs(written: Sequence[Written], rng: random.Random, n: int) -> tuple[list[Pair], list[str]]:
    """Written questions with a sentence that answers, of ``n`` passages up to three with different answers, and the passages' other sentences."""
    pairs: list[Pair] = []
    others: list[str] = []
    for passage in rng.sample(written, min(n, len(written))):
        titled = rng.random() < 0.5
        said = [f"{passage.title}: {text}" if titled else text for text in passage.sentences]
        used: set[int] = set()
        for places, question in rng.sample(passage.questions, len(passage.questions)):
            if places and not used & set(places) and len(used) < 3:
                pairs.append((with_typo(question, rng) if rng.random() < 0.1 else question, said[rng.choice(places)]))
                used.update(places)
        others += [text for place, text in enumerate(said) if place not in used]
    return pairs, others


def heading_pairs(sections: Sequence[dict[str, Any]], rng: random.Random, n: int) -> list[Pair]:
    """Headings of documentation with the beginning of what stands below them."""
    pairs = []
    for row in rng.sample(sections, min(n, len(sections))):
        heading = row["heading"] or row["title"]
        asked = f"{row['title']} {heading}" if rng.random() < 0.3 else heading
        pairs.append((asked, next(windows(row["text"], rng.choice((25, 50, 90)), 90))))
    return pairs


def contrasted(questions: Tensor, answers: Tensor, others: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE of ``(n, d)`` unit vectors, row by row; ``others`` are answers to none of the questions."""
    scores = questions @ answers.T / TEMPERATURE
    alike = ((answers @ answers.T) > ALIKE).detach() & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    scores = scores.masked_fill(alike, -1e4)
    wanted = torch.arange(len(scores), device=scores.device)
    back = F.cross_entropy(scores.T, wanted)
    if others is not None and len(others):
        beside = (questions @ others.T / TEMPERATURE).masked_fill(((answers @ others.T) > ALIKE).detach(), -1e4)
        scores = torch.cat([scores, beside], dim=1)
    return (F.cross_entropy(scores, wanted) + back) / 2


class Pairs(Dataset[list[tuple[Block, Block, Block | None]]]):
    """The pairs of each step, tokenised. ``scale`` multiplies their number; at 1 a step suits a CPU."""

    def __init__(self, data: Path, teacher: Path, steps: int, scale: int, seed: int) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(teacher)
        self.templates = Templates()
        topics = self.templates.topics[:]
        random.Random(seed).shuffle(topics)
        self.held, self._topics = topics[: len(topics) // HELD_OUT], topics[len(topics) // HELD_OUT :]
        self._known = intents(data)
        by_focus: dict[str, list[dict[str, object]]] = defaultdict(list)
        for row in sources.medquad(data):
            by_focus[row["focus"]].append(row)
        self._subjects = [rows for rows in by_focus.values() if len(rows) > 1] or list(by_focus.values())
        written = read_written(data)
        self.held_written, self._written = written[::HELD_OUT], [one for at, one in enumerate(written) if at % HELD_OUT]
        self._sections = list(sources.documentation(data))
        self._steps, self._scale, self._seed = steps, scale, seed

    def __len__(self) -> int:
        return self._steps

    def tokens(self, texts: list[str]) -> Block:
        """``(ids, mask)``, padded."""
        rows = self._tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        lengths = np.array([len(row) for row in rows])
        ids = np.zeros((len(rows), -(-int(lengths.max()) // ROUND_TO) * ROUND_TO), dtype=np.int64)
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        ids[mask] = np.concatenate(rows)
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))

    def parts(self, step: int) -> list[tuple[list[Pair], list[str]]]:
        """The pairs of a step, in the order of :data:`SHARES`, and what answers none of a part's questions."""
        rng, n = random.Random(self._seed * 1_000_003 + step), self._scale
        written, others = written_pairs(self._written, rng, 8 * n)
        return [
            (fact_pairs(self._topics, self.templates, rng, min(12 * n, len(self._topics)), 5), []),
            (intent_pairs(self._known, rng, 48 * n), []),
            (passage_pairs(self._subjects, rng, 4 * n), []),
            (written, others),
            (heading_pairs(self._sections, rng, 12 * n), []),
        ]

    def __getitem__(self, step: int) -> list[tuple[Block, Block, Block | None]]:
        return [
            (self.tokens([asked for asked, _ in pairs]), self.tokens([said for _, said in pairs]), self.tokens(rest) if rest else None)
            for pairs, rest in self.parts(step)
        ]


def train(data: Path, teacher: Path, start: Path, work: Path, steps: int, rate: float, seed: int, scale: int, workers: int, minutes: float) -> None:
    """Run or resume; leaves ``work/student`` as :mod:`~mdsa_local.training.distil` does."""
    pairs = Pairs(data, teacher, steps, scale, seed)
    if not (start / "tokens.npz").exists():
        raise SystemExit(f"{start}: no tokens.npz in it: distil first")
    anchors = Tokens([], None, kept=start / "tokens.npz")
    targets = projected(label(anchors, teacher, start), start)
    near = np.flatnonzero(anchors.lengths < 48)
    torch.manual_seed(seed)
    checkpoint = work / "contrast.pt"
    student, dense, optimiser, step = resumed(teacher, start / "distil.pt", checkpoint, rate)
    plan = Schedule(rate, steps, WARM, minutes)

    def vectors(block: Block) -> Tensor:
        return embed(student, dense, block[0].to(device(), non_blocking=True), block[1].to(device(), non_blocking=True))

    began, first = time.time(), step
    todo = torch.utils.data.Subset(pairs, range(step, steps))
    for parts in DataLoader(todo, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None):
        if plan.done(step) >= 1:
            break
        if step % 200 == 0:
            print(f"step {step} held-out questions that find their statement, their sentence: {found(pairs, vectors)}", flush=True)
        plan.set(optimiser, step)
        optimiser.zero_grad(set_to_none=True)
        running = []
        for (asked, said, rest), share in zip(parts, SHARES, strict=True):
            loss = contrasted(vectors(asked), vectors(said), vectors(rest) if rest else None)
            (share * loss).backward()
            running.append(loss.detach())
        rows = np.random.default_rng(seed * 7919 + step).choice(near, min(32 * scale, len(near)), replace=False)
        loss = HOLDING * departure(embed(student, dense, *anchors.batch(rows)), targets[torch.from_numpy(rows)].to(device()).float())[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*student.parameters(), *dense.parameters()], 1.0)
        optimiser.step()
        step += 1
        if step % 50 == 0:
            figures = [round(float(one), 3) for one in (*running, loss)]
            print(f"step {step} losses {figures} {(time.time() - began) / (step - first):.3f} s/step", flush=True)
            if step % 250 == 0:
                keep(checkpoint, step, student=student, dense=dense, optimiser=optimiser)
    print(f"step {step}, the end: {found(pairs, vectors)}", flush=True)
    keep(checkpoint, step, student=student, dense=dense, optimiser=optimiser)
    finish(student, dense, AutoTokenizer.from_pretrained(teacher), work)


def found(pairs: Pairs, vectors: Any) -> tuple[float, float]:
    """Shares of held-out questions nearest to their own statement among those of six topics, and to their sentence among all of held-out passages."""
    rng, right, total = random.Random(1), 0, 0
    with torch.inference_mode():
        for _ in range(8):
            made = fact_pairs(pairs.held, pairs.templates, rng, min(6, len(pairs.held)), 8)
            scores = vectors(pairs.tokens([q for q, _ in made])) @ vectors(pairs.tokens([s for _, s in made])).T
            right += int((scores.argmax(1).cpu() == torch.arange(len(made))).sum())
            total += len(made)
        said = [(at, place, f"{one.title}: {text}") for at, one in enumerate(pairs.held_written) for place, text in enumerate(one.sentences)]
        asked = [(at, places, text) for at, one in enumerate(pairs.held_written) for places, text in one.questions if places]
        known = torch.cat([vectors(pairs.tokens([text for *_, text in said[i : i + 256]])) for i in range(0, len(said), 256)])
        nearest = [
            at
            for i in range(0, len(asked), 256)
            for at in (vectors(pairs.tokens([text for *_, text in asked[i : i + 256]])) @ known.T).argmax(1).tolist()
        ]
        hits = sum(said[best][0] == at and said[best][1] in places for (at, places, _), best in zip(asked, nearest, strict=True))
    return round(right / max(total, 1), 4), round(hits / max(len(asked), 1), 4)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the public data sets")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the sentence-transformers teacher")
    parser.add_argument("--start", type=Path, required=True, help="folder of the finished distillation to go on from, with the teacher's labels")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoint and result")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: after the steps")
    parser.add_argument("--scale", type=int, default=0, help="how many times the pairs of a small step; 0: 8 on a GPU, 1 on a CPU")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the pairs")
    args = begun(parser)
    scale = args.scale or (8 if device().type == "cuda" else 1)
    train(args.data, args.teacher, args.start, args.work, args.steps, args.rate, args.seed, scale, args.workers, args.minutes)


if __name__ == "__main__":
    from mdsa_local.cli.output import ended

    ended(main)
