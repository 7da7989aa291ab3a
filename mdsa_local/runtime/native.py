"""llama.cpp's C interface, as far as one context with one sequence needs it.

``llama_cpp.Llama`` is not used: it keeps a float32 array of batch size x vocabulary (311 MB for a vocabulary of 152k, 0.3.35) and falls
back to a foreign chat template in silence.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import secrets
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendUnavailableError, InputError, ModelFileError, ModelMemoryError

logger = logging.getLogger("mdsa_local.llama")
# Without a handler of its own, Python prints warnings of an unconfigured logger to stderr.
logger.addHandler(logging.NullHandler())
# ggml_log_level, where llama.cpp calls every detail of a load INFO (2).
LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
CONTINUED = 5
# Tokens evaluated at a time. Small, because only whole batches of a prompt's beginning can be reused with bit-equal results.
BATCH_TOKENS = 64
PENALTY_WINDOW_TOKENS = 64
NO_MEMORY = re.compile(r"alloc|out of memory|mmap failed", re.IGNORECASE)

_lock = threading.Lock()
_library: Any = None
_callbacks: list[Any] = []
_errors: deque[str] = deque(maxlen=8)


def library() -> Any:
    """The loaded ``llama_cpp`` module, logging to ``mdsa_local.llama``.

    Raises :class:`BackendUnavailableError` when it is not installed or broken.
    """
    global _library
    with _lock:
        if _library is None:
            try:
                import llama_cpp
            except (ImportError, OSError, RuntimeError) as error:
                raise BackendUnavailableError(
                    f"llama.cpp cannot be loaded: {error}",
                    "Install it: pip install llama-cpp-python --extra-index-url https://abetlen.github.io/llama-cpp-python/whl/cpu",
                ) from None
            # llama_cpp has just installed a callback that prints to stderr.
            _callbacks.append(llama_cpp.llama_log_callback(_log()))
            llama_cpp.llama_log_set(_callbacks[0], ctypes.c_void_p(0))
            llama_cpp.llama_backend_init()
            _library = llama_cpp
    return _library


def _log() -> Any:
    """A log callback that joins the fragments of a line. llama.cpp calls it from any thread."""
    line, level = "", logging.DEBUG

    def callback(kind: int, text: bytes, _data: Any) -> None:
        nonlocal line, level
        level = level if kind == CONTINUED else LEVELS.get(kind, logging.DEBUG)
        line += text.decode("utf-8", "replace")
        if line.endswith("\n"):
            done, line = line.strip(), ""
            if level == logging.ERROR:
                _errors.append(done)
            if done.strip("."):
                logger.log(level, "%s", done)

    return callback


class AbortFlag:
    """Stops a running ``llama_decode`` from another thread.

    llama.cpp asks an abort callback before each node of its graph, 107 times a token with 6 layers. Python code there would take the
    interpreter lock each time, and lose Ctrl-C: ctypes discards what a callback raises. So the callback is C's ``strlen`` on a two-byte
    buffer: 0 (go on) while the buffer holds the empty string, 1 (abort) once its first byte is set.
    """

    def __init__(self, lib: Any) -> None:
        self.buffer = ctypes.create_string_buffer(2)
        libc = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
        self.callback = ctypes.cast(libc.strlen, lib.ggml_abort_callback)
        self.address = ctypes.cast(self.buffer, ctypes.c_void_p)

    def set(self) -> None:
        """Ask the running evaluation to stop."""
        self.buffer[0] = b"\x01"

    def clear(self) -> None:
        """Allow evaluation again."""
        self.buffer[0] = b"\x00"


class Model:
    """A model, its context and its vocabulary. Not for two threads at once, but for :meth:`tokenize`. Free it with :meth:`close`."""

    def __init__(self, path: Path, n_context_tokens: int, threads: int) -> None:
        self.lib = library()
        self.path = path
        self.abort = AbortFlag(self.lib)
        self._context: Any = None
        _errors.clear()
        params = self.lib.llama_model_default_params()
        params.load_mode = self.lib.LLAMA_LOAD_MODE_MMAP
        self._model = self.lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise _load_error(path, "llama.cpp cannot load it")
        self._open_context(n_context_tokens, threads)
        self.vocab = self.lib.llama_model_get_vocab(self._model)
        self.bos_id = self.lib.llama_vocab_bos(self.vocab)
        self.adds_bos = bool(self.lib.llama_vocab_get_add_bos(self.vocab)) and self.bos_id != self.lib.LLAMA_TOKEN_NULL
        self.bos_text, self.eos_text = self._text(self.bos_id), self._text(self.lib.llama_vocab_eos(self.vocab))
        template = self.lib.llama_model_chat_template(self._model, None)
        self.chat_template = template.decode("utf-8", "replace") if template else ""
        self._piece = ctypes.create_string_buffer(256)

    def _open_context(self, n_context_tokens: int, threads: int) -> None:
        params = self.lib.llama_context_default_params()
        params.n_ctx = n_context_tokens
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_outputs_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.abort_callback, params.abort_callback_data = self.abort.callback, self.abort.address
        self._context = self.lib.llama_init_from_model(self._model, params)
        if not self._context:
            self.close()
            raise _load_error(self.path, f"llama.cpp cannot make a context of {n_context_tokens} tokens")
        self._memory = self.lib.llama_get_memory(self._context)

    def _text(self, token: int) -> str:
        text = self.lib.llama_vocab_get_text(self.vocab, token) if token != self.lib.LLAMA_TOKEN_NULL else b""
        return (text or b"").decode("utf-8", "replace")

    def control_texts(self) -> list[str]:
        """The texts of all control tokens, such as ``<|im_start|>``."""
        count = self.lib.llama_vocab_n_tokens(self.vocab)
        return [text for token in range(count) if self.lib.llama_vocab_is_control(self.vocab, token) and (text := self._text(token))]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a rendered prompt; control tokens written out in it count as such. Adds BOS when the model wants one and the text has none."""
        first = [self.bos_id] if self.adds_bos and not (self.bos_text and text.startswith(self.bos_text)) else []
        return first + self.tokenize_part(text)

    def tokenize_part(self, text: str) -> list[int]:
        """Token ids of a text that something stands before."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 16
        ids = (ctypes.c_int32 * room)()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), ids, room, False, True)
        if count < 0:
            raise ModelFileError(f"{self.path}: its tokenizer failed on a text of {len(raw)} bytes", "Use another build of the model.")
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of a token, which may be part of a character; empty for control tokens."""
        count = self.lib.llama_token_to_piece(self.vocab, token, self._piece, len(self._piece), 0, False)
        if count < 0:
            self._piece = ctypes.create_string_buffer(-count)
            count = self.lib.llama_token_to_piece(self.vocab, token, self._piece, len(self._piece), 0, False)
        return self._piece.raw[: max(count, 0)]

    def ends(self, token: int) -> bool:
        """Whether the token ends an answer."""
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token))

    def keep(self, n_tokens: int) -> int:
        """Forget all but the first ``n_tokens`` tokens; returns how many are left: fewer where the architecture cannot be cut."""
        if n_tokens and self.lib.llama_memory_seq_rm(self._memory, 0, n_tokens, -1):
            return n_tokens
        self.lib.llama_memory_clear(self._memory, False)
        return 0

    def evaluate(self, tokens: Sequence[int]) -> int:
        """Append at most :data:`BATCH_TOKENS` tokens; llama_decode's code: 0 done, 1 no room, 2 aborted, negative for failure."""
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        return int(self.lib.llama_decode(self._context, self.lib.llama_batch_get_one(array, len(tokens))))

    def log_probability(self, token: int) -> float:
        """Natural logarithm of the probability of ``token`` after the last one evaluated."""
        import numpy as np

        pointer = self.lib.llama_get_logits_ith(self._context, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(self.lib.llama_vocab_n_tokens(self.vocab),)).astype(np.float64)
        highest = logits.max()
        return float(logits[token] - highest - np.log(np.exp(logits - highest).sum()))

    def sampler(self, generation: Generation) -> Sampler:
        """A new sampler for one answer."""
        return Sampler(self, generation)

    def close(self) -> None:
        """Free context and model; safe twice."""
        if self._context:
            self.lib.llama_free(self._context)
        if self._model:
            self.lib.llama_model_free(self._model)
        self._context = self._model = None


class Sampler:
    """llama.cpp's own sampler chain: repetition penalty over the answer's last 64 tokens, top-k, top-p, min-p, temperature, draw."""

    def __init__(self, model: Model, generation: Generation) -> None:
        self._lib, self._model = model.lib, model
        lib = self._lib
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        stages = []
        if generation.grammar:
            grammar = lib.llama_sampler_init_grammar(model.vocab, generation.grammar.encode(), b"root")
            if not grammar:
                lib.llama_sampler_free(self._chain)
                raise InputError("the grammar is not valid GBNF", "Fix `grammar` in the generation settings.")
            stages.append(grammar)
        if generation.repeat_penalty != 1.0:
            count = lib.llama_vocab_n_tokens(model.vocab)
            stages.append(lib.llama_sampler_init_penalties(count, PENALTY_WINDOW_TOKENS, generation.repeat_penalty, 0.0, 0.0))
        if generation.temperature == 0.0:
            stages.append(lib.llama_sampler_init_greedy())
        else:
            # The largest seed means "take a random one" to llama.cpp.
            seed = secrets.randbits(31) if generation.seed is None else generation.seed % lib.LLAMA_DEFAULT_SEED
            stages += [
                lib.llama_sampler_init_top_k(min(generation.top_k, 2**31 - 1)),
                lib.llama_sampler_init_top_p(generation.top_p, 1),
                lib.llama_sampler_init_min_p(generation.min_p, 1),
                lib.llama_sampler_init_temp(generation.temperature),
                lib.llama_sampler_init_dist(seed),
            ]
        for stage in stages:
            lib.llama_sampler_chain_add(self._chain, stage)

    def sample(self) -> int:
        """The next token after the last one evaluated."""
        return int(self._lib.llama_sampler_sample(self._chain, self._model._context, -1))

    def accept(self, token: int) -> None:
        """Take ``token`` for sampled: the grammar goes on behind it."""
        self._lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the chain; safe twice."""
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
        self._chain = None


def _load_error(path: Path, what: str) -> ModelFileError | ModelMemoryError:
    reason = "; ".join(_errors) or "no reason given"
    if NO_MEMORY.search(reason):
        return ModelMemoryError(f"{path}: {what}: {reason}", "Close other programs, choose a smaller model, or lower context_tokens.")
    return ModelFileError(f"{path}: {what}: {reason}", "Use another build of the model, or a newer llama-cpp-python.")
