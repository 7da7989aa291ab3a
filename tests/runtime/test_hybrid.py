"""The memory of models whose layers do not all keep keys and values: what the header lets us reckon beside what llama.cpp allocates."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mdsa_local.runtime.gguf import GGUFInfo, cell_bytes, read_gguf, state_bytes
from mdsa_local.runtime.llamacpp import estimate_bytes, open_backend, options_for
from mdsa_local.settings import Settings

from .gguf_writer import TEMPLATE, VOCABULARY, Shape, Value, metadata, random_weights, write_gguf

WIDTH, INNER, CONTEXT = 64, 64, 4096
Sizes = Mapping[str, tuple[int, ...]]
Made = tuple[dict[str, Value], Callable[[int], Sizes], int]


def qwen35() -> Made:
    """Three layers of four keep a state, and one behind the last predicts a further token."""
    heads, kv_heads, size, groups, state, values = 4, 2, 32, 8, 64, 8
    keys = groups * state
    inner = values * state
    pairs: dict[str, Value] = {
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": 16,
        "rope.dimension_sections": [3, 3, 2, 0],
        "full_attention_interval": 4,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.group_count": groups,
        "ssm.time_step_rank": values,
    }

    def layer(number: int) -> Sizes:
        common = {"attn_norm.weight": (WIDTH,), "post_attention_norm.weight": (WIDTH,)}
        if (number + 1) % 4 == 0:
            return common | {
                "attn_q.weight": (2 * heads * size, WIDTH),
                "attn_k.weight": (kv_heads * size, WIDTH),
                "attn_v.weight": (kv_heads * size, WIDTH),
                "attn_output.weight": (WIDTH, heads * size),
                "attn_q_norm.weight": (size,),
                "attn_k_norm.weight": (size,),
            }
        return common | {
            "attn_qkv.weight": (2 * keys + inner, WIDTH),
            "attn_gate.weight": (inner, WIDTH),
            "ssm_conv1d.weight": (2 * keys + inner, 4),
            "ssm_dt.bias": (values,),
            "ssm_a": (values,),
            "ssm_beta.weight": (values, WIDTH),
            "ssm_alpha.weight": (values, WIDTH),
            "ssm_norm.weight": (state,),
            "ssm_out.weight": (WIDTH, inner),
        }

    return pairs, layer, 8


def lfm2() -> Made:
    """Layers without heads of keys and values keep the last columns of a convolution."""
    heads, size, kv_heads = 4, 16, [0, 0, 2, 0, 2, 0]
    pairs: dict[str, Value] = {"attention.head_count": heads, "attention.head_count_kv": kv_heads, "shortconv.l_cache": 3}

    def layer(number: int) -> Sizes:
        common = {"attn_norm.weight": (WIDTH,), "ffn_norm.weight": (WIDTH,)}
        if not kv_heads[number]:
            return common | {
                "shortconv.conv.weight": (WIDTH, 3),
                "shortconv.in_proj.weight": (3 * WIDTH, WIDTH),
                "shortconv.out_proj.weight": (WIDTH, WIDTH),
            }
        return common | {
            "attn_q.weight": (WIDTH, WIDTH),
            "attn_k.weight": (kv_heads[number] * size, WIDTH),
            "attn_v.weight": (kv_heads[number] * size, WIDTH),
            "attn_output.weight": (WIDTH, WIDTH),
            "attn_q_norm.weight": (size,),
            "attn_k_norm.weight": (size,),
        }

    return pairs, layer, len(kv_heads)


def granitehybrid() -> Made:
    """Most layers are of Mamba 2."""
    heads, size, kv_heads = 4, 16, [0, 2, 0, 0, 4, 0]
    inner, state, groups, ssm_heads = 2 * WIDTH, 128, 1, 8
    pairs: dict[str, Value] = {
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.scale": 0.25,
        "embedding_scale": 1.0,
        "residual_scale": 1.0,
        "logit_scale": 1.0,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.group_count": groups,
        "ssm.time_step_rank": ssm_heads,
    }

    def layer(number: int) -> Sizes:
        common = {"attn_norm.weight": (WIDTH,), "ffn_norm.weight": (WIDTH,)}
        if not kv_heads[number]:
            convolved = inner + 2 * groups * state
            return common | {
                "ssm_in.weight": (inner + convolved + ssm_heads, WIDTH),
                "ssm_conv1d.weight": (convolved, 4),
                "ssm_conv1d.bias": (convolved,),
                "ssm_dt.bias": (ssm_heads,),
                "ssm_a": (ssm_heads, 1),
                "ssm_d": (ssm_heads, 1),
                "ssm_norm.weight": (groups, inner // groups),
                "ssm_out.weight": (WIDTH, inner),
            }
        return common | {
            "attn_q.weight": (heads * size, WIDTH),
            "attn_k.weight": (kv_heads[number] * size, WIDTH),
            "attn_v.weight": (kv_heads[number] * size, WIDTH),
            "attn_output.weight": (WIDTH, heads * size),
        }

    return pairs, layer, len(kv_heads)


def write(path: Path, made: Made, architecture: str) -> Path:
    own, layer, n_layers = made
    rng = np.random.default_rng(0)
    shared: dict[str, Value] = {key: value for key, value in metadata(Shape()).items() if not key.startswith("llama.")}
    sizes: dict[str, Value] = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": n_layers,
        "feed_forward_length": INNER,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    pairs = {**shared, "general.architecture": architecture, "tokenizer.chat_template": TEMPLATE}
    pairs |= {f"{architecture}.{key}": value for key, value in (sizes | own).items()}
    norm = "token_embd_norm.weight" if architecture == "lfm2" else "output_norm.weight"
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(VOCABULARY), WIDTH), norm: (WIDTH,)}
    for number in range(n_layers):
        forward = {"ffn_gate.weight": (INNER, WIDTH), "ffn_up.weight": (INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER)}
        shapes |= {f"blk.{number}.{name}": shape for name, shape in {**layer(number), **forward}.items()}
    tensors: dict[str, NDArray[np.float32]] = {name: rng.standard_normal(shape, np.float32) * np.float32(0.05) for name, shape in shapes.items()}
    return write_gguf(path, pairs, tensors)


@pytest.fixture
def buffers() -> Iterator[dict[str, float]]:
    """Megabytes that llama.cpp tells of, by kind: KV for keys and values, RS for states."""
    found: dict[str, float] = {}

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if told := re.search(r"(KV|RS) buffer size = +([\d.]+) MiB", record.getMessage()):
                found[told[1]] = float(told[2])

    logger, listener = logging.getLogger("mdsa_local.llama"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    yield found
    logger.setLevel(level)
    logger.removeHandler(listener)


@pytest.mark.parametrize(("make", "architecture"), [(qwen35, "qwen35"), (lfm2, "lfm2"), (granitehybrid, "granitehybrid")])
def test_keys_values_and_states_are_those_that_llama_cpp_allocates(
    settings: Settings, tmp_path: Path, buffers: dict[str, float], make: Callable[[], Made], architecture: str
) -> None:
    path = write(tmp_path / "hybrid.gguf", make(), architecture)
    info, options = read_gguf(path), options_for(read_gguf(path), settings)
    backend = open_backend(str(path), "hybrid", settings)
    measured = backend.memory_bytes
    backend.close()
    assert buffers["KV"] == pytest.approx(options.cells * cell_bytes(info) / 2**20, abs=0.006)
    assert buffers["RS"] == pytest.approx(options.sequences * state_bytes(info) / 2**20, abs=0.006)
    assert 0.85 * measured < estimate_bytes(str(path), settings) < 1.15 * measured


def header(tmp_path: Path, architecture: str, **pairs: Value) -> GGUFInfo:
    own = {f"{architecture}.{key.replace('__', '.')}": value for key, value in pairs.items()}
    values = {**metadata(Shape()), "general.architecture": architecture, f"{architecture}.embedding_length": 64, **own}
    return read_gguf(write_gguf(tmp_path / f"{architecture}.gguf", values, random_weights(Shape())))


SSM = {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16, "ssm__group_count": 2}
SSM_STATE = 3 * (128 + 2 * 2 * 16) + 16 * 128
HEADS = {"attention__head_count": 4, "attention__key_length": 16, "attention__value_length": 16}


@pytest.mark.parametrize(
    ("architecture", "pairs", "cells", "states"),
    [
        ("llama", {"block_count": 3, **HEADS}, 3 * 2 * 32, 0),
        ("deci", {"block_count": 3, **HEADS, "attention__head_count_kv": [4, 0, 1]}, 5 * 16 + 3 * 4 * 16, 0),
        ("qwen35", {"block_count": 8, **HEADS, **SSM}, 2 * 4 * 32, 6 * SSM_STATE),
        ("qwen3next", {"block_count": 6, **HEADS, **SSM, "full_attention_interval": 3}, 2 * 4 * 32, 4 * SSM_STATE),
        ("qwen35", {"block_count": 9, "nextn_predict_layers": 1, **HEADS, **SSM}, 2 * 4 * 32, 6 * SSM_STATE),
        ("qwen35", {"block_count": 3, **HEADS, **SSM, "attention__recurrent_layers": [1, 1, 0]}, 4 * 32, 2 * SSM_STATE),
        ("jamba", {"block_count": 4, **HEADS, **SSM, "attention__head_count_kv": [0, 0, 2, 0]}, 2 * 32, 3 * SSM_STATE),
        ("falcon-h1", {"block_count": 2, **HEADS, **SSM}, 2 * 4 * 32, 2 * SSM_STATE),
        (
            "nemotron_h",
            {"block_count": 3, **HEADS, **SSM, "attention__head_count_kv": [0, 0, 2], "feed_forward_length": [0, 99, 0]},
            2 * 32,
            SSM_STATE,
        ),
        ("mamba", {"block_count": 2, **SSM}, 0, 2 * SSM_STATE),
        ("rwkv7", {"block_count": 2, "wkv__head_size": 16}, 0, 2 * 64 * (16 + 2)),
        ("lfm2", {"block_count": 2, **HEADS, "attention__head_count_kv": [0, 2], "shortconv__l_cache": 3}, 2 * 32, 64 * 2),
        ("qwen35", {"block_count": 2**31, "nextn_predict_layers": 2**31, **HEADS, **SSM}, 0, 0),
    ],
)
def test_what_a_header_says_of_its_layers(tmp_path: Path, architecture: str, pairs: dict[str, Value], cells: int, states: int) -> None:
    info = header(tmp_path, architecture, **pairs)
    assert (info.cell_elements, info.state_elements) == (cells, states)
