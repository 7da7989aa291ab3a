"""Puts what python-docx does not look into where it reads: tracked insertions, text boxes, notes; and takes out what is not to be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mdsa_local.knowledge.loaders.docx_styles import Styles
from mdsa_local.knowledge.loaders.scripts import lowered, raised

# What stands around text that is part of the document: tracked insertions, content controls, fields.
_AROUND = ("ins", "moveTo", "sdt", "sdtContent", "smartTag", "fldSimple", "customXml")
_ALTERNATIVES = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_NOTES = ("footnote", "endnote")
_SENTENCE_END = re.compile(r"[.!?]\s")


def settle(document: Any, styles: Styles) -> None:
    """Make the body of a document, and its notes, such that its text is what is to be read."""
    body = document.element.body
    _settle(body, styles)
    notes = {(kind, note.get(f"{styles.word}id")): note for kind, root in _roots(document) for note in _settled(root, styles, kind)}
    if notes:
        _tell(body, styles, notes)


def _settle(root: Any, styles: Styles) -> None:
    word = styles.word
    _unwrap(root, word)
    for run in list(root.iter(f"{word}r")):
        if styles.hides(run):
            run.getparent().remove(run)
    _open_boxes(root, word)
    _align(root, styles)


def _unwrap(root: Any, word: str) -> None:
    """Put what is inside of :data:`_AROUND` in its place; a table of contents and what a control shows as long as it is empty are left out."""
    for control in list(root.iter(f"{word}sdt")):
        about = control.find(f"{word}sdtPr")
        gallery = about.find(f".//{word}docPartGallery") if about is not None else None
        contents = gallery is not None and gallery.get(f"{word}val") == "Table of Contents"
        if contents or (about is not None and about.find(f"{word}showingPlcHdr") is not None):
            control.getparent().remove(control)
    for element in list(root.iter(*(f"{word}{name}" for name in _AROUND))):
        parent = element.getparent()
        at = parent.index(element)
        parent[at : at + 1] = list(element)


def _open_boxes(root: Any, word: str) -> None:
    """Put what is in a text box behind the paragraph that it is fixed to; Word stores it again for older programs."""
    for both in list(root.iter(f"{_ALTERNATIVES}AlternateContent")):
        if both.find(f"{_ALTERNATIVES}Choice//{word}txbxContent") is not None:
            for older in both.findall(f"{_ALTERNATIVES}Fallback"):
                both.remove(older)
    # The last first: so they stay in order, and those in another one come out of that before it is opened.
    for box in reversed(list(root.iter(f"{word}txbxContent"))):
        paragraph = next(box.iterancestors(f"{word}p"), None)
        gone = next(box.iterancestors(f"{word}del", f"{word}moveFrom"), None)
        if paragraph is not None and gone is None:
            for block in reversed(list(box)):
                paragraph.addnext(block)


def _align(root: Any, styles: Styles) -> None:
    """Write what is set above or below the line in characters of its own: behind a number it would be read as a part of it."""
    word = styles.word
    groups: list[tuple[str, list[Any]]] = []
    last = None
    for run in root.iter(f"{word}r"):
        alignment = styles.aligned(run)
        texts = run.findall(f"{word}t")
        if alignment and texts:
            if last is not None and run.getprevious() is last and groups[-1][0] == alignment:
                groups[-1][1].extend(texts)
            else:
                groups.append((alignment, texts))
        last = run if alignment and texts else None
    for alignment, (first, *others) in groups:
        text = "".join(each.text or "" for each in (first, *others))
        first.text = raised(text) if alignment == "superscript" else lowered(text)
        for other in others:
            other.text = ""


def _roots(document: Any) -> Iterator[tuple[str, Any]]:
    """The footnotes and the endnotes of a document, parsed."""
    from docx.oxml import parse_xml

    for relation in document.part.rels.values():
        kind = relation.reltype.rpartition("/")[2].removesuffix("s")
        if kind in _NOTES and not relation.is_external:
            try:
                yield kind, parse_xml(relation.target_part.blob)
            except SyntaxError:
                # Notes may be damaged where the text is not.
                continue


def _settled(root: Any, styles: Styles, kind: str) -> list[Any]:
    _settle(root, styles)
    return list(root.iter(f"{styles.word}{kind}"))


def _tell(body: Any, styles: Styles, notes: dict[tuple[str, str | None], Any]) -> None:
    """Write each note in brackets where it is referred to, one of several sentences at the end of the paragraph; that of a heading below it."""
    from docx.oxml import OxmlElement

    word = styles.word
    references: dict[Any, list[Any]] = {}
    for reference in body.iter(*(f"{word}{kind}Reference" for kind in _NOTES)):
        paragraph = next(reference.iterancestors(f"{word}p"), None)
        if paragraph is not None:
            references.setdefault(paragraph, []).append(reference)
    for paragraph, found in references.items():
        heading, later = styles.level(paragraph) is not None, []
        for reference in found:
            note = notes.get((reference.tag.removeprefix(word).removesuffix("Reference"), reference.get(f"{word}id")))
            said = "" if note is None else " ".join(" ".join(part.text for part in note.iter(f"{word}p")).split())
            if said and (heading or _SENTENCE_END.search(said)):
                later.append(said)
            elif said:
                text = OxmlElement("w:t")
                text.text = f" ({said.removesuffix('.')})" + _full_stop(paragraph, reference, word)
                reference.addprevious(text)
        for said in reversed(later) if heading else later:
            block, run, text = (OxmlElement(f"w:{name}") for name in ("p", "r", "t"))
            run.append(text)
            if heading:
                text.text = said
                block.append(run)
                paragraph.addnext(block)
            else:
                text.text = f" ({said})"
                paragraph.append(run)


def _full_stop(paragraph: Any, reference: Any, word: str) -> str:
    """Take the end of a sentence from before a note that is a part of it."""
    before = None
    for element in paragraph.iter(f"{word}t", reference.tag):
        if element is reference:
            break
        before = element if element.tag == f"{word}t" and element.text else before
    if before is None or before.text[-1] not in ".!?":
        return ""
    end: str = before.text[-1]
    before.text = before.text[:-1]
    return end
