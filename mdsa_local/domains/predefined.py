"""The shipped domains as Python values."""

from __future__ import annotations

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import UnknownNameError, expected
from mdsa_local.settings import shipped

OTHER_NAMES = {"name": "domain_id", "model": "model_name"}


def predefined(name: str, /, **changes: object) -> DomainConfig:
    """The shipped domain ``name`` with fields replaced by ``changes``, which are called as in :class:`DomainConfig`. Raises
    :class:`UnknownNameError`, and :class:`ConfigError` for a change that cannot be."""
    expected(name, str, "the domain", 'Pass the name of a shipped one, such as "finance".')
    folder = shipped("domains") / name
    if not (folder / "domain.yaml").is_file():
        raise UnknownNameError.among("domain", name, [path.parent.name for path in shipped("domains").glob("*/domain.yaml")])
    domain = DomainConfig.read(folder)
    if not changes:
        return domain
    # By whichever of its names something is changed, it is not to stand beside what it was.
    fields = {field: value for field, value in domain if OTHER_NAMES.get(field) not in changes or field in changes}
    return DomainConfig(**{**fields, **changes})


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
