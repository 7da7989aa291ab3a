"""``mdsa bench``: ours against the raw baseline, measured in the same run."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from mdsa_local.child import family
from mdsa_local.cli.output import Json, document, table
from mdsa_local.errors import UnknownNameError

if TYPE_CHECKING:
    import psutil

# 19 tokens with the marks around them.
LINE = "My card was charged twice at the shop today how do I get my money back"
MANY_DOMAINS, MANY_EXAMPLES = 200, 50
QUESTION = "My card was charged twice, how do I get my money back?"
# The libraries an answer cannot do without, imported bare.
LIBRARIES = "import onnxruntime, tokenizers, lancedb, llama_cpp"


def bench(
    suite: Annotated[str, typer.Argument(help="startup, route, retrieve, generate, stress or soak.")] = "startup",
    runs: Annotated[int, typer.Option("--runs", min=1, help="Repetitions; the median counts.")] = 5,
    model: Annotated[Path | None, typer.Option("--model", help="GGUF for generate and stress; random weights when not given.")] = None,
    llama_server: Annotated[Path | None, typer.Option("--llama-server", help="llama-server binary to compare generate with.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long stress lasts.")] = 60,
    callers: Annotated[int, typer.Option("--callers", min=1, help="Threads of stress.")] = 64,
    as_json: Json = False,
) -> None:
    """Measure this machine: a cold start, the router, the knowledge bases, generation, many callers at once, or many models in one memory budget."""
    import psutil

    from mdsa_local.cli import bench_generate, bench_retrieve, bench_soak
    from mdsa_local.settings import Settings

    suites: dict[str, Callable[[int], list[dict[str, Any]]]] = {
        "startup": startup,
        "route": routing,
        "retrieve": lambda runs: bench_retrieve.retrieving(runs, result),
        "generate": lambda runs: bench_generate.generating(model, runs, llama_server, Settings.load(), result),
        "soak": lambda _: bench_soak.soaking(Settings.load(), result),
        "stress": lambda _: bench_generate.stressing(model, seconds, callers, Settings.load(), result),
    }
    if suite not in suites:
        raise UnknownNameError.among("suite", suite, suites)
    results = suites[suite](runs)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "memory_mb": psutil.virtual_memory().total >> 20}
    if as_json:
        document({"suite": suite, "machine": {**machine, "system": platform.system(), "python": platform.python_version()}, "results": results})
        return
    rows = [(r["name"], f"{r['ours']:.2f}", f"{r['baseline']:.2f}", r["unit"], f"{r['ratio']:.2f}", r["better"]) for r in results]
    table(rows, ("name", "ours", "baseline", "unit", "ratio", "better"))


def result(name: str, ours: float, baseline: float, unit: str, better: str = "lower") -> dict[str, Any]:
    """One row of a suite."""
    ratio = round(ours / baseline, 3) if baseline else None
    return {"name": name, "ours": round(ours, 3), "baseline": round(baseline, 3), "unit": unit, "ratio": ratio, "better": better}


def startup(runs: int) -> list[dict[str, Any]]:
    """Times of fresh processes in ms, and the peak memory of one that answers in MB. Knowledge bases are brought up to date and sources compiled
    first, as installing does."""
    import compileall

    # The log is for what a user asks.
    os.environ["MDSA_ANSWER_LOG"] = "0"
    compileall.compile_dir(Path(__file__).parents[1], quiet=2)
    subprocess.run([sys.executable, "-m", "mdsa_local", "kb", "sync"], check=True, capture_output=True)
    bare = _median(runs, lambda: _exit_ms("pass"))
    ours_import = _median(runs, lambda: _exit_ms("import mdsa_local"))
    with_help = _median(runs, lambda: _first_output("-m", "mdsa_local", "--help")[0])
    with_typer = _median(runs, lambda: _exit_ms("import typer"))
    answers = [_first_output("-m", "mdsa_local", "ask", QUESTION) for _ in range(runs)]
    libraries = [_first_output("-c", f"{LIBRARIES}; print(1)") for _ in range(runs)]
    return [
        result("import", ours_import - bare, bare, "ms"),
        result("help", with_help, with_typer, "ms"),
        result("first_token", statistics.median(a[0] for a in answers), statistics.median(b[0] for b in libraries), "ms"),
        result("peak_rss", max(a[1] for a in answers), max(b[1] for b in libraries), "MB"),
    ]


def routing(runs: int) -> list[dict[str, Any]]:
    """Routing against the bare ONNX session in ms, questions a second, many domains, and the memory the encoder takes."""
    import psutil

    from mdsa_local.domains.config import DomainConfig
    from mdsa_local.orchestrator import TinyBERTOrchestrator
    from mdsa_local.routing.encoder import Encoder
    from mdsa_local.routing.router import IntentRouter

    before = psutil.Process().memory_info().rss
    orchestrator = TinyBERTOrchestrator()
    encoder = Encoder.load()
    encoder.encode([LINE])
    encoder_mb = (psutil.Process().memory_info().rss - before) / 2**20
    router = orchestrator.router
    texts = [text for domain in orchestrator.registry for text in domain.examples] or [QUESTION]
    many = IntentRouter(encoder, encoder.calibration)
    # Every example of its own: what has to be searched, not what is found, takes the time.
    many.register_all(
        DomainConfig(name=f"domain{i}", examples=tuple(f"{text} {i}" for text in (texts * 50)[:MANY_EXAMPLES])) for i in range(MANY_DOMAINS)
    )
    session, at_once = encoder.bare(LINE), encoder.bare_batch(texts)
    bare, ours = _by_turns(runs, session, partial(router.route, LINE))
    bare_beside, crowd = _by_turns(runs, session, partial(many.route, LINE))
    # By turns as well: what else the machine does comes and goes.
    batches = [(_timed_ms(at_once), _timed_ms(lambda: router.scores(texts))) for _ in range(runs)]
    bare_batch, batch = (statistics.median(times) for times in zip(*batches, strict=True))
    at = int(len(bare) * 0.99)
    return [
        result("route_p50", statistics.median(ours), statistics.median(bare), "ms"),
        result("route_p99", ours[at], bare[at], "ms"),
        result("route_p50_200_domains", statistics.median(crowd), statistics.median(bare_beside), "ms"),
        result("route_p99_200_domains", crowd[at], bare_beside[at], "ms"),
        result("route_batch", len(texts) / batch * 1000, len(texts) / bare_batch * 1000, "1/s", "higher"),
        result("encoder_memory", encoder_mb, sum(path.stat().st_size for path in encoder.folder.glob("model.onnx*")) / 2**20, "MB"),
    ]


def _by_turns(runs: int, bare: Callable[[], object], ours: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Times of both in ms, sorted: in turns of 20, so that what else the machine does meets both alike, yet neither finds the other's caches."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(5 * runs):
        for kept, work in zip(times, (bare, ours), strict=True):
            work()
            kept.extend(_timed_ms(work) for _ in range(20))
    return sorted(times[0]), sorted(times[1])


def _timed_ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _median(runs: int, measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(runs))


def _exit_ms(code: str) -> float:
    return _timed_ms(lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True))


def _first_output(*arguments: str) -> tuple[float, float]:
    """``(ms until the first byte on stdout, peak resident MB)`` of a fresh process."""
    import psutil

    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    watched, peak = psutil.Process(process.pid), 0
    came: list[float] = []
    # A thread, because before Python 3.12 a pipe cannot be read without blocking on Windows.
    reader = threading.Thread(target=_drain, args=(process.stdout, came), daemon=True)
    reader.start()
    while process.poll() is None:
        with suppress(psutil.Error, OSError):
            peak = max(peak, _peak_bytes(watched))
        time.sleep(0.002)
    reader.join()
    process.stdout.close()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return (came[0] - began) * 1000 if came else 0.0, peak / 1e6


def _drain(stream: IO[bytes], came: list[float]) -> None:
    """Read to the end; ``came`` gets the time of the first byte."""
    if stream.read(1):
        came.append(time.perf_counter())
    stream.read()


def _peak_bytes(process: psutil.Process) -> int:
    """The highest resident size so far where the system keeps it, else the present one."""
    if sys.platform == "linux":
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8", errors="replace")
        # A process that has ended, but was not waited for, has no such line.
        return next((int(row.split()[1]) * 1024 for row in status.splitlines() if row.startswith("VmHWM:")), 0)
    return sum(int(getattr(memory, "peak_wset", memory.rss)) for memory in (one.memory_info() for one in family(process)))
