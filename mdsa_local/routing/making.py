"""The router of an orchestrator: the one on disk where there is one, for the domains there are now."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import ConfigError, StorageError
from mdsa_local.routing.router import IntentRouter, stamp
from mdsa_local.settings import Settings

if TYPE_CHECKING:
    from mdsa_local.routing.encoder import Encoder
    from mdsa_local.routing.lexical import LexicalEncoder

logger = logging.getLogger(__name__)


def made_router(
    settings: Settings, encoder: Encoder | LexicalEncoder, domains: Sequence[DomainConfig], configured: Sequence[DomainConfig]
) -> IntentRouter:
    """A router that knows ``domains`` and no others, which refits in the background. What ``mdsa router fit`` left on disk was fitted to those
    ``configured``, as no program but this one knows of domains registered later."""
    router = IntentRouter.for_settings(settings, encoder, encoder.calibration, settings.home / "cache" / "anchors", background=True, closed=True)
    # Words alone and a trained classifier have nothing that could have been fitted.
    fitted = not getattr(encoder, "reason", "") and getattr(encoder, "classifier", None) is None
    if fitted and settings.router_file.is_file():
        try:
            _restore(router, settings, domains, configured)
            return router
        except (ConfigError, StorageError) as error:
            logger.warning("%s; routing by examples alone. %s", error, error.hint)
    # Fitting takes longer than a question may: what was configured is fitted by `mdsa router fit`, what comes and goes later by itself.
    router.register_all(domains, refit=False)
    return router


def _restore(router: IntentRouter, settings: Settings, domains: Sequence[DomainConfig], configured: Sequence[DomainConfig]) -> None:
    """Have ``router`` be the one on disk, of ``domains`` or else of those ``configured``, with what came and went since. Raises
    :class:`ConfigError` and :class:`StorageError`."""
    path = settings.router_file
    try:
        router.restore(path, domains)
    except ConfigError:
        if stamp(domains) == stamp(configured):
            raise
        router.restore(path, configured)
        before = {domain.name: stamp([domain]) for domain in configured}
        router.register_all([domain for domain in domains if stamp([domain]) != before.get(domain.name)])
    # Those that went since, and names that the file alone has.
    for name in set(router.domains) - {domain.name for domain in domains}:
        router.unregister(name)
