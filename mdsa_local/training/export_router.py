"""Turn a Hugging Face encoder or a fine-tuned sequence classifier into a routing model: ``mdsa router export``.

With optimum to ONNX, INT8 by onnxruntime, and held against torch on the way: the same texts through transformers and through the product's
own tokenizer and session, before and after quantisation.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from optimum.exporters.onnx import main_export
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling
from tokenizers import Tokenizer, normalizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mdsa_local.domains.registry import DomainRegistry
from mdsa_local.errors import ConfigError, InputError, ModelFileError, ModelNotFoundError
from mdsa_local.routing.calibration import fit_temperature
from mdsa_local.routing.classifier import Classifier, spelled
from mdsa_local.routing.encoder import Encoder, find
from mdsa_local.settings import Settings, expanded, read_yaml, shipped, storage_error
from mdsa_local.training.attention import fuse
from mdsa_local.training.calibrate import calibrate, written
from mdsa_local.training.card import exported_files
from mdsa_local.training.folded import fold
from mdsa_local.training.onnx_files import keep_only, quantise, write_optimised
from mdsa_local.training.unmasked import unmask

Quantize = Literal["int8", "none"]
Kind = Literal["encoder", "classifier"]
Pairs = Sequence[tuple[str, str | None]]
# Longer inputs cost time on every long message and routing gains nothing by them.
LONGEST = 512
# What the ONNX model may differ from torch: float32 only by rounding, INT8 by what still routes alike.
LEAST_COSINE, LEAST_COSINE_INT8 = 0.9999, 0.95
MOST_LOGIT_DIFFERENCE, LEAST_SAME_INT8 = 1e-2, 0.9
# Texts that ONNX and torch are compared on, and fewest labelled ones that a temperature is fitted to.
COMPARED, LEAST_LABELLED = 120, 20
TEMPERATURES = np.geomspace(0.25, 8.0, 60)
FROM_HUB = ("*.json", "*.txt", "*.model", "*.safetensors")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written where, and the figures of its ``model.yaml``."""

    folder: Path
    card: dict[str, Any]


def export(
    model: str,
    out: Path,
    *,
    quantize: Quantize = "int8",
    encoder: str = "tinybert",
    labels: Sequence[str] = (),
    calibration: Pairs = (),
    settings: Settings | None = None,
) -> Exported:
    """Write the routing model made of ``model``, a folder or a name on the hub, to the folder ``out``.

    ``encoder``, for a classifier: which encoder makes vectors beside it. ``labels``: its classes, where its configuration does not name them.
    ``calibration``: labelled questions that it has not seen, for its temperature and to compare with torch. Raises :class:`InputError`,
    :class:`ConfigError`, :class:`ModelNotFoundError`, :class:`StorageError`, and :class:`ModelFileError` when ONNX and torch disagree.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise InputError(f"{out} is there already", "Remove it, or choose another folder.")
    with tempfile.TemporaryDirectory() as temporary, _quiet():
        source = _located(model)
        if _kind(source) == "classifier":
            # Its encoder is looked for before the work, not when the first question comes.
            find(encoder, settings or Settings.load())
        work = Path(temporary)
        kind = _kind(source)
        make = _encoder if kind == "encoder" else _classifier
        card = {"name": out.name, "kind": kind, "made": {"from": model, "with": "mdsa router export", "quantize": quantize}}
        try:
            card |= make(source, work, quantize, labels, [text for text, _ in calibration])
        except (ValueError, KeyError, OSError, ImportError) as error:
            hint = "Give a BERT-like encoder or sequence classifier, complete with tokenizer."
            raise ModelFileError(f"{model} cannot be exported: {error}", hint) from None
        ready = work / "ready"
        if kind == "encoder":
            card["calibration"] = _calibration(Encoder(ready))
        else:
            card["encoder"] = encoder
            card |= _temperature(Classifier(ready), calibration)
        card["files"] = exported_files(ready)
        _write_card(ready, card)
        try:
            shutil.copytree(ready, out, dirs_exist_ok=True)
        except OSError as error:
            raise storage_error(error, out) from None
    return Exported(out, card)


def _located(model: str) -> Path:
    """The folder of ``model``; fetched from the hub when it is no folder but a name there, and Hugging Face is not told to be offline."""
    folder = expanded(model, InputError)
    if folder.is_dir():
        return folder
    parts = model.split("/")
    # What stands in a folder that is here was meant to be one, not a name on the hub.
    if len(parts) > 2 or not all(parts) or model.startswith((".", "~")) or (len(parts) == 2 and folder.parent.is_dir()):
        raise ModelNotFoundError(f"no folder {model}", "Give the folder of the model, or its name on the hub, like owner/name.")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise ModelNotFoundError(f"no folder {model}, and nothing is fetched from the hub: HF_HUB_OFFLINE is set", "Give a folder, or unset it.")
    try:
        found = Path(snapshot_download(model, allow_patterns=list(FROM_HUB), ignore_patterns=["onnx/*", "openvino/*"]))
        if not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(model, allow_patterns=[*FROM_HUB, "pytorch_model.bin"], ignore_patterns=["onnx/*", "openvino/*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "Check the name and the connection, or give a folder."
        raise ModelNotFoundError(f"{model} could not be fetched from the hub: {first}", hint) from None
    return found


def _kind(source: Path) -> Kind:
    """What the folder holds, by its files."""
    if (source / "modules.json").is_file():
        return "encoder"
    if not (source / "config.json").is_file():
        raise ModelNotFoundError(f"{source} holds no model: no modules.json and no config.json in it", "Give a folder that save_pretrained wrote.")
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFileError(f"{source / 'config.json'} is damaged: {error}", "Save the model again.") from None
    named = config.get("architectures") or [""]
    return "classifier" if str(named[0]).endswith("ForSequenceClassification") else "encoder"


def _encoder(source: Path, work: Path, quantize: Quantize, labels: Sequence[str], asked: Sequence[str]) -> dict[str, Any]:
    """Put the files of the model into ``work/ready``; what to write of them into ``model.yaml``."""
    if labels:
        raise InputError(f"{source} is an encoder: it has no labels", "Leave out --labels.")
    # A folder without modules.json gets mean pooling. Unit length is what everything here expects.
    model = SentenceTransformer(str(source), device="cpu", local_files_only=True)
    if model.default_prompt_name:
        raise ConfigError(f"{source} puts the prompt {model.default_prompt_name!r} before every text", "Export a model that works without a prompt.")
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    model.eval()
    width = int(model.get_sentence_embedding_dimension() or 0)
    model.save(str(work / "torch"), create_model_card=False)
    main_export(str(work / "torch"), output=work / "onnx", task="feature-extraction", library_name="sentence_transformers", local_files_only=True)
    keep_only(work / "onnx/model.onnx", "sentence_embedding")
    tokens = _tokens(model.tokenizer, model.max_seq_length, model[0].auto_model.config)
    _tokenizer(model.tokenizer, work, lower=bool(getattr(model[0], "do_lower_case", False)))
    about = {"width": width, **tokens, "architecture": _architecture(model[0].auto_model.config)}
    about["modules"] = [type(module).__name__ for module in model]
    about["pooling"] = next((str(module.pooling_mode) for module in model if isinstance(module, Pooling)), "none")
    texts = _texts(asked, model.tokenizer, tokens["max_tokens"])
    wanted: NDArray[np.float32] = model.encode(texts, convert_to_numpy=True, show_progress_bar=False)

    def agreement() -> dict[str, float]:
        cosines = np.sum(Encoder(work / "ready").encode(texts) * wanted, axis=1)
        return {"least_cosine": float(cosines.min()), "mean_cosine": float(cosines.mean())}

    figures = {}
    for name in _stages(work, quantize, {**about, "kind": "encoder"}):
        figures[name] = agreement()
        least, floor = figures[name]["least_cosine"], LEAST_COSINE if name == "float32" else LEAST_COSINE_INT8
        if least < floor:
            raise _disagreement(name, f"cosine {least:.4f}, at least {floor} is wanted")
    return {**about, "agreement": _rounded(figures)}


def _classifier(source: Path, work: Path, quantize: Quantize, labels: Sequence[str], asked: Sequence[str]) -> dict[str, Any]:
    """As :func:`_encoder`, for a fine-tuned ``AutoModelForSequenceClassification``."""
    model = AutoModelForSequenceClassification.from_pretrained(source, local_files_only=True).eval()
    config = model.config
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, use_fast=True)
    named = list(labels) or [str(config.id2label[i]) for i in range(config.num_labels)]
    if config.num_labels < 2 or config.problem_type in ("regression", "multi_label_classification"):
        raise ConfigError(f"{source} does not choose one class of several", "Give a classifier trained with one label a text.")
    if len(named) != config.num_labels:
        raise InputError(f"{len(named)} labels given, the model has {config.num_labels}", "Name all of them, in the model's order.")
    if not labels and all(label == f"LABEL_{i}" for i, label in enumerate(named)):
        raise ConfigError(f"{source} does not name its classes", "Name them in the model's order: --labels finance,support,…")
    if len({spelled(label) for label in named}) < len(named):
        raise ConfigError(f"two labels of {source} are one domain's name: {', '.join(named)}", "Give each class a name of its own.")
    model.save_pretrained(work / "torch")
    tokenizer.save_pretrained(work / "torch")
    main_export(str(work / "torch"), output=work / "onnx", task="text-classification", library_name="transformers", local_files_only=True)
    about: dict[str, Any] = {"labels": named, **_tokens(tokenizer, None, config), "architecture": _architecture(config)}
    _tokenizer(tokenizer, work, lower=False)
    texts = _texts(asked, tokenizer, about["max_tokens"])
    with torch.inference_mode():
        inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=about["max_tokens"])
        wanted = model(**inputs).logits.numpy()

    def agreement() -> dict[str, float]:
        found = Classifier(work / "ready").logits(texts)
        same = (found.argmax(axis=1) == wanted.argmax(axis=1)).mean()
        return {"most_logit_difference": float(np.abs(found - wanted).max()), "same_label": float(same)}

    figures = {}
    for name in _stages(work, quantize, {**about, "kind": "classifier"}):
        figures[name] = agreement()
        differs, same = figures[name].values()
        if name == "float32" and differs > MOST_LOGIT_DIFFERENCE:
            raise _disagreement(name, f"logits differ by {differs:.4f}, at most {MOST_LOGIT_DIFFERENCE} is wanted")
        if same < LEAST_SAME_INT8:
            raise _disagreement(name, f"the same label for {same:.0%} of the texts, at least {LEAST_SAME_INT8:.0%} is wanted")
    return {**about, "agreement": _rounded(figures)}


def _stages(work: Path, quantize: Quantize, card: dict[str, Any]) -> Iterator[str]:
    """Lay the float32 model into ``work/ready``, then, if wanted, the INT8 one; the name of each while it lies there."""
    ready = work / "ready"
    ready.mkdir()
    _write_card(ready, card)
    shutil.copyfile(work / "tokenizer.json", ready / "tokenizer.json")
    fuse(work / "onnx/model.onnx")
    unmask(work / "onnx/model.onnx")
    write_optimised(work / "onnx/model.onnx", ready / "model.onnx")
    fold(ready / "model.onnx")
    yield "float32"
    if quantize == "int8":
        quantise(work / "onnx/model.onnx", work / "int8.onnx")
        write_optimised(work / "int8.onnx", ready / "model.onnx")
        fold(ready / "model.onnx")
        yield "int8"


def _tokens(tokenizer: Any, stated: int | None, config: Any) -> dict[str, int]:
    """The longest input, marks included."""
    limits = [LONGEST, int(tokenizer.model_max_length)]
    if positions := getattr(config, "max_position_embeddings", None):
        # RoBERTa and its kin count positions from the padding id on.
        offset = int(config.pad_token_id or 0) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
        limits.append(int(positions) - offset)
    return {"max_tokens": min([*limits, *([int(stated)] if stated else [])])}


def _tokenizer(tokenizer: Any, work: Path, *, lower: bool) -> None:
    """Write ``tokenizer.json``, which does by itself whatever stands before the model."""
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError("the model's tokenizer has no fast version (tokenizer.json)", "Convert it with the library transformers first.")
    fast: Tokenizer = tokenizer.backend_tokenizer
    if lower:
        fast.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([fast.normalizer] if fast.normalizer else [])])
    fast.no_truncation()
    fast.no_padding()
    fast.save(str(work / "tokenizer.json"))


def _architecture(config: Any) -> dict[str, Any]:
    known = {"layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads", "vocabulary": "vocab_size"}
    return {"type": config.model_type, **{key: getattr(config, name) for key, name in known.items() if hasattr(config, name)}}


def _texts(asked: Sequence[str], tokenizer: Any, max_tokens: int) -> list[str]:
    """Questions out of ``asked``, or of the shipped domains, drawn with a fixed seed, with a very short and a long one; none that torch would cut."""
    examples = list(asked) or [text for domain in DomainRegistry.from_folders([shipped("domains")]) for text in domain.examples]
    drawn = random.Random(0).sample(examples, min(COMPARED, len(examples)))
    return [text for text in [*drawn, "Hi", " ".join(drawn[:6])] if len(tokenizer(text)["input_ids"]) <= max_tokens]


def _calibration(encoder: Encoder) -> dict[str, float]:
    """From the shipped domains' examples alone."""
    return written(calibrate(encoder, list(DomainRegistry.from_folders([shipped("domains")])), None, random.Random(0)))


def _temperature(classifier: Classifier, given: Pairs) -> dict[str, Any]:
    """The temperature that makes the classifier's probabilities true to ``given``, or else to the shipped domains' examples of its labels."""
    source = "the file given"
    if not given:
        given = [(text, domain.name) for domain in DomainRegistry.from_folders([shipped("domains")]) for text in domain.examples]
        source = "the shipped domains' examples"
    pairs = [(text, at) for text, name in given if name is not None and (at := classifier.place(name)) is not None]
    if len(pairs) < LEAST_LABELLED:
        return {"temperature": 1.0, "calibrated_on": "nothing: too few labelled questions"}
    logits = classifier.logits([text for text, _ in pairs])
    found = fit_temperature(logits, np.array([at for _, at in pairs]), TEMPERATURES)
    right = float((logits.argmax(axis=1) == [at for _, at in pairs]).mean())
    return {"temperature": round(found, 4), "calibrated_on": f"{len(pairs)} questions: {source}, {right:.1%} right"}


def _disagreement(name: str, how: str) -> ModelFileError:
    hint = "Export it with --quantize none." if name == "int8" else "This architecture cannot be exported faithfully."
    return ModelFileError(f"the {name} model disagrees with torch: {how}", hint)


def _rounded(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {key: round(value, 6) for key, value in row.items()} for name, row in figures.items()}


def _write_card(folder: Path, card: dict[str, Any]) -> None:
    (folder / "model.yaml").write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=150), encoding="utf-8")
    read_yaml(folder / "model.yaml")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the libraries print off stdout, which belongs to the command's own output, and their remarks on tracing off stderr."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    loud = {name: logging.getLogger(name).level for name in ("optimum", "transformers", "sentence_transformers", "torch.onnx", "root")}
    for name in loud:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in loud.items():
            logging.getLogger(name).setLevel(level)
