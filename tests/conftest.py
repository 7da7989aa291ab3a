"""Shared parts of the tests: the shipped encoder, the shipped model, LanceDB on disk; nothing touches the user's own data."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from mdsa_local.knowledge import sync
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.encoder import Encoder
from mdsa_local.settings import Settings

DATA = Path(__file__).parent / "data"

# Tests press Ctrl-C; a job that a shell began in the background ignores that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty ``$MDSA_HOME`` for the whole run, and no setting of the user's."""
    before = dict(os.environ)
    home = tmp_path_factory.mktemp("mdsa-home")
    for name in [*(key for key in os.environ if key.startswith("MDSA_")), "OLLAMA_HOST", "OLLAMA_BASE_URL", "OLLAMA_API_KEY"]:
        os.environ.pop(name, None)
    os.environ["MDSA_HOME"] = str(home)
    yield home
    os.environ.clear()
    os.environ.update(before)


def json_lines(path: Path, rows: Iterable[object]) -> Path:
    """Write a file of JSON lines; its path."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The shipped encoder."""
    return Encoder.load()


@pytest.fixture(scope="session")
def product(own_home: Path, encoder: Encoder) -> Iterator[TinyBERTOrchestrator]:
    """The product as installed, its knowledge bases ingested."""
    settings = Settings.load()
    with TinyBERTOrchestrator(settings=settings) as orchestrator:
        sync.sync(orchestrator.knowledge, settings, encoder.fingerprint)
        yield orchestrator
