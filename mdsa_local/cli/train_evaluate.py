"""``mdsa train evaluate``: what each variant of a model costs and how good its answers are, measured by the product itself."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from mdsa_local.cli.bench_generate import CONTEXT, Bare
from mdsa_local.cli.output import progress
from mdsa_local.durable import write_whole
from mdsa_local.errors import InputError
from mdsa_local.evaluation import answers, overlap, variants
from mdsa_local.evaluation.questions import Case
from mdsa_local.knowledge import sync
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.encoder import Encoder
from mdsa_local.runtime import footprint
from mdsa_local.runtime.gguf import read_gguf
from mdsa_local.runtime.llamacpp import LlamaCppBackend, threads_for

PLAIN = ("F32", "F16", "BF16")
PARTS = ("cost", "answers", "overlap")
PROMPT_TOKENS = 64
WORST = 3
# Times of models asked one after the other are those of whatever else the machine did then; `costs` measures speed in turns.
LEFT_OUT = ("model", "by_domain", "tokens_per_s", "decode_tokens_per_s", "first_token_p50_ms", "first_token_p95_ms", "latency_p50_ms")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model file under evaluation: how it is called, the reference that loads it, its path and SHA-256."""

    name: str
    reference: str
    path: Path
    sha256: str


def subjects(references: Sequence[str], orchestrator: TinyBERTOrchestrator) -> list[Subject]:
    """The files of ``references``. Raises :class:`InputError` for one that is no GGUF of this machine."""
    found = []
    for reference in dict.fromkeys(references):
        path = orchestrator.manager.resolve(reference)
        if not isinstance(path, Path):
            raise InputError(
                f"{reference}: not a GGUF file", "Size, memory and speed are those of a file: give a path or a name of `mdsa models list`."
            )
        info = read_gguf(path)
        name = {"Q8_0": "int8", "Q4_0": "int4"}.get(info.quantization, info.quantization.lower())
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(Subject(name, reference, path, digest))
    if len({subject.name for subject in found}) < len(found):
        # Two models of one kind: their files tell them apart.
        found = [replace(subject, name=subject.path.stem) for subject in found]
    if len({subject.name for subject in found}) < len(found):
        found = [replace(subject, name=f"{subject.name}-{subject.sha256[:8]}") for subject in found]
    # One file under two references is one.
    return list({subject.name: subject for subject in found}.values())


def costs(files: Sequence[Subject], runs: int, threads: int) -> dict[str, dict[str, Any]]:
    """Memory, and tokens a second of llama.cpp behind a short prompt: medians of ``runs`` turns, taken in turns so that whatever else the
    machine does meets all alike."""
    out: dict[str, dict[str, Any]] = {file.name: {"memory": asdict(footprint.measure(file.path))} for file in files}
    backends = [LlamaCppBackend(file.path, file.name, CONTEXT, threads, parallel=1, gpu_layers=0) for file in files]
    bare = [Bare(backend.weights, threads) for backend in backends]
    try:
        rates = [[each.rate(1, PROMPT_TOKENS) for each in bare] for _ in range(runs + 1)][1:]
    finally:
        for each in bare:
            each.close()
        for backend in backends:
            backend.close()
    for at, file in enumerate(files):
        out[file.name]["decode_tokens_per_s"] = round(statistics.median(row[at] for row in rates), 1)
    for at, file in enumerate(files[1:], 1):
        # Of each turn by itself: a slow moment slows both.
        ratio = statistics.median(row[at] / row[0] for row in rates)
        out[file.name][f"decode_over_{files[0].name}"] = round(ratio, 3)
    return out


class Answers:
    """Answers and judgements of each model, kept in ``work`` until the evaluation is complete: after an interruption they are not made again."""

    def __init__(self, work: Path, cases: Sequence[Case], domain_given: bool, orchestrator: TinyBERTOrchestrator) -> None:
        self._work, self._cases, self._domain_given = work, cases, domain_given
        settings = orchestrator.settings
        # Whatever answers depend on beside the model.
        state = sync.state(settings, orchestrator.encoder.fingerprint)
        judge = (settings.judge_place / "model.yaml").read_bytes() if settings.judge_place else b""
        self._key = _digest(cases, domain_given, settings, state, judge)

    def of(self, name: str, reference: str | None, sha256: str, orchestrator: TinyBERTOrchestrator) -> dict[str, Any]:
        """``{report, right, texts}`` of a model; of none with ``reference`` None."""
        path, key = self._work / f"unfinished-{name}.json", f"{self._key} {sha256}"
        if path.is_file():
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if kept.get("key") == key:
                return kept
        how: dict[str, Any] = {"domain_given": self._domain_given, "progress": lambda _: progress(name, "questions")}
        if reference is None:
            run = answers.without_model(orchestrator, self._cases, **how)
        else:
            (run,) = answers.with_models(orchestrator, self._cases, [reference], **how)
        report = {key: value for key, value in run.report().items() if key not in LEFT_OUT}
        made = {
            "key": key,
            "report": report,
            "right": [judged.right for judged in run.judged if judged.case.answerable],
            "texts": [judged.response.text for judged in run.judged],
        }
        write_whole(path, json.dumps(made))
        return made

    def forget(self) -> None:
        """Remove what was kept."""
        for path in self._work.glob("unfinished-*.json"):
            path.unlink()


def evaluate(
    references: Sequence[str],
    cases: Sequence[Case],
    parts: Sequence[str],
    work: Path,
    out: Path,
    orchestrator: TinyBERTOrchestrator,
    *,
    runs: int = 5,
    domain_given: bool = False,
    templates: Path | None = None,
) -> dict[str, Any]:
    """Measure ``parts`` (of :data:`PARTS`) of the models and write ``out/report.json``; parts that an earlier call measured of the same files stay.

    Raises :class:`InputError`, :class:`StorageError` and the errors of a model that cannot be used.
    """
    files = subjects(references, orchestrator)
    path = out / "report.json"
    before = _before(path)
    report: dict[str, Any] = {key: before[key] for key in ("machine", "questions", "without_model", "differences", "overlap") if key in before}
    names = {file.name for file in files}
    report["differences"] = [apart for apart in report.get("differences", ()) if set(apart["between"]) <= names]
    known = {model["sha256"]: model for model in before.get("models", ())}
    models = []
    for file in files:
        info = read_gguf(file.path)
        own = {"name": file.name, "file": file.path.name, "sha256": file.sha256, "size_bytes": info.size_bytes, "quantization": info.quantization}
        models.append({**known.get(file.sha256, {}), **own})
    threads = threads_for(orchestrator.settings.threads)
    if "cost" in parts:
        report["machine"] = {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": threads,
            "memory_mb": psutil.virtual_memory().total >> 20,
        }
        found = costs(files, runs, threads)
        for model in models:
            model.update(found[model["name"]])
    kept = Answers(work, cases, domain_given, orchestrator)
    if "answers" in parts and report.get("questions", {}).get("digest", _digest(cases)) != _digest(cases):
        # Of other questions.
        report.pop("overlap", None)
    if "answers" in parts:
        _answers(report, models, files, kept, cases, domain_given, orchestrator)
    if "overlap" in parts:
        # Vectors of the training questions are the encoder's: nothing of the model under test takes part.
        known_texts = overlap.trained_on(orchestrator.registry, templates)
        encoder = Encoder.load(settings=orchestrator.settings)
        report["overlap"] = {
            name: {"compared_with": len(texts), **_shortened(overlap.report(overlap.twins(cases, texts, encoder)))}
            for name, texts in known_texts.items()
        }
    report["models"] = models
    _choose(report)
    write_whole(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    kept.forget()
    return report


def _digest(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _shortened(found: dict[str, Any]) -> dict[str, Any]:
    """With the worst few; `mdsa eval answers --overlap` lists more."""
    return {**found, "worst": found["worst"][:WORST]}


def _before(path: Path) -> dict[str, Any]:
    """The report of an earlier call."""
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(loaded, dict) and all(isinstance(model, dict) and "sha256" in model for model in loaded.get("models", ())):
            return loaded
    except ValueError:
        pass
    raise InputError(f"{path}: not a report of an evaluation", "Move it away, or give another folder with --out.")


def _answers(
    report: dict[str, Any],
    models: list[dict[str, Any]],
    files: Sequence[Subject],
    kept: Answers,
    cases: Sequence[Case],
    domain_given: bool,
    orchestrator: TinyBERTOrchestrator,
) -> None:
    """Put the judged answers into ``report`` and ``models``."""
    answerable = sum(case.answerable for case in cases)
    report["questions"] = {
        "n": len(cases),
        "answerable": answerable,
        "unanswerable": len(cases) - answerable,
        "domain_given": domain_given,
        "digest": _digest(cases),
    }
    made = {file.name: kept.of(file.name, file.reference, file.sha256, orchestrator) for file in files}
    report["without_model"] = kept.of("no model", None, "", orchestrator)["report"]
    for model in models:
        model["answers"] = made[model["name"]]["report"]
        model["right"] = "".join("1" if right else "0" for right in made[model["name"]]["right"])
    report["differences"] = variants.differences([_variant(model, made[model["name"]]["texts"]) for model in models])


def _variant(model: dict[str, Any], texts: Sequence[str] = ()) -> variants.Variant:
    right = tuple(mark == "1" for mark in model["right"])
    return variants.Variant(model["name"], model["size_bytes"], model.get("decode_tokens_per_s", 0.0), right, tuple(texts))


def _choose(report: dict[str, Any]) -> None:
    """The default, once cost and answers of all are known."""
    # What is not quantised shows what quantising costs; it is not there to be chosen.
    models = [model for model in report["models"] if model["quantization"] not in PLAIN] or report["models"]
    if all("answers" in model and "decode_tokens_per_s" in model for model in models) and len({len(model["right"]) for model in models}) == 1:
        report["default"], report["why"] = variants.choose([_variant(model) for model in models])
