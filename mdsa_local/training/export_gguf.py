"""Write the trained SLM as GGUF: F16, INT8 (Q8_0) and INT4 (Q4_0), with tokenizer and chat template inside.

    python -m mdsa_local.training.export_gguf --work DIR --out models/nano

In the INT4 file the embeddings, which are also the output layer, stay INT8: they are a fifth of the weights and most of the loss.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from mdsa_local.training.nano import SPECIAL, Nano, Shape

TEMPLATE = (
    "<|bos|>{% for message in messages %}"
    "{% if message.role == 'system' and message.content %}<|system|>{{ message.content }}<|end|>"
    "{% elif message.role == 'user' %}<|user|>{{ message.content }}<|end|>"
    "{% elif message.role == 'assistant' %}<|assistant|>{{ message.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
KINDS = {
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


def write(model: Nano, tokenizer: Path, path: Path, kind: str) -> None:
    """Write one GGUF of ``kind`` (a key of ``KINDS``)."""
    shape, (file_type, matrices, embeddings) = model.shape, KINDS[kind]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("nano")
    writer.add_description("mdsa_local nano: answers from the passages in its prompt")
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
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _vocabulary(writer, json.loads(tokenizer.read_text(encoding="utf-8")))
    for name, weight in tensors(model).items():
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
            continue
        wanted = embeddings if name == "token_embd.weight" else matrices
        writer.add_tensor(name, gguf.quants.quantize(weight, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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


def load(work: Path) -> Nano:
    """The model in ``work/nano.pt``."""
    state = torch.load(work / "nano.pt", map_location="cpu")
    model = Nano(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    return model.eval()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder with nano.pt and tokenizer.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["q8_0", "q4_0"], choices=sorted(KINDS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = load(args.work)
    for kind in args.kinds:
        path = args.out / f"nano-{kind}.gguf"
        write(model, args.work / "tokenizer.json", path, kind)
        print(f"{path.name}: {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
