"""Which domains there are: the shipped folders, the user's folders, and what the program registers."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from mdsa_local.domains.config import NO_CONFIG, DomainConfig
from mdsa_local.errors import ConfigError, UnknownNameError, expected

logger = logging.getLogger(__name__)
# What the shared knowledge base's folder and hidden ones begin with.
NO_DOMAIN = ("_", ".")
NO_NAME = 'Pass the name of one, such as "finance".'


class DomainRegistry:
    """A thread-safe mapping of names to :class:`DomainConfig`; a later registration of a name replaces the earlier one."""

    def __init__(self, domains: Iterable[DomainConfig] = ()) -> None:
        self._lock = threading.Lock()
        self._domains = {domain.name: domain for domain in domains}

    @classmethod
    def given(cls, domains: Iterable[DomainConfig]) -> DomainRegistry:
        """What a caller lists. Raises :class:`ConfigError` for what is no :class:`DomainConfig`, and for two of one name."""
        hint = 'Pass a list of them, such as [DomainConfig(name="hr", description="Leave and pay")], or register_domain("hr", "Leave and pay").'
        if not isinstance(domains, Iterable) or isinstance(domains, DomainConfig | str):
            raise ConfigError(f"domains: expected DomainConfigs, found one {type(domains).__name__}", hint)
        listed = list(domains)
        for domain in listed:
            if not isinstance(domain, DomainConfig):
                raise ConfigError(f"domains: expected a DomainConfig, found {domain!r}", hint)
        for name, times in Counter(domain.name for domain in listed).items():
            if times > 1:
                raise ConfigError(f"domains: {times} of them are called {name!r}", "Give each a name of its own.")
        return cls(listed)

    @classmethod
    def from_folders(cls, folders: Iterable[Path]) -> DomainRegistry:
        """Read the :func:`owners`. A sub-folder that holds other files than a ``domain.yaml`` alone is told as a warning. Raises
        :class:`ConfigError` for one of the ``folders`` that cannot be read."""
        listed = list(folders)
        for place in (path for folder in listed for path in _inside(folder)):
            try:
                if not place.is_dir() or (place / "domain.yaml").is_file():
                    continue
                if not place.name.startswith(NO_DOMAIN) and any(place.iterdir()):
                    advice = "Call its domain.yml that" if (place / "domain.yml").is_file() else "Write one"
                    logger.warning("%s holds no domain.yaml, so it is no domain. %s, or move the folder away.", place, advice)
            except OSError as error:
                logger.warning("%s cannot be read and is left out: %s", place, error.strerror or error)
        return cls(DomainConfig.read(folder) for folder in owners(listed).values())

    def register(self, domain: DomainConfig) -> None:
        """Add or replace a domain."""
        expected(domain, DomainConfig, "the domain", NO_CONFIG, ConfigError)
        with self._lock:
            self._domains[domain.name] = domain

    def unregister(self, name: str) -> None:
        """Remove a domain. Raises :class:`UnknownNameError`."""
        expected(name, str, "the domain", NO_NAME)
        with self._lock:
            if self._domains.pop(name, None) is None:
                raise UnknownNameError.among("domain", name, self._domains)

    def get(self, name: str) -> DomainConfig:
        """The domain called ``name``. Raises :class:`UnknownNameError` that lists the known ones."""
        expected(name, str, "the domain", NO_NAME)
        with self._lock:
            if name == "global":
                known = ", ".join(sorted(self._domains))
                raise UnknownNameError(
                    "no domain is called 'global'", f"All domains share what is there: leave the domain out, or name one: {known}."
                )
            if name not in self._domains:
                raise UnknownNameError.among("domain", name, self._domains)
            return self._domains[name]

    def __iter__(self) -> Iterator[DomainConfig]:
        with self._lock:
            return iter(list(self._domains.values()))

    def __len__(self) -> int:
        return len(self._domains)

    def __contains__(self, name: object) -> bool:
        return name in self._domains


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise ConfigError(f"{folder}: the folder of domains cannot be read: {error.strerror or error}", "Fix its permissions.") from None


def owners(folders: Iterable[Path]) -> dict[str, Path]:
    """The sub-folder that each domain is read from, one with a ``domain.yaml``: those of later folders hide equal names of earlier ones."""
    found = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*/domain.yaml"))):
        # One that may not be looked at is none.
        with suppress(OSError):
            if path.is_file():
                found[path.parent.name] = path.parent
    return found
