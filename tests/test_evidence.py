from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mdsa_local.domains.quoting import Extract
from mdsa_local.errors import ModelFileError
from mdsa_local.evidence import AHEAD, LEAST_LIKELY, Evidence, narrowed, settled, unmarked, whole
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.settings import Settings, shipped
from mdsa_local.types import Passage, Route
from mdsa_local.validation.answerable import Doubt
from mdsa_local.validation.judge import Weighing

WEIGHING = Weighing((0.0, 1.0, 0.0, 0.0), 0.0, 3.0, 2.0, least=-0.5, sure=0.5)


PASSAGE = Passage("a.md#0", "a.md", "money", "A", "It does.", 0, 8, 0.5)


def found(odds: float) -> Evidence:
    return Evidence((PASSAGE,), (Extract(0, "It does."),), Doubt(0.5, 0.0, (), odds, WEIGHING))


def asked(domain: str | None, odds: dict[str, float], nearest: tuple[str, ...] = (), **scores: float) -> tuple[Route, list[str]]:
    looked: list[str] = []

    def look(name: str) -> Evidence:
        looked.append(name)
        return found(odds[name])

    route, evidence, told = settled(Route(domain, max(scores.values()), scores, "why"), look, lambda: nearest)
    assert list(told) == looked
    assert (evidence.doubt is None) == (route.domain is None)
    assert route.domain is None or evidence == found(odds[route.domain])
    return route, looked


def test_a_domain_whose_documents_surely_answer_keeps_the_question() -> None:
    route, looked = asked("money", {"money": 0.5}, ("health",), money=0.6, health=0.3)
    assert (route.domain, route.confidence, route.reason, looked) == ("money", 0.6, "why", ["money"])


def test_one_whose_documents_may_keeps_it_unless_those_of_another_do_far_more_surely() -> None:
    route, looked = asked("money", {"money": 0.2, "health": 0.2 + AHEAD - 0.01}, money=0.6, health=0.3)
    assert (route.domain, route.confidence, looked) == ("money", 0.6, ["money", "health"])
    assert asked("money", {"money": 0.2, "health": 0.2 + AHEAD}, money=0.6, health=0.3)[0].domain == "health"


def test_a_domain_without_passages_gives_the_question_to_one_whose_documents_answer() -> None:
    def look(name: str) -> Evidence:
        return found(1.0) if name == "old" else Evidence()

    route, evidence, _ = settled(Route("new", 0.6, {"new": 0.6, "old": 0.01}, "why"), look, lambda: ("old",))
    assert (route.domain, evidence) == ("old", found(1.0))
    assert settled(Route("new", 0.6, {"new": 0.6}, "why"), look, tuple)[:2] == (Route("new", 0.6, {"new": 0.6}, "why"), Evidence())


def test_domains_with_the_nearest_documents_are_asked_before_the_likeliest() -> None:
    scores = {"money": 0.2, "health": 0.1, "bikes": 0.001}
    route, looked = asked(None, {"bikes": 1.0}, ("bikes",), **scores)
    assert (route.domain, looked) == ("bikes", ["bikes"])
    odds = {"bikes": 0.4, "money": 0.4, "health": 0.4}
    assert asked(None, odds, ("bikes", "money"), **scores)[1] == ["bikes", "money", "health"]
    assert asked("money", {**odds, "money": -2}, ("bikes",), **scores)[1] == ["money", "bikes", "health"]


def test_one_whose_documents_do_not_gives_it_to_the_next_only_if_that_surely_answers() -> None:
    assert asked("money", {"money": -2, "health": 2}, money=0.6, health=0.3)[0].domain == "health"
    route, looked = asked("money", {"money": -2, "health": 0.4}, money=0.6, health=0.3)
    assert (route.domain, looked) == ("money", ["money", "health"])


def test_where_none_was_chosen_the_two_likeliest_are_asked_in_turn() -> None:
    route, looked = asked(None, {"money": 1.0}, money=0.2, health=0.1)
    assert (route.domain, looked) == ("money", ["money"])
    # As likely as it is that its documents answer.
    assert route.confidence == pytest.approx(0.731, abs=0.001)
    assert "documents of money" in route.reason
    assert asked(None, {"money": 0.4, "health": 1.0}, money=0.2, health=0.1, other=0.05)[0].domain == "health"
    assert asked(None, {"money": 0.4, "health": 0.4}, money=0.2, health=0.1, other=0.05) == (
        Route(None, 0.2, {"money": 0.2, "health": 0.1, "other": 0.05}, "why"),
        ["money", "health"],
    )


def test_an_unlikely_domain_is_not_looked_into() -> None:
    assert asked(None, {}, money=LEAST_LIKELY / 2, health=0.0)[1] == []


def test_evidence_answers_only_where_it_is_not_doubted() -> None:
    assert found(1.0).answering == ("It does.",)
    # As it stands in an answer, with other items before it, or without blank names of columns.
    listed = Extract(0, "Bring:\n- boots", above="Bring:"), Extract(0, "| | |\n| Noise | 44 dB |", leads=True)
    assert replace(found(1.0), extracts=listed).answering == ("boots", "| Noise | 44 dB |")
    assert found(-1.0).answering == ()
    assert Evidence().answering == ()
    unjudged = found(1.0)
    assert unjudged.doubt is not None
    assert replace(unjudged, doubt=replace(unjudged.doubt, judged=None)).answering == ()


def test_passages_with_the_best_sentences_are_kept_and_numbered_anew() -> None:
    passages = [Passage(f"p#{n}", f"{n}.md", "money", "P", f"Text {n}.", 0, 7, 0.5) for n in range(5)]
    kept, extracts = narrowed(passages, [Extract(3, "d"), Extract(1, "b"), Extract(3, "d2"), Extract(4, "e")], 2)
    assert [passage.id for passage in kept] == ["p#3", "p#1"]
    assert [(one.passage, one.text, one.document) for one in extracts] == [(0, "d", "3.md"), (1, "b", "1.md"), (0, "d2", "3.md")]
    assert [passage.id for passage in narrowed(passages, [Extract(2, "c")], 3)[0]] == ["p#2", "p#0", "p#1"]


def test_a_passage_with_what_answers_a_part_is_kept() -> None:
    passages = [Passage(f"p#{n}", f"{n}.md", "money", "P", f"Text {n}.", 0, 7, 0.5) for n in range(4)]
    extracts = [Extract(0, "a"), Extract(1, "b"), Extract(2, "c"), Extract(3, "d", leads=True)]
    kept, _ = narrowed(passages, extracts, 2)
    assert [passage.id for passage in kept] == ["p#0", "p#3"]


def test_documents_of_one_name_in_both_knowledge_bases_are_two(product: TinyBERTOrchestrator) -> None:
    bikes, canteen = "The bike pool of the support team has 14 bikes.", "The bike pool is beside the canteen, which opens at noon."
    product.knowledge.add_local_documents("support", [{"content": bikes, "metadata": {"id": "pool.md"}}])
    product.knowledge.add_global_documents([{"content": canteen, "metadata": {"id": "pool.md"}}])
    try:
        answer = product.ask("How many bikes are in the bike pool of the support team?", domain="support")
    finally:
        product.knowledge.remove("pool.md", "support")
        product.knowledge.remove("pool.md")
    assert "14 bikes" in answer.response


def test_what_was_asked_before_is_no_part_of_what_is_asked_now(product: TinyBERTOrchestrator) -> None:
    answer = product.ask("and is it made of chocolate?", domain="finance", history=["How do I freeze my card?"])
    assert answer.status == "not_found"


def test_each_part_of_a_question_is_looked_up_too(product: TinyBERTOrchestrator) -> None:
    # By the whole question no passage with the price is among the eight nearest.
    answer = product.ask("what does the Glow Patch cost and what units is glucose shown in", domain="medical")
    assert "$49" in answer.response
    assert "mg/dL" in answer.response


@pytest.fixture
def other(product: TinyBERTOrchestrator, request: pytest.FixtureRequest) -> Iterator[TinyBERTOrchestrator]:
    with TinyBERTOrchestrator(settings=product.settings.changed(**request.param), knowledge=product.knowledge) as orchestrator:
        orchestrator.__dict__["encoder"] = product.encoder
        yield orchestrator


def test_a_question_like_no_example_is_answered_where_the_documents_surely_do(product: TinyBERTOrchestrator) -> None:
    question = "how many foreign currencies do you handle"
    assert product.router.route(question).domain is None
    answer = product.ask(question)
    assert (answer.domain, answer.status) == ("finance", "success")
    assert "documents of finance answer" in answer.reason
    retrieve = next(stage for stage in answer.trace if stage.stage == "retrieve")
    assert "finance" in retrieve.detail["odds"]
    assert {citation.passage.knowledge_base for citation in answer.citations} <= {"finance", "global"}


def test_what_only_a_document_of_the_users_answers_is_found_where_no_example_resembles_it(product: TinyBERTOrchestrator) -> None:
    question = "how many bikes are in the company bike pool?"
    assert product.router.route(question).domain is None
    assert product.ask(question).domain is None
    [document] = product.knowledge.add_local_documents("support", [{"content": "The company bike pool has 14 bikes at the north entrance."}])
    try:
        answer = product.ask(question)
    finally:
        product.knowledge.remove(document, "support")
    assert (answer.domain, answer.status) == ("support", "success")
    assert "14 bikes" in answer.response
    assert [citation.passage.knowledge_base for citation in answer.citations] == ["support"]


def test_who_chooses_the_domain_gets_that_one(product: TinyBERTOrchestrator) -> None:
    answer = product.ask("What is the daily limit for cash from an ATM?", domain="medical")
    assert answer.domain == "medical"
    retrieve = next(stage for stage in answer.trace if stage.stage == "retrieve")
    assert list(retrieve.detail["odds"]) == ["medical"]


@pytest.mark.parametrize("other", [{"judge": ""}], indirect=True)
def test_without_a_judge_nearness_decides_and_none_is_none(other: TinyBERTOrchestrator) -> None:
    assert other.judge is None
    assert other.ask("how many foreign currencies do you handle").domain is None
    answer = other.ask("How much does a replacement debit card cost?")
    assert answer.status == "success"
    assert next(stage for stage in answer.trace if stage.stage == "retrieve").detail == {}


def test_a_damaged_judge_is_told_and_the_answer_marked(product: TinyBERTOrchestrator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(shipped("models") / "judge", folder)
    (folder / "model.onnx").write_bytes(b"no model")
    settings = product.settings.changed(judge=str(folder))
    with TinyBERTOrchestrator(settings=settings, knowledge=product.knowledge) as orchestrator:
        orchestrator.__dict__["encoder"] = product.encoder
        answer = orchestrator.ask("How much does a replacement debit card cost?")
    assert answer.degraded
    assert "by nearness alone" in answer.reason
    assert "sha256" in caplog.text
    with TinyBERTOrchestrator(settings=settings.changed(strict=True), knowledge=product.knowledge) as strict:
        strict.__dict__["encoder"] = product.encoder
        with pytest.raises(ModelFileError, match="sha256"):
            strict.ask("How much does a replacement debit card cost?")


def test_numbers_in_brackets_are_no_marks_of_citations() -> None:
    passage = Passage("a#0", "a.md", "global", "Switch", "The switch [3] has 8 ports [7, 8]; see [1](x.md) and a[12345].", 0, 60, 0.5)
    assert unmarked(passage).text == "The switch (3) has 8 ports (7, 8); see [1](x.md) and a[12345]."
    plain = Passage("a#0", "a.md", "global", "Switch", "The switch has 8 ports.", 0, 60, 0.5)
    assert unmarked(plain) is plain


def test_a_passage_that_goes_on_with_a_table_is_read_below_its_columns() -> None:
    row = replace(PASSAGE, text="| ttl | 600 s |")
    told = whole(replace(row, title=r"Settings > Cache > | Key | a\|b > |"))
    assert (told.title, told.text) == ("Settings > Cache", "| Key | a\\|b > |\n|---|---|\n| ttl | 600 s |")
    assert whole(replace(row, title="| Key | Value |")).title == ""
    for title in ("", "Settings", "Pipes > a | b |", "Settings > |x"):
        assert whole(replace(row, title=title)) == replace(row, title=title)


def test_rows_far_down_a_table_answer_with_the_names_of_their_columns(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("shipped_domains: false\n")
    folder = tmp_path / "domains" / "server" / "knowledge"
    folder.mkdir(parents=True)
    (folder.parent / "domain.yaml").write_text("description: Settings of the Brisa web server\n")
    rows = {"port": "TCP port it listens on", "workers": "number of worker processes", "timeout": "how long a request may take before it is cut"}
    rows |= {"log_level": "how much is written to the log", "log_file": "where the log is written", "gzip": "whether answers are compressed"}
    rows |= {
        "max_body": "largest body of a request that is accepted",
        "cache_ttl": "how long a cached answer is kept",
        "user": "account it runs under",
    }
    table = "\n".join(f"| {name} | {number * 7 + 13} | {means} |" for number, (name, means) in enumerate(rows.items()))
    (folder / "settings.md").write_text(f"# Settings of Brisa\n\n| Setting | Default | Meaning |\n|---|---|---|\n{table}\n")
    with TinyBERTOrchestrator(settings=Settings.load({}, home=tmp_path)) as front:
        answer = front.ask("what is the default of cache_ttl?", domain="server")
    assert (answer.status, answer.response) == (
        "success",
        "| Setting | Default | Meaning |\n| cache_ttl | 62 | how long a cached answer is kept | [1]",
    )
