"""A model served by an Ollama daemon."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from mdsa_local.domains.config import Generation
from mdsa_local.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ConfigError,
    ContextOverflowError,
    InputError,
    MDSAError,
    ModelMemoryError,
    ModelNotFoundError,
)
from mdsa_local.runtime.backend import Finished, Message, Reason
from mdsa_local.settings import Settings

if TYPE_CHECKING:
    from ollama import Client, ResponseError

DEFAULT_CONTEXT_TOKENS = 4096
CONNECT_TIMEOUT_S = 5.0
# Common tokenizers average four bytes a token on English and not much below three on other text; chat markers add a few tokens a message.
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8


class OllamaBackend:
    """One model of a daemon. Implements :class:`~mdsa_local.runtime.backend.Backend`. Opens no socket before it is used.

    Load options are the same in every request, because a changed one makes the daemon load the model again (ollama#8903); sampling
    options may differ. A prompt that is too long is refused, never cut (``truncate`` and ``shift`` are off).
    """

    def __init__(self, model: str, base_url: str, timeout_s: float, n_context_tokens: int = 0) -> None:
        """``timeout_s`` is the longest silence of the daemon; ``n_context_tokens`` 0 leaves the context to the daemon."""
        self.name = model
        self.n_context_tokens = n_context_tokens or DEFAULT_CONTEXT_TOKENS
        self._base_url, self._timeout_s = base_url, timeout_s
        self._options: Mapping[str, Any] = {"num_ctx": n_context_tokens} if n_context_tokens else {}
        self._client: Client | None = None
        self._connecting = threading.Lock()
        self._requests = 0
        self._closed = False

    def load(self) -> None:
        """Have the daemon load the model, and read back how large its context is.

        Raises :class:`ModelNotFoundError` and :class:`BackendError`.
        """
        with self._connected() as client, self._mapped():
            from ollama import ChatResponse, ProcessResponse

            request = {**self._request((), self._options), "stream": False}
            client._request(ChatResponse, "POST", "/api/chat", json=request, timeout=self._timeout(self._timeout_s))
            running = client._request(ProcessResponse, "GET", "/api/ps", timeout=self._timeout(self._timeout_s))
        for model in running.models:
            if self.name in (model.model, model.name) or f"{self.name}:latest" in (model.model, model.name):
                self.n_context_tokens = model.context_length or self.n_context_tokens

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """An estimate, because Ollama has no tokenizer to ask: a third of the UTF-8 bytes and 8 a message. It errs high on ordinary text; the daemon
        refuses a prompt for which it erred low."""
        return sum(TOKENS_PER_MESSAGE + math.ceil(len(message.content.encode("utf-8", "replace")) / BYTES_PER_TOKEN) for message in messages)

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> Iterator[str | Finished]:
        """See :class:`~mdsa_local.runtime.backend.Backend`. A daemon that falls silent is given up after ``deadline_s`` without a piece."""
        deadline = time.monotonic() + deadline_s
        request = self._request(messages, {**self._options, **sampling(generation)})
        with self._connected() as client, self._mapped():
            from ollama import ChatResponse

            # Client.chat() of ollama 0.6.3 takes neither truncate nor shift, so this calls what it is made of.
            timeout = self._timeout(min(deadline_s, self._timeout_s))
            parts = client._request(ChatResponse, "POST", "/api/chat", stream=True, json=request, timeout=timeout)
            with closing(cast("Generator[ChatResponse, None, None]", parts)):
                for part in parts:
                    if part.message.content and not self._closed:
                        yield part.message.content
                    if part.done or self._closed:
                        reason: Reason = "cancelled" if self._closed else "length" if part.done_reason == "length" else "stop"
                        yield Finished(reason, part.prompt_eval_count or 0, part.eval_count or 0)
                        return
                    if time.monotonic() >= deadline:
                        raise BackendTimeoutError(f"{self.name} was not done at the deadline", "Ask for fewer tokens, or raise the time-out.")
        raise BackendError(f"Ollama's answer from {self.name} broke off before its end", "Ask again; see the log of `ollama serve` when it repeats.")

    def close(self) -> None:
        """See :class:`~mdsa_local.runtime.backend.Backend`. A running stream ends at its next piece. The daemon unloads by its own rules."""
        with self._connecting:
            self._closed = True
            self._disconnect()

    def _disconnect(self) -> None:
        # Closing a socket that another thread reads from does not wake that thread, so the last request closes it.
        if self._client and not self._requests:
            self._client.close()  # type: ignore[no-untyped-call]
            self._client = None

    def _request(self, messages: Sequence[Message], options: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "model": self.name,
            "messages": [asdict(message) for message in messages],
            "options": dict(options),
            "stream": True,
            "truncate": False,
            "shift": False,
        }

    def _timeout(self, read_s: float) -> Any:
        import httpx

        return httpx.Timeout(max(read_s, 0.001), connect=min(CONNECT_TIMEOUT_S, max(read_s, 0.001)))

    @contextmanager
    def _connected(self) -> Iterator[Client]:
        with self._connecting:
            if self._closed:
                raise BackendError(f"{self.name} was closed")
            self._client = client = self._client or connect(self._base_url)
            self._requests += 1
        try:
            yield client
        finally:
            with self._connecting:
                self._requests -= 1
                if self._closed:
                    self._disconnect()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """The one place where failures of the network, the client and the daemon become errors of ours."""
        import httpx
        from ollama import ResponseError

        where = f"Ollama at {self._base_url}"
        try:
            yield
        except ResponseError as error:
            raise self._refused(error) from None
        except httpx.ConnectTimeout:
            raise BackendUnavailableError(f"{where} cannot be reached", "Start it: ollama serve") from None
        except httpx.TimeoutException:
            raise BackendTimeoutError(f"{where} did not answer in time", "Raise request_timeout_s, or choose a smaller model.") from None
        except (httpx.ConnectError, ConnectionError):
            raise BackendUnavailableError(f"{where} is not running", "Start it: ollama serve") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise no_address(self._base_url, error) from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise BackendError(f"the stream from {where} broke off: {error}", "Ask again; see the log of `ollama serve` when it repeats.") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise BackendError(f"{where} sent what is no answer: {error}", "Check that ollama_base_url leads to Ollama, and its version.") from None

    def _refused(self, error: ResponseError) -> Exception:
        """What an error that the daemon reported means."""
        reason, lower = str(error.error), str(error.error).lower()
        if error.status_code == 404:
            return ModelNotFoundError(f"Ollama has no model {self.name}: {reason}", f"Fetch it: ollama pull {self.name}")
        if error.status_code == 503:
            return BackendUnavailableError(f"Ollama is busy: {reason}", "Ask again in a moment.")
        if error.status_code == 400 and "context" in lower:
            return ContextOverflowError(
                f"the prompt does not fit the context of {self.name}: {reason}",
                "Ask a shorter question, give fewer passages, or raise context_tokens.",
            )
        if "requires more system memory" in lower:
            return ModelMemoryError(f"Ollama cannot load {self.name}: {reason}", "Choose a smaller model, or lower context_tokens.")
        if error.status_code == -1:
            return BackendError(f"Ollama's answer from {self.name} broke off: {reason}", "Ask again; see the log of `ollama serve` when it repeats.")
        return BackendError(f"Ollama refused {self.name} with status {error.status_code}: {reason}", "See the log of `ollama serve`.")


def connect(base_url: str) -> Client:
    """A client for ``base_url`` that has not opened a socket yet. Raises :class:`ConfigError` when that is no address."""
    import httpx

    try:
        from ollama import Client
    except ImportError as error:
        raise BackendUnavailableError(f"the ollama client cannot be loaded: {error}", "Install it: pip install ollama") from None
    try:
        # A proxy of the environment must not see, nor break, what stays on this machine; nor may a redirect lead off it.
        return Client(base_url, trust_env=not is_loopback(base_url), follow_redirects=False)
    except (ValueError, httpx.InvalidURL) as error:
        raise no_address(base_url, error) from None


def no_address(base_url: str, error: Exception) -> ConfigError:
    """The error for a base URL that cannot be used."""
    return ConfigError(f"ollama_base_url {base_url!r} is no address: {error}", "Write http://127.0.0.1:11434 or alike.")


def sampling(generation: Generation) -> dict[str, Any]:
    """Ollama's names for sampling options. None of them makes the daemon load the model again."""
    if generation.grammar or generation.refusal or generation.choices:
        raise InputError(
            "Ollama cannot follow a grammar or weigh answers",
            "Remove `grammar`, `choices` and `refusal` from the generation settings, or use a GGUF file.",
        )
    options = {
        "num_predict": generation.max_tokens,
        "temperature": generation.temperature,
        "top_k": generation.top_k,
        "top_p": generation.top_p,
        "min_p": generation.min_p,
        "repeat_penalty": generation.repeat_penalty,
        "stop": list(generation.stop),
    }
    return options if generation.seed is None else {**options, "seed": generation.seed}


def is_loopback(base_url: str) -> bool:
    """Whether an address, with or without scheme and port, is this machine."""
    try:
        host = urlsplit(base_url if "://" in base_url else f"http://{base_url}").hostname or "127.0.0.1"
        address = ipaddress.ip_address(host)
    except ValueError:
        return base_url.rpartition("://")[2].partition("/")[0].partition(":")[0] == "localhost"
    return address.is_loopback or address.is_unspecified


def estimate_bytes(target: str, settings: Settings) -> int:
    """0: the daemon holds the model and keeps its own budget."""
    return 0


def open_backend(target: str, name: str, settings: Settings) -> OllamaBackend:
    """Reach the daemon and have it load ``target``. Raises as :meth:`OllamaBackend.load`."""
    backend = OllamaBackend(target, settings.ollama_base_url, settings.request_timeout_s, settings.context_tokens)
    try:
        backend.load()
    except MDSAError:
        backend.close()
        raise
    return backend
