"""An ONNX session over texts, on the CPU: what the encoder and a classifier have in common.

A model is a folder with ``model.onnx``, the file beside it that has its numbers where it does not hold them itself, ``tokenizer.json`` and
``model.yaml`` (files with their sha256, longest input).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import ConfigError, ModelFileError, ModelNotFoundError
from mdsa_local.machine import available_cores
from mdsa_local.routing.wordpieces import WordPieces
from mdsa_local.settings import read_yaml
from mdsa_local.threads import Threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILES = ("model.onnx", "tokenizer.json")
# A pass costs what about eight tokens do, and padding is paid like text: so texts of like length go together, with at most this much padding.
# Beyond this many tokens a pass gains nothing and leaves the cache.
MOST_PADDING, MOST_TOKENS = 16, 288
# So many texts of one length, none longer than this, are read at once: more, or longer ones, take as long one after the other.
TOGETHER, SHORT_TOKENS = 8, 32
# onnxruntime's node for sum and normalisation takes longer than the two that it stands for.
NOT_FUSED = ["SkipLayerNormFusion"]
# From this many texts on, passes go on at once on several threads, one for each processor but no more than these.
SHARED, MOST_WORKERS = 16, 8
# More texts are tokenized all at once.
FEW = 4


def read_card(folder: Path) -> dict[str, Any]:
    """The ``model.yaml`` of a folder; empty without one."""
    return read_yaml(folder / "model.yaml") if (folder / "model.yaml").is_file() else {}


def passes(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Which texts of these ``lengths`` in tokens are read together: places, the longest first, so that no worker is left with the longest last.

    A pass has at most ``most_tokens``, padding included, unless one text alone is longer, and at most :data:`MOST_PADDING` of padding.
    """
    found: list[list[int]] = []
    longest = padding = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        short = longest - lengths[place]
        if not found or padding + short > MOST_PADDING or longest * (len(found[-1]) + 1) > most_tokens:
            found.append([])
            longest, padding, short = lengths[place], 0, 0
        found[-1].append(place)
        padding += short
    return found


def shared(texts: int) -> bool:
    """Whether so many texts are read on several threads."""
    return texts >= SHARED and available_cores() > 1


def workers() -> int:
    """How many threads share passes out."""
    return min(MOST_WORKERS, available_cores())


def share(lengths: Sequence[int]) -> int:
    """How many tokens a pass has when the passes are shared out: at least two passes for each worker, that none waits long for the last."""
    return min(MOST_TOKENS, -(-sum(lengths) // (2 * workers())))


def at_once(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Which ``rows`` of tokens are read in one pass: places, the longest first where there are many. The same on every machine."""
    if len(rows) < SHARED:
        return [[place] for place in range(len(rows))]
    found: list[list[int]] = []
    for length, alike in groupby(sorted(range(len(rows)), key=lambda place: -len(rows[place])), key=lambda place: len(rows[place])):
        places, together = list(alike), TOGETHER if length <= SHORT_TOKENS else 1
        found += [places[at : at + together] for at in range(0, len(places), together)]
    return found


def spread(work: Callable[[Any], object], pieces: Sequence[Any]) -> None:
    """Do the passes on as many threads as :func:`workers` says."""
    with Threads(workers(), "mdsa-encode") as pool:
        passes = [pool.submit(partial(work, piece)) for piece in pieces]
        try:
            for one in passes:
                one.result()
        finally:
            for one in passes:
                one.cancel()


def session_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises when it reads or runs a model that it cannot use."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented", "RuntimeException")
    return tuple(getattr(state, name) for name in names)


def digests(folder: Path, card: Mapping[str, Any], hint: str) -> dict[str, str]:
    """The SHA-256 of each file of the model in ``folder``. Raises :class:`ModelNotFoundError` for one that is missing and :class:`ModelFileError` for
    one that cannot be read or is not what the ``card`` says, :class:`ConfigError` for a card of another form, with ``hint``."""
    entries = card.get("files") or {}
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping | None) for entry in entries.values()):
        raise ConfigError(f"{folder / 'model.yaml'}: key 'files': expected name: {{sha256: ..., size_bytes: ...}} for each file", hint)
    beside = sorted(path.name for path in folder.glob("model.onnx[._]data"))
    found = {}
    for name in dict.fromkeys([*FILES, *beside, *entries]):
        path, entry = folder / name, entries.get(name) or {}
        try:
            if not path.is_file():
                raise ModelNotFoundError(f"model {folder}: no {name} in it", hint)
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read: {error.strerror or error}", "Fix its permissions.") from None
        if entry.get("sha256") not in (None, found[name]):
            raise ModelFileError(f"{path} is damaged: its sha256 is not the one in model.yaml", hint)
    return found


def inference_session(model: Path, threads: int, hint: str) -> Any:
    """onnxruntime's session of the file ``model``; numbers that lie in a file beside it are used where the system has them in its cache.

    Raises :class:`ModelFileError` with ``hint`` when it is damaged.
    """
    # onnxruntime 1.31 collects usage data under ~/.cache on every platform unless this is set before its import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=NOT_FUSED)
    except session_errors() as error:
        raise ModelFileError(f"{model} is damaged: {error}", hint) from None


_tokenizers: dict[str, Any] = {}
_opening = threading.Lock()


def tokenizer(path: Path, digest: str) -> Any:
    """The tokenizer in ``path``, a file with the SHA-256 ``digest``: it cuts and pads nothing, and is one for all models with the same file."""
    from tokenizers import Tokenizer

    with _opening:
        if digest not in _tokenizers:
            opened = Tokenizer.from_file(str(path))
            opened.no_truncation()
            opened.no_padding()
            _tokenizers[digest] = opened
        return _tokenizers[digest]


class TextSession:
    """Texts to one row of numbers each. Thread-safe.

    Activations are quantised with one scale for all that is read at once, so what a text gives depends a little on what is beside it. Few texts, and
    long ones, have a pass of their own; many short ones are read together with those of their length.
    """

    def __init__(self, folder: Path, card: dict[str, Any], output: str, threads: int = 1) -> None:
        """Load the model in ``folder``; ``output`` names what its graph gives. Raises :class:`ModelNotFoundError` or :class:`ModelFileError`."""
        import numpy as np

        self.max_tokens = int(card.get("max_tokens", 256))
        model = folder / "model.onnx"
        known = digests(folder, card, "Reinstall mdsa-local, export the model again, or name another one in the setting `encoder`.")
        self.fingerprint = hashlib.sha256("".join(known.values()).encode()).hexdigest()
        self._session = inference_session(model, threads, "Reinstall mdsa-local, or export the model again.")
        outputs = {entry.name for entry in self._session.get_outputs()}
        if output not in outputs:
            raise ModelFileError(f"{model} has no output {output!r}, only {', '.join(sorted(outputs))}", "Make it with `mdsa router export`.")
        self._output = output
        inputs = {entry.name for entry in self._session.get_inputs()}
        self._filled = {name: fill for name, fill in (("attention_mask", np.ones_like), ("token_type_ids", np.zeros_like)) if name in inputs}
        self._tokenizer = tokenizer(folder / "tokenizer.json", known["tokenizer.json"])
        self._pieces = WordPieces(self._tokenizer)
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
        if len(texts) <= FEW:
            rows = [self._window(self._pieces.ids(text)) for text in texts]
        else:
            rows = [self._window(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(texts)]
        if len(rows) == 1:
            with self._lock:
                return self._run(rows, width)
        out: NDArray[Any] = self._np.empty((len(texts), width), dtype=self._np.float32)

        def work(chosen: list[int]) -> None:
            out[chosen] = self._run([rows[place] for place in chosen], width)

        if shared(len(rows)):
            spread(work, at_once(rows))
            return out
        for chosen in at_once(rows):
            with self._lock:
                work(chosen)
        return out

    def _run(self, rows: list[list[int]], width: int) -> NDArray[np.float32]:
        """One pass; a graph may be of another width than its card says, or give other numbers than float32."""
        found: NDArray[Any] = self._session.run([self._output], self._feed(rows))[0]
        if found.shape == (len(rows), width) and found.dtype == self._np.float32:
            return found
        return found.astype(self._np.float32).reshape(len(rows), width)

    def bare(self, text: str) -> Callable[[], object]:
        """One forward pass over ``text``, ready tokenized: the session and nothing of ours, to measure against."""
        return partial(self._session.run, [self._output], self._feed([self._tokenizer.encode(text).ids]))

    def bare_batch(self, texts: list[str]) -> Callable[[], object]:
        """As :meth:`bare`, of many texts: the passes that :meth:`rows` makes, on as many threads."""
        rows = [self._window(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(texts)]
        feeds = [self._feed([rows[place] for place in chosen]) for chosen in at_once(rows)]
        run = partial(self._session.run, [self._output])
        return partial(spread, run, feeds) if shared(len(rows)) else lambda: list(map(run, feeds))

    def _window(self, ids: list[int]) -> list[int]:
        """At most ``max_tokens`` of ``ids``: from its beginning and its end."""
        if len(ids) <= self.max_tokens:
            return ids
        last = self.max_tokens // 2
        return ids[: self.max_tokens - last] + ids[-last:]

    def _feed(self, rows: list[list[int]]) -> dict[str, NDArray[np.int64]]:
        """What the graph is fed for rows of as many tokens each."""
        ids = self._np.array(rows, dtype=self._np.int64)
        return {"input_ids": ids, **{name: fill(ids) for name, fill in self._filled.items()}}
