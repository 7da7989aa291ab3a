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


def decoded(data: bytes, name: str = "") -> str:
    """The bytes as text, in the encoding ``name`` if there is one. Raises :class:`UnreadableError`."""
    name = name or encoding([data])
    try:
        return data.decode(name)
    except LookupError:
        raise UnreadableError(f"declares the unknown encoding {name!r}") from None
    except UnicodeDecodeError as error:
        raise UnreadableError(f"not {name} text: {error.reason} at byte {error.start}") from None
