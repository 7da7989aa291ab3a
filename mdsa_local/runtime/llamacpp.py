"""llama.cpp in this process: a GGUF file as a :class:`~mdsa_local.runtime.backend.Backend`. Text in, requests for the engine out."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import date
from operator import index
from pathlib import Path
from typing import Literal

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendError, ContextOverflowError, InputError, ModelError, expected
from mdsa_local.runtime import gpu
from mdsa_local.runtime.answering import LEAD_TOKENS, Request, Stream
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.chat_template import compile_ahead, empty_prompt, render
from mdsa_local.runtime.cores import machine, within_cores
from mdsa_local.runtime.engine import Engine, EngineStats, context_options
from mdsa_local.runtime.gguf import OVERHEAD_BYTES, VOCABULARY_BYTES, GGUFInfo, cell_bytes, memory_estimate_bytes, read_gguf, state_bytes
from mdsa_local.runtime.hardware import HardwareDetector
from mdsa_local.runtime.library import close_at_exit, closed, library
from mdsa_local.runtime.native import ContextOptions, Model, best_mapped
from mdsa_local.runtime.prefix_store import PrefixStore, fingerprint
from mdsa_local.runtime.prefixes import LEAST_TOKENS, common
from mdsa_local.runtime.seating import weights_per_cell
from mdsa_local.runtime.structured import constrained_by_grammar
from mdsa_local.settings import Settings

MAX_CONTEXT_TOKENS = 8192
# Memory set aside for an answer that may grow longer than this; should it be short in the end, the youngest answer waits and is taken up again.
EXPECTED_TOKENS = 256
# One part in so many of the key-value memory again, for beginnings of prompts that wait outside of it.
PARKED_PART = 8
# System prompts whose static prefix is remembered.
REMEMBERED = 64
# Tokens from which on it is worth a thread to look which are control tokens: below, waiting for the interpreter lock costs as much.
LARGE_VOCABULARY = 32_768


class LlamaCppBackend:
    """A GGUF file, loaded. Implements :class:`~mdsa_local.runtime.backend.Backend`.

    Up to ``parallel`` streams are written at once, more wait. The keys and values of a prompt's beginning that an earlier request had too are
    not evaluated again.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        n_context_tokens: int = 0,
        threads: int = 0,
        *,
        parallel: int = 8,
        queue_limit: int = 64,
        states: Path | None = None,
        states_bytes: int = 0,
        gpu_layers: int | Literal["auto"] = "auto",
        flash_attention: bool = False,
        eager: bool = False,
    ) -> None:
        """Load ``path``. ``n_context_tokens`` 0 means 8192; the model's training context is the limit. ``threads``: see
        :func:`threads_for`.

        ``queue_limit``: requests that may wait beside the ``parallel`` that are written; one more gets a :class:`BusyError`. ``states``: folder for
        the key-value states of system prompts, of at most ``states_bytes``; None keeps them in memory only. ``gpu_layers``: see
        :mod:`mdsa_local.runtime.gpu`. ``flash_attention``: on the CPU too, faster up to a thousand tokens, less exact, slower beyond. ``eager``:
        begin with every request for which there is room, even where all then take longer, see :mod:`mdsa_local.runtime.seating`.
        Raises :class:`ModelNotFoundError`, :class:`ModelFileError`, :class:`ModelMemoryError`, :class:`BackendUnavailableError`, and
        :class:`ModelError` for a model without a chat template.
        """
        info = read_gguf(path)
        if not info.has_chat_template:
            raise no_template(path)
        self.name = name
        self.n_context_tokens = context_tokens(info.context_length, n_context_tokens)
        self._path = path
        options = context_options(self.n_context_tokens, parallel, threads_for(threads), flash_attention=flash_attention)
        beside = _estimate(info, options) - info.size_bytes
        on_gpu = gpu.layers(info, gpu_layers, gpu.free_bytes(library()) if gpu_layers == "auto" else 0, beside)
        self._model = Model(path, on_gpu, mapped=bool(on_gpu) or best_mapped(info))
        self._static: OrderedDict[tuple[str, bool, date], list[int]] = OrderedDict()
        self._vocabulary = threading.Lock()
        self._closed = False
        if self._model.vocabulary_size > LARGE_VOCABULARY:
            # The first prompt needs it, 50 ms with 152k tokens; llama.cpp makes the context meanwhile.
            threading.Thread(target=self._prepare_vocabulary, name=f"vocabulary-{name}").start()
        try:
            # Mostly a model is loaded beside something else, and the first prompt is waited for.
            compile_ahead(self._model.chat_template)
            store = PrefixStore(states, self._state_key(options), states_bytes) if states and states_bytes else None
            self._parked_bytes = _parked_bytes(info, options)
            cores = None if threads else machine()
            # Flash attention and a graphics card pass masked cells over, and what keeps a state in place of cells has none.
            alike = eager or flash_attention or on_gpu or not self._model.cuttable
            weights = math.inf if alike else weights_per_cell(info)
            self._engine = Engine(self._model, options, name, parallel, queue_limit, store, self._parked_bytes, cores, weights)
        except BaseException:
            with self._vocabulary:
                self._closed = True
                self._model.close()
            raise
        close_at_exit(self.close)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Exact number of prompt tokens."""
        return len(self._prompt(messages))

    def prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt that ``messages`` become, up to where the answer begins."""
        return self._prompt(messages)

    def answer_tokens(self, text: str) -> list[int]:
        """Token ids of ``text`` as the model would write it for an answer, with the one that ends its turn."""
        with self._vocabulary:
            self._open()
            return [*self._model.tokenize_part(self._model.plain(text)), self._model.end_id]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, as it stands: nothing put before it. Raises :class:`InputError` for what is no text."""
        expected(text, str, "what to encode", "Pass a text.")
        return self._part(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids; control tokens have none. Raises :class:`InputError` for what the model has no token for."""
        with self._vocabulary:
            self._open()
            # llama.cpp ends the process for an id that it does not know.
            ids = token_ids(tokens, self._model.vocabulary_size)
            return b"".join(map(self._model.piece, ids)).decode("utf-8", "replace")

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> Stream:
        """See :class:`~mdsa_local.runtime.backend.Backend`. Raises :class:`BusyError` when too many wait. The stream's ``close`` works from any
        thread, also while a prompt is read."""
        return Stream(self._engine, self._requests(messages, constrained_by_grammar(generation), deadline_s), self.name)

    @property
    def weights(self) -> Model:
        """The model, whose weights another context may share while this one is open."""
        return self._model

    @property
    def memory_bytes(self) -> int:
        """What it takes, by llama.cpp's own account of its buffers, and may take beside them."""
        buffers = self._model.size_bytes + self._engine.context.size_bytes
        return buffers + self._parked_bytes + VOCABULARY_BYTES * self._model.vocabulary_size + OVERHEAD_BYTES

    def refuse_when_full(self) -> None:
        """Raise :class:`BusyError` where a stream begun now would."""
        self._engine.refuse_when_full()

    def stats(self) -> EngineStats:
        """What the engine did so far."""
        return self._engine.stats()

    def cancel(self) -> None:
        """Stop all streams, even while they read their prompts, from any thread: they end as ``cancelled``. No effect when idle."""
        self._engine.cancel()

    def when_failed(self, tell: Callable[[BackendError], None]) -> None:
        """Have ``tell`` called, from a thread of its own, when the engine fails: nothing is answered from then on. At once when it has failed."""
        self._engine.when_failed(tell)

    def close(self) -> None:
        """See :class:`~mdsa_local.runtime.backend.Backend`. Returns when the memory is free, or the engine is stuck; nothing is done in a process
        that was forked since."""
        closed(self.close)
        free = self._engine.close()
        if self._engine.origin.left:
            return
        with self._vocabulary:
            self._closed = True
            if free:
                self._model.close()

    def _requests(self, messages: Sequence[Message], generation: Generation, deadline_s: float) -> Generator[Request, None, None]:
        """The one request of a stream, made when the first piece is asked for."""
        self._engine.origin.refuse_forked()
        deadline = time.monotonic() + deadline_s
        thinking = bool(generation.think)
        prompt = self._prompt(messages, thinking)
        if len(prompt) + 1 > self.n_context_tokens:
            raise ContextOverflowError(
                f"the prompt has {len(prompt)} tokens; {self.name} has room for {self.n_context_tokens - 1}",
                "Ask a shorter question, give fewer passages, or raise context_tokens.",
            )
        static = self._static_prefix(messages, thinking)
        refusal = self._part(generation.refusal)
        limit = min(generation.max_tokens, self.n_context_tokens - len(prompt))
        yield Request(
            prompt,
            len(static) if static == prompt[: len(static)] else 0,
            generation,
            limit,
            deadline,
            min(len(prompt) + max(min(limit, EXPECTED_TOKENS), LEAD_TOKENS, len(refusal)), self._engine.options.cells),
            refusal,
            [(tokens, odds) for text, odds in generation.choices if (tokens := self._part(text))],
            adapter=generation.adapter,
        )

    def _prompt(self, messages: Sequence[Message], thinking: bool = False) -> list[int]:
        model = self._model
        # In one piece: a vocabulary that another thread frees meanwhile is memory of somebody else's.
        with self._vocabulary:
            self._open()
            shown = [Message(message.role, model.plain(message.content)) for message in messages]
            text = render(model.chat_template, shown, bos=model.bos_text, eos=model.eos_text, source=str(self._path), thinking=thinking)
            if not (prompt := model.tokenize(text)):
                # With nothing to read there is nothing to go on from: the engine would wait for it until the deadline.
                raise empty_prompt(str(self._path))
            return prompt

    def _part(self, text: str) -> list[int]:
        with self._vocabulary:
            self._open()
            return self._model.tokenize_part(text) if text else []

    def _state_key(self, options: ContextOptions) -> str:
        """All that a key-value state depends on but its tokens. By the size of the context llama.cpp chooses how positions are encoded, where a model
        has one way for short ones and one for long."""
        model = self._model
        template = hashlib.sha256(model.chat_template.encode()).hexdigest()
        kind = f"gpu {model.gpu_layers} cells {options.cells} flash {options.flash_attention}"
        return f"{fingerprint(self._path)} {template} llama.cpp {model.lib.__version__} {kind}"

    def _prepare_vocabulary(self) -> None:
        with self._vocabulary:
            if not self._closed:
                self._model.plain("")

    def _open(self) -> None:
        if self._closed:
            raise BackendError(f"{self.name} was closed")

    def _static_prefix(self, messages: Sequence[Message], thinking: bool) -> list[int]:
        """The tokens that every prompt of today with this system message begins with, whatever the user says; empty when too short to be worth
        keeping."""
        if len(messages) < 2 or messages[0].role != "system":
            return []
        # Templates write the date: tomorrow prompts begin otherwise.
        key = messages[0].content, thinking, date.today()
        known = self._static.get(key)
        if known is None:
            one, other = (self._prompt([messages[0], Message("user", said)], thinking) for said in ("0", "x"))
            shared = one[: common(one, other)]
            known = self._static[key] = shared if len(shared) >= LEAST_TOKENS else []
            if len(self._static) > REMEMBERED:
                self._static.popitem(last=False)
        return known


def token_ids(tokens: Iterable[int], size: int) -> list[int]:
    """``tokens`` as a list, numbers of whatever library. Raises :class:`InputError` where they are not all of a vocabulary of ``size``."""
    hint = f"Give a list of whole numbers from 0 to {size - 1}, such as encode returns."
    try:
        ids = [index(token) for token in tokens]
    except TypeError:
        raise InputError(f"tokens cannot be {tokens!r:.60}", hint) from None
    if outside := [token for token in ids if not 0 <= token < size]:
        raise InputError(f"there is no token {outside[0]}", hint)
    return ids


def no_template(path: Path) -> ModelError:
    """The error for a model without a chat template."""
    return ModelError(
        f"{path}: the model has no chat template, so how to put a question to it is unknown",
        "Use the 'instruct' or 'chat' build of the model, or add tokenizer.chat_template to the file.",
    )


def context_tokens(trained: int, wanted: int) -> int:
    """The context to use: ``wanted``, or 8192 when 0, but no more than the model was trained with (0 when it does not say)."""
    return min(wanted or MAX_CONTEXT_TOKENS, trained or MAX_CONTEXT_TOKENS)


def default_threads() -> int:
    """One per physical core that this process may use, no more than a container's limit. All threads wait for the slowest, so slow cores are left
    out."""
    machine_ = HardwareDetector()
    return int(min(machine_.fast_cores, machine_.cpu_count))


def threads_for(wanted: int) -> int:
    """Threads to evaluate with: ``wanted``, or one per core when 0, but no more than there are processors."""
    return within_cores(wanted) or default_threads()


def options_for(info: GGUFInfo, settings: Settings) -> ContextOptions:
    """The context that a file gets under ``settings``."""
    tokens, threads = context_tokens(info.context_length, settings.context_tokens), threads_for(settings.threads)
    return context_options(tokens, settings.parallel, threads, flash_attention=settings.flash_attention)


def estimate_bytes(target: str, settings: Settings) -> int:
    """Memory for the file ``target`` under ``settings``. Raises as :func:`~mdsa_local.runtime.gguf.read_gguf`."""
    info = read_gguf(Path(target))
    return _estimate(info, options_for(info, settings))


def _estimate(info: GGUFInfo, options: ContextOptions) -> int:
    outputs, scores = max(options.outputs, options.sequences), not options.flash_attention
    buffers = memory_estimate_bytes(info, options.cells, options.batch_tokens, outputs, options.sequences, scores=scores)
    return buffers + _parked_bytes(info, options)


def _parked_bytes(info: GGUFInfo, options: ContextOptions) -> int:
    """Most bytes of beginnings of prompts outside the context; each has a state of its own, where the model has states."""
    return options.cells // PARKED_PART * cell_bytes(info) + -(-options.sequences // PARKED_PART) * state_bytes(info)


def open_backend(target: str, name: str, settings: Settings) -> LlamaCppBackend:
    """Load the file ``target``. Raises as :class:`LlamaCppBackend`."""
    return LlamaCppBackend(
        Path(target),
        name,
        settings.context_tokens,
        settings.threads,
        parallel=settings.parallel,
        queue_limit=settings.queue_limit,
        states=settings.states_dir,
        states_bytes=settings.states_mb * 10**6,
        gpu_layers=settings.gpu_layers,
        flash_attention=settings.flash_attention,
    )
