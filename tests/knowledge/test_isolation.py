"""No door leads from one domain into another's documents."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mdsa_local.errors import UnknownNameError
from mdsa_local.knowledge.dual_rag import DualRAG

from .toy_embedder import ToyEmbedder

# 10,000 in a long run: MDSA_TEST_SEARCHES=10000.
SEARCHES = int(os.environ.get("MDSA_TEST_SEARCHES", "300"))
DOMAINS = tuple(f"domain{n}" for n in range(6))
WORDS = [f"word{n}" for n in range(40)]


@dataclass(frozen=True)
class World:
    rag: DualRAG
    canaries: dict[str, list[str]]

    def crossed(self, said: object, asked: str | None) -> list[str]:
        """The canaries of other domains in anything's text."""
        text = repr(said)
        return [canary for domain, canaries in self.canaries.items() if domain != asked for canary in canaries if canary in text]


def world(folder: Path, source: random.Random) -> World:
    rag = DualRAG(folder, ToyEmbedder())
    canaries: dict[str, list[str]] = {domain: [] for domain in DOMAINS}
    shared = [{"content": f"shared {' '.join(source.choices(WORDS, k=9))}", "metadata": {"id": f"shared{n}"}} for n in range(10)]
    rag.add_global_documents(shared)
    for domain in DOMAINS:
        documents = []
        for _ in range(source.randint(5, 30)):
            canary = f"canary{source.getrandbits(64):016x}"
            canaries[domain].append(canary)
            text = f"{canary} {' '.join(source.choices(WORDS, k=source.randint(3, 12)))}"
            documents.append({"content": text, "metadata": {"id": f"{canary}.md", "title": canary, "source": f"/{canary}", "note": canary}})
        rag.add_local_documents(domain, documents)
    return World(rag, canaries)


def test_no_search_through_any_door_crosses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    source = random.Random(seed)
    caplog.set_level(logging.DEBUG)
    made = world(tmp_path, source)
    rag = made.rag
    everything = [canary for canaries in made.canaries.values() for canary in canaries]
    doors: list[Callable[[str, str | None, int], object]] = [
        lambda text, domain, k: rag.search(text, ToyEmbedder().encode([text])[0], domain, k),
        lambda text, domain, k: rag.search(text, None, domain, k),
        lambda text, domain, k: rag.query(text, domain, k),
        lambda text, domain, k: rag.ranked(text, ToyEmbedder().encode([text])[0], domain, k),
        lambda text, domain, k: rag.why(text, ToyEmbedder().encode([text])[0], f"shared{source.randrange(10)}", domain, k),
    ]
    seen = 0
    for _ in range(SEARCHES):
        asked = source.choice([*DOMAINS, None])
        # Half ask for another's canary by its exact word.
        text = " ".join([*source.sample(everything, source.randint(0, 2)), *source.choices(WORDS, k=source.randint(1, 4))])
        found = source.choice(doors)(text, asked, source.randint(1, 60))
        said = repr(found)
        # The question itself may be repeated: what was not asked must not be there.
        for canary in text.split():
            said = said.replace(f"'{canary}'", "")
        assert made.crossed(said, asked) == []
        seen += asked is not None and any(canary in said for canary in made.canaries[asked])
    assert seen > SEARCHES / 4, "a domain's own documents are found"
    assert made.crossed(caplog.text, None) == []


@pytest.mark.parametrize("asked", [None, DOMAINS[0]])
def test_neither_ids_nor_errors_cross(tmp_path: Path, asked: str | None) -> None:
    source = random.Random(7)
    made = world(tmp_path, source)
    vector = ToyEmbedder().encode(["x"])[0]
    for owner in DOMAINS[1:]:
        canary = made.canaries[owner][0]
        doors: tuple[Callable[[], object], ...] = (
            lambda name=canary: made.rag.passage(f"{name}.md#0", asked),  # type: ignore[misc]
            lambda name=canary: made.rag.why("x", vector, f"{name}.md", asked),  # type: ignore[misc]
            lambda name=canary: made.rag.remove(f"{name}.md", asked),  # type: ignore[misc]
        )
        for door in doors:
            with pytest.raises(UnknownNameError) as caught:
                door()
            assert made.crossed(str(caught.value).replace(canary, "") + caught.value.hint, asked) == []
    for condition in ("x' OR '1'='1", "x' OR id LIKE 'canary%' --", "') OR ('1'='1"):
        with pytest.raises(UnknownNameError):
            made.rag.passage(condition, asked)
    assert made.crossed(made.rag.list_documents(asked), asked) == []
