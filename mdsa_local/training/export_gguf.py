"""The trained SLM as GGUF: F32, and of that INT8 (Q8_0) and INT4 (Q4_0), with tokenizer and chat template inside.

In the INT4 file the embeddings, which are also the output layer, stay INT8: they are a fifth of the weights and most of the loss.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from numpy.typing import NDArray

from mdsa_local.durable import replacing
from mdsa_local.errors import InputError
from mdsa_local.runtime.gguf import read_gguf
from mdsa_local.settings import storage_error
from mdsa_local.training.card import write_card
from mdsa_local.training.recipe import Shape
from mdsa_local.training.tokenizer import SPECIAL
from mdsa_local.training.workshop import Workshop

if TYPE_CHECKING:
    from mdsa_local.training.nano import Nano

Tensors = Mapping[str, NDArray[np.float32]]

TEMPLATE = (
    "<|bos|>{% for message in messages %}"
    "{% if message.role == 'system' and message.content %}<|system|>{{ message.content }}<|end|>"
    "{% elif message.role == 'user' %}<|user|>{{ message.content }}<|end|>"
    "{% elif message.role == 'assistant' %}<|assistant|>{{ message.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# File type, matrices, embeddings.
KINDS = {
    "f32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F32),
    "f16": (gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F16),
    "q8_0": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q8_0),
    "q4_0": (gguf.LlamaFileType.MOSTLY_Q4_0, gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0),
}


def tensors(model: Nano) -> dict[str, NDArray[np.float32]]:
    """The weights under the names llama.cpp gives them. Rotary pairs are interleaved in both, so nothing is permuted."""
    named = {name: weight.detach().float().numpy() for name, weight in model.named_parameters()}
    out = {"token_embd.weight": named["embed.weight"], "output_norm.weight": named["norm.weight"]}
    for i in range(model.shape.layers):
        ours, theirs = f"blocks.{i}.", f"blk.{i}."
        for name, part in zip(("attn_q", "attn_k", "attn_v"), np.split(named[ours + "qkv.weight"], 3), strict=True):
            out[f"{theirs}{name}.weight"] = part
        gate, up = np.split(named[ours + "gate_up.weight"], 2)
        out |= {f"{theirs}ffn_gate.weight": gate, f"{theirs}ffn_up.weight": up, f"{theirs}ffn_down.weight": named[ours + "down.weight"]}
        out |= {f"{theirs}attn_output.weight": named[ours + "out.weight"], f"{theirs}attn_norm.weight": named[ours + "attention_norm.weight"]}
        out[f"{theirs}ffn_norm.weight"] = named[ours + "ffn_norm.weight"]
    return out


def write(weights: Tensors, shape: Shape, tokenizer: Path, path: Path, kind: str, name: str = "nano") -> Path:
    """Write one GGUF of ``kind`` (a key of :data:`KINDS`). Raises :class:`StorageError`; what ``path`` held before is then still there."""
    file_type, matrices, embeddings = KINDS[kind]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path) from None
    with replacing(path) as partial:
        writer = gguf.GGUFWriter(partial, "llama")
        _header(writer, shape, name)
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _vocabulary(writer, json.loads(tokenizer.read_text(encoding="utf-8")))
        for key, weight in weights.items():
            if weight.ndim == 1:
                writer.add_tensor(key, weight)
                continue
            wanted = embeddings if key == "token_embd.weight" else matrices
            writer.add_tensor(key, gguf.quants.quantize(weight, wanted), raw_dtype=wanted)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            _close(writer)
        read_gguf(partial)
    return path


def _close(writer: gguf.GGUFWriter) -> None:
    """Close its file; on a full disk closing fails too, and what it still held is lost with it."""
    try:
        writer.close()
    except OSError:
        for file in writer.fout or ():
            with suppress(OSError):
                file.close()
        raise


def _header(writer: gguf.GGUFWriter, shape: Shape, name: str) -> None:
    writer.add_name(name)
    writer.add_description(f"mdsa_local {name}: answers from the passages in its prompt")
    writer.add_license("apache-2.0")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocabulary)


def _vocabulary(writer: gguf.GGUFWriter, tokenizer: dict) -> None:
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    kinds = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|bos|>"))
    writer.add_eos_token_id(tokens.index("<|end|>"))
    writer.add_pad_token_id(tokens.index("<|pad|>"))
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)


def source(run: Workshop) -> Path:
    """Where ``export`` leaves the model and ``quantize`` finds it."""
    return run.model / f"{run.recipe.name}-f32.gguf"


def export(run: Workshop, step: str = "ground") -> Path:
    """Write the model of the checkpoint of ``step`` in full precision. Raises :class:`InputError` without one, :class:`StorageError`. Needs torch."""
    from mdsa_local.training.checkpoint import load
    from mdsa_local.training.nano import Nano

    path = run.checkpoint(step)
    if not path.exists():
        raise InputError(f"{path} is missing", f"Run `mdsa train {step}` first.")
    state = load(path)
    if state.get("recipe") != run.recipe.model_dump(mode="json"):
        raise InputError(f"{path}: a checkpoint of another recipe", "Put back the run's own, or begin in another --run folder.")
    if state.get("tokenizer") != hashlib.sha256(run.tokenizer.read_bytes()).hexdigest():
        raise InputError(f"{path}: made with another tokenizer.json", "Put back the one that it was trained with.")
    model = Nano(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    return write(tensors(model.eval()), model.shape, run.tokenizer, source(run), "f32", run.recipe.name)


def quantize(run: Workshop, kinds: tuple[str, ...] = ("q8_0", "q4_0")) -> list[Path]:
    """Write the exported model in each of ``kinds``, and ``model.yaml`` beside it, which makes the folder a model. Needs no torch.

    Raises :class:`InputError` without an exported model, :class:`StorageError`.
    """
    path = source(run)
    if not path.exists():
        raise InputError(f"{path} is missing", "Run `mdsa train export` first.")
    info = read_gguf(path)
    weights = {tensor.name: _plain(tensor) for tensor in gguf.GGUFReader(path).tensors}
    shape = run.recipe.shape.model_copy(update={"vocabulary": info.vocabulary_size})
    made = [write(weights, shape, run.tokenizer, run.model / f"{run.recipe.name}-{kind}.gguf", kind, run.recipe.name) for kind in kinds]
    write_card(run, made)
    return made


def _plain(tensor: Any) -> NDArray[np.float32]:
    """The weights of a tensor of the reader, which tells dimensions in the order of the file."""
    return np.array(tensor.data, dtype=np.float32).reshape([int(n) for n in reversed(tensor.shape)])
