"""The list of models that can be downloaded (``models/catalog.yaml``), and which of their files fit a machine, before anything is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mdsa_local.errors import ConfigError, ModelNotFoundError
from mdsa_local.settings import explain, read_yaml

Verdict = Literal["fits", "tight", "no"]
# Contexts to try, largest first. 8192 is what a model is loaded with unless context_tokens says otherwise.
CONTEXTS = (131072, 65536, 32768, 16384, 8192, 4096, 2048)
USUAL_CONTEXT = 8192
LEAST_CONTEXT = 2048
# Answers at once that a model is loaded for unless `parallel` says otherwise, and the kept beginnings of prompts beside them.
USUAL_PARALLEL, KEPT_BEGINNINGS = 8, 8


class OfferFile(BaseModel):
    """One file of an offer. ``size_gb`` (10^9 bytes) is approximate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=r"\.gguf$")
    size_gb: float = Field(gt=0)

    @property
    def size_bytes(self) -> int:
        """Approximate size in bytes."""
        return int(self.size_gb * 1e9)


class Offer(BaseModel):
    """A model that can be pulled. ``layers`` are those that keep keys and values; ``state_mb`` is what the others keep of each answer and each kept
    beginning, however long it is; ``context`` is what it was trained with, in tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    licence: str
    good_for: str
    parameters_b: float = Field(gt=0)
    context: int = Field(gt=0)
    layers: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    state_mb: float = Field(0.0, ge=0)
    files: Mapping[str, OfferFile] = Field(min_length=1)

    @property
    def default_variant(self) -> str:
        """The file pulled when none is named: Q4_K_M, else the smallest."""
        return "q4_k_m" if "q4_k_m" in self.files else min(self.files, key=lambda variant: self.files[variant].size_gb)

    def memory_bytes(self, file_bytes: int, n_context: int, parallel: int = USUAL_PARALLEL) -> int:
        """Memory in llama.cpp: weights, keys and values in f16 and states, with an eighth more for kept beginnings, the vocabulary's tables, 32 MB of
        buffers.

        As :func:`~mdsa_local.runtime.gguf.memory_estimate_bytes`, without the header that only the file has.
        """
        kv = 4 * (n_context + n_context // 8) * self.layers * self.kv_heads * self.head_dim
        states = int(self.state_mb * 1e6) * (parallel + KEPT_BEGINNINGS) * 9 // 8
        return file_bytes + kv + states + 600 * self.vocabulary + 256 * n_context + 32 * 2**20


class Catalogue(BaseModel):
    """All of ``catalog.yaml``. ``defaults`` maps gigabytes of installed memory to a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: Mapping[int, str]
    models: Mapping[str, Offer]

    def default_for(self, memory_gb: float) -> str | None:
        """The model for a machine; None below the smallest size listed. A machine sold as 8 GB may show a tenth less."""
        return next((self.defaults[size] for size in sorted(self.defaults, reverse=True) if memory_gb >= 0.9 * size), None)


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a file fits. ``context`` is the largest of :data:`CONTEXTS` that the budget has room for, 0 for none; ``memory_bytes`` is
    what it needs with that context, or with the smallest where none fits."""

    variant: str
    size_bytes: int
    verdict: Verdict
    context: int
    memory_bytes: int


def read_catalogue(path: Path) -> Catalogue:
    """Raises :class:`ConfigError` that names file and key."""
    try:
        found = Catalogue.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)}", "Compare it with the other entries.") from None
    if unknown := set(found.defaults.values()) - set(found.models):
        raise ConfigError(f"{path}: key 'defaults' names {', '.join(sorted(unknown))}", "Name models of the list.")
    return found


def find_offer(catalogue: Catalogue, name: str) -> tuple[Offer, str]:
    """The offer and the variant of ``qwen2.5-0.5b`` or ``qwen2.5-0.5b:q8_0``. Raises :class:`ModelNotFoundError` that lists the known ones."""
    model, _, variant = name.partition(":")
    if model not in catalogue.models:
        raise ModelNotFoundError.among("model", model, catalogue.models)
    offer = catalogue.models[model]
    variant = variant.lower() or offer.default_variant
    if variant not in offer.files:
        raise ModelNotFoundError.among(f"file of {model}", variant, offer.files)
    return offer, variant


def fit(offer: Offer, variant: str, budget_bytes: int, available_bytes: int, parallel: int = USUAL_PARALLEL) -> Fit:
    """Whether a file fits, for ``parallel`` answers at once. ``fits``: with 8192 tokens (or all it was trained with) inside the
    budget and what is free now; ``tight``: with less context, or only after other programs give memory back; ``no``: not even with 2048 tokens."""
    size = offer.files[variant].size_bytes

    def takes(tokens: int) -> int:
        return offer.memory_bytes(size, tokens, parallel)

    contexts = [tokens for tokens in CONTEXTS if tokens <= offer.context] or [offer.context]
    room = next((tokens for tokens in contexts if takes(tokens) <= budget_bytes), 0)
    needed = takes(room or contexts[-1])
    if not room:
        return Fit(variant, size, "no", 0, needed)
    usual = min(USUAL_CONTEXT, contexts[0])
    easy = room >= usual and takes(usual) <= available_bytes
    return Fit(variant, size, "fits" if easy else "tight", room, needed)
