"""A small cross-encoder that reads a question and a sentence (or passage) together and says whether the one answers the other.

It starts from the encoder (:mod:`~mdsa_local.training.contrast`) and learns from groups: a question, what answers it, and what does not though it is
near: other sentences of the passage, facts of the same topic, twins with other names, and what the encoder finds nearest elsewhere. Loss: softmax
over a group (listwise, Cao et al. 2007) and binary cross-entropy of each pair, which alone counts where nothing answers.

    python -m mdsa_local.training.judge --data DIR --start DIR --work DIR

``--start`` is the folder of the contrasted encoder. ``--work`` keeps checkpoint and result: ``judge``, a folder of a BERT sequence classifier with
one output, log odds. Resumes when killed.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import AutoTokenizer, BertForSequenceClassification, BertModel

from mdsa_local.training import sources
from mdsa_local.training.checkpoint import device, load, save
from mdsa_local.training.contrast import HELD_OUT
from mdsa_local.training.corpus import sentences, with_typo
from mdsa_local.training.distil import ROUND_TO, Schedule, Tokens, embed, precision
from mdsa_local.training.grounded import Prose, Templates, fill, worded
from mdsa_local.training.written import known
from mdsa_local.training.written import read as read_written

MAX_TOKENS = 192
GROUP = 8
WARM = 200
# Sentences that the encoder finds nearest to each question, of which negatives are drawn; the first few are often answers too.
MINED, SPARED = 40, 3
MOST_SENTENCES = 250_000
# Shares of kinds of groups.
WRITTEN, MEDICAL, HEADINGS, CLOZE = 0.45, 0.08, 0.05, 0.05
HEADING_TAILS = ("Overview", "Details", "What to know", "Rules", "Questions", "Before you start", "Limits", "Good to know")
# A title and a text.
Said = tuple[str, str]


@dataclass(slots=True)
class Group:
    """A question, what is set beside it, and which of it answers."""

    question: str
    said: list[Said]
    answers: list[bool]

    def add(self, said: Said, answers: bool = False) -> None:
        """One more, unless it stands there already or the group is full."""
        if len(self.said) < GROUP and said not in self.said:
            self.said.append(said)
            self.answers.append(answers)


def nearest(asked: Sequence[str], said: Sequence[str], start: Path, teacher: Path, most: int) -> np.ndarray:
    """Places ``(n, most)`` of those of ``said`` that the encoder of the run in ``start`` finds nearest to each of ``asked``, nearest first."""
    state = load(start / "contrast.pt")
    student = BertModel.from_pretrained(start / "bert", add_pooling_layer=False).to(device()).eval()
    dense = torch.nn.Linear(student.config.hidden_size, student.config.hidden_size)
    dense.load_state_dict(state["dense"])
    dense.to(device())
    tokenizer = AutoTokenizer.from_pretrained(teacher)

    def vectors(texts: Sequence[str]) -> Tensor:
        tokens = Tokens(texts, tokenizer, 96)
        order = np.argsort(tokens.lengths, kind="stable")
        out = torch.empty(len(texts), student.config.hidden_size, device=device())
        size = 4096 if device().type == "cuda" else 64
        with torch.inference_mode():
            for at in range(0, len(order), size):
                out[torch.from_numpy(order[at : at + size]).to(device())] = embed(student, dense, *tokens.batch(order[at : at + size]))
        return out

    with torch.inference_mode():
        library, questions = vectors(said), vectors(asked)
        found = [(questions[at : at + 512] @ library.T).topk(min(most, len(said))).indices.cpu().numpy() for at in range(0, len(questions), 512)]
    return np.concatenate(found).astype(np.int32)


class Groups(Dataset[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]):
    """The batch of each step: ids, types and mask of ``(groups * GROUP, length)`` pairs, which answer ``(groups, GROUP)``, and which exist."""

    def __init__(self, data: Path, start: Path, teacher: Path, steps: int, groups: int, seed: int, most_sentences: int = MOST_SENTENCES) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(teacher)
        self._steps, self._groups, self._seed = steps, groups, seed
        rng = random.Random(seed)
        self._templates, self._prose = Templates(), Prose(data)
        topics = self._templates.topics[:]
        rng.shuffle(topics)
        # As contrast holds out.
        shuffled = self._templates.topics[:]
        random.Random(seed).shuffle(shuffled)
        self._topics = shuffled[len(shuffled) // HELD_OUT :]
        written = read_written(data)
        self.held = written[::HELD_OUT]
        self._written = [one for at, one in enumerate(written) if at % HELD_OUT]
        by_focus: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._by_type: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in sources.medquad(data):
            by_focus[row["focus"]].append(row)
            self._by_type[row.get("question_type", "")].append(row)
        self._subjects = [rows for rows in by_focus.values() if len(rows) > 1]
        self._sections = list(sources.documentation(data))
        self._mine(data, start, teacher, rng, most_sentences)

    def _mine(self, data: Path, start: Path, teacher: Path, rng: random.Random, most: int) -> None:
        """What the encoder finds nearest to written questions, and among the facts of the templates to their questions."""
        self.library: list[Said] = [(one.title, text) for one in (*self._written, *self.held) for text in one.sentences]
        mine = {text for _, text in self.library}
        others = sorted({text for text in known(data) if 4 <= len(text.split()) <= 45} - mine)
        self.library += [("", text) for text in rng.sample(others, min(most, len(others)))]
        passages = [*self._written, *self.held]
        asked = [text for one in passages for _, text in one.questions]
        said = [f"{title}: {text}" if title else text for title, text in self.library]
        found = iter(nearest(asked, said, start, teacher, MINED))
        self.mined = {id(one): [next(found) for _ in one.questions] for one in passages}
        self._facts = [(topic, fact) for topic in self._topics for fact in topic["facts"]]
        filled = [fill(rng.choice(fact.get("says") or fact["steps"]), topic.get("slots") or {}, {}, rng) for topic, fact in self._facts]
        asks = [fill(rng.choice(fact["asks"]), topic.get("slots") or {}, {}, rng) for topic, fact in self._facts]
        self._alike = nearest(asks, filled, start, teacher, MINED)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        rng = random.Random(self._seed * 1_000_003 + step)
        return self.encoded([self.group(rng) for _ in range(self._groups)])

    def encoded(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Groups as tensors."""
        pairs = [(group.question, titled(*group.said[at])) if at < len(group.said) else ("", "") for group in groups for at in range(max(GROUP, 1))]
        made = self._tokenizer(
            [asked for asked, _ in pairs],
            [said for _, said in pairs],
            truncation="longest_first",
            max_length=MAX_TOKENS,
            padding=True,
            pad_to_multiple_of=ROUND_TO,
            return_tensors="pt",
        )
        answers = torch.zeros(len(groups), GROUP)
        there = torch.zeros(len(groups), GROUP, dtype=torch.bool)
        for at, group in enumerate(groups):
            answers[at, : len(group.answers)] = torch.tensor(group.answers, dtype=torch.float)
            there[at, : len(group.answers)] = True
        return made["input_ids"], made["token_type_ids"], made["attention_mask"], answers, there

    def group(self, rng: random.Random) -> Group:
        """One group of some kind."""
        kind = rng.random()
        if kind < WRITTEN:
            return self._from_written(rng)
        if kind < WRITTEN + MEDICAL:
            return self._from_answers(rng)
        if kind < WRITTEN + MEDICAL + HEADINGS:
            return self._from_headings(rng)
        if kind < WRITTEN + MEDICAL + HEADINGS + CLOZE:
            return self._from_cloze(rng)
        return self._from_templates(rng)

    def _from_written(self, rng: random.Random) -> Group:
        passage = rng.choice(self._written)
        at = rng.randrange(len(passage.questions))
        places, question = passage.questions[at]
        group = Group(worded(question, rng) if rng.random() < 0.3 else with_typo(question, rng) if rng.random() < 0.08 else question, [], [])
        title = passage.title if rng.random() < 0.8 else passage.title.split(" > ")[-1] if rng.random() < 0.5 else ""
        own = list(range(len(passage.sentences)))
        if rng.random() < 0.2:
            # Whole passages, as a search finds them.
            group.add((title, " ".join(passage.sentences)), bool(places))
            for _ in range(GROUP - 1):
                other = rng.choice(self._written)
                if other is not passage:
                    group.add((other.title, " ".join(other.sentences)))
            return group
        if places and rng.random() < 0.9:
            group.add((title, passage.sentences[rng.choice(places)]), True)
        beside = [place for place in own if place not in places]
        for place in rng.sample(beside, min(len(beside), 4 if places else 7)):
            group.add((title, passage.sentences[place]))
        if places:
            mined = self.mined[id(passage)][at][SPARED:]
            mine = set(passage.sentences)
            for place in rng.sample(list(mined), min(len(mined), 12)):
                said = self.library[place]
                if said[1] not in mine:
                    group.add((said[0] or title if rng.random() < 0.3 else said[0], said[1]))
        return group

    def _from_templates(self, rng: random.Random) -> Group:
        at = rng.randrange(len(self._facts))
        topic, fact = self._facts[at]
        slots, chosen = topic.get("slots") or {}, dict[str, str]()
        asked = fill(rng.choice(fact["asks"]), slots, chosen, rng)
        group = Group(worded(asked, rng), [], [])
        title = self._title(topic, chosen, rng)
        if rng.random() < 0.87:
            group.add((title, self._templates.statement(fact, slots, chosen, rng)), True)
        others = [other for other in topic["facts"] if other is not fact]
        for other in rng.sample(others, min(len(others), rng.randint(2, 4))):
            group.add((title if rng.random() < 0.7 else self._title(topic, chosen, rng), self._templates.statement(other, slots, chosen, rng)))
        twin = {
            key: rng.choice(rest) for key, value in chosen.items() if (rest := [v for v in slots.get(key.rstrip("0123456789"), ()) if v != value])
        }
        if twin and any(chosen[key].lower() in asked.lower() for key in twin) and rng.random() < 0.5:
            group.add((self._title(topic, twin, rng), self._templates.statement(fact, slots, twin, rng)))
        for place in rng.sample(list(self._alike[at]), min(12, len(self._alike[at]))):
            beside, said = self._facts[place]
            if beside is not topic:
                drawn: dict[str, str] = {}
                group.add((self._title(beside, drawn, rng), self._templates.statement(said, beside.get("slots") or {}, drawn, rng)))
        return group

    @staticmethod
    def _title(topic: dict[str, Any], chosen: dict[str, str], rng: random.Random) -> str:
        title = fill(rng.choice(topic["title"]), topic.get("slots") or {}, chosen, rng)
        title = title[:1].upper() + title[1:]
        return f"{title} > {rng.choice(HEADING_TAILS)}" if rng.random() < 0.5 else title

    def _from_answers(self, rng: random.Random) -> Group:
        """A question of MedQuAD with the beginning of its answer, among answers to other questions about the same and of the same kind."""
        rows = rng.choice(self._subjects)
        row = rng.choice(rows)
        question = row["question"].replace(" (are)", "").replace(" ?", "?")
        group = Group(question if rng.random() < 0.6 else question.lower().rstrip("?"), [], [])

        def window(of: dict[str, Any], first: bool) -> Said:
            said = [text for text in sentences(of["answer"]) if len(text.split()) > 3] or [of["answer"][:200]]
            at = 0 if first else rng.randrange(len(said))
            return of["focus"], " ".join(" ".join(said[at : at + rng.choice((1, 1, 2))]).split()[:60])

        group.add(window(row, True), True)
        for other in rng.sample(rows, min(len(rows), GROUP // 2)):
            if other is not row and other.get("question_type") != row.get("question_type"):
                group.add(window(other, rng.random() < 0.5))
        same = self._by_type[row.get("question_type", "")]
        for _ in range(2 * GROUP):
            other = rng.choice(same)
            if other["focus"] != row["focus"]:
                group.add(window(other, True))
        return group

    def _from_headings(self, rng: random.Random) -> Group:
        """A heading with the beginning of what stands below it, among sections nearby."""
        at = rng.randrange(len(self._sections))
        row = self._sections[at]
        group = Group(row["heading"] or row["title"], [], [])
        group.add((row["title"], sentences(row["text"])[0][:400]), True)
        for _ in range(2 * GROUP):
            near = (at + rng.randint(-8, 8)) % len(self._sections) if rng.random() < 0.6 else rng.randrange(len(self._sections))
            other = self._sections[near]
            if other["heading"] != row["heading"]:
                group.add((other["title"], sentences(other["text"])[0][:400]))
        return group

    def _from_cloze(self, rng: random.Random) -> Group:
        """A few words of a sentence among others of its text."""
        section = rng.choice(self._sections)
        said = [text for line in section["text"].split("\n") for text in sentences(line) if 4 <= len(text.split()) <= 45]
        if len(said) < 2:
            return self._from_written(rng)
        wanted = rng.choice(said)
        group = Group(self._prose.cloze(wanted, section["title"], rng), [], [])
        group.add((section["title"], wanted), True)
        for text in rng.sample(said, min(len(said), 5)):
            group.add((section["title"], text))
        for _ in range(GROUP):
            group.add(rng.choice(self.library))
        return group


def titled(title: str, text: str) -> str:
    """What the judge reads of a text: under its title."""
    return f"{title}: {text}" if title else text


def fresh(start: Path) -> BertForSequenceClassification:
    """A classifier of one output on the encoder's weights; the second segment begins like the first."""
    model = BertForSequenceClassification.from_pretrained(start / "bert", num_labels=1, hidden_dropout_prob=0.1, classifier_dropout=0.1)
    with torch.no_grad():
        model.bert.pooler.dense.weight.copy_(torch.eye(model.config.hidden_size))
        model.bert.pooler.dense.bias.zero_()
    return model


def losses(scores: Tensor, answers: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Listwise and pairwise loss of log odds ``(groups, GROUP)``."""
    some = (answers > 0).any(1)
    masked = scores.masked_fill(~there, -1e4)
    right = masked.masked_fill(answers == 0, -1e4).logsumexp(1)
    listwise = (masked.logsumexp(1) - right)[some].mean() if bool(some.any()) else scores.sum() * 0
    return listwise, F.binary_cross_entropy_with_logits(scores[there], answers[there])


def train(groups: Groups, start: Path, work: Path, steps: int, rate: float, seed: int, workers: int, minutes: float) -> None:
    """Run or resume; leaves ``work/judge``."""
    torch.manual_seed(seed)
    model = fresh(start).to(device())
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    checkpoint, step = work / "judge.pt", 0
    if checkpoint.exists():
        state = load(checkpoint)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
        print(f"resumed at step {step}", flush=True)
    plan = Schedule(rate, steps, WARM, minutes)
    began, first = time.time(), step
    model.train()
    for ids, types, mask, answers, there in DataLoader(
        Subset(groups, range(step, steps)), batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
    ):
        if plan.done(step) >= 1:
            break
        if step % 1000 == 0:
            print(f"step {step}: {measured(groups, model)}", flush=True)
        plan.set(optimiser, step)
        scores = judged(model, ids, types, mask).view(answers.shape)
        listwise, pairwise = losses(scores, answers.to(device()), there.to(device()))
        optimiser.zero_grad(set_to_none=True)
        (listwise + pairwise).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            each = (time.time() - began) / (step - first)
            print(f"step {step} listwise {float(listwise):.3f} pairwise {float(pairwise):.3f} {each:.3f} s/step", flush=True)
        if step % 1000 == 0:
            save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, checkpoint)
    print(f"step {step}, the end: {measured(groups, model)}", flush=True)
    save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, checkpoint)
    model.cpu().eval().save_pretrained(work / "judge")
    AutoTokenizer.from_pretrained(start / "bert").save_pretrained(work / "judge")


def judged(model: BertForSequenceClassification, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
    """Log odds of pairs."""
    with precision():
        out = model(input_ids=ids.to(device()), token_type_ids=types.to(device()), attention_mask=mask.to(device()))
    logits: Tensor = out.logits
    return logits.float().squeeze(-1)


def measured(groups: Groups, model: BertForSequenceClassification) -> dict[str, float]:
    """On the held-out passages: how often the best of a passage's sentences and of those found nearest elsewhere is one that answers; how well the
    best score of its own passage tells questions that it answers from those it does not (area under the curve)."""
    model.eval()
    asked = [(one, at) for one in groups.held for at in range(len(one.questions))]
    right, total, best = 0, 0, ([], [])  # type: ignore[var-annotated]
    with torch.inference_mode():
        for begin in range(0, len(asked), 32):
            pairs: list[tuple[str, str]] = []
            spans: list[tuple[int, int, int]] = []
            for one, at in asked[begin : begin + 32]:
                said = [(one.title, text) for text in one.sentences]
                said += [groups.library[place] for place in groups.mined[id(one)][at][:12] if groups.library[place][1] not in one.sentences][:8]
                spans.append((len(pairs), len(one.sentences), len(said)))
                pairs += [(one.questions[at][1], titled(*entry)) for entry in said]
            made = groups._tokenizer(
                [q for q, _ in pairs], [s for _, s in pairs], truncation="longest_first", max_length=MAX_TOKENS, padding=True, return_tensors="pt"
            )
            scores = judged(model, made["input_ids"], made["token_type_ids"], made["attention_mask"]).cpu()
            for (one, at), (place, own, count) in zip(asked[begin : begin + 32], spans, strict=True):
                places = one.questions[at][0]
                mine = scores[place : place + count]
                if places:
                    right += int(mine.argmax()) in places
                    total += 1
                best[0 if places else 1].append(float(mine[:own].max()))
    model.train()
    above = (np.array(best[0])[:, None] > np.array(best[1])[None]).mean() if best[0] and best[1] else 0.0
    return {"questions": total, "right": round(right / max(total, 1), 4), "auc": round(float(above), 4)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the public data sets")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the encoder's teacher, for its tokenizer")
    parser.add_argument("--start", type=Path, required=True, help="folder of the contrasted encoder")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoint and result")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: after the steps")
    parser.add_argument("--groups", type=int, default=0, help="groups in a step; 0: 64 on a GPU, 8 on a CPU")
    parser.add_argument("--sentences", type=int, default=MOST_SENTENCES, help="sentences among which near ones are looked for")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the groups")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    groups = Groups(args.data, args.start, args.teacher, args.steps, args.groups or (64 if device().type == "cuda" else 8), args.seed, args.sentences)
    train(groups, args.start, args.work, args.steps, args.rate, args.seed, args.workers, args.minutes)


if __name__ == "__main__":
    main()
