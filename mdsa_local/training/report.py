"""What an encoder is worth to the router, on CLINC150 and the shipped domains: ``report.json`` beside the model.

CLINC150's ten domains, questions of its validation part: known by their intents' names alone, by ten examples (mean of five draws), by the
whole training part (mean of five seeds of the fit). The held-out questions of the repository's tests are not read here.

    python -m mdsa_local.training.report --data DIR --encoder models/tinybert
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdsa_local.domains.config import DomainConfig
from mdsa_local.routing.anchors import Floats
from mdsa_local.routing.encoder import Encoder
from mdsa_local.routing.evaluation import evaluate
from mdsa_local.routing.router import IntentRouter
from mdsa_local.training import sources
from mdsa_local.training.corpus import clinc

DRAWS = 5
KEPT = ("accuracy", "oos_auroc", "oos_recall", "coverage", "ece")


class Remembering:
    """An encoder that encodes no text twice."""

    def __init__(self, encoder: Encoder) -> None:
        self.fingerprint = encoder.fingerprint
        self._encode = encoder.remembering()

    def encode(self, texts: list[str]) -> Floats:
        """See :meth:`Encoder.encode`."""
        return self._encode(texts)


def measure(data: Path, folder: Path) -> dict[str, Any]:
    """The figures, rounded to four places."""
    loaded = Encoder(folder)
    encoder, calibration = Remembering(loaded), loaded.calibration
    train, val = clinc(data)
    intents: dict[str, list[str]] = {}
    for intent, domain in sources.clinc_domains(data).items():
        intents.setdefault(domain, []).append(intent)
    out_of_scope = sources.clinc(data, "oos_val")
    asked: list[tuple[str, str | None]] = [*val, *((text, None) for text, _ in out_of_scope)]

    def figures(router: IntentRouter) -> dict[str, float]:
        found = evaluate(router, asked)
        return {key: round(float(found[key]), 4) for key in KEPT}

    def described(examples: dict[str, Sequence[str]], named: bool) -> IntentRouter:
        router = IntentRouter(encoder, calibration)
        router.register_all(
            DomainConfig(name=name, keywords=tuple(i.replace("_", " ") for i in own) if named else (), examples=tuple(examples.get(name, ())))
            for name, own in intents.items()
        )
        return router

    report: dict[str, Any] = {"questions": len(val), "out_of_scope": len(out_of_scope)}
    report["names_only"] = figures(described({}, named=True))
    for key, named in (("ten_examples", False), ("ten_examples_and_names", True)):
        rows = []
        for seed in range(DRAWS):
            rng = random.Random(seed)
            drawn: dict[str, Sequence[str]] = {name: rng.sample([text for text, owner in train if owner == name], 10) for name in intents}
            rows.append(figures(described(drawn, named)))
        report[key] = _mean(rows)
    encoder.encode([text for text, _ in train])
    examples = [*train, *((text, None) for text, _ in sources.clinc(data, "oos_train"))]
    rows, seconds = [], []
    for seed in range(DRAWS):
        router = IntentRouter(encoder, calibration)
        began = time.perf_counter()
        router.fit(examples, seed)
        seconds.append(time.perf_counter() - began)
        rows.append(figures(router))
    report["fit_seconds_without_encoding"] = round(statistics.median(seconds), 1)
    report["all_examples"] = _mean(rows)
    return report


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {field: round(sum(row[field] for row in rows) / len(rows), 4) for field in KEPT}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    args = parser.parse_args()
    found = measure(args.data, args.encoder)
    (args.encoder / "report.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    from mdsa_local.cli.output import ended

    ended(main)
