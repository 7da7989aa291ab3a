"""The whole run: shipped encoder, knowledge bases and model."""

from __future__ import annotations

import pytest

from mdsa_local.errors import InputError, ModelNotFoundError
from mdsa_local.evaluation import answers
from mdsa_local.evaluation.questions import Case
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.validation.ladder import FLOOR

CASES = [
    Case(1, "What is the daily ATM withdrawal limit of a debit card?", "finance", (("$400",),), (("atm-withdrawals.md",),)),
    Case(2, "What does Larkfield Plus cost a month?", "support", (("$6",),), (("plans-and-prices.md",),)),
    Case(3, "how do you fold a paper crane", "technical", (), ()),
]


def test_models_are_compared_with_each_other_and_with_none(product: TinyBERTOrchestrator) -> None:
    before = [domain.model for domain in product.registry]
    told: list[tuple[str, int, int]] = []

    def progress(name: str) -> answers.Progress:
        return lambda _, done, total: told.append((name, done, total))

    runs = answers.with_models(product, CASES, ["nano", "nano-int4", "nano"], progress=progress)
    runs.append(answers.without_model(product, CASES, progress=progress))
    assert [run.model for run in runs] == ["nano", "nano-int4", answers.BASELINE]
    assert [domain.model for domain in product.registry] == before
    assert told[0] == ("nano", 0, 3)
    assert told[-1] == (answers.BASELINE, 3, 3)
    for run in runs:
        first, second, third = run.judged
        assert (first.kind, second.kind, third.kind) == ("own", "shared", "none")
        assert first.routed
        assert first.retrieved
        report = run.report()
        assert report["n"] == 3
        assert report["errors"] == 0
        assert set(report["by_kind"]) == {"own", "shared", "none"}
        assert set(report["by_domain"]) == {"finance", "support", "technical"}
    nano, baseline = runs[0], runs[-1]
    passages = [[passage.id for passage in run.judged[0].response.passages] for run in (nano, baseline)]
    assert passages[0] == passages[1]
    assert nano.report()["tokens_per_s"] > 0
    assert nano.judged[0].response.first_token_ms > 0
    assert baseline.report()["tokens_per_s"] is None
    assert baseline.judged[2].response.status == "abstained"


def test_without_a_model_it_is_the_nearest_sentence_or_nothing(product: TinyBERTOrchestrator) -> None:
    found = answers.nearest(product, CASES[0], domain_given=True)
    assert "$400 a day" in found.text
    assert found.text.endswith(f"[{found.passages.index(found.cited[0]) + 1}]")
    sentence = found.text.rsplit(" [", 1)[0]
    assert sentence in found.cited[0].text
    vectors = product.encoder.encode([CASES[0].question, sentence])
    assert float(vectors[0] @ vectors[1]) >= FLOOR
    refused = answers.nearest(product, CASES[2], domain_given=True)
    assert (refused.status, refused.domain, refused.cited) == ("not_found", "technical", ())


def test_a_given_domain_is_not_routed(product: TinyBERTOrchestrator) -> None:
    lost = Case(1, "how do you fold a paper crane", "technical", (), ())
    runs = [*answers.with_models(product, [lost], domain_given=True), answers.without_model(product, [lost], domain_given=True)]
    assert runs[0].model == "nano"
    assert all(run.judged[0].routed is None and run.judged[0].response.domain == "technical" for run in runs)
    assert all(run.report()["routing"] is None for run in runs)


def test_a_question_that_cannot_be_asked_is_counted(product: TinyBERTOrchestrator) -> None:
    too_long = Case(1, "where is my order " * 2000, "support", (("$6",),), (("plans-and-prices.md",),))
    for run in [*answers.with_models(product, [too_long]), answers.without_model(product, [too_long])]:
        assert run.judged[0].response.status == "error"
        assert run.judged[0].response.error
        assert run.report()["errors"] == 1
        assert run.report()["key_fact"]["share"] == 0.0


@pytest.mark.parametrize(
    ("case", "says", "hint"),
    [
        (Case(5, "q", "finanse", (), ()), "line 5: unknown domain 'finanse'", "finance"),
        (Case(6, "q", "finance", (("x",),), (("overdarft.md",),)), "line 6: no document 'overdarft.md'", "'overdraft.md'"),
        (Case(7, "q", "finance", (("x",),), (("nosebleed.md",),)), "line 7: no document 'nosebleed.md'", "kb list"),
        (Case(8, "q", "finance", (("x",),), (("overdraft.md", "nothing.md"),)), "line 8: no document 'nothing.md'", "kb list"),
    ],
)
def test_what_is_not_there_is_named(case: Case, says: str, hint: str, product: TinyBERTOrchestrator) -> None:
    with pytest.raises(InputError) as raised:
        answers.with_models(product, [case])
    assert says in str(raised.value)
    assert hint in raised.value.hint


def test_an_unknown_model_is_told_before_any_question(product: TinyBERTOrchestrator) -> None:
    with pytest.raises(ModelNotFoundError):
        answers.with_models(product, CASES, ["nano", "no-such-model"], progress=lambda name: pytest.fail(name))


def test_without_questions_nothing_is_evaluated(product: TinyBERTOrchestrator) -> None:
    for run in (answers.with_models, answers.without_model):
        with pytest.raises(InputError, match="no questions"):
            run(product, [])
