"""Beginnings of prompts whose keys and values stay in memory for the next request: what is reusable, and what goes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdsa_local.runtime.native import BATCH_TOKENS, Context
from mdsa_local.runtime.prefix_store import PrefixStore

# Shorter beginnings are evaluated again: that takes one batch.
LEAST_TOKENS = 32
# Of those that are no static prefix, how many stay: on a CPU every token attends to all cells in use, masked or not, so what is kept has a price
# (eight of 85 tokens made eight answers at once 13 % slower, 0.5B parameters).
MOST_PLAIN = 2


@dataclass(slots=True, eq=False)
class Kept:
    """Tokens in memory under a sequence of their own; the first ``n_prompt`` were a prompt, the rest its answer.

    ``warm``: a static prefix, kept longer than others and saved on unload. ``used`` grows with each use.
    """

    sequence: int
    tokens: Sequence[int]
    n_prompt: int
    n_static: int
    warm: bool
    used: int
    adapter: str = ""
    saved: bool = False


class Prefixes:
    """The table of kept beginnings of one context, at most ``most``."""

    def __init__(self, context: Context, sequences: list[int], most: int, store: PrefixStore | None = None) -> None:
        """``sequences``: the ids that are free, shared with whoever seats requests. Static prefixes go to ``store``, if there is one."""
        self._context, self._free, self._most, self._store = context, sequences, most, store
        self.entries: list[Kept] = []
        self._clock = 0

    def begin(self, sequence: int, prompt: Sequence[int], adapter: str) -> int:
        """Let the empty ``sequence`` begin with the longest kept beginning of ``prompt`` under ``adapter``; the number of tokens, 0 for none."""
        usable = [kept for kept in self.entries if kept.adapter == adapter]
        lengths = [(reusable(kept, prompt, self._context.model.cuttable), kept) for kept in usable]
        best, kept = max(lengths, key=lambda pair: pair[0], default=(0, None))
        if kept is None or not best:
            return 0
        self._touch(kept)
        self._context.copy(kept.sequence, sequence, best)
        return best

    def keep(self, sequence: int, tokens: Sequence[int], n_prompt: int, n_static: int, adapter: str) -> None:
        """Keep a finished sequence as it is, in place of those that it continues; or free it where it is too short to be worth it."""
        if len(tokens) < LEAST_TOKENS:
            self.release(sequence)
            return
        alike = [kept for kept in self.entries if kept.adapter == adapter and not kept.warm]
        for old in [kept for kept in alike if kept.tokens == tokens[: len(kept.tokens)]]:
            self._drop(old)
        self._add(Kept(sequence, tokens, n_prompt, n_static, False, 0, adapter))

    def snapshot(self, sequence: int, tokens: Sequence[int], adapter: str) -> None:
        """Keep what ``sequence`` holds at this moment, ``tokens``, as a static prefix; nothing is moved, the cells are shared."""
        if self.warm(tokens, adapter) or len(tokens) < LEAST_TOKENS:
            return
        # Room among the ids first: the new one may need that of the oldest.
        self._make_room()
        if self._free:
            own = self._free.pop()
            self._context.copy(sequence, own, len(tokens))
            self._add(Kept(own, list(tokens), len(tokens), len(tokens), True, 0, adapter))

    def restore(self, tokens: Sequence[int], adapter: str) -> None:
        """Read a static prefix back from disk, if it is there and not in memory."""
        if self._store is None or len(tokens) < LEAST_TOKENS or self.warm(tokens, adapter):
            return
        if (state := self._store.load(tokens, adapter)) is None:
            return
        self._make_room()
        sequence = self._free.pop()
        if self._context.restore(sequence, state) and self._context.length(sequence) == len(tokens):
            self._add(Kept(sequence, list(tokens), len(tokens), len(tokens), True, 0, adapter, saved=True))
        else:
            self.release(sequence)
            self._store.drop(tokens, adapter)

    def unsaved(self) -> bool:
        """Whether a static prefix is not on disk yet."""
        return self._store is not None and any(kept.warm and not kept.saved for kept in self.entries)

    def save(self) -> None:
        """Write every static prefix to disk that is not there."""
        for kept in self.entries:
            self._save(kept)

    def _save(self, kept: Kept) -> None:
        if self._store is not None and kept.warm and not kept.saved:
            self._store.save(kept.tokens, self._context.state(kept.sequence), kept.adapter)
            kept.saved = True

    def warm(self, tokens: Sequence[int], adapter: str) -> bool:
        """Whether exactly these tokens are kept as a static prefix."""
        return any(kept.warm and kept.adapter == adapter and kept.tokens == tokens for kept in self.entries)

    def evict(self) -> bool:
        """Drop the one that is worth least; False when there is none."""
        if not self.entries:
            return False
        self._drop(least_worth(self.entries))
        return True

    def _add(self, kept: Kept) -> None:
        self._make_room()
        plain = [other for other in self.entries if not other.warm]
        if not kept.warm and len(plain) >= MOST_PLAIN:
            self._drop(least_worth(plain))
        self._touch(kept)
        self.entries.append(kept)

    def _make_room(self) -> None:
        while len(self.entries) >= self._most:
            self.evict()

    def _touch(self, kept: Kept) -> None:
        self._clock += 1
        kept.used = self._clock

    def _drop(self, kept: Kept) -> None:
        self._save(kept)
        self.entries.remove(kept)
        self.release(kept.sequence)

    def release(self, sequence: int) -> None:
        """Empty a sequence and give back its id."""
        self._context.cut(sequence, 0)
        self._free.append(sequence)


def reusable(kept: Kept, prompt: Sequence[int], cuttable: bool) -> int:
    """How many tokens of ``prompt`` may begin from ``kept``: all but one at most, and within a prompt only whole batches as :func:`boundary`
    cuts them, so that the rest is evaluated in batches of the same shape as without reuse."""
    shared = common(kept.tokens, prompt[:-1])
    if not cuttable:
        return shared if shared == len(kept.tokens) else 0
    if shared > kept.n_prompt or shared == kept.n_static:
        return shared
    return floor(shared, kept.n_static)


def floor(length: int, n_static: int) -> int:
    """The last boundary at or before ``length``."""
    start = n_static if length >= n_static else 0
    return start + (length - start) // BATCH_TOKENS * BATCH_TOKENS


def boundary(length: int, n_static: int) -> int:
    """The boundary after ``length``: batches count from the beginning up to the end of the static prefix, and anew from there."""
    following = floor(length, n_static) + BATCH_TOKENS
    return n_static if length < n_static < following else following


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common beginning. By halves, because lists are compared in C."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def least_worth(entries: Sequence[Kept]) -> Kept:
    """Which goes first: the least recently used, static prefixes last."""
    return min(entries, key=lambda kept: (kept.warm, kept.used))
