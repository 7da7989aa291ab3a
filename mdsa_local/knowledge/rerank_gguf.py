"""A reranker as a GGUF file, run by llama.cpp in this process, pairs put together as ``llama-server --reranking`` does.

It is read on the CPU: cross-encoders (BERT, XLM-RoBERTa, ModernBERT and such) in one pass over whole pairs, Qwen3 rerankers token after token.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

from mdsa_local.errors import ModelError, ModelFileError, ModelMemoryError
from mdsa_local.knowledge.rerank import Score
from mdsa_local.runtime.cores import machine
from mdsa_local.runtime.gguf import GGUFInfo, memory_estimate_bytes, read_gguf
from mdsa_local.runtime.library import close_at_exit, closed
from mdsa_local.runtime.native import BATCH_TOKENS, Context, ContextOptions, Model, best_mapped

# A pair has at most so many tokens, whatever the model was made for: memory grows with their square, and no passage is as long.
LONGEST = 1024
# Architectures whose score stands behind the last token: a pair may be read in pieces, so that the logits, which they make for all tokens of a
# piece, are few (13 MB in place of 210 for 1024 tokens and a vocabulary of 50,000). llama.cpp knows no others (0.3.36).
IN_PIECES = ("qwen3", "qwen3vl")
PLACES = re.compile(r"\{(query|document)\}")
HINT = "Name a GGUF of a reranker in the setting `reranker`, made by llama.cpp's convert_hf_to_gguf.py with its classification head."
OTHER = "Use another build of the model."
# Longest wait for a search at the end of the process.
CLOSING_S = 15.0

# Tokens of a pair, and whether some were cut off.
Row = tuple[list[int], bool]


@dataclass(frozen=True, slots=True)
class _Marks:
    """Tokens before a question, between it and a passage, and behind that."""

    first: list[int]
    middle: list[int]
    last: list[int]

    def __len__(self) -> int:
        return len(self.first) + len(self.middle) + len(self.last)


class GgufReranker:
    """Pairs of question and passage to scores, by llama.cpp on the CPU. Thread-safe: one search after the other."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Open it and try it on a pair. ``threads`` 0: one per core, fewer while others keep the cores busy.

        Raises :class:`ModelNotFoundError`, :class:`ModelFileError` when the file is damaged or no reranker, :class:`ModelMemoryError`,
        :class:`BackendUnavailableError`.
        """
        from mdsa_local.runtime.llamacpp import threads_for

        info = read_gguf(path)
        _check(info)
        self.path, self.max_tokens = path, min(info.context_length, LONGEST)
        self._threads, self._cores = threads_for(threads), None if threads else machine()
        options = _options(info, self.max_tokens, self._threads)
        _check_memory(info, options)
        self._model = Model(path, mapped=best_mapped(info))
        owned: list[Context | Model] = [self._model]
        self._lock = threading.Lock()
        at_exit = partial(_close_unused, owned, self._lock)
        # Not only by close(): who lets go of a knowledge base need not say so.
        self._free = weakref.finalize(self, _close, owned, at_exit)
        # The end of the process frees it too, mostly, and a search may still be under way then.
        self._free.atexit = False
        close_at_exit(at_exit)
        try:
            self._context = Context(self._model, options)
            owned.insert(0, self._context)
            self._check_vocabulary()
            self._layout = self._template() or self._marks()
            marks = len(self._model.tokenize_part(PLACES.sub("", self._layout))) if isinstance(self._layout, str) else len(self._layout)
            # A passage has at least a quarter of the window, however long the question is.
            self._longest_question = (self.max_tokens - marks) * 3 // 4
            if self._longest_question < 1:
                raise ModelFileError(f"{path}: a window of {self.max_tokens} tokens has no room for a pair", OTHER)
            self.scores("question", ["passage"])
        except BaseException:
            self._free()
            raise

    def scores(self, question: str, passages: Sequence[str]) -> list[Score]:
        """One for each passage, the first of those that the model gives. Raises :class:`ModelFileError` when the model fails.

        What is longer than ``max_tokens`` loses the end of the passage; a question longer than three quarters of them its own end too.
        """
        if not passages:
            return []
        with self._lock:
            if not self._free.alive:
                raise ModelError(f"{self.path} was closed")
            layout = self._layout
            row = self._filled(question, layout) if isinstance(layout, str) else self._joined(question, layout)
            rows = [row(passage) for passage in passages]
            if self._cores:
                self._cores.enter()
            try:
                return [Score(self._evaluate(tokens), cut) for tokens, cut in rows]
            finally:
                if self._cores:
                    self._cores.leave()
                self._context.rest()

    def close(self) -> None:
        """Free model and memory, after the search that reads with it; safe twice."""
        with self._lock:
            self._free()

    def _evaluate(self, tokens: list[int]) -> float:
        """The score of one pair. Several at once were slower: an encoder looks from each token at those of all pairs (6 layers, 79 tokens a pair, one
        core: 43 ms a pair alone, 80 ms in batches of 512 tokens; of 29 tokens 15 and 19)."""
        context = self._context
        context.clear()
        context.forget()
        context.add(0, 0, tokens, len(tokens))
        if self._cores:
            context.use_threads(self._cores.threads(self._threads))
        if code := context.decode():
            said = "Run with logging at DEBUG to see llama.cpp's own messages."
            raise ModelFileError(f"{self.path} cannot read pairs of texts: llama_decode failed with code {code}", said)
        if not isfinite(value := context.score(0)):
            raise ModelFileError(f"{self.path} gives scores that are no numbers", OTHER)
        return value

    def _check_vocabulary(self) -> None:
        """Raise :class:`ModelFileError` when there is a text at which llama.cpp would end the process: each byte has to have a token."""
        lib, vocab = self._model.lib, self._model.vocab
        kind = lib.llama_vocab_type(vocab)
        if kind == lib.LLAMA_VOCAB_TYPE_SPM:
            known = {lib.llama_vocab_get_text(vocab, token) for token in range(self._model.vocabulary_size)}
            if all(b"<0x%02X>" % byte in known or bytes([byte]) in known for byte in range(256)):
                return
        if kind in (lib.LLAMA_VOCAB_TYPE_NONE, lib.LLAMA_VOCAB_TYPE_SPM):
            raise ModelFileError(f"{self.path}: its vocabulary has no tokens for some texts", OTHER)

    def _template(self) -> str:
        """The template named ``rerank`` in the file; empty without one."""
        found = self._model.lib.llama_model_chat_template(self._model.handle, b"rerank")
        template = found.decode("utf-8", "replace") if found else ""
        if found and set(PLACES.findall(template)) != {"query", "document"}:
            raise ModelFileError(f"{self.path}: its template for reranking has no places {{query}} and {{document}}", OTHER)
        return template

    def _marks(self) -> _Marks:
        """Which marks the vocabulary says to add. Raises :class:`ModelFileError` when it does not have them."""
        lib, vocab = self._model.lib, self._model.vocab
        bos, eos, sep = lib.llama_vocab_bos(vocab), lib.llama_vocab_eos(vocab), lib.llama_vocab_sep(vocab)
        end = [eos if eos != lib.LLAMA_TOKEN_NULL else sep] if lib.llama_vocab_get_add_eos(vocab) else []
        first = [bos] if lib.llama_vocab_get_add_bos(vocab) else []
        middle = [*end, *([sep] if lib.llama_vocab_get_add_sep(vocab) else [])]
        if lib.LLAMA_TOKEN_NULL in (*first, *middle):
            raise ModelFileError(f"{self.path}: its vocabulary is to add marks that it does not have", OTHER)
        return _Marks(first, middle, end)

    def _joined(self, question: str, marks: _Marks) -> Callable[[str], Row]:
        """Pairs with ``question`` as tokens, one behind the other with marks between."""
        asked = self._tokens(question)
        before = [*marks.first, *asked[: self._longest_question], *marks.middle]
        room, shortened = self.max_tokens - len(before) - len(marks.last), len(asked) > self._longest_question

        def row(passage: str) -> Row:
            tokens = self._tokens(passage)
            return [*before, *tokens[:room], *marks.last], shortened or len(tokens) > room

        return row

    def _filled(self, question: str, template: str) -> Callable[[str], Row]:
        """Pairs with ``question`` in a template. What is cut is cut at a token of the text alone: in the template's text others may begin there."""
        asked = self._tokens(question)
        shortened = len(asked) > self._longest_question
        texts = {"query": self._model.plain(self._text(asked[: self._longest_question]) if shortened else question)}

        def tokens(passage: str) -> list[int]:
            filled = {**texts, "document": self._model.plain(passage)}
            return self._model.tokenize_part(PLACES.sub(lambda place: filled[place[1]], template))

        def row(passage: str) -> Row:
            found, read = tokens(passage), self._tokens(passage)
            count = len(read)
            while (over := len(found) - self.max_tokens) > 0 and count:
                count = max(count - over, 0)
                found = tokens(self._text(read[:count]))
            return found[: self.max_tokens], shortened or count < len(read)

        return row

    def _tokens(self, text: str) -> list[int]:
        return self._model.tokenize_part(text, control=False)

    def _text(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self._model.piece, tokens)).decode("utf-8", "ignore")


def _options(info: GGUFInfo, tokens: int, threads: int) -> ContextOptions:
    pieces = BATCH_TOKENS if info.architecture in IN_PIECES and info.causal else 0
    return ContextOptions(-(-tokens // 256) * 256, 1, tokens, tokens, threads, ranking=True, pass_tokens=pieces)


def _check(info: GGUFInfo) -> None:
    """Raise :class:`ModelFileError` for what llama.cpp would read scores from that are none, as it does not look at the size of the head, and for
    sizes at which it would end the process."""
    if not info.head_outputs:
        raise ModelFileError(f"{info.path} is no reranker: a model of kind {info.architecture} without a classification head", HINT)
    if info.head_outputs != max(info.n_labels, 1):
        said = f"its classification head gives {info.head_outputs} numbers for a pair, its header names {max(info.n_labels, 1)}"
        raise ModelFileError(f"{info.path} is no reranker: {said}", HINT)
    whole = info.architecture in IN_PIECES or info.key_length * info.n_heads == info.value_length * info.n_heads == info.embedding_length
    if not info.n_layers or not whole:
        raise ModelFileError(f"{info.path} is damaged: its {info.n_layers} layers and {info.n_heads} heads do not fit its width", OTHER)


def _check_memory(info: GGUFInfo, options: ContextOptions) -> None:
    from mdsa_local.runtime.hardware import available_bytes
    from mdsa_local.runtime.residency import describe_bytes

    # What is read in one pass makes no logits.
    needed = memory_estimate_bytes(info, options.cells, options.pass_tokens or options.batch_tokens, options.pass_tokens, options.sequences)
    free = available_bytes()
    if needed > free:
        raise ModelMemoryError(f"{info.path} needs {describe_bytes(needed)}, {describe_bytes(free)} are free", "Choose a smaller reranker.")


def _close(owned: list[Context | Model], at_exit: Callable[[], None]) -> None:
    closed(at_exit)
    for part in owned:
        part.close()


def _close_unused(owned: list[Context | Model], lock: threading.Lock) -> None:
    """At the end of the process: after the search under way, and there is none after it."""
    if lock.acquire(timeout=CLOSING_S):
        for part in owned:
            part.close()
