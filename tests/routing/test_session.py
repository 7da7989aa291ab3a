"""How texts are put together for a pass of the encoder."""

from __future__ import annotations

import random
from itertools import pairwise

from mdsa_local.routing.session import WASTE, batches


def test_texts_of_one_length_fill_batches() -> None:
    assert list(batches([20] * 70, 32)) == [(0, 32), (32, 64), (64, 70)]
    assert list(batches([], 32)) == []


def test_a_short_text_is_not_padded_to_a_long_one() -> None:
    assert list(batches([200, 20, 19, 2], 32)) == [(0, 1), (1, 3), (3, 4)]


def test_batches_cover_all_texts_once_and_waste_little() -> None:
    drawn = random.Random(7)
    for _ in range(200):
        lengths = sorted((drawn.randint(2, 256) for _ in range(drawn.randint(1, 90))), reverse=True)
        most = drawn.randint(1, 32)
        found = list(batches(lengths, most))
        assert found[0][0] == 0 and found[-1][1] == len(lengths)
        assert all(end == begin for (_, end), (begin, _) in pairwise(found))
        for begin, end in found:
            assert 0 < end - begin <= most
            assert sum(lengths[begin:end]) >= (1 - WASTE) * lengths[begin] * (end - begin)
