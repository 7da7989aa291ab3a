from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import yaml

from mdsa_local.evaluation import questions
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.encoder import Encoder
from mdsa_local.types import Passage
from mdsa_local.validation.answerable import Doubt, content, doubt

DATA = Path(__file__).parents[1] / "data"
PAYING = Passage("p#0", "pay.md", "finance", "Paying in the app", "You can pay in the app by card. A payment is booked at once.", 0, 60, 0.8)


def found(encoder: Encoder, question: str, *absent: str) -> Doubt:
    return doubt(question, [PAYING], lambda words: set(words) & set(absent), encoder.remembering())


def test_content_words_stand_as_written_once_and_without_numbers() -> None:
    assert content("Can I PAY 3 bills in two bitcoins, or pay with “Bitcoins”?") == ["pay", "bills", "bitcoins"]
    assert content("is it not so?") == content("ok why") == []
    assert content("what's the guest wifi password, and how many can't you use?") == ["guest", "wifi", "password", "use"]
    assert content("am I his, and can she reach me?") == ["reach"]


def test_what_is_typed_in_a_hurry_asks_no_more() -> None:
    assert content("whats the deposit, hows it paid and when dont I get it") == content("what's the deposit, how is it paid and when don't I get it")


def test_a_word_that_no_document_has_speaks_against_an_answer(encoder: Encoder) -> None:
    known, strange = found(encoder, "can I pay in the app"), found(encoder, "can I pay in bitcoin", "bitcoin")
    assert known.unsaid == 0
    assert known.missing == ()
    assert strange.missing == ("bitcoin",)
    assert 0 < strange.unsaid <= 1
    assert strange.odds < known.odds
    assert "'bitcoin'" in strange.reason


def test_another_form_or_name_of_a_known_word_hardly_does(encoder: Encoder) -> None:
    assert found(encoder, "how are payments booked?", "payments").unsaid == 0
    assert found(encoder, "what about paying by credit card", "credit").unsaid < found(encoder, "what about paying by elephant", "elephant").unsaid


def test_words_that_go_with_anything_do_not(encoder: Encoder) -> None:
    told = found(encoder, "what shows that a payment goes through instead, and do I get bitcoins?", "shows", "goes", "instead", "get", "bitcoins")
    assert told.missing == ("bitcoins",)
    # They are of the question all the same.
    assert 0 < told.unsaid < found(encoder, "do I pay bitcoins?", "bitcoins").unsaid


def test_only_words_that_the_passages_lack_are_looked_up(encoder: Encoder) -> None:
    asked: list[list[str]] = []

    def unknown(words: list[str]) -> list[str]:
        asked.append(words)
        return words

    doubt("can I pay in bitcoin", [PAYING], unknown, encoder.remembering())
    assert asked == [["bitcoin"]]


def test_what_tells_of_another_is_no_answer(encoder: Encoder) -> None:
    def asked(question: str, *texts: str) -> Doubt:
        return doubt(question, [replace(PAYING, title="", text=text) for text in texts], lambda _: (), encoder.remembering())

    another = asked("What does the Urban 400 cost?", "The Urban 300 costs 499 euros.")
    assert another.declines and not another.sure
    assert another.reason == "the documents say nothing of '400'"
    assert not asked("What does the Urban 300 cost?", "The Urban 300 costs 499 euros.").declines
    # How much someone does is no name, and a title no part of the sentence below it.
    assert asked("Can I transfer 5000 a day?", "You can transfer 3000 euros a day.").another == ()
    line = replace(PAYING, title="How to use it", text="Line 6 goes to the zoo.")
    assert doubt("Does line 5 go to the zoo?", [line], lambda _: (), encoder.remembering()).another == ("5",)
    # Another passage tells of it.
    assert asked("What does the Urban 400 cost?", "The Urban 300 costs 499 euros.", "So does the Urban 400.").another == ()


def test_no_passages_are_no_answer(encoder: Encoder) -> None:
    nothing = doubt("can I pay in bitcoin", [], lambda words: words, encoder.encode)
    assert nothing == Doubt(0.0, 0.0, ())
    assert nothing.declines


def test_the_product_says_what_its_documents_do_not_speak_of(product: TinyBERTOrchestrator) -> None:
    answer = product.ask("can i pay in bitcoin or buy crypto in the app", domain="finance")
    assert answer.status == "not_found"
    assert "'bitcoin'" in answer.reason
    assert answer.tokens_generated == 0
    assert [(check.name, check.passed) for check in answer.verdict.checks] == [("answerable", False)]


def test_most_unanswerable_questions_are_declined_and_few_others(product: TinyBERTOrchestrator) -> None:
    def declined(question: str, domain: str) -> bool:
        vector = product.encoder.encode([question])[0]
        passages = product.knowledge.search(question, vector, domain, product.settings.top_k)
        return doubt(question, passages, lambda words: product.knowledge.unknown(words, domain), product.encoder.remembering()).declines

    unanswerable = yaml.safe_load((DATA / "unanswerable.yaml").read_text(encoding="utf-8"))
    tuned_on = [declined(question, domain) for domain, texts in unanswerable.items() if domain[0] != "_" for question in texts]
    shipped = [declined(case.question, case.domain) for case in questions.read() if not case.answerable]
    answerable = [
        declined(json.loads(line)["question"], path.stem)
        for path in (DATA / "answers").glob("*.jsonl")
        if path.stem in unanswerable
        for line in path.read_text(encoding="utf-8").splitlines()[::3]
    ]
    # The former sound more like the documents than most that is asked in vain.
    assert sum(tuned_on) / len(tuned_on) >= 0.2
    assert sum(shipped) / len(shipped) >= 0.5
    assert sum(answerable) / len(answerable) <= 0.16
