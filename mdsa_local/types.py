"""The values that travel between stages: ``Query -> Route -> Passage -> Draft -> Verdict -> Answer``.

All are frozen. Scores and confidences lie in 0..1; ``*_ms`` are milliseconds; ``start`` and ``end`` are byte offsets into the source file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from mdsa_local.domains.config import DomainConfig

Status = Literal["success", "degraded", "not_found", "abstained", "error"]


class Turn(NamedTuple):
    """A message that does not stand alone, and the one before it."""

    previous: str
    message: str

    @property
    def together(self) -> str:
        """The two as one text, which is routed, looked up and answered."""
        return f"{self.previous.rstrip()} {self.message}"


@dataclass(frozen=True, slots=True)
class Query:
    """A question as it enters. ``domain``: the one the caller chose. ``history``: the user's earlier turns, oldest first. ``metadata`` carries
    ``user_id``, ``session_id`` and whatever else the caller passes."""

    text: str
    domain: DomainConfig | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a question that belongs to a domain of its own; ``text`` stands in the question from character ``start`` to ``end``."""

    domain: str
    text: str
    confidence: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Route:
    """Where a question belongs; ``domain`` is None when no domain fits.

    ``parts``: the pieces of a question that belongs to several domains, else empty. ``context`` says whether the message decided alone or
    together with the user's previous turn; ``switched``: it changed the topic of that turn. ``degraded``: why the route was found by words
    alone; empty when it was found by the encoder. ``small_talk``: a greeting or the like, which no domain is for and no document answers.
    ``outside``: like a question that was said to belong to no domain, so that no document is asked.
    """

    domain: str | None
    confidence: float
    scores: Mapping[str, float]
    reason: str
    ms: float = 0.0
    parts: tuple[Part, ...] = ()
    context: Literal["message", "with_previous"] = "message"
    switched: bool = False
    degraded: str = ""
    small_talk: bool = False
    outside: bool = False

    @property
    def abstained(self) -> bool:
        """Whether no domain was chosen."""
        return self.domain is None

    @property
    def elsewhere(self) -> tuple[Part, ...]:
        """The parts that belong to another domain than the chosen one."""
        return tuple(part for part in self.parts if part.domain != self.domain)


@dataclass(frozen=True, slots=True)
class Near:
    """An anchor near a question: an example, keyword, description or name of a domain."""

    domain: str
    text: str
    kind: str
    similarity: float


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """A route and what decided it.

    ``near``: the nearest anchors of the likeliest domains; ``evidence``: mean similarity to the nearest anchors of each domain, -1..1;
    ``scope``: probability of belonging to any domain; ``accept`` and ``ask``: the thresholds, ``per_domain`` those of single domains in
    place of ``ask``; ``head_weight``: how much the trained head counts beside the evidence, 0..1.
    """

    route: Route
    near: tuple[Near, ...]
    evidence: Mapping[str, float]
    scope: float
    accept: float
    ask: float
    per_domain: Mapping[str, float]
    head_weight: float


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document as retrieved. ``knowledge_base`` is ``global`` or the name of a domain."""

    id: str
    source: str
    knowledge_base: str
    title: str
    text: str
    start: int
    end: int
    score: float

    def to_dict(self) -> dict[str, Any]:
        """A flat dict of plain values, the ``--json`` form."""
        return {**asdict(self), "score": round(self.score, 4)}


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage an answer rests on, and the ``number`` that stands for it as ``[number]`` in the text."""

    number: int
    passage: Passage

    def to_dict(self) -> dict[str, Any]:
        """A flat dict of plain values, the ``--json`` form."""
        return {"number": self.number, **self.passage.to_dict()}


@dataclass(frozen=True, slots=True)
class Draft:
    """What a model wrote, before validation; or the refusal, with the ``doubt`` for which no model was asked. ``thought``: whether it
    wrote thoughts before, which are not in the text; ``withdrawn``: whether they were streamed as if they were."""

    text: str
    model: str
    finish_reason: str
    prompt_tokens: int
    tokens_generated: int
    doubt: str = ""
    thought: bool = False
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One validation check and what it found."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What validation made of a draft: the text to show, the passages it cites, and why.

    ``support`` is the mean share (0..1) of each sentence's content that its passage holds; ``lesser``: encoder or judge were missing.
    """

    status: Status
    text: str
    cited: tuple[Citation, ...]
    checks: tuple[Check, ...]
    reason: str = ""
    support: float = 0.0
    lesser: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One line of an answer's trace."""

    stage: str
    ms: float
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer. ``confidence`` is that of the routing; ``reason`` says why it is no ``success``, or else why it was routed so.

    ``elsewhere``: the parts of the question that belong to other domains and were not asked there. ``nearest``: where the documents do not answer
    (``not_found``), up to three passages that came nearest, for the user to judge.
    """

    request_id: str
    status: Status
    response: str
    domain: str | None
    confidence: float
    scores: Mapping[str, float]
    model: str
    tokens_generated: int
    latency_ms: float
    citations: tuple[Citation, ...]
    verdict: Verdict
    trace: tuple[Stage, ...]
    used_reasoning: bool = False
    reason: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: tuple[Part, ...] = ()
    nearest: tuple[Passage, ...] = ()

    @property
    def degraded(self) -> bool:
        """Whether this is a lesser answer than the model was asked for, or was found without the encoder or the judge, refusals too."""
        return self.status == "degraded" or self.verdict.lesser

    def to_dict(self) -> dict[str, Any]:
        """A flat dict of plain values, the ``--json`` form; the list of keys is part of the interface. What JSON cannot hold of ``metadata``
        is text."""
        return {
            "request_id": self.request_id,
            "status": self.status,
            "response": self.response,
            "domain": self.domain,
            "confidence": round(self.confidence, 4),
            "scores": {name: round(score, 4) for name, score in self.scores.items()},
            "used_reasoning": self.used_reasoning,
            "degraded": self.degraded,
            "elsewhere": [{"domain": part.domain, "text": part.text} for part in self.elsewhere],
            "model": self.model,
            "tokens_generated": self.tokens_generated,
            "latency_ms": round(self.latency_ms, 2),
            "citations": [citation.to_dict() for citation in self.citations],
            "nearest": [passage.to_dict() for passage in self.nearest],
            "verdict": {"status": self.verdict.status, "reason": self.verdict.reason, "checks": [asdict(check) for check in self.verdict.checks]},
            "trace": [{"stage": s.stage, "ms": round(s.ms, 2), **s.detail} for s in self.trace],
            "reason": self.reason,
            "error": None,
            "metadata": plain(self.metadata),
        }


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """``metadata`` as JSON holds it; what it cannot hold becomes text, as in the metadata of documents."""
    made = dict[str, Any]()
    for key, value in metadata.items():
        try:
            made[str(key)] = json.loads(json.dumps(value, default=str, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            # A key that is no text, a number that is none, something that holds itself.
            made[str(key)] = str(value)
    return made


@dataclass(frozen=True, slots=True)
class Routed:
    """Stream event: the route is known."""

    route: Route


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Stream event: the passages are known."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """Stream event: a piece of the draft, as the model writes it."""

    text: str


@dataclass(frozen=True, slots=True)
class Revised:
    """Stream event: the streamed draft does not stand; ``text`` does. ``kind`` is ``citations`` when only ``[n]`` marks were set right, or code
    that would be read as such was put between backticks."""

    text: str
    reason: str
    kind: Literal["citations", "replaced"] = "replaced"


@dataclass(frozen=True, slots=True)
class Completed:
    """Stream event: the end."""

    answer: Answer


Event = Routed | Retrieved | Token | Revised | Completed
