"""A model served by an Ollama daemon."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mdsa_local.domains.config import Generation
from mdsa_local.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigError,
    ContextOverflowError,
    InputError,
    MDSAError,
    ModelError,
    ModelMemoryError,
    ModelNotFoundError,
)
from mdsa_local.runtime.backend import Finished, Message, Reason, ToolCall, refuse_unsupported
from mdsa_local.runtime.catalog import perhaps_meant
from mdsa_local.runtime.estimating import estimated_tokens
from mdsa_local.runtime.stopping import Thoughts
from mdsa_local.runtime.surrogates import Halves, mended
from mdsa_local.runtime.wire import (
    GATEWAY,
    MALFORMED,
    Wire,
    Wires,
    as_json,
    bearer,
    count,
    is_loopback,
    limits,
    lines,
    reason_of,
    silent,
    timeout,
    without_password,
)
from mdsa_local.settings import Settings
from mdsa_local.stoppable import Leash, Stoppable

if TYPE_CHECKING:
    import httpx
    from ollama import ChatResponse, Client, ResponseError

DEFAULT_CONTEXT_TOKENS = 4096
# Daemons before this one ignore `truncate` and `shift`, and cut a long prompt in silence.
REFUSES_SINCE = (0, 12, 6)
# How answers end that have come to their end, or to the limit of their tokens; older daemons do not say.
ENDS: Mapping[str, Reason] = {"stop": "stop", "tool_calls": "stop", "length": "length"}
# A duration of nothing, as a number or in Go's words.
NOT_KEPT = re.compile(r"(?:0+(?:\.0*)?(?:h|m|s|ms|us|µs|ns)?)+")
# How long a model is kept after loading that is not to be kept after an answer: to ask how large its context is.
LOOKED_AT_S = 10
AGAIN = "Ask again; see the log of `ollama serve` when it repeats."


@dataclass(frozen=True, slots=True)
class Probed:
    """What a daemon says of itself and of a model. ``capabilities`` are words like ``completion``, ``tools``, ``thinking``, ``vision``,
    ``embedding``; None where the daemon is too old to say. ``context_length`` is what the model was trained with, 0 where unknown."""

    version: tuple[int, ...]
    capabilities: frozenset[str] | None
    context_length: int


class OllamaBackend:
    """One model of a daemon. Implements :class:`~mdsa_local.runtime.backend.Backend`. Opens no socket before it is used.

    Load options are the same in every request, because a changed one makes the daemon load the model again (ollama#8903); sampling
    options may differ. A prompt that is too long is refused, never cut (``truncate`` and ``shift`` are off).
    """

    def __init__(
        self, model: str, base_url: str, timeout_s: float, n_context_tokens: int = 0, *, keep_alive: str | float = "5m", api_key: str = ""
    ) -> None:
        """``timeout_s`` is the longest silence of the daemon; ``n_context_tokens`` 0 leaves the context to the daemon.

        ``keep_alive`` is how long the daemon keeps the model after a request: ``5m``, seconds, 0 for not at all, -1 for ever.
        """
        self.name = model
        self.n_context_tokens = n_context_tokens or DEFAULT_CONTEXT_TOKENS
        self.probed: Probed | None = None
        self._base_url, self._timeout_s, self._api_key = base_url, timeout_s, api_key
        self._where = without_password(base_url)
        self._keep_alive = seconds_if_number(keep_alive)
        self._options: Mapping[str, Any] = {"num_ctx": n_context_tokens} if n_context_tokens else {}
        self._client: Client | None = None
        self._connecting = threading.Lock()
        self._wires = Wires(model, f"Ollama at {self._where}")

    def load(self) -> None:
        """Ask what the model can do, have the daemon load it, and read back how large its context is.

        Raises :class:`ModelNotFoundError`, :class:`ModelError` for a model that writes no text, and :class:`BackendError`.
        """
        version = str(self._get("/api/version").get("version", ""))
        from ollama import ChatResponse, ResponseError, ShowResponse

        self.probed = self._probe(version, self._call(ShowResponse, "/api/show", {"model": self.name}))
        if self.probed.capabilities is not None and "completion" not in self.probed.capabilities:
            found = ", ".join(sorted(self.probed.capabilities)) or "nothing"
            raise ModelError(f"Ollama's model {self.name} writes no text: its capabilities are {found}", "Choose a chat model; see: ollama list")
        request = {**self._request((), self._options), "stream": False}
        if NOT_KEPT.fullmatch(str(self._keep_alive)):
            # To load nothing and keep it for no time means to unload it.
            request["keep_alive"] = LOOKED_AT_S
        self._call(ChatResponse, "/api/chat", request)
        try:
            running = self._get("/api/ps", raw_errors=True).get("models")
        except ResponseError:
            # Hosted daemons do not tell what runs; they use what the model was trained with.
            self.n_context_tokens = self._options.get("num_ctx") or self.probed.context_length or self.n_context_tokens
            return
        names = (self.name, f"{self.name}:latest")
        for model in running if isinstance(running, list) else ():
            if isinstance(model, dict) and (model.get("model") in names or model.get("name") in names):
                self.n_context_tokens = count(model.get("context_length")) or self.n_context_tokens

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """An estimate, because Ollama has no tokenizer to ask; the daemon refuses a prompt for which it erred low."""
        return estimated_tokens(messages)

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> Stoppable[str | Finished]:
        """See :class:`~mdsa_local.runtime.backend.Backend`. A daemon that falls silent is given up at ``deadline_s`` at the latest. The stream's
        ``close`` works from any thread, also while the daemon says nothing."""
        return Stoppable(lambda leash: self._events(messages, generation, deadline_s, leash))

    def _events(self, messages: Sequence[Message], generation: Generation, deadline_s: float, leash: Leash) -> Generator[str | Finished, None, None]:
        request = self._request(messages, {**self._options, **sampling(generation)})
        request |= extras(generation, self.probed.capabilities if self.probed else None)
        self._refuse_what_would_be_cut(messages)
        client = self._connected()

        def said(wire: Wire) -> Iterator[str | Finished]:
            # Client.chat() of ollama 0.6.3 takes neither truncate nor shift, and takes more than line feeds for ends of lines.
            waits = timeout(min(deadline_s, self._timeout_s))
            options: dict[str, Any] = {"json": request, "timeout": waits, "extensions": {"trace": wire.trace}}
            with self._mapped(), client._client.stream("POST", "/api/chat", **options) as response:
                yield from answer(self.name, wire.hearing(_parts(response)))

        yield from self._wires.stream(deadline_s, said, leash)

    def close(self) -> None:
        """See :class:`~mdsa_local.runtime.backend.Backend`. A running stream ends at once. The daemon unloads by its own rules."""
        self._wires.close()
        with self._connecting:
            if self._client:
                self._client.close()  # type: ignore[no-untyped-call]
            self._client = None

    def _probe(self, version: str, shown: Any) -> Probed:
        trained = [count(value) for key, value in (shown.modelinfo or {}).items() if key.endswith(".context_length")]
        found = None if shown.capabilities is None else frozenset(map(str, shown.capabilities))
        return Probed(numbers(version), found, max([0, *trained]))

    def _refuse_what_would_be_cut(self, messages: Sequence[Message]) -> None:
        """For daemons that cut in silence. No tokenizer makes more tokens than bytes, but for the chat markers."""
        if self.probed and self.probed.version and self.probed.version < REFUSES_SINCE:
            most = sum(len(message.content.encode("utf-8", "replace")) + 16 for message in messages)
            if most > self.n_context_tokens:
                raise ContextOverflowError(
                    f"the prompt may have {most} tokens; {self.name} has room for {self.n_context_tokens}, and this Ollama would cut it in silence",
                    f"Update Ollama to {'.'.join(map(str, REFUSES_SINCE))} or newer, which refuses only what really does not fit.",
                )

    def _request(self, messages: Sequence[Message], options: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "model": self.name,
            "messages": as_json(messages),
            "options": dict(options),
            "keep_alive": self._keep_alive,
            "stream": True,
            "truncate": False,
            "shift": False,
        }

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, raw_errors: bool = False) -> dict[str, Any]:
        """What the daemon answers to a request that it answers at once."""
        client = self._connected()
        # What the cut at the deadline is raised as has to be an error of ours by then.
        with self._wires.request(self._timeout_s) as wire, self._mapped(raw_errors=raw_errors):
            # The client's own request fails on an error that is a list or a number, and what the daemon refused is lost.
            options: dict[str, Any] = {"json": body, "timeout": timeout(self._timeout_s), "extensions": {"trace": wire.trace}}
            response = client._client.request(method, path, **options)
            if not response.is_success:
                raise refusal(response.text, response.status_code)
            found = response.json()
            if not isinstance(found, dict):
                raise TypeError(f"expected an object, found {type(found).__name__}")
            return found

    def _call(self, kind: Any, path: str, body: Mapping[str, Any]) -> Any:
        found = self._asked("POST", path, body)
        with self._mapped():
            return kind(**found)

    def _get(self, path: str, *, raw_errors: bool = False) -> dict[str, Any]:
        try:
            return self._asked("GET", path, raw_errors=raw_errors)
        except ModelNotFoundError:
            # None was asked for.
            raise BackendError(
                f"{self._where} answers, but not with Ollama's API: it has no {path}",
                "Set ollama_base_url to where Ollama listens, without a path such as /v1.",
            ) from None

    def _connected(self) -> Client:
        with self._connecting:
            if self._wires.closed:
                raise BackendError(f"{self.name} was closed")
            self._client = self._client or connect(self._base_url, self._api_key)
            return self._client

    @contextmanager
    def _mapped(self, *, raw_errors: bool = False) -> Iterator[None]:
        """The one place where failures of the network, the client and the daemon become errors of ours."""
        import httpx
        from ollama import ResponseError

        where = f"Ollama at {self._where}"
        try:
            yield
        except ResponseError as error:
            if raw_errors:
                raise
            raise self._refused(error) from None
        except httpx.ConnectTimeout:
            raise BackendUnavailableError(f"{where} cannot be reached", "Start it: ollama serve") from None
        except httpx.TimeoutException:
            raise silent(where, self._timeout_s, "sent nothing for") from None
        except (httpx.ConnectError, ConnectionError):
            raise BackendUnavailableError(f"{where} is not running", "Start it: ollama serve") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise no_address(self._base_url, error) from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise BackendUnavailableError(f"the stream from {where} broke off: {error}", AGAIN) from None
        except MALFORMED as error:
            raise BackendError(
                f"{where} sent what is no answer: {reason_of(str(error))}", "Check that ollama_base_url leads to Ollama, and its version."
            ) from None

    def _refused(self, error: ResponseError) -> Exception:
        """What an error that the daemon reported means."""
        status, lower = error.status_code, str(error.error).lower()
        reason = reason_of(str(error.error), status)
        if status == 404:
            return ModelNotFoundError(f"Ollama has no model {self.name}: {reason}", f"Fetch it: ollama pull {self.name}")
        if status in (429, 503):
            return BackendUnavailableError(f"Ollama is busy: {reason}", "Ask again in a moment.")
        if status in GATEWAY:
            return BackendUnavailableError(
                f"Ollama at {self._where} failed with status {status}: {reason}", "Ask again; see what stands before Ollama when it repeats."
            )
        if status in (401, 403):
            return BackendError(f"Ollama at {self._where} refused the key: {reason}", "Set ollama_api_key or OLLAMA_API_KEY.")
        if 300 <= status < 400:
            return BackendError(f"Ollama at {self._where} redirects elsewhere, which is not followed", "Set ollama_base_url to where it leads.")
        if status == 400 and "context" in lower:
            return ContextOverflowError(
                f"the prompt does not fit the context of {self.name}: {reason}",
                "Ask a shorter question, give fewer passages, or raise context_tokens.",
            )
        if status == 400 and "does not support" in lower:
            return InputError(f"Ollama's model {self.name} cannot do this: {reason}", "Choose a model that can: see ollama show MODEL.")
        if "requires more system memory" in lower:
            return ModelMemoryError(f"Ollama cannot load {self.name}: {reason}", "Choose a smaller model, or lower context_tokens.")
        if status == -1:
            return BackendUnavailableError(f"Ollama's answer from {self.name} broke off: {reason}", AGAIN)
        return BackendError(f"Ollama refused {self.name} with status {status}: {reason}", "See the log of `ollama serve`.")


def _parts(response: httpx.Response) -> Iterator[ChatResponse]:
    """What the daemon says, line by line. Raises the client's ``ResponseError`` for what it refuses."""
    from ollama import ChatResponse

    if not response.is_success:
        response.read()
        raise refusal(response.text, response.status_code)
    halves = {"content": Halves(), "thinking": Halves()}
    for line in lines(response.iter_bytes()):
        part = json.loads(line)
        if error := part.get("error"):
            raise refusal(json.dumps({"error": error}))
        if isinstance(message := part.get("message"), dict):
            for key, half in halves.items():
                # Whatever else it is, the client tells.
                if isinstance(text := message.get(key) or "", str):
                    message[key] = half.feed(text) + (half.flush() if part.get("done") else "")
        yield ChatResponse(**mended(part))


def refusal(text: str, status: int = -1) -> ResponseError:
    """The client's error with the text as it came: it would read that as JSON itself, and fail where it is a list or a number."""
    from ollama import ResponseError

    error = ResponseError("", status)
    error.error = text
    return error


def numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version; what is longer than any is cut."""
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", version)[:3])


def answer(name: str, parts: Iterator[ChatResponse]) -> Iterator[str | Finished]:
    """Text of the daemon's parts as they come, then the end with what came beside the text. Raises :class:`BackendUnavailableError` when there is no
    end, and :class:`BackendError` for another than that of a whole answer.

    Thoughts of a model that the daemon does not know for one that thinks stand in the text; they are taken out of it.
    """
    thinking: list[str] = []
    thoughts = Thoughts()
    calls: list[ToolCall] = []
    for part in parts:
        thinking.append(part.message.thinking or "")
        for call in part.message.tool_calls or ():
            # ollama 0.6.3 drops the id that newer daemons give; a number keeps calls of one answer apart.
            calls.append(ToolCall(call.function.name, dict(call.function.arguments), f"call_{len(calls)}"))
        if text := thoughts.feed(part.message.content or ""):
            yield text
        if part.done:
            if rest := thoughts.flush():
                yield rest
            if (ended := part.done_reason or "stop") not in ENDS:
                raise BackendError(f"Ollama ended the answer of {name} with {ended!r:.60}", "Ask again; see the log of `ollama serve`.")
            made, told = count(part.eval_count), "".join((*thinking, thoughts.told))
            yield Finished(ENDS[ended], count(part.prompt_eval_count), made, tool_calls=tuple(calls), thinking=told)
            return
    raise BackendUnavailableError(f"Ollama's answer from {name} broke off before its end", AGAIN)


def connect(base_url: str, api_key: str = "") -> Client:
    """A client for ``base_url`` that has not opened a socket yet. Raises :class:`ConfigError` when that is no address, or the key none."""
    import httpx

    # The client sends the environment's of its own accord, as it stands there, and cannot be imported with one that is not ASCII.
    environment = bearer(os.environ.get("OLLAMA_API_KEY", ""), "OLLAMA_API_KEY")
    headers = bearer(api_key, "ollama_api_key") or environment
    try:
        from ollama import Client
    except ImportError as error:
        raise BackendUnavailableError(f"the ollama client cannot be loaded: {error}", "Install it: pip install ollama") from None
    except ValueError as error:
        # On import it makes a client of its own, for OLLAMA_HOST.
        raise no_address(os.environ.get("OLLAMA_HOST", base_url), error) from None
    try:
        # A proxy of the environment must not see, nor break, what stays on this machine; nor may a redirect lead off it.
        address = reachable(base_url)
        check_address(address)
        return Client(address, trust_env=not is_loopback(base_url), follow_redirects=False, limits=limits(), headers=headers)
    except (ValueError, httpx.InvalidURL) as error:
        raise no_address(base_url, error) from None


def reachable(base_url: str) -> str:
    """``base_url``, but this machine in place of no host, and of the addresses that mean "listen everywhere" in ``OLLAMA_HOST``, which Windows
    cannot reach."""
    return re.sub(r"^((?:https?://)?)(?:(?:0\.0\.0\.0|\[::\])(?=$|[:/])|(?=:\d))", r"\g<1>127.0.0.1", base_url)


def check_address(base_url: str) -> None:
    """Raise ValueError for what is no address, which the client would take for a machine that is not there."""
    parts = urlsplit(base_url if "://" in base_url else f"http://{base_url}")
    if not parts.hostname or re.search(r"\s", base_url):
        raise ValueError("it names no machine" if not parts.hostname else "it has a blank in it")
    if parts.port == 0:
        raise ValueError("there is no port 0")


def no_address(base_url: str, error: Exception) -> ConfigError:
    """The error for a base URL that cannot be used."""
    return ConfigError(f"ollama_base_url {base_url!r} is no address: {error}", "Write http://127.0.0.1:11434 or alike.")


def seconds_if_number(keep_alive: str | float) -> str | float:
    """Ollama takes numbers for seconds and words for durations, but no number in quotes."""
    try:
        number = float(keep_alive)
    except ValueError:
        return keep_alive
    return int(number) if number.is_integer() else number


def sampling(generation: Generation) -> dict[str, Any]:
    """Ollama's names for sampling options. None of them makes the daemon load the model again."""
    refuse_unsupported(generation, ("json_schema", "tools", "think"), "Ollama")
    options = {
        "num_predict": generation.max_tokens,
        "temperature": generation.temperature,
        "top_k": generation.top_k,
        "top_p": generation.top_p,
        "min_p": generation.min_p,
        "repeat_penalty": generation.repeat_penalty,
        "presence_penalty": generation.presence_penalty,
        "frequency_penalty": generation.frequency_penalty,
        "stop": list(generation.stop),
    }
    return options if generation.seed is None else {**options, "seed": generation.seed}


def extras(generation: Generation, capabilities: frozenset[str] | None) -> dict[str, Any]:
    """The fields of a request for a schema, tools and thinking. Raises :class:`InputError` for what the model cannot do.

    With a schema, thinking is left as the model has it: some releases ignore the schema where thinking is off (ollama#14645, #15260).
    """
    found: dict[str, Any] = {}
    can = capabilities if capabilities is not None else frozenset({"tools", "thinking"})
    for wanted, word, key in ((generation.tools, "tools", "tools"), (generation.think, "thinking", "think")):
        if wanted and word not in can:
            raise InputError(f"this model of Ollama has no {word}", f"Remove `{key}` from the generation settings, or choose a model with {word}.")
    if generation.json_schema is not None:
        found["format"] = generation.json_schema
    if generation.tools:
        found["tools"] = [{"type": "function", "function": tool} for tool in generation.tools]
    if generation.think is not None:
        found["think"] = generation.think
    elif capabilities and "thinking" in capabilities and generation.json_schema is None:
        found["think"] = False
    return found


def estimate_bytes(target: str, settings: Settings) -> int:
    """0: the daemon holds the model and keeps its own budget."""
    return 0


def open_backend(target: str, name: str, settings: Settings) -> OllamaBackend:
    """Reach the daemon and have it load ``target``. Raises as :meth:`OllamaBackend.load`."""
    backend = OllamaBackend(
        target,
        settings.ollama_base_url,
        settings.request_timeout_s,
        settings.context_tokens,
        keep_alive=settings.ollama_keep_alive,
        api_key=settings.ollama_api_key.get_secret_value(),
    )
    try:
        backend.load()
    except MDSAError as error:
        backend.close()
        if isinstance(error, BackendUnavailableError | ModelNotFoundError) and (meant := perhaps_meant(target, settings.model_dirs)):
            error.hint = f"{error.hint.rstrip('.')}. {meant}"
        raise
    return backend


def survey(settings: Settings, timeout_s: float) -> tuple[str, dict[str, int]]:
    """A daemon's version, and its models with their sizes in bytes. Raises :class:`BackendError`."""
    daemon = OllamaBackend("the list of its models", settings.ollama_base_url, timeout_s, api_key=settings.ollama_api_key.get_secret_value())
    try:
        version = str(daemon._get("/api/version").get("version", "unknown"))
        models = daemon._get("/api/tags").get("models") or []
        with daemon._mapped():
            return version, {str(model["model"]): int(model.get("size") or 0) for model in models if model.get("model")}
    finally:
        daemon.close()
