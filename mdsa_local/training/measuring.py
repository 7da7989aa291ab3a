"""What an adapter is worth, measured where it is to work: the GGUF base with the GGUF adapter, in llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdsa_local.domains.asking import Asked
from mdsa_local.errors import BackendError
from mdsa_local.runtime.backend import Finished
from mdsa_local.runtime.llamacpp import LlamaCppBackend, threads_for
from mdsa_local.runtime.native import Context, ContextOptions
from mdsa_local.training.lora import Example
from mdsa_local.training.pairs import score

# Tokens evaluated at once; logits are made for each, so a large vocabulary wants few.
PIECE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Held:
    """A held-out question: what the model is asked, what it has to write, and both as tokens."""

    asked: Asked
    expected: str
    example: Example


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the held-out questions. ``loss``: nats for each token of the expected answers; ``answer_f1``: each answer as it is written against
    the expected one, 0..1; ``scores``: those one by one."""

    loss: float
    answer_f1: float
    scores: tuple[float, ...]


def measure(
    backend: LlamaCppBackend,
    held: Sequence[Held],
    adapter: Path | None,
    threads: int,
    deadline_s: float,
    tell: Callable[[int, int], None] | None = None,
) -> Figures:
    """The figures of the model in ``backend`` with ``adapter``, or alone. Raises :class:`ModelFileError` when the two do not fit."""
    path = str(adapter or "")
    scores = []
    for at, one in enumerate(held):
        generation = one.asked.generation.model_copy(update={"adapter": path, "temperature": 0.0})
        pieces = backend.stream(one.asked.messages, generation, deadline_s=deadline_s)
        scores.append(score("".join(piece for piece in pieces if not isinstance(piece, Finished)), one.expected))
        if tell:
            tell(at + 1, len(held))
    options = ContextOptions(backend.n_context_tokens, 1, PIECE_TOKENS, PIECE_TOKENS, threads_for(threads))
    with closing(Context(backend.weights, options)) as context:
        context.use_adapter(context.load_adapter(path))
        found = [losses(context, one.example) for one in held]
    return Figures(sum(map(sum, found)) / sum(map(len, found)), sum(scores) / len(scores), tuple(scores))


def losses(context: Context, example: Example) -> list[float]:
    """The loss of each token of the target, in nats."""
    context.cut(0, 0)
    tokens = (*example.prompt, *example.target)
    first = len(example.prompt) - 1
    out: list[float] = []
    for begin, end in [*_pieces(0, first), *_pieces(first, len(tokens) - 1)]:
        wanted = end - begin if begin >= first else 0
        context.clear()
        row = context.add(0, begin, tokens[begin:end], wanted)
        if context.decode() != 0:
            raise BackendError(f"{context.model.path}: llama.cpp could not evaluate {len(tokens)} tokens", "Lower context_tokens.")
        out += [-float(context.log_probabilities(row + i)[tokens[begin + i + 1]]) for i in range(wanted)]
    return out


def _pieces(begin: int, end: int) -> list[tuple[int, int]]:
    return [(at, min(at + PIECE_TOKENS, end)) for at in range(begin, end, PIECE_TOKENS)]


def wins(base: Figures, adapted: Figures) -> bool:
    """Whether the adapter is better: the answers' mean F1 higher by more than the standard error of the differences, and the loss lower."""
    gains = np.subtract(adapted.scores, base.scores)
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return bool(gains.mean() > error and adapted.loss < base.loss)
