"""Many answers at once: equal to those alone, stopped when told, refused when there are too many."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import ClassVar
from unittest.mock import Mock

import psutil
import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.errors import BackendError, BackendTimeoutError, BusyError, InputError, MDSAError
from mdsa_local.runtime import answering, engine
from mdsa_local.runtime.answering import Request, Stream
from mdsa_local.runtime.backend import Finished, Message
from mdsa_local.runtime.llamacpp import LlamaCppBackend
from mdsa_local.runtime.prefixes import Prefixes
from mdsa_local.runtime.sampler import Sampler
from mdsa_local.runtime.stress import departs, idle_after, requests, stress, told
from mdsa_local.stoppable import HEARD_S

from .gguf_writer import VOCABULARY

QUESTION = [Message("user", "hello, and then?")]
END = VOCABULARY.index("<|end|>")
ENDLESS = Generation(max_tokens=8000, logit_bias=((END, -1e9),))


def text(backend: LlamaCppBackend, generation: Generation) -> str:
    return "".join(piece for piece in backend.stream(QUESTION, generation, deadline_s=60) if isinstance(piece, str))


@pytest.fixture
def backend(long: Path) -> Iterator[LlamaCppBackend]:
    opened = LlamaCppBackend(long, "long", threads=1, parallel=4, queue_limit=4)
    yield opened
    opened.close()


def test_answers_together_equal_those_alone(long: Path) -> None:
    # Weights in float32. With quantised ones llama.cpp rounds activations to 8 bits, and the last bit of a sum may turn one of these: bare
    # llama_decode then differs by up to 0.08 between one sequence and eight (nano, INT8).
    model = LlamaCppBackend(long, "long", threads=1, eager=True)
    prompts = requests(12, seed=3)
    alone = [told(model, prompt, 24) for prompt in prompts]
    together: dict[int, tuple[object, ...]] = {}
    threads = [threading.Thread(target=lambda at=at: together.update({at: told(model, prompts[at], 24)})) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(together) == 12
    assert max(departs(alone[at], together[at]) for at in together) < 0.01  # type: ignore[arg-type]
    stats = model.stats()
    assert stats.batches < stats.tokens_generated, "answers share batches"
    model.close()


def test_a_long_prompt_does_not_stall_the_answer_beside_it(backend: LlamaCppBackend) -> None:
    running = backend.stream(QUESTION, ENDLESS, deadline_s=60)
    next(running)
    reading = backend.stream([Message("user", "z" * 8000)], Generation(max_tokens=1), deadline_s=60)
    waiting = threading.Thread(target=list, args=(reading,))
    waiting.start()
    while backend.stats().prompt_tokens < 1000:
        next(running)
    before = backend.stats()
    for _ in range(20):
        next(running)
    after = backend.stats()
    assert before.prompt_tokens < after.prompt_tokens < 8000, "the prompt is read while the answer goes on"
    running.close()
    reading.close()
    waiting.join(5)
    assert not waiting.is_alive()


def test_answers_that_outgrow_the_memory_take_turns(long: Path) -> None:
    backend = LlamaCppBackend(long, "long", 1024, threads=1, parallel=8)
    generation = Generation(max_tokens=700, logit_bias=((END, -1e9),))
    alone = text(backend, generation)
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(text(backend, generation))) for _ in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    backend.close()
    assert len(said) == 7
    # 7 x 700 tokens do not fit 4160 cells. A departure at a near-tie changes all that follows, so only the beginnings are compared.
    assert {one[:40] for one in said} == {alone[:40]}
    assert {len(one.encode()) > 300 for one in said} == {True}


@pytest.mark.parametrize("state", ["queued", "reading", "writing"])
@pytest.mark.parametrize("how", ["close", "deadline"])
def test_whatever_it_does_it_stops_and_the_cpu_is_idle_within_a_second(backend: LlamaCppBackend, state: str, how: str) -> None:
    if state == "queued":
        others = [backend.stream(QUESTION, ENDLESS, deadline_s=60) for _ in range(4)]
        for other in others:
            next(other)
    messages = [Message("user", "z" * 8000)] if state == "reading" else QUESTION
    stream = backend.stream(messages, ENDLESS, deadline_s=0.3 if how == "deadline" else 60)
    ended: list[object] = []

    def consume() -> None:
        try:
            ended.extend(event for event in stream if isinstance(event, Finished))
        except BackendTimeoutError as error:
            ended.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    time.sleep(0.2)
    if how == "close":
        stream.close()
    consumer.join(1.2)
    assert not consumer.is_alive()
    if how == "close":
        assert isinstance(ended[0], Finished)
        assert ended[0].reason == "cancelled"
        assert (ended[0].tokens_generated > 0) == (state == "writing")
    else:
        assert isinstance(ended[0], BackendTimeoutError)
    if state == "queued":
        for other in others:
            other.close()
    assert idle_after(psutil.Process()) < 1
    assert (backend.stats().running, backend.stats().waiting) == (0, 0)


def test_a_full_queue_says_when_to_come_back(backend: LlamaCppBackend) -> None:
    streams = [backend.stream(QUESTION, ENDLESS, deadline_s=60) for _ in range(4)]
    for stream in streams:
        next(stream)
    waiting = [threading.Thread(target=lambda: list(backend.stream(QUESTION, Generation(max_tokens=1), deadline_s=60))) for _ in range(4)]
    for thread in waiting:
        thread.start()
    while backend.stats().waiting < 4:
        time.sleep(0.01)
    with pytest.raises(BusyError, match="4 requests and 4 wait") as caught:
        text(backend, Generation(max_tokens=1))
    assert caught.value.retryable
    assert caught.value.retry_after_s >= 1
    for stream in streams:
        stream.close()
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()
    assert text(backend, Generation(max_tokens=4))


def test_without_a_queue_a_free_seat_is_given(long: Path) -> None:
    backend = LlamaCppBackend(long, "long", threads=1, parallel=2, queue_limit=0)
    try:
        assert text(backend, Generation(max_tokens=2))
        streams = [backend.stream(QUESTION, ENDLESS, deadline_s=60) for _ in range(2)]
        for stream in streams:
            next(stream)
        with pytest.raises(BusyError, match="2 requests and 0 wait"):
            text(backend, Generation(max_tokens=1))
        streams[0].close()
        while backend.stats().running == 2:
            time.sleep(0.01)
        assert text(backend, Generation(max_tokens=2))
    finally:
        backend.close()


def test_a_stream_that_is_let_go_of_stops(backend: LlamaCppBackend) -> None:
    stream = backend.stream(QUESTION, ENDLESS, deadline_s=60)
    next(stream)
    del stream
    assert idle_after(psutil.Process()) < 1
    assert backend.stats().running == 0


def test_logit_bias_and_penalties(backend: LlamaCppBackend) -> None:
    a, b = VOCABULARY.index("a"), VOCABULARY.index("b")
    assert Generation.model_validate({"logit_bias": {a: 1.5}}).logit_bias == ((a, 1.5),)
    pair = ((a, 1000.0), (b, 900.0))
    assert text(backend, Generation(max_tokens=4, logit_bias=pair)) == "aaaa"
    pair = ((a, 1000.0), (b, 1000.0))
    assert set(text(backend, Generation(max_tokens=12, logit_bias=pair, frequency_penalty=5))) == {"a", "b"}
    once = Generation(max_tokens=2, logit_bias=((a, 1000.0), (b, 1000.0)), presence_penalty=5, repeat_penalty=2)
    assert set(text(backend, once)) == {"a", "b"}


def test_a_grammar_holds_at_any_temperature(backend: LlamaCppBackend) -> None:
    grammar = 'root ::= ("yes" | "no") " " [0-9] [0-9]'
    for seed in range(6):
        said = text(backend, Generation(max_tokens=20, grammar=grammar, temperature=1.5 if seed else 0.0, seed=seed))
        word, number = said.split(" ")
        assert word in ("yes", "no")
        assert len(number) == 2
        assert number.isdigit()
    with pytest.raises(InputError, match="GBNF"):
        text(backend, Generation(grammar="root ::= ("))
    assert text(backend, Generation(max_tokens=4)), "the engine goes on"


def test_a_grammar_that_cannot_be_followed_is_an_error(backend: LlamaCppBackend) -> None:
    for refused in (
        Generation(grammar='root ::= "yes" | "no"', choices=(("Yes, ", 0.0), ("No, ", 0.0))),
        Generation(grammar=r"root ::= [\x00]"),
        Generation(grammar=f'root ::= {"(" * 20_000}"a"{")" * 20_000}'),
        Generation(grammar='root ::= ("a"? "a"?){1,500}'),
        Generation(grammar='root ::= a{500} a ::= "a"?'),
    ):
        with pytest.raises(InputError, match="the grammar") as caught:
            text(backend, refused)
        assert caught.value.hint
    assert text(backend, Generation(grammar='root ::= "yes" | "no"', choices=(("ye", 0.0),))) == "yes"
    assert text(backend, Generation(grammar='root ::= "((" ([)(]{0,500} | "(")', max_tokens=4)).startswith("((")


@pytest.mark.parametrize("half", [{"json_schema": {"enum": ["\ud800"]}}, {"grammar": 'root ::= "\udc00"'}])
def test_half_a_character_in_a_form_is_refused(backend: LlamaCppBackend, half: dict[str, object]) -> None:
    with pytest.raises(InputError, match="half a character"):
        text(backend, Generation.model_validate(half))
    assert text(backend, Generation(max_tokens=4)), "the engine goes on"


@pytest.mark.parametrize("owner", [Prefixes, Sampler])
def test_what_goes_wrong_with_a_request_ends_it_alone(backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch, owner: type) -> None:
    running = backend.stream(QUESTION, ENDLESS, deadline_s=60)
    next(running)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(owner, "begin" if owner is Prefixes else "__init__", lambda *_: 1 // 0)
        for _ in range(20):
            with pytest.raises(BackendError, match="the request failed: ZeroDivisionError"):
                text(backend, Generation(max_tokens=4))
    assert text(backend, Generation(max_tokens=4)), "no sequence was lost"
    assert next(running)
    running.close()
    while backend.stats().running:
        time.sleep(0.01)
    used = [kept.sequence for kept in backend._engine.prefixes.entries if not kept.parked]
    assert sorted([*backend._engine._free, *used]) == list(range(backend._engine.options.sequences))


def test_closing_an_engine_that_is_stuck(backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stuck, go_on = threading.Event(), threading.Event()

    def accept(*_: object) -> None:
        stuck.set()
        go_on.wait(20)

    monkeypatch.setattr(engine, "CLOSING_S", 0.2)
    monkeypatch.setattr(Sampler, "accept", accept)
    stream = backend.stream(QUESTION, Generation(choices=(("a", 0.0),)), deadline_s=0.5)
    with pytest.raises(BackendTimeoutError):
        next(stream)
    assert stuck.is_set()
    backend.close()
    assert "still at work" in caplog.text
    go_on.set()
    monkeypatch.undo()
    backend.close()


def test_probabilities_of_tokens(backend: LlamaCppBackend) -> None:
    *pieces, finished = backend.stream(QUESTION, Generation(max_tokens=5, probabilities=3), deadline_s=60)
    assert isinstance(finished, Finished)
    assert len(finished.probabilities) == finished.tokens_generated
    for token in finished.probabilities:
        assert len(token.alternatives) == 3
        assert token.log_probability == token.alternatives[0].log_probability, "greedy takes the likeliest"
        logs = [other.log_probability for other in token.alternatives]
        assert logs == sorted(logs, reverse=True)
        assert sum(math.exp(log) for log in logs) <= 1
    *_, without = backend.stream(QUESTION, Generation(max_tokens=5), deadline_s=60)
    assert isinstance(without, Finished)
    assert without.probabilities == ()
    assert "".join(str(piece) for piece in pieces)


@pytest.mark.parametrize("given", [{"choices": (("ab cd", 50.0), ("zz", 0.0))}, {"refusal": "ab cd"}, {"choices": (("ab cd", 50.0),), "stop": "b"}])
def test_probabilities_of_tokens_that_are_given(backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch, given: dict[str, object]) -> None:
    if "refusal" in given:
        monkeypatch.setattr(answering, "REFUSED", -math.inf)
    for limit in (2, 12):
        sampling = {"max_tokens": limit, **given}
        *plain, _ = backend.stream(QUESTION, Generation.model_validate(sampling), deadline_s=60)
        *pieces, last = backend.stream(QUESTION, Generation.model_validate({**sampling, "probabilities": 2}), deadline_s=60)
        assert isinstance(last, Finished)
        assert pieces == plain
        assert len(last.probabilities) == last.tokens_generated > 1
        assert "".join(token.text for token in last.probabilities).startswith("".join(map(str, pieces)))
        *_, free = backend.stream(QUESTION, Generation(max_tokens=1, probabilities=2), deadline_s=60)
        assert isinstance(free, Finished)
        assert [other.token for other in last.probabilities[0].alternatives] == [other.token for other in free.probabilities[0].alternatives]
        for token in last.probabilities:
            assert len(token.alternatives) == 2
            assert token.log_probability <= token.alternatives[0].log_probability


def test_a_short_storm(long: Path) -> None:
    model = LlamaCppBackend(long, "long", threads=1, queue_limit=12)
    report = stress(model, seconds=4, callers=24, n_requests=16, max_tokens=16, longest=40)
    model.close()
    assert (report.wrong, report.errors) == ([], [])
    assert report.answers > 20
    assert report.cancelled > 0
    assert report.refused > 0
    assert report.idle_s < 1
    assert report.rss_mb[1] - report.rss_mb[0] < 30


def test_closing_while_many_ask_leaves_nobody_waiting(long: Path) -> None:
    backend = LlamaCppBackend(long, "long", threads=1, parallel=2, queue_limit=32)
    ended: list[str] = []

    def consume() -> None:
        *_, last = backend.stream(QUESTION, ENDLESS, deadline_s=60)
        assert isinstance(last, Finished)
        ended.append(last.reason)

    threads = [threading.Thread(target=consume) for _ in range(6)]
    for thread in threads:
        thread.start()
    while backend.stats().running < 2 or backend.stats().waiting < 4:
        time.sleep(0.01)
    backend.close()
    for thread in threads:
        thread.join(5)
    assert ended == ["cancelled"] * 6


def test_no_wait_for_a_word_is_long_and_the_deadline_holds() -> None:
    class Slow(SimpleQueue[str | Finished | MDSAError]):
        waits: ClassVar[list[float]] = []

        def get(self, block: bool = True, timeout: float | None = None) -> str | Finished | MDSAError:
            assert timeout is not None
            self.waits.append(timeout)
            if len(self.waits) < 4:
                raise Empty
            return super().get(block, timeout)

    def streamed(deadline_s: float) -> Stream:
        request = Request([1], 0, Generation(), 1, time.monotonic() + deadline_s, 1, events=Slow())
        request.events.put("word")
        return Stream(Mock(), (one for one in [request]), "slow")

    assert next(streamed(60)) == "word"
    assert Slow.waits == [HEARD_S] * 4
    Slow.waits.clear()
    with pytest.raises(BackendTimeoutError):
        next(streamed(0.1))
    assert len(Slow.waits) == 1
