"""Export the distilled encoder with optimum to ONNX, quantise to INT8, and write the model folder that ships.

    python -m mdsa_local.training.export_encoder --student WORK/student --out models/tinybert

Weights are INT8 per channel in seven bits (``reduce_range``): on x86 without VNNI the eight-bit kernel saturates and costs quality.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from optimum.exporters.onnx import main_export

from mdsa_local.training.attention import fuse
from mdsa_local.training.card import exported_files
from mdsa_local.training.folded import fold
from mdsa_local.training.onnx_files import keep_only, quantise, write_optimised
from mdsa_local.training.unmasked import unmask


def export(student: Path, out: Path, *, reduce_range: bool = True) -> None:
    """Write ``model.onnx``, its ``model.onnx_data`` and ``tokenizer.json`` into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        main_export(str(student), output=folder, task="feature-extraction", library_name="sentence_transformers", device="cpu", do_validation=True)
        keep_only(folder / "model.onnx", "sentence_embedding")
        fuse(folder / "model.onnx")
        unmask(folder / "model.onnx")
        quantise(folder / "model.onnx", folder / "int8.onnx", reduce_range=reduce_range)
        write_optimised(folder / "int8.onnx", out / "model.onnx")
        fold(out / "model.onnx")
        shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")
    for name, entry in exported_files(out).items():
        print(f"{name}: {entry['size_bytes']} bytes, sha256 {entry['sha256']}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, required=True, help="the sentence-transformers folder written by distil")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full-range", action="store_true", help="eight-bit weights, for CPUs with VNNI")
    args = parser.parse_args()
    export(args.student, args.out, reduce_range=not args.full_range)


if __name__ == "__main__":
    from mdsa_local.cli.output import ended

    ended(main)
