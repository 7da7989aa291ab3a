"""Make the shipped encoder again, from the data to ``models/tinybert``: one command, resumed where it was stopped.

    pip install ".[train]"
    python scripts/make_encoder.py --data DIR --teacher DIR --work DIR

``--data`` holds the public data sets (see ``mdsa_local/training/sources.py``; ``mdsa_local.training.documentation`` makes one of them), ``--teacher``
the sentence-transformers folder of all-MiniLM-L6-v2. Seeds are fixed. On a GPU it does what the shipped model was made by, on an H100 in about ten
minutes; on a CPU it takes a quarter of the texts and smaller steps. ``--part 0.1`` is a trial of all of it, with a tenth of texts and steps.
Checksums, calibration and ``report.json`` of the model folder are brought up to date; the words in its ``model.yaml`` are left to a person.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from _making import KEEPING, ROOT, step

from mdsa_local.training.card import refresh

# Steps of contrast and gather are drawn by as many processes as there are cores to spare.
WORKERS = str(max(1, (os.cpu_count() or 1) - 2))


@dataclass(frozen=True, slots=True)
class Plan:
    """How much each run learns from, texts or steps, and its other options."""

    texts: int
    first: tuple[str, ...]
    pairs: int
    second: tuple[str, ...]
    episodes: int
    third: tuple[str, ...]

    def runs(self, part: float) -> dict[str, tuple[str, ...]]:
        """Of each run the module and its options, for a part of all of it."""

        def of(whole: int) -> str:
            return str(max(1, round(part * whole)))

        return {
            "first": ("distil", "--most", of(self.texts), *self.first),
            "second": ("contrast", "--steps", of(self.pairs), *self.second),
            "third": ("gather", "--steps", of(self.episodes), *self.third),
        }


PLANS = {
    # More texts than there are: all of them.
    "gpu": Plan(
        1_100_000,
        ("--epochs", "4", "--batch", "2048", "--rate", "1.2e-3"),
        380,
        ("--scale", "8", "--rate", "3e-4", "--workers", WORKERS),
        710,
        ("--scale", "8", "--workers", WORKERS),
    ),
    "cpu": Plan(250_000, ("--epochs", "3", "--batch", "128"), 450, ("--scale", "1"), 700, ("--scale", "1")),
}
NEW_CARD = """\
width: 312
max_tokens: 256
files:
  model.onnx:
  model.onnx_data:
  tokenizer.json:
calibration:
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for labels, checkpoints and results of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "models/tinybert")
    parser.add_argument("--on", choices=tuple(PLANS), default="cpu", help="what to make it on")
    parser.add_argument("--part", type=float, default=1.0, help="learn from this part of the texts, by this part of the steps: 0.1 for a trial")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    args = parser.parse_args()
    if not args.teacher.is_dir():
        # The texts are read before it, which takes a while.
        parser.error(f"--teacher {args.teacher}: no such folder")
    if not 0 < args.part <= 1:
        parser.error(f"--part {args.part}: more than 0, at most 1")
    data, work, out = args.data.resolve(), args.work.resolve(), args.out.resolve()
    common = ("--data", data, "--threads", args.threads)
    begun: dict[str, tuple[str | Path, ...]] = {
        "first": ("--teacher", args.teacher.resolve()),
        "second": ("--teacher", args.teacher.resolve(), "--start", work / "first"),
        "third": ("--start", work / "second"),
    }
    for name, (module, *options) in PLANS[args.on].runs(args.part).items():
        if not (work / name / "student").is_dir():
            step(module, *common, *begun[name], "--work", work / name, *options, settings=KEEPING)
    step("export_encoder", "--student", work / "third/student", "--out", out)
    refresh(out, NEW_CARD, calibration="{}")
    said = step("calibrate", "--data", data, "--encoder", out)
    refresh(out, NEW_CARD, calibration=said[said.index("calibration:") + len("calibration:") :].strip())
    step("report", "--data", data, "--encoder", out)


if __name__ == "__main__":
    main()
