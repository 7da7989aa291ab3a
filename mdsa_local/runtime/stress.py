"""Many callers at once on one model, some of whom change their minds: does every answer come out as it would alone?

At temperature 0 an answer must equal that of the same request alone, or first depart from it at a near-tie: two tokens whose logits differ by less
than 0.01. The shape of a batch changes rounding, and nothing else may.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BusyError, MDSAError
from mdsa_local.runtime.backend import Finished, Message, TokenProbability
from mdsa_local.runtime.llamacpp import LlamaCppBackend

NEAR_TIE = 0.01
WORDS = "the card was charged twice at the shop today so how do I get my money back before the end of this month please".split()


@dataclass(slots=True)
class Report:
    """What happened. ``rss_mb``: resident memory after a fifth of the time, and at the end; ``wrong``: answers that depart beyond a near-tie."""

    seconds: float = 0.0
    answers: int = 0
    equal: int = 0
    near_ties: int = 0
    cancelled: int = 0
    refused: int = 0
    tokens: int = 0
    idle_s: float = 0.0
    rss_mb: tuple[float, float] = (0.0, 0.0)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def requests(n: int, seed: int = 0, longest: int = 120) -> list[list[Message]]:
    """Prompts of different lengths, some with a system prompt that others have too."""
    rng = random.Random(seed)
    systems = [" ".join(rng.choices(WORDS, k=longest // 2)) for _ in range(3)]
    made = []
    for _ in range(n):
        user = Message("user", " ".join(rng.choices(WORDS, k=rng.randint(1, longest))))
        made.append([Message("system", rng.choice(systems)), user] if rng.random() < 0.5 else [user])
    return made


def told(backend: LlamaCppBackend, messages: Sequence[Message], max_tokens: int) -> tuple[TokenProbability, ...]:
    """The tokens of a greedy answer, each with its two likeliest alternatives."""
    generation = Generation(max_tokens=max_tokens, probabilities=2)
    *_, last = backend.stream(messages, generation, deadline_s=600)
    assert isinstance(last, Finished)
    return last.probabilities


def departs(alone: Sequence[TokenProbability], together: Sequence[TokenProbability]) -> float:
    """By how much the logits of two answers' tokens differ where they first depart, by the answer alone; 0 when they are equal.

    Infinite when the other's token is not even among the likeliest two, or one answer simply ends early.
    """
    for one, other in zip(alone, together, strict=False):
        if one.token != other.token:
            rivals = {rival.token: rival.log_probability for rival in one.alternatives}
            return one.log_probability - rivals[other.token] if other.token in rivals else float("inf")
    # Where one ends, the end itself was the token; it is not among those told.
    return 0.0 if len(alone) == len(together) else _end(alone, together)


def _end(alone: Sequence[TokenProbability], together: Sequence[TokenProbability]) -> float:
    longer = max(alone, together, key=len)[min(len(alone), len(together))]
    best = longer.alternatives
    return abs(best[0].log_probability - best[1].log_probability)


def stress(
    backend: LlamaCppBackend, *, seconds: float, callers: int = 64, n_requests: int = 40, max_tokens: int = 32, seed: int = 0, longest: int = 120
) -> Report:
    """Ask the same requests alone first, then from ``callers`` threads for ``seconds``, a third of them cancelled at a random moment."""
    prompts = requests(n_requests, seed, longest)
    alone = [told(backend, messages, max_tokens) for messages in prompts]
    report, lock, process = Report(), threading.Lock(), psutil.Process()
    began = time.monotonic()
    end = began + seconds

    def work(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        while time.monotonic() < end:
            _one(backend, rng, prompts, alone, max_tokens, report, lock)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 5)
    early = process.memory_info().rss
    for thread in threads:
        thread.join()
    report.seconds = time.monotonic() - began
    report.rss_mb = (early / 2**20, process.memory_info().rss / 2**20)
    report.idle_s = idle_after(process)
    return report


def _one(
    backend: LlamaCppBackend,
    rng: random.Random,
    prompts: Sequence[Sequence[Message]],
    alone: Sequence[tuple[TokenProbability, ...]],
    max_tokens: int,
    report: Report,
    lock: threading.Lock,
) -> None:
    which = rng.randrange(len(prompts))
    stream = backend.stream(prompts[which], Generation(max_tokens=max_tokens, probabilities=2), deadline_s=600)
    canceller = threading.Timer(rng.random() * 0.5, stream.close) if rng.random() < 1 / 3 else None
    if canceller:
        canceller.start()
    try:
        events = list(stream)
        with lock:
            _judge(report, which, alone[which], events[-1] if events else None)
    except BusyError as error:
        with lock:
            report.refused += 1
        time.sleep(min(error.retry_after_s, 0.2))
    except MDSAError as error:
        with lock:
            report.errors.append(f"{type(error).__name__}: {error}")
    finally:
        if canceller:
            canceller.cancel()
            canceller.join()


def _judge(report: Report, which: int, alone: Sequence[TokenProbability], last: str | Finished | None) -> None:
    if not isinstance(last, Finished):
        # Closed before its first piece was asked for: nothing was begun.
        report.cancelled += 1
    elif last.reason == "cancelled":
        report.cancelled += 1
        report.tokens += last.tokens_generated
    else:
        report.answers += 1
        report.tokens += last.tokens_generated
        gap = departs(alone, last.probabilities)
        report.equal += gap == 0.0
        report.near_ties += 0.0 < gap < NEAR_TIE
        if gap >= NEAR_TIE:
            report.wrong.append(f"request {which} departs by {gap:.4f}")


def idle_after(process: psutil.Process, within_s: float = 5.0) -> float:
    """Seconds until the process uses less than a twentieth of one core, measured in steps of 0.1 s."""
    began = time.monotonic()
    while (now := time.monotonic()) - began < within_s:
        before = sum(process.cpu_times()[:2])
        time.sleep(0.1)
        if sum(process.cpu_times()[:2]) - before <= 0.005:
            return now - began
    return within_s
