"""Halves of characters in what servers send: JSON may write an emoji as two, and cut between them. UTF-8, and so everything behind, holds none."""

from __future__ import annotations

import re
from typing import Any

from mdsa_local.domains.config import HALF

FIRST_HALF = re.compile(r"[\ud800-\udbff]\Z")


def whole(text: str) -> str:
    """``text`` with halves that belong together joined, and U+FFFD in place of one on its own."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if HALF.search(text) else text


def mended(value: Any) -> Any:
    """What JSON holds, each text in it :func:`whole`."""
    if isinstance(value, dict):
        return {whole(key): mended(each) for key, each in value.items()}
    if isinstance(value, list):
        return [mended(each) for each in value]
    return whole(value) if isinstance(value, str) else value


class Halves:
    """Text that comes in pieces, each whole: a half at the end of one waits for the other."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """The text that is now certain."""
        text, self._held = self._held + piece, ""
        if FIRST_HALF.search(text):
            text, self._held = text[:-1], text[-1]
        return whole(text)

    def flush(self) -> str:
        """What was held back, once no more comes."""
        held, self._held = self._held, ""
        return whole(held)
