"""A workshop of toy size: data sets of a few lines in the published form, four topics of templates, a recipe of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

RECIPE = {
    "name": "toy",
    "shape": {"vocabulary": 600, "width": 64, "layers": 2, "heads": 4, "inner": 96, "context": 512},
    "tokenizer": {"examples": 40, "share_of_texts": 0.001},
    "tokens": 24_000,
    "batch_tokens": 600,
    "rate": 2e-3,
    "warm_steps": 5,
    "stages": [
        {"step": "pretrain", "until": 0.1, "passages": 1, "sentences": 2, "tokens": 160, "echoes": 1.0, "counted": 0.4, "batch": 0.5},
        {"step": "pretrain", "until": 0.5, "passages": 1, "sentences": 3, "tokens": 400, "echoes": 0.1, "counted": 0.3},
        {"step": "ground", "until": 1.0, "passages": 2, "sentences": 3, "tokens": 500, "counted": 0.1, "extracts": 0.8},
    ],
}


def topic(thing: str, place: str) -> dict[str, object]:
    """A topic of four facts."""
    return {
        "title": [f"The {thing} of {{place}}", f"About the {thing}"],
        "slots": {"colour": ["amber", "teal", "violet"]},
        "facts": [
            {"asks": [f"what colour is the {thing}", f"which paint has the {thing}"], "says": [f"The {thing} is painted {{colour}}."]},
            {"asks": [f"how heavy is the {thing}"], "says": [f"The {thing} weighs {{count}} kilograms.", "Its weight is {count} kilograms."]},
            {"asks": [f"when was the {thing} built", f"age of the {thing}"], "says": [f"The {thing} was built in {{year}} in the {place}."]},
            {"asks": [f"how do I open the {thing}"], "steps": [f"Unlock the {thing}.", "Pull the lever.", "Wait {small} minutes."]},
        ],
    }


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of templates."""
    folder = tmp_path_factory.mktemp("templates")
    for name, things in {"one": ("lighthouse", "windmill"), "two": ("drawbridge", "greenhouse")}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump([topic(thing, f"{thing} yard") for thing in things]), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe as a file."""
    path = tmp_path_factory.mktemp("recipe") / "toy.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


def write_data(folder: Path) -> Path:
    """All data sets, each of a few lines."""
    names = ("coral", "basalt", "moss", "quartz", "heron", "barley", "copper", "willow")
    said = [
        f"The {name} grows slowly near the old harbour wall. A {name} is found at {at} metres. Nobody sells {name} on Sunday."
        for at, name in enumerate(names)
    ]
    files = {
        "clinc150/train_val.json": json.dumps(
            {part: [[f"tell me {name} now", f"ask_{name}"] for name in names] for part in ("train", "val", "oos_train", "oos_val")}
        ),
        "clinc150/domains.json": json.dumps({"stones": [f"ask_{name}" for name in names]}),
        "clinc150/wiki_sentences.txt": "\n".join(said),
        "banking77/train.csv": "text,category\n" + "\n".join(f'"where is my {name} card?\n\nplease",card_{name}' for name in names),
        "medquad/qa.jsonl": "\n".join(
            json.dumps({"focus": name, "question_type": "info", "question": f"What is ({name}) ?", "answer": text})
            for name, text in zip(names, said, strict=True)
        ),
        "sgd/dialogues.jsonl": "\n".join(
            json.dumps({"turns": [["user", f"book a {name} table", []], ["system", "for when?", []], ["user", f"a {name} taxi please", ["taxis"]]]})
            for name in names
        ),
    }
    for book in ("18f_handbook", "rust_book"):
        files[f"passages/{book}.jsonl"] = "\n".join(
            json.dumps({"title": book, "heading": name, "text": text}) for name, text in zip(names, said, strict=True)
        )
    files["documentation/sections.jsonl"] = "\n".join(
        json.dumps({"source": "manual", "title": "Garden manual", "heading": f"Care of {name}", "text": text})
        for name, text in zip(names, said, strict=True)
    )
    licence = "  1 This software and database is being provided to you, the LICENSEE\n"
    files["wordnet/data.noun"] = licence + "\n".join(
        f'{number:08d} 06 n 02 {name} 0 {name}_thing 0 001 @ 00000001 n 0000 | a thing of which little is known; "the {name}"  '
        for number, name in enumerate(names)
    )
    files |= {
        f"wordnet/data.{part}": f"{licence}00000001 00 a 02 many(p) 0 galore(ip) 1 000 | of {part}s there are many  "
        for part in ("verb", "adj", "adv")
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets; not to be changed by a test."""
    return write_data(tmp_path_factory.mktemp("data"))
