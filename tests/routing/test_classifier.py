"""Labels and names of domains, which need not be spelled alike."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from mdsa_local.routing.classifier import Classifier, spelled


class Labelled(Classifier):
    def __init__(self, *labels: str) -> None:
        self.labels, self.temperature, self._names = labels, 1.0, tuple(map(spelled, labels))

    def logits(self, texts: list[str]) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], np.log(np.tile(np.arange(1, len(self.labels) + 1, dtype=np.float32), (len(texts), 1))))


@pytest.mark.parametrize("label", ["Credit Cards", "credit-cards", "credit_cards"])
def test_labels_are_domains_however_they_are_spelled(label: str) -> None:
    made = Labelled("other", label)
    names = ("loans", "credit-cards")
    assert made.knows(names).tolist() == [False, True]
    assert made.shares(["a"], names).round(3).tolist() == [[0.0, 0.667]]
    # Where both are registered, it is the one spelled so.
    names = ("credit-cards", "credit_cards")
    assert made.knows(names).tolist() == [False, True]
    assert made.shares(["a"], names).round(3).tolist() == [[0.0, 0.667]]


def test_a_label_is_found_by_any_spelling() -> None:
    made = Labelled("Other", "Credit Cards")
    assert [made.place(name) for name in ("Credit Cards", "credit-cards", "credit_cards", "OTHER", "loans")] == [1, 1, 1, 0, None]
