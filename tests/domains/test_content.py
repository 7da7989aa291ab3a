"""The shipped domains: complete, consistent in form, and every held-out fact really in its document."""

from __future__ import annotations

import json

import pytest
import yaml

from mdsa_local.domains.config import DomainConfig
from mdsa_local.settings import shipped
from tests.conftest import DATA

NAMES = ("finance", "medical", "support", "technical")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_domain_is_complete(name: str) -> None:
    domain = DomainConfig.read(shipped("domains") / name)
    assert len(domain.keywords) >= 15
    assert len(set(domain.examples)) >= 60
    assert domain.description
    assert domain.system_prompt
    articles = list((shipped("domains") / name / "knowledge").glob("*.md"))
    assert len(articles) >= 25
    assert all(article.read_text(encoding="utf-8").startswith("# ") for article in articles)


def test_the_shared_knowledge_has_its_articles() -> None:
    assert len(list((shipped("domains") / "_global" / "knowledge").glob("*.md"))) >= 15


@pytest.mark.parametrize("name", [*NAMES, "_global"])
def test_every_fact_of_the_answer_set_is_in_its_document(name: str) -> None:
    for line in (DATA / f"answers/{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = (shipped("domains") / name / "knowledge" / row["document"]).read_text(encoding="utf-8")
        assert row["fact"] in text, row


@pytest.mark.parametrize("name", NAMES)
def test_held_out_questions_are_not_among_the_examples(name: str) -> None:
    examples = {text.lower().strip(" ?.!") for text in DomainConfig.read(shipped("domains") / name).examples}
    held_out = yaml.safe_load((DATA / f"routing/{name}.yaml").read_text(encoding="utf-8"))
    assert not examples & {text.lower().strip(" ?.!") for text in held_out}


def test_the_medical_assistant_says_what_it_is_not() -> None:
    prompt = DomainConfig.read(shipped("domains") / "medical").system_prompt
    assert "112" in prompt
    assert "doctor" in prompt
