"""llama.cpp's C interface: a model, a context of many sequences, the batch that is evaluated.

``llama_cpp.Llama`` is not used: it keeps a float32 array of batch size x vocabulary (311 MB for a vocabulary of 152k, 0.3.35) and falls
back to a foreign chat template in silence.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import ModelFileError
from mdsa_local.machine import give_back_memory
from mdsa_local.runtime import adapters
from mdsa_local.runtime.gguf import GGUFInfo, stamp
from mdsa_local.runtime.library import allocated_bytes, library, listen, load_error, release_workers
from mdsa_local.runtime.prefix_store import fingerprint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Tokens of prompts evaluated at a time. Small, so that a long prompt does not stall the answers beside it for long: larger batches were no
# faster on two cores (64: 175 tokens a second, 256: 159, with 0.5B parameters).
BATCH_TOKENS = 64


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


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """How a context is made: cells of key-value memory, sequences that may share them, tokens and outputs of one batch, CPU threads.

    ``flash_attention``: on the CPU too, where a model can; on a GPU llama.cpp decides.
    ``ranking``: for scores of texts, with a model that has a head for them, in place of logits; all tokens are outputs then. ``pass_tokens`` of a
    batch are evaluated at a time, 0 for all: a batch that is aborted may have left some of them.
    """

    cells: int
    sequences: int
    batch_tokens: int
    outputs: int
    threads: int
    flash_attention: bool = False
    ranking: bool = False
    pass_tokens: int = 0


def rearranges(lib: Any) -> bool:
    """Whether weights may be put in an order of llama.cpp's own on loading, which is faster. Not by a build for processors with AMX: its code may end
    the process (llama.cpp #20824; #26954 has two causes, a configuration that compilers take for unused and a permission that only the first thread
    asks for)."""
    return b"AMX_INT8 = 1" not in lib.llama_print_system_info()


def best_mapped(info: GGUFInfo) -> bool:
    """Whether a model is better mapped than read. What is rearranged on loading is read: 0.5B parameters in Q4_0 then take 447 MB in place of 629."""
    return not rearranges(library()) or info.repacked_bytes < info.size_bytes // 4


@dataclass(frozen=True, slots=True)
class Adapter:
    """A loaded LoRA adapter, and what it takes."""

    handle: Any
    size_bytes: int


class Model:
    """A model's weights and vocabulary. The vocabulary may be read from any thread. Free it with :meth:`close`, after its contexts."""

    def __init__(self, path: Path, gpu_layers: int = 0, mapped: bool = True) -> None:
        """``mapped``: use the file's pages as they are in the system's cache; else read what is needed into memory of our own."""
        self.lib = library()
        self.path, self.gpu_layers = path, gpu_layers
        listen()
        params = self.lib.llama_model_default_params()
        params.use_extra_bufts = rearranges(self.lib)
        params.load_mode = self.lib.LLAMA_LOAD_MODE_MMAP if mapped else self.lib.LLAMA_LOAD_MODE_NONE
        params.n_gpu_layers = gpu_layers
        self.handle = self.lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise load_error(path, "llama.cpp cannot load it")
        self.size_bytes = allocated_bytes()
        self.vocab = self.lib.llama_model_get_vocab(self.handle)
        self.vocabulary_size = int(self.lib.llama_vocab_n_tokens(self.vocab))
        self.bos_id = self.lib.llama_vocab_bos(self.vocab)
        self.adds_bos = bool(self.lib.llama_vocab_get_add_bos(self.vocab)) and self.bos_id != self.lib.LLAMA_TOKEN_NULL
        end = self.lib.llama_vocab_eot(self.vocab)
        self.end_id = int(end if end != self.lib.LLAMA_TOKEN_NULL else self.lib.llama_vocab_eos(self.vocab))
        self.bos_text, self.eos_text = self._text(self.bos_id), self._text(self.lib.llama_vocab_eos(self.vocab))
        template = self.lib.llama_model_chat_template(self.handle, None)
        self.chat_template = template.decode("utf-8", "replace") if template else ""
        # By mark: the fingerprint of the file as it was when it was loaded. What is left is freed with the model.
        self.adapters: dict[str, Adapter] = {}
        # By path: size and time of change of the file that was loaded last, and its mark.
        self.latest: dict[str, tuple[tuple[int, int], str]] = {}
        # What keeps a running state in place of keys and values cannot be cut back to an earlier token.
        self.cuttable = not (self.lib.llama_model_is_recurrent(self.handle) or self.lib.llama_model_is_hybrid(self.handle))

    def _text(self, token: int) -> str:
        text = self.lib.llama_vocab_get_text(self.vocab, token) if token != self.lib.LLAMA_TOKEN_NULL else b""
        return (text or b"").decode("utf-8", "replace")

    def control_texts(self) -> list[str]:
        """The texts of all control tokens, such as ``<|im_start|>``."""
        is_control = self.lib.llama_vocab_is_control
        return [text for token in range(self.vocabulary_size) if is_control(self.vocab, token) and (text := self._text(token))]

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self.control_texts(), key=len, reverse=True))) or r"(?!)")

    def plain(self, text: str) -> str:
        """A text with the control tokens that are written out in it broken up: in a prompt they would end a turn and begin a forged one."""
        return self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a rendered prompt; control tokens written out in it count as such. Adds BOS when the model wants one and the text has none."""
        first = [self.bos_id] if self.adds_bos and not (self.bos_text and text.startswith(self.bos_text)) else []
        return first + self.tokenize_part(text)

    def tokenize_part(self, text: str, *, control: bool = True) -> list[int]:
        """Token ids of a text that something stands before; with ``control``, control tokens written out in it count as such."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 16
        ids = (ctypes.c_int32 * room)()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), ids, room, False, control)
        if count < 0:
            raise ModelFileError(f"{self.path}: its tokenizer failed on a text of {len(raw)} bytes", "Use another build of the model.")
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of a token, which may be part of a character; empty for control tokens."""
        room = 64
        while True:
            buffer = (ctypes.c_char * room)()
            count = self.lib.llama_token_to_piece(self.vocab, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def ends(self, token: int) -> bool:
        """Whether the token ends an answer."""
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token))

    def close(self) -> None:
        """Free the weights; safe twice."""
        if self.handle:
            self.lib.llama_model_free(self.handle)
            give_back_memory()
        self.handle = None


class Context:
    """Key-value memory shared by many sequences, and one batch to fill and evaluate. For one thread, but for :attr:`abort`."""

    def __init__(self, model: Model, options: ContextOptions) -> None:
        import numpy as np

        self.lib, self.model, self.options = model.lib, model, options
        self.abort = AbortFlag(self.lib)
        params = self.lib.llama_context_default_params()
        params.n_ctx = options.cells
        # With one physical batch for each logical one an aborted batch leaves no trace, see llama_decode.
        params.n_batch, params.n_ubatch = options.batch_tokens, options.pass_tokens or options.batch_tokens
        params.n_seq_max = options.sequences
        params.kv_unified = True
        params.n_outputs_max = options.outputs
        params.n_threads = params.n_threads_batch = options.threads
        if options.ranking:
            params.embeddings, params.pooling_type = True, self.lib.LLAMA_POOLING_TYPE_RANK
        if not (model.gpu_layers or options.flash_attention):
            # It sums in another order for one token than for several, so that an answer would depend on what is beside it; see docs/notes/runtime.md.
            params.flash_attn_type = self.lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.abort_callback, params.abort_callback_data = self.abort.callback, self.abort.address
        listen()
        self.handle = self.lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise load_error(model.path, f"llama.cpp cannot make a context of {options.cells} tokens")
        self.size_bytes = allocated_bytes()
        self._memory = self.lib.llama_get_memory(self.handle)
        # The arrays of the batch are numpy's, because filling them through ctypes takes five calls a token.
        self._tokens, self._positions, self._owners = (np.zeros(options.batch_tokens, np.int32) for _ in range(3))
        self._wanted = np.zeros(options.batch_tokens, np.int8)
        self._ones = np.ones(options.batch_tokens, np.int32)
        each = self._owners.ctypes.data + 4 * np.arange(options.batch_tokens, dtype=np.uintp)
        self._owner_pointers = each.astype(np.uintp)
        self._batch = self.lib.llama_batch(
            0,
            self._tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            None,
            self._positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            self._ones.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            self._owner_pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        self._row = ctypes.c_float * model.vocabulary_size
        self.threads = options.threads
        self._candidates = np.zeros(model.vocabulary_size, np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))

    def load_adapter(self, path: str) -> str:
        """Load a LoRA adapter, once, and again when its file was changed; the mark by which it is known from then on, empty for no path. Of a file
        that is gone what was loaded stays. Raises :class:`ModelFileError` when it is none, or one for another model."""
        if not path:
            return ""
        seen, known = stamp(Path(path)), self.model.latest.get(path)
        if known and seen in (known[0], None):
            return known[1]
        adapters.check(Path(path), self.model.path)
        try:
            mark = fingerprint(Path(path))
        except OSError as error:
            # It was there a moment ago.
            raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}", "Check its permissions, and ask again.") from None
        if mark not in self.model.adapters:
            listen()
            if not (handle := self.lib.llama_adapter_lora_init(self.model.handle, os.fsencode(path))):
                raise load_error(Path(path), "llama.cpp cannot use it as an adapter", "Use an adapter made for this model.")
            self.model.adapters[mark] = Adapter(handle, allocated_bytes())
            self.model.size_bytes += self.model.adapters[mark].size_bytes
        if seen:
            self.model.latest[path] = seen, mark
        return mark

    def replaced_adapters(self) -> set[str]:
        """The marks of adapters whose files have been changed since."""
        loaded = self.model.adapters.keys()
        return loaded - {mark for _, mark in self.model.latest.values()} if loaded else set()

    def free_adapter(self, mark: str) -> None:
        """Free an adapter that no sequence in memory was read with, and that is not the one in use."""
        adapter = self.model.adapters.pop(mark)
        self.model.size_bytes -= adapter.size_bytes
        self.lib.llama_adapter_lora_free(adapter.handle)

    def use_adapter(self, mark: str) -> None:
        """Evaluate with a loaded adapter from now on, or with none for an empty mark."""
        handles = [self.model.adapters[mark].handle] if mark else []
        array, scales = (self.lib.llama_adapter_lora_p_ctypes * 1)(*handles), (ctypes.c_float * 1)(1.0)
        if self.lib.llama_set_adapters_lora(self.handle, array, len(handles), scales):
            raise ModelFileError("llama.cpp cannot apply the adapter", "Use an adapter made for this model.")

    def clear(self) -> None:
        """Empty the batch."""
        self._batch.n_tokens = 0

    @property
    def size(self) -> int:
        """Tokens in the batch."""
        return int(self._batch.n_tokens)

    def add(self, sequence: int, position: int, tokens: Sequence[int], outputs: int) -> int:
        """Put ``tokens`` of a sequence, from ``position`` on, into the batch, logits wanted for the last ``outputs``; the row of the first."""
        start = self._batch.n_tokens
        end = start + len(tokens)
        if len(tokens) == 1:
            # The next token of an answer: slices would take four times as long.
            self._tokens[start], self._positions[start], self._owners[start], self._wanted[start] = tokens[0], position, sequence, outputs
        else:
            self._tokens[start:end] = tokens
            self._positions[start:end] = range(position, position + len(tokens))
            self._owners[start:end] = sequence
            self._wanted[start:end] = 0
            if outputs:
                self._wanted[end - outputs : end] = 1
        self._batch.n_tokens = end
        return int(start)

    def decode(self) -> int:
        """Evaluate the batch; llama_decode's code: 0 done, 1 no room, 2 aborted, negative for failure. The interpreter lock is free meanwhile."""
        return int(self.lib.llama_decode(self.handle, self._batch))

    def use_threads(self, count: int) -> None:
        """Evaluate with ``count`` threads from now on. No result depends on it: each number is computed by one thread."""
        if count != self.threads:
            self.lib.llama_set_n_threads(self.handle, count, count)
            # One that is not called up again would wait with the library, and count as one that competes for the cores.
            release_workers()
            self.threads = count

    def rest(self) -> None:
        """Nothing is evaluated for a while: the threads that help the calling one end; the next evaluation makes them anew, in 0.2 ms."""
        if self.threads > 1:
            release_workers()

    def logits(self, row: int) -> NDArray[np.float32]:
        """``(vocabulary,)`` float32 logits behind row ``row`` of the last batch; a view, valid until the next."""
        import numpy as np

        pointer = self.lib.llama_get_logits_ith(self.handle, row)
        view: Any = self._row.from_address(ctypes.addressof(pointer.contents))
        return np.frombuffer(view, np.float32)

    def score(self, sequence: int) -> float:
        """The first number that the model's head gives for a sequence of the last batch, in a context for ranking; NaN when it gave none."""
        found = self.lib.llama_get_embeddings_seq(self.handle, sequence)
        return float(found[0]) if found else float("nan")

    def forget(self) -> None:
        """Empty the memory of all sequences, where the model keeps any."""
        if self._memory:
            self.lib.llama_memory_clear(self._memory, False)

    def log_probabilities(self, row: int) -> NDArray[np.float64]:
        """``(vocabulary,)`` natural logarithms of the probabilities behind row ``row``."""
        import numpy as np

        logits = self.logits(row).astype(np.float64)
        logits -= logits.max()
        logits -= np.log(np.exp(logits).sum())
        return logits

    def length(self, sequence: int) -> int:
        """Tokens in memory of a sequence."""
        return int(self.lib.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def cut(self, sequence: int, n_tokens: int) -> int:
        """Forget all but the first ``n_tokens`` of a sequence; returns how many are left: fewer where the architecture cannot be cut."""
        if n_tokens and self.lib.llama_memory_seq_rm(self._memory, sequence, n_tokens, -1):
            return n_tokens
        self.lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return 0

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Let the empty sequence ``target`` begin with the first ``n_tokens`` of ``source``. No key or value is moved: both share the cells."""
        whole = not self.model.cuttable
        self.lib.llama_memory_seq_cp(self._memory, source, target, -1 if whole else 0, -1 if whole else n_tokens)

    def state_bytes(self, sequence: int) -> int:
        """How long :meth:`state` would be."""
        return int(self.lib.llama_state_seq_get_size(self.handle, sequence))

    def state(self, sequence: int) -> bytes:
        """Keys and values of a sequence as bytes."""
        size = self.state_bytes(sequence)
        buffer = (ctypes.c_uint8 * size)()
        written = self.lib.llama_state_seq_get_data(self.handle, buffer, size, sequence)
        return bytes(memoryview(buffer)[:written])

    def restore(self, sequence: int, state: bytes) -> bool:
        """Fill a sequence from :meth:`state`; False when it is no state of this model and context."""
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if self.lib.llama_state_seq_set_data(self.handle, buffer, len(state), sequence):
            return True
        self.cut(sequence, 0)
        return False

    def candidates(self, row: int) -> Any:
        """All tokens with their logits behind ``row``, in a ``llama_token_data_array`` for samplers to narrow; valid until the next call."""
        import numpy as np

        self._candidates["id"] = np.arange(len(self._candidates), dtype=np.int32)
        self._candidates["logit"] = self.logits(row)
        data = self._candidates.ctypes.data_as(ctypes.POINTER(self.lib.llama_token_data))
        return self.lib.llama_token_data_array(data, len(self._candidates), -1, False)

    def close(self) -> None:
        """Free the context; safe twice."""
        if self.handle:
            self.lib.llama_free(self.handle)
        self.handle = None
