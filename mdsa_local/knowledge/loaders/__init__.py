"""Files into text: one module for each family of formats, one line in :data:`LOADERS` for each suffix.

A loader is a module with ``read(path) -> Iterator[Section]``; it raises :class:`UnreadableError` for a file that cannot be used. A family in
:data:`CONTAINED` is parsed in a process of its own, with limits on time and memory, because the format can be made to exhaust them.
Importing this package loads no parser.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

# Suffix to module in this package.
LOADERS = {
    ".md": "text", ".markdown": "text", ".txt": "text",
    ".html": "html", ".htm": "html", ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".csv": "rows", ".tsv": "rows",
    ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
# How the reason begins for a type that is none of these.
UNSUPPORTED = "not a supported type"
CONTAINED = {"html", "pdf", "docx", "json"}
# A line with its end, whatever that is.
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
# Families whose loader has come to take other text from the same file, or whose text is split otherwise; one more each time, that files read before
# are read again.
REVISIONS = {"html": 8, "pdf": 7, "docx": 8, "json": 6, "jsonl": 5, "text": 6, "rows": 6}
# Of texts the second revision read those with front matter otherwise, the third splits those with numbered steps so: the second of such. Looked for
# by its digit, which takes a ninth of the time of a look at each line. The fourth, those with headings told by what is below or around them, tables
# without outer bars, and lists directly below others. The fifth, tables with rows whose first cell is blank, and messages. The sixth, steps behind
# items without a number, and the other way about, lists below what denies and has no end, lines with a number that stand over others, and lines that
# stand over what comes behind a blank line.
FRONT, STEPS, FORMS, BLANKS, LISTS = 2, 3, 4, 5, 6
_SECOND_STEP = re.compile(rb"2[.)][ \t](?:(?<=[\r\n]...)|(?<=[\r\n] ...)|(?<=[\r\n]  ...)|(?<=[\r\n]   ...))", re.DOTALL)
_FORMS = re.compile(
    rb"[\r\n](?:(?:(?<=[^\r\n][\r\n])|(?<=[^\r\n]\r\n)) {0,3}(?:={3,}|-{3,})[ \t]*(?:[\r\n]|\Z)"
    rb"| {0,3}(?:\*\*|__)[^\r\n]+(?:\*\*|__):?[ \t]*[\r\n]| {0,3}:?-+:?[ \t]*\|[ \t:|-]+[\r\n]"
    rb"|(?:[-*+]|\d{1,9}[.)]) [^\r\n]+\r?[\r\n][^\s*+-][^\r\n]*:[ \t]*[\r\n]|#(?=[^\r\n]*\{[#.])[^\r\n]*\}[ \t]*[\r\n])"
)
_BLANKS = re.compile(
    rb"[\r\n](?:[ \t]*\|[ \t]*\||(?:from|von|de|subject|betreff|objet|asunto)[ \t]?:)|(?:wrote|schrieb|crit|escribi..?)[^\r\n:]{0,80}:\s{1,8}>",
    re.IGNORECASE,
)
_LISTS = re.compile(
    rb"(?:\A|[\r\n]) {0,3}(?:[-*+][ \t][^\r\n]*(?:[\r\n]+[ \t][^\r\n]*){0,9}[\r\n]+ {0,3}\d{1,9}[.)][ \t]"
    rb"|\d{1,9}[.)][ \t][^\r\n]*(?:[\r\n]+[ \t][^\r\n]*){0,9}[\r\n]+ {0,3}[-*+][ \t])"
    rb"|(?:n[o']t|\xe2\x80\x99t|no|never|cannot|none|nor|neither|nobody|nothing|without"
    rb"|except|exclu|exempt|avoid|unsupported|ineligible|prohibit|forbid|banned"
    rb"|disallowed)(?:[^\r\n]{0,300}[^\s.:!?*_])?[ \t]*[\r\n]+[ \t]{0,3}(?:[-*+]|\d{1,9}[.)])[ \t]"
    rb"|(?:\A|[\r\n])(?:\d{1,2}(?:(?:\.\d{1,2})+\.?|[.)])[ \t]|\xc2\xa7|(?:art(?:icle|ikel|\.)|section|clause|chapter)[ \t])"
    rb"[^\r\n]{0,80}[^\s.:;,!?|](?:\r?\n|\r)[^\s\d*+#|>=-]",
    re.IGNORECASE,
)
# Such a line ends with "?" or ":", the wide ones too, or with what ends emphasis.
_OVER = re.compile(rb"(?:[?:*_]|\xef\xbc[\x9a\x9f])[ \t]*(?:\r\n|\r(?!\n)|\n)[ \t]*[\r\n]|\?[*_]*[ \t]*\r?[\r\n](?:[-*+]|\d{1,9}[.)]) ")
# The newest first.
_BY_FORM = ((LISTS, _LISTS), (LISTS, _OVER), (BLANKS, _BLANKS), (FORMS, _FORMS), (STEPS, _SECOND_STEP))
_BLOCK_BYTES, _OVERLAP_BYTES = 1 << 20, 1 << 10
# Family to the module it needs, and the extra that brings it.
NEEDS = {"pdf": ("pypdf", "docs"), "docx": ("docx", "docs")}


@dataclass(frozen=True, slots=True)
class Section:
    """Text that belongs together. ``title`` is its path of headings, empty for the name of the file; ``markdown`` whether the text has
    headings and tables of its own; ``continues`` whether it goes on where the section before ended. A first section with ``about``, what the document
    says of itself, is no text to be found, and has the document's title. ``remark`` is what of the file could not be used.
    ``rows`` are the numbers of the rows of a table of which the text has one a paragraph, each a line: a passage is named after its own."""

    text: str
    title: str = ""
    markdown: bool = False
    continues: bool = False
    about: dict[str, Any] | None = None
    remark: str = ""
    rows: tuple[int, ...] = ()


class UnreadableError(ValueError):
    """The file cannot be used; the message says why."""


class Loader(Protocol):
    """What a module of this package offers."""

    def read(self, path: Path) -> Iterator[Section]:
        """The sections of the file, in order. Raises :class:`UnreadableError` and OSError."""


def family(path: Path) -> str:
    """The module that reads ``path``. Raises :class:`UnreadableError` for an unknown type and for one whose parser is not installed."""
    suffix = path.suffix.lower()
    if suffix not in LOADERS:
        raise UnreadableError(f"{UNSUPPORTED}: {suffix or path.name} (supported: {', '.join(LOADERS)})")
    name = LOADERS[suffix]
    module, extra = NEEDS.get(name, ("", ""))
    if module and find_spec(module) is None:
        raise UnreadableError(f'{suffix} files need the package {module}, which is not installed: pip install "mdsa-local[{extra}]"')
    return name


def fingerprint(path: Path) -> str:
    """The sha256 of a file's content, with ``-`` and a number behind it where the file is read otherwise than by the first loader of its family.
    Raises :class:`UnreadableError` and OSError."""
    name = family(path)
    revision = REVISIONS.get(name, 1)
    with path.open("rb") as content:
        if name != "text":
            digest = hashlib.file_digest(content, "sha256")
        else:
            digest, before, form = hashlib.sha256(), b"", 1
            while block := content.read(_BLOCK_BYTES):
                if not before and block.removeprefix(b"\xef\xbb\xbf").startswith(b"---"):
                    form = FRONT
                digest.update(block)
                text = before + block
                form = next((newer for newer, pattern in _BY_FORM if newer > form and pattern.search(text)), form)
                before = text[-_OVERLAP_BYTES:]
            revision = min(revision, form)
        return digest.hexdigest() + (f"-{revision}" if revision > 1 else "")


# What programs write for a title where nobody gave one, and names of files.
_NO_TITLE = re.compile(
    r"microsoft \w+ - .*|(untitled|unbenannt|ohne titel|sans titre|sin título).*|(new |word |html |microsoft word |web )*document\d*|"
    r"(power ?point |microsoft power ?point )*presentation\d*|title|titel|index|home|slide \d+|"
    r".*\.(docx?|odt|rtf|tex|dvi|pdf|ps|indd|qxd|xlsx?|pptx?|html?|md|txt)",
    re.IGNORECASE,
)
MOST_TITLE_CHARS = 200


def titled(name: object, stem: str) -> str:
    """The document's title, which it gives itself; the name of its file without ending where that is none, or a program's own."""
    line = " ".join(name.encode(errors="replace").decode().split()) if isinstance(name, str) else ""
    return line if line and len(line) <= MOST_TITLE_CHARS and not _NO_TITLE.fullmatch(line) else stem


def loader(name: str) -> Loader:
    """The module of a family."""
    return cast(Loader, import_module(f"{__name__}.{name}"))


def named(columns: Sequence[str], cells: Sequence[str]) -> str:
    """A row of a table as ``column: value; column: value``, so that it says by itself what its numbers are; empty cells are left out."""
    told = [(columns[i] if i < len(columns) else f"column {i + 1}", " ".join(cell.split())) for i, cell in enumerate(cells)]
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in told if cell)


def headed(stem: str, path: dict[int, str]) -> str:
    """The title of a section below the headings ``{level: name}``."""
    return " > ".join(path[level] for level in sorted(path)) or stem


def below(path: dict[int, str], level: int, name: str) -> dict[int, str]:
    """The headings in force after a heading: those of lower level above it, and itself."""
    return {depth: above for depth, above in path.items() if depth < level} | ({level: name} if name else {})
