"""Write GGUF files with random weights: real in size, architecture, quantisation and vocabulary, so that speed and memory can be measured
without a download. What such a model says is noise.

Blocks are written as random bytes under a fixed scale, which costs no quantisation; layouts as in ggml-common.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mdsa_local.errors import InputError, UnknownNameError
from mdsa_local.runtime.gguf import MAGIC, TENSOR_TYPES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPECIAL = ("<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TYPE_IDS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
FILE_TYPE_IDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K": 15}
ALIGNMENT = 32
# Standard deviation of a weight, over the square root of its row's length: keeps activations of a random network near one.
GAIN = 1.0
# Values at a time while writing.
PIECE = 1 << 22


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model. ``architecture`` is ``llama`` or ``qwen2``; embeddings serve as the output layer too."""

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    context: int = 8192

    @property
    def kv_width(self) -> int:
        """Width of keys and values."""
        return self.width // self.heads * self.kv_heads


# Those of Qwen2.5-0.5B and Llama-3.2-1B, and a toy for tests.
SHAPES = {
    "0.5b": Shape("qwen2", 24, 896, 14, 2, 4864, 151936),
    "1b": Shape("llama", 16, 2048, 32, 8, 8192, 128256),
    "tiny": Shape("llama", 2, 256, 4, 2, 512, 2048),
}


def write_random(path: Path, shape: Shape, quantization: str = "Q4_0", *, seed: int = 0, like: Path | None = None, name: str = "random") -> Path:
    """Write a model of ``shape`` and ``quantization`` (``F16``, ``Q8_0``, ``Q4_0``, ``Q4_K``, ``F32``) to ``path``.

    ``like`` is a GGUF whose tokenizer is copied, such as a vocabulary-only file; without it the tokenizer is byte-level BPE with as many
    random merges as the vocabulary needs. Raises :class:`UnknownNameError` and :class:`InputError`.
    """
    import numpy as np

    if quantization not in FILE_TYPE_IDS:
        raise UnknownNameError.among("quantization", quantization, FILE_TYPE_IDS)
    if min(shape.layers, shape.width, shape.heads, shape.kv_heads, shape.inner, shape.context) < 1:
        raise InputError("a model has no size below 1", "Give larger numbers.")
    if shape.width % shape.heads or shape.width // shape.heads % 2 or shape.heads % shape.kv_heads:
        raise InputError(
            f"{shape.heads} heads, {shape.kv_heads} of keys and values, do not fit a width of {shape.width}",
            "The width has to be an even multiple of the heads, the heads a multiple of those of keys and values.",
        )
    block = TENSOR_TYPES[TYPE_IDS[quantization]][1]
    if shape.width % block or shape.inner % block:
        raise InputError(f"{quantization} needs rows that are multiples of {block}; {shape.width} and {shape.inner} are not", "Use Q4_0 or Q8_0.")
    rng = np.random.default_rng(seed)
    vocabulary = _copied(like) if like else None
    if vocabulary:
        shape = Shape(**{**{key: getattr(shape, key) for key in shape.__slots__}, "vocabulary": vocabulary[0]})
    pairs = b"".join(_pair(key, value) for key, value in _metadata(shape, quantization, name).items())
    tokenizer, n_tokenizer = (vocabulary[1], vocabulary[2]) if vocabulary else _tokenizer(shape.vocabulary, rng)
    tensors = list(_tensors(shape, quantization))
    header, offset = b"", 0
    for tensor, dimensions, kind in tensors:
        header += _string(tensor) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, TYPE_IDS[kind], offset)
        offset += -(-_size(dimensions, kind) // ALIGNMENT) * ALIGNMENT
    n_pairs = len(_metadata(shape, quantization, name)) + n_tokenizer
    head = struct.pack("<4sIQQ", MAGIC, 3, len(tensors), n_pairs) + pairs + tokenizer + header
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        for _, dimensions, kind in tensors:
            _fill(file, dimensions, kind, rng)
    return path


def write_lora(path: Path, shape: Shape, rank: int = 8, *, strength: float = 1.0, seed: int = 0) -> Path:
    """Write a random LoRA adapter for models of ``shape``, on the queries and the output of each layer's attention."""
    import numpy as np

    rng = np.random.default_rng(seed)
    pairs: dict[str, Any] = {"general.type": "adapter", "general.architecture": shape.architecture, "adapter.type": "lora"}
    pairs["adapter.lora.alpha"] = float(rank)
    tensors = {
        f"blk.{layer}.{part}.weight.lora_{which}": rng.standard_normal((rows, columns), np.float32) * np.float32(strength / columns**0.5)
        for layer in range(shape.layers)
        for part in ("attn_q", "attn_output")
        for which, rows, columns in (("a", rank, shape.width), ("b", shape.width, rank))
    }
    return write_float32(path, pairs, tensors)


def write_float32(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]]) -> Path:
    """Write a GGUF of ``tensors`` as they are, rows first, with ``metadata``: texts, numbers, lists of texts or of integers."""
    header, data = b"", b""
    for name, values in tensors.items():
        header += _string(name) + struct.pack(f"<I{values.ndim}QIQ", values.ndim, *reversed(values.shape), TYPE_IDS["F32"], len(data))
        raw = values.astype("<f4").tobytes()
        data += raw + bytes(-len(raw) % ALIGNMENT)
    head = struct.pack("<4sIQQ", MAGIC, 3, len(tensors), len(metadata)) + b"".join(_pair(key, value) for key, value in metadata.items()) + header
    path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + data)
    return path


def _metadata(shape: Shape, quantization: str, name: str) -> dict[str, Any]:
    prefix = shape.architecture
    return {
        "general.architecture": prefix,
        "general.name": name,
        "general.file_type": FILE_TYPE_IDS[quantization],
        f"{prefix}.context_length": shape.context,
        f"{prefix}.embedding_length": shape.width,
        f"{prefix}.block_count": shape.layers,
        f"{prefix}.feed_forward_length": shape.inner,
        f"{prefix}.attention.head_count": shape.heads,
        f"{prefix}.attention.head_count_kv": shape.kv_heads,
        f"{prefix}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{prefix}.rope.freq_base": 1e6,
    }


def _tensors(shape: Shape, quantization: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, dimensions (innermost first) and type of each tensor."""
    # As llama.cpp's own quantiser does, the embeddings stay finer than four bits.
    yield "token_embd.weight", (shape.width, shape.vocabulary), "Q8_0" if quantization.startswith("Q4") else quantization
    yield "output_norm.weight", (shape.width,), "F32"
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        yield f"{at}attn_norm.weight", (shape.width,), "F32"
        yield f"{at}ffn_norm.weight", (shape.width,), "F32"
        for part, rows in (("attn_q", shape.width), ("attn_k", shape.kv_width), ("attn_v", shape.kv_width)):
            yield f"{at}{part}.weight", (shape.width, rows), quantization
            if shape.architecture == "qwen2":
                yield f"{at}{part}.bias", (rows,), "F32"
        yield f"{at}attn_output.weight", (shape.width, shape.width), quantization
        yield f"{at}ffn_gate.weight", (shape.width, shape.inner), quantization
        yield f"{at}ffn_up.weight", (shape.width, shape.inner), quantization
        yield f"{at}ffn_down.weight", (shape.inner, shape.width), quantization


def _size(dimensions: Sequence[int], kind: str) -> int:
    _, block, block_bytes = TENSOR_TYPES[TYPE_IDS[kind]]
    elements = 1
    for size in dimensions:
        elements *= size
    return elements // block * block_bytes


def _fill(file: BinaryIO, dimensions: Sequence[int], kind: str, rng: np.random.Generator) -> None:
    """Random values of ``kind``, then zeros up to the alignment."""
    import numpy as np

    if len(dimensions) == 1:
        file.write(np.ones(dimensions[0], np.float32).tobytes() + bytes(-4 * dimensions[0] % ALIGNMENT))
        return
    deviation = GAIN / dimensions[0] ** 0.5
    _, block, _ = TENSOR_TYPES[TYPE_IDS[kind]]
    left = _size(dimensions, kind)
    padding = -left % ALIGNMENT
    blocks = dimensions[0] * dimensions[1] // block
    while blocks:
        count = min(blocks, PIECE // block)
        file.write(_BLOCKS[kind](count, deviation, rng).tobytes())
        blocks -= count
    file.write(bytes(padding))


def _normal(count: int, deviation: float, rng: np.random.Generator) -> NDArray[Any]:
    import numpy as np

    return rng.standard_normal(count, np.float32) * np.float32(deviation)


def _half(count: int, deviation: float, rng: np.random.Generator) -> NDArray[Any]:
    import numpy as np

    return _normal(count, deviation, rng).astype(np.float16)


def _scaled(block_bytes: int, heads: Mapping[int, float]) -> Callable[[int, float, np.random.Generator], NDArray[Any]]:
    """Blocks of random bytes with a float16 at each byte of ``heads``: that many times the deviation."""

    def blocks(count: int, deviation: float, rng: np.random.Generator) -> NDArray[Any]:
        import numpy as np

        out = rng.integers(0, 256, (count, block_bytes), np.uint8)
        for at, factor in heads.items():
            out[:, at : at + 2] = np.frombuffer(np.float16(deviation * factor).tobytes(), np.uint8)
        return out

    return blocks


_BLOCKS: dict[str, Callable[[int, float, np.random.Generator], NDArray[Any]]] = {
    "F32": _normal,
    "F16": _half,
    # Uniform integers deviate by (2^bits)/sqrt(12): 73.9 for a byte, 4.6 for a nibble. In Q4_K the six-bit scales multiply by 32 on average.
    "Q8_0": _scaled(34, {0: 1 / 73.9}),
    "Q4_0": _scaled(18, {0: 1 / 4.6}),
    "Q4_K": _scaled(144, {0: 1 / (4.6 * 32), 2: 7.5 / (4.6 * 32)}),
}


def byte_letters() -> list[str]:
    """The letter by which byte-level BPE writes each of the 256 bytes."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    letters, extra = [], 256
    for byte in range(256):
        letters.append(chr(byte) if byte in plain else chr(extra))
        extra += byte not in plain
    return letters


def _tokenizer(size: int, rng: np.random.Generator) -> tuple[bytes, int]:
    """The tokenizer's metadata, and how many pairs: ``size`` tokens, lower-case letters merged at random into ever longer words."""
    base = byte_letters()
    wanted = size - len(base) - len(SPECIAL)
    if wanted < 0:
        raise InputError(f"a vocabulary of {size} has no room for the 256 bytes and {len(SPECIAL)} marks", "Ask for at least 261 tokens.")
    pool = [*"etaoinshrdlucmfwypvbgkjqxz", "Ġ"]
    known, merges, words = set(base), list[str](), list[str]()
    while len(words) < wanted:
        for left, right in rng.integers(0, len(pool), (4096, 2)).tolist():
            word = pool[left] + pool[right]
            if word not in known and len(word) <= 12 and "Ġ" not in word[1:]:
                known.add(word)
                words.append(word)
                merges.append(f"{pool[left]} {pool[right]}")
                pool.append(word)
                if len(words) == wanted:
                    break
    tokens = [*base, *words, *SPECIAL]
    pairs: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index("<|bos|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|end|>"),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": TEMPLATE,
    }
    return b"".join(_pair(key, value) for key, value in pairs.items()), len(pairs)


def _copied(path: Path) -> tuple[int, bytes, int]:
    """Size of the vocabulary of ``path``, its ``tokenizer.*`` metadata as it stands there, a chat template added where it has none, and the number
    of pairs."""
    from mdsa_local.runtime.gguf import raw_metadata

    pairs = [(key, raw) for key, raw in raw_metadata(path) if key.startswith("tokenizer.")]
    tokens = next((raw for key, raw in pairs if key == "tokenizer.ggml.tokens"), None)
    if tokens is None:
        raise InputError(f"{path}: holds no vocabulary", "Give a GGUF with a tokenizer, such as a vocabulary-only file.")
    # Behind the key: type of the value (array), type of its items (string), their number.
    (size,) = struct.unpack_from("<Q", tokens, 8 + len(b"tokenizer.ggml.tokens") + 8)
    if "tokenizer.chat_template" not in dict(pairs):
        pairs.append(("tokenizer.chat_template", _pair("tokenizer.chat_template", TEMPLATE)))
    return size, b"".join(raw for _, raw in pairs), len(pairs)


def _pair(key: str, value: Any) -> bytes:
    match value:
        case bool():
            tagged = struct.pack("<I?", 7, value)
        case int():
            tagged = struct.pack("<II", 4, value)
        case float():
            tagged = struct.pack("<If", 6, value)
        case str():
            tagged = struct.pack("<I", 8) + _string(value)
        case _:
            texts = value and isinstance(value[0], str)
            items = b"".join(map(_string, value)) if texts else struct.pack(f"<{len(value)}i", *value)
            tagged = struct.pack("<IIQ", 9, 8 if texts else 5, len(value)) + items
    return _string(key) + tagged


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
