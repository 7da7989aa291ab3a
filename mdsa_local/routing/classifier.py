"""A fine-tuned sequence classifier as router: its labels are names of domains. Made by ``mdsa router export``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdsa_local.errors import ConfigError
from mdsa_local.routing.head import softmax
from mdsa_local.routing.session import TextSession, read_card


def spelled(label: str) -> str:
    """A label, or a domain's name, as both are compared: ``Credit Cards`` and ``credit-cards`` are ``credit_cards``."""
    return label.strip().lower().replace(" ", "_").replace("-", "_")


class Classifier:
    """Texts to probabilities of its labels. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Load the classifier in ``folder``. Raises :class:`ConfigError`, :class:`ModelNotFoundError` or :class:`ModelFileError`."""
        card = read_card(folder)
        labels, temperature = card.get("labels"), card.get("temperature", 1.0)
        if not isinstance(labels, list) or not labels:
            raise ConfigError(f"{folder / 'model.yaml'}: key 'labels': expected the names of the classes", "Write them in the model's order.")
        if not isinstance(temperature, int | float) or temperature <= 0:
            raise ConfigError(
                f"{folder / 'model.yaml'}: key 'temperature': expected a number above 0 (given: {temperature!r})", "1.0 changes nothing."
            )
        self.folder = folder
        self.labels = tuple(str(label) for label in labels)
        self.temperature = float(temperature)
        self._names = tuple(spelled(label) for label in self.labels)
        self._session = TextSession(folder, card, "logits")
        self.bare = self._session.bare

    def logits(self, texts: list[str]) -> NDArray[np.float32]:
        """``(n, labels)`` as the model gives them."""
        return self._session.rows(texts, len(self.labels))

    def probabilities(self, texts: list[str]) -> NDArray[np.floating]:
        """``(n, labels)``, each row with sum 1, after division of the logits by the temperature."""
        return softmax(self.logits(texts).astype(np.float64) / self.temperature)

    def place(self, name: str) -> int | None:
        """The place of the label that a domain's ``name``, or another spelling of it, stands for."""
        return self._names.index(spelled(name)) if spelled(name) in self._names else None

    def shares(self, texts: list[str], names: tuple[str, ...]) -> NDArray[np.floating]:
        """``(n, domains)`` in the order of ``names``: the probability of the label of that name, 0 for a domain without one.

        What goes to labels that are no registered domain speaks for none of them.
        """
        found = self.probabilities(texts)
        out = np.zeros((len(texts), len(names)))
        known = [spelled(name) for name in names]
        for at, label in enumerate(self._names):
            if label in known:
                out[:, names.index(label) if label in names else known.index(label)] += found[:, at]
        return out

    def knows(self, names: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which of the domains ``names`` have a label."""
        return np.array([spelled(name) in self._names and (name in self._names or spelled(name) not in names) for name in names], dtype=bool)
