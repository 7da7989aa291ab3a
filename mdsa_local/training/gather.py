"""Third run of the encoder: bring what belongs to one domain together, whatever it asks for, so that a domain is known by ten of its utterances.

Learnt in episodes, as the router will be used (prototypical networks, Snell et al. 2017): of some domains a few utterances each, or only names and
description, and for others of their utterances the domain is to be chosen, by the evidence the router reckons with
(:meth:`~mdsa_local.routing.anchors.Index.evidence`). Utterances of domains that are not among them have to stay below a level that is learnt too.
The pairs of the second run (:mod:`~mdsa_local.training.contrast`) go on, other texts are held to the vectors the run began with, and of each weight
only a share of the way it went is kept, the rest being as before (Wortsman et al. 2022): what is gained grows faster with it than what is forgotten.

    python -m mdsa_local.training.gather --data DIR --start DIR --work DIR

``--start`` is the folder that :mod:`~mdsa_local.training.contrast` left, with ``student``; ``--work`` keeps checkpoint, log and result. Each step is
drawn by the seed and the step's number, by any number of workers. Resumes when killed.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import AutoTokenizer, BertModel

from mdsa_local.routing.anchors import SOFTNESS, USUAL_FEW, WHOLE
from mdsa_local.training import articles, sources, utterances
from mdsa_local.training.checkpoint import device, keep, resume
from mdsa_local.training.contrast import SHARES, WARM, Block, Pairs, contrasted
from mdsa_local.training.corpus import encoder_texts, with_typo
from mdsa_local.training.distil import WIDTH, Schedule, Tokens, begun, departure, embed, finish
from mdsa_local.training.grounded import Templates, fill

# Of a domain: utterances it is known by, drawn from these numbers, and utterances asked.
SHOTS = (3, 5, 8, 10, 10)
ASKED = 4
# Domains of an episode, and of others so many utterances that belong to none of them.
DOMAINS, OUTSIDE = 20, 24
TEMPERATURE = 0.05
# How much the episodes of a step count beside its pairs, and what the first vectors hold.
GATHERING, HOLDING = 4.0, 3.0
# Of the way from the first weights to the last.
SHARE = 0.5
# How often the episodes are of which family; of one that is not named here, a file of written utterances, as often as 1.
FAMILIES: Mapping[str, float] = {"clinc150": 4.0, "sgd": 2.0, "topics": 2.0, "articles": 2.0}
# Whose domains may be the same, or nearly, so that an utterance of one is not outside the others.
ALIKE = ("sgd", "topics", "articles")


@dataclass(frozen=True, slots=True)
class Known:
    """A domain: what it is called, the whole first, and the utterances of each of its intents."""

    names: tuple[str, ...]
    intents: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Episode:
    """Texts of an episode: of each domain what it is known by, one after the other, then what is asked, each with its domain's place, -1: none.

    ``shots``: how many each domain is known by; ``named``: by names alone.
    """

    texts: tuple[str, ...]
    shots: tuple[int, ...]
    wanted: tuple[int, ...]
    named: bool


def families(data: Path, seed: int = 0) -> dict[str, list[Known]]:
    """Domains that are told apart, by where they come from: training parts of the public sets, templates, articles, written utterances."""
    rng = random.Random(seed)
    domain_of, by_domain = sources.clinc_domains(data), defaultdict[str, dict[str, list[str]]](lambda: defaultdict(list))
    for text, intent in sources.clinc(data, "train"):
        by_domain[domain_of[intent].replace("_", " ")][intent.replace("_", " ")].append(text)
    found = {"clinc150": [_known([name, *own], own.values()) for name, own in sorted(by_domain.items())]}
    found["sgd"] = [_known([service], [texts]) for service, texts in sources.services(data).items()]
    topics = Templates().topics
    found["topics"] = [
        _known(
            [fill(text, topic.get("slots") or {}, {}, rng) for text in topic["title"]],
            [[fill(text, topic.get("slots") or {}, {}, rng) for text in fact["asks"]] for fact in topic["facts"]],
        )
        for topic in topics
    ]
    pages = [article for organisation in articles.read() for article in organisation.articles]
    found["articles"] = [_known([page.title], [[text] for _, text in page.questions]) for page in pages if len(page.questions) >= 2 * ASKED]
    found |= {file: [_known(domain.names, domain.intents.values()) for domain in domains] for file, domains in utterances.read().items()}
    return found


def _known(names: Sequence[str], intents: Any) -> Known:
    return Known(tuple(names), tuple(tuple(texts) for texts in intents))


def episode(domains: Sequence[Known], rng: random.Random, distinct: bool) -> Episode:
    """One episode of some of ``domains``; with utterances outside of it if they are ``distinct`` and some are left."""
    n = min(DOMAINS, len(domains) - (len(domains) // 5 if distinct else 0))
    drawn = rng.sample(list(domains), len(domains))
    named, shots = rng.random() < 0.25, rng.choice(SHOTS)
    with_names = rng.random() < 0.33
    texts, counts, asked = [], [], []
    for place, domain in enumerate(drawn[:n]):
        pool = _pool(domain, ASKED + shots, rng)
        asked += [(text, place) for text in pool[:ASKED]]
        known = list(rng.sample(domain.names[1:], min(len(domain.names) - 1, 10))) if named else pool[ASKED:]
        known += [domain.names[0]] if named else [rng.choice(domain.names)] if with_names or not known else []
        texts += known
        counts.append(len(known))
    if distinct:
        others = drawn[n:]
        asked += [(text, -1) for _ in range(OUTSIDE) if others for text in _pool(rng.choice(others), 1, rng)]
    slipped = [with_typo(text, rng) if rng.random() < 0.05 else text for text, _ in asked]
    return Episode((*texts, *slipped), tuple(counts), tuple(place for _, place in asked), named)


def _pool(domain: Known, most: int, rng: random.Random) -> list[str]:
    """So many utterances of a domain, of as many intents as there are."""
    intents = rng.sample(domain.intents, len(domain.intents))
    found: list[str] = []
    for texts in intents * (-(-most // max(1, len(intents)))):
        if len(found) < most and (rest := [text for text in texts if text not in found] if len(texts) < 50 else texts):
            found.append(rng.choice(rest))
    return found


def evidence(anchors: Tensor, owner: Tensor, shots: Tensor, asked: Tensor) -> Tensor:
    """What the router reckons with: ``(asked, domains)`` of unit vectors ``anchors`` ``(n, d)``, whose domains are ``owner`` ``(n,)``."""
    belongs = F.one_hot(owner, len(shots)).to(asked.dtype)
    weights = ((asked @ anchors.T) / SOFTNESS).exp() @ belongs
    nearest = SOFTNESS * (weights / shots).log()
    middle = asked @ F.normalize(belongs.T @ anchors, dim=-1).T
    return nearest + WHOLE * USUAL_FEW / (USUAL_FEW + shots) * (middle - nearest)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A step: all questions of its pairs, how many of them each part has, their answers and what answers none of them, part by part; the texts of
    all its episodes, and these."""

    asked: Block
    sizes: tuple[int, ...]
    said: tuple[Block, ...]
    rest: tuple[Block | None, ...]
    texts: Block
    episodes: tuple[Episode, ...]


class Steps(Dataset[Drawn]):
    """What is drawn for each step, tokenised."""

    def __init__(self, pairs: Pairs, known: Mapping[str, Sequence[Known]], episodes: int, seed: int) -> None:
        """``known`` as :func:`families` gives it; ``episodes``: of a step."""
        self._pairs, self._seed, self._episodes = pairs, seed, episodes
        self._known = {name: domains for name, domains in known.items() if domains}

    def __len__(self) -> int:
        return len(self._pairs)

    def drawn(self, step: int) -> tuple[Episode, ...]:
        """The episodes of a step."""
        rng = random.Random(self._seed * 2_000_003 + step)
        chosen = rng.choices(list(self._known), [FAMILIES.get(name, 1.0) for name in self._known], k=self._episodes)
        return tuple(episode(self._known[name], rng, name not in ALIKE) for name in chosen)

    def __getitem__(self, step: int) -> Drawn:
        tokens, parts, episodes = self._pairs.tokens, self._pairs.parts(step), self.drawn(step)
        return Drawn(
            tokens([asked for pairs, _ in parts for asked, _ in pairs]),
            tuple(len(pairs) for pairs, _ in parts),
            tuple(tokens([said for _, said in pairs]) for pairs, _ in parts),
            tuple(tokens(rest) if rest else None for _, rest in parts),
            tokens([text for one in episodes for text in one.texts]),
            episodes,
        )


class Encoder(torch.nn.Module):
    """BERT and the dense layer above its mean, and the levels below which nothing belongs anywhere: by utterances, by names."""

    def __init__(self, student: Path) -> None:
        super().__init__()
        self.bert = BertModel.from_pretrained(student, add_pooling_layer=False)
        self.dense = torch.nn.Linear(WIDTH, WIDTH)
        state = load_file(student / "2_Dense/model.safetensors")
        self.dense.load_state_dict({name.removeprefix("linear."): value for name, value in state.items()})
        self.levels = torch.nn.Parameter(torch.tensor([0.3, 0.3]))

    def forward(self, block: Block) -> Tensor:
        """Unit vectors of padded texts."""
        return embed(self.bert, self.dense, block[0].to(device(), non_blocking=True), block[1].to(device(), non_blocking=True))

    def gathered(self, vectors: Tensor, one: Episode) -> Tensor:
        """The loss of an episode, whose texts are ``vectors``."""
        shots = torch.tensor(one.shots, device=device())
        owner = torch.arange(len(shots), device=device()).repeat_interleave(shots)
        found = evidence(vectors[: len(owner)], owner, shots, vectors[len(owner) :])
        level = self.levels[int(one.named)].expand(len(found), 1)
        wanted = torch.tensor(one.wanted, device=device())
        if bool((wanted < 0).any()):
            found = torch.cat([found, level], dim=1)
            wanted = torch.where(wanted < 0, len(shots), wanted)
        return F.cross_entropy(found / TEMPERATURE, wanted) / math.log(len(shots))


def train(
    steps: Steps,
    anchors: Tokens,
    start: Path,
    work: Path,
    rate: float,
    seed: int,
    scale: int,
    workers: int = 0,
    minutes: float = 0.0,
    share: float = SHARE,
) -> None:
    """Run or resume; leaves ``work/student`` as :mod:`~mdsa_local.training.distil` does. ``anchors``: texts held to what they are at the start."""
    torch.manual_seed(seed)
    encoder = Encoder(start / "student").to(device())
    before = copy.deepcopy(encoder).eval()
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    checkpoint = work / "gather.pt"
    step = resume(checkpoint, encoder=encoder, optimiser=optimiser)
    plan = Schedule(rate, len(steps), WARM, minutes)
    began, first = time.time(), step
    todo = Subset(steps, range(step, len(steps)))
    for drawn in DataLoader(todo, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None):
        if plan.done(step) >= 1:
            break
        plan.set(optimiser, step)
        optimiser.zero_grad(set_to_none=True)
        asked = encoder(drawn.asked).split(drawn.sizes)
        paired = [
            contrasted(questions, encoder(said), encoder(rest) if rest else None)
            for questions, said, rest in zip(asked, drawn.said, drawn.rest, strict=True)
        ]
        vectors = encoder(drawn.texts).split([len(one.texts) for one in drawn.episodes])
        gathered = torch.stack([encoder.gathered(own, one) for own, one in zip(vectors, drawn.episodes, strict=True)]).mean()
        most = min(32 * scale, len(anchors.lengths))
        block = anchors.batch(np.random.default_rng(seed * 7919 + step).choice(len(anchors.lengths), most, replace=False))
        with torch.no_grad():
            target = before(block)
        held = departure(encoder(block), target)[0]
        loss = sum((share * one for share, one in zip(SHARES, paired, strict=True)), GATHERING * gathered + HOLDING * held)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 50 == 0:
            figures = [round(float(one.detach()), 3) for one in (*paired, gathered, held)]
            print(f"step {step} losses {figures} {(time.time() - began) / (step - first):.3f} s/step", flush=True)
        if step % 250 == 0:
            keep(checkpoint, step, encoder=encoder, optimiser=optimiser)
    keep(checkpoint, step, encoder=encoder, optimiser=optimiser)
    with torch.no_grad():
        for own, first_one in zip(encoder.parameters(), before.parameters(), strict=True):
            own.lerp_(first_one, 1 - share)
    finish(encoder.bert, encoder.dense, AutoTokenizer.from_pretrained(start / "student"), work)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the public data sets")
    parser.add_argument("--start", type=Path, required=True, help="folder of the finished second run")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoint and result")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: after the steps")
    parser.add_argument("--scale", type=int, default=0, help="how many times the pairs of a small step; 0: 8 on a GPU, 1 on a CPU")
    parser.add_argument("--episodes", type=int, default=0, help="of a step; 0: 12 on a GPU, 1 on a CPU")
    parser.add_argument("--held", type=int, default=60_000, help="texts that are held to their vectors")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--share", type=float, default=SHARE, help="how much of the way from the first weights is kept")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the steps")
    args = begun(parser)
    large = device().type == "cuda"
    scale = args.scale or (8 if large else 1)
    tokenizer = args.start / "student"
    kept = args.work / "tokens.npz"
    texts = [] if kept.exists() else encoder_texts(args.data, args.seed)[: args.held]
    anchors = Tokens(texts, AutoTokenizer.from_pretrained(tokenizer), most=64, kept=kept)
    pairs = Pairs(args.data, tokenizer, args.steps, scale, args.seed)
    steps = Steps(pairs, families(args.data, args.seed), args.episodes or (12 if large else 1), args.seed)
    train(steps, anchors, args.start, args.work, args.rate, args.seed, scale, args.workers, args.minutes, args.share)


if __name__ == "__main__":
    from mdsa_local.cli.output import ended

    ended(main)
