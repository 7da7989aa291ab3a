"""Whether a request had better join the answers under way, or wait until one of them ends.

Together several sequences read the weights once for a token of each. But on a CPU every token is compared with all cells in use, those of other
sequences too, which are masked only afterwards: behind long prompts that costs more than it saves. Eight requests of 470 tokens with 48 to
write took 73 s of processor time at once and 50 one after the other, and were waited for 83 and 42 s on average (0.5B parameters, Q4_0, a thread).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdsa_local.runtime.gguf import GGUFInfo

# Time in parts of what as many multiplications take when cells are compared as the weights have numbers: to read a token of a prompt, to write one
# alone, and what writing one saves beside others, from SAVING of them on, because llama.cpp multiplies rows by fours. Measured with 0.5B parameters,
# Q4_0: 7.5 ms, 20 ms, 7 ms; comparing with a thousand cells takes 2.4 ms.
READ, WRITE, SAVED, SAVING = 0.27, 0.72, 0.25, 4
# By so much of its own time a request may make the work longer for the sake of beginning at once.
SLACK = 0.1
# Tokens of prompts in a batch beside answers under way: half as long a pause for them, at 98 % of the speed of reading.
SHARED_TOKENS = 32
# One with so much less to do than another has left does not wait for that: it would wait out of all proportion.
SHORT = 2


@dataclass(frozen=True, slots=True)
class Work:
    """What a request will do, or has still to do: tokens of its prompt to ``read`` and of its answer to ``write``; ``cells`` that it fills alone in
    the end."""

    cells: int
    read: int
    write: int


def weights_per_cell(info: GGUFInfo) -> float:
    """How many multiplications a token takes with the weights for one that it takes with each cell."""
    return info.n_parameters / max(1, info.n_layers * info.n_heads * (info.key_length + info.value_length))


def joins(new: Work, others: Sequence[Work], weights: float) -> bool:
    """Whether ``new`` is to be evaluated beside ``others``; ``weights`` as :func:`weights_per_cell` says."""
    own = _time(new)
    if not others or SHORT * own <= max(map(_time, others)):
        return True
    compared = 0.0
    for other in others:
        # While one reads, the others go on by a token a batch.
        compared += min(new.read, SHARED_TOKENS * other.write) * other.cells
        compared += min(new.write, max(0.0, other.write - new.read / SHARED_TOKENS)) * (other.cells + new.cells)
    saved = SAVED * min(new.write, sum(other.write for other in others)) if len(others) + 1 >= SAVING else 0.0
    return compared <= weights * (SLACK * own + saved)


def _time(work: Work) -> float:
    return READ * work.read + WRITE * work.write
