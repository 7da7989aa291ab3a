"""The contract every runtime keeps, references to models, and the registry of runtimes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from mdsa_local.domains.config import Generation
from mdsa_local.errors import InputError, UnknownNameError, expected
from mdsa_local.settings import Settings, user_path

PORT = re.compile(r":\d+$")
PORTS = {"http": 80, "https": 443}
# Where a file was pulled from, which is a name of it.
HUB = "hf"
# What only Ollama's names look like: no model of ours has a folder in its name, and no drive of Windows more than a letter.
TAGGED = re.compile(r"\w[\w.-]+(/\w[\w.-]*)*:\w[\w.-]*")
Reason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that a model asks to have run. ``id`` is empty where the runtime gives none."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. ``role`` is ``system``, ``user``, ``assistant`` or ``tool``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class TokenProbability:
    """A token and the natural logarithm of its probability by the model alone: before temperature, penalties and grammar.

    ``token`` is its id, -1 where the runtime does not say. ``text`` is that of the one token: half a character shows as U+FFFD.
    ``alternatives``: the likeliest tokens in its place, the likeliest first; it may be among them.
    """

    token: int
    text: str
    log_probability: float
    alternatives: tuple[TokenProbability, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a stream. ``reason`` is ``stop`` (the model or a stop string ended it), ``length`` (no tokens left) or ``cancelled``.

    ``tool_calls`` and ``thinking`` (what the model wrote before its answer) come from runtimes that tell them apart from the text.
    ``withdrawn``: so many characters that the text began with were thinking, as it turned out; the answer is what follows them.
    ``probabilities``: one for each token, where :attr:`Generation.probabilities` asked for them and the runtime has them. What ``choices``
    and ``refusal`` put into the answer has those that the model gives it.
    """

    reason: Reason
    prompt_tokens: int
    tokens_generated: int
    tool_calls: tuple[ToolCall, ...] = ()
    thinking: str = ""
    probabilities: tuple[TokenProbability, ...] = ()
    withdrawn: int = 0


class Backend(Protocol):
    """One loaded model. Safe to call from any thread; calls that cannot run together wait for each other."""

    @property
    def name(self) -> str:
        """What to call the model in an answer."""

    @property
    def n_context_tokens(self) -> int:
        """Room for prompt and answer together, in tokens."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt that ``messages`` become; an estimate that is never too low where the runtime has no tokenizer."""

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> Iterator[str | Finished]:
        """Pieces of text, then exactly one :class:`Finished`. ``deadline_s`` counts from the first piece asked for.

        Closing the iterator early stops the work. Raises :class:`ContextOverflowError` when the prompt does not fit,
        :class:`BackendTimeoutError` at the deadline, and other :class:`BackendError` when the runtime fails.
        """

    def close(self) -> None:
        """Free the model. Safe to call twice, and while a stream runs: that stream then ends as ``cancelled``."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed model reference. ``scheme`` is ``name``, ``gguf`` or another key of :data:`BACKENDS`; ``target`` is what follows it. A name may be
    ``hf://owner/repository/file.gguf``, for the file that was pulled from there."""

    scheme: str
    target: str

    def __str__(self) -> str:
        return self.target if self.scheme in ("name", "gguf") else f"{self.scheme}://{self.target}"


class BackendModule(Protocol):
    """What a module named in :data:`BACKENDS` offers."""

    def estimate_bytes(self, target: str, settings: Settings) -> int:
        """Memory this process will need for the model, before loading it."""

    def open_backend(self, target: str, name: str, settings: Settings) -> Backend:
        """Load the model and return it ready to answer."""


# One line a backend: the scheme of its references and its module.
BACKENDS = {
    "gguf": "mdsa_local.runtime.llamacpp",
    "ollama": "mdsa_local.runtime.ollama",
    "openai": "mdsa_local.runtime.openai",
    "transformers": "mdsa_local.runtime.transformers",
}


def backend_module(scheme: str) -> BackendModule:
    """The module of a scheme, imported now. Raises :class:`UnknownNameError` that lists the known schemes."""
    if scheme not in BACKENDS:
        raise UnknownNameError.among("model scheme", scheme, BACKENDS)
    return cast(BackendModule, importlib.import_module(BACKENDS[scheme]))


# What every backend follows.
SAMPLING = frozenset(
    {"max_tokens", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed", "stop"}
)


def refuse_unsupported(generation: Generation, supported: Collection[str], runtime: str) -> None:
    """Raise :class:`InputError` for settings beyond :data:`SAMPLING` and ``supported`` that are not at their default: none is ignored in silence."""
    fields = type(generation).model_fields
    asked = [name for name in fields if name not in SAMPLING and name not in supported and getattr(generation, name) != fields[name].default]
    if asked:
        raise InputError(
            f"{runtime} cannot follow {', '.join(asked)}",
            f"Remove {'it' if len(asked) == 1 else 'them'} from the generation settings, or use a GGUF file.",
        )


def in_our_words(url: str) -> str:
    """The reference ``openai://host:port/NAME`` for the address of a server."""
    scheme, _, rest = url.partition("://")
    # What stands before an @ may be a password.
    host = rest.partition("/")[0].rpartition("@")[2]
    return f"openai://{host if PORT.search(host) else f'{host}:{PORTS[scheme.lower()]}'}/NAME"


def parse_reference(ref: str) -> Reference:
    """Parse a model reference: ``nano``, ``nano-int4``, ``~/models/x.gguf``, ``ollama://llama3.2:1b`` or the bare ``llama3.2:1b`` and
    ``hf.co/owner/model:Q4_K_M``.

    A path comes back absolute. Raises :class:`InputError` for an empty reference, :class:`UnknownNameError` for an unknown scheme.
    """
    expected(ref, str, "a model reference", "Give a text: a name like nano, a path to a .gguf file, ollama://name:tag.")
    ref = ref.strip()
    scheme, separator, target = ref.partition("://")
    if scheme.lower() in PORTS and target:
        server = f"For a server that speaks OpenAI's API write {in_our_words(ref)}, NAME being the model's name there."
        file = "Fetch the file first (mdsa models pull), and give its path or name."
        raise UnknownNameError(f"{ref!r} is an address, no model reference", file if ref.lower().endswith(".gguf") else server)
    if separator and scheme not in (*BACKENDS, HUB):
        raise UnknownNameError.among("model scheme", scheme, BACKENDS)
    if not ref or "\0" in ref or (separator and not target):
        raise InputError(
            f"{ref!r} is no model reference", "Give a name like nano, a path to a .gguf file, ollama://name:tag or openai://host:port/name."
        )
    if separator and scheme == HUB:
        return Reference("name", ref)
    if scheme == "gguf" or (not separator and ref.lower().endswith(".gguf")):
        return Reference("gguf", str(user_path(target if separator else ref, InputError)))
    if separator:
        return Reference(scheme, target)
    if TAGGED.fullmatch(ref) or (":" in ref and "/" not in ref and "\\" not in ref):
        return Reference("ollama", ref)
    return Reference("name", ref)
