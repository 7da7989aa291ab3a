"""An ONNX session over texts, on the CPU: what the encoder and a classifier have in common.

A model is a folder with ``model.onnx``, ``tokenizer.json`` and ``model.yaml`` (files with their sha256, longest input).
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import ModelFileError, ModelNotFoundError
from mdsa_local.settings import read_yaml

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Padding wastes work: texts of like length go together, and a batch stays small enough for the cache. One pass over 25 sentences, padded to the
# longest, took 193 ms; over batches that waste little 78 ms, and one text at a time 86 ms.
BATCH = 32
WASTE = 0.15
# From this many texts on, passes go on at once on several threads.
SHARED, WORKERS = 16, 2


def read_card(folder: Path) -> dict[str, Any]:
    """The ``model.yaml`` of a folder; empty without one."""
    return read_yaml(folder / "model.yaml") if (folder / "model.yaml").is_file() else {}


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def batches(lengths: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """``(begin, end)`` of batches over falling ``lengths``: at most ``most`` in each, and no more than :data:`WASTE` of it padding."""
    begin = used = 0
    for at, length in enumerate(lengths):
        if at > begin and (at - begin == most or used + length < (1 - WASTE) * lengths[begin] * (at - begin + 1)):
            yield begin, at
            begin, used = at, 0
        used += length
    if lengths:
        yield begin, len(lengths)


class TextSession:
    """Texts to one row of numbers each. Thread-safe; one forward pass a text."""

    def __init__(self, folder: Path, card: dict[str, Any], output: str, threads: int = 1) -> None:
        """Load the model in ``folder``; ``output`` names what its graph gives. Raises :class:`ModelNotFoundError` or :class:`ModelFileError`."""
        # onnxruntime 1.31 collects usage data under ~/.cache on every platform unless this is set before its import.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import numpy as np
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as state
        from tokenizers import Tokenizer

        self.max_tokens = int(card.get("max_tokens", 256))
        self._pad = int(card.get("pad_id", 0))
        model, vocabulary = folder / "model.onnx", folder / "tokenizer.json"
        for path in (model, vocabulary):
            if not path.is_file():
                raise ModelNotFoundError(f"encoder file missing: {path}", "Reinstall mdsa-local, or name another encoder in the setting `encoder`.")
        content = model.read_bytes()
        digests = {model: hashlib.sha256(content).hexdigest(), vocabulary: hashlib.sha256(vocabulary.read_bytes()).hexdigest()}
        for path, digest in digests.items():
            if card.get("files", {}).get(path.name, {}).get("sha256", digest) != digest:
                raise ModelFileError(
                    f"{path} is damaged: its sha256 is not the one in model.yaml", "Reinstall mdsa-local, or export the model again."
                )
        self.fingerprint = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented) as error:
            raise ModelFileError(f"{model} is damaged: {error}", "Reinstall mdsa-local, or export the model again.") from None
        outputs = {entry.name for entry in self._session.get_outputs()}
        if output not in outputs:
            raise ModelFileError(f"{model} has no output {output!r}, only {', '.join(sorted(outputs))}", "Make it with `mdsa router export`.")
        self._output = output
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(vocabulary))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._np = np
        # Encoding sets no state, but two short passes at once on few cores are slower than one after the other.
        self._lock = threading.Lock()

    def count_tokens(self, text: str) -> int:
        """Word pieces in ``text``, without the marks around them."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def cuts(self, text: str) -> bool:
        """Whether ``text`` is longer than the window, so that its middle is not read."""
        return self.count_tokens(text) > self.max_tokens - 2

    def rows(self, texts: list[str], width: int) -> NDArray[np.float32]:
        """``(n, width)`` float32, in the order of ``texts``.

        Of what is longer than ``max_tokens`` the first and the last part are read, half of the window each; see :meth:`cuts`.
        """
        np = self._np
        out: NDArray[Any] = np.empty((len(texts), width), dtype=np.float32)
        rows = [self._window(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)]
        # The longest first, so that no worker is left with the longest last.
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        if len(rows) < SHARED or available_cores() < 2:
            for begin, end in batches([len(rows[i]) for i in order], BATCH):
                with self._lock:
                    out[order[begin:end]] = self._forward([rows[i] for i in order[begin:end]])
            return out
        size = min(BATCH, -(-len(rows) // (2 * WORKERS)))

        def work(chosen: list[int]) -> None:
            out[chosen] = self._forward([rows[i] for i in chosen])

        with ThreadPoolExecutor(WORKERS, thread_name_prefix="mdsa-encode") as pool:
            list(pool.map(work, (order[begin:end] for begin, end in batches([len(rows[i]) for i in order], size))))
        return out

    def bare(self, text: str) -> Callable[[], object]:
        """One forward pass over ``text``, ready tokenized: the session and nothing of ours, to measure against."""
        np = self._np
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        return partial(self._session.run, [self._output], self._feed(ids, np.ones_like(ids)))

    def _window(self, ids: list[int]) -> list[int]:
        """At most ``max_tokens`` of ``ids``: from its beginning and its end."""
        if len(ids) <= self.max_tokens:
            return ids
        last = self.max_tokens // 2
        return ids[: self.max_tokens - last] + ids[-last:]

    def _forward(self, rows: list[list[int]]) -> NDArray[np.float32]:
        np = self._np
        ids = np.full((len(rows), max(map(len, rows))), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        (found,) = self._session.run([self._output], self._feed(ids, mask))
        result: NDArray[Any] = np.asarray(found, dtype=np.float32)
        return result

    def _feed(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": self._np.zeros_like(ids)}
        return {name: value for name, value in feed.items() if name in self._inputs}
