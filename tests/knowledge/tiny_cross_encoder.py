"""A cross-encoder whose score is known beforehand, run as a program, because it needs torch: the larger the share of the word ``gold``, the higher.

One layer whose attention is even over all tokens, so that the first one sees the mean of them; weights are set, not learned.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

WIDTH, WINDOW = 8, 48
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "gold", "when", "are", "roses", "pruned", "in", "march", "tulips", "lilies", "a")


def made(folder: Path, labels: int) -> None:
    """Write the ONNX export of a model with ``labels`` outputs to ``folder``."""
    import torch
    from optimum.exporters.onnx import main_export
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    torch.set_num_threads(1)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=WIDTH,
        max_position_embeddings=WINDOW,
        num_labels=labels,
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
        words = model.bert.embeddings.word_embeddings.weight
        words[:, 1] = 1.0
        words[WORDS.index("gold")] = torch.eye(WIDTH)[0]
        attention = model.bert.encoder.layer[0].attention
        for layer in (attention.self.value, attention.output.dense, model.bert.pooler.dense):
            layer.weight.copy_(torch.eye(WIDTH))
        # The odds of two outputs are the one output.
        model.classifier.weight[-1, 0] = 2.0 if labels == 1 else 1.0
        if labels == 2:
            model.classifier.weight[0, 0] = -1.0
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
        tokenizer = BertTokenizerFast(vocab_file=str(Path(temporary) / "vocab.txt"), model_max_length=WINDOW)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        main_export(temporary, output=folder, task="text-classification", device="cpu", do_validation=False)


if __name__ == "__main__":
    made(Path(sys.argv[1]) / "one", 1)
    made(Path(sys.argv[1]) / "two", 2)
