"""Run a set of questions through the whole pipeline, once for each model and once without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mdsa_local.domains import quoting
from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.errors import InputError, MDSAError, UnknownNameError
from mdsa_local.evaluation.metrics import KINDS, Judged, Response, judge, summary
from mdsa_local.evaluation.questions import Case, is_source
from mdsa_local.runtime.gguf import read_gguf
from mdsa_local.types import Completed, Event, Retrieved, Routed, Token
from mdsa_local.validation.ladder import FLOOR

if TYPE_CHECKING:
    from mdsa_local.orchestrator import TinyBERTOrchestrator

BASELINE = "no model"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Run:
    """Every question of a set, judged, for one model; :data:`BASELINE` is the best-matching sentence by the encoder."""

    model: str
    judged: tuple[Judged, ...]

    def report(self) -> dict[str, Any]:
        """The figures over all questions, by where the answer stands (:data:`KINDS`) and by domain."""
        return {
            "model": self.model,
            **summary(self.judged),
            "by_kind": {kind: summary(part) for kind in KINDS if (part := [j for j in self.judged if j.kind == kind])},
            "by_domain": {name: summary([j for j in self.judged if j.case.domain == name]) for name in sorted({j.case.domain for j in self.judged})},
        }


def with_models(
    orchestrator: TinyBERTOrchestrator,
    cases: Sequence[Case],
    models: Sequence[str] = (),
    *,
    domain_given: bool = False,
    progress: Callable[[str], Progress] | None = None,
    done: Callable[[Run], None] | None = None,
) -> list[Run]:
    """A :class:`Run` for each of ``models``; none: one with the domains as configured.

    ``domain_given`` skips the routing; ``progress`` gives, for a model's name, what is told of its run; ``done`` gets each run as soon as it is
    through. Raises :class:`InputError` when a case names a domain or document that is not there, and the errors of a model that cannot be used; one
    that a single question meets is counted instead.
    """
    orchestrator.prepare()
    kinds = kinds_of(orchestrator, cases)
    for model in models:
        path = orchestrator.manager.resolve(model)
        if isinstance(path, Path):
            # A damaged one is told before the others have taken hours.
            read_gguf(path)
    configured = sorted({domain.model or orchestrator.settings.default_model for domain in orchestrator.registry})
    wanted: list[tuple[str, str | None]] = [(model, model) for model in dict.fromkeys(models)]
    runs = []
    for name, reference in wanted or [(", ".join(configured), None)]:
        tell = progress(name) if progress else None
        with _using(orchestrator, reference):
            for needed in [reference] if reference else configured:
                orchestrator.manager.ensure_ready(needed)
            runs.append(_run(name, cases, kinds, lambda case: answered(orchestrator, case, domain_given), domain_given, tell))
        if done:
            done(runs[-1])
    return runs


def without_model(
    orchestrator: TinyBERTOrchestrator, cases: Sequence[Case], *, domain_given: bool = False, progress: Callable[[str], Progress] | None = None
) -> Run:
    """The run of the same questions without a model, to see what one adds. Otherwise as :func:`with_models`."""
    orchestrator.prepare()
    kinds = kinds_of(orchestrator, cases)
    tell = progress(BASELINE) if progress else None
    return _run(BASELINE, cases, kinds, lambda case: nearest(orchestrator, case, domain_given), domain_given, tell)


def kinds_of(orchestrator: TinyBERTOrchestrator, cases: Sequence[Case]) -> list[str]:
    """Where each answer stands: ``own``, ``shared`` or ``both`` by the first source of each group, ``none`` where nothing answers.

    Raises :class:`InputError` for a domain or a document that is not there, and without any cases.
    """
    if not cases:
        raise InputError("there are no questions to evaluate", "Pass one or more cases.")
    shared = [entry.source for entry in orchestrator.knowledge.list_documents(None)]
    own: dict[str, list[str]] = {}
    kinds = []
    for case in cases:
        if case.domain not in own:
            try:
                orchestrator.registry.get(case.domain)
            except UnknownNameError as error:
                raise InputError(f"{case.place}: {error}", error.hint) from None
            own[case.domain] = [entry.source for entry in orchestrator.knowledge.list_documents(case.domain)]
        places = []
        for group in case.sources:
            where = [_place(name, own[case.domain], shared, case) for name in group]
            places.append(where[0])
        kinds.append(("both" if len(set(places)) > 1 else places[0]) if places else "none")
    return kinds


def _place(name: str, own: Sequence[str], shared: Sequence[str], case: Case) -> str:
    for kind, sources in (("own", own), ("shared", shared)):
        if any(is_source(name, source) for source in sources):
            return kind
    close = get_close_matches(name, [PurePosixPath(source).name for source in (*own, *shared)], 1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise InputError(
        f"{case.place}: no document {name!r} in the shared knowledge base or that of {case.domain!r}", f"{hint}mdsa kb list shows the documents."
    )


@contextmanager
def _using(orchestrator: TinyBERTOrchestrator, model: str | None) -> Iterator[None]:
    """All domains on ``model``, for a while."""
    before = list(orchestrator.registry)
    for domain in [orchestrator.executor.tried_with(domain, model) for domain in before] if model else ():
        orchestrator.registry.register(domain)
    try:
        yield
    finally:
        for domain in before:
            orchestrator.registry.register(domain)


def _run(name: str, cases: Sequence[Case], kinds: Sequence[str], ask: Callable[[Case], Response], domain_given: bool, tell: Progress | None) -> Run:
    judged = []
    # What the first question loads (router, tables, the model's first pass) is not what a question costs.
    ask(cases[0])
    for at, (case, kind) in enumerate(zip(cases, kinds, strict=True)):
        if tell:
            tell(case.question, at, len(cases))
        judged.append(judge(case, kind, ask(case), domain_given=domain_given))
    if tell:
        tell("", len(cases), len(cases))
    return Run(name, tuple(judged))


def answered(orchestrator: TinyBERTOrchestrator, case: Case, domain_given: bool) -> Response:
    """What the pipeline answers."""
    began, first = time.perf_counter(), 0.0
    passages: tuple[Any, ...] = ()
    routed: str | None = None
    event: Event | None = None
    try:
        for event in orchestrator.stream(case.question, domain=case.domain if domain_given else None):
            if isinstance(event, Routed):
                routed = event.route.domain
            elif isinstance(event, Retrieved):
                passages = event.passages
            elif isinstance(event, Token):
                first = first or (time.perf_counter() - began) * 1000
    except MDSAError as error:
        return Response("error", "", routed, passages, (), latency_ms=(time.perf_counter() - began) * 1000, error=str(error))
    if not isinstance(event, Completed):
        raise AssertionError("a stream ends with Completed")
    answer = event.answer
    generated = next((stage for stage in answer.trace if stage.stage == "generate"), None)
    whole = generated.ms if generated else 0.0
    return Response(
        status=answer.status,
        text=answer.response,
        domain=answer.domain,
        passages=passages,
        cited=tuple(citation.passage for citation in answer.citations),
        tokens=answer.tokens_generated,
        generate_ms=whole,
        decode_ms=whole - float(generated.detail["first_token_ms"]) if generated else 0.0,
        first_token_ms=first,
        latency_ms=answer.latency_ms,
    )


def nearest(orchestrator: TinyBERTOrchestrator, case: Case, domain_given: bool) -> Response:
    """What the encoder alone answers: the sentence, or list of steps, of the retrieved passages that is nearest to the question.

    It refuses where the product refuses: no domain, no passage, or nothing nearer than :data:`~mdsa_local.validation.ladder.FLOOR`.
    """
    began = time.perf_counter()
    passages: tuple[Any, ...] = ()
    domain: str | None = None
    try:
        with orchestrator.stream(case.question, domain=case.domain if domain_given else None) as events:
            for event in events:
                if isinstance(event, Routed):
                    domain = event.route.domain
                if isinstance(event, Retrieved):
                    passages = event.passages
                if isinstance(event, Retrieved | Token):
                    break
    except MDSAError as error:
        return Response("error", "", domain, passages, (), latency_ms=(time.perf_counter() - began) * 1000, error=str(error))
    best = quoting.shortlist(case.question, [(passage.title, passage.text) for passage in passages], orchestrator.encoder.encode, 1)
    ms = (time.perf_counter() - began) * 1000
    if domain is None or not best or best[0].nearness < FLOOR:
        return Response("abstained" if domain is None else "not_found", NOT_FOUND, domain, passages, (), latency_ms=ms)
    return Response("success", best[0].quoted, domain, passages, (passages[best[0].passage],), latency_ms=ms)
