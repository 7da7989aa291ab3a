"""The nearest of many vectors, by a look at their leading dimensions and an exact one at those that are near there.

Vectors of sentences differ in few directions: of 100,000 real ones with 312 dimensions, 80 hold four fifths of their length. Turned so that these
come first (their principal axes), a quarter of the memory has to be read to leave out all but two in a hundred.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The share of the vectors' squared length that the leading dimensions hold, and the number of dimensions is a multiple of this.
HELD_SHARE, MULTIPLE = 0.8, 8
# Vectors from which the axes are told.
SAMPLE = 8192
# Looked at exactly are one in so many, and at least so many, and so many for each that is wanted. Of the true first thirty of 100,000 real passages
# 99.3 % are among them.
EXACT_ONE_IN, LEAST_EXACT, EXACT_FOR_ONE = 64, 1500, 20
# Numbers in a block. The OpenBLAS 0.3.31 of numpy's wheels shares a product among threads from 460,800 on.
BLOCK = 1 << 18
# Of so many scores one is looked at to tell which others may be among the best.
SKIM = 16


def leading_axes(sample: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(width, d)``: of vectors ``(n, width) float32, unit length``, the fewest directions that hold :data:`HELD_SHARE` of them."""
    import numpy as np

    lengths, axes = np.linalg.eigh(sample.T @ sample)
    held = np.cumsum(lengths[::-1]) / max(float(lengths.sum()), 1e-9)
    count = min(-(-(int(np.searchsorted(held, HELD_SHARE)) + 1) // MULTIPLE) * MULTIPLE, len(lengths))
    return np.ascontiguousarray(axes[:, ::-1][:, :count], np.float32)


def block(rows: int, width: int) -> int:
    """How many of so many vectors of ``width`` dimensions make a block, see :func:`cosines`."""
    blocks = -(-rows * width // BLOCK)
    return -(-rows // blocks) if blocks else 1


def turned(vectors: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Up to ``size`` vectors ``(n, width)`` as a block ``(width, size)``; what is missing is zero."""
    import numpy as np

    found = np.zeros((vectors.shape[1], size), np.float32)
    found[:, : len(vectors)] = vectors.T
    return found


def cosines(blocks: NDArray[np.float32], vector: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """The products of ``vector`` with ``rows`` others in ``blocks`` ``(n, width, size)``.

    All first dimensions of a block, then all second ones: so it takes half the time that it takes vector by vector. And BLAS does a block of this
    size itself: larger ones it shares among threads that wait busily for each other, 9 ms in place of 1 when other work is going on.
    """
    found: NDArray[np.float32] = (vector @ blocks).reshape(-1)[:rows]
    return found


def nearest(
    vector: NDArray[np.float32], axes: NDArray[np.float32], heads: NDArray[np.float32], vectors: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The places of the ``limit`` nearest of ``vectors``, nearest first, with their exact cosines; nearly always all of them are found.

    ``heads`` is ``vectors @ axes`` in blocks, see :func:`cosines`; ``vector`` and ``vectors`` have unit length.
    """
    import numpy as np

    count = len(vectors)
    rough = cosines(heads, np.einsum("ij,i->j", axes, vector), count)
    near = best(rough, max(LEAST_EXACT, EXACT_FOR_ONE * limit, count // EXACT_ONE_IN))
    near = near[ordered(np.einsum("ij,j->i", vectors[near], vector), limit)]
    exact = vectors[near] @ vector
    order = np.argsort(-exact, kind="stable")
    return near[order], exact[order]


def best(scores: NDArray[np.floating], limit: int) -> NDArray[np.int64]:
    """The places of the ``limit`` highest scores, sorted; of equal ones the earlier."""
    import numpy as np

    if limit >= len(scores):
        return np.arange(len(scores))
    # There are at least as many that are no lower than the last of those that are the best of some.
    some = scores[:: SKIM if limit * SKIM <= len(scores) else 1]
    found = np.flatnonzero(scores >= np.partition(some, len(some) - limit)[len(some) - limit])
    least = np.partition(scores[found], len(found) - limit)[len(found) - limit]
    found = found[scores[found] >= least]
    if len(found) > limit:
        equal = np.flatnonzero(scores[found] == least)
        found = np.delete(found, equal[limit - len(found) :])
    return found


def ordered(scores: NDArray[np.floating], limit: int) -> NDArray[np.int64]:
    """The places of the ``limit`` highest scores, highest first; of equal ones the earlier first."""
    import numpy as np

    found = best(scores, limit)
    return found[np.argsort(-scores[found], kind="stable")]
