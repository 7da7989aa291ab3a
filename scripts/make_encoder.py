"""Make the shipped encoder again, from the data to ``models/tinybert``: one command, resumed where it was stopped.

    pip install ".[train]"
    python scripts/make_encoder.py --data DIR --teacher DIR --work DIR

``--data`` holds the public data sets (see ``mdsa_local/training/corpus.py``), ``--teacher`` the sentence-transformers folder of
all-MiniLM-L6-v2. Seeds are fixed. About three hours on two CPU cores, minutes on a GPU. Checksums, calibration and ``report.json`` of the
model folder are brought up to date; the words in its ``model.yaml`` are left to a person.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEW_CARD = """\
width: 312
max_tokens: 256
files:
  model.onnx:
  tokenizer.json:
calibration:
"""


def step(module: str, *arguments: str | Path) -> str:
    """Run a module of ``mdsa_local.training``, its output shown and returned; ends the script when it fails."""
    command = [sys.executable, "-u", "-m", f"mdsa_local.training.{module}", *map(str, arguments)]
    print("$", " ".join(command[2:]), flush=True)
    said = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for text in process.stdout or ():
            print(text, end="", flush=True)
            said.append(text)
    if process.returncode:
        sys.exit(process.returncode)
    return "".join(said)


def refresh(folder: Path, calibration: str) -> None:
    """Put checksums, sizes and ``calibration`` into the folder's ``model.yaml``; make one when there is none."""
    card = folder / "model.yaml"
    text = (
        card.read_text(encoding="utf-8")
        if card.is_file()
        else "width: 312\nmax_tokens: 256\nfiles:\n  model.onnx:\n  tokenizer.json:\ncalibration:\n"
    )
    for name in ("model.onnx", "tokenizer.json"):
        content = (folder / name).read_bytes()
        entry = f"  {name}: {{sha256: {hashlib.sha256(content).hexdigest()}, size_bytes: {len(content)}}}"
        text = re.sub(rf"^  {re.escape(name)}:.*$", entry, text, flags=re.MULTILINE)
    card.write_text(re.sub(r"^calibration:.*$", f"calibration: {calibration}", text, flags=re.MULTILINE), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for labels, checkpoints and results of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "models/tinybert")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    args = parser.parse_args()
    data, work, out = args.data.resolve(), args.work.resolve(), args.out.resolve()
    common = ("--data", data, "--teacher", args.teacher.resolve(), "--threads", args.threads)
    runs = {
        "first": ("distil", "--epochs", "4", "--scale", "0.6"),
        "second": ("distil", "--epochs", "3", "--rate", "3e-4", "--start", work / "first"),
        "third": ("contrast", "--start", work / "second", "--labelled", work / "first", "--steps", "450"),
    }
    for name, (module, *options) in runs.items():
        if not (work / name / "student").is_dir():
            step(str(module), *common, "--work", work / name, *options)
    step("export_encoder", "--student", work / "third/student", "--out", out)
    refresh(out, "{}")
    said = step("calibrate", "--data", data, "--encoder", out)
    refresh(out, said[said.index("calibration:") + len("calibration:") :].strip())
    step("report", "--data", data, "--encoder", out)


if __name__ == "__main__":
    main()
