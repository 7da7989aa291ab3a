"""The path of one question to its answer: route, retrieve, generate, validate."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mdsa_local.domains import quoting
from mdsa_local.domains.config import DomainConfig
from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.errors import StorageError
from mdsa_local.evidence import Evidence, Searcher, resolved
from mdsa_local.parts import Parts
from mdsa_local.stoppable import Leash
from mdsa_local.types import Answer, Draft, Event, Passage, Query, Retrieved, Revised, Route, Routed, Stage, Token, Verdict
from mdsa_local.unclaimed import unclaimed
from mdsa_local.understanding import Read, understood, within
from mdsa_local.validation import ladder

if TYPE_CHECKING:
    from mdsa_local.validation.grounding import Embed

logger = logging.getLogger(__name__)
# So many passages, of different headings, are named where none answers.
NEAREST = 3
# Why what was streamed does not stand, where nothing is wrong with the answer itself.
THOUGHTS = "it began with the model's thoughts"


class Answering:
    """One question under way. ``go_on`` is asked between two stages and raises where nobody wants the rest; ``leash`` stops the model."""

    def __init__(self, parts: Parts, query: Query, leash: Leash, go_on: Callable[[], None]) -> None:
        self._parts, self._query, self._leash, self._go_on = parts, query, leash, go_on
        self._began, self._request_id = time.perf_counter(), uuid.uuid4().hex
        self._trace: list[Stage] = []
        # For this question each domain stays what it is now, though it be replaced or removed meanwhile.
        self._known = {domain.name: domain for domain in parts.registry}

    def events(self) -> Generator[Event, None, Answer]:
        """What comes of it, as it comes, but for its end; returns the answer. Raises :class:`MDSAError`."""
        parts, query, trace = self._parts, self._query, self._trace
        parts.load_ahead()
        read: Read = self._timed("route", lambda: understood(query, parts.encoder, lambda: parts.router))
        read = read if query.domain else replace(read, route=within(read.route, self._domain))
        trace[-1] = replace(trace[-1], detail=read.detail)
        self._go_on()
        asked = read.text
        read, evidence = self._looked_up(read)
        route = read.route
        self._go_on()
        yield Routed(route)
        if route.domain is None:
            of_all = [query.domain] if query.domain else list(parts.registry)
            verdict, draft = Verdict("abstained", unclaimed(route, of_all, parts.settings), (), (), route.reason), None
            # Small talk needs neither encoder nor judge to be answered.
            verdict = verdict if route.small_talk else parts.marked(verdict)
            yield Token(verdict.text)
        else:
            yield Retrieved(evidence.passages)
            domain = self._domain(route.domain)
            draft = yield from self._generate(domain, read.text, evidence)
            judged = (read.text, draft, evidence.passages, self._embed, evidence.answering, domain.generation)
            verdict = self._timed("validate", lambda: ladder.judge(*judged))
            kind: Literal["citations", "replaced"] = "citations" if verdict.status == "success" and not draft.withdrawn else "replaced"
            verdict = parts.marked(verdict)
            if draft.withdrawn or verdict.text != draft.text:
                yield Revised(verdict.text, verdict.reason or (THOUGHTS if draft.withdrawn else ""), kind)
        self._go_on()
        answer = self._answer(route, draft, verdict)
        if answer.status == "not_found":
            answer = replace(answer, nearest=_nearest(evidence.passages))
        self._log(answer, asked)
        return answer

    @cached_property
    def _embed(self) -> Embed:
        return self._parts.encoder.remembering()

    def _domain(self, name: str) -> DomainConfig:
        """The domain of a name. The one that the caller chose may be registered otherwise, or not at all."""
        if self._query.domain is not None:
            return self._query.domain
        return self._known[name] if name in self._known else self._parts.registry.get(name)

    def _looked_up(self, read: Read) -> tuple[Read, Evidence]:
        """How the question is understood after a look into the documents, and what they say."""
        parts, route = self._parts, read.route
        judge = None if parts.degraded else parts.judge
        if route.domain is None and (judge is None or route.small_talk or route.outside or not route.scores):
            return read, Evidence()
        began = time.perf_counter()
        if parts.keeps_in_step:
            parts.following.follow()
            parts.following.tell_unfollowed([*parts.registry, *([self._domain(route.domain)] if route.domain else [])])
        if route.domain is not None and parts.knowledge.holds(route.domain):
            # Before and while passages are looked up; where there are none to be had, the model will not be asked.
            parts.executor.refuse_when_full(self._domain(route.domain))
            parts.executor.load_ahead(self._domain(route.domain), self._leash.stopped)
        searcher = Searcher(
            parts.knowledge,
            read.text,
            None if parts.degraded else read.vector,
            self._embed,
            judge.remembering() if judge else None,
            parts.settings.top_k,
            lambda name: parts.executor.quotes(self._domain(name)),
            # What was asked before is no part of what is asked now.
            () if read.turn else quoting.divided(read.text),
            read.turn,
        )
        route, evidence, odds, part = resolved(route, searcher)
        self._trace.append(Stage("retrieve", (time.perf_counter() - began) * 1000, {"odds": odds} if judge else {}))
        return replace(read, route=route, text=part.text if part else read.text), evidence

    def _generate(self, domain: DomainConfig, question: str, evidence: Evidence) -> Generator[Event, None, Draft]:
        began, first, detail = time.perf_counter(), 0.0, dict[str, Any]()
        passages, draft = evidence.passages, Draft("", "", "cancelled", 0, 0)
        reason = self._doubt(domain, question, evidence) if passages else "no passage was found"
        if reason:
            # No answer could stand: the model is not asked.
            yield Token(NOT_FOUND)
            return Draft(NOT_FOUND, "", "stop", 0, 0, reason)
        for piece in self._parts.executor.stream(domain, question, passages, self._embed, self._leash, evidence.extracts):
            if isinstance(piece, str):
                first = first or (time.perf_counter() - began) * 1000
                yield Token(piece)
            elif isinstance(piece, Draft):
                draft = piece
            else:
                detail = piece.detail()
        if draft.finish_reason == "cancelled":
            # What was stopped in the middle is no answer.
            self._go_on()
            raise self._parts.manager.cut_off(f"the model of {domain.name}")
        self._trace.append(Stage("generate", (time.perf_counter() - began) * 1000, {**detail, "first_token_ms": round(first, 2)}))
        return draft

    def _doubt(self, domain: DomainConfig, question: str, evidence: Evidence) -> str:
        """Why the model had better not be asked; empty when it may be. A model that only quotes is held to more than one that can decline."""
        against = evidence.doubt
        if not self._parts.degraded and against is not None and self._parts.executor.quotes(domain) and against.declines:
            return against.reason
        if evidence.answering:
            return ""
        closeness, _ = ladder.nearest(question, evidence.passages, self._embed)
        # The validation would refuse whatever the model writes.
        return "" if closeness >= ladder.FLOOR else f"no sentence in the documents is near enough to the question ({max(closeness, 0):.2f})"

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        self._trace.append(Stage(stage, (time.perf_counter() - began) * 1000))
        return result

    def _answer(self, route: Route, draft: Draft | None, verdict: Verdict) -> Answer:
        model, tokens = (draft.model, draft.tokens_generated) if draft else ("", 0)
        return Answer(
            request_id=self._request_id,
            status=verdict.status,
            response=verdict.text,
            domain=route.domain,
            confidence=route.confidence,
            scores=route.scores,
            model=model,
            tokens_generated=tokens,
            latency_ms=(time.perf_counter() - self._began) * 1000,
            citations=verdict.cited,
            verdict=verdict,
            trace=tuple(self._trace),
            reason=verdict.reason or route.reason,
            metadata=self._query.metadata,
            elsewhere=route.elsewhere,
        )

    def _log(self, answer: Answer, question: str) -> None:
        """Keep the answer where the setting ``answer_log`` says so. A disk that cannot take it does not take the answer from the user."""
        if self._parts.settings.answer_log:
            from mdsa_local.feedback.store import Feedback

            try:
                Feedback(self._parts.settings).record(answer, question)
            except StorageError as error:
                logger.warning("the answer %s is not in the log: %s. %s", answer.request_id, error, error.hint)


def _nearest(passages: Iterable[Passage]) -> tuple[Passage, ...]:
    """Of passages, best first, the best of each heading, at most :data:`NEAREST`."""
    places: dict[tuple[str, str, str], Passage] = {}
    for passage in passages:
        places.setdefault((passage.knowledge_base, passage.source, passage.title), passage)
    return tuple(places.values())[:NEAREST]
