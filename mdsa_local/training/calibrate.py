"""Calibrate the router for an encoder: the ``calibration`` block of its ``model.yaml``.

In scope: the shipped domains' examples, each left out in turn. Out of scope: CLINC150 training questions of domains far from ours, its
out-of-scope training part, and plain sentences. Nothing of the tests is read.

    python -m mdsa_local.training.calibrate --data DIR --encoder models/tinybert
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict
from pathlib import Path

from mdsa_local.domains.registry import DomainRegistry
from mdsa_local.routing.encoder import Encoder
from mdsa_local.routing.router import IntentRouter
from mdsa_local.settings import shipped
from mdsa_local.training.corpus import clinc

FAR = ("kitchen_and_dining", "travel", "auto_and_commute", "small_talk")


def outside(data: Path, rng: random.Random) -> list[str]:
    """Texts that belong to none of the shipped domains."""
    train, _ = clinc(data)
    loaded = json.loads((data / "clinc150/train_val.json").read_text(encoding="utf-8"))
    plain = (data / "clinc150/wiki_sentences.txt").read_text(encoding="utf-8").splitlines()
    far = [text for text, domain in train if domain in FAR]
    return rng.sample(far, 800) + [text for text, _ in loaded["oos_train"]] + rng.sample(plain, 100)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    router = IntentRouter(Encoder(args.encoder))
    pairs: list[tuple[str, str | None]] = [(text, d.name) for d in DomainRegistry.from_folders([shipped("domains")]) for text in d.examples]
    router.fit(pairs + [(text, None) for text in outside(args.data, random.Random(args.seed))], args.seed)
    print("calibration:", json.dumps({key: round(value, 4) for key, value in asdict(router.calibration).items()}))


if __name__ == "__main__":
    main()
