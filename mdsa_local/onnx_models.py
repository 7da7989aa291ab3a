"""The two ONNX models that every question needs, the encoder and the judge, and what stands in where one cannot be loaded.

They are loaded when first needed, or side by side ahead of that: most of loading is not Python's, so that it goes on while a program is still
importing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mdsa_local.errors import MDSAError, ModelFileError, ModelNotFoundError

if TYPE_CHECKING:
    from mdsa_local.routing.encoder import Encoder
    from mdsa_local.routing.lexical import LexicalEncoder
    from mdsa_local.settings import Settings
    from mdsa_local.validation.judge import AnswerJudge

logger = logging.getLogger(__name__)


class OnnxModels:
    """The encoder and the judge that ``settings`` name. Safe to share between threads; whoever needs one that is being loaded waits for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._encoding, self._judging = threading.Lock(), threading.Lock()
        self._encoder: Encoder | LexicalEncoder | None = None
        # One entry once it was looked for: a judge, or None.
        self._judges: list[AnswerJudge | None] = []
        self.unjudged = ""

    def load_ahead(self) -> None:
        """Begin to load both, each in a thread. A program that ends waits for these: what is not Python in them would abort. Nothing is raised: who
        needs one meets the error."""
        if self._encoder is None:
            threading.Thread(target=_quietly, args=(lambda: self.encoder,), name="load-encoder").start()
        self.load_judge_ahead()

    def load_judge_ahead(self) -> None:
        """The same for the judge alone."""
        if not self._judges:
            threading.Thread(target=_quietly, args=(lambda: self.judge,), name="load-judge").start()

    @property
    def encoder(self) -> Encoder | LexicalEncoder:
        """The sentence encoder.

        When its files are missing or damaged, what routes and searches by words alone stands in; with the setting ``strict`` that is an error,
        :class:`ModelError`.
        """
        with self._encoding:
            if self._encoder is None:
                self._encoder = self._load_encoder()
            return self._encoder

    @property
    def judge(self) -> AnswerJudge | None:
        """The judge of which sentences answer; None where the setting ``judge`` is empty.

        When its files are missing or damaged the encoder's nearness decides instead, and ``unjudged`` says why; with the setting ``strict`` that is
        an error, :class:`ModelError`.
        """
        with self._judging:
            if not self._judges:
                self._judges.append(self._load_judge())
            return self._judges[0]

    def _load_encoder(self) -> Encoder | LexicalEncoder:
        from mdsa_local.routing.encoder import Encoder
        from mdsa_local.routing.lexical import LexicalEncoder

        try:
            return Encoder.load(settings=self.settings)
        except (ModelNotFoundError, ModelFileError) as error:
            if self.settings.strict:
                raise
            logger.warning("%s; routing and searching by words alone. %s", error, error.hint)
            return LexicalEncoder(str(error))

    def _load_judge(self) -> AnswerJudge | None:
        from mdsa_local.validation.judge import AnswerJudge

        try:
            return AnswerJudge.load(self.settings)
        except (ModelNotFoundError, ModelFileError) as error:
            if self.settings.strict:
                raise
            logger.warning("%s; sentences are chosen by nearness alone. %s", error, error.hint)
            self.unjudged = str(error)
            return None


def _quietly(load: Callable[[], object]) -> None:
    # In a program that has ended meanwhile nobody needs it, and Python refuses what importing takes.
    with suppress(MDSAError, ImportError, OSError, RuntimeError):
        load()
