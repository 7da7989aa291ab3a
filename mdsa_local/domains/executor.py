"""Generation: a domain's model writes a draft from passages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.domains import asking, quoting
from mdsa_local.domains.asking import Embed, Fitted, Shown
from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import InputError, MDSAError, ModelNotFoundError, UnknownNameError
from mdsa_local.runtime.adapters import BASE_IDENTITY
from mdsa_local.runtime.backend import Finished
from mdsa_local.runtime.gguf import identity, text_metadata
from mdsa_local.stoppable import Leash, StoppedError
from mdsa_local.types import Draft, Passage

if TYPE_CHECKING:
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.runtime.manager import ModelManager
    from mdsa_local.settings import Settings


class DomainExecutor:
    """Runs a domain's model through the :class:`~mdsa_local.runtime.manager.ModelManager`, which it shares with others."""

    def __init__(self, manager: ModelManager, settings: Settings | None = None) -> None:
        """``settings`` say which model answers for domains without their own, and how long it may take; None for the manager's."""
        self.manager, self.settings = manager, settings or manager.settings
        self._lock = threading.Lock()
        self._front: TinyBERTOrchestrator | None = None

    def _model(self, domain: DomainConfig) -> str:
        """The reference of the domain's model. Raises as :meth:`~mdsa_local.runtime.manager.ModelManager.resolve`, with the domain's name."""
        reference = domain.model or self.settings.default_model
        try:
            self.manager.resolve(reference)
        except (ModelNotFoundError, UnknownNameError) as error:
            raise type(error)(f"domain {domain.name!r}: {error}", error.hint) from None
        return reference

    def tried_with(self, domain: DomainConfig, model: str) -> DomainConfig:
        """``domain`` on another ``model``, with its adapter where that is for this one too. Raises as
        :meth:`~mdsa_local.runtime.manager.ModelManager.resolve` for the ``model``."""
        tried = domain.model_copy(update={"model": model})
        if not (adapter := domain.sampling.adapter):
            return tried
        given, own = self.manager.resolve(model), None
        with suppress(MDSAError):
            own = self.manager.resolve(domain.model or self.settings.default_model)
        if given == own or (isinstance(given, Path) and _made_for(Path(adapter), given)):
            return tried
        return tried.model_copy(update={"adapter": "", "generation": domain.generation.model_copy(update={"adapter": ""})})

    def quotes(self, domain: DomainConfig) -> bool:
        """Whether the domain's model does nothing but quote."""
        return self.manager.decoding(self._model(domain)) == "quotes"

    def load_ahead(self, domain: DomainConfig, stopped: Callable[[], bool] = lambda: False) -> None:
        """Begin to load the model of a domain that will be asked in a moment, unless ``stopped`` says before it begins that it will not."""
        self.manager.load_ahead(self._model(domain), stopped)

    def refuse_when_full(self, domain: DomainConfig) -> None:
        """Raise :class:`BusyError` where the domain's model takes nobody more at the moment."""
        self.manager.refuse_when_full(self._model(domain))

    def stream(
        self,
        domain: DomainConfig,
        question: str,
        passages: Sequence[Passage],
        embed: Embed,
        leash: Leash | None = None,
        nearest: Sequence[quoting.Extract] | None = None,
    ) -> Iterator[str | Fitted | Draft]:
        """What was fitted into the prompt, text pieces as the model writes them, then the :class:`Draft`.

        ``embed`` is the encoder; whoever has the ``leash`` can stop the model, and the wait for it: then no :class:`Draft` comes. ``nearest`` is what
        :meth:`quotable` gave, if it was asked. Raises :class:`ContextOverflowError` when the question does not fit, and the errors of the backend.
        """
        reference, leash = self._model(domain), leash or Leash()
        # One for all of it: room for the model, its loading, what it writes.
        deadline = time.monotonic() + self.settings.request_timeout_s
        try:
            backend = self.manager.ensure_ready(reference, stopped=leash.stopped, deadline=deadline)
            asked = asking.asked(backend, self.quotes(domain), domain, question, _shown(passages), embed, nearest)
        except StoppedError:
            return
        yield asked.fitted
        written: list[str] = []
        stream = backend.stream(asked.messages, asked.generation, deadline_s=deadline - time.monotonic())
        for piece in leash.hold(stream):
            if isinstance(piece, Finished):
                text = "".join(written)[piece.withdrawn :]
                shown = text if domain.generation.formed else text.strip()
                thought, withdrawn = bool(piece.thinking), piece.withdrawn > 0
                yield Draft(shown, reference, piece.reason, piece.prompt_tokens, piece.tokens_generated, thought=thought, withdrawn=withdrawn)
            else:
                written.append(piece)
                yield piece

    def execute(self, query: str, domain: DomainConfig) -> dict[str, Any]:
        """Answer ``query`` in ``domain`` without routing: retrieval, generation, validation.

        Returns ``response, domain, model, latency_ms, tokens_generated, confidence, status`` and the rest of the flat answer.
        ``confidence`` is that of the answer (0..1): the mean support of its sentences in the passages.
        """
        from mdsa_local.orchestrator import TinyBERTOrchestrator

        if not isinstance(domain, DomainConfig):
            raise InputError(f"{domain!r} is no DomainConfig", "Pass one, such as create_finance_domain() or DomainConfig.read(folder).")
        with self._lock:
            # Kept, because it holds the encoder and the open tables.
            if self._front is None:
                self._front = TinyBERTOrchestrator(settings=self.settings, manager=self.manager, domains=[])
        # Not registered: others may ask a domain of that name, with another model, at the same time.
        answer = self._front.ask(query, domain=domain)
        return {**answer.to_dict(), "confidence": round(answer.verdict.support, 4), "routing_confidence": answer.confidence}


def _made_for(adapter: Path, model: Path) -> bool:
    """Whether ``adapter`` says that it is for ``model``."""
    try:
        return text_metadata(adapter).get(BASE_IDENTITY) == identity(model)
    except MDSAError:
        return False


def _shown(passages: Sequence[Passage]) -> list[Shown]:
    return [(passage.title, passage.text) for passage in passages]
