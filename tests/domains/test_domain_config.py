from __future__ import annotations

import errno
from datetime import date
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from mdsa_local.domains.config import DomainConfig, Generation
from mdsa_local.domains.predefined import create_finance_domain, predefined
from mdsa_local.domains.registry import DomainRegistry
from mdsa_local.errors import ConfigError, InputError, UnknownNameError
from mdsa_local.settings import shipped


def folder(tmp_path: Path, text: str, examples: str | None = None) -> Path:
    made = tmp_path / "garden"
    made.mkdir()
    (made / "domain.yaml").write_text(text)
    if examples is not None:
        (made / "examples.yaml").write_text(examples)
    return made


def test_a_folder_is_a_domain(tmp_path: Path) -> None:
    made = folder(tmp_path, "description: Plants.\nkeywords: [soil, seeds]\ngeneration: {temperature: 0.5}\n", "- when do i sow beans\n")
    domain = DomainConfig.read(made)
    assert (domain.name, domain.keywords, domain.examples) == ("garden", ("soil", "seeds"), ("when do i sow beans",))
    assert domain.generation.temperature == 0.5
    assert "garden" in DomainRegistry.from_folders([tmp_path])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour: green\n", "unknown key 'colour'"),
        ("generation: {heat: 1}\n", "unknown key 'generation.heat'"),
        ("generation: {temperature: hot}\n", "generation.temperature"),
        ("name: other\n", "folder is 'garden'"),
        ("description: [\n", "not valid YAML"),
        ("description: one\ndescription: two\n", "the key 'description' stands there twice"),
        ("generation: {seed: 1, seed: 2}\n", "the key 'seed' stands there twice"),
        ("examples: [a]\n", "examples"),
        ("keywords: 3\n", "keywords"),
        ("keywords: soil, seeds\n", "'keywords': expected a list of texts"),
        ("domain_id: finance\n", "domain_id"),
        ("1: x\n", "unknown key 1"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DomainConfig.read(folder(tmp_path, text))
    assert said in str(caught.value)
    assert "domain.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("keyword: [soil]\n", "Did you mean 'keywords'?"),
        ("generation: {temprature: 1}\n", "Did you mean 'temperature'?"),
        ("temprature: 1\n", "Did you mean 'temperature'?"),
        ("top_k: 1\n", "It belongs under generation: write generation: {top_k: ...}."),
        (
            "colour: green\n",
            "Known keys: adapter, description, examples, generation, keywords, max_tokens, model, name, system_prompt, temperature, title.",
        ),
        ("keywords: 3\n", "Give it such a value, or leave it out for the default."),
    ],
)
def test_a_wrong_key_is_told_its_nearest(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DomainConfig.read(folder(tmp_path, text))
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("name", "better"),
    [("My Domain!", "'my_domain'"), ("Gärten & Café", "'garten_cafe'"), ("../etc", "'etc'"), ("", "another"), ("global", "another")],
)
def test_a_wrong_name_is_told_what_a_name_may_be_and_no_keys(name: str, better: str) -> None:
    with pytest.raises(ConfigError, match="name") as caught:
        DomainConfig(name=name)
    assert better in caught.value.hint
    assert "keys" not in caught.value.hint
    with pytest.raises(ConfigError) as caught:
        DomainConfig()
    assert "Give the domain a name" in caught.value.hint


@pytest.mark.parametrize("key", ["title", "description", "keywords", "system_prompt", "model", "examples"])
def test_half_a_character_is_refused_in_every_text(key: str) -> None:
    cut = "cut emoji \ud83d"
    with pytest.raises(ConfigError, match=f"key '{key}': holds half a character") as caught:
        DomainConfig(name="garden", **{key: [cut] if key in ("keywords", "examples") else cut})
    assert "whole character" in caught.value.hint
    str(caught.value).encode()


def test_the_folder_of_a_domain_may_be_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = folder(tmp_path, "description: x\n")
    monkeypatch.chdir(tmp_path)
    assert DomainConfig.read("garden/") == DomainConfig.read(str(made)) == DomainConfig.read(made)
    assert DomainConfig.read("garden").folder == made
    for wrong in (5, None):
        with pytest.raises(ConfigError, match="the folder of a domain cannot be"):
            DomainConfig.read(wrong)  # type: ignore[arg-type]


def test_examples_must_be_a_list_of_questions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"examples\.yaml"):
        DomainConfig.read(folder(tmp_path, "description: x\n", "question: 3\n"))


def test_the_promised_ways_to_write_a_domain() -> None:
    assert DomainConfig("hr", "nano", ["leave"]).model == "nano"
    named = DomainConfig(
        name="hr", description="People", model_name="nano", keywords=["leave"], system_prompt="Be kind.", max_tokens=50, temperature=0.3
    )
    assert (named.model, named.generation.max_tokens, named.generation.temperature) == ("nano", 50, 0.3)
    assert DomainConfig(domain_id="hr", name="Human Resources").title == "Human Resources"
    assert create_finance_domain(model="other").model == "other"
    assert len(create_finance_domain().keywords) >= 15
    for changes in ({"name": "bank"}, {"domain_id": "bank"}):
        bank = create_finance_domain(**changes, model_name="nano-int8", max_tokens=9)
        assert (bank.name, bank.model, bank.generation.max_tokens) == ("bank", "nano-int8", 9)
        assert (bank.title, bank.examples) == (create_finance_domain().title, create_finance_domain().examples)
    with pytest.raises(ConfigError, match="'model' and 'model_name' are the same setting"):
        create_finance_domain(model="a", model_name="b")
    with pytest.raises(ConfigError, match="unknown key 'nope'"):
        create_finance_domain(nope=1)
    with pytest.raises(InputError, match="the domain cannot be int 5"):
        predefined(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["../etc", "a/b", "", "A", "global", ".hidden", "x" * 65, "a\0b"])
def test_a_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(ConfigError):
        DomainConfig(name=name)


def test_what_a_caller_lists_is_domains_each_of_its_own_name() -> None:
    hr = DomainConfig(name="hr")
    assert [domain.name for domain in DomainRegistry.given(iter([hr, DomainConfig(name="it")]))] == ["hr", "it"]
    lists: tuple[Any, ...] = (["hr"], "hr", hr, 5, {"hr": hr})
    for wrong in lists:
        with pytest.raises(ConfigError, match="DomainConfig") as caught:
            DomainRegistry.given(wrong)
        assert "Pass a list" in caught.value.hint
    with pytest.raises(ConfigError, match="2 of them are called 'hr'"):
        DomainRegistry.given([hr, DomainConfig(name="it"), DomainConfig(name="hr", description="again")])


def test_an_unknown_domain_lists_the_known_ones() -> None:
    registry = DomainRegistry([DomainConfig(name="finance"), DomainConfig(name="medical")])
    with pytest.raises(UnknownNameError) as caught:
        registry.get("finanse")
    assert "Did you mean 'finance'" in caught.value.hint
    registry.unregister("finance")
    with pytest.raises(UnknownNameError):
        registry.unregister("finance")


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ("- what: is this\n", "entry 1"),
        ("- a\n- 5\n", "entry 2 is no text: 5"),
        ("a: b\n", "expected a list"),
        ("- a\n- 2024-02-30\n", "day is out of range.* line 2"),
    ],
)
def test_an_example_that_is_no_text_is_named(tmp_path: Path, examples: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DomainConfig.read(folder(tmp_path, "description: Plants.\n", examples))


def test_a_fault_in_the_examples_names_their_file_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        DomainConfig.read(folder(tmp_path, "description: Plants.\n", "a: b\n"))
    assert str(caught.value).startswith(f"{tmp_path / 'garden' / 'examples.yaml'}: ")


def test_examples_yet_to_be_written_are_none(tmp_path: Path) -> None:
    assert DomainConfig.read(folder(tmp_path, "description: Plants.\n", "# - when do I sow beans\n")).examples == ()


def test_keywords_are_no_single_text() -> None:
    for given in ("soil, seeds", 5, {"soil": "clay"}):
        with pytest.raises(ConfigError, match="expected a list of texts"):
            DomainConfig(name="garden", keywords=given)
    assert DomainConfig(name="garden", keywords=None).keywords == ()
    assert DomainConfig(name="garden", keywords=(word for word in ("soil", "seeds"))).keywords == ("soil", "seeds")


def test_a_blank_is_no_keyword_and_no_example() -> None:
    for given in ({"keywords": ["soil", " "]}, {"examples": ["when do I sow beans", ""]}):
        with pytest.raises(ConfigError, match="entry 2 is no text: '") as caught:
            DomainConfig(name="garden", **given)
        assert "Leave it out" in caught.value.hint


def test_a_folder_that_is_no_domain_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder(tmp_path, "description: Plants.\n")
    for name in ("attic", "_global", ".trash", "empty"):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "domain.yml").write_text("description: Old things.\n")
    assert [domain.name for domain in DomainRegistry.from_folders([tmp_path])] == ["garden"]
    (told,) = caplog.messages
    assert "attic holds no domain.yaml" in told
    assert "Call its domain.yml that" in told


def test_a_folder_that_cannot_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, "description: Plants.\n")
    (tmp_path / "lost+found").mkdir()
    looks = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent.name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return looks(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert [domain.name for domain in DomainRegistry.from_folders([tmp_path])] == ["garden"]
    assert "lost+found cannot be read and is left out: Permission denied" in caplog.text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_tokens": 0}, "generation.max_tokens"),
        ({"temperature": -1}, "generation.temperature"),
        ({"temperature": float("nan")}, "generation.temperature"),
        ({"logit_bias": {5: float("nan")}}, "generation.logit_bias"),
        ({"choices": [("red", float("inf"))]}, "generation.choices"),
        ({"stop": 3}, "expected a text, or a list of texts"),
        ({"choices": ("red",)}, "valid list"),
        ({"json_schema": {"enum": [date(2024, 1, 1)]}}, "generation.json_schema': expected what JSON can hold: Object of type date"),
        ({"tools": [{"name": "x", "parameters": {"maximum": float("inf")}}]}, "generation.tools': expected what JSON can hold"),
        (
            {"json_schema": reduce(lambda inner, _: {"items": inner}, range(9000), dict[str, Any]())},
            "generation.json_schema': expected what JSON can",
        ),
        ({"tmeperature": 1}, "unknown key 'generation.tmeperature'"),
    ],
)
def test_wrong_generation_settings_are_errors_of_ours(values: dict[str, Any], said: str) -> None:
    for made in (lambda: Generation(**values), lambda: DomainConfig(name="garden", generation=values)):
        with pytest.raises(ConfigError, match=said) as wrong:
            made()
        assert wrong.value.hint and "pydantic" not in str(wrong.value)


def test_a_setting_and_its_shorthand_do_not_stand_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"garden/domain\.yaml: 'max_tokens' and 'generation\.max_tokens' are the same"):
        DomainConfig.read(folder(tmp_path, "max_tokens: 5\ngeneration: {max_tokens: 7}\n"))
    assert create_finance_domain(max_tokens=5).generation.max_tokens == 5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_tokens": None}, r"key 'generation\.max_tokens'.*given: None"),
        ({"generation": {"top_k": 3}, "temperature": None}, r"key 'generation\.temperature'.*given: None"),
        ({"generation": "x", "max_tokens": 5}, "key 'generation'.*given: 'x'"),
        ({"generation": 5, "temperature": 1}, "key 'generation'.*given: 5"),
        ({"generation": {5: 1}}, "unknown key 5 of 'generation'"),
        ({"generation": {5: 1}, "max_tokens": 5}, "unknown key 5 of 'generation'"),
    ],
)
def test_a_shorthand_beside_what_is_wrong_is_told(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        DomainConfig(name="a", **values)
    assert "It belongs under" not in caught.value.hint


def test_one_text_to_stop_at_needs_no_list() -> None:
    assert Generation(stop="END").stop == DomainConfig(name="garden", generation={"stop": "END"}).generation.stop == ("END",)


def test_a_domain_may_leave_its_model_to_the_settings() -> None:
    assert DomainConfig(name="garden", model="default").model is None
    assert {domain.model for domain in DomainRegistry.from_folders([shipped("domains")])} == {None}


def test_examples_that_may_not_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, read_text = folder(tmp_path, "description: Plants.\n", "- a\n"), Path.read_text

    def refused(path: Path, **given: str) -> str:
        if path.name == "examples.yaml":
            raise PermissionError(13, "Permission denied")
        return read_text(path, **given)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(ConfigError, match=r"examples\.yaml: cannot be read: Permission denied"):
        DomainConfig.read(made)


def test_a_folder_of_domains_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(ConfigError) as caught:
        DomainRegistry.from_folders([tmp_path])
    assert str(caught.value) == f"{tmp_path}: the folder of domains cannot be read: Permission denied"
