"""The one path from a question to an answer: route, retrieve, generate, validate. Streaming is the path; a whole answer folds it."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mdsa_local.awaiting import Awaiting
from mdsa_local.domains import quoting
from mdsa_local.domains.config import DomainConfig
from mdsa_local.domains.executor import DomainExecutor
from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.domains.registry import DomainRegistry
from mdsa_local.errors import BackendUnavailableError, ClosedError, ConfigError, InputError, MDSAError, StorageError, expected
from mdsa_local.evidence import Evidence, Searcher, resolved
from mdsa_local.knowledge.following import Following
from mdsa_local.knowledge.forked import refuse_forked
from mdsa_local.onnx_models import OnnxModels
from mdsa_local.outcomes import Outcomes
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.settings import Settings
from mdsa_local.stoppable import Leash, Stoppable, StoppedError
from mdsa_local.types import Answer, Completed, Draft, Event, Passage, Query, Retrieved, Revised, Route, Routed, Stage, Token, Verdict
from mdsa_local.unclaimed import unclaimed
from mdsa_local.understanding import Read, understood, within
from mdsa_local.validation import ladder, rules

if TYPE_CHECKING:
    from mdsa_local.domains.watching import Change, DomainWatcher
    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.knowledge.ingest import Report
    from mdsa_local.routing.encoder import Encoder
    from mdsa_local.routing.lexical import LexicalEncoder
    from mdsa_local.routing.router import IntentRouter
    from mdsa_local.validation.grounding import Embed
    from mdsa_local.validation.judge import AnswerJudge

logger = logging.getLogger(__name__)
# So many passages, of different headings, are named where none answers.
NEAREST = 3


class TinyBERTOrchestrator:
    """The front door. Also exported as ``MDSA``.

    With no arguments it knows the shipped domains and those in ``$MDSA_HOME/domains``; ``domains`` replaces that list. Nothing heavy is
    loaded before the first question. Safe to share between threads.

    Args:
        intent_model_path: folder or name of the encoder; None for the setting ``encoder``.
        use_reasoning_threshold: routing confidence below which no domain is chosen; None for the setting.
        settings: None to read them from ``$MDSA_HOME/config.yaml`` and the environment.
        manager, knowledge, onnx: shared parts; made from the settings when None.
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
        _checked(settings, manager, onnx, knowledge)
        changes = {"encoder": str(intent_model_path) if intent_model_path else None, "use_reasoning_threshold": use_reasoning_threshold}
        given = {key: value for key, value in changes.items() if value is not None}
        self.settings = (settings or Settings.load()).changed(**given)
        self._onnx = onnx or OnnxModels(self.settings)
        self._own_manager = manager is None
        self.manager = manager or ModelManager(self.settings)
        self.executor = DomainExecutor(self.manager)
        self.registry = DomainRegistry.from_folders(self.settings.domain_dirs) if domains is None else DomainRegistry.given(domains)
        # What a router on disk was fitted to, as no program but this one knows of domains registered later.
        self._configured = tuple(self.registry)
        self._knowledge = knowledge
        self._lock = threading.RLock()
        # Held while a domain comes or goes, which takes longer than a question may wait: the registry and the router then tell the same.
        self._changing = threading.Lock()
        self._following = Following(self.settings, lambda: self.knowledge, lambda: self.encoder.fingerprint)
        self._outcomes, self._awaiting = Outcomes(), Awaiting()
        self._closed = False
        # Of questions under way, each by itself.
        self._leashes: dict[int, Leash] = {}
        self._watcher = self._watched() if watch else None

    def _watched(self) -> DomainWatcher:
        from mdsa_local.domains.watching import DomainWatcher

        return DomainWatcher(self.settings.domain_dirs, self.registry, self.manager, self.register_domain, self.unregister_domain)

    @property
    def changes(self) -> list[Change]:
        """What became of domains edited since the start, with ``watch``; the last hundred."""
        return self._watcher.changes if self._watcher else []

    @cached_property
    def encoder(self) -> Encoder | LexicalEncoder:
        """The sentence encoder, loaded when first needed; see :attr:`OnnxModels.encoder`."""
        return self._onnx.encoder

    @property
    def judge(self) -> AnswerJudge | None:
        """The judge of which sentences answer, loaded when first needed; see :attr:`OnnxModels.judge`."""
        return self._onnx.judge

    @property
    def _degraded(self) -> str:
        """Why the encoder is not at work; empty when it is."""
        return getattr(self.encoder, "reason", "")

    @property
    def _lesser(self) -> str:
        """Why an answer is less than it could be; empty when nothing is amiss."""
        if self._degraded:
            return f"found by words alone: {self._degraded}"
        return f"chosen by nearness alone: {self._onnx.unjudged}" if self._onnx.unjudged else ""

    def _marked(self, verdict: Verdict) -> Verdict:
        """``verdict`` with the reason why it is less than it could be; a success is degraded by it, a refusal stays one."""
        if not (lesser := self._lesser):
            return verdict
        if verdict.status == "success":
            return replace(verdict, status="degraded", reason=lesser, lesser=True)
        return replace(verdict, reason="; ".join(filter(None, (verdict.reason, lesser))), lesser=True)

    @property
    def router(self) -> IntentRouter:
        """The router, with every registered domain; made when first needed."""
        # By one thread alone, and not while domains come or go: one that came while it was made would never be told to it.
        with self._lock:
            if (made := self.__dict__.get("router")) is None:
                from mdsa_local.routing.making import made_router

                made = self.__dict__["router"] = made_router(self.settings, self.encoder, list(self.registry), self._configured)
            router: IntentRouter = made
            return router

    @cached_property
    def knowledge(self) -> DualRAG:
        """The knowledge bases, as they are on disk; see :meth:`prepare`."""
        from mdsa_local.knowledge.dual_rag import DualRAG

        settings = self.settings
        return self._knowledge or DualRAG(
            settings.knowledge_place,
            self.encoder,
            storage_options=settings.storage_options,
            reranker=settings.reranker_place,
            threads=settings.threads,
        )

    def prepare(self, progress: Callable[[str, int, int], None] | None = None) -> list[tuple[str, Report]]:
        """Bring the knowledge bases in step with the domains' folders; what was done. Questions do it by themselves, the first one and those after
        an edit. Nothing to do costs some milliseconds.

        On a disk that cannot be written it warns and goes on with what was ingested before; with nothing ingested it raises
        :class:`StorageError`. Knowledge given to the constructor is left alone. After :meth:`close` it raises :class:`ClosedError`.
        """
        refuse_forked()
        self._refuse_closed()
        if not self._keeps_in_step:
            return []
        done = self._following.prepare(progress)
        self._following.tell_unfollowed(self.registry)
        return done

    @property
    def _keeps_in_step(self) -> bool:
        """Whether the knowledge bases are ours to change. Without the encoder nothing can be embedded; what is there is searched by words."""
        return self._knowledge is None and not self._degraded

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
        began, request_id = time.perf_counter(), uuid.uuid4().hex
        trace: list[Stage] = []
        self._leashes[id(leash)] = leash
        try:
            self._go_on(leash)
            self._onnx.load_judge_ahead()
            domains = self._domains(query)
            read: Read = self._timed("route", trace, lambda: self._route(query))
            read = read if query.domain else replace(read, route=within(read.route, domains))
            trace[-1] = replace(trace[-1], detail=read.detail)
            self._go_on(leash)
            asked = read.text
            embed = self.encoder.remembering()
            read, evidence = self._looked_up(read, domains, embed, trace, leash)
            route = read.route
            self._go_on(leash)
            yield Routed(route)
            if route.domain is None:
                of_all = [query.domain] if query.domain else list(self.registry)
                verdict, draft = Verdict("abstained", unclaimed(route, of_all, self.settings), (), (), route.reason), None
                # Small talk needs neither encoder nor judge to be answered.
                verdict = verdict if route.small_talk else self._marked(verdict)
                yield Token(verdict.text)
            else:
                passages = evidence.passages
                yield Retrieved(passages)
                chosen = domains(route.domain)
                draft = yield from self._generate(chosen, read.text, evidence, embed, trace, leash)
                form = chosen.generation
                verdict = self._timed("validate", trace, lambda: ladder.judge(read.text, draft, passages, embed, evidence.answering, form))
                kind: Literal["citations", "replaced"] = "citations" if verdict.status == "success" else "replaced"
                verdict = self._marked(verdict)
                if verdict.text != draft.text:
                    yield Revised(verdict.text, verdict.reason, kind)
            self._go_on(leash)
            answer = self._answer(request_id, query, route, draft, verdict, trace, (time.perf_counter() - began) * 1000)
            if answer.status == "not_found":
                answer = replace(answer, nearest=_nearest(evidence.passages))
            self._log(answer, asked)
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
                raise InputError("message and query are both given, and differ", "They mean the same: give one of them.")
            return self.ask(message or query, domain=domain, history=history, context=context).to_dict()
        except MDSAError as error:
            happened = str(error)
            said = f"{happened if happened.endswith(('.', '!', '?')) else f'{happened}.'} {error.hint}".strip()
            failed = Answer(uuid.uuid4().hex, "error", said, "error", 0.0, {}, "", 0, 0.0, (), Verdict("error", said, (), ()), (), reason=happened)
            return {**failed.to_dict(), **error.envelope(), "metadata": dict(context) if isinstance(context, Mapping) else {}}

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
        too, are among all, and neither a success nor failed: ``by_status`` tells how many.
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

    def _domains(self, query: Query) -> Callable[[str], DomainConfig]:
        """What gives the domain of a name: for one question each stays what it is now, though it be replaced or removed meanwhile. The one that the
        caller chose may be registered otherwise, or not at all."""
        if (chosen := query.domain) is not None:
            return lambda name: chosen
        known = {domain.name: domain for domain in self.registry}
        return lambda name: known[name] if name in known else self.registry.get(name)

    def _looked_up(self, read: Read, domains: Callable[[str], DomainConfig], embed: Embed, trace: list[Stage], leash: Leash) -> tuple[Read, Evidence]:
        """How the question is understood after a look into the documents, and what they say."""
        route, judge = read.route, None if self._degraded else self.judge
        if route.domain is None and (judge is None or route.small_talk or route.outside or not route.scores):
            return read, Evidence()
        began = time.perf_counter()
        if self._keeps_in_step:
            self._following.follow()
            self._following.tell_unfollowed([*self.registry, *([domains(route.domain)] if route.domain else [])])
        if route.domain is not None and self.knowledge.holds(route.domain):
            # Before and while passages are looked up; where there are none to be had, the model will not be asked.
            self.executor.refuse_when_full(domains(route.domain))
            self.executor.load_ahead(domains(route.domain), leash.stopped)
        searcher = Searcher(
            self.knowledge,
            read.text,
            None if self._degraded else read.vector,
            embed,
            judge.remembering() if judge else None,
            self.settings.top_k,
            lambda name: self.executor.quotes(domains(name)),
            # What was asked before is no part of what is asked now.
            () if read.turn else quoting.divided(read.text),
            read.turn,
        )
        route, evidence, odds, part = resolved(route, searcher)
        trace.append(Stage("retrieve", (time.perf_counter() - began) * 1000, {"odds": odds} if judge else {}))
        return replace(read, route=route, text=part.text if part else read.text), evidence

    def _route(self, query: Query) -> Read:
        return understood(query, self.encoder, lambda: self.router)

    def _generate(
        self, domain: DomainConfig, question: str, evidence: Evidence, embed: Embed, trace: list[Stage], leash: Leash
    ) -> Generator[Event, None, Draft]:
        began, first, detail = time.perf_counter(), 0.0, dict[str, Any]()
        passages, draft = evidence.passages, Draft("", "", "cancelled", 0, 0)
        reason = self._doubt(domain, question, evidence, embed) if passages else "no passage was found"
        if reason:
            # No answer could stand: the model is not asked.
            yield Token(NOT_FOUND)
            return Draft(NOT_FOUND, "", "stop", 0, 0, reason)
        for piece in self.executor.stream(domain, question, passages, embed, leash, evidence.extracts):
            if isinstance(piece, str):
                first = first or (time.perf_counter() - began) * 1000
                yield Token(piece)
            elif isinstance(piece, Draft):
                draft = piece
            else:
                detail = piece.detail()
        if draft.finish_reason == "cancelled":
            # What was stopped in the middle is no answer.
            self._go_on(leash)
            raise BackendUnavailableError(f"the model of {domain.name} was stopped before its answer was complete", "Ask again.")
        trace.append(Stage("generate", (time.perf_counter() - began) * 1000, {**detail, "first_token_ms": round(first, 2)}))
        return draft

    def _doubt(self, domain: DomainConfig, question: str, evidence: Evidence, embed: Embed) -> str:
        """Why the model had better not be asked; empty when it may be. A model that only quotes is held to more than one that can decline."""
        against = evidence.doubt
        if not self._degraded and against is not None and self.executor.quotes(domain) and against.declines:
            return against.reason
        if evidence.answering:
            return ""
        closeness, _ = ladder.nearest(question, evidence.passages, embed)
        # The validation would refuse whatever the model writes.
        return "" if closeness >= ladder.FLOOR else f"no sentence in the documents is near enough to the question ({max(closeness, 0):.2f})"

    @staticmethod
    def _timed(stage: str, trace: list[Stage], work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        trace.append(Stage(stage, (time.perf_counter() - began) * 1000))
        return result

    def _answer(
        self, request_id: str, query: Query, route: Route, draft: Draft | None, verdict: Verdict, trace: list[Stage], latency_ms: float
    ) -> Answer:
        self._outcomes.count(verdict.status, route.domain, time.perf_counter() - latency_ms / 1000)
        model, tokens = (draft.model, draft.tokens_generated) if draft else ("", 0)
        return Answer(
            request_id=request_id,
            status=verdict.status,
            response=verdict.text,
            domain=route.domain,
            confidence=route.confidence,
            scores=route.scores,
            model=model,
            tokens_generated=tokens,
            latency_ms=latency_ms,
            citations=verdict.cited,
            verdict=verdict,
            trace=tuple(trace),
            reason=verdict.reason or route.reason,
            metadata=query.metadata,
            elsewhere=route.elsewhere,
        )

    def _log(self, answer: Answer, question: str) -> None:
        """Keep the answer where the setting ``answer_log`` says so. A disk that cannot take it does not take the answer from the user."""
        if self.settings.answer_log:
            from mdsa_local.feedback.store import Feedback

            try:
                Feedback(self.settings).record(answer, question)
            except StorageError as error:
                logger.warning("the answer %s is not in the log: %s. %s", answer.request_id, error, error.hint)


def _checked(settings: object, manager: object, onnx: object, knowledge: object) -> None:
    """Raise :class:`ConfigError` for parts that are none."""
    expected(settings, Settings | None, "settings", "Pass Settings.load(top_k=3), for example, or None to have them read.", ConfigError)
    expected(manager, ModelManager | None, "manager", "Pass a ModelManager, or None to have one made.", ConfigError)
    expected(onnx, OnnxModels | None, "onnx", "Pass OnnxModels(settings), or None to have them loaded.", ConfigError)
    if knowledge is not None:
        from mdsa_local.knowledge.dual_rag import DualRAG

        expected(knowledge, DualRAG, "knowledge", "Pass a DualRAG, such as DualRAG(folder), or None for the configured place.", ConfigError)


def _nearest(passages: Iterable[Passage]) -> tuple[Passage, ...]:
    """Of passages, best first, the best of each heading, at most :data:`NEAREST`."""
    places: dict[tuple[str, str, str], Passage] = {}
    for passage in passages:
        places.setdefault((passage.knowledge_base, passage.source, passage.title), passage)
    return tuple(places.values())[:NEAREST]


def _answered(events: Iterable[Event]) -> Answer:
    """The answer at the end of ``events``."""
    *_, last = events
    if not isinstance(last, Completed):
        raise AssertionError("a stream ends with Completed")
    return last.answer


MDSA = TinyBERTOrchestrator
