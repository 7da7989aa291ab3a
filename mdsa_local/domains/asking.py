"""What a model is shown of a question: the messages and how it may answer. Serving, training and measuring share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from mdsa_local.domains import prompts, quoting
from mdsa_local.domains.config import DomainConfig, Generation
from mdsa_local.errors import ConfigError
from mdsa_local.runtime.backend import Message

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A passage as a model sees it: title and text.
Shown = tuple[str, str]
Embed = Callable[[list[str]], "NDArray[np.float32]"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What went into the prompt: its tokens, the passages shown, those left out for lack of room, and, to a model that only quotes, the number
    of sentences shown of them."""

    prompt_tokens: int
    passages: int
    passages_dropped: int
    sentences: int | None = None

    def detail(self) -> dict[str, int]:
        """For the trace."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Asked:
    """The messages for a model, how it is to generate, what was fitted in, and, for a model that only quotes, what it can quote."""

    messages: tuple[Message, ...]
    generation: Generation
    fitted: Fitted
    extracts: tuple[quoting.Extract, ...] = ()


class Reader(Protocol):
    """What has to be known of a backend to make its prompt fit."""

    @property
    def n_context_tokens(self) -> int:
        """Room for prompt and answer together, in tokens."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt that ``messages`` become."""


def asked(
    reader: Reader,
    quotes: bool,
    domain: DomainConfig,
    question: str,
    passages: Sequence[Shown],
    embed: Embed,
    nearest: Sequence[quoting.Extract] | None = None,
) -> Asked:
    """What ``domain`` asks of a model about ``passages``; ``quotes`` for one that only quotes, ``nearest`` what it may quote: their shortlist,
    made here when None.

    Raises :class:`~mdsa_local.errors.ContextOverflowError` when the question does not fit, :class:`~mdsa_local.errors.ConfigError` when the domain's
    settings ask for a form that a model which only quotes cannot give.
    """
    generation = domain.sampling
    if quotes:
        refuse_form(domain)
    extracts: Sequence[quoting.Extract] = []
    if quotes:
        extracts = quoting.shortlist(question, passages, embed) if nearest is None else nearest
    shown = [(passages[extract.passage][0], extract.text) for extract in extracts] if quotes else list(passages)
    numbers = [extract.passage + 1 for extract in extracts] if quotes else range(1, len(shown) + 1)

    def messages(kept: Sequence[Shown]) -> list[Message]:
        user = Message("user", prompts.user_message(kept, question, numbers[: len(kept)]))
        # What only quotes follows no instructions: they would cost time and change nothing.
        return [user] if quotes else [Message("system", prompts.system_message(domain.system_prompt)), user]

    lengths = [reader.count_tokens([Message("assistant", extract.quoted)]) for extract in extracts]
    most = quoting.room(extracts, lengths, reader.n_context_tokens, generation.max_tokens)
    fitted, tokens = prompts.fit(lambda kept: reader.count_tokens(messages(kept)), shown, reader.n_context_tokens, most)
    kept = len(set(numbers[:fitted]))
    if quotes:
        update = quoting.constraints(extracts[:fitted], lengths[:fitted], generation.max_tokens)
        generation = generation.model_copy(update=update | {"max_tokens": most})
    told = Fitted(tokens, kept, len(set(numbers)) - kept, fitted if quotes else None)
    return Asked(tuple(messages(shown[:fitted])), generation, told, tuple(extracts[:fitted]))


def refuse_form(domain: DomainConfig) -> None:
    """Raise :class:`~mdsa_local.errors.ConfigError` where the settings of a domain ask for a form that a model which only quotes cannot give."""
    generation = domain.sampling
    if form := next((key for key in ("json_schema", "grammar", "tools", "choices", "refusal", "think") if getattr(generation, key)), ""):
        raise ConfigError(
            f"the model of {domain.name} only quotes the passages: it cannot follow {form}", "Give the domain another model, or remove that setting."
        )
