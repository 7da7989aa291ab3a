"""``mdsa bench generate``: the engine against llama.cpp's bare interface on the same weights, in turns, in one process."""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendError, BackendTimeoutError, BackendUnavailableError
from mdsa_local.runtime.backend import Finished, Message
from mdsa_local.runtime.engine import context_options
from mdsa_local.runtime.library import library, release_workers
from mdsa_local.runtime.llamacpp import LlamaCppBackend, threads_for
from mdsa_local.runtime.native import Model, rearranges
from mdsa_local.runtime.stress import stress
from mdsa_local.runtime.synthetic import SHAPES, write_random
from mdsa_local.settings import Settings

CONTEXT = 2048
TOKENS = 48
TOGETHER = 8
WAIT_S = 600
# Before it, vocabularies have their control tokens and single bytes.
FIRST_WORD = 300
ONE = Generation(max_tokens=1)
# What a domain puts before each question; both sides read it once.
SYSTEM = "Keep to the rules of the house. Answer kindly, in whole sentences, and only what you know. " * 2
Result = Callable[[str, float, float, str, str], dict[str, Any]]


@contextmanager
def weights(model: Path | None) -> Iterator[Path]:
    """The file to measure on: the one given, or random weights of half a billion parameters with a vocabulary of 152k, written for the occasion."""
    if model:
        yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        yield write_random(Path(folder) / "random-0.5b-q4_0.gguf", SHAPES["0.5b"], "Q4_0")


def generating(model: Path | None, runs: int, llama_server: Path | None, settings: Settings, result: Result) -> list[dict[str, Any]]:
    """The rows of the suite; rates in tokens a second, medians of ``runs`` turns."""
    if llama_server and not shutil.which(llama_server):
        raise BackendUnavailableError(f"{llama_server} is no program", "Give the path of a llama-server binary.")
    threads = threads_for(settings.threads)
    with weights(model) as path:
        rows = swapping(path, threads, runs, result)
        # All eight are to write at once, whatever the model.
        with closing(_opened(path, settings, eager=True)) as backend:
            rows += _decoding(backend, path, threads, runs, settings.flash_attention, result)
        if llama_server:
            with closing(_opened(path, settings)) as backend:
                rows += _against_server(backend, llama_server, path, threads, runs, result)
    return rows


def stressing(model: Path | None, seconds: float, callers: int, settings: Settings, result: Result) -> list[dict[str, Any]]:
    """Many callers at once, a third of whom change their minds. Each row's baseline is what is allowed, of ``answers`` what was asked.

    Without a model: random weights in float32, where rounding cannot turn an 8-bit activation. Raises :class:`BackendError` that lists what was
    wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = model or write_random(Path(folder) / "random-tiny-f32.gguf", SHAPES["tiny"], "F32")
        with closing(_opened(path, settings, queue_limit=callers, eager=True)) as backend:
            report = stress(backend, seconds=seconds, callers=callers)
    failures = [*report.errors, *report.wrong]
    if failures:
        hint = "With flash_attention answers may differ; turn it off." if settings.flash_attention else "This is a fault of mdsa_local."
        raise BackendError(f"{len(failures)} of {report.answers} answers are wrong: {'; '.join(failures[:5])}", hint)
    early, late = report.rss_mb
    return [
        result("answers", report.answers, report.answers + report.cancelled, "1", "a third is cancelled on purpose"),
        result("equal_alone", report.equal + report.near_ties, report.answers, "1", "higher"),
        result("near_ties", report.near_ties, report.answers, "1", "lower"),
        result("tokens_per_s", report.tokens / report.seconds, report.tokens / report.seconds, "1/s", "higher"),
        result("rss", late, early, "MB", "lower"),
        result("idle_after", report.idle_s, 1.0, "s", "lower"),
    ]


def _opened(path: Path, settings: Settings, *, queue_limit: int = 64, eager: bool = False) -> LlamaCppBackend:
    flash = settings.flash_attention
    return LlamaCppBackend(path, path.stem, CONTEXT, settings.threads, parallel=TOGETHER, queue_limit=queue_limit, flash_attention=flash, eager=eager)


def _decoding(backend: LlamaCppBackend, path: Path, threads: int, runs: int, flash_attention: bool, result: Result) -> list[dict[str, Any]]:
    length = backend.count_tokens(_question(0))
    with ExitStack() as opened:
        opened.enter_context(going_on(backend.weights))
        bare, other = (opened.enter_context(closing(Bare(backend.weights, threads, flash))) for flash in (flash_attention, not flash_attention))
        plain = opened.enter_context(closing(Plain(path, threads)))
        measured: dict[str, Callable[[], float]] = {
            "one": partial(_ours, backend, 1),
            "bare_one": partial(bare.rate, 1, length),
            "eight": partial(_ours, backend, TOGETHER),
            "bare_eight": partial(bare.rate, TOGETHER, length),
            "other_one": partial(other.rate, 1, length),
            "other_eight": partial(other.rate, TOGETHER, length),
            "generate": plain.rate,
        }
        # In turns, so that whatever else the machine does meets all alike; the first turn only warms up.
        turns = [{name: rate() for name, rate in measured.items()} for _ in range(runs + 1)][1:]
    middle = {name: statistics.median(turn[name] for turn in turns) for name in measured}
    with_flash, without = ("bare", "other") if flash_attention else ("other", "bare")
    rows = {
        "decode_1": ("one", "bare_one"),
        "decode_8": ("eight", "bare_eight"),
        "decode_8_over_1": ("eight", "one"),
        "bare_8_over_1": ("bare_eight", "bare_one"),
        "over_llama_generate": ("one", "generate"),
        "bare_over_llama_generate": ("bare_one", "generate"),
        "bare_flash_attention_1": (f"{with_flash}_one", f"{without}_one"),
        "bare_flash_attention_8": (f"{with_flash}_eight", f"{without}_eight"),
    }
    return [result(name, middle[value], middle[baseline], "1/s", "higher") for name, (value, baseline) in rows.items()]


def swapping(path: Path, threads: int, runs: int, result: Result) -> list[dict[str, Any]]:
    """Milliseconds from a question to its first token behind a system prompt of 300 tokens or more, the model just loaded: with the prompt's state
    from disk, against without. ``with_load`` counts loading too."""
    warm, cold, warm_load, cold_load = (list[float]() for _ in range(4))
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(runs + 1):
            for first, load, states in ((cold, cold_load, None), (warm, warm_load, Path(folder))):
                began = time.perf_counter()
                backend = LlamaCppBackend(path, path.stem, CONTEXT, threads, states=states, states_bytes=10**9)
                system = "Keep to the rules of the house."
                while backend.count_tokens([Message("system", system), Message("user", "")]) < 304:
                    system += " Answer kindly, and only what you know."
                asked = time.perf_counter()
                list(backend.stream([Message("system", system), Message("user", "What does a new card cost?")], ONE, deadline_s=600))
                ended = time.perf_counter()
                backend.close()
                # The first turn writes the state and warms the system's cache.
                if turn:
                    first.append((ended - asked) * 1000)
                    load.append((ended - began) * 1000)
    middle = statistics.median
    return [
        result("ttft_after_swap", middle(warm), middle(cold), "ms", "lower"),
        result("ttft_after_swap_with_load", middle(warm_load), middle(cold_load), "ms", "lower"),
    ]


@contextmanager
def going_on(model: Model) -> Iterator[None]:
    """Let answers go on behind a token that ends one, as the bare loops do, and each token have a text, by which they are seen to begin. The model is
    asked about both all the same: that is part of what is measured."""
    ends, piece = model.ends, model.piece
    model.ends = lambda token: ends(token) and False  # type: ignore[method-assign]
    model.piece = lambda token: piece(token) or b"."  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.ends, model.piece


def _ours(backend: LlamaCppBackend, n: int) -> float:
    """Tokens a second of ``n`` answers at once, from when all have begun until the first is done. Raises :class:`BackendError` where one of them
    has fewer than were asked for."""
    counted: list[tuple[int, float]] = []

    def count() -> None:
        counted.append((backend.stats().tokens_generated, time.perf_counter()))

    # The one that begins last counts before any goes on: who must be woken to count may come when a small model has long written all.
    begun, failed = threading.Barrier(n, count), list[Exception]()

    def answer(number: int) -> None:
        try:
            # Different from the first word, so that no beginning is shared.
            stream = backend.stream(_question(number), Generation(max_tokens=TOKENS), deadline_s=WAIT_S)
            first = next(stream)
            begun.wait(WAIT_S)
            last = [first, *deque(stream, maxlen=1)][-1]
            count()
            if (made := last.tokens_generated if isinstance(last, Finished) else 0) < TOKENS:
                raise BackendError(
                    f"an answer of {backend.name} has {made} tokens, {TOKENS} are measured", "Give a model with room for them behind a prompt."
                )
        except threading.BrokenBarrierError:
            # Told by the one that broke it.
            pass
        except Exception as error:
            failed.append(error)
            begun.abort()

    callers = [threading.Thread(target=answer, args=(number,)) for number in range(n)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    if failed:
        raise failed[0]
    if not counted:
        raise BackendTimeoutError(f"{n} answers of {backend.name} had not begun after {WAIT_S} s", "Give a smaller model.")
    (before, began), (after, ended) = counted[:2]
    if after == before:
        raise BackendError(
            f"{backend.name} wrote no text from when all its answers had begun until the first was done", "Give a larger model, one that writes text."
        )
    return (after - before) / (ended - began)


def _question(number: int) -> list[Message]:
    return [Message("user", f"{number} {_words(number)}")]


def _words(number: int) -> str:
    return " ".join(f"word{number}{at}" for at in range(6))


def _token(number: int, size: int) -> int:
    """A token of a vocabulary of ``size``, behind its first ones, of which small ones have fewer."""
    first = min(FIRST_WORD, size // 2)
    return first + number % (size - first)


class Bare:
    """The shortest loop on llama.cpp's interface: one batch for all sequences, one greedy sampler each, nothing else."""

    def __init__(self, model: Model, threads: int, flash_attention: bool = False) -> None:
        self._lib = lib = model.lib
        self._size = model.vocabulary_size
        params = lib.llama_context_default_params()
        options = context_options(CONTEXT, TOGETHER, threads)
        params.n_ctx, params.n_seq_max, params.kv_unified = options.cells, TOGETHER, True
        params.n_batch = params.n_ubatch = 64
        params.n_outputs_max = TOGETHER
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_AUTO if flash_attention else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = lib.llama_init_from_model(model.handle, params)
        self._batch = lib.llama_batch_init(64, 0, 1)
        self._samplers = []
        for _ in range(TOGETHER):
            chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
            self._samplers.append(chain)

    def rate(self, n: int, prompt_tokens: int) -> float:
        """Tokens a second of ``n`` sequences behind prompts of that many tokens."""
        lib, context, batch = self._lib, self._context, self._batch
        lib.llama_memory_clear(lib.llama_get_memory(context), False)
        for sequence in range(n):
            for start in range(0, prompt_tokens, 64):
                places = range(start, min(start + 64, prompt_tokens))
                self._fill([(_token(at + 40 * sequence, self._size), at, sequence, at == prompt_tokens - 1) for at in places])
                lib.llama_decode(context, batch)
        tokens = [_token(100 + sequence, self._size) for sequence in range(n)]
        began = time.perf_counter()
        for at in range(TOKENS):
            self._fill([(token, prompt_tokens + at, sequence, True) for sequence, token in enumerate(tokens)])
            lib.llama_decode(context, batch)
            tokens = [lib.llama_sampler_sample(self._samplers[row], context, row) for row in range(n)]
        seconds = time.perf_counter() - began
        # Its helpers, even asleep, would slow down those of the engine: whoever runs alone meets none.
        release_workers()
        return n * TOKENS / seconds

    def _fill(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        for at, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = token, position, 1, wanted
            batch.seq_id[at][0] = sequence
        batch.n_tokens = len(rows)

    def close(self) -> None:
        """Free everything."""
        for chain in self._samplers:
            self._lib.llama_sampler_free(chain)
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)


class Plain:
    """``llama_cpp.Llama.generate``, as its documentation uses it."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp

        with _as_rearranged(llama_cpp.llama_cpp):
            self._llama = llama_cpp.Llama(str(path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False)

    def rate(self) -> float:
        """Tokens a second."""
        self._llama.reset()
        size = self._llama.n_vocab()
        pieces = self._llama.generate([_token(number, size) for number in range(32)], temp=0.0, top_k=1)
        next(pieces)
        began = time.perf_counter()
        for _ in range(TOKENS):
            next(pieces)
        seconds = time.perf_counter() - began
        release_workers()
        return TOKENS / seconds

    def close(self) -> None:
        """Free the second copy of the model."""
        self._llama.close()


@contextmanager
def _as_rearranged(lib: Any) -> Iterator[None]:
    """Whoever loads a model meanwhile puts its weights in another order only where ours do: ``llama_cpp.Llama`` has no option for it."""
    usual = lib.llama_model_default_params

    def params() -> Any:
        found = usual()
        found.use_extra_bufts = rearranges(lib)
        return found

    lib.llama_model_default_params = params
    try:
        yield
    finally:
        lib.llama_model_default_params = usual


def _against_server(backend: LlamaCppBackend, binary: Path, path: Path, threads: int, runs: int, result: Result) -> list[dict[str, Any]]:
    """Whole requests behind one system prompt, in tokens a second, for 1, 4 and 8 clients: ours in this process, the server's over HTTP."""
    rows = []
    with Server(binary, path, threads) as server:
        for clients in (1, 4, 8):
            ours, theirs = list[float](), list[float]()
            for turn in range(runs + 1):
                measured = _throughput(lambda text: _answered(backend, text), clients, turn), _throughput(server.answered, clients, turn)
                if turn:
                    ours.append(measured[0])
                    theirs.append(measured[1])
            rows.append(result(f"llama_server_{clients}", statistics.median(ours), statistics.median(theirs), "1/s", "higher"))
    return rows


def _answered(backend: LlamaCppBackend, text: str) -> int:
    *_, finished = backend.stream([Message("system", SYSTEM), Message("user", text)], Generation(max_tokens=TOKENS), deadline_s=600)
    return finished.tokens_generated if isinstance(finished, Finished) else 0


def _throughput(answer: Callable[[str], int], clients: int, turn: int) -> float:
    """Tokens a second of ``clients`` that ask two questions each, one after the other."""
    tokens = list[int]()

    def ask(number: int) -> None:
        tokens.extend(answer(f"{turn} {number} {question} {_words(number)}") for question in range(2))

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sum(tokens) / (time.perf_counter() - began)


class Server:
    """A llama-server child process on loopback."""

    def __init__(self, binary: Path, path: Path, threads: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        command = [str(binary), "-m", str(path), "--host", "127.0.0.1", "--port", str(self._port), "-np", str(TOGETHER), "-c", str(CONTEXT * 2)]
        command += ["-t", str(threads), "-tb", str(threads), "--kv-unified", "--cache-ram", "0"]
        command += [] if rearranges(library()) else ["--no-repack"]
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise BackendUnavailableError(f"{binary} cannot be started: {error.strerror}", "Give the path of a llama-server binary.") from None

    def __enter__(self) -> Server:
        import httpx

        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=600, trust_env=False)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(httpx.TransportError):
                if self._client.get("/health").status_code == 200:
                    return self
            time.sleep(0.1)
        self.__exit__()
        raise BackendUnavailableError("llama-server did not come up within two minutes", "Start it by hand to see why.")

    def answered(self, text: str) -> int:
        """Ask through the same chat template; the tokens written."""
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        body = {"messages": messages, "max_tokens": TOKENS, "temperature": 0, "cache_prompt": True}
        return int(self._client.post("/v1/chat/completions", json=body).raise_for_status().json()["usage"]["completion_tokens"])

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
