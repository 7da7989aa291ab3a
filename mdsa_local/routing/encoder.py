"""The sentence encoder: text to unit vectors, in an ONNX session on the CPU.

The same vectors serve routing, retrieval and the grounding check.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mdsa_local.errors import ConfigError, InputError, ModelFileError, ModelNotFoundError, expected, looking
from mdsa_local.routing.calibration import Calibration
from mdsa_local.routing.session import TextSession, read_card
from mdsa_local.settings import Settings, expanded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.routing.classifier import Classifier


class Encoder:
    """Texts to vectors. Thread-safe; one forward pass a text.

    ``classifier`` is there when the setting ``encoder`` names a classifier: it routes, and this encoder, named in its ``model.yaml``, does
    everything else.
    """

    def __init__(self, folder: Path, threads: int = 1, classifier: Classifier | None = None) -> None:
        """Load the encoder in ``folder``. Raises :class:`ConfigError`, :class:`ModelNotFoundError` or :class:`ModelFileError`."""
        card = read_card(folder)
        if card.get("kind", "encoder") != "encoder":
            raise ConfigError(f"{folder} holds no encoder but: {card['kind']}", "Name an encoder.")
        self.folder = folder
        self.width = int(card.get("width", 312))
        self.calibration = Calibration.read(card)
        self.classifier = classifier
        self._session = TextSession(folder, card, "sentence_embedding", threads)
        self.max_tokens = self._session.max_tokens
        self.fingerprint = self._session.fingerprint

    @classmethod
    def load(cls, name: str | Path | None = None, settings: Settings | None = None) -> Encoder:
        """The configured encoder, or the one called ``name`` (in ``models/``) or lying in folder ``name``; of a classifier, its encoder."""
        settings = settings or Settings.load()
        folder = find(name or settings.encoder, settings)
        card = read_card(folder)
        if card.get("kind") != "classifier":
            return cls(folder)
        from mdsa_local.routing.classifier import Classifier

        return cls(find(str(card.get("encoder", "tinybert")), settings), classifier=Classifier(folder))

    def count_tokens(self, text: str) -> int:
        """Word pieces in ``text``, without the two marks around them."""
        return self._session.count_tokens(text)

    def cuts(self, text: str) -> bool:
        """Whether ``text`` is longer than the window, so that its middle is not read."""
        return self._session.cuts(text)

    def bare(self, text: str) -> Callable[[], object]:
        """One forward pass over ``text``, ready tokenized: the session and nothing of ours, to measure against."""
        return self._session.bare(text)

    def bare_batch(self, texts: list[str]) -> Callable[[], object]:
        """As :meth:`bare`, of many texts at once, in the passes and on the threads that :meth:`encode` gives them."""
        return self._session.bare_batch(texts)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """``(n, width)`` float32, unit length, in the order of ``texts``.

        Of what is longer than ``max_tokens`` the first and the last part are read, half of the window each; see :meth:`cuts`. Raises
        :class:`InputError` for what is no list of texts.
        """
        clean_texts(texts, "what to encode")
        return self._session.rows(texts, self.width)

    def remembering(self) -> Callable[[list[str]], NDArray[np.float32]]:
        """:meth:`encode` for one question's stages, see :func:`remembering`."""
        return remembering(self.encode)


def clean_texts(texts: object, what: str) -> None:
    """Raise :class:`InputError` where ``texts``, called ``what`` in its message, are no list of texts in valid UTF-8."""
    if not isinstance(texts, list) and (isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Collection)):
        raise InputError(f"{what} cannot be {type(texts).__name__} {texts!r:.60}", "Pass a list of texts.")
    for text in texts:
        clean_text(text, f"a text of {what}")


def clean_text(text: object, what: str) -> None:
    """Raise :class:`InputError` where ``text``, called ``what`` in its message, is no text in valid UTF-8."""
    if not isinstance(text, str):
        raise InputError(f"{what} cannot be {'None' if text is None else f'{type(text).__name__} {text!r:.60}'}", "Pass a text.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} is not valid UTF-8: {text!r:.60}", "Read it as UTF-8.") from None


def remembering(encode: Callable[[list[str]], NDArray[np.float32]]) -> Callable[[list[str]], NDArray[np.float32]]:
    """``encode`` for whoever asks for the same texts again, as one question's stages do: each is encoded once."""
    # To each text ``(1, d)``.
    known: dict[str, NDArray[np.float32]] = {}

    def remembered(texts: list[str]) -> NDArray[np.float32]:
        # Of one text, which most stages ask for, nothing is copied.
        if len(texts) == 1:
            if texts[0] not in known:
                known[texts[0]] = encode(texts)
            return known[texts[0]]
        import numpy as np

        if missing := [text for text in dict.fromkeys(texts) if text not in known]:
            known.update(zip(missing, encode(missing)[:, None], strict=True))
        return np.concatenate([known[text] for text in texts]) if texts else encode([])

    return remembered


@looking(ModelFileError)
def find(wanted: str | Path, settings: Settings) -> Path:
    """The folder of the model called ``wanted``, in ``models/``, or lying in folder ``wanted``. Raises :class:`ModelNotFoundError`, or
    :class:`ModelFileError` where that cannot be seen."""
    expected(wanted, str | Path, "the encoder", "Give its name, such as tinybert, or its folder.", ConfigError)
    path = expanded(wanted)
    # A bare name never means the current folder.
    folders = [path] if path.is_absolute() or len(path.parts) > 1 else [folder / path for folder in settings.model_dirs]
    for folder in folders:
        if (folder / "model.onnx").is_file():
            return folder
    looked = ", ".join(map(str, folders))
    raise ModelNotFoundError(f"no encoder {str(wanted)!r} (looked in {looked})", "Reinstall mdsa-local, or fix the setting `encoder`.")
