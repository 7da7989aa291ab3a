"""How text is encoded: as its byte order mark says, else in UTF-8, else, where that can be, in Windows-1252."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from itertools import chain

from mdsa_local.knowledge.loaders import UnreadableError

# A mark of UTF-32 begins as one of UTF-16 does. That of UTF-8 stays in the text, where offsets are those of the file.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8",
}
WINDOWS = "windows-1252"
BINARY = "is binary, not text: it holds NUL bytes, as only text in UTF-16 or UTF-32 with a byte order mark may"
# The encodings that browsers know, as Python calls them, and which of them they read for another, or for a label that Python does not know.
OF_WEB = {
    "utf-8", "cp866", "koi8-r", "koi8-u", "mac-roman", "gb18030", "big5hkscs", "euc_jp", "iso2022_jp", "cp932", "cp949", "cp874",
    *(f"cp{number}" for number in range(1250, 1259)), *(f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
}  # fmt: skip
READ_AS = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874", "gb2312": "gb18030",
    "gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932", "euc_kr": "cp949", "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8",
    "utf-8-sig": "utf-8", "x-sjis": "cp932", "windows-31j": "cp932", "x-gbk": "gb18030", "windows-874": "cp874", "windows-949": "cp949",
    "x-cp1250": "cp1250", "x-cp1251": "cp1251", "x-cp1252": "cp1252", "iso-8859-8-i": "iso8859-8", "unicode-1-1-utf-8": "utf-8",
}  # fmt: skip
# Control characters, and what Windows-1252 has no character for.
_NO_WINDOWS = re.compile(rb"[\x01-\x08\x0b\x0e-\x1f\x7f\x81\x8d\x8f\x90\x9d]")
_NO_UTF8 = re.compile("[\udc80-\udcff]")


def marked(data: bytes) -> str:
    """The encoding that a byte order mark names, empty without one."""
    return next((name for mark, name in MARKS.items() if data.startswith(mark)), "")


def encoding(pieces: Iterable[bytes]) -> str:
    """The encoding of a text in pieces, of which the first has the mark. Raises :class:`UnreadableError` for what is no text.

    Without a mark it is Windows-1252 only where fewer characters are whole in UTF-8 than bytes are not: a fault in a text in UTF-8 must not turn all
    of its accents into other letters.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    whole = faulty = at = 0
    fault = control = ""
    for piece in chain(pieces, [b""]):
        if not at and (name := marked(piece)) and name != "utf-8":
            return name
        if b"\0" in piece:
            raise UnreadableError(BINARY)
        begins = at - len(decoder.getstate()[0])
        text = decoder.decode(piece, final=not piece)
        if not text.isascii():
            found = _NO_UTF8.findall(text)
            faulty += len(found)
            whole += len(text) - len(text.encode("ascii", "ignore")) - len(found)
            if found and not fault:
                fault = f"not UTF-8 text: byte {begins + len(text[: text.index(found[0])].encode())} begins no character"
        if not control and (odd := _NO_WINDOWS.search(piece)):
            control = f"; nor Windows-1252, where byte {at + odd.start()}, {odd[0][0]:#04x}, is none"
        at += len(piece)
    if not faulty:
        return "utf-8"
    if control or whole >= faulty:
        raise UnreadableError(fault + control)
    return WINDOWS


def of_web(label: str) -> str:
    """The encoding in which browsers read a page without a byte order mark that declares ``label``: what it declares in letters of one byte is none
    of two. Raises :class:`UnreadableError` for one that they do not know."""
    try:
        name = codecs.lookup(label).name
    except LookupError:
        name = label.lower()
    name = READ_AS.get(name, name)
    if name not in OF_WEB:
        raise UnreadableError(f"declares the unknown encoding {label!r}")
    return name


def decoded(data: bytes, name: str = "") -> str:
    """The bytes as text, in the encoding ``name`` if there is one. Raises :class:`UnreadableError`."""
    name = name or encoding([data])
    try:
        return data.decode(name)
    except LookupError:
        raise UnreadableError(f"declares the unknown encoding {name!r}") from None
    except UnicodeDecodeError as error:
        raise UnreadableError(f"not {name} text: {error.reason} at byte {error.start}") from None
