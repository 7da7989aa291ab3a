"""The sentence encoder: text to unit vectors, in an ONNX session on the CPU.

A model is a folder with ``model.onnx``, ``tokenizer.json`` and ``model.yaml`` (files with their sha256, width, longest input).
The same vectors serve routing, retrieval and the grounding check.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import ModelFileError, ModelNotFoundError
from mdsa_local.routing.calibration import Calibration
from mdsa_local.settings import Settings, read_yaml

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Padding wastes work: texts of like length go together, and a batch stays small enough for the cache.
BATCH = 32


class Encoder:
    """Texts to vectors. Thread-safe; one forward pass a text."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load the model in ``folder``. Raises :class:`ModelNotFoundError` or :class:`ModelFileError`."""
        # onnxruntime 1.31 collects usage data under ~/.cache on every platform unless this is set before its import.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import numpy as np
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as state
        from tokenizers import Tokenizer

        self.folder = folder
        card = read_yaml(folder / "model.yaml") if (folder / "model.yaml").is_file() else {}
        self.width = int(card.get("width", 312))
        self.max_tokens = int(card.get("max_tokens", 256))
        self.calibration = Calibration.read(card)
        model, vocabulary = folder / "model.onnx", folder / "tokenizer.json"
        for path in (model, vocabulary):
            if not path.is_file():
                raise ModelNotFoundError(f"encoder file missing: {path}", "Reinstall mdsa-local, or name another encoder in the setting `encoder`.")
        content = model.read_bytes()
        digests = {model: hashlib.sha256(content).hexdigest(), vocabulary: hashlib.sha256(vocabulary.read_bytes()).hexdigest()}
        for path, digest in digests.items():
            if card.get("files", {}).get(path.name, {}).get("sha256", digest) != digest:
                raise ModelFileError(f"{path} is damaged: its sha256 is not the one in model.yaml", "Reinstall mdsa-local.")
        self.fingerprint = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented) as error:
            raise ModelFileError(f"{model} is damaged: {error}", "Reinstall mdsa-local.") from None
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(vocabulary))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._np = np
        # Encoding sets no state, but two short passes at once on few cores are slower than one after the other.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, name: str | Path | None = None, settings: Settings | None = None) -> Encoder:
        """The configured encoder, or the one called ``name`` (in ``models/``) or lying in folder ``name``."""
        settings = settings or Settings.load()
        wanted = name or settings.encoder
        path = Path(wanted).expanduser()
        # A bare name never means the current folder.
        folders = [path] if path.is_absolute() or len(path.parts) > 1 else [folder / path for folder in settings.model_dirs]
        for folder in folders:
            if (folder / "model.onnx").is_file():
                return cls(folder)
        looked = ", ".join(map(str, folders))
        raise ModelNotFoundError(f"no encoder {str(wanted)!r} (looked in {looked})", "Reinstall mdsa-local, or fix the setting `encoder`.")

    def count_tokens(self, text: str) -> int:
        """Word pieces in ``text``, without the two marks around them."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """``(n, width)`` float32, unit length, in the order of ``texts``.

        Of what is longer than ``max_tokens`` the first and the last part are read, half of the window each; see :meth:`cuts`.
        """
        np = self._np
        out: NDArray[Any] = np.empty((len(texts), self.width), dtype=np.float32)
        rows = [self._window(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            out[chosen] = self._forward([rows[i] for i in chosen])
        return out

    def cuts(self, text: str) -> bool:
        """Whether ``text`` is longer than the window, so that its middle is not read."""
        return self.count_tokens(text) > self.max_tokens - 2

    def _window(self, ids: list[int]) -> list[int]:
        """At most ``max_tokens`` of ``ids``: from its beginning and its end."""
        if len(ids) <= self.max_tokens:
            return ids
        last = self.max_tokens // 2
        return ids[: self.max_tokens - last] + ids[-last:]

    def remembering(self) -> Callable[[list[str]], NDArray[np.float32]]:
        """:meth:`encode` for one question's stages, which ask for the same sentences: each text is encoded once."""
        known: dict[str, NDArray[np.float32]] = {}

        def encode(texts: list[str]) -> NDArray[np.float32]:
            if missing := [text for text in dict.fromkeys(texts) if text not in known]:
                known.update(zip(missing, self.encode(missing), strict=True))
            vectors: NDArray[Any] = self._np.stack([known[text] for text in texts])
            return vectors

        return encode

    def bare(self, text: str) -> Callable[[], object]:
        """One forward pass over ``text``, ready tokenized: the session and nothing of ours, to measure against."""
        np = self._np
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return partial(self._session.run, ["sentence_embedding"], {name: value for name, value in feed.items() if name in self._inputs})

    def _forward(self, rows: list[list[int]]) -> NDArray[np.float32]:
        np = self._np
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        feed: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        with self._lock:
            (vectors,) = self._session.run(["sentence_embedding"], {name: value for name, value in feed.items() if name in self._inputs})
        result: NDArray[Any] = np.asarray(vectors, dtype=np.float32)
        return result
