"""Export the trained judge with optimum to ONNX, quantise it, and write the model folder that ships.

    python -m mdsa_local.training.export_judge --judge WORK/judge --out models/judge

Weights are unsigned INT8 per channel, the largest channels of their inputs float32 (:mod:`~mdsa_local.training.eight_bits`): that changed a
score of the shipped judge by 0.15 in the mean (of log odds; 63 questions of tests/data, twelve sentences each). Without those channels it was 0.34;
the seven bits that the encoder does well with cost far more, signed eight bits more than unsigned ones.

sha256 and size are brought up to date in the ``model.yaml`` of ``--out``. Where there is none, one is made, whose ``weighing``
(:class:`~mdsa_local.validation.judge.Weighing`) takes the scores for the odds as they are: what they mean is still to be learned, with
:mod:`~mdsa_local.training.answerable`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from optimum.exporters.onnx import main_export
from transformers import AutoTokenizer

from mdsa_local.training.card import refresh
from mdsa_local.training.eight_bits import examples, quantised
from mdsa_local.training.judge import MAX_TOKENS

NEW_CARD = f"""\
name: judge
kind: judge
max_tokens: {MAX_TOKENS}
files:
  model.onnx:
  model.onnx_data:
  tokenizer.json:
weighing: {{odds: [0.0, 1.0, 0.0, 0.0], nearness: 0.0, same: 0.0, other: 0.0, least: 0.0, sure: 0.0}}
"""


def export(judge: Path, out: Path) -> None:
    """Write ``model.onnx``, its ``model.onnx_data``, ``tokenizer.json`` and ``model.yaml`` into ``out``. Raises :class:`ConfigError` for a card of
    another form."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        main_export(str(judge), output=folder, task="text-classification", library_name="transformers", device="cpu", do_validation=True)
        reading = AutoTokenizer.from_pretrained(judge)
        kinds = {"padding": True, "truncation": "only_second", "max_length": MAX_TOKENS, "return_tensors": "np"}
        pairs = (reading([question] * len(said), said, **kinds) for question, said in examples())
        quantised(folder / "model.onnx", (dict(pair) for pair in pairs), out / "model.onnx")
    shutil.copyfile(judge / "tokenizer.json", out / "tokenizer.json")
    refresh(out, NEW_CARD)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", type=Path, required=True, help="the folder that training left, `judge` in its --work")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(args.judge, args.out)
    print((args.out / "model.yaml").read_text(encoding="utf-8"))


if __name__ == "__main__":
    from mdsa_local.cli.output import ended

    ended(main)
