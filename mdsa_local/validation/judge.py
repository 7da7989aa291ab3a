"""The judge: a cross-encoder that reads a question and a text together and says whether the one answers the other.

The encoder sees question and sentence apart, and finds what is about the same; whether it answers is for the judge to say. It reads only the few
sentences that the encoder finds nearest. Made by :mod:`mdsa_local.training.judge`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import ConfigError, ModelFileError, ModelNotFoundError, looking
from mdsa_local.routing.session import digests, inference_session, passes, read_card, share, spread, tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.settings import Settings

# What is between the layers of a pass is kept by the memory allocator: of 225 tokens 25 MB on each core. Passes of so few are as quick.
PASS_TOKENS = 128
REINSTALL = "Reinstall mdsa-local, or set `judge` to the folder of another one, or to nothing."


@dataclass(frozen=True, slots=True)
class Weighing:
    """What a judge's scores mean, learned with it: log odds that documents answer are ``odds`` times (1, best score, best cosine, share of the
    question that nothing mentions); a unit's score is the judge's plus ``nearness`` times its cosine; beside the best are quoted those of the same
    document and of another one whose score is less by at most ``same`` and ``other``; from ``sure`` on the odds suffice to choose a domain by."""

    odds: tuple[float, float, float, float]
    nearness: float
    same: float
    other: float
    least: float
    sure: float

    @classmethod
    def read(cls, card: dict[str, Any], folder: Path) -> Weighing:
        """From ``weighing`` in a model's card. Raises :class:`ConfigError`."""
        try:
            told = dict(card["weighing"])
            constant, judged, near, unsaid = (float(value) for value in told.pop("odds"))
            return cls((constant, judged, near, unsaid), **{name: float(value) for name, value in told.items()})
        except (TypeError, KeyError, ValueError):
            form = "{odds: [four numbers], nearness: …, same: …, other: …, least: …, sure: …}"
            raise ConfigError(f"{folder / 'model.yaml'}: no weighing of a judge's scores", f"Expected weighing: {form}.") from None


class AnswerJudge:
    """Pairs of question and text to log odds that the text answers. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Load the judge in ``folder``. Raises :class:`ConfigError`, :class:`ModelNotFoundError` or :class:`ModelFileError`."""
        if not (folder / "model.yaml").is_file():
            raise ModelNotFoundError(f"no judge at {folder}: no model.yaml there", REINSTALL)
        card = read_card(folder)
        if card.get("kind") != "judge":
            raise ConfigError(f"{folder} holds no judge but: {card.get('kind')}", REINSTALL)
        self.folder = folder
        self.weighing = Weighing.read(card, folder)
        self.max_tokens = int(card.get("max_tokens", 128))
        known = digests(folder, card, REINSTALL)
        self._session = inference_session(folder / "model.onnx", 1, REINSTALL)
        self._tokenizer = tokenizer(folder / "tokenizer.json", known["tokenizer.json"])
        self._begin, self._end = self._tokenizer.encode("").ids
        self._lock = threading.Lock()

    @classmethod
    @looking(ModelFileError)
    def load(cls, settings: Settings) -> AnswerJudge | None:
        """The configured judge; None where the setting ``judge`` is empty. Raises as the class."""
        place = settings.judge_place
        return cls(place) if place else None

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Log odds that the text of each ``(question, text)`` answers. Only the first ``max_tokens`` of a pair are read, at most half of them the
        question's."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        known = dict(zip(texts, (encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)), strict=True))
        asked = [[self._begin, *known[question][: self.max_tokens // 2 - 2], self._end] for question, _ in pairs]
        rows = [[*first, *known[text][: self.max_tokens - len(first) - 1], self._end] for first, (_, text) in zip(asked, pairs, strict=True)]
        found = [0.0] * len(rows)

        def work(chosen: list[int]) -> None:
            for at, value in zip(chosen, self._forward([rows[i] for i in chosen], [len(asked[i]) for i in chosen]), strict=True):
                found[at] = float(value)

        lengths = [len(row) for row in rows]
        # Two questions at once on few cores take longer than one after the other.
        with self._lock:
            spread(work, passes(lengths, min(share(lengths), PASS_TOKENS)))
        return found

    def _forward(self, rows: Sequence[list[int]], second: Sequence[int]) -> NDArray[np.float32]:
        """Log odds of pairs of tokens; the text of each begins at ``second``."""
        import numpy as np

        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(row)], mask[at, : len(row)] = row, 1
        types = mask * (np.arange(mask.shape[1]) >= np.array(second)[:, None])
        (given,) = self._session.run(["logits"], {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
        result: NDArray[Any] = np.asarray(given, dtype=np.float32)[:, 0]
        return result

    def remembering(self) -> Remembering:
        """The same for one question's stages, which ask about the same texts: each pair is read once."""
        return Remembering(self)


class Remembering:
    """What :meth:`AnswerJudge.remembering` gives."""

    def __init__(self, judge: AnswerJudge) -> None:
        self._judge, self.weighing = judge, judge.weighing
        self._known: dict[tuple[str, str], float] = {}

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """As :meth:`AnswerJudge.scores`."""
        if missing := [pair for pair in dict.fromkeys(pairs) if pair not in self._known]:
            self._known.update(zip(missing, self._judge.scores(missing), strict=True))
        return [self._known[pair] for pair in pairs]
