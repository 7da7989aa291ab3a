"""Fit the weights of :mod:`mdsa_local.validation.answerable` for a judge (``odds`` of its weighing), or, with the setting ``judge`` empty, for the
encoder alone (WEIGHTS): prints them, and what thresholds of the odds decline.

Questions with their domain given, asked of the shipped knowledge: ``answers/DOMAIN.jsonl`` (a question a line) and ``unanswerable.yaml`` (lists by
domain) of ``--questions``. The knowledge must be ingested in ``MDSA_HOME``, which the first question does.

    python -m mdsa_local.training.answerable --questions tests/data
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from mdsa_local.evidence import Searcher
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.validation.answerable import Doubt

SHRINK = 1e-3
STEPS = 50


def asked(folder: Path) -> list[tuple[str, str, bool]]:
    """``(question, domain, whether the documents answer it)``. A question for all domains is asked of support."""
    rows = [
        (str(json.loads(line)["question"]), str(json.loads(line).get("domain") or path.stem), True)
        for path in sorted((folder / "answers").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    for domain, questions in yaml.safe_load((folder / "unanswerable.yaml").read_text(encoding="utf-8")).items():
        rows += [(question, "support" if domain.startswith("_") else domain, False) for question in questions]
    return rows


def doubts(orchestrator: TinyBERTOrchestrator, questions: Sequence[tuple[str, str]]) -> list[Doubt]:
    """What speaks against an answer to each ``(question, domain)``, whatever the present weights."""
    orchestrator.prepare()
    found = []
    for question, domain in questions:
        embed = orchestrator.encoder.remembering()
        evidence = Searcher(
            orchestrator.knowledge, question, embed([question])[0], embed, orchestrator.judge, orchestrator.settings.top_k, lambda _: True
        ).look(domain)
        found.append(evidence.doubt or Doubt(0.0, 0.0, ()))
    return found


def signs(found: Sequence[Doubt]) -> np.ndarray:
    """What the odds are made of, ``(n, 3)`` or, with a judge, ``(n, 4)``."""
    judged = [each.judged for each in found]
    if all(score is None for score in judged):
        return np.array([(1.0, each.nearness, each.unsaid) for each in found])
    return np.array([(1.0, score or 0.0, each.nearness, each.unsaid) for score, each in zip(judged, found, strict=True)])


def fit(found: Sequence[Doubt], answers: Sequence[bool]) -> tuple[float, ...]:
    """Logistic regression by Newton's method, both kinds weighing the same, a little shrunk."""
    x = signs(found)
    y = np.array(answers, dtype=float)
    share = np.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    weights = np.zeros(x.shape[1])
    for _ in range(STEPS):
        likely = 1 / (1 + np.exp(-x @ weights))
        slope = x.T @ (share * (y - likely)) - SHRINK * weights
        curve = (x * (share * likely * (1 - likely))[:, None]).T @ x + SHRINK * np.eye(len(weights))
        weights += np.linalg.solve(curve, slope)
    return tuple(float(weight) for weight in weights)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True, help="folder with answers/ and unanswerable.yaml")
    args = parser.parse_args()
    rows = asked(args.questions)
    with TinyBERTOrchestrator() as orchestrator:
        found = doubts(orchestrator, [(question, domain) for question, domain, _ in rows])
    answers = np.array([answered for *_, answered in rows])
    weights = fit(found, answers.tolist())
    odds = signs(found) @ weights
    print("odds:" if len(weights) > 3 else "WEIGHTS =", tuple(round(weight, 3) for weight in weights))
    for share in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25):
        least = float(np.quantile(odds[answers], share))
        print(f"from {least:.3f} on: declines {share:.0%} of the answerable, {(odds[~answers] < least).mean():.0%} of the others")


if __name__ == "__main__":
    from mdsa_local.cli.output import ended

    ended(main)
