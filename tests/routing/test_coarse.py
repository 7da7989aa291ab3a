"""The product in bytes against the plain one: vectors of every kind, then domains of real questions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing import anchors, coarse, fitting
from mdsa_local.routing.anchors import Anchors, Floats, Index, Rows
from mdsa_local.routing.calibration import Calibration
from mdsa_local.routing.encoder import Encoder
from tests.routing.test_router import held_out


def unit(vectors: np.ndarray) -> Floats:
    normed: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return normed


def as_anchors(vectors: Floats) -> Anchors:
    return Anchors(("",) * len(vectors), ("example",) * len(vectors), vectors)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    width=st.integers(1, 400),
    spread=st.floats(0.0, 3.0),
    margin=st.floats(0.0, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_gives_the_plain_cosines_and_the_nearest_exactly(sizes: list[int], width: int, spread: float, margin: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # From dimensions that are all alike to a few that hold nearly everything, as principal ones do.
    scale = np.exp(-spread * np.arange(width) / 10)
    matrix = unit(rng.standard_normal((sum(sizes), width)) * scale + 1e-3)
    question = unit(matrix[:1] + 0.7 * rng.standard_normal((1, width)) * scale)[0]
    parts = [coarse.Bytes.made(part) for part in np.split(matrix, np.cumsum(sizes)[:-1])]
    found, plain = coarse.Coarse(parts, matrix).cosines(question, margin), matrix @ question
    # A byte is off by half a step of at most 1/127 of the largest value; these add up as the square root of their number does.
    assert np.abs(found - plain).max() < 5 * 0.5 / 127 * np.abs(matrix).max() + 1e-5
    near = np.flatnonzero(plain > plain.max() - margin + 0.02)
    if len(near) <= coarse.MOST_EXACT and (plain > plain.max() - margin - 0.02).sum() <= coarse.MOST_EXACT:
        assert np.allclose(found[near], plain[near], atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2, anchors.FEW, anchors.FEW + 1])
@pytest.mark.parametrize("width", [1, 312, 1024, 20_000])
@pytest.mark.parametrize("sizes", [[1], [1, 29], [40, 0, 61], [0]])
def test_rows_laid_out_in_blocks_give_the_plain_product(sizes: list[int], width: int, n: int) -> None:
    rng = np.random.default_rng(0)
    vectors, parts = unit(rng.standard_normal((n, width))), [unit(rng.standard_normal((size, width))) for size in sizes]
    rows = Rows(parts)
    assert np.array_equal(rows.matrix, np.concatenate(parts))
    found = rows.cosines(vectors)
    assert found.shape == (n, len(rows))
    assert np.allclose(found, vectors @ np.concatenate(parts).T, atol=1e-6)


def test_of_a_hundred_equal_anchors_none_is_lost() -> None:
    matrix = np.repeat(unit(np.random.default_rng(0).standard_normal((1, 312))), 1000, axis=0)
    found = coarse.Coarse([coarse.Bytes.made(matrix)], matrix).cosines(matrix[0], 0.24)
    assert np.allclose(found, 1, atol=5e-3)


@pytest.fixture(scope="module")
def crowd(product: TinyBERTOrchestrator, encoder: Encoder) -> dict[str, Anchors]:
    """200 domains of 50 examples: each has its own direction, and the shipped examples, moved towards it."""
    rng = np.random.default_rng(0)
    vectors = encoder.encode([text for domain in product.registry for text in domain.examples])
    kept = (rng.choice(len(vectors), 50, replace=False) for _ in range(200))
    return {f"d{i}": as_anchors(unit(vectors[some] + 0.5 * unit(rng.standard_normal((1, vectors.shape[1]))))) for i, some in enumerate(kept)}


def test_probabilities_among_many_domains_are_those_of_the_plain_product(crowd: dict[str, Anchors], encoder: Encoder) -> None:
    index = Index(crowd)
    assert sum(index.counts) >= coarse.WORTHWHILE
    vectors = encoder.encode([text for text, _ in held_out()][::4])
    rng = np.random.default_rng(1)
    towards = np.concatenate([a.vectors[:1] for a in crowd.values()])[rng.integers(0, len(crowd), len(vectors))]
    vectors = unit(vectors + 0.6 * towards)
    together = index.evidence(vectors)
    assert len(vectors) > anchors.FEW
    alone = np.concatenate([index.evidence(vector[None]) for vector in vectors])
    assert not np.array_equal(alone, together)

    def probabilities(evidence: Floats) -> np.ndarray:
        calibration: Calibration = encoder.calibration
        found = fitting.mixed(evidence, None, 0.0, calibration)
        probabilities: np.ndarray = found.shares * calibration.in_scope(evidence.max(axis=1), found.sure)[:, None]
        return probabilities

    given_, wanted = probabilities(alone), probabilities(together)
    assert np.abs(given_ - wanted).max() < 2e-3
    assert np.abs(given_ - wanted).max(axis=1).mean() < 2e-4
    clear = np.sort(wanted, axis=1)[:, -1] - np.sort(wanted, axis=1)[:, -2] > 2e-3
    assert clear.sum() > len(vectors) / 2
    assert (given_.argmax(axis=1) == wanted.argmax(axis=1))[clear].all()


def test_a_change_of_domains_is_seen_at_once(crowd: dict[str, Anchors]) -> None:
    question = unit(np.random.default_rng(2).standard_normal((1, crowd["d0"].vectors.shape[1])))
    index = Index(crowd)
    before = index.evidence(question)
    more = Index({**crowd, "own": as_anchors(np.repeat(question, 30, axis=0))})
    after = more.evidence(question)
    assert after[0].argmax() == len(crowd)
    assert np.allclose(after[0, :-1], before[0], atol=2e-3)
