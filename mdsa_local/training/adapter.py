"""A domain's own adapter: pairs in, a LoRA adapter of its model out, installed only when it answers held-out questions better."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.domains.asking import Shown, asked
from mdsa_local.domains.config import DomainConfig
from mdsa_local.domains.installing import Installed, install, installable
from mdsa_local.durable import replacing, write_whole
from mdsa_local.errors import ContextOverflowError, InputError, ModelError, ModelFileError, ModelNotFoundError
from mdsa_local.jsonlines import Sample
from mdsa_local.runtime.adapters import check
from mdsa_local.runtime.gguf import identity, read_gguf, text_metadata
from mdsa_local.runtime.llamacpp import LlamaCppBackend, open_backend
from mdsa_local.runtime.shelf import add, home_folder, plain_name
from mdsa_local.settings import Settings, storage_error, user_path
from mdsa_local.training import convert, export_adapter, lora, pairs
from mdsa_local.training.measuring import Figures, Held, measure, wins
from mdsa_local.training.pairs import LEAST_PAIRS, Pair

if TYPE_CHECKING:
    from mdsa_local.orchestrator import TinyBERTOrchestrator

logger = logging.getLogger(__name__)

# Of the pairs to train on, those kept aside to choose the epoch by.
ASIDE = 0.1
# llama.cpp rounds activations of quantised weights: on 26 held-out questions nano's mean loss in INT8 differed from torch's by 0.0003.
AGREEMENT_NATS = 0.1

# From what is done and what is counted to what is told of it.
Progress = Callable[[str, str], Callable[[str, int, int], None]]
SCRATCH = "adapter-"
# Tells what a model was converted from.
MADE_OF = "converted-from.txt"
# A scratch folder that a killed training left is removed by a later one.
STALE_S = 86_400


@dataclass(frozen=True, slots=True)
class Base:
    """What is adapted: a reference for people, its GGUF file, whether it only quotes, and its Hugging Face folder where it was given as one."""

    name: str
    path: Path
    quotes: bool
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a training. ``installed`` None: the adapter did not win. ``present``: of the adapter
    the domain has already. Losses in nats a token; ``agreement``: how far llama.cpp's loss with the
    adapter is from torch's."""

    domain: str
    base: str
    options: lora.Options
    read: int
    drawn: int
    left_out: dict[str, int]
    trained_on: int
    held_out: int
    curve: tuple[lora.Epoch, ...]
    before: Figures
    after: Figures
    present: Figures | None
    agreement: float
    installed: Installed | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the ``--json`` form."""
        figures = {
            name: {"loss": round(found.loss, 4), "answer_f1": round(found.answer_f1, 4)}
            for name, found in (("base", self.before), ("with_adapter", self.after), ("with_present_adapter", self.present))
            if found
        }
        return {
            "domain": self.domain,
            "model": self.base,
            "pairs": {"read": self.read, "drawn": self.drawn, "left_out": self.left_out, "trained_on": self.trained_on, "held_out": self.held_out},
            "options": asdict(self.options),
            "curve": [asdict(epoch) for epoch in self.curve],
            **figures,
            "agreement_nats": round(self.agreement, 5),
            "installed": self.installed is not None,
            "adapter": str(self.installed.adapter) if self.installed else None,
            "copied_domain": bool(self.installed and self.installed.copied),
            "adapter_before": self.installed.before.get("adapter") if self.installed else None,
            "seconds": round(self.seconds, 1),
        }


def train_adapter(
    orchestrator: TinyBERTOrchestrator,
    domain: str,
    data: Path,
    base: str = "",
    options: lora.Options | None = None,
    *,
    llama_cpp: Path | None = None,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train, measure on held-out pairs, and install in the domain's folder if the adapter wins; see docs/adapters.md.

    ``base``: a model reference or a Hugging Face folder, empty for the model that the domain answers with, which it has to be in any case.
    ``keep``: also write the adapter there, whether it wins or not. Raises :class:`MDSAError`; the domain is then as it was.
    """
    began, options = time.monotonic(), options or lora.Options()
    chosen = orchestrator.registry.get(domain)
    installable(chosen, orchestrator.settings)
    found = pairs.read(data, options.seed)
    adapted = _base(orchestrator, chosen, base, llama_cpp)
    settings = orchestrator.settings
    with (
        tempfile.TemporaryDirectory(dir=_cache(settings), prefix=SCRATCH) as scratch,
        closing(open_backend(str(adapted.path), adapted.name, settings)) as backend,
    ):
        usable, left_out = _examples(orchestrator, chosen, adapted, backend, found, progress)
        training, held = pairs.split(usable, lambda one: one[0].question, options.seed)
        training, aside = pairs.split(training, lambda one: one[0].question, options.seed + 1, ASIDE)
        tell = progress(f"training {adapted.name}", "steps") if progress else None
        model = lora.adapted(lora.load_folder(adapted.folder) if adapted.folder else lora.load_gguf(adapted.path), options)
        curve = lora.train(model, [one.example for _, one in training], [one.example for _, one in aside], options, tell)
        file = Path(scratch) / "adapter.gguf"
        _write(model, adapted, options, file, llama_cpp)
        if keep is not None:
            _kept(file, keep)
        judged = [one for _, one in held]
        before, after, present = _measured(backend, judged, file, _present(chosen, adapted), settings, progress)
        agreement = _agreement(lora.mean_loss(model, [one.example for one in judged]), after.loss, adapted)
        better = wins(before, after) and (present is None or wins(present, after))
        installed = install(file, chosen, settings) if better else None
    return Outcome(
        domain=domain,
        base=adapted.name,
        options=options,
        read=found.total,
        drawn=len(found.rows),
        left_out=left_out,
        trained_on=len(training) + len(aside),
        held_out=len(held),
        curve=tuple(curve),
        before=before,
        after=after,
        present=present,
        agreement=agreement,
        installed=installed,
        seconds=time.monotonic() - began,
    )


def _cache(settings: Settings) -> Path:
    """Where a training keeps what it has not installed; without what killed ones left there."""
    cache = settings.writable(settings.home / "cache")
    for left in cache.glob(f"{SCRATCH}*"):
        # Another training may be removing its own.
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left)
    return cache


def _measured(
    backend: LlamaCppBackend, held: Sequence[Held], adapter: Path, present: Path | None, settings: Settings, progress: Progress | None
) -> tuple[Figures, Figures, Figures | None]:
    """The figures of the model alone, with the new adapter, and with the one the domain has now, if any."""

    def figures(name: str, path: Path | None) -> Figures:
        tell = progress(f"measuring {name}", "questions") if progress else None
        return measure(backend, held, path, settings.threads, settings.request_timeout_s, _counted(tell))

    return figures("the model alone", None), figures("with the adapter", adapter), figures("with the present adapter", present) if present else None


def _agreement(by_torch: float, by_llama_cpp: float, base: Base) -> float:
    """How far two losses of one adapter are apart, in nats. Raises :class:`ModelError` when it cannot be the same adapter."""
    apart = abs(by_torch - by_llama_cpp)
    if apart > AGREEMENT_NATS:
        raise ModelError(
            f"{base.name}: with the adapter llama.cpp's loss is {by_llama_cpp:.3f}, torch's {by_torch:.3f}",
            "The export does not carry over all that the model is made of: use another base, or report it.",
        )
    return apart


def _base(orchestrator: TinyBERTOrchestrator, domain: DomainConfig, base: str, llama_cpp: Path | None) -> Base:
    """The model to adapt, a Hugging Face folder converted. Raises :class:`InputError` when the domain answers with another one."""
    own = domain.model or orchestrator.settings.default_model
    folder = user_path(base, InputError) if base else None
    if folder is not None and (folder / "config.json").is_file():
        path = _converted(orchestrator, folder, convert.tools(llama_cpp))
        name, quotes = str(path), False
    else:
        name, folder = base or own, None
        resolved = orchestrator.manager.resolve(name)
        if not isinstance(resolved, Path):
            raise InputError(f"{name}: only a GGUF file or a Hugging Face folder can be adapted", "Give the domain such a model first.")
        path, quotes = resolved, orchestrator.manager.decoding(name) == "quotes"
    serving = orchestrator.manager.resolve(own)
    if not isinstance(serving, Path) or identity(serving) != identity(path):
        raise InputError(
            f"the domain {domain.name!r} answers with {own}, on which an adapter of {name} would not fit",
            f"Give --base {own}, or first write model: {name} into its domain.yaml.",
        )
    return Base(name, path, quotes, folder)


def _converted(orchestrator: TinyBERTOrchestrator, folder: Path, llama_cpp: Path) -> Path:
    """The GGUF of a Hugging Face folder, among the user's models; made once, under another name where the one of this name is of other weights."""
    settings = orchestrator.settings
    name, state = plain_name(folder.name), _weights(folder)
    if (home_folder(settings, name) / f"{name}-f16.gguf").is_file() and _made_of(home_folder(settings, name)) not in ("", state):
        name = f"{name}-{state[:8]}"
    place = settings.writable(home_folder(settings, name))
    target = place / f"{name}-f16.gguf"
    if not target.is_file():
        partial = place / f"{name}-f16.partial.gguf"
        try:
            convert.convert_model(llama_cpp, folder, partial)
            partial.replace(target)
            write_whole(place / MADE_OF, state)
        except OSError as error:
            raise storage_error(error, target) from None
        finally:
            partial.unlink(missing_ok=True)
            with suppress(OSError):
                # Only where nothing is in it.
                place.rmdir()
        add(target, name, settings)
    return target


def _weights(folder: Path) -> str:
    """What changes when the model in a Hugging Face folder does. To read gigabytes for it would take longer than is worth it."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin", ".model", ".txt"))
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((str(folder.resolve()), states)).encode()).hexdigest()


def _made_of(place: Path) -> str:
    """The :func:`_weights` that a conversion was made of; empty where nothing tells."""
    with suppress(OSError, UnicodeDecodeError):
        return (place / MADE_OF).read_text(encoding="utf-8")
    return ""


def _examples(
    orchestrator: TinyBERTOrchestrator,
    domain: DomainConfig,
    base: Base,
    backend: LlamaCppBackend,
    found: Sample[Pair],
    progress: Progress | None,
) -> tuple[list[tuple[Pair, Held]], dict[str, int]]:
    """What the model is shown of each pair and has to write, and how many pairs were left out for which reason."""
    out: list[tuple[Pair, Held]] = []
    left_out: Counter[str] = Counter()
    tell = progress("reading pairs", "pairs") if progress else None
    embed = orchestrator.encoder.remembering()
    for at, (_, pair) in enumerate(found.rows):
        passages = pair.passages or _retrieved(orchestrator, domain, pair.question, progress)
        if tell:
            tell(pair.question, at, len(found.rows))
        if not passages:
            left_out["no passages given, and none found in the knowledge base"] += 1
            continue
        try:
            shown = asked(backend, base.quotes, domain, pair.question, passages, embed)
        except ContextOverflowError:
            left_out["too long for the model's context"] += 1
            continue
        expected = pairs.target(pair, shown, base.quotes, passages)
        if expected is None:
            left_out["the answer is in none of the sentences that the model is shown"] += 1
            continue
        example = lora.Example(tuple(backend.prompt_tokens(shown.messages)), tuple(backend.answer_tokens(expected)))
        if len(example.prompt) + len(example.target) > backend.n_context_tokens:
            left_out["too long for the model's context"] += 1
            continue
        out.append((pair, Held(shown, expected, example)))
    if tell:
        tell("", len(found.rows), len(found.rows))
    questions = len({" ".join(pair.question.lower().split()) for pair, _ in out})
    if questions < LEAST_PAIRS:
        why = "".join(f"; {count} left out: {reason}" for reason, count in left_out.items())
        raise InputError(f"{questions} different questions to learn from, {LEAST_PAIRS} are needed{why}", pairs.EXPECTED)
    return out, dict(left_out)


def _present(domain: DomainConfig, base: Base) -> Path | None:
    """The adapter that the domain has now, if it works with the model."""
    path = Path(domain.sampling.adapter)
    if not domain.sampling.adapter:
        return None
    try:
        check(path, base.path)
        return path if text_metadata(path).get("general.type") == "adapter" else None
    except (ModelFileError, ModelNotFoundError) as error:
        logger.warning("the present adapter is not compared with: %s", error)
        return None


def _retrieved(orchestrator: TinyBERTOrchestrator, domain: DomainConfig, question: str, progress: Progress | None) -> tuple[Shown, ...]:
    """The passages that a question would be answered from."""
    orchestrator.prepare(progress("knowledge bases", "files") if progress else None)
    vector = orchestrator.encoder.encode([question])[0]
    hits = orchestrator.knowledge.search(question, vector, domain.name, orchestrator.settings.top_k)
    return tuple((passage.title, passage.text) for passage in hits)


def _write(model: Any, base: Base, options: lora.Options, file: Path, llama_cpp: Path | None) -> None:
    """The adapter as GGUF: by our own writer, or, of a Hugging Face folder, by llama.cpp's converter, the base noted in it."""
    if base.folder is None:
        architecture = read_gguf(base.path).architecture
        export_adapter.write(file, lora.tensors(model, architecture), options.alpha, base.path, base.name)
        return
    by_peft, converted = file.with_name("peft"), file.with_name("converted.gguf")
    try:
        model.save_pretrained(str(by_peft))
    except OSError as error:
        raise storage_error(error, by_peft) from None
    convert.convert_adapter(convert.tools(llama_cpp), by_peft, base.folder, converted)
    tensors, alpha = export_adapter.read(converted)
    export_adapter.write(file, tensors, alpha, base.path, base.name)


def _kept(file: Path, target: Path) -> None:
    with replacing(target) as partial:
        shutil.copyfile(file, partial)


def _counted(tell: Callable[[str, int, int], None] | None) -> Callable[[int, int], None] | None:
    return (lambda done, total: tell("", done, total)) if tell else None
