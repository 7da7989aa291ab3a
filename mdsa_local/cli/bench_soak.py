"""``mdsa bench soak``: six models, memory for two or three of them, 500 requests from eight threads."""

from __future__ import annotations

import random
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from mdsa_local.cli.bench_generate import Result
from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendError, MDSAError
from mdsa_local.runtime.llamacpp import estimate_bytes
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.runtime.synthetic import SHAPES, write_random
from mdsa_local.settings import Settings

MODELS, REQUESTS, THREADS = 6, 500, 8
# About 40 MB each: small enough for a laptop's disk, large enough that memory which is not given back shows.
SHAPE = replace(SHAPES["tiny"], layers=8, width=512, heads=8, inner=2048, vocabulary=32000, context=1024)


def soaking(settings: Settings, result: Result) -> list[dict[str, Any]]:
    """Peak resident memory against the budget plus what the interpreter and llama.cpp take by themselves, and how often models were loaded.

    Raises :class:`BackendError` that lists the failures.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            str(write_random(Path(folder) / f"{at}.gguf", replace(SHAPE, layers=6 + at), ("Q8_0", "Q4_0")[at % 2], seed=at)) for at in range(MODELS)
        ]
        settings = settings.changed(parallel=2, queue_limit=REQUESTS, request_timeout_s=300)
        # What one model leaves behind, such as the library itself, is the base.
        with ModelManager(settings, memory_budget="1GB") as warm:
            warm.generate(paths[0], "warm", Generation(max_tokens=2))
        base = psutil.Process().memory_info().rss
        sizes = sorted(estimate_bytes(path, settings) for path in paths)
        budget = sizes[-1] + sizes[-2]
        with ModelManager(settings, memory_budget=budget) as manager:
            peak, errors = _ask(manager, paths)
            loads = sum(status.loads for status in manager.status())
    if errors:
        raise BackendError(f"{len(errors)} of {REQUESTS} requests failed: {'; '.join(errors[:3])}", "This is a fault of mdsa_local.")
    return [
        result("peak_rss", peak / 1e6, (budget + base) / 1e6, "MB", "lower"),
        result("loads", loads, REQUESTS, "1", "lower"),
    ]


def _ask(manager: ModelManager, paths: list[str]) -> tuple[int, list[str]]:
    """All requests; ``(peak resident bytes, errors)``."""
    done, errors, peak, process = threading.Event(), list[str](), [0], psutil.Process()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(REQUESTS // THREADS + (number < REQUESTS % THREADS)):
            # Some models are asked more than others, and often twice in a row, as people do.
            path = paths[min(int(rng.expovariate(0.6)), len(paths) - 1)]
            try:
                for question in range(rng.randint(1, 2)):
                    manager.generate(path, f"{number} {question} hello", Generation(max_tokens=4))
            except MDSAError as error:
                errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    watcher = threading.Thread(target=watch)
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    return peak[0], errors
