"""Generation: a domain's model writes a draft from passages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mdsa_local.domains import prompts, quoting
from mdsa_local.domains.config import DomainConfig
from mdsa_local.runtime.backend import Finished, Message
from mdsa_local.stoppable import Leash
from mdsa_local.types import Draft, Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.runtime.manager import ModelManager


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


class DomainExecutor:
    """Runs a domain's model through the :class:`~mdsa_local.runtime.manager.ModelManager`, which it shares with others."""

    def __init__(self, manager: ModelManager) -> None:
        self.manager = manager
        self._lock = threading.Lock()
        self._front: TinyBERTOrchestrator | None = None

    def quotes(self, domain: DomainConfig) -> bool:
        """Whether the domain's model does nothing but quote."""
        return self.manager.decoding(domain.model or self.manager.settings.default_model) == "quotes"

    def load_ahead(self, domain: DomainConfig) -> None:
        """Begin to load the model of a domain that will be asked in a moment."""
        self.manager.load_ahead(domain.model or self.manager.settings.default_model)

    def stream(
        self,
        domain: DomainConfig,
        question: str,
        passages: Sequence[Passage],
        embed: Callable[[list[str]], NDArray[np.float32]],
        leash: Leash | None = None,
    ) -> Iterator[str | Fitted | Draft]:
        """What was fitted into the prompt, text pieces as the model writes them, then the :class:`Draft`.

        ``embed`` is the encoder; whoever has the ``leash`` can stop the model. Raises :class:`ContextOverflowError` when the question does not fit,
        and the errors of the backend.
        """
        reference = domain.model or self.manager.settings.default_model
        backend = self.manager.ensure_ready(reference)
        generation = domain.sampling
        shown = [(passage.title, passage.text) for passage in passages]
        extracts: list[quoting.Extract] = []
        if quotes := self.quotes(domain):
            extracts = quoting.shortlist(question, shown, embed)
            shown = [(passages[extract.passage].title, extract.text) for extract in extracts]
        numbers = [extract.passage + 1 for extract in extracts] if quotes else range(1, len(shown) + 1)

        def messages(kept: Sequence[tuple[str, str]]) -> list[Message]:
            user = Message("user", prompts.user_message(kept, question, numbers[: len(kept)]))
            # What only quotes follows no instructions: they would cost time and change nothing.
            return [user] if quotes else [Message("system", prompts.system_message(domain.system_prompt)), user]

        fitted, tokens = prompts.fit(lambda kept: backend.count_tokens(messages(kept)), shown, backend.n_context_tokens, generation.max_tokens)
        kept = len(set(numbers[:fitted]))
        yield Fitted(tokens, kept, len(set(numbers)) - kept, fitted if quotes else None)
        if quotes:
            generation = generation.model_copy(update=quoting.constraints(extracts[:fitted]))
        written: list[str] = []
        stream = backend.stream(messages(shown[:fitted]), generation, deadline_s=self.manager.settings.request_timeout_s)
        for piece in (leash or Leash()).hold(stream):
            if isinstance(piece, Finished):
                yield Draft("".join(written).strip(), reference, piece.reason, piece.prompt_tokens, piece.tokens_generated)
            else:
                written.append(piece)
                yield piece

    def execute(self, query: str, domain: DomainConfig) -> dict[str, Any]:
        """Answer ``query`` in ``domain`` without routing: retrieval, generation, validation.

        Returns ``response, domain, model, latency_ms, tokens_generated, confidence, status`` and the rest of the flat answer.
        ``confidence`` is that of the answer (0..1): the mean support of its sentences in the passages.
        """
        from mdsa_local.orchestrator import TinyBERTOrchestrator

        with self._lock:
            # Kept, because it holds the encoder and the open tables.
            if self._front is None:
                self._front = TinyBERTOrchestrator(settings=self.manager.settings, manager=self.manager, domains=[])
        self._front.register_domain(domain)
        answer = self._front.ask(query, domain=domain.name)
        return {**answer.to_dict(), "confidence": round(answer.verdict.support, 4), "routing_confidence": answer.confidence}
