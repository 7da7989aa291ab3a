"""llama.cpp in this process: one model, one context, one stream at a time."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendError, BackendTimeoutError, ContextOverflowError, ModelError
from mdsa_local.runtime.backend import Finished, Message, Reason
from mdsa_local.runtime.chat_template import render
from mdsa_local.runtime.gguf import memory_estimate_bytes, read_gguf
from mdsa_local.runtime.native import BATCH_TOKENS, Model
from mdsa_local.runtime.stopping import StopFilter
from mdsa_local.runtime.structured import constrained_by_grammar
from mdsa_local.settings import Settings

MAX_CONTEXT_TOKENS = 8192
ABORTED = 2
LEAD_TOKENS = 8


class LlamaCppBackend:
    """A GGUF file, loaded. Implements :class:`~mdsa_local.runtime.backend.Backend`.

    The keys and values of a prompt's beginning that the previous request had too are kept, in whole batches of 64 tokens: every token is
    then evaluated in a batch of the same shape as without reuse, so temperature 0 gives the same text either way.
    """

    def __init__(self, path: Path, name: str, n_context_tokens: int = 0, threads: int = 0) -> None:
        """Load ``path``. ``n_context_tokens`` 0 means 8192; the model's training context is the limit. ``threads`` 0 means one per core.

        Raises :class:`ModelNotFoundError`, :class:`ModelFileError`, :class:`ModelMemoryError`, :class:`BackendUnavailableError`, and
        :class:`ModelError` for a model without a chat template.
        """
        info = read_gguf(path)
        if not info.has_chat_template:
            raise ModelError(
                f"{path}: the model has no chat template, so how to put a question to it is unknown",
                "Use the 'instruct' or 'chat' build of the model, or add tokenizer.chat_template to the file.",
            )
        self.name = name
        self.n_context_tokens = context_tokens(info.context_length, n_context_tokens)
        self._path = path
        self._model = Model(path, self.n_context_tokens, threads or default_threads())
        self._control = re.compile("|".join(map(re.escape, sorted(self._model.control_texts(), key=len, reverse=True))) or r"(?!)")
        self._evaluated: list[int] = []
        self._owner = threading.Lock()
        self._tokenizer = threading.Lock()
        self._closed = self._cancelled = False

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Exact number of prompt tokens."""
        return len(self._prompt(messages))

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> Iterator[str | Finished]:
        """See :class:`~mdsa_local.runtime.backend.Backend`. A second stream waits for the first to end, at most until its own deadline."""
        deadline = time.monotonic() + deadline_s
        generation = constrained_by_grammar(generation)
        with self._owned(deadline):
            prompt = self._prompt(messages)
            if len(prompt) + 1 > self.n_context_tokens:
                raise ContextOverflowError(
                    f"the prompt has {len(prompt)} tokens; {self.name} has room for {self.n_context_tokens - 1}",
                    "Ask a shorter question, give fewer passages, or raise context_tokens.",
                )
            if self._prefill(prompt, deadline):
                if generation.refusal and self._likely(generation.refusal, prompt, deadline):
                    yield generation.refusal
                    yield Finished("stop", len(prompt), len(self._model.tokenize_part(generation.refusal)))
                    return
                # Weighing the refusal can be cancelled too, and leaves nothing to sample from.
                begin = self._likeliest(generation.choices, prompt, deadline) if generation.choices and not self._cancelled else []
                if not self._cancelled:
                    yield from self._decode(len(prompt), generation, begin, deadline)
                    return
            yield Finished("cancelled", len(prompt), 0)

    def cancel(self) -> None:
        """Stop the running stream, even while it reads its prompt, from any thread: it ends as ``cancelled``. No effect when idle."""
        self._cancelled = True
        self._model.abort.set()

    def close(self) -> None:
        """See :class:`~mdsa_local.runtime.backend.Backend`. Memory is freed at once, or when the running stream ends."""
        self._closed = True
        self.cancel()
        if self._owner.acquire(blocking=False):
            try:
                with self._tokenizer:
                    self._model.close()
            finally:
                self._owner.release()

    @contextmanager
    def _owned(self, deadline: float) -> Iterator[None]:
        if not self._owner.acquire(timeout=remaining_s(deadline)):
            raise BackendTimeoutError(f"{self.name} was busy with another request until the deadline", "Ask again, or raise request_timeout_s.")
        try:
            self._cancelled = False
            self._model.abort.clear()
            if self._closed:
                raise BackendError(f"{self.name} was closed")
            yield
        finally:
            self._owner.release()
            # close() may have come while we held the model; whoever is last frees it.
            if self._closed:
                self.close()

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        # Control tokens written out in a message would otherwise end its turn and begin a forged one.
        shown = [Message(message.role, self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", message.content)) for message in messages]
        model = self._model
        text = render(model.chat_template, shown, bos=model.bos_text, eos=model.eos_text, source=str(self._path))
        with self._tokenizer:
            if self._closed:
                raise BackendError(f"{self.name} was closed")
            return model.tokenize(text)

    def _prefill(self, prompt: list[int], deadline: float) -> bool:
        """Evaluate what the previous request did not; False when cancelled."""
        shared = next((at for at, (old, new) in enumerate(zip(self._evaluated, prompt, strict=False)) if old != new), len(self._evaluated))
        whole = min(shared, len(prompt) - 1) // BATCH_TOKENS * BATCH_TOKENS
        # Forget first: should an evaluation fail, nothing is taken for evaluated that is not.
        self._evaluated = []
        kept = self._model.keep(whole)
        with self._abort_at(deadline):
            for start in range(kept, len(prompt), BATCH_TOKENS):
                if not self._evaluate(prompt[start : start + BATCH_TOKENS], deadline):
                    return False
        self._evaluated = prompt[: len(prompt) // BATCH_TOKENS * BATCH_TOKENS]
        return True

    def _decode(self, n_prompt: int, generation: Generation, begin: list[int], deadline: float) -> Iterator[str | Finished]:
        """Sample an answer that begins with the tokens ``begin``."""
        model, stops = self._model, StopFilter(generation.stop)
        limit = min(generation.max_tokens, self.n_context_tokens - n_prompt)
        reason: Reason = "length"
        made = 0
        sampler = model.sampler(generation)
        try:
            while made < limit:
                if made < len(begin):
                    token = begin[made]
                    sampler.accept(token)
                else:
                    token = sampler.sample()
                if model.ends(token):
                    reason = "stop"
                    break
                made += 1
                if text := stops.feed(model.piece(token)):
                    yield text
                if stops.stopped:
                    reason = "stop"
                    break
                if made < limit and not self._evaluate([token], deadline):
                    reason = "cancelled"
                    break
        finally:
            sampler.close()
        if rest := stops.flush():
            yield rest
        yield Finished(reason, n_prompt, made)

    def _likely(self, text: str, prompt: list[int], deadline: float) -> bool:
        """Whether ``text`` has a probability of one half or more as the answer.

        Token by token a fixed phrase wins too often: its mass stays together while that of other answers is spread over many beginnings.
        """
        return self._weigh(self._model.tokenize_part(text), math.log(0.5), prompt, deadline) >= math.log(0.5)

    def _likeliest(self, choices: Sequence[tuple[str, float]], prompt: list[int], deadline: float) -> list[int]:
        """The tokens of the choice whose first ``LEAD_TOKENS`` tokens are the likeliest, its odds added; the context is left as after the prompt.

        Behind them a choice only has to be copied, and a long one must not lose by its length.
        """
        best, chosen = -math.inf, list[int]()
        for text, odds in sorted(choices, key=lambda choice: -choice[1]):
            tokens = self._model.tokenize_part(text)
            weight = odds + self._weigh(tokens[:LEAD_TOKENS], best - odds, prompt, deadline)
            if weight > best:
                best, chosen = weight, tokens
        return chosen

    def _weigh(self, tokens: list[int], least: float, prompt: list[int], deadline: float) -> float:
        """The log probability of ``tokens`` after ``prompt``, evaluated no further than it takes to fall below ``least``; the context is left as
        it was after the prompt."""
        likelihood = 0.0
        moved = False
        for number, token in enumerate(tokens, 1):
            likelihood += self._model.log_probability(token)
            if likelihood < least or number == len(tokens):
                break
            moved = True
            if not self._evaluate([token], deadline):
                return -math.inf
        if moved:
            self._model.keep(len(prompt) - 1)
            self._evaluate(prompt[-1:], deadline)
        return likelihood

    def _evaluate(self, tokens: list[int], deadline: float) -> bool:
        """Append ``tokens``; False when cancelled, :class:`BackendTimeoutError` past the deadline."""
        code = ABORTED if self._cancelled or time.monotonic() >= deadline else self._model.evaluate(tokens)
        if code == 0:
            return True
        # What an interrupted evaluation leaves in memory is undefined.
        self._evaluated = []
        if self._cancelled:
            return False
        if code == ABORTED:
            raise BackendTimeoutError(f"{self.name} did not finish before the deadline", "Ask for fewer tokens, or raise request_timeout_s.")
        raise BackendError(f"{self.name}: llama_decode failed with code {code}", "Run with logging at DEBUG to see llama.cpp's own messages.")

    @contextmanager
    def _abort_at(self, deadline: float) -> Iterator[None]:
        """Have llama.cpp abort at the deadline, also in the middle of a batch."""
        timer = threading.Timer(remaining_s(deadline), self._model.abort.set)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            if not self._cancelled:
                self._model.abort.clear()


def context_tokens(trained: int, wanted: int) -> int:
    """The context to use: ``wanted``, or 8192 when 0, but no more than the model was trained with (0 when it does not say)."""
    return min(wanted or MAX_CONTEXT_TOKENS, trained or MAX_CONTEXT_TOKENS)


def remaining_s(deadline: float) -> float:
    """Seconds until ``deadline``, as the threading functions take them."""
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


def default_threads() -> int:
    """One per physical core that this process may use."""
    allowed = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    return max(1, min(psutil.cpu_count(logical=False) or allowed or 1, allowed or 1))


def estimate_bytes(target: str, settings: Settings) -> int:
    """Memory for the file ``target`` under ``settings``. Raises as :func:`~mdsa_local.runtime.gguf.read_gguf`."""
    info = read_gguf(Path(target))
    return memory_estimate_bytes(info, context_tokens(info.context_length, settings.context_tokens), BATCH_TOKENS)


def open_backend(target: str, name: str, settings: Settings) -> LlamaCppBackend:
    """Load the file ``target``. Raises as :class:`LlamaCppBackend`."""
    return LlamaCppBackend(Path(target), name, settings.context_tokens, settings.threads)
