"""Data that is missing, broken, empty, not UTF-8 or enormous: one clear error, or bounded memory."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from mdsa_local.errors import ConfigError, InputError
from mdsa_local.training import sources
from mdsa_local.training.corpus import distillation_texts, encoder_texts
from mdsa_local.training.grounded import Prose, Templates
from tests.training.conftest import topic, write_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data sets that a test may spoil."""
    return write_data(tmp_path / "data")


def test_all_are_read(folder: Path) -> None:
    texts = distillation_texts(folder, scale=0.001)
    assert "where is my coral card?\n\nplease" in texts, "rows of several lines too"
    assert "tell me moss now" in texts
    assert len(Prose(folder).keys) == 8 + 16
    texts = encoder_texts(folder)
    assert len(texts) == len(set(texts))
    assert {"Care of moss", 'moss, moss thing: a thing of which little is known; "the moss"', "Nobody sells moss on Sunday."} <= set(texts)
    assert "many, galore: of adjs there are many" in texts


@pytest.mark.parametrize("name", sources.SOURCES)
def test_a_missing_set_says_whose_it_is_and_its_licence(folder: Path, name: str) -> None:
    source = sources.SOURCES[name]
    (folder / source.files[0]).unlink()
    with pytest.raises(InputError) as raised:
        encoder_texts(folder)
    assert source.title in str(raised.value)
    assert source.licence in str(raised.value)
    assert source.files[0] in str(raised.value)
    assert "docs/training.md" in raised.value.hint


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("medquad/qa.jsonl", b'{"focus": "a", "question": "b", "answer": "c"}\n{"focus": \n', "line 2: "),
        ("medquad/qa.jsonl", b'{"focus": "a", "question": "b"}\n', "line 1: missing key 'answer'"),
        ("medquad/qa.jsonl", b'{"focus": "a", "question": "b", "answer": 7}\n', "key 'answer': expected str, found int"),
        ("medquad/qa.jsonl", b'{"focus": "a", "question": "b", "answer": "\\ud800"}\n', "line 1: 'utf-8' codec"),
        ("medquad/qa.jsonl", b"[1]\n", "expected an object, found list"),
        ("medquad/qa.jsonl", b"", "empty"),
        ("medquad/qa.jsonl", b"\n\n  \n", "empty"),
        ("medquad/qa.jsonl", b'{"focus": "\xff"}\n', "line 1: not UTF-8"),
        ("medquad/qa.jsonl", b'{"focus": "' + b"a" * 1_100_000, "line 1: longer than"),
        ("medquad/qa.jsonl", b"[" * 100_000, "line 1: "),
        ("passages/rust_book.jsonl", b'{"title": "a", "text": "b"}\n', "missing key 'heading'"),
        ("sgd/dialogues.jsonl", b'{"turns": [7]}\n', "a turn is no list"),
        ("sgd/dialogues.jsonl", b'{"turns": "x"}\n', "expected list"),
        ("banking77/train.csv", b"a,b\n1,2\n", "no text or no category"),
        ("banking77/train.csv", b"text,category\n", "empty"),
        ("banking77/train.csv", b"text,category\n" + b"x" * 200_000 + b",y\n", "field larger"),
        ("banking77/train.csv", b"text,category\n\xff,y\n", "not UTF-8"),
        ("clinc150/train_val.json", b"{}", "train"),
        ("clinc150/train_val.json", b"[1, 2]", "not of the expected form"),
        ("clinc150/train_val.json", b'{"train": [["a"]]}', "not of the expected form"),
        ("clinc150/train_val.json", b'{"train": [["\\ud800", "b"]]}', "not of the expected form"),
        ("clinc150/train_val.json", b"{", "train_val.json"),
        ("clinc150/train_val.json", b"\xff", "not UTF-8"),
        ("clinc150/wiki_sentences.txt", b"fine\n\xff\n", "line 2: not UTF-8"),
        ("wordnet/data.noun", b"  1 licence\n00000001 03 n 01 entity 0 000 | \n", "line 2: no meaning"),
        ("wordnet/data.noun", b"entity: a thing\n", "line 1: no meaning"),
        ("wordnet/data.adj", b"00000001 00 a zz entity 0 000 | a thing\n", "line 1: no meaning"),
    ],
)
def test_spoilt_data_is_one_error_that_names_file_and_place(folder: Path, file: str, content: bytes, said: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(InputError) as raised:
        (encoder_texts if file.startswith("wordnet") else distillation_texts)(folder)
    assert str(folder / file) in str(raised.value)
    assert said in str(raised.value)
    assert raised.value.hint


def test_of_an_enormous_file_memory_holds_a_part_and_that_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row = json.dumps({"focus": "tin", "question": "What is tin ?", "answer": "Tin is soft and melts early in the fire."}) + "\n"
    (folder / "medquad/qa.jsonl").write_text(row * 20_000, encoding="utf-8")
    monkeypatch.setattr(sources, "MOST_BYTES", 100_000)
    with caplog.at_level(logging.WARNING):
        first, again = len(list(sources.medquad(folder))), len(list(sources.medquad(folder)))
    assert first == again, "always the same lines"
    assert 0.8 < first * len(row) / 100_000 < 1.2
    assert "5.0 % of its lines are read" in caplog.text
    (folder / "clinc150/train_val.json").write_text(" " * 100_001, encoding="utf-8")
    with pytest.raises(InputError, match="read whole"):
        sources.clinc(folder, "train")


def test_no_usable_sentence_is_an_error(folder: Path) -> None:
    for name, row in {
        "medquad/qa": {"focus": "a", "question": "b", "answer": "c"},
        "passages/rust_book": {"title": "a", "heading": "", "text": "b"},
    }.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (folder / "passages/18f_handbook.jsonl").write_text(json.dumps({"title": "a", "heading": "", "text": "b"}), encoding="utf-8")
    with pytest.raises(InputError, match="no sentence"):
        Prose(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not UTF-8 YAML"),
        ("a: 1", "expected a list"),
        ("- {title: [x], facts: []}", "topic 1"),
        (json.dumps([topic("oak", "yard"), {"facts": [{}] * 4}]), "topic 2"),
        (json.dumps([{**topic("oak", "yard"), "facts": [{"asks": ["what {nonsense} is it"], "says": ["it."]}] * 3}]), r"nothing fills \{nonsense\}"),
        (json.dumps([{**topic("oak", "yard"), "facts": [{"asks": [], "says": ["it."]}] * 3}]), "without questions"),
    ],
)
def test_wrong_templates_name_file_and_topic(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as raised:
        Templates(tmp_path)
    assert "mine.yaml" in str(raised.value)


def test_a_folder_without_templates(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no templates"):
        Templates(tmp_path)
