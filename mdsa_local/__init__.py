"""mdsa_local: several small language models on your own machine behind one front door.

Every public name is importable from here and loaded on first use; ``import mdsa_local`` itself loads no heavy library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "orchestrator": ("MDSA", "TinyBERTOrchestrator"),
    "domains.config": ("DomainConfig", "Generation"),
    "domains.executor": ("DomainExecutor",),
    "domains.predefined": ("create_finance_domain", "create_medical_domain", "create_support_domain", "create_technical_domain"),
    "domains.registry": ("DomainRegistry",),
    "feedback.store": ("Feedback",),
    "knowledge.dual_rag": ("DualRAG",),
    "routing.encoder": ("Encoder",),
    "routing.router": ("IntentRouter",),
    "runtime.hardware": ("HardwareDetector",),
    "runtime.manager": ("ModelManager",),
    "settings": ("Settings",),
    "types": (
        "Answer", "Check", "Citation", "Completed", "Draft", "Event", "Passage", "Query", "Retrieved", "Revised", "Route", "Routed", "Stage",
        "Token", "Verdict",
    ),
    "errors": (
        "BackendError", "BackendTimeoutError", "BackendUnavailableError", "BusyError", "ClosedError", "ConfigError", "ContextOverflowError",
        "DependencyError", "InputError", "InvalidOutputError",
        "MDSAError", "ModelError", "ModelFileError", "ModelMemoryError", "ModelNotFoundError", "StorageError", "UnknownNameError",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _WHERE.items() for name in names}
__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from mdsa_local.domains.config import DomainConfig as DomainConfig
    from mdsa_local.domains.config import Generation as Generation
    from mdsa_local.domains.executor import DomainExecutor as DomainExecutor
    from mdsa_local.domains.predefined import create_finance_domain as create_finance_domain
    from mdsa_local.domains.predefined import create_medical_domain as create_medical_domain
    from mdsa_local.domains.predefined import create_support_domain as create_support_domain
    from mdsa_local.domains.predefined import create_technical_domain as create_technical_domain
    from mdsa_local.domains.registry import DomainRegistry as DomainRegistry
    from mdsa_local.errors import *  # noqa: F403
    from mdsa_local.feedback.store import Feedback as Feedback
    from mdsa_local.knowledge.dual_rag import DualRAG as DualRAG
    from mdsa_local.orchestrator import MDSA as MDSA
    from mdsa_local.orchestrator import TinyBERTOrchestrator as TinyBERTOrchestrator
    from mdsa_local.routing.encoder import Encoder as Encoder
    from mdsa_local.routing.router import IntentRouter as IntentRouter
    from mdsa_local.runtime.hardware import HardwareDetector as HardwareDetector
    from mdsa_local.runtime.manager import ModelManager as ModelManager
    from mdsa_local.settings import Settings as Settings
    from mdsa_local.types import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
