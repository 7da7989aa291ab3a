"""What questions are answered with: encoder, router, judge, knowledge bases and models, each made when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from mdsa_local.domains.config import DomainConfig
from mdsa_local.domains.executor import DomainExecutor
from mdsa_local.domains.registry import DomainRegistry
from mdsa_local.errors import ConfigError, expected
from mdsa_local.knowledge.following import Following
from mdsa_local.onnx_models import OnnxModels
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.settings import Settings
from mdsa_local.types import Verdict

if TYPE_CHECKING:
    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.routing.encoder import Encoder
    from mdsa_local.routing.lexical import LexicalEncoder
    from mdsa_local.routing.router import IntentRouter
    from mdsa_local.validation.judge import AnswerJudge


class Parts:
    """The parts of an orchestrator, made from ``settings`` where they are not given. Safe to share between threads."""

    def __init__(
        self,
        settings: Settings,
        manager: ModelManager | None,
        knowledge: DualRAG | None,
        domains: Iterable[DomainConfig] | None,
        onnx: OnnxModels | None,
    ) -> None:
        self.settings = settings
        self._onnx = onnx or OnnxModels(settings)
        self.manager = manager or ModelManager(settings)
        self.executor = DomainExecutor(self.manager, settings)
        self.registry = DomainRegistry.from_folders(settings.domain_dirs) if domains is None else DomainRegistry.given(domains)
        # What a router on disk was fitted to, as no program but this one knows of domains registered later.
        self._configured = tuple(self.registry)
        self._knowledge = knowledge
        self._lock = threading.RLock()
        self.following = Following(settings, lambda: self.knowledge, lambda: self.encoder.fingerprint)

    @cached_property
    def encoder(self) -> Encoder | LexicalEncoder:
        """The sentence encoder, loaded when first needed; see :attr:`OnnxModels.encoder`."""
        return self._onnx.encoder

    @property
    def judge(self) -> AnswerJudge | None:
        """The judge of which sentences answer, loaded when first needed; see :attr:`OnnxModels.judge`."""
        return self._onnx.judge

    @property
    def degraded(self) -> str:
        """Why the encoder is not at work; empty when it is."""
        return getattr(self.encoder, "reason", "")

    @property
    def lesser(self) -> str:
        """Why an answer is less than it could be; empty when nothing is amiss."""
        if self.degraded:
            return f"found by words alone: {self.degraded}"
        return f"chosen by nearness alone: {self._onnx.unjudged}" if self._onnx.unjudged else ""

    def marked(self, verdict: Verdict) -> Verdict:
        """``verdict`` with the reason why it is less than it could be; a success is degraded by it, a refusal stays one."""
        if not (lesser := self.lesser):
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
            home=settings.home,
        )

    @property
    def keeps_in_step(self) -> bool:
        """Whether the knowledge bases are ours to change. Without the encoder nothing can be embedded; what is there is searched by words."""
        return self._knowledge is None and not self.degraded

    def load_ahead(self) -> None:
        """Begin with what every question needs, beside what else is done for it."""
        self._onnx.load_judge_ahead()


def checked(settings: object, manager: object, onnx: object, knowledge: object) -> None:
    """Raise :class:`ConfigError` for parts that are none."""
    expected(settings, Settings | None, "settings", "Pass Settings.load(top_k=3), for example, or None to have them read.", ConfigError)
    expected(manager, ModelManager | None, "manager", "Pass a ModelManager, or None to have one made.", ConfigError)
    expected(onnx, OnnxModels | None, "onnx", "Pass OnnxModels(settings), or None to have them loaded.", ConfigError)
    if knowledge is not None:
        from mdsa_local.knowledge.dual_rag import DualRAG

        expected(knowledge, DualRAG, "knowledge", "Pass a DualRAG, such as DualRAG(folder), or None for the configured place.", ConfigError)
