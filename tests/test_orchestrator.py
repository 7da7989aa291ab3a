"""The whole path on real parts, and with a scripted model where a real one could not be made to misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdsa_local import (
    BackendError,
    BackendUnavailableError,
    BusyError,
    ClosedError,
    ConfigError,
    DomainConfig,
    DomainExecutor,
    Feedback,
    Generation,
    InputError,
    ModelManager,
    ModelNotFoundError,
    StorageError,
    TinyBERTOrchestrator,
    UnknownNameError,
    answering,
    create_finance_domain,
    create_medical_domain,
)
from mdsa_local.answering import _nearest
from mdsa_local.cli.ask import details, show
from mdsa_local.domains import quoting
from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.evidence import resolved
from mdsa_local.knowledge import sync
from mdsa_local.runtime import backend
from mdsa_local.runtime.llamacpp import LlamaCppBackend
from mdsa_local.sentences import sentences
from mdsa_local.settings import Settings
from mdsa_local.types import Completed, Passage, Retrieved, Revised, Routed, Token
from mdsa_local.unclaimed import NO_DOMAIN, SEVERAL_DOMAINS, SMALL_TALK
from mdsa_local.understanding import understood
from tests import scripted
from tests.conftest import DATA
from tests.runtime.gguf_writer import Shape, metadata, random_weights, write_gguf

FLAT = {
    "request_id", "status", "response", "domain", "confidence", "scores", "used_reasoning", "degraded", "elsewhere", "model", "tokens_generated",
    "latency_ms", "citations", "nearest", "verdict", "trace", "reason", "error", "metadata",
}  # fmt: skip


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, product: TinyBERTOrchestrator) -> Iterator[TinyBERTOrchestrator]:
    """An orchestrator whose finance domain is answered by the scripted runtime, on the product's own knowledge."""
    monkeypatch.setitem(backend.BACKENDS, "scripted", "tests.scripted")
    finance = create_finance_domain(model="scripted://finance")
    with TinyBERTOrchestrator(settings=product.settings, knowledge=product.knowledge, domains=[finance]) as orchestrator:
        orchestrator.__dict__["encoder"] = product.encoder
        yield orchestrator
    scripted.SAYS.clear()
    scripted.HEARD.clear()


def test_a_question_is_answered_from_its_domain_with_citations(product: TinyBERTOrchestrator) -> None:
    answer = product.ask("How much does a replacement debit card cost?")
    assert answer.domain == "finance"
    assert answer.status in ("success", "degraded")
    assert answer.citations
    assert all(f"[{c.number}]" in answer.response for c in answer.citations)
    assert {c.passage.knowledge_base for c in answer.citations} <= {"finance", "global"}
    assert set(answer.to_dict()) == FLAT
    assert [stage.stage for stage in answer.trace] == ["route", "retrieve", "generate", "validate"]


def test_what_came_nearest_is_named_where_nothing_answers(product: TinyBERTOrchestrator) -> None:
    answer = product.ask("Can I pay my rent in bitcoin from my account?")
    assert (answer.status, answer.domain, answer.citations) == ("not_found", "finance", ())
    assert 1 <= len(answer.nearest) <= 3
    assert [found["id"] for found in answer.to_dict()["nearest"]] == [passage.id for passage in answer.nearest]
    *_, shown, _ = details(answer)
    assert shown.startswith("nearest, but no answer: ")
    base, name = answer.nearest[-1].knowledge_base, answer.nearest[-1].id
    assert shown.endswith(f'(mdsa kb show -d {base} "{name}")')
    assert product.ask("How much does a replacement debit card cost?").nearest == product.ask("what's the weather on mars").nearest == ()


def test_of_each_heading_the_best_passage_is_named_best_first() -> None:
    found = [Passage(f"{n}", "a.md", "global", title, "", 0, 1, 0.5) for n, title in enumerate(("A", "B", "A", "C", "D"))]
    assert [passage.id for passage in _nearest(found)] == ["0", "1", "3"]


def test_a_part_that_belongs_elsewhere_is_told(product: TinyBERTOrchestrator) -> None:
    question = "My card was stolen and the app shows error 401"
    parts = {"finance": "My card was stolen", "technical": "the app shows error 401"}
    answer = product.ask(question)
    assert answer.domain in parts
    assert answer.to_dict()["elsewhere"] == [{"domain": name, "text": text} for name, text in parts.items() if name != answer.domain]
    assert product.ask("My card was stolen").to_dict()["elsewhere"] == []
    # Who chooses the domain is not told of others.
    assert product.ask(question, domain="finance").elsewhere == ()
    assert product.ask(question, domain="technical", history=["how do I sign in"]).elsewhere == ()


def test_a_question_of_several_domains_alike_is_not_called_one_of_none(product: TinyBERTOrchestrator) -> None:
    answer = product.ask("Who invented insulin; separately, who invented the credit card?")
    assert (answer.status, answer.domain) == ("abstained", None)
    assert {part.domain for part in answer.elsewhere} == {"finance", "medical"}
    assert answer.response == SEVERAL_DOMAINS
    told = product.ask("what's the weather on mars").response
    assert told.startswith(f"{NO_DOMAIN} Ask me about: ")
    assert all(domain.title in told for domain in product.registry)


@pytest.mark.parametrize(
    ("question", "domain", "elsewhere", "said"),
    [
        # No domain has the whole of it; the documents of one surely answer its part.
        (
            "My mother missed her insulin this morning; separately, how do I set up a standing order for her rent?",
            "medical",
            "how do I set up a standing order for her rent",
            "Never double the next insulin dose",
        ),
        ("how long is a share code valid and what does E401 mean?", "technical", "how long is a share code valid", "Error E401"),
    ],
)
def test_a_part_is_answered_by_itself_and_the_other_named(
    product: TinyBERTOrchestrator, question: str, domain: str, elsewhere: str, said: str
) -> None:
    answer = product.ask(question)
    assert (answer.status, answer.domain, [part.text for part in answer.elsewhere]) == ("success", domain, [elsewhere])
    assert answer.response.startswith(said)


def test_what_may_be_quoted_is_looked_for_once(product: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[quoting.Extract]] = []
    real = quoting.shortlist

    def counted(*given: Any, **named: Any) -> list[quoting.Extract]:
        made.append(real(*given, **named))
        return made[-1]

    monkeypatch.setattr(quoting, "shortlist", counted)
    answer = product.ask("How much does a replacement debit card cost?")
    assert answer.status == "success"
    assert len(made) == 1
    assert any(extract.text in answer.response for extract in made[0])


def test_a_citation_opens_the_source_at_its_bytes(product: TinyBERTOrchestrator) -> None:
    from mdsa_local.settings import shipped

    for citation in product.ask("What is the daily limit for cash from an ATM?").citations:
        source = (shipped("domains").parent / citation.passage.source).read_bytes()
        assert source[citation.passage.start : citation.passage.end].decode() == citation.passage.text


def test_a_question_of_no_domain_gets_no_answer(product: TinyBERTOrchestrator) -> None:
    answer = product.ask("what's the weather on mars")
    assert (answer.status, answer.domain, answer.citations) == ("abstained", None, ())
    assert answer.reason
    assert answer.to_dict()["reason"] == answer.reason


def test_only_the_model_of_the_questions_domain_is_loaded_and_while_passages_are_looked_up(product: TinyBERTOrchestrator) -> None:
    domains = [create_finance_domain(), create_medical_domain(model="nano-int4")]
    with TinyBERTOrchestrator(settings=product.settings, knowledge=product.knowledge, domains=domains) as orchestrator:
        orchestrator.__dict__["encoder"] = product.encoder
        assert orchestrator.ask("who painted the mona lisa").domain is None
        assert orchestrator.manager.status() == []
        events = orchestrator.stream("My card was charged twice, how do I get my money back?")
        assert isinstance(next(events), Routed)
        assert isinstance(next(events), Retrieved)
        assert [status.name for status in orchestrator.manager.status()] == ["nano"]
        events.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "load-nano"]


def test_who_leaves_a_question_leaves_no_load_of_its_model(product: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Callable[[], bool]]()
    with TinyBERTOrchestrator(settings=product.settings, knowledge=product.knowledge, domains=[create_finance_domain()]) as orchestrator:
        orchestrator.__dict__["encoder"] = product.encoder
        monkeypatch.setattr(orchestrator.manager, "load_ahead", lambda ref, stopped: asked.append(stopped))
        events = orchestrator.stream("My card was charged twice, how do I get my money back?")
        assert isinstance(next(events), Routed)
        assert isinstance(next(events), Retrieved)
        assert [stopped() for stopped in asked] == [False]
        events.close()
        assert [stopped() for stopped in asked] == [True]


def test_the_stream_is_the_answer_in_pieces(product: TinyBERTOrchestrator) -> None:
    events = list(product.stream("How long does a dispute take?", domain="finance"))
    assert [type(event) for event in events[:2]] == [Routed, Retrieved]
    last = events[-1]
    assert isinstance(last, Completed)
    said = "".join(event.text for event in events if isinstance(event, Token)).strip()
    revised = [event.text for event in events if isinstance(event, Revised)]
    assert last.answer.response == (revised[-1] if revised else said)


def test_the_same_question_twice_gives_the_same_words(product: TinyBERTOrchestrator) -> None:
    first, second = (product.ask("What does an overdraft cost?", domain="finance") for _ in range(2))
    assert first.response == second.response


def test_the_flat_result_and_its_friendly_error(product: TinyBERTOrchestrator) -> None:
    good = product.process_request("How do I freeze my card?", {"user_id": "u1", "order_id": 3})
    assert good["metadata"] == {"user_id": "u1", "order_id": 3}
    bad = product.process_request("")
    assert (bad["domain"], bad["confidence"], bad["status"]) == ("error", 0.0, "error")
    assert bad["error"]["code"] == "input"
    assert bad["reason"] == "the question is empty"
    assert "empty" in bad["response"]
    assert set(bad) == FLAT
    assert product.process(query="How do I freeze my card?")["domain"] == "finance"


def test_what_is_given_beside_a_question_comes_back_as_json_holds_it(product: TinyBERTOrchestrator) -> None:
    holding: dict[str, Any] = {"n": 1}
    holding["itself"] = holding
    given = {"at": datetime(2026, 1, 2), "place": {"path": Path("a"), "ids": (1, 2)}, "nan": float("nan"), "own": {(1, 2): 3}, "holding": holding}
    told = {"at": "2026-01-02 00:00:00", "place": {"path": "a", "ids": [1, 2]}, "nan": "nan", "own": "{(1, 2): 3}", "holding": str(holding)}
    answer = product.ask("hello there", context=given)
    assert answer.metadata == given
    assert answer.to_dict()["metadata"] == told
    assert product.process_request(" ", given)["metadata"] == told
    json.dumps(answer.to_dict(), allow_nan=False)


def test_the_three_step_quick_start(product: TinyBERTOrchestrator) -> None:
    mdsa = TinyBERTOrchestrator(settings=product.settings, knowledge=product.knowledge)
    mdsa.register_domain("garden", "Plants and soil", ["when to sow beans", "pruning roses", "compost", "watering tomatoes"])
    result = mdsa.process_request("when should I be pruning my roses?")
    assert result["domain"] == "garden"
    assert mdsa.get_stats()["domain_stats"] == {"garden": 1}


def test_the_three_line_quick_start(product: TinyBERTOrchestrator) -> None:
    manager = ModelManager()
    result = DomainExecutor(manager).execute("How much does a replacement debit card cost?", create_finance_domain())
    manager.close()
    assert {"response", "domain", "model", "latency_ms", "tokens_generated", "confidence", "status"} <= set(result)
    assert result["domain"] == "finance"
    assert result["model"] == "nano"
    assert 0.0 <= result["confidence"] <= 1.0


def test_two_domains_of_one_name_are_answered_each_by_its_own_model(says: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    executor, question, between = DomainExecutor(says.manager), "What does an overdraft cost?", list[str]()
    one, other = (create_finance_domain(model=f"scripted://{name}") for name in ("one", "other"))
    scripted.SAYS.update(one="An overdraft costs $25. [1]", other="An overdraft costs $25. [1]")
    assert executor.execute(question, one)["model"] == "scripted://one"

    def held(*given: Any) -> Any:
        if not between:
            between.append("")
            between[:] = [executor.execute(question, other)["model"]]
        return resolved(*given)

    monkeypatch.setattr(answering, "resolved", held)
    assert executor.execute(question, one)["model"] == "scripted://one"
    assert between == ["scripted://other"]


def test_a_domain_that_is_not_registered_can_be_asked(says: TinyBERTOrchestrator) -> None:
    other = create_finance_domain(model="scripted://other")
    scripted.SAYS.update(finance="An overdraft costs $25. [1]", other="An overdraft costs $25. [1]")
    assert says.ask("What does an overdraft cost?", domain=other).model == "scripted://other"
    assert says.ask("And a replacement card?", domain=other, history=["What does an overdraft cost?"]).model == "scripted://other"
    assert says.ask("What does an overdraft cost?", domain="finance").model == "scripted://finance"
    empty = TinyBERTOrchestrator(settings=says.settings, knowledge=says.knowledge, manager=says.manager, domains=[])
    assert empty.ask("And a replacement card?", domain=other, history=["What does an overdraft cost?"]).model == "scripted://other"


def test_with_a_shared_manager_each_has_its_own_default_model(product: TinyBERTOrchestrator, says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["other"] = "An overdraft costs $25. [1]"

    def sharing(model: str) -> TinyBERTOrchestrator:
        settings = says.settings.changed(default_model=model)
        domains = [create_finance_domain()]
        return TinyBERTOrchestrator(settings=settings, knowledge=says.knowledge, manager=says.manager, domains=domains, onnx=product._onnx)

    assert sharing("scripted://other").ask("What does an overdraft cost?", domain="finance").model == "scripted://other"
    with pytest.raises(ModelNotFoundError, match="domain 'finance': unknown model 'nope'"):
        sharing("nope").ask("What does an overdraft cost?", domain="finance")
    assert TinyBERTOrchestrator(manager=says.manager, domains=[]).settings == says.manager.settings


def test_shared_models_have_one_encoder(product: TinyBERTOrchestrator) -> None:
    with pytest.raises(ConfigError, match="intent_model_path is 'other', the encoder of onnx 'tinybert'"):
        TinyBERTOrchestrator("other", settings=product.settings, onnx=product._onnx)
    assert TinyBERTOrchestrator("tinybert", settings=product.settings, onnx=product._onnx, domains=[]).encoder is product.encoder


def test_async_gives_the_same(product: TinyBERTOrchestrator) -> None:
    async def both() -> tuple[str, str]:
        whole = await product.aask("What does an overdraft cost?", domain="finance")
        last = [event async for event in product.astream("What does an overdraft cost?", domain="finance")][-1]
        assert isinstance(last, Completed)
        return whole.response, last.answer.response

    first, second = asyncio.run(both())
    assert first == second


def test_many_threads_at_once(product: TinyBERTOrchestrator) -> None:
    wanted = product.ask("What does an overdraft cost?", domain="finance").response
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(product.ask("What does an overdraft cost?", domain="finance").response)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [wanted] * 8
    assert len({product.ask("How do I freeze my card?").request_id for _ in range(3)}) == 3


def test_the_model_hears_the_domains_prompt_the_passages_and_the_question(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = NOT_FOUND
    says.ask("What does an overdraft cost?")
    system, user = scripted.HEARD[-1]
    assert system.startswith(create_finance_domain().system_prompt)
    assert "[1] " in user
    assert user.endswith("Question: What does an overdraft cost?")


@pytest.mark.parametrize(
    ("said", "status"),
    [("An arranged overdraft has an annual rate of 35 percent. [1]", "degraded"), (NOT_FOUND, "not_found"), ("Sheep fly to the moon.", "degraded")],
)
def test_an_answer_by_a_schema_stays_what_the_model_wrote(
    says: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str], said: str, status: str
) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    says.register_domain(create_finance_domain(model="scripted://finance", generation={"json_schema": schema}))
    scripted.SAYS["finance"] = written = json.dumps({"answer": said}) + "\n"
    events = list(says.stream("What does an overdraft cost?"))
    assert isinstance(events[-1], Completed)
    answer = events[-1].answer
    assert (answer.response, answer.status) == (written, status)
    assert "".join(event.text for event in events if isinstance(event, Token)) == written
    assert not any(isinstance(event, Revised) for event in events)
    capsys.readouterr()
    show(says, "What does an overdraft cost?", None)
    assert f"{status.replace('_', ' ')} ({answer.reason})" in capsys.readouterr().out
    assert answer.to_dict()["reason"] == answer.reason != ""


def test_what_an_answer_by_a_schema_quotes_is_cited_beside_it(says: TinyBERTOrchestrator) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    says.register_domain(create_finance_domain(model="scripted://finance", generation={"json_schema": schema}))
    scripted.SAYS["finance"] = NOT_FOUND
    passage = next(event for event in says.stream("What does an overdraft cost?") if isinstance(event, Retrieved)).passages[0]
    quoted = next(sentence for sentence in sentences(passage.text) if "overdraft" in sentence)
    scripted.SAYS["finance"] = json.dumps({"answer": quoted})
    answer = says.ask("What does an overdraft cost?")
    assert json.loads(answer.response) == {"answer": quoted}
    assert (answer.status, [citation.number for citation in answer.citations]) == ("success", [1])


def test_an_invented_answer_is_withdrawn_and_marked(says: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.SAYS["finance"] = "The moon lends money at 77 percent to every sheep. [1]"
    events = list(says.stream("What does an overdraft cost?"))
    answer = events[-1]
    assert isinstance(answer, Completed)
    assert answer.answer.degraded
    assert any(isinstance(event, Revised) for event in events)
    assert "77" not in answer.answer.response
    capsys.readouterr()
    show(says, "What does an overdraft cost?", None)
    # Why is told once.
    assert capsys.readouterr().out.count(answer.answer.reason) == 1


def test_thoughts_that_were_streamed_are_withdrawn(says: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.SAYS["finance"] = NOT_FOUND
    passage = next(event for event in says.stream("What does an overdraft cost?") if isinstance(event, Retrieved)).passages[0]
    quoted = next(sentence for sentence in sentences(passage.text) if "overdraft" in sentence)
    for thoughts in ("", "A moon costs 77 euros. </think>\n\n"):
        scripted.SAYS["finance"] = f"{thoughts}{quoted} [1]"
        events = list(says.stream("What does an overdraft cost?"))
        assert isinstance(events[-1], Completed)
        answer = events[-1].answer
        assert (answer.response, answer.status) == (f"{quoted} [1]", "success")
        revised = [(event.text, event.kind) for event in events if isinstance(event, Revised)]
        assert revised == ([(answer.response, "replaced")] if thoughts else [])
    capsys.readouterr()
    show(says, "What does an overdraft cost?", None)
    assert f"withdrawn: it began with the model's thoughts. Instead:\n{quoted}" in capsys.readouterr().out


def test_the_models_refusal_is_an_honest_not_found(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = NOT_FOUND
    assert says.ask("What does an overdraft cost?").status == "not_found"


def test_a_model_is_not_asked_what_no_sentence_is_near_to(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = "The trench is eleven kilometres deep. [1]"
    events = list(says.stream("how deep is the mariana trench?", domain="finance"))
    assert isinstance(events[-1], Completed)
    answer = events[-1].answer
    assert scripted.HEARD == []
    assert (answer.status, answer.model, answer.tokens_generated) == ("not_found", "", 0)
    assert answer.reason.startswith("no sentence in the documents is near enough to the question (0.")
    assert [event.text for event in events if isinstance(event, Token)] == [NOT_FOUND]
    assert not any(isinstance(event, Revised) for event in events)


def test_a_failing_runtime_is_counted_and_raised(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = BackendError("the runtime fell over", "Restart it.")
    with pytest.raises(BackendError):
        says.ask("What does an overdraft cost?")
    stats = says.get_stats()
    assert (stats["requests_total"], stats["requests_failed"], stats["success_rate"]) == (1, 1, 0.0)


def test_passages_that_do_not_fit_are_dropped_and_said_so(says: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "CONTEXT_TOKENS", 430)
    scripted.SAYS["finance"] = NOT_FOUND
    trace = says.ask("What does an overdraft cost?").trace
    detail = next(stage.detail for stage in trace if stage.stage == "generate")
    assert detail["passages_dropped"] > 0


def test_bad_questions_and_domains(product: TinyBERTOrchestrator) -> None:
    with pytest.raises(InputError):
        product.ask("  ")
    with pytest.raises(UnknownNameError):
        product.ask("hello there", domain="nope")


def test_cancelling_the_async_stream_is_a_cancellation(product: TinyBERTOrchestrator) -> None:
    async def cancelled() -> None:
        async def read() -> None:
            async for _ in product.astream("How long does a dispute take?", domain="finance"):
                await asyncio.sleep(0)

        task = asyncio.create_task(read())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert product.ask("How long does a dispute take?", domain="finance").response


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads prompts slowly: one token a letter, random weights."""
    shape = Shape(context=8192, layers=8, width=256, inner=1024)
    return write_gguf(tmp_path_factory.mktemp("slow") / "letters.gguf", metadata(shape), random_weights(shape))


@pytest.fixture
def slow(product: TinyBERTOrchestrator, letters: Path) -> Iterator[TinyBERTOrchestrator]:
    """An orchestrator whose finance domain has that model."""
    settings, path = product.settings.changed(threads=1), letters
    with TinyBERTOrchestrator(settings=settings, knowledge=product.knowledge, domains=[create_finance_domain(model=str(path))]) as orchestrator:
        orchestrator.__dict__["encoder"] = product.encoder
        orchestrator.manager.preload([str(path)])
        yield orchestrator


QUESTION = "How long does a dispute take?"


def work(orchestrator: TinyBERTOrchestrator) -> tuple[int, int]:
    """Tokens of prompts read so far, and requests under way, of the one model there is."""
    (slot,) = orchestrator.manager._room.slots.values()
    assert isinstance(slot.backend, LlamaCppBackend)
    stats = slot.backend.stats()
    return stats.prompt_tokens, stats.running + stats.waiting


def stopped_reading(orchestrator: TinyBERTOrchestrator) -> bool:
    """Whether the model has nothing to do within a second, and has read less than the passages, a part of the prompt."""
    until = time.monotonic() + 1
    while work(orchestrator)[1] and time.monotonic() < until:
        time.sleep(0.01)
    stream = orchestrator.stream(QUESTION, domain="finance")
    retrieved = next(event for event in stream if isinstance(event, Retrieved))
    stream.close()
    read, under_way = work(orchestrator)
    return not under_way and read < sum(len(passage.text) for passage in retrieved.passages)


def test_a_full_queue_is_told_before_the_search(product: TinyBERTOrchestrator, letters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, model = product.settings.changed(threads=1, parallel=1, queue_limit=1), str(letters)
    with TinyBERTOrchestrator(settings=settings, knowledge=product.knowledge, domains=[create_finance_domain(model=model)]) as one:
        one.__dict__["encoder"] = product.encoder
        # Nothing is known of a model that is not loaded, or not there.
        one.manager.refuse_when_full(model)
        one.manager.refuse_when_full("nope")
        one.manager.preload(model)
        streams = [one.manager.stream(model, "x" * 4000, Generation(max_tokens=500)) for _ in range(2)]
        threads = [threading.Thread(target=lambda stream=stream: list(stream)) for stream in streams]
        for number, thread in enumerate(threads, 1):
            thread.start()
            while work(one)[1] < number or not work(one)[0]:
                time.sleep(0.01)
        monkeypatch.setattr(answering, "resolved", lambda *_: pytest.fail("the documents were searched"))
        with pytest.raises(BusyError) as caught:
            one.ask(QUESTION, domain="finance")
        assert caught.value.retry_after_s >= 1
        for stream, thread in zip(streams, threads, strict=True):
            stream.close()
            thread.join(10)


@pytest.mark.parametrize("ask", ["astream", "aask"])
def test_cancelling_stops_the_model_while_it_reads_the_prompt(slow: TinyBERTOrchestrator, ask: str) -> None:
    async def drain() -> None:
        async for _ in slow.astream(QUESTION, domain="finance"):
            pass

    async def cancelled() -> None:
        task: asyncio.Task[object] = asyncio.create_task(drain() if ask == "astream" else slow.aask(QUESTION, domain="finance"))
        while not work(slow)[0]:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert slow.get_stats()["by_status"] == {"cancelled": 1}
    assert stopped_reading(slow)


def test_questions_of_an_event_loop_leave_its_own_threads_alone(says: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def held(*given: Any) -> Any:
        go.wait(10)
        return understood(*given)

    monkeypatch.setattr(answering, "understood", held)
    scripted.SAYS["finance"] = NOT_FOUND

    async def asked() -> float:
        tasks = [asyncio.create_task(says.aask("What does an overdraft cost?", domain="finance")) for _ in range(40)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await asyncio.to_thread(int)
        waited = time.monotonic() - began
        assert says._awaiting._reading._running == 32
        go.set()
        assert {answer.status for answer in await asyncio.gather(*tasks)} == {"not_found"}
        return waited

    assert asyncio.run(asked()) < 1


@pytest.mark.parametrize("ask", ["astream", "aask"])
def test_a_cancelled_task_does_not_wait_for_what_cannot_be_stopped(says: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
    go, looked = threading.Event(), list[object]()

    def held(*given: Any) -> Any:
        go.wait(10)
        return understood(*given)

    monkeypatch.setattr(answering, "understood", held)
    monkeypatch.setattr(answering, "resolved", lambda *given: looked.append(given))

    async def one() -> None:
        if ask == "aask":
            await says.aask("What does an overdraft cost?")
        async for _ in says.astream("What does an overdraft cost?"):
            pass

    async def cancelled() -> float:
        began = time.monotonic()
        # More than there are threads: those that never began end too.
        tasks = [asyncio.create_task(asyncio.wait_for(one(), 0.2)) for _ in range(40)]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in done} == {TimeoutError}
        return time.monotonic() - began

    assert asyncio.run(cancelled()) < 3
    # The stop is certain to follow: none of them goes on to look into the documents.
    go.set()
    until = time.monotonic() + 10
    while says.get_stats()["by_status"].get("cancelled", 0) < 40 and time.monotonic() < until:
        time.sleep(0.01)
    # Those that never began were asked, too.
    assert says.get_stats()["by_status"] == {"cancelled": 40}
    assert looked == []


def test_an_async_stream_is_closed_by_its_name(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = "one two three four five"

    async def left() -> None:
        async with aclosing(says.astream("What does an overdraft cost?")) as events:
            async for event in events:
                if isinstance(event, Token):
                    break
        events = says.astream("What does an overdraft cost?")
        await anext(events)
        await events.aclose()

    asyncio.run(left())
    assert says.get_stats()["by_status"] == {"cancelled": 2}


def test_a_stream_may_be_closed_from_another_thread_while_the_prompt_is_read(slow: TinyBERTOrchestrator) -> None:
    stream = slow.stream(QUESTION, domain="finance")
    seen: list[object] = []
    reader = threading.Thread(target=lambda: seen.extend(stream))
    reader.start()
    while not work(slow)[0]:
        time.sleep(0.01)
    stream.close()
    reader.join(30)
    assert not reader.is_alive()
    assert not any(isinstance(event, Token | Completed) for event in seen)
    assert stopped_reading(slow)


@pytest.mark.parametrize("read", [1, 2, 3])
def test_closing_in_the_middle_of_an_answer_is_an_error_and_no_answer(slow: TinyBERTOrchestrator, read: int) -> None:
    logging = slow.settings.changed(answer_log=10)
    with TinyBERTOrchestrator(settings=logging, knowledge=slow.knowledge, domains=slow.registry) as closing:
        closing.__dict__["encoder"] = slow.encoder
        stream = closing.stream(QUESTION, domain="finance")
        seen = [next(stream) for _ in range(read)]
        closing.close()
        with pytest.raises(ClosedError, match="the orchestrator was closed") as caught:
            list(stream)
        assert "a new TinyBERTOrchestrator" in caught.value.hint
        assert not any(isinstance(event, Completed) for event in seen)
        assert closing.get_stats()["by_status"] == {"error": 1}
    assert Feedback(logging).recent() == []


@pytest.mark.parametrize("own", [True, False])
def test_closing_while_another_thread_waits_for_its_answer(slow: TinyBERTOrchestrator, own: bool) -> None:
    manager = None if own else slow.manager
    closing = TinyBERTOrchestrator(settings=slow.settings, manager=manager, knowledge=slow.knowledge, domains=slow.registry)
    closing.__dict__["encoder"] = slow.encoder
    closing.manager.preload([domain.model for domain in slow.registry if domain.model])
    told: list[object] = []

    def ask() -> None:
        try:
            told.append(closing.ask(QUESTION, domain="finance"))
        except ClosedError as error:
            told.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while not work(closing)[0]:
        time.sleep(0.01)
    closing.close()
    for thread in threads:
        thread.join(10)
    assert told == ["the orchestrator was closed"] * 3


def test_a_model_that_others_stop_gives_no_answer(slow: TinyBERTOrchestrator) -> None:
    stream = slow.stream(QUESTION, domain="finance")
    assert isinstance([next(stream), next(stream)][-1], Retrieved)
    (slot,) = slow.manager._room.slots.values()
    assert isinstance(slot.backend, LlamaCppBackend)
    threading.Timer(0.2, slot.backend.cancel).start()
    with pytest.raises(BackendUnavailableError, match="the model of finance was stopped before its answer was complete"):
        list(stream)


def test_an_answer_that_a_shared_manager_is_closed_under_is_none(slow: TinyBERTOrchestrator) -> None:
    sharing = TinyBERTOrchestrator(settings=slow.settings, manager=slow.manager, knowledge=slow.knowledge, domains=slow.registry)
    sharing.__dict__["encoder"] = slow.encoder
    stream = sharing.stream(QUESTION, domain="finance")
    assert isinstance([next(stream), next(stream)][-1], Retrieved)
    threading.Timer(0.2, slow.manager.close).start()
    with pytest.raises(ClosedError, match="the model manager was closed"):
        list(stream)


def test_a_closed_one_refuses_everything_alike(product: TinyBERTOrchestrator) -> None:
    closed = TinyBERTOrchestrator(settings=product.settings, domains=[create_finance_domain()])
    closed.__dict__["encoder"] = product.encoder
    assert closed.ask("what's the weather on mars").status == "abstained"
    closed.close()
    closed.close()
    calls: list[Callable[[], object]] = [
        lambda: closed.ask("hello there"),
        lambda: closed.ask("How do I freeze my card?"),
        lambda: closed.stream("hello there"),
        lambda: asyncio.run(closed.aask("hello there")),
        lambda: closed.astream("hello there"),
        lambda: closed.register_domain("garden", "Plants"),
        lambda: closed.unregister_domain("finance"),
        closed.prepare,
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="the orchestrator was closed"):
            call()
    told = closed.process_request("hello there")
    assert (told["status"], told["error"]["code"], told["error"]["retryable"]) == ("error", "closed", False)


def test_a_question_in_the_middle_of_its_search_leaves_no_knowledge_base_open(product: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    closing = TinyBERTOrchestrator(settings=product.settings, domains=[create_finance_domain()])
    closing.__dict__["encoder"] = product.encoder

    def held(*given: Any) -> Any:
        closing.close()
        return resolved(*given)

    monkeypatch.setattr(answering, "resolved", held)
    with pytest.raises(ClosedError):
        closing.ask("How do I freeze my card?")
    assert closing.knowledge._knowledge_bases == {}


def test_an_unknown_model_is_told_though_none_would_be_asked(says: TinyBERTOrchestrator) -> None:
    empty = DomainConfig(name="empty", description="Nothing", keywords=["nothing"], model="nope")
    for call in (says.ask, says.stream, says.astream):
        with pytest.raises(ModelNotFoundError, match="unknown model 'nope'"):
            call("Is there anything in here?", domain=empty)
    assert says.process_request("Is there anything in here?", domain=empty)["error"]["code"] == "model_not_found"
    assert says.get_stats()["by_status"] == {"error": 4}


def test_what_is_wrong_with_a_question_is_told_by_the_call(says: TinyBERTOrchestrator) -> None:
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UnknownNameError, "hello there", {"domain": "nope"}),
        (InputError, "hello there", {"history": "and then?"}),
        (InputError, "hello there", {"context": 5}),
        (InputError, " ", {}),
        (InputError, "x" * 9000, {}),
    ]
    for kind, text, given in wrong:
        with pytest.raises(kind):
            says.stream(text, **given)
        with pytest.raises(kind):
            says.astream(text, **given)
    assert says.get_stats()["by_status"] == {"error": 10}


def test_who_stops_at_the_answer_is_counted_once_and_the_cancelled_are_no_success(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = NOT_FOUND
    for event in says.stream("What does an overdraft cost?"):
        if isinstance(event, Completed):
            break
    assert says.get_stats()["by_status"] == {"not_found": 1}
    for event in says.stream("What does an overdraft cost?"):
        if isinstance(event, Token):
            break
    stats = says.get_stats()
    assert stats["by_status"] == {"not_found": 1, "cancelled": 1}
    assert [stats[name] for name in ("requests_total", "requests_success", "requests_failed", "success_rate")] == [2, 1, 0, 0.5]


def test_what_never_began_has_no_part_in_the_mean(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = NOT_FOUND
    says.ask("What does an overdraft cost?")
    mean = says.get_stats()["average_latency_ms"]
    says.stream("What does an overdraft cost?").close()
    assert says.process_request(" ")["status"] == "error"
    assert says.get_stats()["average_latency_ms"] == mean > 0
    assert says.process_request("hello", query="good morning")["error"]["code"] == "input"
    assert says.get_stats()["by_status"] == {"not_found": 1, "cancelled": 1, "error": 2}


def test_an_async_stream_closed_unread_is_counted(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = NOT_FOUND

    async def closed() -> None:
        for _ in range(2):
            events = says.astream("What does an overdraft cost?")
            await events.aclose()
            await events.aclose()
            assert [event async for event in events] == []
        events = says.astream("What does an overdraft cost?")
        await anext(events)
        await events.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(events)

    asyncio.run(closed())
    until = time.monotonic() + 10
    while says.get_stats()["by_status"].get("cancelled", 0) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert says.get_stats()["by_status"] == {"cancelled": 3}


def test_a_stream_closed_early_is_counted(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = "one two three four five"
    stream = says.stream("What does an overdraft cost?")
    next(event for event in stream if isinstance(event, Token))
    stream.close()
    assert says.get_stats()["by_status"] == {"cancelled": 1}


def test_the_counts_add_up(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = NOT_FOUND
    says.ask("What does an overdraft cost?")
    says.stream("What does an overdraft cost?").close()
    with pytest.raises(InputError):
        says.ask("")
    with says.stream("What does an overdraft cost?") as under_way:
        next(under_way)
        stats = says.get_stats()
        assert stats["by_status"] == {"not_found": 1, "cancelled": 1, "error": 1}
    stats = says.get_stats()
    assert stats["by_status"] == {"not_found": 1, "cancelled": 2, "error": 1}
    assert stats["requests_total"] == stats["requests_success"] + stats["requests_failed"] + stats["by_status"]["cancelled"] == 4


def test_closing_the_stream_early_leaves_the_model_usable(product: TinyBERTOrchestrator) -> None:
    stream = product.stream("How long does a dispute take?", domain="finance")
    for event in stream:
        if isinstance(event, Token):
            break
    stream.close()
    assert product.ask("How long does a dispute take?", domain="finance").response


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, product: TinyBERTOrchestrator) -> TinyBERTOrchestrator:
    """A library user's first orchestrator: nothing ingested, one domain in a folder, answered by the scripted runtime."""
    monkeypatch.setitem(backend.BACKENDS, "scripted", "tests.scripted")
    monkeypatch.setattr(Settings, "domain_dirs", property(lambda self: (self.home / "domains",)))
    folder = tmp_path / "domains" / "garden"
    (folder / "knowledge").mkdir(parents=True)
    (folder / "domain.yaml").write_text("description: Plants, roses and soil.\nkeywords: [roses, compost]\nmodel: scripted://garden\n")
    (folder / "knowledge" / "roses.md").write_text("# Roses\n\nRoses are pruned in March.\n")
    orchestrator = TinyBERTOrchestrator(settings=Settings.load(home=tmp_path))
    orchestrator.__dict__["encoder"] = product.encoder
    scripted.SAYS["garden"] = "Roses are pruned in March. [1]"
    return orchestrator


def test_the_first_question_ingests_what_the_domains_know(fresh: TinyBERTOrchestrator) -> None:
    answer = fresh.ask("When are roses pruned?", domain="garden")
    assert (answer.status, answer.response) == ("success", "Roses are pruned in March. [1]")


def test_documents_of_a_domain_from_elsewhere_are_not_passed_over_in_silence(
    fresh: TinyBERTOrchestrator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "ext" / "pond"
    (folder / "knowledge").mkdir(parents=True)
    (folder / "domain.yaml").write_text("description: Fish and ponds.\nkeywords: [feeding carp]\nmodel: scripted://pond\n")
    (folder / "knowledge" / "carp.md").write_text("# Carp\n\nCarp are fed at dawn.\n")
    scripted.SAYS["pond"] = "Carp are fed at dawn. [1]"
    fresh.register_domain(DomainConfig.read(folder))
    for _ in range(2):
        assert fresh.ask("When are carp fed?", domain="pond").status == "not_found"
    [told] = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"domain pond answers from no document of {folder / 'knowledge'}: that folder is not followed.")
    assert f"DualRAG.add_paths('{folder / 'knowledge'}', 'pond')" in told
    # What it says helps, and nothing is told of a domain that has documents.
    fresh.knowledge.add_paths(folder / "knowledge", "pond")
    assert fresh.ask("When are carp fed?", domain="pond").status == "success"
    caplog.clear()
    with TinyBERTOrchestrator(settings=fresh.settings) as front:
        front.__dict__["encoder"] = fresh.encoder
        front.register_domain(DomainConfig.read(folder))
        front.prepare()
    assert not caplog.records


def test_a_disk_that_cannot_be_written_stops_only_a_first_start(fresh: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(sync, "sync", full)
    with pytest.raises(StorageError):
        fresh.ask("When are roses pruned?", domain="garden")
    fresh.knowledge.add_local_documents("garden", [{"content": "Roses are pruned in March.", "metadata": {"title": "Roses"}}])
    assert fresh.ask("When are roses pruned?", domain="garden").status == "success"


def test_without_a_passage_the_model_is_not_asked(fresh: TinyBERTOrchestrator) -> None:
    fresh.register_domain("empty", "Nothing", ["nothing"], "scripted://never")
    answer = fresh.ask("Is there anything in here?", domain="empty")
    assert (answer.status, answer.model, answer.tokens_generated) == ("not_found", "", 0)


def test_what_was_said_to_belong_nowhere_is_not_answered_from_documents(fresh: TinyBERTOrchestrator) -> None:
    asked = "When are roses pruned?"
    assert fresh.ask(asked).status == "success"
    fresh.router.fit([(asked, None), ("how is compost made", "garden"), ("which soil do tulips need", "garden")])
    for text in (asked, "when are the roses pruned"):
        answer = fresh.ask(text)
        assert (answer.status, answer.domain, answer.elsewhere) == ("abstained", None, ())
        assert answer.response.startswith(NO_DOMAIN)
    # Who names the domain asks its documents.
    assert fresh.ask(asked, domain="garden").status == fresh.ask(asked, domain="garden", history=[asked]).status == "success"


def test_what_the_router_alone_knows_is_not_asked(fresh: TinyBERTOrchestrator) -> None:
    with pytest.raises(InputError, match="no domain is called 'gardens'") as caught:
        fresh.router.fit([("How do I mend a puncture?", "gardens")])
    assert "Did you mean 'garden'?" in caught.value.hint
    fresh.router.register(DomainConfig(name="bike", examples=["How do I mend a puncture?", "Which pump fits my tyre?"]))
    answer = fresh.ask("How do I mend a puncture?")
    assert (answer.status, answer.domain, list(answer.scores)) == ("abstained", None, ["garden"])
    assert answer.reason == "bike is known to the router alone; register_domain makes it a domain"
    assert fresh.ask("When are roses pruned?").domain == "garden"
    # As a file may have it that was written before such names were refused.
    fresh.router.save(fresh.settings.router_file, fresh.registry)
    with TinyBERTOrchestrator(settings=fresh.settings) as front:
        front.__dict__["encoder"] = fresh.encoder
        assert front.router.domains == ("garden",)


def test_a_registration_that_fails_changes_nothing(fresh: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="key 'keywords': holds half a character"):
        fresh.register_domain("x1", "d", ["cut emoji \ud83d"])
    before = fresh.registry.get("garden")
    assert fresh.router.domains == ("garden",)

    def fails(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(fresh.router, "register", fails)
    for name in ("x1", "garden"):
        with pytest.raises(RuntimeError, match="no memory"):
            fresh.register_domain(name, "Another", ["soup"])
    monkeypatch.undo()
    assert [*fresh.registry] == [before]
    assert fresh.router.domains == ("garden",)


@pytest.mark.parametrize("after", [None, Routed, Retrieved])
def test_a_question_under_way_outlives_its_domain(says: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch, after: type | None) -> None:
    scripted.SAYS["finance"] = "Each dispute is settled within 45 days. [1]"

    def then_gone(*given: Any) -> Any:
        read = understood(*given)
        says.unregister_domain("finance")
        return read

    if after is None:
        monkeypatch.setattr(answering, "understood", then_gone)
    answer = None
    for event in says.stream("How long does a dispute take?"):
        if type(event) is after:
            says.unregister_domain("finance")
        if isinstance(event, Completed):
            answer = event.answer
    assert answer is not None
    assert answer.domain == "finance"
    assert scripted.HEARD
    assert "finance" not in says.registry


def test_a_domain_removed_while_it_is_registered_is_gone_everywhere(says: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    router, begun, go_on = says.router, threading.Event(), threading.Event()
    register = router.register

    def slow(domain: DomainConfig) -> None:
        begun.set()
        assert go_on.wait(10)
        register(domain)

    monkeypatch.setattr(router, "register", slow)
    coming = threading.Thread(target=says.register_domain, args=("garden", "Plants, roses and soil."))
    leaving = threading.Thread(target=says.unregister_domain, args=("garden",))
    coming.start()
    assert begun.wait(10)
    leaving.start()
    leaving.join(0.1)
    go_on.set()
    coming.join(10)
    leaving.join(10)
    assert "garden" not in says.registry
    assert "garden" not in router.domains


def test_small_talk_to_a_chosen_domain_repeats_no_answer(fresh: TinyBERTOrchestrator) -> None:
    before = ["When are roses pruned?"]
    for domain in ("garden", DomainConfig(name="lawn", title="Lawn", description="Mowing and moss.")):
        answer = fresh.ask("thanks!", domain=domain, history=before)
        assert (answer.status, answer.domain, answer.citations) == ("abstained", None, ())
        assert answer.response == f"{SMALL_TALK} Ask me about: {'garden' if domain == 'garden' else 'Lawn'}."
    assert fresh.ask("and in which month exactly?", domain="garden", history=before).status == "success"
    # Where the domain is there for it, it is asked.
    chat = DomainConfig(name="chat", keywords=("thanks", "hello", "how are you?", "bye", "good morning", "tell me a joke", "who are you?"))
    assert fresh.ask("thanks!", domain=chat, history=before).domain == "chat"


def test_wrong_arguments_are_our_errors(product: TinyBERTOrchestrator) -> None:
    assert product.process_request(5)["error"]["code"] == "input"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="name"):
        product.register_domain("My Domain")
    with pytest.raises(ConfigError, match="use_reasoning_threshold"):
        TinyBERTOrchestrator(use_reasoning_threshold=85)
    with pytest.raises(ConfigError, match="DomainConfig"):
        TinyBERTOrchestrator(domains=["hr"])  # type: ignore[list-item]
    for domain in (5, ["finance"], {"a": 1}):
        with pytest.raises(InputError, match="the domain cannot be"):
            product.ask("How do I freeze my card?", domain=domain)  # type: ignore[arg-type]
        assert product.process_request("How do I freeze my card?", domain=domain)["error"]["code"] == "input"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the domain cannot be None"):
        product.unregister_domain(None)  # type: ignore[arg-type]
    for given in ({"settings": {"top_k": 3}}, {"manager": 5}, {"knowledge": Path("kb")}, {"onnx": 1}):
        (name,) = given
        with pytest.raises(ConfigError, match=f"{name} cannot be") as caught:
            TinyBERTOrchestrator(**given)
        assert "None" in caught.value.hint
    with pytest.raises(InputError, match="history"):
        product.ask("How do I freeze my card?", history="and then?")
    for context in ("abc", 5, ["a"]):
        with pytest.raises(InputError, match="context"):
            product.ask("How do I freeze my card?", context=context)  # type: ignore[arg-type]
        assert product.process_request("How do I freeze my card?", context)["metadata"] == {}  # type: ignore[arg-type]


def test_no_history_may_be_written_as_none(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = NOT_FOUND
    assert says.ask("What does an overdraft cost?", history=None).status == "not_found"


def test_a_domains_model_has_two_names(product: TinyBERTOrchestrator) -> None:
    with TinyBERTOrchestrator(settings=product.settings, domains=[]) as orchestrator:
        orchestrator.register_domain("a", "b", ["c"], model="nano-int4")
        orchestrator.register_domain("d", "e", ["f"], "nano-int8")
        assert [domain.model for domain in orchestrator.registry] == ["nano-int4", "nano-int8"]
        with pytest.raises(ConfigError, match="model_name is 'nano' and model is 'nano-int4'"):
            orchestrator.register_domain("a", "b", ["c"], "nano", model="nano-int4")


def test_the_flat_result_takes_domain_and_history(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = NOT_FOUND
    assert says.process_request("how deep is the mariana trench?", domain="finance")["domain"] == "finance"
    assert says.process_request("hello there", domain="nope")["error"]["code"] == "unknown_name"
    says.process_request("and how long does it take?", history=["What does an overdraft cost?"], domain="finance")
    assert scripted.HEARD[-1][1].endswith("What does an overdraft cost? and how long does it take?")
    both = says.process_request("What does an overdraft cost?", query="How do I freeze my card?")
    assert both["error"]["code"] == "input"
    assert says.process_request("What does an overdraft cost?", query="What does an overdraft cost?")["status"] == "not_found"


def test_an_errors_message_and_hint_are_two_sentences(product: TinyBERTOrchestrator) -> None:
    assert product.process_request("")["response"].startswith("the question is empty. Ask something")


def test_after_close_a_new_one_is_asked_for(product: TinyBERTOrchestrator) -> None:
    orchestrator = TinyBERTOrchestrator(settings=product.settings, knowledge=product.knowledge, domains=[create_finance_domain()])
    orchestrator.__dict__["encoder"] = product.encoder
    orchestrator.close()
    with pytest.raises(BackendError, match="closed") as caught:
        orchestrator.ask("How much does a replacement debit card cost?")
    assert "a new TinyBERTOrchestrator" in caught.value.hint


def test_with_closes_the_stream_and_async_with_the_orchestrator(says: TinyBERTOrchestrator) -> None:
    scripted.SAYS["finance"] = "one two three four five"
    with says.stream("What does an overdraft cost?") as events:
        assert isinstance(next(events), Routed)
    assert list(events) == []
    assert says.get_stats()["by_status"] == {"cancelled": 1}

    async def whole() -> TinyBERTOrchestrator:
        async with TinyBERTOrchestrator(settings=says.settings, domains=[]) as orchestrator:
            return orchestrator

    with pytest.raises(BackendError, match="closed"):
        asyncio.run(whole()).manager.ensure_ready("nano")


def test_a_users_folder_adds_a_domain(tmp_path: Path) -> None:
    made = tmp_path / "domains" / "garden"
    made.mkdir(parents=True)
    (made / "domain.yaml").write_text("description: Plants and soil.\nkeywords: [roses, compost]\n")
    orchestrator = TinyBERTOrchestrator(settings=Settings.load(home=tmp_path))
    assert "garden" in orchestrator.registry
    assert orchestrator.registry.get("garden") == DomainConfig.read(made)


def test_turns_are_answered_with_what_is_asked_now(product: TinyBERTOrchestrator) -> None:
    turns = yaml.safe_load((DATA / "turns.yaml").read_text(encoding="utf-8"))
    right, again = 0, 0
    for domain, previous, message, fact in turns["held_out"]:
        first = product.ask(message, history=[previous]).response.partition(" [")[0]
        held = fact.lower() in first.lower()
        right += held
        again += not held and first == product.ask(previous, domain=domain).response.partition(" [")[0]
    # 25 and 2 when this was written; 13 and 12 by the two read together alone.
    assert right >= 23
    assert again <= 4
    declined = [product.ask(message, history=[previous]).status in ("not_found", "abstained") for _, previous, message in turns["unanswerable"]]
    # 23 of 24; 6 by the best odds of any sentence.
    assert sum(declined) >= 20


def test_a_whole_domain_takes_no_parts() -> None:
    with TinyBERTOrchestrator(domains=[]) as front, pytest.raises(ConfigError, match="parts"):
        front.register_domain(DomainConfig(name="garden"), model="nano")
