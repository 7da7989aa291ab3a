"""Reading a question set; and the shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mdsa_local.errors import InputError
from mdsa_local.evaluation import overlap, questions
from mdsa_local.evaluation.matching import holds, tokens, within
from mdsa_local.evaluation.questions import Case, is_source
from mdsa_local.routing.encoder import Encoder
from mdsa_local.settings import shipped
from tests.conftest import DATA

GOOD = '{"question": "how much?", "domain": "finance", "facts": ["$1"], "sources": ["a.md"]}'
CASES = questions.read()


def text_of(domain: str) -> dict[str, str]:
    """The documents a question of ``domain`` may draw on, by name."""
    return {
        path.name: path.read_text(encoding="utf-8") for base in (domain, "_global") for path in (shipped("domains") / base / "knowledge").glob("*.md")
    }


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"", None, "no questions"),
        (b"\n \n", None, "no questions"),
        (f"{GOOD}\n\nnot json\n".encode(), 3, "Expecting value"),
        (f"{GOOD}\n[1, 2]\n".encode(), 2, "valid dictionary"),
        (b'{"question": "q", "domain": "finance", "facts": ["x"]}', 1, "sources"),
        (b'{"question": "q", "domain": "finance", "facts": ["x"], "sources": ["a.md"], "extra": 1}', 1, "extra"),
        (b'{"question": 5, "domain": "finance", "facts": ["x"], "sources": ["a.md"]}', 1, "question"),
        (b'{"question": "  ", "domain": "finance", "facts": ["x"], "sources": ["a.md"]}', 1, "question"),
        (b'{"question": "q", "domain": "finance", "facts": [""], "sources": ["a.md"]}', 1, "facts"),
        (b'{"question": "q", "domain": "finance", "facts": [[]], "sources": ["a.md"]}', 1, "facts"),
        (b'{"question": "q", "domain": "finance", "facts": "x", "sources": ["a.md"]}', 1, "facts"),
        (b'{"question": "q", "domain": "finance", "facts": ["x"], "sources": []}', 1, "go together"),
        (b'{"question": "q", "domain": "finance", "facts": ["x"], "sources": ["a.md"], "absent": ["y"]}', 1, "absent"),
        (b'{"question": "\\ud800", "domain": "finance", "facts": [], "sources": []}', 1, "unicode"),
        (f"{GOOD}\n{GOOD.replace('how', 'How')}".encode(), 2, "line 1 again"),
        (GOOD.encode() + b'\n{"question": "caf\xe9"}\n', 2, "not UTF-8"),
        (GOOD.encode("utf-16"), 1, "not UTF-8"),
        (b"[" * 100_000, 1, ""),
        (b"x" * 1_000_002, 1, "longer than"),
    ],
)
def test_a_wrong_file_is_one_message_that_names_the_line(content: bytes, line: int | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        questions.read(path)
    assert str(path) in str(raised.value)
    assert (f"line {line}:" in str(raised.value)) == (line is not None)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            questions.read(path)


def test_alternatives_bom_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b'\xef\xbb\xbf\n{"question": " q ", "domain": "d", "facts": ["x", ["y", "z"]], "sources": [["a.md", "b.md"]]}\r\n')
    assert questions.read(path) == [Case(2, "q", "d", (("x",), ("y", "z")), (("a.md", "b.md"),))]


def test_a_document_is_named_with_or_without_its_folder() -> None:
    assert is_source("a.md", "finance/knowledge/a.md")
    assert is_source("knowledge/a.md", "finance/knowledge/a.md")
    assert is_source("a.md", "a.md")
    assert not is_source("a.md", "finance/knowledge/ba.md")


def test_the_shipped_set_is_large_and_mixed() -> None:
    own = {name: {path.name for path in (shipped("domains") / name / "knowledge").glob("*.md")} for name in {case.domain for case in CASES}}
    assert set(own) == {"finance", "medical", "support", "technical"}
    places = [{("own" if group[0] in own[case.domain] else "shared") for group in case.sources} for case in CASES]
    assert len(CASES) >= 300
    assert sum(not case.answerable for case in CASES) >= 60
    assert places.count({"own"}) >= 200
    assert places.count({"shared"}) >= 35
    assert places.count({"own", "shared"}) >= 20


def test_every_article_is_asked_about() -> None:
    named = {name for case in CASES for group in case.sources for name in group}
    articles = {path.name for path in shipped("domains").glob("*/knowledge/*.md")}
    assert articles - named == set()


@pytest.mark.parametrize("case", [case for case in CASES if case.answerable], ids=lambda case: str(case.line))
def test_every_fact_is_in_its_sources_and_not_in_its_question(case: Case) -> None:
    documents = text_of(case.domain)
    for group in case.sources:
        for name in group:
            assert any(holds(documents[name], fact) for facts in case.facts for fact in facts), f"{name} holds no fact"
    for facts in case.facts:
        assert any(holds(documents[name], fact) for fact in facts for group in case.sources for name in group), f"{facts} nowhere"
        assert not any(holds(case.question, fact) for fact in facts), f"{facts} is in the question itself"


def test_no_document_has_what_an_unanswerable_question_asks_for() -> None:
    words = {domain: {word for text in text_of(domain).values() for word in tokens(text)} for domain in {case.domain for case in CASES}}
    for case in (case for case in CASES if not case.answerable):
        assert case.absent, case
        for term in case.absent:
            assert set(tokens(term)) - words[case.domain], case
            assert within(tokens(case.question), tokens(term)), case


def test_it_is_not_the_set_that_thresholds_were_tuned_on(encoder: Encoder) -> None:
    tuned = [json.loads(line)["question"] for path in (DATA / "answers").glob("*.jsonl") for line in path.read_text(encoding="utf-8").splitlines()]
    tuned += [text for texts in yaml.safe_load((DATA / "unanswerable.yaml").read_text(encoding="utf-8")).values() for text in texts]
    near = [twin for twin in overlap.twins(CASES, tuned, encoder) if twin.near]
    assert not near
