"""The shipped domains as Python values."""

from __future__ import annotations

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import UnknownNameError
from mdsa_local.settings import shipped


def predefined(name: str, **changes: object) -> DomainConfig:
    """The shipped domain ``name`` with fields replaced by ``changes``. Raises :class:`UnknownNameError`."""
    folder = shipped("domains") / name
    if not (folder / "domain.yaml").is_file():
        raise UnknownNameError.among("domain", name, [path.parent.name for path in shipped("domains").glob("*/domain.yaml")])
    domain = DomainConfig.read(folder)
    return DomainConfig(**{**dict(domain), **changes}) if changes else domain


def create_finance_domain(**changes: object) -> DomainConfig:
    """Money, cards and accounts."""
    return predefined("finance", **changes)


def create_medical_domain(**changes: object) -> DomainConfig:
    """Health, medicines and measuring."""
    return predefined("medical", **changes)


def create_support_domain(**changes: object) -> DomainConfig:
    """Orders, returns and the user's account."""
    return predefined("support", **changes)


def create_technical_domain(**changes: object) -> DomainConfig:
    """Devices, connections, the API and code."""
    return predefined("technical", **changes)
