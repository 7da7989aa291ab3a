"""Read the header of a GGUF file: what the model is and what memory it needs, without loading it.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The file is untrusted: no length in it is believed before it
is compared with what the file holds.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mdsa_local.errors import ModelFileError, ModelNotFoundError

MAGIC, VERSIONS = b"GGUF", (2, 3)
# Element type of metadata -> struct format. 8 is a string, 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# fmt: off
# Tensor type -> (name, elements a block, bytes a block), as libggml 0.25 reports them.
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L",
    14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M",
    32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}
# fmt: on
# Types whose matrices llama.cpp rearranges on loading, on CPUs with the instructions for it: mapping the file would keep both forms in memory.
REPACKED = {"Q4_0", "Q4_K", "Q2_K", "IQ4_NL"}
MAX_DIMENSION = 2**40
# Arrays longer than this (the vocabulary, its scores and merges) are counted, not kept; per-layer arrays are shorter.
KEPT_ARRAY = 4096
# LLAMA_MAX_LAYERS of llama.cpp, which loads no more.
MOST_LAYERS = 512
# Every so manieth layer keeps keys and values, where the file does not say; the others keep a state.
INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4}
# In each layer there is a state, in the last of these beside keys and values.
STATES_ONLY, STATES_TOO = ("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"), ("falcon-h1",)
# The last layer of a classification head: of two layers the second, else the only one.
HEADS = ("cls.output.weight", "cls.weight")
# What a loaded model takes beside its buffers: tables for each token, and what loading and its threads leave behind.
VOCABULARY_BYTES, OVERHEAD_BYTES = 220, 6 * 2**20
HINT = "Download or build the file again."
WHOLE = "Choose a file that holds all of it, perhaps of another quantisation, or join its parts with llama.cpp's `llama-gguf-split --merge`."
MISSING = "Check the path; where a file that was added was moved, mdsa models add FILE --name NAME."


@dataclass(frozen=True, slots=True)
class GGUFInfo:
    """What a GGUF header says. Head sizes are in elements; ``expected_size_bytes`` is where the last tensor ends. ``n_kv_heads`` is that of the layer
    that has most.

    ``cell_elements``: numbers that all layers together keep of a token, its keys and values; ``state_elements``: those that they keep of a sequence
    however long it is, the running states of recurrent layers.
    ``causal``: a token sees only those before it. ``head_outputs``: numbers that its classification head gives for a text, 0 without a head;
    ``n_labels``: how many names it has for them.
    """

    path: Path
    version: int
    architecture: str
    name: str
    context_length: int
    embedding_length: int
    feed_forward_length: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    key_length: int
    value_length: int
    cell_elements: int
    state_elements: int
    vocabulary_size: int
    has_chat_template: bool
    quantization: str
    repacked_bytes: int
    n_parameters: int
    size_bytes: int
    expected_size_bytes: int
    causal: bool
    head_outputs: int
    n_labels: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    type_name: str
    rows: int
    elements: int
    size_bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Skipped:
    """An array too long to keep."""

    count: int


class _Reader:
    """A cursor over the file that never reads past its end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at, self.end = data, path, 0, len(data)

    def damaged(self, reason: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {reason}", HINT)

    def take(self, size: int, what: str) -> int:
        """Step over ``size`` bytes and return where they begin."""
        if size > self.end - self.at:
            raise self.damaged(f"truncated: {what} needs {size} bytes at {self.at}, the file has {self.end}")
        start, self.at = self.at, self.at + size
        return start

    def scalar(self, code: str, what: str) -> Any:
        return struct.unpack_from(f"<{code}", self.data, self.take(struct.calcsize(f"<{code}"), what))[0]

    def count(self, smallest: int, what: str) -> int:
        """A number of items of at least ``smallest`` bytes each, refused when the rest of the file cannot hold them."""
        number: int = self.scalar("Q", what)
        if number > (self.end - self.at) // smallest:
            raise self.damaged(f"absurd or truncated: {number} {what} do not fit the remaining {self.end - self.at} bytes")
        return number

    def text(self, what: str) -> str:
        size = self.count(1, f"bytes of {what}")
        start = self.take(size, what)
        return self.data[start : start + size].decode("utf-8", "replace")

    def value(self, kind: int, what: str) -> Any:
        if kind == STRING:
            return self.text(what)
        if kind == ARRAY:
            return self.array(what)
        if kind not in SCALARS:
            raise self.damaged(f"unknown type {kind} of {what}")
        return self.scalar(SCALARS[kind], what)

    def array(self, what: str) -> Any:
        kind = self.scalar("I", what)
        if kind == STRING:
            return self.skip_strings(self.count(8, f"strings of {what}"), what)
        if kind not in SCALARS:
            raise self.damaged(f"array of unknown type {kind} in {what}")
        size = struct.calcsize(f"<{SCALARS[kind]}")
        number = self.count(size, f"items of {what}")
        start = self.take(number * size, what)
        return struct.unpack_from(f"<{number}{SCALARS[kind]}", self.data, start) if number <= KEPT_ARRAY else _Skipped(number)

    def skip_strings(self, number: int, what: str) -> _Skipped:
        """Step over strings. One tight loop, because vocabularies have up to 260k tokens and as many merges."""
        unpack, at = struct.Struct("<Q").unpack_from, self.at
        for _ in range(number):
            if (at := at + 8) <= self.end:
                at += unpack(self.data, at - 8)[0]
            if at > self.end:
                raise self.damaged(f"truncated: a string of {what} ends at {at}, the file has {self.end} bytes")
        self.at = at
        return _Skipped(number)


def read_gguf(path: Path) -> GGUFInfo:
    """Read and check a header. Raises :class:`ModelNotFoundError` when there is no such file and :class:`ModelFileError`, which names the
    file and the reason, when it is no GGUF, damaged, shorter than its tensors say, split, or of an unsupported version."""
    with _opened(path) as reader:
        return _parse(reader)


def raw_metadata(path: Path) -> list[tuple[str, bytes]]:
    """Each metadata key of the file with the bytes of its whole entry, key included. Raises as :func:`read_gguf`."""
    with _opened(path) as reader:
        _, n_pairs = _begin(reader)
        pairs = []
        for _ in range(n_pairs):
            start = reader.at
            key = reader.text("a metadata key")
            reader.value(reader.scalar("I", key), key)
            pairs.append((key, reader.data[start : reader.at]))
        return pairs


def identity(path: Path) -> str:
    """What a model is, whatever its quantisation: a digest of its architecture and of the weights of its norms, which llama.cpp keeps in float32 in
    every quantisation of a model. Raises as :func:`read_gguf`."""
    with _opened(path) as reader:
        metadata, tensors = _header(reader)
        start = _data_start(reader, metadata)
        digest = hashlib.sha256(_string(metadata, "general.architecture").encode())
        for tensor in sorted((t for t in tensors if t.type_name == "F32" and t.name.endswith("norm.weight")), key=lambda t: t.name):
            reader.at = start + tensor.offset
            at = reader.take(tensor.size_bytes, f"tensor {tensor.name}")
            digest.update(tensor.name.encode() + reader.data[at : at + tensor.size_bytes])
        return digest.hexdigest()[:16]


def text_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file that are texts. Raises as :func:`read_gguf`."""
    with _opened(path) as reader:
        return {key: value for key, value in _header(reader)[0].items() if isinstance(value, str)}


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file, None where there is none, or the path can be none."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


@contextmanager
def _opened(path: Path) -> Iterator[_Reader]:
    """A cursor at the beginning of a file. Raises as :func:`read_gguf`."""
    try:
        # To open a named pipe would wait for whoever writes into it.
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path}: cannot be read: not a file", "Give a readable .gguf file.")
        with path.open("rb") as file:
            if (size := path.stat().st_size) < 24:
                raise ModelFileError(f"{path}: not a GGUF file: {size} bytes are less than a header", HINT)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield _Reader(data, path)
    except FileNotFoundError:
        raise ModelNotFoundError(f"no model file {path}", MISSING) from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}", "Give a readable .gguf file.") from None


def _begin(reader: _Reader) -> tuple[int, int]:
    """Check magic and version; ``(number of tensors, number of metadata pairs)``."""
    start = reader.take(4, "magic")
    if (magic := reader.data[start : start + 4]) != MAGIC:
        raise reader.damaged(f"not a GGUF file: begins with {magic!r}, expected {MAGIC!r}")
    version = reader.scalar("I", "version")
    if version not in VERSIONS:
        kind = "a big-endian file" if version and version & 0xFFFF == 0 else f"version {version}"
        raise reader.damaged(f"unsupported GGUF: {kind}, expected version {' or '.join(map(str, VERSIONS))}")
    return reader.count(24, "tensors"), reader.count(13, "metadata pairs")


def _parse(reader: _Reader) -> GGUFInfo:
    metadata, tensors = _header(reader)
    version = struct.unpack_from("<I", reader.data, len(MAGIC))[0]
    return _info(reader, version, metadata, tensors)


def _header(reader: _Reader) -> tuple[dict[str, Any], list[_Tensor]]:
    n_tensors, n_pairs = _begin(reader)
    metadata: dict[str, Any] = {}
    for _ in range(n_pairs):
        key = reader.text("a metadata key")
        metadata[key] = reader.value(reader.scalar("I", key), key)
    return metadata, [_tensor(reader) for _ in range(n_tensors)]


def _data_start(reader: _Reader, metadata: Mapping[str, Any]) -> int:
    """Where the tensors begin, the header being read."""
    alignment = _integer(metadata, "general.alignment") or 32
    return -(-reader.at // alignment) * alignment


def _tensor(reader: _Reader) -> _Tensor:
    name = reader.text("a tensor's name")
    if not 1 <= (n_dimensions := reader.scalar("I", name)) <= 4:
        raise reader.damaged(f"tensor {name!r} has {n_dimensions} dimensions, expected 1 to 4")
    shape = [reader.scalar("Q", name) for _ in range(n_dimensions)]
    kind, offset = reader.scalar("I", name), reader.scalar("Q", name)
    if kind not in TENSOR_TYPES:
        raise reader.damaged(f"tensor {name!r} has unknown type {kind}")
    type_name, block, block_bytes = TENSOR_TYPES[kind]
    if not all(0 < size <= MAX_DIMENSION for size in shape) or shape[0] % block:
        raise reader.damaged(f"tensor {name!r} has absurd shape {shape} for {type_name}")
    elements = prod(shape)
    return _Tensor(name, type_name, elements // shape[0], elements, elements // block * block_bytes, offset)


def _info(reader: _Reader, version: int, metadata: Mapping[str, Any], tensors: list[_Tensor]) -> GGUFInfo:
    architecture = _string(metadata, "general.architecture")
    if not architecture or not tensors:
        raise reader.damaged("not a model: it holds no tensors or does not name its architecture")
    if _integer(metadata, "split.count") > 1:
        raise ModelFileError(f"{reader.path}: one part of a split model", WHOLE)
    expected = _data_start(reader, metadata) + max(tensor.offset + tensor.size_bytes for tensor in tensors)
    if reader.end < expected:
        raise reader.damaged(f"truncated: its tensors end at byte {expected}, the file has {reader.end}")
    width, heads = _integer(metadata, f"{architecture}.embedding_length"), _integer(metadata, f"{architecture}.attention.head_count")
    tokens = metadata.get("tokenizer.ggml.tokens")
    labels, rows = metadata.get(f"{architecture}.classifier.output_labels"), {tensor.name: tensor.rows for tensor in tensors}
    keys, values = f"{architecture}.attention.key_length", f"{architecture}.attention.value_length"
    key_length, value_length = (_integer(metadata, key) if key in metadata else width // max(heads, 1) for key in (keys, values))
    cell_elements, state_elements = _kept(metadata, architecture, width, key_length, value_length)
    by_size = max(tensors, key=lambda tensor: tensor.size_bytes).type_name
    return GGUFInfo(
        path=reader.path,
        version=version,
        architecture=architecture,
        name=_string(metadata, "general.name") or reader.path.stem,
        context_length=_integer(metadata, f"{architecture}.context_length"),
        embedding_length=width,
        feed_forward_length=_integer(metadata, f"{architecture}.feed_forward_length"),
        n_layers=_integer(metadata, f"{architecture}.block_count"),
        n_heads=heads,
        n_kv_heads=_integer(metadata, f"{architecture}.attention.head_count_kv") or heads,
        key_length=key_length,
        value_length=value_length,
        cell_elements=cell_elements,
        state_elements=state_elements,
        vocabulary_size=tokens.count if isinstance(tokens, _Skipped) else _integer(metadata, f"{architecture}.vocab_size"),
        has_chat_template=bool(_string(metadata, "tokenizer.chat_template")),
        quantization=FILE_TYPES.get(_integer(metadata, "general.file_type"), by_size) if "general.file_type" in metadata else by_size,
        repacked_bytes=sum(tensor.size_bytes for tensor in tensors if tensor.type_name in REPACKED),
        n_parameters=sum(tensor.elements for tensor in tensors),
        size_bytes=reader.end,
        expected_size_bytes=expected,
        causal=metadata.get(f"{architecture}.attention.causal") is not False,
        head_outputs=next((rows[name] for name in HEADS if name in rows), 0),
        n_labels=labels.count if isinstance(labels, _Skipped) else 0,
    )


def _string(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(key)
    return value if isinstance(value, str) else ""


def _integer(metadata: Mapping[str, Any], key: str) -> int:
    """A non-negative integer; for a per-layer array its largest; 0 when absent."""
    value = metadata.get(key)
    numbers = [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, int)]
    return max([0, *numbers])


def _per_layer(metadata: Mapping[str, Any], key: str, n_layers: int) -> list[int]:
    """Non-negative integers, one for each layer; 0 where there is none."""
    value = metadata.get(key)
    items = value if isinstance(value, tuple) else (value,) * n_layers
    return [item if isinstance(item, int) and item > 0 else 0 for item in (*items, *[0] * n_layers)[:n_layers]]


def _kept(metadata: Mapping[str, Any], architecture: str, width: int, key_length: int, value_length: int) -> tuple[int, int]:
    """``(cell_elements, state_elements)`` of :class:`GGUFInfo`, as llama.cpp 0.3.36 allocates them (llama_kv_cache, llama_memory_recurrent)."""
    # Those behind the last of these predict further tokens, which nothing here asks for.
    ahead = _integer(metadata, f"{architecture}.nextn_predict_layers") if architecture in INTERVALS else 0
    n_layers = max(min(_integer(metadata, f"{architecture}.block_count"), MOST_LAYERS) - ahead, 0)
    named = f"{architecture}.attention.head_count_kv"
    heads = _per_layer(metadata, named if named in metadata else f"{architecture}.attention.head_count", n_layers)
    state = _state(metadata, architecture, width)
    recurrent = _recurrent(metadata, architecture, heads) if state else [False] * n_layers
    attending = [count for count, states in zip(heads, recurrent, strict=True) if architecture in STATES_TOO or not states]
    # Of nemotron_h some layers only feed forward.
    attending = [count for count in attending if count or not state]
    # Values lie across, in every layer in as many rows as in that with most.
    return key_length * sum(attending) + value_length * len(attending) * max(heads, default=0), state * sum(recurrent)


def _state(metadata: Mapping[str, Any], architecture: str, width: int) -> int:
    """Numbers that one recurrent layer keeps of a sequence; 0 in a file that has no such layers."""

    def number(key: str) -> int:
        return _integer(metadata, f"{architecture}.{key}")

    if size := number("wkv.head_size"):
        return width * (size + (number("token_shift_count") or 2))
    if columns := number("shortconv.l_cache"):
        return width * (columns - 1)
    inner, size = number("ssm.inner_size"), number("ssm.state_size")
    return max(number("ssm.conv_kernel") - 1, 0) * (inner + 2 * number("ssm.group_count") * size) + size * inner


def _recurrent(metadata: Mapping[str, Any], architecture: str, heads: list[int]) -> list[bool]:
    """Which layers keep a state, ``heads`` being those of keys and values in each."""
    n_layers = len(heads)
    if architecture in (*STATES_ONLY, *STATES_TOO):
        return [True] * n_layers
    if (flags := f"{architecture}.attention.recurrent_layers") in metadata:
        return [bool(flag) for flag in _per_layer(metadata, flags, n_layers)]
    if usual := INTERVALS.get(architecture):
        interval = _integer(metadata, f"{architecture}.full_attention_interval") or usual
        return [bool((layer + 1) % interval) for layer in range(n_layers)]
    # Of nemotron_h some layers only feed forward.
    forward = _per_layer(metadata, f"{architecture}.feed_forward_length", n_layers) if architecture.startswith("nemotron_h") else [0] * n_layers
    return [not count and not inner for count, inner in zip(heads, forward, strict=True)]


def cell_bytes(info: GGUFInfo) -> int:
    """Keys and values of one token, in f16."""
    return 2 * info.cell_elements


def state_bytes(info: GGUFInfo) -> int:
    """The states of one sequence, in float32."""
    return 4 * info.state_elements


def memory_estimate_bytes(info: GGUFInfo, n_context: int, n_batch: int = 64, n_outputs: int = 1, n_sequences: int = 1, *, scores: bool = True) -> int:
    """Memory for ``info`` with ``n_context`` cells for ``n_sequences`` evaluated ``n_batch`` tokens at a time, logits for ``n_outputs`` of them:
    weights, keys and values in f16, states, compute buffers.

    Compute buffers: activations of one batch (about twice the feed-forward and eight times the model width) and, with ``scores``, the attention of
    all heads to all cells, which flash attention does not write down; float32. The vocabulary's tables take about 220 bytes a token, small buffers
    2 MB. Measured with 0.5B and 1B parameters, Q4_0, Q4_K and Q8_0: within 3 % of the growth of resident memory. With the shapes of Qwen3.5 0.8B
    and 4B and 16 sequences: what is beside the weights within 5 % of llama.cpp's own account.
    """
    kept = n_context * cell_bytes(info) + n_sequences * state_bytes(info)
    activations = 4 * n_batch * (2 * info.feed_forward_length + 8 * info.embedding_length + scores * n_context * info.n_heads)
    logits = 4 * n_outputs * info.vocabulary_size
    return info.size_bytes + kept + max(activations, logits) + logits + VOCABULARY_BYTES * info.vocabulary_size + OVERHEAD_BYTES + 2 * 2**20
