"""A cross-encoder as ONNX, run by onnxruntime.

It is a folder with ``model.onnx`` (or ``onnx/model.onnx``) and ``tokenizer.json``, or the path of one ``.onnx`` file with the tokenizer beside it or
one folder above. For each pair it gives one number, or two of which the second speaks for the passage. See docs/knowledge.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import ModelFileError, ModelNotFoundError
from mdsa_local.knowledge.rerank import Score
from mdsa_local.machine import available_cores
from mdsa_local.routing.session import MOST_TOKENS, inference_session, passes, session_errors, spread
from mdsa_local.settings import expanded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A window when no file of the model names one: that of BERT.
WINDOW = 512
# What a tokenizer says that knows no maximum is a number with thirty digits.
NO_WINDOW = 1_000_000
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
HINT = "Name a cross-encoder exported for text classification (`optimum-cli export onnx --task text-classification`) in the setting `reranker`."


class OnnxReranker:
    """Pairs of question and passage to scores, in an ONNX session on the CPU. Thread-safe."""

    def __init__(self, model: Path, vocabulary: Path) -> None:
        """Open it and try it on two pairs. Raises :class:`ModelFileError` when a file is damaged or the model is no cross-encoder."""
        import numpy as np

        self.path, self._np = model, np
        # By its path: the weights of large models lie in a file of their own beside it.
        self._session = inference_session(model, 1, "Export or download it again.")
        self._errors = session_errors()
        inputs = {entry.name: entry.type for entry in self._session.get_inputs()}
        if "input_ids" not in inputs or set(inputs) - set(INPUTS) or set(inputs.values()) - {"tensor(int64)", "tensor(int32)"}:
            raise ModelFileError(f"{model} is no cross-encoder: it reads {_listed(inputs)}, expected {', '.join(INPUTS)}", HINT)
        self._types = {name: np.int32 if kind == "tensor(int32)" else np.int64 for name, kind in inputs.items()}
        outputs = [entry.name for entry in self._session.get_outputs()]
        if "logits" not in outputs and len(outputs) != 1:
            raise ModelFileError(f"{model} is no cross-encoder: it gives {_listed(outputs)}, expected logits", HINT)
        self._output = "logits" if "logits" in outputs else outputs[0]
        self._tokenizer = _opened(vocabulary)
        self.max_tokens = _window(vocabulary, self._tokenizer)
        padding = self._tokenizer.padding or {}
        known = (self._tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
        self._pad = padding.get("pad_id", next((at for at in known if at is not None), 0))
        self._tokenizer.no_padding()
        special = self._tokenizer.num_special_tokens_to_add(True)
        # A passage has at least a quarter of the window, however long the question is.
        self._longest_question = (self.max_tokens - special) * 3 // 4
        if self._longest_question < 1:
            raise ModelFileError(f"{vocabulary}: a window of {self.max_tokens} tokens has no room for a pair", "Fix model_max_length beside it.")
        # What cuts the second of two texts cannot read one alone.
        self._alone = _opened(vocabulary)
        self._alone.no_truncation()
        self._alone.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens, strategy="only_second")
        self.scores("question", ["passage", "a longer passage, so that one of the two is padded"])

    def close(self) -> None:
        """Nothing to do: the session goes with the object."""

    @classmethod
    def load(cls, path: str | Path) -> OnnxReranker:
        """Open the cross-encoder at ``path``. Raises :class:`ModelNotFoundError` or :class:`ModelFileError`."""
        return cls(*find(path))

    def scores(self, question: str, passages: Sequence[str]) -> list[Score]:
        """One for each passage: of one output that, of two the second less the first. Raises :class:`ModelFileError` when the model fails.

        What is longer than ``max_tokens`` loses the end of the passage; a question longer than three quarters of them its own end too.
        """
        if not passages:
            return []
        asked = self._alone.encode(question, add_special_tokens=False)
        shortened = len(asked.ids) > self._longest_question
        if shortened:
            question = question[: asked.offsets[self._longest_question - 1][1]]
        pairs = self._tokenizer.encode_batch([(question, passage) for passage in passages])
        found: list[float] = [0.0] * len(pairs)

        def work(chosen: list[int]) -> None:
            for at, value in zip(chosen, self._forward([pairs[i] for i in chosen]), strict=True):
                found[at] = float(value)

        batches = passes([len(pair.ids) for pair in pairs], MOST_TOKENS)
        if len(batches) > 1 and available_cores() > 1:
            spread(work, batches)
        else:
            for batch in batches:
                work(batch)
        return [Score(value, shortened or bool(pair.overflowing)) for value, pair in zip(found, pairs, strict=True)]

    def _forward(self, pairs: Sequence[Any]) -> NDArray[np.float32]:
        columns = {name: self._np.zeros((len(pairs), max(len(pair.ids) for pair in pairs)), kind) for name, kind in self._types.items()}
        columns["input_ids"][:] = self._pad
        for name, attribute in zip(INPUTS, ("ids", "attention_mask", "type_ids"), strict=True):
            for row, pair in enumerate(pairs):
                if name in columns:
                    columns[name][row, : len(pair.ids)] = getattr(pair, attribute)
        try:
            (given,) = self._session.run([self._output], columns)
        except self._errors as error:
            raise ModelFileError(f"{self.path} cannot read pairs of texts: {error}", HINT) from None
        rows: NDArray[np.float32] = self._np.asarray(given, self._np.float32)
        if rows.ndim == 1:
            rows = rows[:, None]
        if rows.ndim != 2 or len(rows) != len(pairs) or rows.shape[1] not in (1, 2):
            raise ModelFileError(f"{self.path} is no cross-encoder: of {len(pairs)} pairs it makes numbers of shape {self._np.shape(given)}", HINT)
        scores: NDArray[np.float32] = rows[:, 1] - rows[:, 0] if rows.shape[1] == 2 else rows[:, 0]
        if not self._np.isfinite(scores).all():
            raise ModelFileError(f"{self.path} gives scores that are no numbers", "Use its float32 export.")
        return scores


def find(path: str | Path) -> tuple[Path, Path]:
    """The model and the tokenizer that ``path`` means. Raises :class:`ModelNotFoundError`, or :class:`ModelFileError` for another kind of file."""
    given = expanded(path)
    if given.is_file() and given.suffix != ".onnx":
        raise ModelFileError(f"reranker {given} is no .onnx file and no .gguf file", HINT)
    models = [given] if given.suffix == ".onnx" else [given / "model.onnx", given / "onnx" / "model.onnx"]
    model = next((model for model in models if model.is_file()), None)
    if model is None:
        others = sorted(map(str, [*given.glob("*.onnx"), *given.glob("onnx/*.onnx"), *given.glob("*.gguf")])) if given.is_dir() else []
        said = f"no reranker at {given}: " + ("no model.onnx in it" if given.is_dir() else "no such file or folder")
        raise ModelNotFoundError(said, f"Name one of these in the setting `reranker`: {', '.join(others)}." if others else HINT)
    folders = (model.parent, model.parent.parent)
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            return model, folder / "tokenizer.json"
    raise ModelNotFoundError(
        f"reranker {model} has no tokenizer.json (looked in {folders[0]} and {folders[1]})",
        "Put the model's tokenizer.json beside it; `optimum-cli export onnx` writes it, and `save_pretrained` of its fast tokenizer.",
    )


def _listed(names: Sequence[str] | dict[str, str]) -> str:
    return ", ".join(f"{name} {names[name]}" if isinstance(names, dict) else name for name in names) or "nothing"


def _opened(vocabulary: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(vocabulary))
    except Exception as error:  # tokenizers raises plain Exception.
        raise ModelFileError(f"{vocabulary} is damaged: {error}", "Export or download it again.") from None


def _window(vocabulary: Path, tokenizer: Any) -> int:
    """The longest pair in tokens: the least that the files beside the tokenizer and it name."""
    told, config = (_settings(vocabulary.with_name(name)) for name in ("tokenizer_config.json", "config.json"))
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and "roberta" in str(config.get("model_type")):
        # These count positions from behind the padding token.
        positions -= int(config.get("pad_token_id") or 1) + 1
    named = [told.get("model_max_length"), positions, (tokenizer.truncation or {}).get("max_length")]
    return min((int(most) for most in named if isinstance(most, int | float) and 0 < most < NO_WINDOW), default=WINDOW)


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFileError(f"{path} is damaged: {error}", "Export or download it again.") from None
    return found if isinstance(found, dict) else {}
