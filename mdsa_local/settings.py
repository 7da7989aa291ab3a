"""Settings: defaults, then ``$MDSA_HOME/config.yaml``, then ``MDSA_*`` environment variables; later wins.

User data lives under ``$MDSA_HOME`` (default: the platform's user-data folder), never in the checkout or the current folder.
What ships with the product (``models/`` and ``domains/``) is found by :func:`shipped`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import PydanticCustomError

from mdsa_local.errors import ConfigError, MDSAError, StorageError, did_you_mean, looking, nearest

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
logger = logging.getLogger(__name__)
# Variables that are read elsewhere, without MDSA_; those of the tests begin with TEST_.
OTHER_VARIABLES = ("HOME", "DEBUG")
# A week: what waits longer is meant to wait for ever, and the system's own timers take no more than 49 days everywhere.
LONGEST_WAIT_S = 604_800
# What a database can count to is more than any disk holds.
MOST_ANSWERS = 1_000_000_000
# What Ollama takes for a duration (Go's time.ParseDuration), or a number of seconds.
DURATION = re.compile(r"[-+]?((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+|-?\d+(\.\d+)?")
# What Windows says of a file that a program has open or mapped, and that it so keeps: access denied, sharing violation, user-mapped section.
IN_USE = (5, 32, 1224)
_told: set[str] = set()
# libyaml where PyYAML was built with it: a tenth of the time, and the shipped domains alone are 500 lines.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlLoader(_Loader):  # type: ignore[misc]
    """Reads YAML, and refuses a key that stands twice in one mapping, of which the last would win in silence. What is wrong with a value, such as a
    date that there is none of, is a ``YAMLError`` too."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            raise yaml.constructor.ConstructorError(None, None, f"{node.value!r} cannot be read: {error}", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML does."""
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands there twice", key.start_mark)
                seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


def shipped(name: str) -> Path:
    """The folder ``models`` or ``domains`` that travels with the product: inside the wheel, or at the top of a checkout."""
    package = Path(__file__).parent
    inside = package / "_shipped" / name
    return inside if inside.is_dir() else package.parent / name


def default_home(environ: Mapping[str, str]) -> Path:
    """``$MDSA_HOME``, else where the platform keeps a user's data. Raises :class:`ConfigError` where the user's folder is unknown."""
    if environ.get("MDSA_HOME"):
        return user_path(environ["MDSA_HOME"])
    user = user_path(environ.get("HOME") or environ.get("USERPROFILE") or "~")
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or user / "AppData/Local") / "mdsa_local"
    if sys.platform == "darwin":
        return user / "Library/Application Support/mdsa_local"
    return Path(environ.get("XDG_DATA_HOME") or user / ".local/share") / "mdsa_local"


class Settings(BaseModel):
    """All settings. Each can be given in ``config.yaml`` by its name or in the environment as ``MDSA_`` plus its name in capitals.

    Made by :meth:`load`, which reads these and takes settings as keywords: ``Settings.load(top_k=3)``. ``Settings(...)`` itself reads nothing, needs
    ``home``, and raises pydantic's own ``ValidationError``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    home: Path = Field(description="folder of the user's data")
    default_model: str = Field("nano", min_length=1, description="model reference of domains that name none of their own, as all shipped ones")
    encoder: str = Field("tinybert", description="name in models/ or folder of the routing and retrieval encoder")
    shipped_domains: bool = Field(True, description="whether the shipped domains and their documents are there beside the user's")
    strict: bool = Field(False, description="an error, not a degraded answer by words alone, when the encoder cannot be loaded")
    confidence_threshold: Probability = Field(0.5, description="a route at or above this confidence is accepted")
    use_reasoning_threshold: Probability = Field(0.35, description="below this confidence no domain is chosen; between the two the answer is flagged")
    top_k: int = Field(4, ge=1, le=20, description="passages given to the model")
    max_question_chars: int = Field(8000, ge=1, description="longest question accepted, in characters")
    context_tokens: int = Field(0, ge=0, description="context of in-process models in tokens; 0 for the model's own, at most 8192")
    threads: int = Field(0, ge=0, description="CPU threads for generation and for a GGUF reranker, at most one per processor; 0 for one per core")
    gpu_layers: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto", description="layers of in-process models on the GPU; auto: as many as its free memory takes, where llama.cpp was built for it"
    )
    flash_attention: bool = Field(
        False, description="llama.cpp's flash attention on the CPU: faster for prompts of up to a thousand tokens, and less exact"
    )
    parallel: int = Field(8, ge=1, le=64, description="answers that one in-process model writes at once; more wait")
    queue_limit: int = Field(64, ge=0, description="requests that may wait for one in-process model; one more is told when to come back")
    memory_budget_mb: int = Field(0, ge=0, description="memory for all loaded models in MB; 0 for 70 % of what is free at the start")
    keep_alive_s: float = Field(0.0, description="idle seconds after which a model is unloaded; 0 or -1 keeps it until its room is needed")
    states_mb: int = Field(512, ge=0, description="disk for what models made of system prompts, so that they need not read them again; 0 for none")
    answer_log: int = Field(
        0, ge=0, le=MOST_ANSWERS, description="answers kept on disk with their questions, for `mdsa feedback`; the oldest go; 0 for none"
    )
    ollama_base_url: str = Field("http://127.0.0.1:11434", description="address of the Ollama daemon")
    ollama_keep_alive: str = Field(
        "5m", coerce_numbers_to_str=True, description="how long Ollama keeps an idle model: 5m, seconds, 0, or -1 for ever"
    )
    ollama_api_key: SecretStr = Field(SecretStr(""), description="key for an Ollama that wants one")
    openai_api_key: SecretStr = Field(SecretStr(""), description="key for OpenAI-compatible servers that want one")
    knowledge_uri: str = Field(
        "", description="where the knowledge bases are: a folder, or a URI that LanceDB takes (s3://bucket/prefix); empty for knowledge/ in the home"
    )
    knowledge_storage_options: dict[str, SecretStr] = Field(
        {}, description="LanceDB's options for knowledge_uri, such as endpoint and credentials; in the environment a JSON object"
    )
    reranker: str = Field(
        "",
        description="cross-encoder that orders passages anew: a name in models/, a folder, an .onnx or a .gguf file; empty for none",
    )
    judge: str = Field(
        "judge",
        description="cross-encoder that tells which sentences answer: a name in models/ or a folder; empty for none, and nearness decides",
    )
    hub_url: str = Field("https://huggingface.co", description="where `mdsa models pull` fetches from; nothing else uses it")
    request_timeout_s: float = Field(120.0, gt=0, le=LONGEST_WAIT_S, description="longest wait for a runtime, in seconds")

    @field_validator("home")
    @classmethod
    def _home(cls, home: Path) -> Path:
        return user_path(home)

    @field_validator("encoder", "default_model", "knowledge_uri", "reranker", "judge", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @field_validator("keep_alive_s")
    @classmethod
    def _seconds(cls, value: float) -> float:
        if not math.isfinite(value):
            raise PydanticCustomError("seconds", "expected a number of seconds; 0 or -1 keeps the model until its room is needed")
        return value

    @field_validator("ollama_keep_alive")
    @classmethod
    def _duration(cls, value: str) -> str:
        if not DURATION.fullmatch(value):
            raise PydanticCustomError("duration", "expected a duration such as 5m or 1h30m, a number of seconds, 0 for not at all, or -1 for ever")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic would take yes and no for 1 and 0.
        if isinstance(value, bool) and type(cls.model_fields[str(info.field_name)].default) in (int, float):
            raise PydanticCustomError("number", "expected a number")
        return value

    @field_validator("gpu_layers", mode="wrap")
    @classmethod
    def _layers(cls, value: object, known: ValidatorFunctionWrapHandler) -> object:
        try:
            if not isinstance(value, bool):
                return known(value)
        except ValidationError:
            pass
        raise PydanticCustomError("layers", "expected auto, or how many layers: 0 for none, 1000 for all of any model")

    @field_validator("ollama_api_key", "openai_api_key", mode="before")
    @classmethod
    def _key(cls, value: object) -> object:
        # The message must not repeat it. A file that holds a key ends in a line end, and what is read from it with it.
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str) or not sendable(text.strip()):
            raise PydanticCustomError("secret", "should be a string of printable ASCII characters; it is not shown here")
        return text.strip()

    # What is written last is asked first.
    @field_validator("knowledge_uri", "reranker", "judge", "ollama_api_key", "openai_api_key", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        # In YAML a key with nothing behind it.
        return "" if value is None else value

    @field_validator("knowledge_storage_options", mode="before")
    @classmethod
    def _options(cls, value: object) -> object:
        # What is wrong may hold a secret: the message must not repeat it.
        try:
            found = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            found = None
        if not isinstance(found, dict) or not all(isinstance(part, str | SecretStr) for part in (*found, *found.values())):
            raise PydanticCustomError("secret", "should be a mapping of strings to strings; in the environment a JSON object")
        return found

    @property
    def knowledge_dir(self) -> Path:
        """Where LanceDB keeps its tables when no other place is set."""
        return self.home / "knowledge"

    @property
    def knowledge_place(self) -> Path | str:
        """Where LanceDB keeps its tables; see :func:`mdsa_local.knowledge.place.located` for what a string means."""
        return self.knowledge_uri or self.knowledge_dir

    @property
    def reranker_place(self) -> Path | None:
        """Where the reranker is, None for none; a bare name lies in the user's models/, never in the current folder."""
        path = expanded(self.reranker)
        if not self.reranker:
            return None
        return path if path.is_absolute() or len(path.parts) > 1 else self.home / "models" / path

    @property
    def judge_place(self) -> Path | None:
        """Where the judge is, None for none; a bare name lies in the user's models/ or among the shipped ones."""
        path = expanded(self.judge)
        if not self.judge:
            return None
        if path.is_absolute() or len(path.parts) > 1:
            return path
        folders = [folder / path for folder in self.model_dirs]
        return next((folder for folder in folders if folder.is_dir()), folders[-1])

    @property
    def storage_options(self) -> dict[str, str]:
        """:attr:`knowledge_storage_options` in the clear, for LanceDB alone."""
        return {name: value.get_secret_value() for name, value in self.knowledge_storage_options.items()}

    @property
    def states_dir(self) -> Path:
        """Where key-value states of system prompts are kept between loads."""
        return self.home / "cache" / "states"

    @property
    def router_file(self) -> Path:
        """Where ``mdsa router fit`` leaves what it learned."""
        return self.home / "router.npz"

    @property
    def domain_dirs(self) -> tuple[Path, ...]:
        """Folders of domains: the shipped ones unless the user wants none of them, then the user's."""
        own = self.home / "domains"
        return (shipped("domains"), own) if self.shipped_domains else (own,)

    @property
    def model_dirs(self) -> tuple[Path, ...]:
        """Folders of models: the user's, then the shipped ones."""
        return self.home / "models", shipped("models")

    @classmethod
    def names(cls) -> list[str]:
        """What can be set: all but the home."""
        return [name for name in cls.model_fields if name != "home"]

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read the settings; ``overrides`` are settings as keywords, ``home`` too, and go before all else. Raises :class:`ConfigError` that names the
        file, variable or keyword, the key and what was expected. A variable that is no setting is told once, as a warning."""
        environ = os.environ if environ is None else environ
        home = overrides.pop("home", None) or default_home(environ)
        if not isinstance(home, str | Path):
            raise ConfigError(f"settings: home is {home!r}, no path", "Pass a folder as home=..., or leave it out for $MDSA_HOME.")
        home = user_path(home)
        with looking(ConfigError):
            values = read_yaml(home / "config.yaml") if (home / "config.yaml").exists() else {}
        if "home" in values:
            raise ConfigError(f"{home / 'config.yaml'}: unknown key 'home'", "The folder of the file is the home; set MDSA_HOME to use another.")
        origin = dict.fromkeys(values, str(home / "config.yaml"))
        if environ.get("OLLAMA_BASE_URL") or environ.get("OLLAMA_HOST"):
            host = environ.get("OLLAMA_BASE_URL") or environ["OLLAMA_HOST"]
            # The daemon reads it too, and listens there: at all addresses perhaps, which on Windows cannot be called.
            values["ollama_base_url"] = re.sub(r"(?<![\w.])0\.0\.0\.0(?![\w.])", "127.0.0.1", host).replace("[::]", "[::1]")
            origin["ollama_base_url"] = "the environment"
        if environ.get("OLLAMA_API_KEY"):
            values["ollama_api_key"], origin["ollama_api_key"] = environ["OLLAMA_API_KEY"], "environment variable OLLAMA_API_KEY"
        for key in cls.names():
            if (name := f"MDSA_{key.upper()}") in environ:
                values[key], origin[key] = environ[name], f"environment variable {name}"
        tell_unknown(environ, cls.names())
        values.update(overrides)
        origin |= {key: f"the call, keyword {key}" for key in overrides}
        try:
            return cls(home=home, **values)
        except ValidationError as error:
            place = origin.get(str(error.errors()[0]["loc"][0]), "the call")
            raise ConfigError(f"settings: {explain(error)}", f"{near_key(error, cls.names())}Fix it in {place}.") from None

    def changed(self, **values: Any) -> Settings:
        """A copy with other values. Raises :class:`ConfigError`."""
        try:
            return type(self)(**{**self.model_dump(exclude_unset=True), **values})
        except ValidationError as error:
            hint = f"{near_key(error, self.names())}Pass a value of the kind described in the README."
            raise ConfigError(f"settings: {explain(error)}", hint) from None

    def writable(self, path: Path) -> Path:
        """Make folder ``path``, or raise :class:`StorageError` when the disk does not let us."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, path) from None
        return path


def expanded(path: str | Path, error: type[MDSAError] = ConfigError) -> Path:
    """``path``, ``~`` being the user's folder. Raises ``error`` where that is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        if str(path) == "~":
            raise error("settings: the user's folder is unknown", "Set MDSA_HOME to a folder, in full.") from None
        raise error(f"{path}: there is no such user", "Write the path in full.") from None


def user_path(path: str | Path, error: type[MDSAError] = ConfigError) -> Path:
    """As :func:`expanded`, and absolute."""
    return expanded(path, error).absolute()


def sendable(key: str) -> bool:
    """Whether a key can stand in a header of HTTP."""
    return key.isascii() and key.isprintable()


def storage_error(error: OSError, path: Path) -> StorageError:
    """What an operating-system error on ``path`` means for the user."""
    held = getattr(error, "winerror", None) in IN_USE
    elsewhere = "write elsewhere"
    # What lies in another place was named by the user.
    with suppress(ConfigError):
        if path.absolute().is_relative_to(default_home(os.environ)):
            elsewhere = "set MDSA_HOME to a writable folder"
    hint = f"{'Close the programs that use it' if held else 'Free some space'}, fix its permissions, or {elsewhere}."
    if isinstance(error, FileNotFoundError | NotADirectoryError) and not path.parent.is_dir():
        hint = f"There is no folder {path.parent}: make it first, or write elsewhere."
    return StorageError(f"cannot write {path}: {error.strerror or error}", hint)


def load_yaml(path: Path) -> Any:
    """What a YAML file holds, or :class:`ConfigError` with file and line."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), YamlLoader)
    except (yaml.YAMLError, RecursionError) as error:
        # The file is named already, and it is not called that.
        told = " ".join(str(error).split()).replace(' in "<unicode string>", line', ", line")
        raise ConfigError(f"{path}: not valid YAML: {told}", "Fix the line named above.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})", "Save the file as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "Check that the file exists and its permissions.") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, or :class:`ConfigError` with file and line."""
    loaded = load_yaml(path)
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(loaded).__name__}", "Write lines like `key: value`.")
    for key in loaded or {}:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: unknown key {key!r}", "Keys are words.")
    return loaded or {}


def near_key(error: ValidationError, known: Iterable[str]) -> str:
    """Where the first problem of a pydantic error is an unknown key, the beginning of a hint that asks for the nearest known one; else empty."""
    first = error.errors()[0]
    return did_you_mean(str(first["loc"][-1]), known) if first["type"] == "extra_forbidden" else ""


def tell_unknown(environ: Mapping[str, str], known: Iterable[str]) -> None:
    """Warn of each variable that begins like ours and is none, once in this process: it may be left over from another release, so it is no error."""
    names = {*OTHER_VARIABLES, *(name.upper() for name in known)}
    for name in sorted(name.removeprefix("MDSA_") for name in environ if name.startswith("MDSA_")):
        if name not in names and name not in _told and not name.startswith("TEST_"):
            _told.add(name)
            close = nearest(name.upper(), names)
            logger.warning("MDSA_%s is no setting and has no effect.%s", name, f" Did you mean MDSA_{close}?" if close else "")


def explain(error: ValidationError, within: str = "") -> str:
    """The first problem of a pydantic error in one line: key, what was wrong, what was given. ``within`` stands before the key."""
    first = error.errors()[0]
    key = within + ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    # What is secret is not shown, nor what may be pages long, or deeper than can be shown.
    if first["type"] in ("secret", "json"):
        return f"key {key!r}: {first['msg']}"
    if first["type"] == "missing":
        return f"missing key {key!r}"
    said = first["msg"].removeprefix("Value error, ").replace("valid tuple", "valid list")
    # What is wrong as a whole has no key, and a line of a file may be a megabyte.
    return f"key {key!r}: {said} (given: {first['input']!r:.200})" if key else said
