"""A model behind a server that speaks OpenAI's chat API: llama-server, vLLM, LM Studio."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mdsa_local.domains.config import Generation
from mdsa_local.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigError,
    ContextOverflowError,
    InputError,
    MDSAError,
    ModelNotFoundError,
)
from mdsa_local.runtime.backend import Finished, Message, Reason, ToolCall, refuse_unsupported
from mdsa_local.runtime.chat_template import without_system
from mdsa_local.runtime.estimating import estimated_tokens
from mdsa_local.runtime.stopping import Thoughts
from mdsa_local.runtime.surrogates import Halves, mended, whole
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

DEFAULT_CONTEXT_TOKENS = 4096
# What these say of themselves in /v1/models; they refuse a prompt that is too long. Of others that is not known: LM Studio's default is to cut.
REFUSING_OWNERS = ("llamacpp", "vllm")
# What templates say that take no system message: Gemma's, Mistral's.
NO_SYSTEM = ("system role", "only user and assistant roles")
# How answers end that have come to their end, or to the limit of their tokens.
ENDS: Mapping[str, Reason] = {"stop": "stop", "tool_calls": "stop", "function_call": "stop", "length": "length"}
AGAIN = "Ask again; see the server's log when it repeats."


class OpenAIBackend:
    """One model of a server. Implements :class:`~mdsa_local.runtime.backend.Backend`. Opens no socket before it is used, follows no redirect."""

    def __init__(self, base_url: str, model: str, timeout_s: float, n_context_tokens: int = 0, api_key: str = "") -> None:
        """``base_url`` ends before ``/v1``; ``timeout_s`` is the longest silence; ``n_context_tokens`` 0 takes what the server says, else 4096."""
        self.name = model
        self.n_context_tokens = n_context_tokens or DEFAULT_CONTEXT_TOKENS
        self._base_url, self._timeout_s, self._api_key = base_url, timeout_s, api_key
        self._where = without_password(base_url)
        self._wanted_tokens = n_context_tokens
        self._refuses = False
        self._client: httpx.Client | None = None
        self._connecting = threading.Lock()
        self._wires = Wires(model, f"the server at {self._where}")

    def load(self) -> None:
        """Look the model up, and how large its context is.

        Raises :class:`ModelNotFoundError` that lists the server's models, and :class:`BackendError`.
        """
        listed = self._get("/v1/models").get("data")
        models = {str(entry.get("id")): entry for entry in listed if isinstance(entry, dict)} if isinstance(listed, list) else {}
        if self.name not in models:
            raise ModelNotFoundError(f"{self._where} has no model {self.name!r}", f"Known there: {', '.join(sorted(models)) or 'none'}.")
        entry = models[self.name]
        self._refuses = entry.get("owned_by") in REFUSING_OWNERS
        told = context_of(entry) or (self._context_in_props() if entry.get("owned_by") == "llamacpp" else 0)
        self.n_context_tokens = min(self._wanted_tokens or told or DEFAULT_CONTEXT_TOKENS, told or self._wanted_tokens or DEFAULT_CONTEXT_TOKENS)

    def _context_in_props(self) -> int:
        """What llama-server says of itself; 0 where it says nothing, such as behind a proxy that lets only ``/v1`` through."""
        with suppress(MDSAError):
            return context_of(self._get("/props"))
        return 0

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """An estimate: these servers have no tokenizer in common."""
        return estimated_tokens(messages)

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> Stoppable[str | Finished]:
        """See :class:`~mdsa_local.runtime.backend.Backend`. A server that falls silent is given up at ``deadline_s`` at the latest. The stream's
        ``close`` works from any thread, also while the server says nothing."""
        return Stoppable(lambda leash: self._events(messages, generation, deadline_s, leash))

    def _events(self, messages: Sequence[Message], generation: Generation, deadline_s: float, leash: Leash) -> Generator[str | Finished, None, None]:
        settings = parameters(generation)
        if not self._refuses and (tokens := self.count_tokens(messages)) > self.n_context_tokens:
            raise ContextOverflowError(
                f"the prompt may have {tokens} tokens; {self.name} has room for {self.n_context_tokens}",
                "Ask a shorter question, give fewer passages, or set context_tokens to what the server has.",
            )
        client = self._connected()

        def said(wire: Wire, messages: Sequence[Message] = messages) -> Iterator[str | Finished]:
            request = {"model": self.name, "messages": as_json(messages), **settings}
            waits = timeout(min(deadline_s, self._timeout_s))
            options: dict[str, Any] = {"json": request, "timeout": waits, "extensions": {"trace": wire.trace}}
            with self._mapped(), client.stream("POST", "/v1/chat/completions", **options) as response:
                if response.status_code == 200:
                    yield from self._answer(wire.hearing(_values(lines(response.iter_bytes()))))
                    return
                response.read()
                refused = self._refused(response)
            instead = without_system(messages) if isinstance(refused, InputError) else ()
            if not instead or not any(words in str(refused).lower() for words in NO_SYSTEM):
                raise refused
            yield from said(wire, instead)

        yield from self._wires.stream(deadline_s, said, leash)

    def close(self) -> None:
        """See :class:`~mdsa_local.runtime.backend.Backend`. A running stream ends at once; what the server does with the model is its own affair."""
        self._wires.close()
        with self._connecting:
            if self._client:
                self._client.close()
            self._client = None

    def _answer(self, values: Iterator[tuple[str, str]]) -> Iterator[str | Finished]:
        import httpx

        said = _Said()
        try:
            for field_name, value in values:
                if value == "[DONE]":
                    break
                event = json.loads(value)
                if field_name == "error" or event.get("error"):
                    raise self._broken(event.get("error") or event)
                if text := said.take(event):
                    yield text
        except httpx.HTTPError:
            # All is said then, but for the mark of the end and how many tokens there were.
            if not said.ended:
                raise
        if not said.ended:
            raise BackendUnavailableError(f"the answer of {self.name} broke off before its end", AGAIN)
        if said.ended not in ENDS:
            raise BackendError(f"the server ended the answer of {self.name} with {said.ended!r:.60}", AGAIN)
        if rest := said.rest():
            yield rest
        yield said.finished()

    def _get(self, path: str) -> dict[str, Any]:
        client = self._connected()
        with self._wires.request(self._timeout_s) as wire, self._mapped():
            response = client.get(path, timeout=timeout(self._timeout_s), extensions={"trace": wire.trace})
            if response.status_code != 200:
                raise self._refused(response)
            found = response.json()
            if not isinstance(found, dict):
                raise TypeError(f"expected an object, found {type(found).__name__}")
            return found

    def _connected(self) -> httpx.Client:
        import httpx

        with self._connecting:
            if self._wires.closed:
                raise BackendError(f"{self.name} was closed")
            if self._client is None:
                headers = bearer(self._api_key, "openai_api_key")
                with self._mapped():
                    # A proxy of the environment must not see, nor break, what stays on this machine; nor may a redirect lead off it.
                    self._client = httpx.Client(
                        base_url=self._base_url, headers=headers, trust_env=not is_loopback(self._base_url), follow_redirects=False, limits=limits()
                    )
            return self._client

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """The one place where failures of the network and the server become errors of ours."""
        import httpx

        where, start = f"the server at {self._where}", "Start it, and check host and port of the model reference."
        try:
            yield
        except (httpx.ConnectTimeout, httpx.ConnectError, ConnectionError):
            raise BackendUnavailableError(f"{where} cannot be reached", start) from None
        except httpx.TimeoutException:
            raise silent(where, self._timeout_s, "sent nothing for") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ConfigError(f"{self._base_url!r} is no address: {error}", "Write openai://host:port/model.") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise BackendUnavailableError(f"the stream from {where} broke off: {error}", AGAIN) from None
        except MALFORMED as error:
            raise BackendError(
                f"{where} sent what is no answer: {reason_of(str(error))}", "Check that it speaks OpenAI's chat API under /v1."
            ) from None

    def _refused(self, response: httpx.Response) -> MDSAError:
        """What a status other than 200 means."""
        reason, status = reason_of(response.text, response.status_code), response.status_code
        if 300 <= status < 400:
            target = response.headers.get("location", "nowhere")
            return BackendError(f"{self._where} redirects to {target}, which is not followed", "Name the host it leads to, if you trust it.")
        if status in (401, 403):
            return BackendError(f"{self._where} refused the key: {reason}", "Set openai_api_key in config.yaml or MDSA_OPENAI_API_KEY.")
        if status == 404:
            return ModelNotFoundError(f"{self._where} has no model {self.name!r}: {reason}", "Check the reference; the server has to serve /v1.")
        if status in (429, 503):
            return BackendUnavailableError(f"{self._where} is busy: {reason}", "Ask again in a moment.")
        if status in GATEWAY:
            return BackendUnavailableError(f"{self._where} failed with status {status}: {reason}", AGAIN)
        if status in (400, 413) and "context" in reason.lower():
            return ContextOverflowError(
                f"the prompt does not fit the context of {self.name}: {reason}", "Ask a shorter question, or give fewer passages."
            )
        if status in (400, 422):
            return InputError(f"{self._where} refused the request: {reason}", "Remove what it does not know from the generation settings.")
        return BackendError(f"{self._where} failed with status {status}: {reason}", AGAIN)

    def _broken(self, error: Any) -> MDSAError:
        """What an error in the middle of an answer means. One with a code of its own for what is wrong with the request comes again."""
        code = error.get("code") if isinstance(error, dict) else None
        refused = isinstance(code, int) and 400 <= code < 500 and code not in (408, 429)
        told = f"the answer of {self.name} broke off: {reason_of(json.dumps({'error': error}))}"
        return BackendError(told, "See the server's log.") if refused else BackendUnavailableError(told, AGAIN)


def _values(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Fields of server-sent events that say something; a comment only keeps the connection alive."""
    for line in lines:
        # Some write a byte order mark before the first.
        line = line.removeprefix("\ufeff")
        field_name, _, value = line.partition(":")
        if field_name in ("data", "error") and value.strip():
            yield field_name, value.strip()


@dataclass(slots=True)
class _Said:
    """What the events of a stream have said so far."""

    ended: str = ""
    pieces: int = 0
    usage: Mapping[str, Any] = field(default_factory=dict)
    thinking: list[str] = field(default_factory=list)
    thoughts: Thoughts = field(default_factory=Thoughts)
    halves: Halves = field(default_factory=Halves)
    calls: dict[int, dict[str, str]] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> str:
        """The text of one event."""
        if isinstance(usage := event.get("usage"), dict):
            self.usage = usage
        text = ""
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            text += delta.get("content") or ""
            # llama-server and vLLM, and newer vLLM.
            self.thinking.append(delta.get("reasoning_content") or delta.get("reasoning") or "")
            for part in delta.get("tool_calls") or ():
                call = self.calls.setdefault(self._which(part), {"id": "", "name": "", "arguments": ""})
                call["id"] = part.get("id") or call["id"]
                for key in ("name", "arguments"):
                    call[key] += (part.get("function") or {}).get(key) or ""
            if choice.get("finish_reason"):
                self.ended = str(choice["finish_reason"])
        self.pieces += bool(text)
        return self.thoughts.feed(self.halves.feed(text))

    def _which(self, part: Mapping[str, Any]) -> int:
        """The number of the call that a part belongs to: some servers do not say it, and each part with a new id then begins one."""
        if part.get("index") is not None:
            return int(part["index"])
        last = max(self.calls, default=-1)
        return last if last >= 0 and part.get("id") in (None, "", self.calls[last]["id"]) else last + 1

    def rest(self) -> str:
        """The text that was held back, once no more comes."""
        return self.thoughts.feed(self.halves.flush()) + self.thoughts.flush()

    def finished(self) -> Finished:
        """The end. A server that counts no tokens sends one an event, which are counted in their place. A call that the limit of tokens cut short is
        none."""
        reason = ENDS[self.ended]
        calls = list[ToolCall]()
        for _, call in sorted(self.calls.items()):
            try:
                calls.append(ToolCall(whole(call["name"]), arguments(call["arguments"]), call["id"]))
            except ValueError:
                if reason != "length":
                    raise
        prompt, made = count(self.usage.get("prompt_tokens")), count(self.usage.get("completion_tokens")) or self.pieces
        return Finished(reason, prompt, made, tool_calls=tuple(calls), thinking=whole("".join((*self.thinking, self.thoughts.told))))


def arguments(text: str) -> dict[str, Any]:
    """Arguments of a tool call. Raises :class:`ValueError` for what is no JSON object."""
    found = mended(json.loads(whole(text) or "{}"))
    if not isinstance(found, dict):
        raise ValueError(f"the arguments of a tool call are {text!r}, no object")
    return found


def parameters(generation: Generation) -> dict[str, Any]:
    """OpenAI's names for the settings, and those that llama-server, vLLM and LM Studio add to them."""
    refuse_unsupported(generation, ("json_schema", "tools", "think"), "an OpenAI-compatible server")
    found: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": generation.max_tokens,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "min_p": generation.min_p,
    }
    if generation.repeat_penalty != 1.0:
        # The name in llama-server and LM Studio, and in vLLM.
        found |= dict.fromkeys(("repeat_penalty", "repetition_penalty"), generation.repeat_penalty)
    # Some servers refuse what they do not know; unsaid it is 0.
    penalties = {"presence_penalty": generation.presence_penalty, "frequency_penalty": generation.frequency_penalty}
    found |= {name: penalty for name, penalty in penalties.items() if penalty}
    if generation.stop:
        found["stop"] = list(generation.stop)
    if generation.seed is not None:
        found["seed"] = generation.seed
    if generation.json_schema is not None:
        found["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": generation.json_schema, "strict": True}}
    if generation.tools:
        found["tools"] = [{"type": "function", "function": tool} for tool in generation.tools]
    if generation.think is not None:
        found["chat_template_kwargs"] = {"enable_thinking": generation.think}
    return found


def context_of(entry: Mapping[str, Any]) -> int:
    """Tokens of context by what vLLM, llama-server or LM Studio say of a model, 0 when they say nothing."""
    places = [entry, entry.get("meta"), entry.get("default_generation_settings")]
    keys = ("max_model_len", "n_ctx", "loaded_context_length")
    found = [count(place.get(key)) for place in places if isinstance(place, dict) for key in keys]
    return next(filter(None, found), 0)


def split_target(target: str) -> tuple[str, str]:
    """Base URL and model of ``host:port/model``.

    The URL is http for this machine, for an IP address and for any port but 443, else https. Raises :class:`ConfigError`.
    """
    form = "Write openai://host:port/model, for example openai://127.0.0.1:8080/qwen"
    if "://" in target:
        raise ConfigError(f"openai://{target} is no model reference", f"{form}: without a second scheme, and without /v1.")
    host, _, model = target.partition("/")
    name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "")
    if not name or not model:
        raise ConfigError(f"openai://{target} is no model reference", f"{form}.")
    try:
        ipaddress.ip_address(name.strip("[]"))
        plain = port != "443"
    except ValueError:
        plain = is_loopback(name) or port not in ("", "443")
    return f"{'http' if plain else 'https'}://{host}", model


def estimate_bytes(target: str, settings: Settings) -> int:
    """0: the server holds the model and keeps its own budget."""
    return 0


def open_backend(target: str, name: str, settings: Settings) -> OpenAIBackend:
    """Reach the server and look up its model. Raises as :meth:`OpenAIBackend.load`."""
    base_url, model = split_target(target)
    key = settings.openai_api_key.get_secret_value()
    backend = OpenAIBackend(base_url, model, settings.request_timeout_s, settings.context_tokens, key)
    try:
        backend.load()
    except MDSAError:
        backend.close()
        raise
    return backend
