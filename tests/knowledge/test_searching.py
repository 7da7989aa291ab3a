"""What is held in memory finds the same, in the same order, as what lies on the disk."""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mdsa_local.errors import ConfigError
from mdsa_local.knowledge import reading, searching
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.fusion import WORDS_WEIGHT, Hit, Ranked
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.store import Entry, KnowledgeBase
from mdsa_local.knowledge.together import search_all
from mdsa_local.routing.encoder import Encoder
from mdsa_local.settings import shipped
from tests.knowledge.toy_embedder import ToyEmbedder

ROOT = Path(__file__).parents[2]
TOP_K = 5


def fused(entry: Ranked) -> float:
    """What the order goes by."""
    return entry.hit.cosine + WORDS_WEIGHT * entry.hit.words


def test_the_order_of_passages_is_the_same_in_memory_and_from_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load()
    for domain in (None, "finance", "medical"):
        DualRAG(tmp_path, encoder).add_paths([shipped("domains") / (domain or "_global") / "knowledge"], domain)
    files = [*sorted((ROOT / "tests/data/answers").glob("*.jsonl")), ROOT / "mdsa_local/evaluation/answers.jsonl"]
    questions = [json.loads(line)["question"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    vectors = encoder.encode(questions)
    on_disk, in_memory = DualRAG(tmp_path, encoder), DualRAG(tmp_path, encoder)
    for domain in ("finance", "medical"):
        for _ in range(2):
            in_memory.search("warm", vectors[0], domain, TOP_K)
    in_memory.settle()
    monkeypatch.setattr(searching, "HELD_ROWS", 0)
    # Of larger tables what is found comes from copies.
    monkeypatch.setattr(reading, "ROWS_A_SEARCH", 100_000)
    from_copies = DualRAG(tmp_path, encoder)
    for domain in ("finance", "medical"):
        for _ in range(2):
            from_copies.search("warm", vectors[0], domain, TOP_K)
    from_copies.settle()
    for number, (question, vector) in enumerate(zip(questions[::2], vectors[::2], strict=True)):
        domain = ("finance", "medical")[number % 2]
        # All that matches, and as few candidates as a search usually has.
        same_order(*(rag.ranked(question, vector, domain, 300) for rag in (on_disk, in_memory)))
        expected = on_disk.ranked(question, vector, domain, TOP_K)
        for rag in (in_memory, from_copies):
            same_but_for_equals(expected, rag.ranked(question, vector, domain, TOP_K))
    for base in from_copies._knowledge_bases.values():
        assert base._snapshot is not None and base._snapshot.held is None and base._snapshot.copy is base._snapshot.at_hand is not None
    for base in in_memory._knowledge_bases.values():
        assert base._snapshot is not None and base._snapshot.held is not None and base._snapshot.held.words is not None
    assert len(questions) >= 600


def same_order(theirs: list[Ranked], mine: list[Ranked]) -> None:
    assert len(mine) == len(theirs)
    assert [fused(entry) for entry in mine] == pytest.approx([fused(entry) for entry in theirs], abs=1e-5)
    for one, other in zip(mine, theirs, strict=True):
        # What is equal may stand in any order.
        equal = [entry.hit.passage.id for entry in theirs if abs(fused(entry) - fused(one)) < 1e-5]
        assert one.hit.passage.id == other.hit.passage.id or one.hit.passage.id in equal


def same_but_for_equals(theirs: list[Ranked], mine: list[Ranked]) -> None:
    """Of the passages whose words are worth the same as the last candidate's, or that are as near, any may be candidates."""
    by_words = [{entry.hit.passage.id: entry.hit for entry in entries if entry.hit.lexical_rank} for entries in (theirs, mine)]
    for here, there in (by_words, by_words[::-1]):
        for passage in here.keys() - there.keys():
            hit = here[passage]
            last = min(other.bm25 for other in there.values() if other.passage.knowledge_base == hit.passage.knowledge_base)
            assert hit.bm25 == pytest.approx(last, rel=1e-5)
    either = by_words[0].keys() ^ by_words[1].keys()
    # Likewise of those that are as near as the last one: passages with the same text are.
    nearest = [{entry.hit.passage.id: entry.hit for entry in entries if not entry.hit.lexical_rank} for entries in (theirs, mine)]
    for here, there in (nearest, nearest[::-1]):
        for passage in here.keys() - there.keys() - either:
            base = here[passage].passage.knowledge_base
            assert here[passage].cosine == pytest.approx(min(hit.cosine for hit in there.values() if hit.passage.knowledge_base == base), abs=1e-6)
    either |= nearest[0].keys() ^ nearest[1].keys()
    same_order(*([entry for entry in entries if entry.hit.passage.id not in either] for entries in (theirs, mine)))


def test_a_code_that_one_passage_has_comes_first(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, Encoder.load())
    others = [{"content": f"Error {n} of the hub goes away when it is started again.", "metadata": {"id": f"{n}"}} for n in range(4000, 4080)]
    rag.add_global_documents([*others, {"content": "Code TR12345 stands for a cable that is loose.", "metadata": {"id": "rare"}}])
    for question in ("Which cable is meant by tr12345?", "error code tr12345"):
        first, *_ = rag.ranked(question, Encoder.load().encode([question])[0], None, 5)
        assert first.hit.passage.id == "rare#0"


def test_what_is_at_hand_is_searched_without_lancedb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knowledge_base = held(tmp_path)
    asked: list[object] = []
    monkeypatch.setattr(knowledge_base.database, "run_alone", lambda *work: asked.append(work))
    assert [hit.passage.id for hit in found(knowledge_base, "word7")] == ["7#0"]
    assert [hit.passage.id for hit in search_all([knowledge_base], None, "word7", 1)] == ["7#0"]
    assert not asked


@pytest.mark.parametrize("change", ["add", "replace", "delete", "optimize", "load"])
def test_every_change_is_seen_at_the_next_search(tmp_path: Path, change: str) -> None:
    knowledge_base = held(tmp_path)
    other = KnowledgeBase(connect(tmp_path), "small", ToyEmbedder())
    dumped = other.dump()
    assert dumped is not None
    for number in range(3):
        at = knowledge_base.at_hand(knowledge_base.opened())
        assert at is not None
        if change == "load":
            other.load([(rows[: 30 - number], None) for rows, _ in dumped[2]] or [])
            dumped = other.dump()
            assert dumped is not None
        elif change == "delete":
            other.delete(f"{7 + number}")
        elif change == "optimize":
            # Without an addition there is nothing to merge, and no commit.
            other.add([entry(40 + number)])
            knowledge_base.search(ToyEmbedder().encode(["warm"])[0], "warm", 1)
            knowledge_base.search(ToyEmbedder().encode(["warm"])[0], "warm", 1)
            knowledge_base.settle()
            other.optimize()
        else:
            other.add([entry(40 + number if change == "add" else 7, f"fresh{number}")])
        assert knowledge_base.at_hand(knowledge_base.opened()) is None
        ids = {hit.passage.id for hit in found(knowledge_base, "word7 fresh0 fresh1 fresh2", 50)}
        assert ids == {row["id"] for row in knowledge_base._run(knowledge_base.opened().query().select(["id"]).to_arrow()).to_pylist()}
        if change in ("add", "replace"):
            [best] = found(knowledge_base, f"fresh{number}")
            assert best.passage.text == f"fresh{number}"
        hold(knowledge_base)


def test_what_is_gone_for_one_is_gone_for_all_who_search_at_the_same_time(tmp_path: Path) -> None:
    knowledge_base, other = held(tmp_path), KnowledgeBase(connect(tmp_path), "small", ToyEmbedder())
    gone: list[int] = []
    served = [0]

    def look(seed: int) -> None:
        source = random.Random(seed)
        while len(gone) < 25:
            certain = list(gone)
            served[0] += knowledge_base.at_hand(knowledge_base.opened()) is not None
            number = source.choice(certain) if certain and source.random() < 0.8 else 29
            ids = {hit.passage.id for hit in found(knowledge_base, f"word{number}", 30)}
            assert not ids & {f"{one}#0" for one in certain} and "29#0" in ids

    with ThreadPoolExecutor(3) as threads:
        looking = [threads.submit(look, seed) for seed in range(3)]
        for number in range(25):
            other.delete(f"{number}")
            gone.append(number)
            # Some searches find all of it at hand again.
            time.sleep(0.1)
        for one in looking:
            one.result()
    assert served[0] > 0


def test_another_encoder_is_refused_also_where_all_is_at_hand(tmp_path: Path) -> None:
    held(tmp_path)
    foreign = KnowledgeBase(connect(tmp_path), "small", ToyEmbedder("other"))
    for _ in range(3):
        assert search_all([foreign], None, "word7", 1)[0].passage.id == "7#0"
        foreign.settle()
    assert foreign.at_hand(foreign.opened()) is not None
    with pytest.raises(ConfigError, match="another encoder"):
        found(foreign, "word7")


def test_what_has_the_name_that_is_asked_for_stands_first(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, Encoder.load())
    orders = [
        f"order: A-{n}\ncustomer: {name}\nstatus: {status}" for n, name, status in ((25012, "Luitpold", "in work"), (25014, "Bruckmühl", "paid"))
    ]
    codes = ["If the display shows F.28, the gas valve is shut.", "The boiler is from 2019, its error display is green."]
    rag.add_global_documents([{"content": text, "metadata": {"id": f"{n}"}} for n, text in enumerate([*orders, *codes])])
    asked = {"status of order A-25014": "1#0", "a-25012": "0#0", "boiler error F.28": "2#0", "what is F28?": "2#0"}
    for question, expected in asked.items():
        first, *_ = rag.ranked(question, Encoder.load().encode([question])[0], None, 5)
        assert first.hit.passage.id == expected


def entry(number: int, text: str = "") -> Entry:
    return Entry(f"{number}", f"{number}.md", "0", (Chunk("", text or f"word{number} kind{number % 3}", 0, 0),))


def found(knowledge_base: KnowledgeBase, text: str, k: int = 1) -> list[Hit]:
    return search_all([knowledge_base], ToyEmbedder().encode([text])[0], text, k)


def hold(knowledge_base: KnowledgeBase) -> None:
    for _ in range(3):
        search_all([knowledge_base], None, "word7", 1)
    knowledge_base.settle()
    assert knowledge_base.at_hand(knowledge_base.opened()) is not None


def held(folder: Path) -> KnowledgeBase:
    """A table of thirty passages, all of it in memory."""
    knowledge_base = KnowledgeBase(connect(folder), "small", ToyEmbedder())
    knowledge_base.add(entry(number) for number in range(30))
    knowledge_base.optimize()
    hold(knowledge_base)
    return knowledge_base
