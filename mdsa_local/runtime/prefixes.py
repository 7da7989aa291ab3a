"""Beginnings of prompts whose keys and values are kept for the next request: what is reusable, where it lies, and what goes first.

On a CPU every token attends to all cells up to the last one in use, masked or not: 500 more cost a token 15 % with 0.5B parameters. So what no
running answer uses leaves the cells when a request begins, and waits as bytes, which are made beforehand when there is time; to put 85 tokens back
takes a millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdsa_local.runtime.native import BATCH_TOKENS, Context
from mdsa_local.runtime.prefix_store import PrefixStore

# Shorter beginnings are evaluated again: that takes one batch.
LEAST_TOKENS = 32
# The sequence of what is out of the context's cells.
PARKED = -1
# Of those that are no static prefix, how many stay.
MOST_PLAIN = 2


@dataclass(slots=True, eq=False)
class Kept:
    """Tokens that were evaluated; the first ``n_prompt`` were a prompt, the rest its answer.

    They are in the context's cells under a ``sequence`` of their own, or it is :data:`PARKED` and all there is of them is ``state``, which may be
    there in both cases. ``warm``: a static prefix, kept longer than others and saved on unload. ``used`` grows with each use. ``adapter``: the mark
    of that with which they were read.
    """

    sequence: int
    tokens: Sequence[int]
    n_prompt: int
    n_static: int
    warm: bool
    used: int
    adapter: str = ""
    saved: bool = False
    state: bytes = b""

    @property
    def parked(self) -> bool:
        """Whether it is out of the context's cells."""
        return self.sequence == PARKED


class Prefixes:
    """The table of kept beginnings of one context, at most ``most``."""

    def __init__(self, context: Context, sequences: list[int], most: int, store: PrefixStore | None = None, parked_bytes: int = 0) -> None:
        """``sequences``: the ids that are free, shared with whoever seats requests. Static prefixes go to ``store``, if there is one. States of
        at most ``parked_bytes`` together wait outside the context; what does not fit stays inside."""
        self._context, self._free, self._most, self._store = context, sequences, most, store
        self._parked_bytes = parked_bytes
        self.entries: list[Kept] = []
        # By the sequence of a request, what it began with: while it runs, the cells are shared.
        self._users: dict[int, Kept] = {}
        self._clock = 0

    def reach(self, prompt: Sequence[int]) -> int:
        """How many tokens of ``prompt`` could begin from what is kept, whatever its adapter."""
        return max((reusable(kept, prompt, self._context.model.cuttable) for kept in self.entries), default=0)

    def begin(self, sequence: int, prompt: Sequence[int], adapter: str) -> int:
        """Let the empty ``sequence`` begin with the longest kept beginning of ``prompt`` under ``adapter``; the number of tokens, 0 for none."""
        usable = [kept for kept in self.entries if kept.adapter == adapter]
        lengths = [(reusable(kept, prompt, self._context.model.cuttable), kept) for kept in usable]
        best, kept = max(lengths, key=lambda pair: pair[0], default=(0, None))
        for other in self.entries:
            if not (best and other is kept) and not self._in_use(other):
                self._park(other)
        if kept is None or not best or not self._wake(kept):
            return 0
        self._touch(kept)
        self._context.copy(kept.sequence, sequence, best)
        self._users[sequence] = kept
        return best

    def keep(self, sequence: int, tokens: Sequence[int], n_prompt: int, n_static: int, adapter: str) -> None:
        """Keep a finished sequence as it is, in place of those that it continues; or free it where it is too short to be worth it."""
        if len(tokens) < LEAST_TOKENS:
            self.release(sequence)
            return
        self._users.pop(sequence, None)
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
            self._users[sequence] = kept = Kept(own, list(tokens), len(tokens), len(tokens), True, 0, adapter)
            self._add(kept)

    def restore(self, tokens: Sequence[int], adapter: str) -> None:
        """Read a static prefix back from disk, if it is there and not in memory."""
        if self._store is None or len(tokens) < LEAST_TOKENS or self.warm(tokens, adapter):
            return
        if (state := self._store.load(tokens, adapter)) is None:
            return
        kept = Kept(PARKED, list(tokens), len(tokens), len(tokens), True, 0, adapter, saved=True, state=state)
        self._make_room()
        for other in self.entries:
            if not self._in_use(other):
                self._park(other)
        if self._wake(kept):
            self._add(kept)
        elif not any(self._context.length(each) for each in range(self._context.options.sequences)):
            # All cells were free: it is no state of this context.
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
            self._store.save(kept.tokens, kept.state or self._context.state(kept.sequence), kept.adapter)
            kept.saved = True

    def warm(self, tokens: Sequence[int], adapter: str) -> bool:
        """Whether exactly these tokens are kept as a static prefix."""
        return any(kept.warm and kept.adapter == adapter and kept.tokens == tokens for kept in self.entries)

    def forget(self, adapter: str) -> None:
        """Let go of all that was read with an adapter that no request under way has."""
        for kept in [kept for kept in self.entries if kept.adapter == adapter]:
            self.entries.remove(kept)
            if not kept.parked:
                self.release(kept.sequence)

    def evict(self) -> bool:
        """Give up cells: of what is kept in them the one worth least leaves them; False when there is none."""
        inside = [kept for kept in self.entries if not kept.parked]
        if not inside:
            return False
        # One that is in use frees nothing before its users end.
        leaving = least_worth([kept for kept in inside if not self._in_use(kept)] or inside)
        if not self._park(leaving):
            self._drop(leaving)
        return True

    def _in_use(self, kept: Kept) -> bool:
        return any(used is kept for used in self._users.values())

    def _park(self, kept: Kept) -> bool:
        """Move a beginning out of the cells; False when there is no room outside, and it stays."""
        if kept.parked:
            return True
        if not kept.state:
            size = self._context.state_bytes(kept.sequence)
            for other in self.entries:
                # What is in the cells too can be read from there again.
                if self._outside() + size > self._parked_bytes and not other.parked:
                    other.state = b""
            if self._outside() + size > self._parked_bytes:
                return False
            kept.state = self._context.state(kept.sequence)
        self.release(kept.sequence)
        kept.sequence = PARKED
        return True

    def ready(self) -> None:
        """Make the states of what would leave the cells next, as far as there is room outside: a request that begins need not wait for them."""
        for kept in sorted(self.entries, key=lambda kept: kept.used):
            if not (kept.state or kept.parked) and self._outside() + self._context.state_bytes(kept.sequence) <= self._parked_bytes:
                kept.state = self._context.state(kept.sequence)

    def _wake(self, kept: Kept) -> bool:
        """Put a beginning back into cells; False when its state does not go in."""
        if not kept.parked:
            return True
        sequence = self._free.pop()
        if not self._context.restore(sequence, kept.state) or self._context.length(sequence) != len(kept.tokens):
            self.release(sequence)
            return False
        kept.sequence = sequence
        if not kept.warm:
            # Another than a static prefix is replaced by what continues it.
            kept.state = b""
        return True

    def _outside(self) -> int:
        return sum(len(kept.state) for kept in self.entries)

    def _add(self, kept: Kept) -> None:
        self._make_room()
        plain = [other for other in self.entries if not other.warm]
        if not kept.warm and len(plain) >= MOST_PLAIN:
            self._drop(least_worth(plain))
        self._touch(kept)
        self.entries.append(kept)
        if self._outside() > self._parked_bytes and not kept.parked:
            kept.state = b""

    def _make_room(self) -> None:
        while len(self.entries) >= self._most:
            self._drop(least_worth(self.entries))

    def _touch(self, kept: Kept) -> None:
        self._clock += 1
        kept.used = self._clock

    def _drop(self, kept: Kept) -> None:
        self._save(kept)
        self.entries.remove(kept)
        if not kept.parked:
            self.release(kept.sequence)

    def release(self, sequence: int) -> None:
        """Empty a sequence and give back its id."""
        self._users.pop(sequence, None)
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
