"""A causal language model by Hugging Face transformers in this process: an extra, for models that no GGUF exists of.

Nothing is downloaded: a folder, or a name whose files an earlier download left in the hub's cache. No code from a model's repository is run.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from mdsa_local.domains.config import Generation
from mdsa_local.errors import (
    BackendError,
    BackendTimeoutError,
    ContextOverflowError,
    DependencyError,
    InputError,
    MDSAError,
    ModelError,
    ModelMemoryError,
    ModelNotFoundError,
)
from mdsa_local.runtime.backend import Finished, Message, Reason, refuse_unsupported
from mdsa_local.runtime.chat_template import empty_prompt, render
from mdsa_local.runtime.cores import within_cores
from mdsa_local.runtime.grammar import Follower
from mdsa_local.runtime.schema_grammar import schema_rules
from mdsa_local.runtime.stopping import THINKS, StopFilter
from mdsa_local.runtime.structured import checked_validator, refuse_thoughts_in_form
from mdsa_local.settings import Settings, expanded
from mdsa_local.stoppable import HEARD_S, Leash, Stoppable

MAX_CONTEXT_TOKENS = 8192
# Tokens of a prompt evaluated between two looks at the clock; also bounds the logits held, this many times the vocabulary.
PREFILL_TOKENS = 128
PENALTY_WINDOW_TOKENS = 64
# Of the tokens that a schema allows, looked for where `top_k` sets no limit: inside a text nearly all of a vocabulary would do, which takes seconds.
MOST_ALLOWED = 1000
# Below, the likeliest token is the only one all the same, and the numbers leave what float32 holds.
LEAST_TEMPERATURE = 1e-6
Quantization = Literal["", "int8", "int4"]
QUANTIZATIONS: dict[str, Quantization] = {"int8": "int8", "8bit": "int8", "int4": "int4", "4bit": "int4", "none": "", "": ""}
INSTALL = 'Install it: pip install "mdsa-local[transformers]"'


class TransformersBackend:
    """A loaded model. Implements :class:`~mdsa_local.runtime.backend.Backend`. On CUDA or MPS where there is one, else on the CPU."""

    def __init__(self, folder: Path, name: str, n_context_tokens: int = 0, threads: int = 0, quantization: Quantization = "") -> None:
        """Load ``folder``. ``n_context_tokens`` 0 means 8192; the model's training context is the limit. ``quantization`` needs CUDA.

        Raises :class:`DependencyError`, :class:`ModelError` for what is no causal language model with a chat template, :class:`ModelMemoryError`.
        """
        self._torch, transformers = libraries()
        self.name = name
        self._folder = folder
        device = "cuda" if self._torch.cuda.is_available() else "mps" if self._torch.backends.mps.is_available() else "cpu"
        if threads:
            self._torch.set_num_threads(within_cores(threads))
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "dtype": "auto"}
        if quantization:
            options |= quantized(transformers, quantization, device)
        with self._mapped("load"):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
            self._model = (model if quantization else model.to(device)).eval()
        if not self._tokenizer.chat_template:
            raise ModelError(f"{folder}: the model has no chat template, so how to put a question to it is unknown", "Use its 'instruct' build.")
        with self._mapped("load"):
            config = self._model.config
            trained = getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0)
            self.n_context_tokens = min(n_context_tokens or MAX_CONTEXT_TOKENS, trained or MAX_CONTEXT_TOKENS)
            ends = self._model.generation_config.eos_token_id
            self._ends = {self._tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
            control = sorted(map(str, self._tokenizer.all_special_tokens), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)) or r"(?!)")
        self._pieces: list[str] = []
        self._owner = threading.Lock()
        self._closed = self._cancelled = False

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Exact number of prompt tokens."""
        return len(self._prompt(messages))

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> Stoppable[str | Finished]:
        """See :class:`~mdsa_local.runtime.backend.Backend`. A second stream waits for the first to end, at most until its own deadline. The stream's
        ``close`` works from any thread, also while it waits or a prompt is read."""
        return Stoppable(lambda leash: self._events(messages, generation, deadline_s, leash))

    def _events(self, messages: Sequence[Message], generation: Generation, deadline_s: float, leash: Leash) -> Generator[str | Finished, None, None]:
        deadline = time.monotonic() + deadline_s
        refuse_unsupported(generation, ("json_schema", "think"), "transformers")
        refuse_thoughts_in_form(generation)
        follower = None
        if generation.json_schema is not None:
            checked_validator(generation.json_schema)
            follower = Follower(schema_rules(generation.json_schema))
        if not self._has_turn(deadline, leash):
            return
        try:
            self._cancelled = self._closed
            prompt = self._prompt(messages, bool(generation.think))
            if len(prompt) + 1 > self.n_context_tokens:
                raise ContextOverflowError(
                    f"the prompt has {len(prompt)} tokens; {self.name} has room for {self.n_context_tokens - 1}",
                    "Ask a shorter question, give fewer passages, or raise context_tokens.",
                )
            yield from self._decode(prompt, generation, follower, deadline, leash)
        finally:
            self._owner.release()
            if self._closed:
                self.close()

    def _has_turn(self, deadline: float, leash: Leash) -> bool:
        """Wait until no other stream runs; False where nobody wants this one any more."""
        while not self._owner.acquire(timeout=min(max(0.0, deadline - time.monotonic()), HEARD_S)):
            if leash.stopped():
                return False
            if time.monotonic() >= deadline:
                raise BackendTimeoutError(f"{self.name} was busy with another request until the deadline", "Ask again, or raise request_timeout_s.")
        return True

    def cancel(self) -> None:
        """Stop the running stream after its current token, from any thread: it ends as ``cancelled``. No effect when idle."""
        self._cancelled = True

    def close(self) -> None:
        """See :class:`~mdsa_local.runtime.backend.Backend`. Memory is freed at once, or when the running stream ends."""
        self._closed = self._cancelled = True
        if self._owner.acquire(blocking=False):
            try:
                self._model = None
                if self._torch.cuda.is_available():
                    self._torch.cuda.empty_cache()
                elif self._torch.backends.mps.is_available():
                    self._torch.mps.empty_cache()
            finally:
                self._owner.release()

    def _prompt(self, messages: Sequence[Message], thinking: bool = False) -> list[int]:
        if self._closed:
            raise BackendError(f"{self.name} was closed")
        # Control tokens written out in a message would otherwise end its turn and begin a forged one.
        shown = [Message(message.role, self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", message.content)) for message in messages]
        bos, eos = str(self._tokenizer.bos_token or ""), str(self._tokenizer.eos_token or "")
        with self._mapped():
            template = self._tokenizer.get_chat_template()
        text = render(template, shown, bos=bos, eos=eos, source=str(self._folder), thinking=thinking)
        with self._mapped():
            # Half a character, which the tokenizer does not take, becomes a question mark as it does in llama.cpp.
            prompt = list(self._tokenizer(text.encode("utf-8", "replace").decode(), add_special_tokens=False)["input_ids"])
        if not prompt:
            raise empty_prompt(str(self._folder))
        return prompt

    def _decode(
        self, prompt: list[int], generation: Generation, follower: Follower | None, deadline: float, leash: Leash
    ) -> Iterator[str | Finished]:
        limit = min(generation.max_tokens, self.n_context_tokens - len(prompt))
        thinks = follower is None and self._tokenizer.decode(prompt[-8:]).rstrip().endswith(THINKS)
        stops, made = StopFilter(generation.stop, thinks), list[int]()
        text = _Text(self._tokenizer)
        random = self._torch.Generator(self._model.device)
        random.seed() if generation.seed is None else random.manual_seed(generation.seed % 2**63)
        reason: Reason = "length"
        state: Any = None
        pending = prompt
        while len(made) < limit:
            logits, state = self._evaluate(pending, state, deadline, leash)
            if logits is None:
                reason = "cancelled"
                break
            with self._mapped():
                token = self._choose(logits, made, generation, follower, random)
            if token in self._ends:
                reason = "stop"
                break
            made.append(token)
            pending = [token]
            if piece := stops.feed(text.add(token).encode()):
                yield piece
            if follower:
                follower.feed(self._pieces[token])
            if stops.stopped or (follower and follower.must_end):
                reason = "stop"
                break
        if rest := stops.feed(text.rest().encode()) + stops.flush():
            yield rest
        yield Finished(reason, len(prompt), len(made), thinking=stops.thoughts.told)

    def _evaluate(self, tokens: Sequence[int], state: Any, deadline: float, leash: Leash) -> tuple[Any, Any]:
        """Logits after ``tokens``, ``(vocabulary,) float32``, and the state with them; no logits when cancelled or closed."""
        logits = None
        for start in range(0, len(tokens), PREFILL_TOKENS):
            if self._cancelled or leash.stopped():
                return None, state
            if time.monotonic() >= deadline:
                raise BackendTimeoutError(f"{self.name} did not finish before the deadline", "Ask for fewer tokens, or raise request_timeout_s.")
            ids = self._torch.tensor([list(tokens[start : start + PREFILL_TOKENS])], device=self._model.device)
            # Not around the whole stream: the mode belongs to the thread and would reach whoever takes the pieces.
            with self._mapped(), self._torch.inference_mode():
                out = self._model(input_ids=ids, past_key_values=state, use_cache=True)
            # A copy, because what inference mode made cannot be changed outside it.
            state, logits = out.past_key_values, out.logits[0, -1].float().clone()
        return logits, state

    def _choose(self, logits: Any, made: Sequence[int], generation: Generation, follower: Follower | None, random: Any) -> int:
        """The next token, in the order of llama.cpp's chain: grammar, penalties, top-k, top-p, min-p, temperature, draw."""
        torch = self._torch
        if bool(logits.isnan().any()):
            raise ModelError(f"{self._folder}: its weights lead to no numbers", "The files are damaged: download the model again.")
        if follower:
            allowed = self._allowed(logits, follower, generation.top_k or MOST_ALLOWED)
            kept = torch.full_like(logits, -torch.inf)
            kept[allowed] = logits[allowed]
            logits = kept
        if made and (generation.repeat_penalty, generation.frequency_penalty, generation.presence_penalty) != (1.0, 0.0, 0.0):
            said = Counter(made[-PENALTY_WINDOW_TOKENS:])
            recent, times = (torch.tensor(list(numbers), device=logits.device) for numbers in (said.keys(), said.values()))
            score = logits[recent]
            score = torch.where(score > 0, score / generation.repeat_penalty, score * generation.repeat_penalty)
            logits[recent] = score - times * generation.frequency_penalty - generation.presence_penalty
        if generation.temperature == 0.0:
            return int(logits.argmax())
        ordered, ids = logits.sort(descending=True, stable=True)
        if generation.top_k:
            ordered, ids = ordered[: generation.top_k], ids[: generation.top_k]
        chance = ordered.softmax(0)
        keep = (chance.cumsum(0) - chance < generation.top_p) & (chance >= generation.min_p * chance[0])
        # From the likeliest down: a number over next to nothing is none.
        ordered = (ordered[keep] - ordered[0]) / max(generation.temperature, LEAST_TEMPERATURE)
        drawn = torch.multinomial(ordered.softmax(0), 1, generator=random)
        return int(ids[keep][drawn])

    def _allowed(self, logits: Any, follower: Follower, most: int) -> Any:
        """The likeliest tokens, at most ``most``, with which the answer can go on."""
        if not self._pieces:
            self._pieces = pieces(self._tokenizer, len(logits))
        found: list[int] = []
        for token in logits.argsort(descending=True).tolist():
            piece = self._pieces[token]
            if follower.may_end if token in self._ends else piece and "\ufffd" not in piece and follower.accepts(piece):
                found.append(token)
                if len(found) == most:
                    break
        if not found:
            raise ModelError(f"{self._folder}: no token of its vocabulary can go on with the schema", "Use another model, or a simpler schema.")
        return self._torch.tensor(found, device=logits.device)

    @contextmanager
    def _mapped(self, doing: str = "run") -> Iterator[None]:
        """The one place where failures of torch and transformers become errors of ours."""
        try:
            yield
        except MDSAError:
            raise
        except (self._torch.OutOfMemoryError, MemoryError) as error:
            raise ModelMemoryError(
                f"{self.name} does not fit the memory: {error}", "Add #int8 or #int4 to its reference, or choose a smaller model."
            ) from None
        except ImportError as error:
            raise DependencyError(f"{self.name} needs a package that is missing: {error}", "Install what it names.") from None
        except Exception as error:
            if isinstance(error, RuntimeError) and not isinstance(error, RecursionError):
                raise BackendError(f"{self.name}: torch failed: {error}", "Run it again; choose a smaller model when it repeats.") from None
            # The tokenizers' own errors are of no kind, and a file of another shape than expected leads to any.
            raise ModelError(
                f"{self._folder}: transformers cannot {doing} it: {' '.join(str(error).split())[:300]}",
                "Give the folder of a causal language model: config.json, tokenizer files, *.safetensors.",
            ) from None


class _Text:
    """Text out of token ids as it becomes certain: decoding is not piecewise, and a character may take several tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = self._read = 0

    def add(self, token: int) -> str:
        """The text that ``token`` adds, with what waited for it."""
        self._ids.append(token)
        before, text = self._decoded(self._ids[self._shown : self._read]), self._decoded(self._ids[self._shown :])
        if len(text) <= len(before) or text.endswith("\ufffd"):
            return ""
        self._shown, self._read = self._read, len(self._ids)
        return text[len(before) :]

    def rest(self) -> str:
        """What still waits; the bytes of an unfinished character are dropped."""
        before, text = self._decoded(self._ids[self._shown : self._read]), self._decoded(self._ids[self._shown :])
        return text[len(before) :].rstrip("\ufffd")

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def pieces(tokenizer: Any, size: int) -> list[str]:
    """The text of each of ``size`` tokens behind another one, where a leading blank counts; empty for special tokens."""
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1]
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before = len(tokenizer.decode([anchor], **options))
    known = len(tokenizer)
    texts = tokenizer.batch_decode([[anchor, token] for token in range(min(size, known))], **options)
    return [text[before:] for text in texts] + [""] * max(0, size - known)


def libraries() -> tuple[Any, Any]:
    """The modules torch and transformers. Raises :class:`DependencyError` when the extra is not installed."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise DependencyError(f"transformers cannot be loaded: {error}", INSTALL) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


def quantized(transformers: Any, quantization: Quantization, device: str) -> dict[str, Any]:
    """Load options for INT8 or INT4 weights by bitsandbytes. Raises :class:`ModelError` without CUDA, :class:`DependencyError` without it."""
    if device != "cuda":
        raise ModelError(
            f"{quantization.upper()} by bitsandbytes needs a CUDA device; there is none", "Use a GGUF file in Q8_0 or Q4_K_M, which needs no GPU."
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise DependencyError(f"bitsandbytes cannot be loaded: {error}", 'Install it: pip install "mdsa-local[quantization]"') from None
    import torch

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    config = transformers.BitsAndBytesConfig(**(four if quantization == "int4" else {"load_in_8bit": True}))
    return {"quantization_config": config, "device_map": {"": 0}}


def split_target(target: str) -> tuple[str, Quantization]:
    """Folder or hub name, and quantisation, of ``folder-or-name#int8``. Raises :class:`InputError` for an unknown quantisation."""
    place, _, wanted = target.partition("#")
    key = wanted.lower().replace("-", "").replace("_", "")
    if key not in QUANTIZATIONS:
        raise InputError(f"unknown quantisation {wanted!r} of transformers://{place}", f"Known: {', '.join(sorted(filter(None, QUANTIZATIONS)))}.")
    return place, QUANTIZATIONS[key]


def find_folder(place: str) -> Path:
    """The folder itself, or where the hub's cache keeps a name's files. Raises :class:`ModelNotFoundError`; asks no hub."""
    folder = expanded(place, InputError)
    # What can be no path is no folder either.
    with suppress(OSError, ValueError):
        if folder.is_dir():
            return folder.absolute()
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise DependencyError(f"huggingface_hub cannot be loaded: {error}", INSTALL) from None
    try:
        return Path(snapshot_download(place, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        # No name on a hub begins as a path does.
        path = place.startswith(("~", ".")) or folder.is_absolute()
        hint = "Check the path." if path else f"Download it first, for example: hf download {place}"
        raise ModelNotFoundError(f"{place!r} is no folder, and the hub's cache does not have it", hint) from None


def estimate_bytes(target: str, settings: Settings) -> int:
    """Memory for the weights as they lie on disk, which INT8 and INT4 stay below, and for keys and values; counted alike on GPU and CPU."""
    place, _ = split_target(target)
    folder = find_folder(place)
    hint = "Give the folder of a transformers model."
    try:
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) or sum(file.stat().st_size for file in folder.glob("*.bin"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return int(weights + _state_bytes(config, settings))
    except OSError as error:
        raise ModelError(f"{folder}: its config.json cannot be read: {error}", hint) from None
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{folder}: its config.json is none of a model: {error}", hint) from None


def _state_bytes(config: Any, settings: Settings) -> int | float:
    """Memory for keys and values by what a config.json holds. Raises whatever one of another shape leads to."""
    # What also sees or hears describes the part that writes below this.
    config = config | (config.get("text_config") or {})
    width, heads = config.get("hidden_size", 0), config.get("num_attention_heads", 1)
    head = config.get("head_dim") or width // max(heads, 1)
    context = min(settings.context_tokens or MAX_CONTEXT_TOKENS, config.get("max_position_embeddings") or MAX_CONTEXT_TOKENS)
    item_bytes = 4 if (config.get("dtype") or config.get("torch_dtype")) == "float32" else 2
    found: int | float = 2 * item_bytes * context * config.get("num_hidden_layers", 0) * (config.get("num_key_value_heads") or heads) * head
    return found


def open_backend(target: str, name: str, settings: Settings) -> TransformersBackend:
    """Load the folder or the cached hub name ``target``. Raises as :class:`TransformersBackend`, and :class:`ModelNotFoundError`."""
    place, quantization = split_target(target)
    return TransformersBackend(find_folder(place), name, settings.context_tokens, settings.threads, quantization)
