"""Write a GGUF with random weights, to measure speed and memory with: real sizes and a real vocabulary, no sense.

    python scripts/make_gguf.py 0.5b.gguf --size 0.5b --quantization Q4_0
    python scripts/make_gguf.py 1b.gguf --size 1b --quantization Q4_K --vocabulary ggml-vocab-llama-bpe.gguf

``--vocabulary`` copies the tokenizer of a GGUF, for instance one of the vocabulary-only files in llama.cpp's ``models`` folder; without it the
vocabulary is byte-level BPE with random merges. Any size can be given: ``--architecture qwen2 --layers 12 --width 512 ...``
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mdsa_local.errors import MDSAError
from mdsa_local.runtime.synthetic import FILE_TYPE_IDS, SHAPES, write_random


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=sorted(SHAPES), default="0.5b", help="shape to begin with")
    parser.add_argument("--quantization", choices=sorted(FILE_TYPE_IDS), default="Q4_0")
    parser.add_argument("--vocabulary", type=Path, help="GGUF whose tokenizer is copied")
    parser.add_argument("--architecture", choices=["llama", "qwen2"])
    for name in ("layers", "width", "heads", "kv_heads", "inner", "context"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    parser.add_argument("--vocabulary-size", type=int, dest="size_of_vocabulary")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = ("architecture", "layers", "width", "heads", "kv_heads", "inner", "context")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.size_of_vocabulary:
        given["vocabulary"] = args.size_of_vocabulary
    if not args.out.parent.is_dir():
        parser.error(f"there is no folder {args.out.parent}")
    shape = replace(SHAPES[args.size], **given)
    try:
        path = write_random(args.out, shape, args.quantization, seed=args.seed, like=args.vocabulary, name=args.out.stem)
    except MDSAError as error:
        parser.error(error.told)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
