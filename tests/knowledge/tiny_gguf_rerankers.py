"""Rerankers with random weights as GGUF files, and what llama.cpp should make of a pair, computed here from the same weights.

One is a BERT with a WordPiece vocabulary, read in one pass; the other a Qwen3 with a template, whose answer is that of its last token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdsa_local.runtime.synthetic import byte_letters, write_float32

WINDOW = 48
LAYERS, WIDTH, HEADS, INNER = 2, 32, 2, 48
EPSILON = 1e-6
ROPE_BASE = 10000.0
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("▁when", "▁are", "▁rose", "s", "▁pruned", "▁in", "▁march", "▁tulips", "▁a", "▁gold", "en", "▁?", "▁.", "▁[", "▁]", "▁sep")
CONTROL = ("<|im_start|>", "<|im_end|>")
TEMPLATE = "<|im_start|>Is {document} about {query}?<|im_end|>"
Floats = NDArray[Any]


@dataclass(frozen=True)
class Made:
    """Metadata and weights of a model, to be changed before it is written, and how to compute its score of a row of tokens."""

    metadata: dict[str, Any]
    weights: dict[str, Floats]
    score: Callable[[dict[str, Floats], Sequence[int]], float] = field(repr=False)

    def write(self, path: Path, metadata: Mapping[str, Any] | None = None, without: Sequence[str] = ()) -> Path:
        """Write it with other ``metadata``, and without some weights."""
        kept = {name: values for name, values in self.weights.items() if name not in without}
        return write_float32(path, self.metadata | dict(metadata or {}), kept)

    def reads(self, tokens: Sequence[int]) -> float:
        """The score of a row of tokens."""
        return self.score(self.weights, tokens)


def bert(outputs: int = 1, seed: int = 0) -> Made:
    """A BERT whose head gives so many numbers."""
    rng = np.random.default_rng(seed)
    tokens = [*SPECIAL, *PIECES]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), WIDTH),
        "token_types.weight": (2, WIDTH),
        "position_embd.weight": (WINDOW, WIDTH),
        "token_embd_norm.weight": (WIDTH,),
        "token_embd_norm.bias": (WIDTH,),
        "cls.weight": (WIDTH, WIDTH),
        "cls.bias": (WIDTH,),
        "cls.output.weight": (outputs, WIDTH),
        "cls.output.bias": (outputs,),
    }
    for layer in range(LAYERS):
        parts = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, WIDTH), "attn_v": (WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH)}
        for name, (rows, columns) in (parts | {"ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}).items():
            shapes |= {f"blk.{layer}.{name}.weight": (rows, columns), f"blk.{layer}.{name}.bias": (rows,)}
        for name in ("attn_output_norm", "layer_output_norm"):
            shapes |= {f"blk.{layer}.{name}.weight": (WIDTH,), f"blk.{layer}.{name}.bias": (WIDTH,)}
    metadata = _sizes("bert") | {
        "bert.attention.layer_norm_epsilon": EPSILON,
        "bert.attention.causal": False,
        "bert.pooling_type": 4,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.token_type_count": 2,
        **{f"tokenizer.ggml.{name}_token_id": at for name, at in {"padding": 0, "unknown": 1, "bos": 2, "eos": 3, "seperator": 3, "mask": 4}.items()},
    }
    return Made(metadata, _random(rng, shapes), _bert_score)


def qwen3(seed: int = 0) -> Made:
    """A Qwen3 whose head tells yes from no, with the template :data:`TEMPLATE` and a vocabulary of single bytes."""
    rng = np.random.default_rng(seed)
    tokens = [*byte_letters(), "qz", *CONTROL]
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens), WIDTH), "output_norm.weight": (WIDTH,), "cls.output.weight": (2, WIDTH)}
    head = WIDTH // HEADS
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        shapes |= {f"{at}{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"{at}{name}.weight": (head,) for name in ("attn_q_norm", "attn_k_norm")}
        shapes |= {f"{at}attn_q.weight": (WIDTH, WIDTH), f"{at}attn_k.weight": (head, WIDTH), f"{at}attn_v.weight": (head, WIDTH)}
        shapes |= {f"{at}attn_output.weight": (WIDTH, WIDTH), f"{at}ffn_down.weight": (WIDTH, INNER)}
        shapes |= {f"{at}{name}.weight": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
    metadata = _sizes("qwen3") | {
        "qwen3.context_length": 200,
        "qwen3.attention.head_count_kv": 1,
        "qwen3.attention.key_length": head,
        "qwen3.attention.value_length": head,
        "qwen3.attention.layer_norm_rms_epsilon": EPSILON,
        "qwen3.rope.freq_base": ROPE_BASE,
        "qwen3.pooling_type": 4,
        "qwen3.classifier.output_labels": ["yes", "no"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in CONTROL else 1 for token in tokens],
        "tokenizer.ggml.merges": ["q z"],
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template.rerank": TEMPLATE,
    }
    return Made(metadata, _random(rng, shapes), _qwen3_score)


def pieces(text: str) -> list[int]:
    """Tokens of a text of known words, as WordPiece cuts them: the longest piece first."""
    found = []
    for word in text.lower().split():
        rest = "▁" + word
        while rest:
            piece = max((piece for piece in PIECES if rest.startswith(piece)), key=len)
            found.append(len(SPECIAL) + PIECES.index(piece))
            rest = rest[len(piece) :]
    return found


def as_letters(text: str) -> list[str]:
    """A text's bytes as the vocabulary of :func:`qwen3` writes them; control tokens are not looked for."""
    letters = byte_letters()
    return [letters[byte] for byte in text.encode()]


def _sizes(architecture: str) -> dict[str, Any]:
    sizes = {"context_length": WINDOW, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": INNER, "attention.head_count": HEADS}
    return {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in sizes.items()}}


def _random(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Floats]:
    """Weights near one for norms, else so large that the texts' scores differ."""
    made: dict[str, Floats] = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, np.float32)
        made[name] = 1 + values / 10 if "norm.weight" in name else values * 2 / np.float32(shape[-1] ** 0.5)
    return made


def _attention(queries: Floats, keys: Floats, values: Floats, *, causal: bool) -> Floats:
    """``(n, heads, size)`` of each; of keys and values there may be one for all heads."""
    weights = np.einsum("qhd,khd->hqk", queries, np.broadcast_to(keys, queries.shape)) / queries.shape[-1] ** 0.5
    if causal:
        weights = np.where(np.tri(len(queries), dtype=bool), weights, -np.inf)
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    made: Floats = np.einsum("hqk,khd->qhd", weights, np.broadcast_to(values, queries.shape)).reshape(len(queries), -1).astype(np.float32)
    return made


def _bert_score(weights: dict[str, Floats], tokens: Sequence[int]) -> float:
    def linear(name: str, x: Floats) -> Floats:
        made: Floats = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return made

    def norm(name: str, x: Floats) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        made: Floats = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        return made

    count = len(tokens)
    # llama.cpp gives every token the first type.
    x = weights["token_embd.weight"][list(tokens)] + weights["token_types.weight"][0] + weights["position_embd.weight"][:count]
    x = norm("token_embd_norm", x)
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        q, k, v = (linear(f"{at}attn_{part}", x).reshape(count, HEADS, -1) for part in "qkv")
        x = norm(f"{at}attn_output_norm", x + linear(f"{at}attn_output", _attention(q, k, v, causal=False)))
        inner = linear(f"{at}ffn_up", x)
        inner = 0.5 * inner * (1 + np.tanh((2 / np.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
        x = norm(f"{at}layer_output_norm", x + linear(f"{at}ffn_down", inner))
    return float(linear("cls.output", np.tanh(linear("cls", x[0])))[0])


def _qwen3_score(weights: dict[str, Floats], tokens: Sequence[int]) -> float:
    count, size = len(tokens), WIDTH // HEADS

    def norm(name: str, x: Floats) -> Floats:
        made: Floats = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * weights[f"{name}.weight"]
        return made

    def turned(x: Floats) -> Floats:
        angles = np.outer(np.arange(count), ROPE_BASE ** (-2 * np.arange(size // 2) / size))[:, None, :]
        left, right = x[..., : size // 2], x[..., size // 2 :]
        return np.concatenate([left * np.cos(angles) - right * np.sin(angles), right * np.cos(angles) + left * np.sin(angles)], -1).astype(np.float32)

    x = weights["token_embd.weight"][list(tokens)]
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        y = norm(f"{at}attn_norm", x)
        q, k, v = ((y @ weights[f"{at}attn_{part}.weight"].T).reshape(count, -1, size) for part in "qkv")
        q, k = turned(norm(f"{at}attn_q_norm", q)), turned(norm(f"{at}attn_k_norm", k))
        x = x + _attention(q, k, v, causal=True) @ weights[f"{at}attn_output.weight"].T
        y = norm(f"{at}ffn_norm", x)
        gate = y @ weights[f"{at}ffn_gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ weights[f"{at}ffn_up.weight"].T)) @ weights[f"{at}ffn_down.weight"].T
    yes, no = norm("output_norm", x[-1]) @ weights["cls.output.weight"].T
    return float(1 / (1 + np.exp(no - yes)))
