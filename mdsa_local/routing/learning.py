"""Teach the router from a user's own examples and corrections, and keep what it learned only where held-out questions say that it is better."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mdsa_local.errors import ConfigError, InputError
from mdsa_local.jsonlines import folded
from mdsa_local.routing import fitting
from mdsa_local.routing.encoder import Encoder, remembering
from mdsa_local.routing.router import IntentRouter, stamp

if TYPE_CHECKING:
    from mdsa_local.domains.config import DomainConfig
    from mdsa_local.orchestrator import TinyBERTOrchestrator

logger = logging.getLogger(__name__)

# Shares held out: of the new examples, and of those the router knows already, which must not suffer.
HELD_OUT, HELD_OUT_KNOWN = 0.3, 0.2
# Of fewer new examples too few would be held out to tell anything.
LEAST_EXAMPLES = 10

Pair = tuple[str, str | None]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Counts:
    """Held-out questions, and for how many of them the router says what it should: their domain, or none for those out of scope."""

    n: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """What came of :func:`learn`. ``own``: held-out new examples; ``known``: held-out ones of those it knew before; ``report``: of the final fit."""

    examples: int
    own: Counts
    known: Counts
    installed: bool
    report: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the ``--json`` form."""
        return {
            "examples": self.examples,
            "held_out": {"n": self.own.n, "right_before": self.own.before, "right_after": self.own.after},
            "known": {"n": self.known.n, "right_before": self.known.before, "right_after": self.known.after},
            "installed": self.installed,
            "fit": dict(self.report),
        }


@dataclass(frozen=True, slots=True)
class _Known:
    """What a router is made of: the examples of each domain, questions out of scope, and whether and how it is fitted, with which seed."""

    examples: Mapping[str, tuple[str, ...]]
    outside: tuple[str, ...]
    fitted: bool
    per_domain: bool = False
    seed: int = 0

    def without(self, texts: Iterable[str]) -> _Known:
        """Without the examples that are among ``texts``."""
        gone = {folded(text) for text in texts}
        examples = {name: tuple(text for text in own if folded(text) not in gone) for name, own in self.examples.items()}
        return replace(self, examples=examples, outside=tuple(text for text in self.outside if folded(text) not in gone))

    def restored(self, texts: Iterable[str], domains: Iterable[DomainConfig]) -> _Known:
        """With those of the ``domains``' own examples that are among ``texts``, and are not known, back among theirs."""
        back = {folded(text) for text in texts}
        examples = dict(self.examples)
        for domain in domains:
            mine = {folded(text) for text in examples.get(domain.name, ())}
            own = tuple(text for text in domain.examples if folded(text) in back - mine)
            examples[domain.name] = (*examples.get(domain.name, ()), *own)
        return replace(self, examples=examples)

    @property
    def says(self) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
        """What is known of which domain, and of none, in whatever order."""
        return {name: frozenset(own) for name, own in self.examples.items() if own}, frozenset(self.outside)

    def taught(self, pairs: Sequence[Pair]) -> _Known:
        """With ``pairs`` for examples, to be fitted. What one of them says elsewhere, another domain's example said wrongly."""
        bare = self.without(text for text, _ in pairs)
        examples = {name: own + tuple(text for text, domain in pairs if domain == name) for name, own in bare.examples.items()}
        return replace(bare, examples=examples, outside=bare.outside + tuple(text for text, domain in pairs if domain is None), fitted=True)


class _Remembering:
    """An encoder that encodes each text once."""

    def __init__(self, encoder: Encoder) -> None:
        self.fingerprint = encoder.fingerprint
        self.encode = remembering(encoder.encode)


def learn(orchestrator: TinyBERTOrchestrator, pairs: Iterable[Pair], seed: int = 0) -> Lesson:
    """Fit the router to ``(text, domain)`` pairs beside what it knows, and install it if that is better; domain None for out of scope.

    Both the router as it is and the new one are made without the held-out questions, and asked them. The new one wins when it is right about more
    of the held-out new examples, and that gain is larger than what it loses on held-out ones it knew before; then it is fitted to all of them and
    replaces the router's file. Of a text given twice the last counts. Raises :class:`InputError` for too few examples, :class:`UnknownNameError`,
    :class:`ConfigError`, :class:`StorageError`.
    """
    given = list({folded(text): (text, domain) for text, domain in pairs}.values())
    for name in dict.fromkeys(domain for _, domain in given if domain is not None):
        orchestrator.registry.get(name)
    if len(given) < LEAST_EXAMPLES:
        raise InputError(f"{len(given)} different examples to learn from, {LEAST_EXAMPLES} are needed", "Add lines, or mark more answers.")
    encoder = _Remembering(at_work(orchestrator))
    fitting.refuse_unwritable(orchestrator.settings.router_file)
    known = _present(orchestrator)
    train, held = _split(given, seed, HELD_OUT)
    before = [(text, name) for name, own in known.examples.items() for text in own] + [(text, None) for text in known.outside]
    new = {folded(text) for text, _ in given}
    _, guarded = _split([pair for pair in before if folded(pair[0]) not in new], seed, HELD_OUT_KNOWN)
    seen = known.without(text for text, _ in (*held, *guarded))
    routers = [_router(orchestrator, encoder, made, seed) for made in (seen, seen.taught(train))]
    own, old = (Counts(len(asked), *(right(router, asked) for router in routers)) for asked in (held, guarded))
    if not wins(own, old):
        return Lesson(len(given), own, old, False, {})
    final = _router(orchestrator, encoder, known.taught(given), seed)
    final.save(orchestrator.settings.router_file, orchestrator.registry)
    return Lesson(len(given), own, old, True, final.report)


def wins(own: Counts, known: Counts) -> bool:
    """Whether the new router is better: it gains on what is new, and more than it loses on what was known."""
    return own.after > own.before and own.after - own.before > known.before - known.after


def right(router: IntentRouter, pairs: Sequence[Pair]) -> int:
    """How many questions are routed as they should be; one out of scope to no domain."""
    if not pairs:
        return 0
    routes, _ = router.decided([text for text, _ in pairs])
    return sum(route.domain == domain for route, (_, domain) in zip(routes, pairs, strict=True))


def forget(orchestrator: TinyBERTOrchestrator, texts: Iterable[str]) -> Literal["", "fitted", "removed"]:
    """Fit the installed router again without ``texts``, whoever taught it these; what was done, empty where it held none. A text that is an example
    of a domain's own is that again, wherever a mark had moved it.

    A file that cannot be used any more, made for other domains say, is removed: it would keep them. So is one that nothing is left in to fit. Raises
    :class:`ConfigError` where the encoder is not at work and :class:`StorageError` where the file cannot be read, and leaves the file then.
    """
    path = orchestrator.settings.router_file
    gone = list(texts)
    if not gone or not path.is_file():
        return ""
    encoder = _Remembering(_of_vectors(orchestrator))
    try:
        known = _saved(orchestrator)
    except ConfigError as error:
        logger.warning("%s; it is removed", error)
        path.unlink()
        return "removed"
    bare = known.without(gone).restored(gone, orchestrator.registry)
    if bare.says == known.says:
        return ""
    if not any(bare.examples.values()):
        path.unlink()
        return "removed"
    _router(orchestrator, encoder, bare, bare.seed).save(path, orchestrator.registry)
    return "fitted"


def at_work(orchestrator: TinyBERTOrchestrator) -> Encoder:
    """The encoder that learning takes. Raises :class:`ConfigError` where words stand in for it, or a trained classifier routes."""
    encoder = _of_vectors(orchestrator)
    if encoder.classifier is not None:
        raise ConfigError("nothing to learn: a trained classifier routes", "Train it again, or set `encoder` to an encoder.")
    return encoder


def _of_vectors(orchestrator: TinyBERTOrchestrator) -> Encoder:
    """The encoder that a router's file is made with, whatever routes. Raises :class:`ConfigError` where words stand in for it."""
    encoder = orchestrator.encoder
    if not isinstance(encoder, Encoder):
        raise ConfigError(f"the router cannot learn without its encoder: {encoder.reason}", "Put that right first; see `mdsa doctor`.")
    return encoder


def _present(orchestrator: TinyBERTOrchestrator) -> _Known:
    """What the router knows now: what its file holds, else the domains' examples."""
    if orchestrator.settings.router_file.is_file():
        try:
            return _saved(orchestrator)
        except ConfigError as error:
            logger.warning("%s; what it had learned beyond the domains' examples is not used", error)
    return _Known({domain.name: domain.examples for domain in orchestrator.registry}, (), False)


def _saved(orchestrator: TinyBERTOrchestrator) -> _Known:
    saved = fitting.load(orchestrator.settings.router_file, _of_vectors(orchestrator).fingerprint, stamp(orchestrator.registry))
    examples = {
        name: tuple(text for text, kind in zip(anchors.texts, anchors.kinds, strict=True) if kind == "example")
        for name, anchors in saved.anchors.items()
    }
    outside = saved.outside.texts if saved.outside else ()
    return _Known(examples, outside, True, saved.fit.thresholds.per_domain is not None, saved.seed)


def _router(orchestrator: TinyBERTOrchestrator, encoder: _Remembering, known: _Known, seed: int) -> IntentRouter:
    router = IntentRouter.for_settings(orchestrator.settings, encoder, _of_vectors(orchestrator).calibration)
    router.register_all(
        [domain.model_copy(update={"examples": known.examples.get(domain.name, ())}) for domain in orchestrator.registry], refit=False
    )
    if known.fitted:
        router.fit([(text, None) for text in known.outside], seed, per_domain=known.per_domain)
    return router


def _split(pairs: Sequence[Pair], seed: int, share: float) -> tuple[list[Pair], list[Pair]]:
    """``(to learn from, held out)``: of each domain its share, drawn by ``seed``, and never all it has."""
    groups: dict[str | None, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: (pair[1] or "", pair[0])):
        groups.setdefault(pair[1], []).append(pair)
    rng = random.Random(seed)
    train: list[Pair] = []
    held: list[Pair] = []
    for group in groups.values():
        rng.shuffle(group)
        count = min(max(1, round(share * len(group))), len(group) - 1)
        held += group[:count]
        train += group[count:]
    return train, held
