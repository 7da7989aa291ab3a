"""Sections of text out of a folder of documentation (HTML, Mallard, DocBook): what the encoder and the written questions are made from.

Debian's documentation packages, unpacked below one folder, were used for the shipped models: :data:`PACKAGES`. Any folder will do.

    python -m mdsa_local.training.documentation --from DIR --data DIR

writes ``documentation/sections.jsonl`` below ``--data``: lines ``{"source", "title", "heading", "text"}``, a paragraph a line of ``text``. The source
is the name of the folder next below ``--from``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from lxml import etree, html

PACKAGES = (
    "apache2-doc bash-doc debian-faq debian-handbook debian-policy debian-reference-en developers-reference evolution-common exim4-doc-html "
    "fp-docs-3.2.2 git-doc gnome-user-docs gnucash-docs gnumed-doc gnumeric-doc homebank-data hplip-doc installation-guide-amd64 kmail "
    "kmymoney-common libreoffice-help-en-us lyx-common maint-guide octave-doc postgresql-doc-15 python3.11-doc skrooge-common sqlite3-doc zim"
).split()
XML = (".page", ".docbook", ".xml")
HEADINGS = {"h1", "h2", "h3", "h4", "h5"}
BLOCKS = {"p", "li", "dd"}
XML_HEADINGS, XML_BLOCKS = {"title"}, {"p", "para", "simpara"}
NESTED = {"ul", "ol", "pre", "table"}
SKIPPED = {"nav", "script", "style", "footer", "header", "table", "pre", "programlisting", "screen", "head", "info", "credit"}
LARGEST_BYTES = 3_000_000
LEAST_WORDS, LONGEST_PARAGRAPH, LONGEST_HEADING = 25, 2000, 90
# English is told by its commonest words: other languages lie beside it in the same packages.
COMMONEST = frozenset("the of to and for with".split())
LEAST_COMMON = 0.08


def sections(path: Path, source: str) -> Iterator[dict[str, str]]:
    """The sections of one file: paragraphs between headings, without tables and listings."""
    raw, is_xml = path.read_bytes(), path.suffix in XML
    try:
        if is_xml:
            root = etree.fromstring(raw, etree.XMLParser(recover=True, resolve_entities=False, no_network=True))
        else:
            root = html.fromstring(raw if raw.startswith(b"<?xml") else raw.decode("utf-8", "replace").encode())
    except (etree.LxmlError, ValueError):
        return
    if root is None:
        return
    headings, blocks = (XML_HEADINGS, XML_BLOCKS) if is_xml else (HEADINGS, BLOCKS)
    title = next((_text(element) for element in root.iter("title")), "")
    heading, paragraphs = "", list[str]()

    def section() -> dict[str, str] | None:
        text = "\n".join(paragraphs)
        paragraphs.clear()
        return {"source": source, "title": title, "heading": heading, "text": text} if len(text.split()) >= LEAST_WORDS else None

    # By hand: documents nest deeper than Python does.
    waiting = [root]
    while waiting:
        element = waiting.pop()
        name = _name(element)
        if not name or name in SKIPPED:
            continue
        if name in headings:
            if found := section():
                yield found
            heading = _text(element)[:LONGEST_HEADING]
            title = title or heading
        elif name in blocks and not any(_name(inner) in blocks | NESTED for inner in element.iter() if inner is not element):
            said = _text(element)
            if len(said) < LONGEST_PARAGRAPH and len(said.split()) >= 4:
                paragraphs.append(said)
        else:
            waiting.extend(reversed(element))
    if found := section():
        yield found


def read(folder: Path) -> Iterator[dict[str, str]]:
    """The sections of every English file below ``folder``, no text twice."""
    seen: set[bytes] = set()
    for path in sorted(folder.rglob("*")):
        where = path.relative_to(folder).parts
        if path.suffix not in (".html", *XML) or not path.is_file() or path.is_symlink() or path.stat().st_size > LARGEST_BYTES:
            continue
        for section in sections(path, where[0]):
            digest = hashlib.sha256(section["text"].encode()).digest()
            words = section["text"].lower().split()
            if digest not in seen and sum(word in COMMONEST for word in words) >= LEAST_COMMON * len(words):
                seen.add(digest)
                yield section


def _name(element: object) -> str:
    tag = getattr(element, "tag", None)
    return tag.rsplit("}", 1)[-1].rsplit(":", 1)[-1].lower() if isinstance(tag, str) else ""


def _text(element: etree._Element) -> str:
    return re.sub(r"\s+", " ", "".join(element.itertext()).replace("\u00ad", "").replace("¶", "")).strip()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, required=True, help="folder of unpacked documentation packages")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    out = args.data / "documentation" / "sections.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for number, section in enumerate(read(args.folder), 1):
            file.write(json.dumps(section) + "\n")
            if number % 1000 == 0:
                print(f"{number} sections", flush=True)


if __name__ == "__main__":
    from mdsa_local.cli.output import ended

    ended(main)
