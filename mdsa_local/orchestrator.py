"""The front door: a question in, an answer out. Streaming is the one path there; a whole answer folds it."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsa_local.answering import Answering
from mdsa_local.awaiting import Awaiting
from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import ClosedError, ConfigError, InputError, MDSAError, expected
from mdsa_local.knowledge.forked import refuse_forked
from mdsa_local.onnx_models import OnnxModels
from mdsa_local.outcomes import Outcomes
from mdsa_local.parts import Parts, checked
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.settings import Settings
from mdsa_local.stoppable import Leash, Stoppable, StoppedError
from mdsa_local.types import Answer, Completed, Event, Query, Verdict, plain
from mdsa_local.validation import rules

if TYPE_CHECKING:
    from mdsa_local.domains.watching import Change, DomainWatcher
    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.knowledge.ingest import Report

logger = logging.getLogger(__name__)


class TinyBERTOrchestrator(Parts):
    """The front door. Also exported as ``MDSA``.

    With no arguments it knows the shipped domains and those in ``$MDSA_HOME/domains``; ``domains`` replaces that list. Nothing heavy is
    loaded before the first question. Safe to share between threads.

    Args:
        intent_model_path: folder or name of the encoder; None for the setting ``encoder``.
        use_reasoning_threshold: routing confidence below which no domain is chosen; None for the setting.
        settings: None for those of ``manager``, without one to read them from ``$MDSA_HOME/config.yaml`` and the environment.
        manager, knowledge, onnx: shared parts; made from the settings when None. The setting ``default_model`` holds with a shared ``manager`` too;
            another encoder than that of ``onnx`` is a :class:`ConfigError`.
        domains: the domains to start with, each of its own name; else :class:`ConfigError`.
        watch: follow edits of the domains' folders: a new model is loaded and tried before it answers, and where it fails the domain goes on as
            it was; see :attr:`changes`.
    """

    def __init__(
        self,
        intent_model_path: str | Path | None = None,
        use_reasoning_threshold: float | None = None,
        *,
        settings: Settings | None = None,
        manager: ModelManager | None = None,
        knowledge: DualRAG | None = None,
        domains: Iterable[DomainConfig] | None = None,
        watch: bool = False,
        onnx: OnnxModels | None = None,
    ) -> None:
        checked(settings, manager, onnx, knowledge)
        changes = {"encoder": str(intent_model_path) if intent_model_path else None, "use_reasoning_threshold": use_reasoning_threshold}
        given = {key: value for key, value in changes.items() if value is not None}
        settings = (settings or (manager.settings if manager else Settings.load())).changed(**given)
        if intent_model_path and onnx and onnx.settings.encoder != settings.encoder:
            raise ConfigError(
                f"intent_model_path is {settings.encoder!r}, the encoder of onnx {onnx.settings.encoder!r}",
                "Give one of the two, or make OnnxModels from settings with that encoder.",
            )
        super().__init__(settings, manager, knowledge, domains, onnx)
        self._own_manager = manager is None
        # Held while a domain comes or goes, which takes longer than a question may wait: the registry and the router then tell the same.
        self._changing = threading.Lock()
        self._outcomes, self._awaiting = Outcomes(), Awaiting()
        self._closed = False
        # Of questions under way, each by itself.
        self._leashes: dict[int, Leash] = {}
        self._watcher = self._watched() if watch else None

    def _watched(self) -> DomainWatcher:
        from mdsa_local.domains.watching import DomainWatcher

        settings = self.settings
        return DomainWatcher(settings.domain_dirs, self.registry, self.manager, self.register_domain, self.unregister_domain, settings.default_model)

    @property
    def changes(self) -> list[Change]:
        """What became of domains edited since the start, with ``watch``; the last hundred."""
        return self._watcher.changes if self._watcher else []

    def prepare(self, progress: Callable[[str, int, int], None] | None = None) -> list[tuple[str, Report]]:
        """Bring the knowledge bases in step with the domains' folders; what was done. Questions do it by themselves, the first one and those after
        an edit. Nothing to do costs some milliseconds.

        On a disk that cannot be written it warns and goes on with what was ingested before; with nothing ingested it raises
        :class:`StorageError`. Knowledge given to the constructor is left alone. After :meth:`close` it raises :class:`ClosedError`.
        """
        refuse_forked()
        self._refuse_closed()
        if not self.keeps_in_step:
            return []
        done = self.following.prepare(progress)
        self.following.tell_unfollowed(self.registry)
        return done

    def register_domain(
        self,
        name: str | DomainConfig,
        description: str = "",
        keywords: Iterable[str] = (),
        model_name: str | None = None,
        *,
        model: str | None = None,
        **settings: Any,
    ) -> None:
        """Add or replace a domain, given as a :class:`DomainConfig` or by its parts. Takes effect with the next question.

        The documents in the folder that a :class:`DomainConfig` was read from are ingested where it is below one of the folders of domains of the
        settings; of others a warning tells how to add them. ``model`` is another name of ``model_name``. Raises :class:`ConfigError`, and
        :class:`ClosedError` after :meth:`close`; whatever it raises, nothing has changed then.
        """
        self._refuse_closed()
        if isinstance(name, DomainConfig) and (description or keywords or model or model_name or settings):
            raise ConfigError("a DomainConfig and parts of one were given", "Put the parts into the DomainConfig, or give its name in its place.")
        if model is not None and model_name is not None:
            raise ConfigError(f"model_name is {model_name!r} and model is {model!r}", "They mean the same: give one of them.")
        domain = (
            name
            if isinstance(name, DomainConfig)
            else DomainConfig(name=name, description=description, keywords=keywords, model=model or model_name, **settings)
        )
        with self._changing:
            with self._lock:
                before = self.registry.get(domain.name) if domain.name in self.registry else None
                self.registry.register(domain)
                router = self.__dict__.get("router")
            if router is not None:
                try:
                    router.register(domain)
                except BaseException:
                    # Neither has changed then. The router is the later one: what it does not know yet is not asked, what it alone knows could not be.
                    if before is None:
                        self.registry.unregister(domain.name)
                    else:
                        self.registry.register(before)
                    raise

    def unregister_domain(self, name: str) -> None:
        """Forget a domain; its knowledge base stays on disk. Raises :class:`UnknownNameError`, and :class:`ClosedError` after :meth:`close`."""
        self._refuse_closed()
        expected(name, str, "the domain", 'Pass the name of one, such as "finance".')
        with self._changing, self._lock:
            self.registry.unregister(name)
            if "router" in self.__dict__:
                self.router.unregister(name)

    def stream(
        self, text: str, *, domain: str | DomainConfig | None = None, history: Sequence[str] | None = (), context: Mapping[str, Any] | None = None
    ) -> Stoppable[Event]:
        """The events of one question: :class:`Routed`, :class:`Retrieved`, :class:`Token` …, perhaps :class:`Revised`, :class:`Completed`.

        ``domain``, the name of one or a :class:`DomainConfig` that need not be registered, skips the routing. ``history`` holds the user's earlier
        turns, oldest first; where the question does not stand alone, the last that names its topic is read before it: to route, to search and to
        answer.

        What is wrong with the arguments is raised at once: :class:`InputError`, :class:`UnknownNameError` for an unknown domain,
        :class:`ModelNotFoundError` for an unknown model of a :class:`DomainConfig`, :class:`ClosedError` after :meth:`close`; any
        :class:`MDSAError` while it is read. Closing the iterator early, from any thread, stops the model, even while it reads the prompt.
        """
        try:
            query = self._query(text, domain, history, context)
        except MDSAError:
            self._outcomes.count("error")
            raise
        return Stoppable(lambda leash: self._events(query, leash), unread=lambda: self._outcomes.count("cancelled"))

    def _events(self, query: Query, leash: Leash) -> Generator[Event, None, None]:
        began = time.perf_counter()
        self._leashes[id(leash)] = leash
        try:
            self._go_on(leash)
            answer = yield from Answering(self, query, leash, lambda: self._go_on(leash)).events()
            self._outcomes.count(answer.status, answer.domain, began)
        except (GeneratorExit, StoppedError):
            self._outcomes.count("cancelled", began=began)
            return
        except Exception as error:
            self._outcomes.count("error", began=began)
            if isinstance(error, MDSAError):
                # Whatever failed then did so for that.
                self._refuse_closed()
            raise
        finally:
            del self._leashes[id(leash)]
            if self._closed:
                # It may have opened them again.
                self._let_go()
        # Outside: whoever stops reading at this one has got the answer.
        yield Completed(answer)

    def _go_on(self, leash: Leash) -> None:
        """Between two stages: raise :class:`ClosedError` after :meth:`close`, and :class:`StoppedError` where nobody wants the rest."""
        self._refuse_closed()
        leash.check()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClosedError("the orchestrator was closed", "Make a new TinyBERTOrchestrator.") from None

    def ask(
        self, text: str, *, domain: str | DomainConfig | None = None, history: Sequence[str] | None = (), context: Mapping[str, Any] | None = None
    ) -> Answer:
        """The whole answer: the last event of :meth:`stream`."""
        return _answered(self.stream(text, domain=domain, history=history, context=context))

    def process_request(
        self,
        message: str = "",
        context: Mapping[str, Any] | None = None,
        *,
        query: str = "",
        domain: str | DomainConfig | None = None,
        history: Sequence[str] | None = (),
    ) -> dict[str, Any]:
        """As :meth:`ask`, but a flat dict and never an exception of ours: errors come as ``domain: "error"`` with ``error`` filled. ``query`` is
        another name of ``message``."""
        try:
            if message and query and message != query:
                self._outcomes.count("error")
                raise InputError("message and query are both given, and differ", "They mean the same: give one of them.")
            return self.ask(message or query, domain=domain, history=history, context=context).to_dict()
        except MDSAError as error:
            happened = str(error)
            said = f"{happened if happened.endswith(('.', '!', '?')) else f'{happened}.'} {error.hint}".strip()
            failed = Answer(uuid.uuid4().hex, "error", said, "error", 0.0, {}, "", 0, 0.0, (), Verdict("error", said, (), ()), (), reason=happened)
            return {**failed.to_dict(), **error.envelope(), "metadata": plain(context) if isinstance(context, Mapping) else {}}

    process = process_request

    async def aask(
        self, text: str, *, domain: str | DomainConfig | None = None, history: Sequence[str] | None = (), context: Mapping[str, Any] | None = None
    ) -> Answer:
        """:meth:`ask` without blocking the event loop, in a thread of its own; cancelling the task stops the model."""
        events = self.stream(text, domain=domain, history=history, context=context)
        return await self._awaiting.done(events, lambda: _answered(events))

    def astream(
        self, text: str, *, domain: str | DomainConfig | None = None, history: Sequence[str] | None = (), context: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[Event, None]:
        """:meth:`stream` without blocking the event loop; leaving the loop early or cancelling the task stops the model, whatever it does."""
        return self._awaiting.as_they_come(self.stream(text, domain=domain, history=history, context=context))

    def get_stats(self) -> dict[str, Any]:
        """Counts since the start, of each question once it has come to its end: those under way or waiting are not among them yet.

        ``requests_success``: answered or honestly declined; ``success_rate`` is its share of all, 0..1. Those that were cancelled, before they began
        too, are among all, and neither a success nor failed: ``by_status`` tells how many. ``average_latency_ms`` is that of those that began.
        """
        return {**self._outcomes.summary(), "domains_registered": len(self.registry)}

    def close(self) -> None:
        """Free the models this orchestrator loaded and the knowledge bases it opened. Questions under way, and whatever is asked of it later, end
        with :class:`ClosedError`. Safe to call twice."""
        self._closed = True
        if self._watcher:
            self._watcher.stop()
        for leash in list(self._leashes.values()):
            leash.stop()
        if self._own_manager:
            self.manager.close()
        if self._watcher:
            self._watcher.close()
        self._let_go()
        self._awaiting.close()

    def _let_go(self) -> None:
        """Close the knowledge bases, where they are ours."""
        if self._knowledge is None and "knowledge" in self.__dict__:
            self.knowledge.close()

    def __enter__(self) -> TinyBERTOrchestrator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> TinyBERTOrchestrator:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._awaiting.closed(self.close)

    def _query(self, text: str, domain: str | DomainConfig | None, history: Sequence[str] | None, context: Mapping[str, Any] | None) -> Query:
        """The question, once it is sure that it can be asked. Nothing here takes long: an event loop waits for it."""
        # Before the encoder's turn, which is lost in such a process too.
        refuse_forked()
        self._refuse_closed()
        if not isinstance(text, str):
            raise InputError(f"the question is a {type(text).__name__}, not a string", "Pass the question as text.")
        if not isinstance(context, Mapping | None):
            raise InputError(f"the context is a {type(context).__name__}, no mapping", 'Pass a dict, such as {"user_id": "u1"}, or None.')
        limit = self.settings.max_question_chars
        asked, turns = rules.question(text, limit), rules.previous(history, limit)
        hint = 'Pass the name of one, such as "finance", a DomainConfig, or None to have the question routed.'
        expected(domain, str | DomainConfig | None, "the domain", hint)
        chosen = self.registry.get(domain) if isinstance(domain, str) else domain
        if isinstance(domain, DomainConfig) and domain.model:
            # Not every question comes to a model; who gives a wrong one is told all the same.
            self.manager.resolve(domain.model)
        return Query(asked, chosen, dict(context or {}), turns)


def _answered(events: Iterable[Event]) -> Answer:
    """The answer at the end of ``events``."""
    *_, last = events
    if not isinstance(last, Completed):
        raise AssertionError("a stream ends with Completed")
    return last.answer


MDSA = TinyBERTOrchestrator
