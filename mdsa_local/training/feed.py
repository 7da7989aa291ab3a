"""Batches without end for the small model, and where the feed stands, so that a training goes on with the very batch it was about to take."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from mdsa_local.errors import InputError
from mdsa_local.evaluation.overlap import Guard
from mdsa_local.training.extracts import Extracts
from mdsa_local.training.grounded import Prose, Templates, example
from mdsa_local.training.nano import echo, encode
from mdsa_local.training.recipe import Recipe, Stage
from mdsa_local.training.tokenizer import SPECIAL

PAD = SPECIAL.index("<|pad|>")
# Batches made and shuffled at once, rows of like length together.
ROUND = 8
# A row longer than its stage takes is made again; templates of which none fits would never end.
ATTEMPTS = 20_000
Row = tuple[list[int], list[float]]


class Feed:
    """Batches of about ``recipe.batch_tokens`` tokens. Questions too near to those of ``guard`` are left out and counted in ``dropped``."""

    def __init__(self, tokenizer: Tokenizer, templates: Templates, prose: Prose, extracts: Extracts, recipe: Recipe, guard: Guard, seed: int) -> None:
        self._tokenizer, self._templates, self._prose, self._extracts = tokenizer, templates, prose, extracts
        self._recipe, self._guard = recipe, guard
        self._rng = random.Random(seed * 7919)
        self._round: list[list[Row]] = []
        self._counted = 0.0
        self._at = 0
        self._begun: tuple[Any, float, int] = (self._rng.getstate(), 0.0, 0)
        self.dropped = 0

    def batch(self, share: float) -> tuple[Tensor, Tensor, float]:
        """Token ids ``(n, length)``, their weights as targets, and the share of the passages' tokens that count; ``share`` of the training is
        done. Raises :class:`InputError` when all questions are too near to those that judge the model, or no example fits."""
        while self._at >= len(self._round):
            self._begin(share)
            self._at = 0
        group = self._round[self._at]
        self._at += 1
        width = len(group[-1][0])
        ids = torch.full((len(group), width), PAD)
        weights = torch.zeros(len(group), width)
        for i, (tokens, weight) in enumerate(group):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            weights[i, : len(tokens)] = torch.tensor(weight)
        return ids, weights, self._counted

    def state(self) -> dict[str, Any]:
        """Where the feed stands."""
        (version, numbers, gauss), share, dropped = self._begun
        return {"random": [version, list(numbers), gauss], "share": share, "dropped": dropped, "at": self._at}

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where a feed stood."""
        version, numbers, gauss = state["random"]
        self._rng.setstate((version, tuple(numbers), gauss))
        self.dropped = state["dropped"]
        self._round = []
        if state["at"]:
            self._begin(state["share"])
        self._at = state["at"]

    def _begin(self, share: float) -> None:
        """Make the batches of a round."""
        self._begun = (self._rng.getstate(), share, self.dropped)
        stage = next(stage for stage in self._recipe.stages if share <= stage.until)
        size = int(self._recipe.batch_tokens * stage.batch)
        rows = self._apart(self._rows(stage, ROUND * size))
        rows.sort(key=lambda row: len(row[0]))
        packed: list[list[Row]] = [[]]
        for row in rows:
            if packed[-1] and (len(packed[-1]) + 1) * len(row[0]) > size:
                packed.append([])
            packed[-1].append(row)
        if len(packed) > 1:
            # The last is seldom full.
            packed.pop()
        self._rng.shuffle(packed)
        self._round, self._counted = packed, stage.counted

    def _rows(self, stage: Stage, tokens: int) -> list[tuple[Row, str]]:
        """Rows of ``tokens`` together, each with its question; random tokens to repeat have none."""
        rng, rows, made, attempts = self._rng, list[tuple[Row, str]](), 0, 0
        while made < tokens:
            question = ""
            if rng.random() < stage.echoes:
                row = echo(self._tokenizer, rng)
            else:
                if rng.random() < stage.extracts:
                    found = self._extracts.example(rng)
                else:
                    found = example(rng, self._templates, self._prose, stage.passages, stage.sentences, 0.78)
                row, question = encode(self._tokenizer, found), found.question
            attempts += 1
            if len(row[0]) <= stage.tokens:
                rows.append((row, question))
                made += len(row[0])
            elif attempts - len(rows) > ATTEMPTS:
                raise InputError(
                    f"of {attempts} examples {len(rows)} have at most {stage.tokens} tokens",
                    "Give the stages of the recipe more tokens, or a larger vocabulary.",
                )
        return rows

    def _apart(self, rows: Sequence[tuple[Row, str]]) -> list[Row]:
        """The rows whose question is not too near to one that judges the model."""
        asked = [question for _, question in rows if question]
        near = {question for question, found in zip(asked, self._guard.near(asked), strict=True) if found}
        kept = [row for row, question in rows if question not in near]
        self.dropped += len(rows) - len(kept)
        if not kept:
            raise InputError(
                f"all {len(rows)} questions of a round are too near to questions that judge the model",
                "Write templates apart from the evaluation set; `mdsa eval answers --overlap` lists the nearest.",
            )
        return kept
