"""Train the small model by a recipe; go on where a kill, a full disk or the end of the day stopped it, to the same end.

``pretrain`` and ``ground`` are two parts of one training: one schedule of the learning rate, one optimiser, one feed.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from mdsa_local.errors import InputError
from mdsa_local.evaluation.overlap import Guard
from mdsa_local.evaluation.questions import Case
from mdsa_local.routing.encoder import Encoder
from mdsa_local.training import sources
from mdsa_local.training import tokenizer as tokenizers
from mdsa_local.training.checkpoint import load, save
from mdsa_local.training.curve import Log
from mdsa_local.training.extracts import Extracts
from mdsa_local.training.feed import PAD, Feed
from mdsa_local.training.grounded import Prose, Templates
from mdsa_local.training.nano import Nano, losses, semantic, structured
from mdsa_local.training.recipe import Recipe
from mdsa_local.training.workshop import Workshop, difference

# Steps between two lines of the log; the shipped model took about 4,500.
LOG_EVERY = 10
STEPS = ("pretrain", "ground")


@dataclass(slots=True)
class Progress:
    """How far a training is: optimiser ``step``, ``tokens`` seen of ``end`` that this command trains to, of ``total``; loss of the last step, running
    means of the answers' loss and of the share of quotations begun right; ``dropped``: questions left out as too near to the evaluation's."""

    step: int = 0
    tokens: int = 0
    end: float = 0.0
    total: int = 0
    loss: float = math.nan
    answer_loss: float = 0.0
    lead_accuracy: float = 0.0
    tokens_per_s: float = 0.0
    dropped: int = 0

    @property
    def seconds_left(self) -> float:
        """Until ``end`` at the present rate."""
        return max(0.0, self.end - self.tokens) / self.tokens_per_s if self.tokens_per_s else math.inf

    def count(self, loss: float, answer: float, led: float) -> None:
        """Take in the figures of a step."""
        running, leads = self.answer_loss, self.lead_accuracy
        self.loss = loss
        self.answer_loss = answer if not running or not math.isfinite(running) else 0.95 * running + 0.05 * answer
        self.lead_accuracy = led if not leads or not math.isfinite(leads) else 0.95 * leads + 0.05 * led if math.isfinite(led) else leads

    def line(self) -> dict[str, Any]:
        """As a line of the log."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "loss": finite(self.loss, 4),
            "answer_loss": finite(self.answer_loss, 4),
            "lead_accuracy": finite(self.lead_accuracy, 3),
            "tokens_per_s": round(self.tokens_per_s),
        }


def finite(value: float, digits: int) -> float | None:
    """``value`` rounded, or None where there is none yet: JSON knows no NaN. While it only echoes, no quotation begins."""
    return round(value, digits) if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Material:
    """What is trained on, and the questions it has to stay apart from."""

    data: Path
    templates: Path
    apart_from: Sequence[Case] = field(default=())

    def fingerprint(self) -> str:
        """Equal as long as templates and data files are the same, by content and by size."""
        files = sources.need(self.data, ("medquad", *sources.BOOKS))
        told = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(self.templates.glob("*.yaml"))]
        told += [(path.name, str(path.stat().st_size)) for path in files]
        asked = [case.question for case in self.apart_from]
        return hashlib.sha256(repr((told, asked)).encode()).hexdigest()


class Trainer:
    """One training in memory: model, optimiser, feed and progress."""

    def __init__(self, run: Workshop, material: Material, where: torch.device) -> None:
        """Everything as at the first step. Raises :class:`InputError` for missing or broken data, or without a tokenizer."""
        tokenizer = tokenizers.read(run.tokenizer)
        self._where, self._run = where, run
        self.material = material.fingerprint()
        templates, prose, encoder = Templates(material.templates), Prose(material.data), Encoder.load("tinybert")
        self.feed = Feed(
            tokenizer, templates, prose, Extracts(templates, prose, run.folder), run.recipe, Guard(material.apart_from, encoder), run.seed
        )
        torch.manual_seed(run.seed)
        self.model = fresh(run.recipe, tokenizer).to(where)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=run.recipe.rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
        self.progress = Progress(total=run.recipe.tokens)
        self.tokenizer_sha256 = hashlib.sha256(run.tokenizer.read_bytes()).hexdigest()

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs to go on to the same end."""
        progress = self.progress
        return {
            "recipe": self._run.recipe.model_dump(mode="json"),
            "shape": self.model.shape.model_dump(),
            "seed": self._run.seed,
            "material": self.material,
            "tokenizer": self.tokenizer_sha256,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "feed": self.feed.state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if self._where.type == "cuda" else None,
            "progress": [progress.step, progress.tokens, progress.answer_loss, progress.lead_accuracy],
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Stand where the checkpoint ``path`` stood. Raises :class:`InputError` when it is of another training."""
        mine = self._run.recipe.model_dump(mode="json")
        if state.get("recipe") != mine:
            raise _other(path, "recipe", difference(state["recipe"], mine) if isinstance(state.get("recipe"), dict) else "none")
        for key, now in (("shape", self.model.shape.model_dump()), ("seed", self._run.seed)):
            if state[key] != now:
                raise _other(path, key, f"{state[key]}, now {now}")
        for key, now, what in (
            ("tokenizer", self.tokenizer_sha256, "tokenizer.json"),
            ("material", self.material, "data, templates or evaluation set"),
        ):
            if state[key] != now:
                raise _other(path, what, "they have changed since")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.feed.restore(state["feed"])
        torch.set_rng_state(state["torch"].cpu())
        if self._where.type == "cuda" and state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"].cpu())
        progress = self.progress
        progress.step, progress.tokens, progress.answer_loss, progress.lead_accuracy = state["progress"]

    def step(self) -> None:
        """One step of the optimiser."""
        recipe, progress = self._run.recipe, self.progress
        ids, weights, counted = self.feed.batch(progress.tokens / recipe.tokens)
        share = progress.tokens / recipe.tokens
        warm = min(1.0, (progress.step + 1) / recipe.warm_steps)
        self.optimiser.param_groups[0]["lr"] = recipe.rate * warm * min(1.0, (1.03 - share) / 0.5)
        loss, answer, led = losses(self.model, ids.to(self._where), weights.to(self._where), counted)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        progress.step += 1
        progress.tokens += int((ids != PAD).sum())
        progress.dropped = self.feed.dropped
        progress.count(loss.item(), answer, led)


def fresh(recipe: Recipe, tokenizer: Tokenizer) -> Nano:
    """A model before its first step."""
    model = Nano(recipe.shape.model_copy(update={"vocabulary": tokenizer.get_vocab_size()}))
    structured(model)
    semantic(model, tokenizer)
    return model


def train(
    run: Workshop,
    step: str,
    material: Material,
    where: torch.device,
    *,
    steps: int | None = None,
    keep_every: int = 100,
    tell: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Run or resume ``step`` (of :data:`STEPS`), at most ``steps`` of the optimiser in this call; ``tell`` hears of each.

    Raises :class:`InputError`, :class:`StorageError`; the last checkpoint is then whole.
    """
    checkpoint = run.checkpoint(step)
    before = run.checkpoint("pretrain") if step == "ground" and run.recipe.end_of("pretrain") else None
    if before and not checkpoint.exists() and not before.exists():
        raise InputError(f"{before} is missing", "Run `mdsa train pretrain` first.")
    trainer = Trainer(run, material, where)
    progress = trainer.progress
    found = checkpoint if checkpoint.exists() else before
    if found:
        trainer.restore(load(found, where), found)
    progress.end = run.ends[step]
    if found is before and before and progress.tokens < run.ends["pretrain"]:
        done = 100 * progress.tokens / run.ends["pretrain"]
        raise InputError(f"{before}: pretraining has come to {done:.0f} %", "Run `mdsa train pretrain` to its end first.")
    log = Log(run.log, progress.step)
    began, first, last = time.perf_counter(), progress.tokens, progress.step + steps if steps else None
    while progress.tokens < progress.end and progress.step != last:
        trainer.step()
        progress.tokens_per_s = (progress.tokens - first) / (time.perf_counter() - began)
        ended = progress.tokens >= progress.end or progress.step == last
        if progress.step % LOG_EVERY == 0 or ended:
            log.add(progress.line())
        if progress.step % keep_every == 0 or ended:
            save(trainer.state(), checkpoint)
        tell(progress)
    return progress


def _other(path: Path, name: str, what: str) -> InputError:
    return InputError(f"{path}: a checkpoint of another {name}: {what}", "Put back what it was made with, or begin in another --run folder.")
