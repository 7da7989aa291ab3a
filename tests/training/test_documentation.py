"""Documentation as text: sections with their headings, without navigation, tables, listings and other languages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mdsa_local.training import documentation

HTML = """<html><head><title>Garden manual</title><style>p {color: red}</style></head><body><nav><p>Home of all the pages of the manual</p></nav>
<h1>Watering</h1><p>Water the roses in the morning, for the sun of noon burns what is wet.</p>
<pre>water --roses --of-the-garden --with-the-can</pre>
<ul><li>Use a can with a fine rose.</li><li><p>Leave the can in the sun, with the lid off, for an hour.</p></li></ul>
<h2>Short</h2><p>Too short to keep.</p><table><tr><td><p>cells of the table are left out of it</p></td></tr></table></body></html>"""
MALLARD = """<page xmlns="http://projectmallard.org/1.0/">
<info><desc>What the reader is not told of</desc></info><title>Print a letter</title>
<p>Open the letter and choose <gui>Print</gui> from the menu of the window.</p>
<section><title>If nothing comes out</title><p>Look whether the printer has paper, and whether the cable of the printer is still in the wall.</p>
<p>Then switch the printer off and on, and wait for the light to turn green.</p></section></page>"""
ITALIAN = (
    "<html><body><h1>Stampa</h1><p>"
    + "Aprite la lettera e scegliete la voce di stampa dal menu della finestra che si trova in alto a destra. " * 2
    + "</p></body></html>"
)


def test_sections_of_html_and_mallard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {
        "a/garden.html": HTML,
        "b/print.page": MALLARD,
        "b/copy.page": MALLARD,
        "b/it.html": ITALIAN,
        "b/broken.html": "<",
        "b/empty.page": "",
        "b/note.txt": HTML,
    }
    for name, text in pages.items():
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["documentation", "--from", str(tmp_path / "docs"), "--data", str(tmp_path)])
    documentation.main()
    found = [json.loads(line) for line in (tmp_path / "documentation/sections.jsonl").read_text().splitlines()]
    assert found == [
        {
            "source": "a",
            "title": "Garden manual",
            "heading": "Watering",
            "text": "Water the roses in the morning, for the sun of noon burns what is wet.\nUse a can with a fine rose.\n"
            "Leave the can in the sun, with the lid off, for an hour.",
        },
        {
            "source": "b",
            "title": "Print a letter",
            "heading": "If nothing comes out",
            "text": "Look whether the printer has paper, and whether the cable of the printer is still in the wall.\n"
            "Then switch the printer off and on, and wait for the light to turn green.",
        },
    ]


def test_documents_nested_deeper_than_python_goes(tmp_path: Path) -> None:
    path = tmp_path / "deep.html"
    path.write_text("<div>" * 5000 + "<p>" + "the end of the line " * 10 + "</p>", encoding="utf-8")
    assert len(list(documentation.sections(path, "deep"))) <= 1
