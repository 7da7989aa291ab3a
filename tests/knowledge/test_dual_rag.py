from __future__ import annotations

import asyncio
import gc
import hashlib
import multiprocessing
import random
import threading
import time
import weakref
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest

from mdsa_local.errors import ConfigError, InputError, StorageError, UnknownNameError
from mdsa_local.knowledge.chunking import chunk
from mdsa_local.knowledge.dual_rag import DualRAG, Scope
from mdsa_local.knowledge.reading import Readable
from mdsa_local.knowledge.store import Entry, KnowledgeBase
from mdsa_local.types import Passage

from .toy_embedder import ToyEmbedder

DOMAINS = ("finance", "medical", "support")


def search(rag: DualRAG, text: str, domain: str | None = None, top_k: int = 5) -> tuple[Passage, ...]:
    return rag.search(text, ToyEmbedder().encode([text])[0], domain, top_k)


def test_the_promised_methods(tmp_path: Path) -> None:
    rag = DualRAG(persist_directory=str(tmp_path), embedder=ToyEmbedder())
    rag.add_global_documents([{"content": "Support is open all day.", "metadata": {"source": "hours", "lang": "en"}}])
    [document] = rag.add_local_documents("finance", [{"content": "A card can be frozen.", "metadata": {"id": "card", "title": "Cards"}}])
    assert document == "card"
    found = rag.query("card frozen", domain="finance", top_k=2)
    assert found[0]["content"] == "A card can be frozen."
    assert 0.0 < found[0]["score"] <= 1.0
    assert found[0]["metadata"] == {
        "source": "card", "title": "Cards", "knowledge_base": "finance", "passage": "card#0", "start": 0, "end": 21, "id": "card"
    }  # fmt: skip
    assert [hit["metadata"]["knowledge_base"] for hit in rag.query("open", "finance", use_local=False)] == ["global"]
    assert [hit["metadata"]["knowledge_base"] for hit in rag.query("open", "finance", use_global=False)] == ["finance"]
    assert rag.query("open", "finance", use_local=False, use_global=False) == []
    assert rag.query("open")[0]["metadata"]["lang"] == "en"
    assert rag.domains() == ("finance",)


def test_adding_the_same_text_again_changes_nothing(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    for _ in range(2):
        rag.add_global_documents([{"content": "Twice."}, {"content": "Twice."}])
    assert len(rag.list_documents()) == 1


def test_an_id_of_zero_is_one_and_none_at_all_is_made(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    given = [{"content": f"number {n}", "metadata": {"id": n, "title": None, "source": 0}} for n in (0, None, "")]
    zero, one, another = rag.add_global_documents(given)
    assert zero == "0"
    assert one.startswith("text-")
    assert {one, another} == {known.document for known in rag.list_documents()} - {"0"}
    assert {known.source for known in rag.list_documents()} == {"0"}
    assert {hit["metadata"]["title"] for hit in rag.query("number")} == {None}


def test_the_same_text_with_other_metadata_is_another_document(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    given = [{"content": "Closed on Sundays.", "metadata": {"source": source, "of": {"b": 1, "a": {"x", "y"}}}} for source in ("shop.md", "bank.md")]
    names = rag.add_global_documents([*given, {"content": "Closed on Sundays."}])
    assert len(set(names)) == 3
    assert sorted(known.source for known in rag.list_documents()) == ["bank.md", "shop.md", names[2]]
    # Given again they are the same, in whatever order it is told.
    turned = [{**one, "metadata": dict(reversed(one["metadata"].items()))} for one in given]  # type: ignore[attr-defined]
    assert rag.add_global_documents(turned) == names[:2]
    assert len(rag.list_documents()) == 3


def test_what_was_called_by_its_text_alone_keeps_its_id(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    text, metadata = "Closed on Sundays.", {"source": "shop.md", "day": 7}
    earlier = f"text-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    KnowledgeBase(rag._database, "global", ToyEmbedder()).add([Entry(earlier, "shop.md", "0" * 64, tuple(chunk(text, len)), metadata)])
    [name, other] = rag.add_global_documents([{"content": text, "metadata": one} for one in (metadata, {"source": "bank.md"})])
    assert name == earlier
    assert {known.document: known.source for known in rag.list_documents()} == {earlier: "shop.md", other: "bank.md"}
    # A text without metadata has had that id all along, and keeps it.
    names = rag.add_local_documents("hr", [{"content": text, "metadata": metadata}, {"content": text}])
    assert names[1] == earlier != names[0]


def test_two_documents_of_one_id_are_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    same = {"content": "one", "metadata": {"id": "a"}}
    for other in ({"content": "two", "metadata": {"id": "a"}}, {"content": "one", "metadata": {"id": "a", "owner": "Dana"}}):
        with pytest.raises(InputError, match="documents 0 and 2 have the same id 'a'"):
            rag.add_global_documents([same, {"content": "three"}, other])
    assert rag.list_documents() == []
    assert rag.add_global_documents([same, same]) == ["a", "a"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("metdata", "Did you mean 'metadata'?"),
        ("id", "belongs into its metadata"),
        ("title", "belongs into its metadata"),
        ("source", "belongs into its metadata"),
        (5, "belongs into its metadata"),
    ],
)
def test_a_key_that_nobody_reads_is_refused(tmp_path: Path, key: Any, hint: str) -> None:
    with pytest.raises(InputError, match=f"document 1: unknown key {key!r}") as caught:
        DualRAG(tmp_path, ToyEmbedder()).add_global_documents([{"content": "fine"}, {"content": "x", key: "y"}])
    assert hint in caught.value.hint


def test_no_search_crosses_domains(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    source = random.Random(seed)
    words = [f"word{n}" for n in range(30)]
    rag = DualRAG(tmp_path, ToyEmbedder())
    for domain in DOMAINS:
        texts = [f"canary{domain} {' '.join(source.choices(words, k=12))}" for _ in range(15)]
        rag.add_local_documents(domain, [{"content": text} for text in texts])
    rag.add_global_documents([{"content": f"shared {' '.join(source.choices(words, k=12))}"} for _ in range(5)])
    for _ in range(60):
        asked = source.choice([*DOMAINS, None])
        text = " ".join([f"canary{source.choice(DOMAINS)}", *source.choices(words, k=3)])
        passages = search(rag, text, asked, source.randint(1, 40))
        assert {passage.knowledge_base for passage in passages} <= {"global", asked}
        for other in set(DOMAINS) - {asked}:
            assert not any(f"canary{other}" in passage.text for passage in passages)


def test_the_nearest_knowledge_bases_are_told_and_one_that_cannot_be_searched_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rag, question = DualRAG(tmp_path, ToyEmbedder()), "where is the bike pool"
    vector = ToyEmbedder().encode([question])[0]
    rag.add_global_documents([{"content": question}])
    assert rag.nearest(question, vector, DOMAINS, 2) == ()
    for domain, text in zip(DOMAINS, ("money in the bank", "where is the pool", "where is the bike pool"), strict=True):
        rag.add_local_documents(domain, [{"content": text}])
    for _ in range(3):
        # Asked of LanceDB at first, then found in memory.
        assert rag.nearest(question, vector, [*DOMAINS, "nothing"], 2) == ("support", "medical")
        rag.settle()
    assert rag.nearest(question, vector, ["finance"], 2) == ("finance",)
    DualRAG(tmp_path, ToyEmbedder("another")).add_local_documents("law", [{"content": question}])
    assert rag.nearest(question, vector, ["law", "medical"], 2) == ("medical",)
    assert "law" in caplog.text


def test_many_knowledge_bases_are_looked_into_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rag, question = DualRAG(tmp_path, ToyEmbedder()), "where is the bike pool"
    for domain in DOMAINS:
        rag.add_local_documents(domain, [{"content": f"{question} of {domain}"}])
    vector = ToyEmbedder().encode([question])[0]
    waited, search, together = list[str](), Readable.search_now, asyncio.Event()

    async def held(base: Readable, *given: Any, **named: Any) -> Any:
        waited.append(base.name)
        if len(waited) == len(DOMAINS):
            together.set()
        await asyncio.wait_for(together.wait(), 10)
        if base.name == DOMAINS[0]:
            raise OSError("damaged")
        return await search(base, *given, **named)

    monkeypatch.setattr(Readable, "search_now", held)
    assert set(rag.nearest(question, vector, DOMAINS, 5)) == {*DOMAINS[1:]}


def test_a_scope_has_two_names_at_most() -> None:
    assert Scope("global").tables == ("global",)
    assert Scope("global", "finance").tables == ("global", "finance")
    with pytest.raises(InputError):
        Scope("global", "global")
    # Python 3.11 raises a TypeError here, later ones an AttributeError.
    with pytest.raises((AttributeError, TypeError)):
        Scope("global", "finance").third = "medical"  # type: ignore[attr-defined]


@pytest.mark.parametrize("domain", ["global", "../finance", "a/b", "", "Finance", "finance.lance"])
def test_a_domain_that_is_no_name_is_refused(tmp_path: Path, domain: str) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    with pytest.raises(InputError):
        search(rag, "x", domain)
    with pytest.raises(InputError):
        rag.add_local_documents(domain, [{"content": "x"}])


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"content": 3},
        {"content": " "},
        {"content": "x", "metadata": "y"},
        "text",
        None,
        {"content": "bad \ud800 text"},
        {"content": "x", "metadata": {"title": "\ud800"}},
        {"content": "x", "metadata": {"tags": ["\ud800"]}},
        {"content": "x", "metadata": {("a", "b"): 1}},
    ],
)
def test_a_document_that_cannot_be_used_is_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(InputError, match="document 1"):
        DualRAG(tmp_path, ToyEmbedder()).add_global_documents([{"content": "fine"}, document])


@pytest.mark.parametrize("documents", ["text", {"content": "x"}, None, 5])
def test_what_is_no_list_of_documents_is_refused(tmp_path: Path, documents: Any) -> None:
    with pytest.raises(InputError, match="not a list of documents") as caught:
        DualRAG(tmp_path, ToyEmbedder()).add_local_documents("hr", documents)
    assert '[{"content": ' in caught.value.hint


@pytest.mark.parametrize("question", [5, None, "", " \n", "?!", "a\x00b", "\ud800"])
def test_what_is_no_question_is_refused(tmp_path: Path, question: Any) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag.add_global_documents([{"content": "fine"}])
    with pytest.raises(InputError, match="the question"):
        rag.query(question)


def test_the_place_of_a_passage_is_not_replaced_by_what_was_given(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    given = {"id": "a", "passage": "x", "start": 7, "end": 8, "knowledge_base": "hr", "source": "shelf", "title": "Fine", "owner": "Dana"}
    rag.add_global_documents([{"content": "fine", "metadata": given}])
    [found] = rag.query("fine")
    assert found["metadata"] == given | {"passage": "a#0", "start": 0, "end": 4, "knowledge_base": "global"}


def test_top_k_is_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="top_k"):
        search(DualRAG(tmp_path, ToyEmbedder()), "x", top_k=0)


@pytest.mark.parametrize("top_k", [0, 1.5, "5", None, True])
def test_what_is_no_number_of_passages_is_refused(tmp_path: Path, top_k: Any) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag.add_global_documents([{"content": "apples"}])
    with pytest.raises(InputError, match="top_k must be a whole number"):
        rag.query("apples", top_k=top_k)
    with pytest.raises(InputError, match="top_k must be a whole number"):
        rag.ranked("apples", ToyEmbedder().encode(["apples"])[0], None, top_k)
    assert len(rag.query("apples", top_k=np.int64(5))) == 1  # type: ignore[arg-type]


def test_both_knowledge_bases_have_their_say_and_copies_are_dropped(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag.add_global_documents([{"content": "The refund takes five days."}, {"content": "Gift cards never expire."}])
    rag.add_local_documents("finance", [{"content": "The refund  takes five days."}, {"content": "A refund of a card charge."}])
    passages = search(rag, "refund days", "finance")
    assert len(passages) == 3
    assert {passage.knowledge_base for passage in passages[:2]} == {"global", "finance"}
    assert len(search(rag, "refund", "finance", top_k=2)) == 2
    # One file in both has one id in both.
    (tmp_path / "fees.md").write_text("Fees are five euros.")
    for domain in (None, "finance"):
        rag.add_paths([tmp_path / "fees.md"], domain)
    found = search(rag, "fees", "finance")
    assert [passage.id for passage in found].count("fees.md#0") == 1


def test_documents_are_listed_and_removed(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("apples")
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    assert rag.add_paths([tmp_path / "docs"], "finance").added == ("a.md",)
    assert [document.document for document in rag.list_documents("finance")] == ["a.md"]
    assert rag.list_documents() == []
    with pytest.raises(UnknownNameError, match=r"b\.md"):
        rag.remove("b.md", "finance")
    rag.remove("a.md", "finance")
    assert search(rag, "apples", "finance") == ()


def test_several_documents_are_removed_in_one_commit_or_none_is(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag.add_global_documents([{"content": text, "metadata": {"id": text}} for text in ("apples", "pears", "plums", "figs")])
    with pytest.raises(UnknownNameError, match="cherries"):
        rag.remove(["apples", "cherries"])
    assert len(rag.list_documents()) == 4
    table = rag._knowledge_base(None).opened()
    assert table is not None
    before = asyncio.run(table.version())
    rag.remove(["apples", "pears"])
    rag.remove(["pears", "cherries", "plums"], missing_ok=True)
    rag.remove([])
    assert [document.document for document in rag.list_documents()] == ["figs"]
    table = rag._knowledge_base(None).opened()
    assert table is not None
    assert asyncio.run(table.version()) == before + 2


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "kb").write_text("a file, which stops root as well")
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    with pytest.raises(StorageError) as caught:
        rag.add_global_documents([{"content": "x"}])
    assert "MDSA_HOME" in caught.value.hint
    with pytest.raises(StorageError):
        search(rag, "x")


def _add_from_elsewhere(folder: str, name: str) -> None:
    rag = DualRAG(folder, ToyEmbedder())
    for n in range(3):
        rag.add_local_documents(
            "finance", [{"content": f"{name} wrote zebra {n}"}, {"content": f"all wrote number {n}", "metadata": {"id": f"all{n}"}}]
        )


def test_other_processes_may_add_meanwhile(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag.add_local_documents("finance", [{"content": "nothing of the kind"}])
    assert len(search(rag, "zebra", "finance", 30)) == 1
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_add_from_elsewhere, args=(str(tmp_path), name)) for name in ("first", "second")]
    for process in processes:
        process.start()
    for n in range(3):
        rag.add_local_documents("finance", [{"content": f"parent wrote zebra {n}"}])
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    texts = [passage.text for passage in search(rag, "zebra", "finance", 30)]
    assert sum("zebra" in text for text in texts) == 9
    assert len(texts) == len(rag.list_documents("finance")) == 13
    rag.optimize("finance")


def test_threads_may_share_it(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(3):
                rag.add_local_documents(DOMAINS[number % 3], [{"content": f"thread {number} text {n}"}])
                search(rag, f"thread {number}", DOMAINS[n], 3)
        except BaseException as error:  # A thread's error is the test's.
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [len(rag.list_documents(domain)) for domain in DOMAINS] == [6, 6, 6]


def test_closing_lets_go_of_everything_and_a_later_use_opens_it_again(tmp_path: Path) -> None:
    with DualRAG(tmp_path, ToyEmbedder()) as rag:
        rag.add_global_documents([{"content": "Support is open all day."}])
        rag.add_local_documents("closing", [{"content": "A card can be frozen."}])
        for _ in range(3):
            assert len(search(rag, "card", "closing")) == 2
        rag.settle()
        knowledge_base = rag._knowledge_base("closing")
        assert knowledge_base._snapshot is not None and knowledge_base._snapshot.held is not None
        lost = [weakref.ref(one) for one in (rag._database, rag._database.memory, knowledge_base, knowledge_base._snapshot.held)]
        del knowledge_base
    deadline = time.monotonic() + 10
    while (held := [one() for one in lost if gc.collect() is not None and one() is not None]) and time.monotonic() < deadline:
        del held
        time.sleep(0.05)
    assert not held
    assert not [thread.name for thread in threading.enumerate() if thread.name == "mdsa-later-closing"]
    rag.close()
    assert len(search(rag, "card", "closing")) == 2
    rag.add_local_documents("closing", [{"content": "A loan is repaid early."}])
    rag.close()
    rag.close()
    assert rag.query("loan", "closing")[0]["content"] == "A loan is repaid early."


def test_closing_leaves_what_is_under_way(tmp_path: Path) -> None:
    rag, went = DualRAG(tmp_path, ToyEmbedder()), threading.Event()
    rag.add_global_documents([{"content": "Support is open all day."}])
    knowledge_base = rag._knowledge_base(None)
    done: list[object] = []

    def index() -> None:
        went.wait(20)
        done.append(knowledge_base.index_vectors())

    knowledge_base._background.start("global", index)
    rag.close()
    went.set()
    knowledge_base.add([])
    knowledge_base.settle()
    assert done == ["nothing"]
    # An addition that began before goes on, too.
    knowledge_base.delete("none")
    knowledge_base.tidy()
    assert search(rag, "support")


def test_a_single_path_is_one_path(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("A card can be frozen.")
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    single: list[Any] = [tmp_path / "docs", str(tmp_path / "docs"), [tmp_path / "docs"]]
    for number, given in enumerate(single):
        report = rag.add_paths(given, f"domain{number}")
        assert (report.added, report.failed) == (("a.md",), ())
    for wrong in (5, None, [None], b"docs"):
        with pytest.raises(InputError, match="the path cannot be"):
            rag.add_paths(wrong)  # type: ignore[arg-type]


def test_a_query_of_the_wrong_kind_is_told(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    for given in ({"domain": 5}, {"domain": ["finance"]}, {"filters": "a"}, {"floor": "a"}):
        with pytest.raises(InputError, match="cannot be"):
            rag.query("card", **given)
    assert rag.query("card", filters=None, floor=1) == []
    wrong: Any
    for wrong in (5, b"a", ["finance"]):
        for ask in (rag.list_documents, rag.optimize, lambda domain: rag.add_local_documents(domain, [{"content": "a card"}])):
            with pytest.raises(InputError, match="the domain cannot be"):
                ask(wrong)
    for wrong in (5, None, [5], ["a", None], b"a"):
        with pytest.raises(InputError, match="the document cannot be"):
            rag.remove(wrong)
    for wrong in (5, None, ["a#0"]):
        with pytest.raises(InputError, match="the passage cannot be"):
            rag.passage(wrong)
    with pytest.raises(ConfigError, match="the place of knowledge bases cannot be int 5"):
        DualRAG(5)  # type: ignore[arg-type]


def test_more_passages_may_be_asked_for_than_there_are(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag.add_global_documents({"content": f"card number {number} can be frozen"} for number in range(40))
    for _ in range(3):
        for top_k in (100, 10**18, 10**30):
            assert len(rag.query("frozen card", top_k=top_k)) == 40
            assert len(rag.query("frozen card", top_k=top_k, filters={"source": "text-*"})) == 40
            # It names something: more of those that share a word are looked at.
            assert len(rag.query("card A-25014", top_k=top_k)) == 40
        rag.settle()


def test_documents_are_named_as_typed_or_as_a_shell_on_macos_completes_them(tmp_path: Path) -> None:
    typed, completed = (normalize(form, "Müller.md") for form in ("NFC", "NFD"))
    (tmp_path / completed).write_text("Tulips want sun.", encoding="utf-8")
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    rag.add_global_documents([{"content": "Roses.", "metadata": {"id": normalize("NFD", "Föhn")}}])
    rag.add_paths([tmp_path / completed])
    [vector] = ToyEmbedder().encode(["tulips"])
    for name in (typed, completed):
        assert rag.passage(f"{name}#0").passage.id == f"{typed}#0"
        assert rag.why("tulips", vector, name).document == typed
    rag.remove([completed, normalize("NFD", "Föhn")])
    assert rag.list_documents() == []


def test_the_passage_that_has_the_name_asked_for_is_found_among_many_with_its_parts(tmp_path: Path) -> None:
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag.add_global_documents([{"content": f"queue limit {n}"} for n in range(80)])
    [named] = rag.add_global_documents([{"content": "The setting queue_limit " + "says how many may wait. " * 20}])
    for _ in range(3):
        assert search(rag, "queue_limit", "finance")[0].id == f"{named}#0"
