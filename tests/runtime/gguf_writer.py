"""Write tiny llama models as GGUF files, so that the runtime is tested on real files without shipping or downloading one."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdsa_local.runtime.synthetic import byte_letters

Weights = Mapping[str, NDArray[np.float32]]
Value = str | int | float | bool | list[str] | list[int]

SPECIAL = ["<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "t h", "th e", "i n", "a n", "an d", "o n"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    inner: int = 128
    context: int = 512


VOCABULARY = [*byte_letters(), *(merge.replace(" ", "") for merge in MERGES), *SPECIAL]


def random_weights(shape: Shape, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights of a model that writes pseudo-random bytes, each depending on all before it."""
    rng = np.random.default_rng(seed)
    kv_width = shape.width // shape.heads * shape.kv_heads

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return rng.standard_normal((rows, columns), np.float32) * np.float32(2 / columns**0.5)

    weights = {
        "token_embd.weight": rng.standard_normal((len(VOCABULARY), shape.width)).astype(np.float32),
        "output.weight": matrix(len(VOCABULARY), shape.width),
        "output_norm.weight": np.ones(shape.width, np.float32),
    }
    for layer in range(shape.layers):
        weights |= {
            f"blk.{layer}.attn_norm.weight": np.ones(shape.width, np.float32),
            f"blk.{layer}.ffn_norm.weight": np.ones(shape.width, np.float32),
            f"blk.{layer}.attn_q.weight": matrix(shape.width, shape.width),
            f"blk.{layer}.attn_k.weight": matrix(kv_width, shape.width),
            f"blk.{layer}.attn_v.weight": matrix(kv_width, shape.width),
            f"blk.{layer}.attn_output.weight": matrix(shape.width, shape.width),
            f"blk.{layer}.ffn_gate.weight": matrix(shape.inner, shape.width),
            f"blk.{layer}.ffn_up.weight": matrix(shape.inner, shape.width),
            f"blk.{layer}.ffn_down.weight": matrix(shape.width, shape.inner),
        }
    return weights


def scripted(text: str, *, loop: bool = False) -> tuple[Shape, dict[str, NDArray[np.float32]]]:
    """A model that answers ``text``, byte by byte, then ends, or begins again. No byte may occur twice.

    Embeddings are one-hot, attention and feed-forward add nothing, so the next token is a function of the last one alone.
    """
    shape = Shape(width=320, layers=1, inner=32)
    weights = random_weights(shape)
    size = len(VOCABULARY)
    weights["token_embd.weight"] = np.eye(size, shape.width, dtype=np.float32)
    for name in ("attn_output", "ffn_down"):
        weights[f"blk.0.{name}.weight"] *= 0
    chain = [VOCABULARY.index("<|assistant|>"), *text.encode()]
    assert len(set(chain)) == len(chain), "each byte may occur once"
    chain.append(chain[1] if loop else VOCABULARY.index("<|end|>"))
    output = np.zeros((size, shape.width), np.float32)
    for current, following in pairwise(chain):
        output[following, current] = 1
    return shape, weights | {"output.weight": output}


def metadata(shape: Shape, template: str | None = TEMPLATE) -> dict[str, Value]:
    """The metadata of a llama model."""
    types = [3 if token in SPECIAL else 1 for token in VOCABULARY]
    pairs: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "general.file_type": 0,
        "llama.context_length": shape.context,
        "llama.embedding_length": shape.width,
        "llama.block_count": shape.layers,
        "llama.feed_forward_length": shape.inner,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": shape.width // shape.heads,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": VOCABULARY,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": VOCABULARY.index("<|bos|>"),
        "tokenizer.ggml.eos_token_id": VOCABULARY.index("<|end|>"),
        "tokenizer.ggml.add_bos_token": True,
    }
    return pairs if template is None else {**pairs, "tokenizer.chat_template": template}


def write_gguf(path: Path, pairs: Mapping[str, Value], tensors: Weights, version: int = 3) -> Path:
    """Write a GGUF file of float32 tensors."""
    header = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(pairs))
    header += b"".join(string(key) + tagged(value) for key, value in pairs.items())
    data = b""
    for name, tensor in tensors.items():
        dimensions = tensor.shape[::-1]
        header += string(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, 0, len(data))
        data += padded(tensor.tobytes())
    path.write_bytes(padded(header) + data)
    return path


def padded(raw: bytes) -> bytes:
    """``raw`` up to the next multiple of 32 bytes."""
    return raw + bytes(-len(raw) % 32)


def string(text: str) -> bytes:
    """A string with its length."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def tagged(value: Value) -> bytes:
    """A metadata value behind its type."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + string(value)
        case _:
            return struct.pack("<II", 9, 8 if isinstance(value[0], str) else 5) + struct.pack("<Q", len(value)) + items(value)


def items(values: Sequence[str] | Sequence[int]) -> bytes:
    """The elements of a metadata array."""
    return b"".join(string(value) if isinstance(value, str) else struct.pack("<i", value) for value in values)
