"""What ails an installation, and how to mend it: one check a part, each a finding with its fix."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mdsa_local.domains.config import DomainConfig
from mdsa_local.domains.registry import owners
from mdsa_local.errors import BackendError, BackendTimeoutError, BackendUnavailableError, ConfigError, MDSAError, of_system
from mdsa_local.runtime.hardware import HardwareDetector, memory_budget_bytes
from mdsa_local.runtime.residency import describe_bytes
from mdsa_local.settings import Settings, shipped

Level = Literal["ok", "note", "problem"]
LOW_DISK_BYTES = 2_000_000_000
LOW_MEMORY_BYTES = 1_000_000_000
OLLAMA_TIMEOUT_S = 3.0
TEMPLATE_KEY = "tokenizer.chat_template"
# Names in llama.cpp's system info for the features of a processor that its build can use.
LLAMA_NAMES = {
    "avx": "AVX",
    "avx2": "AVX2",
    "f16c": "F16C",
    "fma": "FMA",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "asimd": "NEON",
    "asimddp": "DOTPROD",
}
REBUILD = "Build it for this machine: pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python{args}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. ``problem``: something will not work; ``note``: something could be better; each with a ``fix``."""

    check: str
    level: Level
    message: str
    fix: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def examine(settings: Settings, detector: HardwareDetector | None = None) -> Iterator[Finding]:
    """Run every check, one after the other, and give what they find as they find it. Only the check of Ollama opens a socket."""
    detector = detector or HardwareDetector()
    yield Finding("python", "ok", f"Python {sys.version.split()[0]} on {detector.get_summary()['platform']}")
    yield from processor(detector)
    yield from memory(detector, settings)
    yield from disk(settings)
    yield from guarded("llama.cpp", lambda: llama(detector))
    yield from guarded("encoder", lambda: encoder(settings))
    yield from guarded("reranker", lambda: reranker(settings))
    yield from guarded("judge", lambda: judge(settings))
    yield from guarded("models", lambda: models(settings, detector))
    yield from guarded("ollama", lambda: ollama(settings))
    yield from guarded("knowledge", lambda: knowledge(settings))


def guarded(check: str, work: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Turn an error of ours, or of the system, into a finding, so that the other checks still run."""
    try:
        yield from work()
    except (MDSAError, OSError) as error:
        told = of_system(error) if isinstance(error, OSError) else error
        yield Finding(check, "problem", str(told), told.hint)


def processor(detector: HardwareDetector) -> Iterator[Finding]:
    """Cores and features. LanceDB's wheels need AVX on x86 (lance#2195)."""
    features = detector.cpu_features
    text = f"{detector.cpu_name}, {detector.cpu_count} of {detector.physical_cores} cores usable; {' '.join(features) or 'features unknown'}"
    facts = {"cpu_count": detector.cpu_count(), "cpu_features": list(features)}
    if features and "asimd" not in features and "avx2" not in features:
        level: Level = "note" if "avx" in features else "problem"
        fix = "Use a machine with AVX2: LanceDB does not run without AVX, and llama.cpp is several times slower without AVX2."
        yield Finding("processor", level, f"{text}: no AVX2", fix, facts)
    else:
        yield Finding("processor", "ok", text, facts=facts)
    for gpu in detector.gpus:
        yield Finding("gpu", "ok", f"{gpu.name}, {describe_bytes(gpu.memory_bytes)} ({gpu.kind})", facts={"kind": gpu.kind})
    if not detector.gpus:
        yield Finding("gpu", "ok", "none; models run on the CPU")


def memory(detector: HardwareDetector, settings: Settings) -> Iterator[Finding]:
    """Installed, free, and the models' budget."""
    budget, free = memory_budget_bytes(settings.memory_budget_mb), int(detector.available_memory_gb() * 1e9)
    text = f"{detector.memory_gb} GB installed, {describe_bytes(free)} free, {describe_bytes(budget)} for models"
    facts = {"memory_gb": detector.memory_gb(), "available_bytes": free, "memory_budget_bytes": budget}
    if budget > detector.memory_bytes:
        yield Finding("memory", "problem", f"{text}: the budget is more than there is", "Lower memory_budget_mb in config.yaml.", facts)
    elif free < LOW_MEMORY_BYTES:
        yield Finding("memory", "note", f"{text}: little is free", "Close other programs before loading a larger model.", facts)
    else:
        yield Finding("memory", "ok", text, facts=facts)


def disk(settings: Settings) -> Iterator[Finding]:
    """Room, and whether the user's folder can be written."""
    home = settings.home
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    facts = {"home": str(home), "free_bytes": free}
    try:
        if not there.is_dir():
            raise NotADirectoryError(20, "Not a directory")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield Finding(
            "disk", "problem", f"{home} cannot be written: {error.strerror}", "Fix its permissions, or set MDSA_HOME to another folder.", facts
        )
        return
    if free < LOW_DISK_BYTES:
        yield Finding("disk", "note", f"{home}: only {describe_bytes(free)} free", "Free some space before pulling a model.", facts)
    else:
        yield Finding("disk", "ok", f"{home}: {describe_bytes(free)} free", facts=facts)


def llama(detector: HardwareDetector) -> Iterator[Finding]:
    """llama.cpp's build: what it has code for, beside what the machine has."""
    from mdsa_local.runtime.library import library
    from mdsa_local.runtime.native import rearranges

    lib = library()
    info = lib.llama_print_system_info().decode("utf-8", "replace")
    flags = sorted({part.strip().partition(" = ")[0].rpartition(": ")[2].strip() for part in info.split("|") if part.strip().endswith("= 1")})
    offload = bool(lib.llama_supports_gpu_offload())
    facts = {"version": lib.__version__, "flags": flags, "gpu_offload": offload}
    text = f"llama-cpp-python {lib.__version__}: {' '.join(flags) or 'no flags'}{', GPU' if offload else ''}"
    text += "" if rearranges(lib) else " (weights are not rearranged: the code for AMX may crash)"
    unused = [feature for feature in detector.cpu_features if feature in LLAMA_NAMES and LLAMA_NAMES[feature] not in flags]
    if detector.gpus and not offload:
        arguments = {"cuda": "-DGGML_CUDA=on", "rocm": "-DGGML_HIP=on", "mps": "-DGGML_METAL=on"}[detector.gpus[0].kind]
        yield Finding("llama.cpp", "note", f"{text}: built without the GPU", REBUILD.format(args=f' -C cmake.args="{arguments}"'), facts)
    elif unused:
        yield Finding("llama.cpp", "note", f"{text}: the build does not use {' '.join(unused)}", REBUILD.format(args=""), facts)
    else:
        yield Finding("llama.cpp", "ok", text, facts=facts)


def encoder(settings: Settings) -> Iterator[Finding]:
    """Whether the encoder loads, and how long a question takes."""
    from mdsa_local.routing.encoder import Encoder

    loaded = Encoder.load(settings=settings)
    loaded.encode(["warm up"])
    began = time.perf_counter()
    width = loaded.encode(["How much does a replacement debit card cost?"]).shape[1]
    took = (time.perf_counter() - began) * 1000
    yield Finding("encoder", "ok", f"{settings.encoder}: {width} wide, {took:.1f} ms a question", facts={"ms": round(took, 2), "width": width})


def reranker(settings: Settings) -> Iterator[Finding]:
    """Whether there is a reranker, whether it loads, and how long a passage takes."""
    if settings.reranker_place is None:
        yield Finding("reranker", "ok", "none; passages stay in the order of the search")
        return
    from mdsa_local.knowledge.rerank import load

    loaded = load(settings.reranker_place, settings.threads)
    began = time.perf_counter()
    loaded.scores("How much does a replacement debit card cost?", ["A replacement card costs $5. It arrives in 4 business days."])
    took = (time.perf_counter() - began) * 1000
    loaded.close()
    text = f"{loaded.path}: pairs of up to {loaded.max_tokens} tokens, {took:.1f} ms for a short one"
    yield Finding("reranker", "ok", text, facts={"path": str(loaded.path), "max_tokens": loaded.max_tokens, "ms": round(took, 2)})


def judge(settings: Settings) -> Iterator[Finding]:
    """Whether there is a judge of which sentences answer, whether it loads, and how long a few sentences take."""
    from mdsa_local.validation.judge import AnswerJudge

    loaded = AnswerJudge.load(settings)
    if loaded is None:
        yield Finding("judge", "ok", "none; sentences are chosen by the encoder's nearness")
        return
    few = [("How much does a replacement debit card cost?", "A replacement card costs $5. It arrives in 4 business days.")] * 10
    began = time.perf_counter()
    loaded.scores(few)
    took = (time.perf_counter() - began) * 1000
    text = f"{settings.judge}: pairs of up to {loaded.max_tokens} tokens, {took:.0f} ms for {len(few)} short ones"
    yield Finding("judge", "ok", text, facts={"path": str(loaded.folder), "max_tokens": loaded.max_tokens, "ms": round(took, 2)})


def models(settings: Settings, detector: HardwareDetector) -> Iterator[Finding]:
    """The models that the settings and the domains name, what lies unfinished, and what would serve the machine better."""
    from mdsa_local.domains.registry import DomainRegistry
    from mdsa_local.runtime.manager import ModelManager
    from mdsa_local.runtime.offers import read_catalogue
    from mdsa_local.runtime.shelf import leftovers, unfinished

    named = {settings.default_model: "default_model"}
    domains = list(DomainRegistry.from_folders(settings.domain_dirs))
    for domain in domains:
        if domain.model:
            named.setdefault(domain.model, f"domain {domain.name}")
    with ModelManager(settings) as manager:
        for ref, where in named.items():
            yield from guarded("models", lambda ref=ref, where=where: _model(ref, where, manager, settings))  # type: ignore[misc]
        for domain in domains:
            yield from _adapter(domain, manager, settings)
    for partial in unfinished(settings):
        size = partial.stat().st_size
        yield Finding(
            "models",
            "note",
            f"{partial} is an unfinished download of {describe_bytes(size)}",
            f"Pull it again to go on, or: mdsa models rm {partial.parent.name}",
        )
    for partial in leftovers(settings):
        text = f"{partial} is a leftover of quantising, {describe_bytes(partial.stat().st_size)}"
        yield Finding(
            "models", "note", text, f"Quantise again, or remove that file; where the model has no other: mdsa models rm {partial.parent.name}"
        )
    better = read_catalogue(shipped("models") / "catalog.yaml").default_for(detector.memory_gb())
    if _is_nano(settings) and better:
        hint = f"mdsa models pull {better}, then `default_model: {better}` in config.yaml."
        yield Finding("models", "note", "the shipped nano only quotes your documents", hint)


def _model(ref: str, where: str, manager: Any, settings: Settings) -> Iterator[Finding]:
    from mdsa_local.runtime import llamacpp
    from mdsa_local.runtime.backend import Message
    from mdsa_local.runtime.chat_template import render
    from mdsa_local.runtime.metadata import metadata_texts

    target = manager.resolve(ref)
    if not isinstance(target, Path):
        yield Finding("models", "ok", f"{where}: {ref}, by {target.scheme}", facts={"ref": ref})
        return
    needed = llamacpp.estimate_bytes(str(target), settings)
    template = metadata_texts(target, (TEMPLATE_KEY,)).get(TEMPLATE_KEY, "")
    if not template:
        raise llamacpp.no_template(target)
    render(template, [Message("system", "Be brief."), Message("user", "Hello")], bos="", eos="", source=str(target))
    facts = {"ref": ref, "path": str(target), "memory_bytes": needed}
    if needed > manager.memory_budget_bytes:
        text = f"{where}: {ref} needs {describe_bytes(needed)}, the budget is {describe_bytes(manager.memory_budget_bytes)}"
        yield Finding("models", "problem", text, "Choose a smaller file (mdsa models fit), lower context_tokens, or raise memory_budget_mb.", facts)
    else:
        yield Finding("models", "ok", f"{where}: {ref}, {describe_bytes(needed)} of memory", facts=facts)


def _adapter(domain: DomainConfig, manager: Any, settings: Settings) -> Iterator[Finding]:
    """Whether a domain's adapter is there, is one, and is one for its model."""
    from mdsa_local.runtime import adapters

    if not (path := domain.sampling.adapter):
        return
    try:
        base = manager.resolve(domain.model or settings.default_model)
    except MDSAError:
        # Told above.
        return
    if not isinstance(base, Path):
        return
    try:
        adapters.check(Path(path), base)
    except MDSAError as error:
        yield Finding("models", "problem", f"domain {domain.name}: {error}", error.hint, {"adapter": path})
    else:
        yield Finding("models", "ok", f"domain {domain.name}: adapter {path}", facts={"adapter": path})


def ollama(settings: Settings) -> Iterator[Finding]:
    """Whether a daemon runs, its version and its models. A problem only where a model of it is the default, or a domain's."""
    from mdsa_local.runtime.ollama import REFUSES_SINCE, numbers, survey

    needs = _of_ollama(settings)
    try:
        version, found = survey(settings, OLLAMA_TIMEOUT_S)
    except BackendUnavailableError as error:
        yield Finding("ollama", "problem" if needs else "ok", str(error) if needs else "not running; not needed", error.hint if needs else "")
        return
    except BackendTimeoutError as error:
        yield Finding("ollama", "problem" if needs else "note", str(error), "See the log of `ollama serve`, or start it again.")
        return
    except (BackendError, ConfigError) as error:
        yield Finding("ollama", "problem" if needs else "note", str(error), error.hint)
        return
    facts = {"version": version, "models": sorted(found)}
    text = f"Ollama {version} with {', '.join(sorted(found)) or 'no models'}"
    missing = {model: where for model, where in needs.items() if not {model, f"{model}:latest"} & set(found)}
    for model, where in missing.items():
        yield Finding("ollama", "problem", f"{text}: {where} ollama://{model} is not there", f"ollama pull {model}", facts)
    if () < numbers(version) < REFUSES_SINCE:
        yield Finding(
            "ollama", "note", f"{text}: it cuts long prompts in silence", f"Update it to {'.'.join(map(str, REFUSES_SINCE))} or newer.", facts
        )
    elif not missing:
        yield Finding("ollama", "ok", text, facts=facts)
    fitting = [name for name, size in found.items() if size <= memory_budget_bytes(settings.memory_budget_mb)]
    if fitting and _is_nano(settings):
        best = max(fitting, key=lambda name: found[name])
        yield Finding("ollama", "note", f"Ollama has {best}, which would serve better than nano", f"`default_model: ollama://{best}` in config.yaml")


def _of_ollama(settings: Settings) -> dict[str, str]:
    """The models of Ollama that questions would be put to, and who names each."""
    from mdsa_local.runtime.backend import parse_reference

    named = {parse_reference(settings.default_model): "default_model"}
    for name, folder in owners(settings.domain_dirs).items():
        # What is wrong with one is told by `models`.
        with suppress(MDSAError):
            named.setdefault(parse_reference(DomainConfig.read(folder).model or settings.default_model), f"domain {name}:")
    return {reference.target: where for reference, where in named.items() if reference.scheme == "ollama"}


def _is_nano(settings: Settings) -> bool:
    return settings.default_model in ("nano", "nano-int8", "nano-int4")


def knowledge(settings: Settings) -> Iterator[Finding]:
    """Each knowledge base: whether it opens with the encoder, and how much it holds."""
    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.knowledge.place import located
    from mdsa_local.routing.encoder import Encoder

    place = located(settings.knowledge_place)
    if isinstance(place, Path) and not place.is_dir():
        yield Finding("knowledge", "ok", "no knowledge base yet; the first question or `mdsa kb sync` makes them")
        return
    if isinstance(place, Path) and not os.access(place, os.W_OK):
        yield Finding("knowledge", "problem", f"{place} cannot be written", "Fix its permissions.")
    rag = DualRAG(place, Encoder.load(settings=settings), storage_options=settings.storage_options, home=settings.home)
    for domain in (None, *rag.domains()):
        documents = rag.list_documents(domain)
        chunks = sum(document.n_chunks for document in documents)
        name = domain or "global"
        yield Finding("knowledge", "ok", f"{name}: {len(documents)} documents, {chunks} passages", facts={"name": name, "documents": len(documents)})
