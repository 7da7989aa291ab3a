"""The small model's tokenizer: byte-level BPE, digits one by one. Needs no torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from mdsa_local.errors import InputError
from mdsa_local.training.corpus import distillation_texts
from mdsa_local.training.grounded import Prose, Templates, example
from mdsa_local.training.recipe import Recipe

# The trainer numbers these first, in this order.
SPECIAL = ("<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>")
# The pattern llama.cpp calls "qwen2": digits one by one, so that numbers are copied digit by digit.
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def texts(data: Path, templates: Templates, recipe: Recipe) -> Iterator[str]:
    """What the tokenizer learns from: texts of the encoder, and grounded examples. Raises :class:`InputError` for data that is missing or broken."""
    yield from distillation_texts(data, scale=recipe.tokenizer.share_of_texts)
    rng, prose = random.Random(0), Prose(data)
    for _ in range(recipe.tokenizer.examples):
        yield example(rng, templates, prose, 3, 4, 0.7).user


def learn(source: Iterator[str], vocabulary: int) -> Tokenizer:
    """A tokenizer of at most ``vocabulary`` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(source, trainer)
    return tokenizer


def read(path: Path) -> Tokenizer:
    """A tokenizer that :func:`learn` made. Raises :class:`InputError` when there is none, or another one."""
    if not path.is_file():
        raise InputError(f"{path} is missing", "Run `mdsa train tokenizer` first.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception.
        raise InputError(f"{path}: {error}", "Run `mdsa train tokenizer` again, into a new run folder.") from None
    if [tokenizer.id_to_token(at) for at in range(len(SPECIAL))] != list(SPECIAL):
        raise InputError(f"{path}: its first tokens are not {' '.join(SPECIAL)}", "Use the tokenizer that `mdsa train tokenizer` makes.")
    return tokenizer
