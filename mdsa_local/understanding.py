"""How a question is understood: its route, and the text that is searched and answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mdsa_local.errors import UnknownNameError
from mdsa_local.types import Query, Route, Turn

if TYPE_CHECKING:
    from mdsa_local.routing.encoder import Encoder
    from mdsa_local.routing.lexical import LexicalEncoder
    from mdsa_local.routing.router import IntentRouter


@dataclass(frozen=True, slots=True)
class Read:
    """How a question was understood: its route, the text that is searched and answered (with the previous turn where it leans on it),
    the vector of that text, what the trace tells of it, and the turn it is read as, where it is."""

    route: Route
    text: str
    vector: Any
    detail: Mapping[str, Any]
    turn: Turn | None = None


def understood(query: Query, encoder: Encoder | LexicalEncoder, router: Callable[[], IntentRouter]) -> Read:
    """How ``query`` is understood. ``router`` is asked for only where it is needed: a question without history whose domain was chosen needs none."""
    chosen = query.domain
    if len(query.history) > 1:
        query = replace(query, history=(router().topic(query.history, chosen),))
    if chosen is not None and not query.history:
        route = Route(chosen.name, 1.0, {chosen.name: 1.0}, "chosen by the caller")
        return Read(route, query.text, encoder.encode([query.text])[0], {"truncated": encoder.cuts(query.text)})
    route, vector = router().routed(query.text, query.history, chosen)
    if chosen is not None and not route.small_talk:
        route = replace(route, domain=chosen.name, confidence=1.0, scores={chosen.name: 1.0}, reason="chosen by the caller", parts=(), outside=False)
    turn = None if route.context == "message" else Turn(query.history[-1], query.text)
    text = turn.together if turn else query.text
    detail: dict[str, Any] = {"context": route.context, "truncated": encoder.cuts(text)}
    if route.parts:
        detail["parts"] = [[part.domain, part.text] for part in route.parts]
    return Read(route, text, vector, detail, turn)


def within(route: Route, domains: Callable[[str], object]) -> Route:
    """``route`` without what the router alone knows, as where a domain was registered there only: nothing can be asked of that. ``domains`` raises
    :class:`UnknownNameError` for such a name."""
    unknown = {name for name in route.scores if not _known(name, domains)}
    if not unknown:
        return route
    scores = {name: score for name, score in route.scores.items() if name not in unknown}
    parts = tuple(part for part in route.parts if part.domain not in unknown)
    route = replace(route, scores=scores, parts=parts if len(parts) > 1 else ())
    if route.domain not in unknown:
        return route
    why = f"{route.domain} is known to the router alone; register_domain makes it a domain"
    return replace(route, domain=None, confidence=0.0, reason=why)


def _known(name: str, domains: Callable[[str], object]) -> bool:
    try:
        domains(name)
    except UnknownNameError:
        return False
    return True
