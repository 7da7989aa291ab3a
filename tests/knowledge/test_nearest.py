"""The nearest vectors found by their leading dimensions are those that a look at all of them finds."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from mdsa_local.cli import bench_retrieve
from mdsa_local.knowledge import nearest
from mdsa_local.knowledge.nearest import best, block, cosines, leading_axes, ordered, turned
from mdsa_local.routing.encoder import Encoder


def blocks_of(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    size = block(*vectors.shape)
    return np.stack([turned(vectors[start : start + size], size) for start in range(0, len(vectors), size)])


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def drawn() -> bench_retrieve._Drawn:
    return bench_retrieve._Drawn(Encoder.load())


def test_the_best_of_scores_are_those_that_sorting_gives() -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    source = np.random.default_rng(seed)
    for _ in range(300):
        count, levels = int(source.integers(0, 3000)), int(source.choice([1, 2, 30, 10**9]))
        limit = int(source.integers(1, max(count, 1) + 3))
        scores = (source.integers(0, levels, count) / levels).astype(np.float32)
        expected = np.argsort(-scores, kind="stable")[:limit]
        assert ordered(scores, limit).tolist() == expected.tolist()
        assert best(scores, limit).tolist() == sorted(expected.tolist())


@pytest.mark.parametrize(("rows", "width"), [(1, 5), (3, 312), (840, 312), (841, 312), (2001, 312), (5000, 80)])
def test_products_with_vectors_in_blocks(rows: int, width: int) -> None:
    vectors = unit(np.random.default_rng(rows).standard_normal((rows, width), dtype=np.float32))
    blocks = blocks_of(vectors)
    assert blocks[0].size <= nearest.BLOCK and blocks.size < vectors.size + blocks[0].size
    assert cosines(blocks, vectors[-1], rows) == pytest.approx(vectors @ vectors[-1], abs=1e-6)


def test_leading_axes_are_few_where_vectors_have_structure(drawn: bench_retrieve._Drawn) -> None:
    structured, isotropic = drawn.encode([""] * 4000), unit(np.random.default_rng(0).standard_normal((4000, 312), dtype=np.float32))
    for vectors, most in ((structured, 96), (isotropic, 280)):
        axes = leading_axes(vectors)
        assert axes.shape[1] % nearest.MULTIPLE == 0 and axes.shape[1] <= most
        assert axes.T @ axes == pytest.approx(np.eye(axes.shape[1]), abs=1e-4)
        assert ((vectors @ axes) ** 2).sum() >= nearest.HELD_SHARE * len(vectors) * 0.999
    assert leading_axes(unit(np.ones((5, 3), np.float32))).shape == (3, 3)


def test_nearly_all_of_the_true_nearest_are_found_with_their_exact_cosines(drawn: bench_retrieve._Drawn) -> None:
    vectors = drawn.encode([""] * 30_000)
    # Some have the same vector.
    vectors[::7] = vectors[3::7][: len(vectors[::7])]
    axes = leading_axes(vectors[:: len(vectors) // nearest.SAMPLE + 1])
    heads = blocks_of(vectors @ axes)
    found = 0
    questions = drawn.encoder.encode(bench_retrieve._questions()[:40])
    for question in questions:
        exact = vectors @ question
        places, values = nearest.nearest(question, axes, heads, vectors, 30)
        assert len(set(places.tolist())) == 30 and values == pytest.approx(exact[places], abs=1e-6)
        assert (np.diff(values) <= 0).all()
        found += int((values >= np.sort(exact)[-30] - 1e-6).sum())
    assert found / (30 * len(questions)) > 0.98


def test_all_are_looked_at_exactly_where_they_are_few() -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((1500, 64), dtype=np.float32))
    axes = leading_axes(vectors)[:, :8]
    places, _ = nearest.nearest(vectors[3], axes, blocks_of(vectors @ axes), vectors, 50)
    assert places.tolist() == np.argsort(-(vectors @ vectors[3]), kind="stable")[:50].tolist()
