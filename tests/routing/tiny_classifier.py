"""A sequence classifier of two layers, trained on the shipped domains' examples: run as a program, because it needs torch."""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

from mdsa_local.domains.registry import DomainRegistry
from mdsa_local.settings import shipped


def train(folder: Path, names: tuple[str, ...]) -> None:
    """Write the classifier of domains ``names`` to ``folder``, as ``save_pretrained`` does; every fourth example is held out."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    torch.manual_seed(0)
    torch.set_num_threads(1)
    registry = DomainRegistry.from_folders([shipped("domains")])
    pairs = [(text, at) for at, name in enumerate(names) for i, text in enumerate(registry.get(name).examples) if i % 4]
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator([text for text, _ in pairs], vocab_size=1000, min_frequency=1, show_progress=False)
    tokenizer = BertTokenizerFast(tokenizer_object=pieces._tokenizer, model_max_length=64)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        id2label={at: name.title() for at, name in enumerate(names)},
        label2id={name.title(): at for at, name in enumerate(names)},
    )
    model = BertForSequenceClassification(config)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    inputs = tokenizer([text for text, _ in pairs], padding=True, return_tensors="pt")
    labels = torch.tensor([at for _, at in pairs])
    for _ in range(12):
        for rows in torch.randperm(len(pairs)).split(32):
            loss = model(**{key: value[rows] for key, value in inputs.items()}, labels=labels[rows]).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    train(Path(sys.argv[1]), tuple(sys.argv[2].split(",")))
