"""What defines a domain, as Python values and as a folder with ``domain.yaml``, ``examples.yaml`` and ``knowledge/``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any
from unicodedata import combining, normalize

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mdsa_local.errors import ConfigError, expected
from mdsa_local.settings import expanded, explain, load_yaml, near_key, read_yaml, user_path

SHORTHANDS = ("max_tokens", "temperature")
# Of a domain that has no model of its own.
DEFAULT_MODEL = "default"
# What to do about what is none.
NO_CONFIG = 'Pass a DomainConfig, such as DomainConfig(name="hr", description="Leave and pay").'
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# What looks like one and is no domain's.
RESERVED = ("global", "none")
# A surrogate on its own, which UTF-8 cannot hold.
HALF = re.compile(r"[\ud800-\udfff]")


class Generation(BaseModel):
    """Sampling settings of a domain. Temperature 0 is deterministic. Raises :class:`ConfigError` that names the key."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_tokens: int = Field(256, ge=1, le=8192)
    temperature: float = Field(0.0, ge=0.0, le=5.0)
    top_k: int = Field(40, ge=0)
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    min_p: float = Field(0.05, ge=0.0, le=1.0)
    repeat_penalty: float = Field(1.0, gt=0.0, le=5.0)
    presence_penalty: float = Field(0.0, ge=-5.0, le=5.0)
    frequency_penalty: float = Field(0.0, ge=-5.0, le=5.0)
    logit_bias: tuple[tuple[Annotated[int, Field(ge=0)], float], ...] = Field(
        (), description="pairs of a token's id and what is added to its logit; a mapping will do; llama.cpp only"
    )
    probabilities: int | None = Field(
        None, ge=0, le=50, description="log probabilities of the tokens written, with that many alternatives each; llama.cpp only"
    )
    seed: int | None = Field(None, ge=0)
    stop: tuple[str, ...] = ()
    grammar: str = Field("", description="GBNF that every answer has to follow; llama.cpp only")
    choices: tuple[tuple[str, float], ...] = Field(
        (), description="beginnings of the answer, each with the log odds in its favour: it begins with the likeliest; llama.cpp only"
    )
    adapter: str = Field("", description="path of a LoRA adapter (GGUF) on top of the model; llama.cpp only")
    refusal: str = Field(
        "",
        description="the whole answer where the model gives it a probability of one half or more; else the answer is written as without it, and"
        " `grammar` can rule it out; llama.cpp only",
    )
    json_schema: dict[str, Any] | None = Field(None, description="JSON schema that the answer follows; see mdsa_local.runtime.structured")
    tools: tuple[dict[str, Any], ...] = Field((), description="functions the model may call: name, description, and parameters as a JSON schema")
    think: bool | None = Field(None, description="whether a model that can think first does; None: not, as its thoughts come out of max_tokens")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            hint = near_key(error, type(self).model_fields).strip() or "Give it such a value, or leave it out for the default."
            if error.errors()[0]["type"] == "extra_forbidden" and "Did you mean" not in hint:
                hint = f"Known keys: {', '.join(sorted(type(self).model_fields))}."
            raise ConfigError(explain(error, "generation."), hint) from None

    @property
    def formed(self) -> bool:
        """Whether answers have a form that a program reads, by a schema or a grammar."""
        return self.json_schema is not None or bool(self.grammar)

    @field_validator("stop", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, str | list | tuple):
            raise PydanticCustomError("texts", "expected a text, or a list of texts")
        return (value,) if isinstance(value, str) else value

    @field_validator("json_schema", "tools")
    @classmethod
    def _json(cls, value: Any) -> Any:
        # YAML has dates and infinite numbers, and both stand in a schema for what a server is told as JSON.
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise PydanticCustomError("json", "expected what JSON can hold: {reason}", {"reason": str(error)}) from None
        return value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return tuple(value.items()) if isinstance(value, dict) else value


class DomainConfig(BaseModel):
    """One domain. Only a name is needed, given as ``name`` or ``domain_id``.

    ``model`` (also ``model_name``) is a model reference; None, or ``default``, means the configured default. ``max_tokens`` and ``temperature``
    may be given directly as a shorthand for ``generation``. Names are ``a-z 0-9 _ -``, so that they are safe as folder and table names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=())

    name: str = Field(validation_alias=AliasChoices("name", "domain_id"))
    title: str = ""
    description: str = ""
    keywords: tuple[str, ...] = ()
    system_prompt: str = ""
    model: Annotated[str | None, Field(validation_alias=AliasChoices("model", "model_name"))] = None
    adapter: str = Field("", description="LoRA adapter (GGUF) on top of the model; a relative path counts from the domain's folder")
    generation: Generation = Generation()
    examples: tuple[str, ...] = ()
    folder: Path | None = Field(None, exclude=True)

    def __init__(self, domain_id: str | None = None, model_name: str | None = None, keywords: Any = None, /, **values: Any) -> None:
        given = {"domain_id": domain_id, "model_name": model_name, "keywords": keywords}
        try:
            super().__init__(**{key: value for key, value in given.items() if value is not None}, **values)
        except ValidationError as error:
            raise ConfigError(f"domain: {explain(error)}", advice(error)) from None
        except ConfigError as error:
            raise ConfigError(f"domain: {error}", error.hint) from None

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if "domain_id" in values and "name" in values:
            # A display name beside an identifier: the identifier names the domain.
            values.setdefault("title", values.pop("name"))
            values["name"] = values.pop("domain_id")
        if "model" in values and "model_name" in values:
            raise ConfigError("'model' and 'model_name' are the same setting", "Keep one of the two.")
        short, own = {key: values.pop(key) for key in SHORTHANDS if key in values}, values.get("generation") or {}
        if isinstance(own, Mapping) and (wrong := [key for key in own if not isinstance(key, str)]):
            raise ConfigError(f"unknown key {wrong[0]!r} of 'generation'", "Keys are words.")
        if isinstance(own, Mapping) and (twice := [key for key in short if key in own]):
            raise ConfigError(f"{twice[0]!r} and 'generation.{twice[0]}' are the same setting", "Keep one of the two.")
        # What is neither is told as it was given.
        if short and isinstance(own, Mapping | Generation):
            values["generation"] = {**(own.model_dump() if isinstance(own, Generation) else own), **short}
        return values

    @field_validator("keywords", "examples", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        # A string would be taken apart into its letters.
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable | None):
            raise PydanticCustomError("list", "expected a list of texts, such as [pruning roses, compost]")
        return () if value is None else tuple(value)

    @field_validator("title", "description", "keywords", "system_prompt", "model", "examples")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        # No encoder and no model could read it, and what routes a question reads the texts of all domains.
        for text in (value,) if isinstance(value, str) else value or ():
            if half := HALF.search(text):
                raise PydanticCustomError("half", "holds half a character, {half}", {"half": repr(half[0])})
        return value

    @field_validator("keywords", "examples")
    @classmethod
    def _said(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for number, text in enumerate(value, 1):
            if not text.strip():
                raise PydanticCustomError("blank", "entry {number} is no text: {text}", {"number": number, "text": repr(text)})
        return value

    @field_validator("model")
    @classmethod
    def _default(cls, model: str | None) -> str | None:
        return None if model == DEFAULT_MODEL else model

    @field_validator("name")
    @classmethod
    def _safe(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("a domain's name is made of a-z, 0-9, _ and -, starts with a letter or digit, and has at most 64 characters")
        if name == "global":
            raise ValueError("'global' is the shared knowledge base; choose another name")
        if name == "none":
            raise ValueError("'none' is what is said of questions that belong to no domain; choose another name")
        return name

    @property
    def sampling(self) -> Generation:
        """How to generate for this domain: ``generation``, with its adapter."""
        if not self.adapter:
            return self.generation
        path = expanded(self.adapter)
        return self.generation.model_copy(update={"adapter": str((self.folder or Path.cwd()) / path)})

    @classmethod
    def read(cls, folder: str | Path) -> DomainConfig:
        """Read a domain's folder; its ``knowledge/`` is followed only below a folder of domains, see
        :meth:`~mdsa_local.orchestrator.TinyBERTOrchestrator.register_domain`. Raises :class:`ConfigError` that names file and key."""
        expected(folder, str | os.PathLike, "the folder of a domain", 'Pass its path, such as "domains/garden".', ConfigError)
        folder = user_path(folder)
        path = folder / "domain.yaml"
        values = read_yaml(path)
        values.setdefault("name", folder.name)
        if values["name"] != folder.name:
            raise ConfigError(f"{path}: key 'name' is {values['name']!r} but the folder is {folder.name!r}", "Make the two equal.")
        instead = {
            "examples": "Examples belong in examples.yaml beside it.",
            "model_name": "Write model.",
            "domain_id": "Write name.",
            "folder": "Remove it.",
        }
        for key, advice in instead.items():
            if key in values:
                raise ConfigError(f"{path}: unknown key {key!r}", advice)
        examples = read_examples(folder / "examples.yaml")
        try:
            return cls(**values, examples=examples, folder=folder)
        except ConfigError as error:
            raise ConfigError(f"{path}: {str(error).removeprefix('domain: ')}", error.hint) from None


def advice(error: ValidationError) -> str:
    """What to do about the first problem of a domain's values."""
    first = error.errors()[0]
    key, given = first["loc"], first["input"]
    if first["type"] == "extra_forbidden":
        if len(key) == 1 and key[0] in Generation.model_fields:
            return f"It belongs under generation: write generation: {{{key[0]}: ...}}."
        known = {*DomainConfig.model_fields, *SHORTHANDS} - {"folder"}
        return near_key(error, known).strip() or f"Known keys: {', '.join(sorted(known))}."
    if first["type"] == "half":
        return "Write the whole character, or leave it out."
    if first["type"] == "blank":
        return "Leave it out, or write a text in its place."
    if first["type"] == "missing":
        return 'Give the domain a name: DomainConfig(name="hr").'
    if key == ("name",) and isinstance(given, str):
        # Without accents, "Café" is cafe.
        letters = "".join(char for char in normalize("NFKD", given.casefold()) if not combining(char))
        better = re.sub(r"[^a-z0-9_-]+", "_", letters).strip("_-")[:64]
        return (
            f"Call it {better!r}, for example; what people read is its title."
            if NAME.fullmatch(better) and better not in (given, *RESERVED)
            else "Choose another."
        )
    return "Give it such a value, or leave it out for the default."


def read_examples(path: Path) -> tuple[str, ...]:
    """The questions in ``examples.yaml``: a list of strings; empty when there is no such file, or nothing in it."""
    if not path.is_file():
        return ()
    if (loaded := load_yaml(path)) is None:
        return ()
    hint = "Write one question a line: `- How do I ...?`, in quotes where it holds a colon or is a number."
    if not isinstance(loaded, list):
        raise ConfigError(f"{path}: expected a list of questions", hint)
    for number, line in enumerate(loaded, 1):
        if not isinstance(line, str) or not line.strip():
            raise ConfigError(f"{path}: entry {number} is no text: {line!r}", hint)
    return tuple(loaded)
