"""Low-rank adaptation (Hu et al. 2021) of a small causal language model by peft: weights in, weights out; nothing here knows of domains."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mdsa_local.errors import InputError, ModelFileError, ModelMemoryError
from mdsa_local.runtime.gguf import read_gguf
from mdsa_local.runtime.hardware import available_bytes
from mdsa_local.runtime.residency import describe_bytes

# Architectures of GGUF files whose weights transformers reads back, with what each layer's matrices are called there. Of "llama" the converters of
# llama.cpp store queries and keys with the halves of each head interleaved.
ARCHITECTURES = ("llama", "qwen2", "qwen3")
INTERLEAVED = ("llama",)
MATRICES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Weights in float32, as much again for what a batch leaves behind to compute gradients from; adapters are small beside that.
BYTES_PER_PARAMETER = 8
IGNORED = -100

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to train. ``rate`` is AdamW's highest, after a warm-up of a twentieth and before it falls to nothing; ``batch_tokens`` with padding."""

    rank: int = 16
    alpha: float = 32.0
    rate: float = 1e-3
    epochs: int = 4
    batch_tokens: int = 2048
    dropout: float = 0.05
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt and of what has to follow it, the end of the turn included."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Epoch:
    """Mean loss of the answers' tokens after an epoch, in nats: on what was trained on, while it was, and on a tenth kept aside. Epoch 0: before."""

    number: int
    training: float | None
    kept_aside: float


def load_gguf(path: Path) -> Any:
    """The model in a GGUF file as a transformers model in float32, whatever its quantisation.

    Raises :class:`InputError` for an architecture that is not read back, :class:`ModelFileError`, and :class:`ModelMemoryError` before loading.
    """
    info = read_gguf(path)
    if info.architecture not in ARCHITECTURES:
        raise InputError(
            f"{path}: a GGUF file of architecture {info.architecture!r} cannot be trained from, only {', '.join(ARCHITECTURES)}",
            "Give the model's Hugging Face folder as --base, with --llama-cpp.",
        )
    need_memory(info.n_parameters, path)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        # Its progress bar cannot be switched off otherwise.
        with redirect_stderr(io.StringIO()):
            return AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ModelFileError(f"{path}: transformers cannot read it back: {error}", "Use an F16 or Q8_0 file of the model.") from None


def load_folder(folder: Path) -> Any:
    """A causal language model in a Hugging Face folder, in float32; no network. Raises :class:`ModelFileError` and :class:`ModelMemoryError`."""
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    need_memory(weights // 2, folder)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelFileError(
            f"{folder}: transformers cannot load it as a causal language model: {error}", "Give a folder with its weights."
        ) from None


def device(n_parameters: int) -> torch.device:
    """Where so many are trained: CUDA when there is one with room for it, else the CPU."""
    roomy = torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > BYTES_PER_PARAMETER * n_parameters
    return torch.device("cuda" if roomy else "cpu")


def need_memory(n_parameters: int, source: Path) -> None:
    """Raise :class:`ModelMemoryError` with the numbers when training would not fit the memory that is free now."""
    needed, free = BYTES_PER_PARAMETER * n_parameters, available_bytes()
    if needed > free:
        raise ModelMemoryError(
            f"{source}: training it takes about {describe_bytes(needed)}, {describe_bytes(free)} are free",
            "Close other programs.",
        )


def adapted(model: Any, options: Options) -> Any:
    """``model`` with an untrained adapter on every matrix of its layers; the model's own weights stay as they are."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(options.seed)
    known = {name.rpartition(".")[2] for name in MATRICES}
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets: Any = sorted(known & present) if len(known & present) == len(known) else "all-linear"
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets, task_type="CAUSAL_LM")
    return get_peft_model(model, config).to(device(sum(weight.numel() for weight in model.parameters())))


def train(model: Any, examples: Sequence[Example], aside: Sequence[Example], options: Options, progress: Progress | None = None) -> list[Epoch]:
    """Train the adapter of ``model``; it ends as it was after the epoch with the least loss on ``aside``, which may be before the first."""
    rng = random.Random(options.seed)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=options.rate, weight_decay=0.0, betas=(0.9, 0.98))
    steps = options.epochs * len(batches(examples, options.batch_tokens))
    step = 0
    if progress:
        # The loss before the first step takes a while, too.
        progress("epoch 0", step, steps)
    curve = [Epoch(0, None, mean_loss(model, aside))]
    best = (curve[0].kept_aside, _state(model))
    for epoch in range(1, options.epochs + 1):
        model.train()
        order = batches(examples, options.batch_tokens)
        rng.shuffle(order)
        total = counted = 0.0
        for batch in order:
            optimiser.param_groups[0]["lr"] = options.rate * schedule(step, steps)
            summed, count = _loss(model, batch)
            optimiser.zero_grad(set_to_none=True)
            (summed / count).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            total, counted, step = total + summed.item(), counted + count, step + 1
            if progress:
                progress(f"epoch {epoch}", step, steps)
        curve.append(Epoch(epoch, total / counted, mean_loss(model, aside)))
        if curve[-1].kept_aside < best[0]:
            best = (curve[-1].kept_aside, _state(model))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in best[1]:
                weight.copy_(best[1][name])
    model.eval()
    return curve


def schedule(step: int, steps: int) -> float:
    """Share of the highest learning rate: a linear warm-up of a twentieth, then half a cosine."""
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def mean_loss(model: Any, examples: Sequence[Example]) -> float:
    """Mean loss of the targets' tokens, in nats; infinite for no examples."""
    model.eval()
    found = [_loss(model, batch) for batch in batches(examples, 2048)]
    return sum(summed.item() for summed, _ in found) / sum(count for _, count in found) if found else math.inf


def batches(examples: Sequence[Example], batch_tokens: int) -> list[list[Example]]:
    """Examples of like length together, at most ``batch_tokens`` with padding; one that is longer alone."""
    out: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda e: len(e.prompt) + len(e.target)):
        if out[-1] and (len(out[-1]) + 1) * (len(example.prompt) + len(example.target)) > batch_tokens:
            out.append([])
        out[-1].append(example)
    return [batch for batch in out if batch]


def _loss(model: Any, batch: Sequence[Example]) -> tuple[Tensor, int]:
    """``(summed loss, number)`` of the targets' tokens. Padded in front, so that logits are made for the last places alone."""
    width, longest = max(len(e.prompt) + len(e.target) for e in batch), max(len(e.target) for e in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(batch):
        tokens = (*example.prompt, *example.target)
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = 1
        labels[row, width - len(example.target) :] = torch.tensor(example.target)
    ids, mask, labels = (table.to(model.device) for table in (ids, mask, labels))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=longest + 1).logits
    wanted = labels[:, -longest:]
    summed = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum")
    return summed, int((wanted != IGNORED).sum())


def _state(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def tensors(model: Any, architecture: str) -> dict[str, NDArray[np.float32]]:
    """The adapter's matrices under the names llama.cpp gives them: ``blk.0.attn_q.weight.lora_a`` ``(rank, in)`` and ``…lora_b`` ``(out, rank)``."""
    config = model.config
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    out: dict[str, NDArray[np.float32]] = {}
    for name, weight in _state(model).items():
        path, _, which = name.partition(".lora_")
        layer, _, matrix = path.partition("model.layers.")[2].partition(".")
        if matrix not in MATRICES:
            raise InputError(f"the adapter changes {path}, which has no place in a GGUF file", "Train from the model's Hugging Face folder.")
        values = weight.float().cpu().numpy()
        if which.startswith("B") and architecture in INTERLEAVED and matrix in heads:
            values = interleaved(values, heads[matrix])
        out[f"blk.{layer}.{MATRICES[matrix]}.weight.lora_{which[0].lower()}"] = np.ascontiguousarray(values, np.float32)
    return out


def interleaved(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """``(heads * d, …)`` with each head's first and second half in turns, as llama.cpp's rotary positions expect of the ``llama`` architecture."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
