"""A tiny causal language model with random weights, as a folder for transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .gguf_writer import MERGES, SPECIAL, TEMPLATE, VOCABULARY

CONTEXT_TOKENS = 2048


def make(folder: Path, *, template: str | None = TEMPLATE, dtype: str = "float32") -> Path:
    """Write config, weights and tokenizer: a llama of 2 layers, 64 wide, with the byte-level vocabulary of the tests' GGUF files."""
    import torch
    import transformers
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    merges: list[Any] = [tuple(merge.split(" ")) for merge in MERGES]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(VOCABULARY)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[1], additional_special_tokens=SPECIAL[2:], chat_template=template
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=VOCABULARY.index(SPECIAL[0]),
        eos_token_id=VOCABULARY.index(SPECIAL[1]),
        initializer_range=0.5,
        dtype=dtype,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
