"""What is said to a message that gets no domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mdsa_local.domains.config import DomainConfig
    from mdsa_local.settings import Settings
    from mdsa_local.types import Route

NO_DOMAIN = "This does not belong to any domain I know."
SEVERAL_DOMAINS = "This asks for things of several domains, none of which it mainly belongs to. Please ask for each by itself."
SMALL_TALK = "I answer questions from documents."
# So many domains are named to whom none was found for.
NAMED = 8


def none_at_all(settings: Settings) -> str:
    """That there is no domain, and where one would be looked for."""
    or_those = "" if settings.shipped_domains else ", or set shipped_domains to true"
    return f"There is no domain: put a folder with a domain.yaml into {settings.home / 'domains'}{or_those}."


def unclaimed(route: Route, domains: Sequence[DomainConfig], settings: Settings) -> str:
    """The answer to a message whose ``route`` chose none of the ``domains``."""
    if not domains:
        return none_at_all(settings)
    if route.parts and not route.small_talk:
        return SEVERAL_DOMAINS
    topics = [domain.title or domain.name for domain in domains]
    more = f"; and {len(topics) - NAMED} more" if len(topics) > NAMED else ""
    return f"{SMALL_TALK if route.small_talk else NO_DOMAIN} Ask me about: {'; '.join(topics[:NAMED])}{more}."
