"""Make the shipped judge again, from the texts to ``models/judge``: one command, resumed where it was stopped.

    pip install ".[train]"
    python scripts/make_judge.py --data DIR --start DIR --work DIR

``--data`` holds the public data sets (see ``mdsa_local/training/sources.py``), ``--start`` the BERT to begin with: all-MiniLM-L6-v2, the encoder's
teacher. Groups are drawn, the judge learns from them, is exported, and the odds that documents answer are fitted to its scores on the shipped
knowledge, by the questions in ``tests/data``. Seeds are fixed. On a GPU it does what the shipped judge was made by: all groups once, on an H200 in
4.3 minutes. On a CPU it takes 12,000 of the 370,749 groups and smaller steps: some three and a half CPU-hours, for a judge that
has seen a thirtieth and was not measured.

Checksums and odds in the ``model.yaml`` are brought up to date. The rest of its ``weighing`` and its words are left to a person.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from _making import ROOT, step

# Groups, rate, groups in a step.
RUNS: dict[str, tuple[str, ...]] = {
    "gpu": ("--rate", "1.2e-4", "--groups", "64"),
    "cpu": ("--rate", "6e-5", "--groups", "8", "--most", "12000"),
}
ODDS = re.compile(r"odds: [(\[](.*?)[)\]]")


def with_odds(card: str, said: str) -> str:
    """A judge's card with the odds that ``answerable`` said."""
    found = ODDS.search(said)
    if found is None:
        raise SystemExit("no odds were fitted")
    return ODDS.sub(f"odds: [{found[1]}]", card, count=1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True, help="folder of the BERT to begin with")
    parser.add_argument("--work", type=Path, required=True, help="folder for groups, checkpoint and result")
    parser.add_argument("--encoder", type=Path, default=ROOT / "models/tinybert", help="encoder by which groups are drawn and odds are fitted")
    parser.add_argument("--questions", type=Path, default=ROOT / "tests/data", help="questions to fit the odds by, as `answerable` reads them")
    parser.add_argument("--out", type=Path, default=ROOT / "models/judge")
    parser.add_argument("--on", choices=tuple(RUNS), default="cpu", help="what to make it on")
    parser.add_argument("--most", type=int, default=0, help="learn from so many groups; 0: all on a GPU, 12,000 on a CPU")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    args = parser.parse_args()
    if not args.start.is_dir():
        # The groups are drawn before it is read, which takes a while.
        parser.error(f"--start {args.start}: no such folder")
    work, out, encoder = args.work.resolve(), args.out.resolve(), args.encoder.resolve()
    work.mkdir(parents=True, exist_ok=True)
    pool = work / "groups.npz"
    if not pool.is_file():
        step("judge", "draw", "--data", args.data.resolve(), "--encoder", encoder, "--pool", pool)
    if not (work / "judge").is_dir():
        most = ("--most", args.most) if args.most else ()
        step("judge", "train", "--pool", pool, "--start", args.start.resolve(), "--work", work, *RUNS[args.on], *most, "--threads", args.threads)
    step("export_judge", "--judge", work / "judge", "--out", out)
    own = {"MDSA_HOME": str(work / "home"), "MDSA_JUDGE": str(out), "MDSA_ENCODER": str(encoder)}
    said = step("answerable", "--questions", args.questions.resolve(), settings=own)
    card = out / "model.yaml"
    card.write_text(with_odds(card.read_text(encoding="utf-8"), said), encoding="utf-8")


if __name__ == "__main__":
    main()
