"""Formulas of a page (MathML) on one line: the numbers in them, glued together, would make others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from mdsa_local.knowledge.loaders.scripts import lowered, raised

# Signs with a blank before and behind them, but where nothing is before them.
_SPACED = set("=≠≈≡<>≤≥→⇒∈+-−±∓×·⋅÷")
_OPENING = ("(", "[", "{", ",", "|")
# Signs for applying, multiplying and adding, which are not shown.
_UNSHOWN = str.maketrans("", "", "\u2061\u2062\u2063\u2064")
_WHOLE = re.compile(r"[^\s+\-−±∓×·⋅÷*/=<>√]*|\([^()]*\)")
_TEXT = {"mtext", "ms"}
_Script = tuple[str, Callable[[str], str]]
# What of an element is set above or below its first part.
_ABOVE, _BELOW, _OVER, _UNDER = ("^", raised), ("_", lowered), ("^", str), ("_", str)
_SCRIPTS: dict[str, tuple[_Script, ...]] = {
    "msup": (_ABOVE,), "msub": (_BELOW,), "msubsup": (_BELOW, _ABOVE), "mover": (_OVER,), "munder": (_UNDER,), "munderover": (_UNDER, _OVER),
}  # fmt: skip
_LEFT_OUT = {"annotation", "annotation-xml", "mphantom"}


class Formula:
    """Takes the tags and the text of a formula, and writes it: ``1 1/2``, ``10⁶``, ``x^(a + b)``, ``√(x - 1)``."""

    def __init__(self) -> None:
        # What is open, innermost last, with what is in it so far.
        self._open: list[tuple[str, list[str]]] = [("math", [])]
        self._count: Counter[str] = Counter()

    def begin(self, tag: str) -> None:
        """An element begins."""
        self._open.append((tag, []))
        self._count[tag] += 1

    def end(self, tag: str) -> None:
        """An element ends, and what is open in it."""
        ended = "" if self._count[tag] else tag
        while ended != tag:
            ended, parts = self._open.pop()
            self._count[ended] -= 1
            self._open[-1][1].append(_written(ended, parts))

    def take(self, text: str) -> None:
        """Text in the element that began last."""
        tag, parts = self._open[-1]
        text = text.translate(_UNSHOWN) if tag in _TEXT else text.translate(_UNSHOWN).strip()
        if text:
            parts.append(text)

    def written(self) -> str:
        """The formula as far as it was taken."""
        while len(self._open) > 1:
            self.end(self._open[-1][0])
        return " ".join(_row(self._open[0][1]).split())


def _written(tag: str, parts: Sequence[str]) -> str:
    """An element of the parts that are in it."""
    scripts = _SCRIPTS.get(tag, ())
    if tag in _LEFT_OUT:
        return ""
    if tag == "mspace":
        return " "
    if scripts and len(parts) == len(scripts) + 1:
        return _whole(parts[0]) + "".join(_script(part, *script) for part, script in zip(parts[1:], scripts, strict=True))
    if tag == "mfrac" and len(parts) == 2:
        return f"{_whole(parts[0])}/{_whole(parts[1])}"
    if tag == "mroot" and len(parts) == 2:
        return f"{_script(parts[1], '^', raised)}√{_whole(parts[0])}"
    if tag == "msqrt":
        return f"√{_whole(_row(parts))}"
    if tag == "mfenced":
        return f"({', '.join(parts)})"
    return (", " if tag == "mtr" else "; ").join(parts) if tag in ("mtr", "mtable") else _row(parts)


def _whole(text: str) -> str:
    """What stands beside a sign, in brackets where it has signs itself."""
    return text if _WHOLE.fullmatch(text) else f"({text})"


def _script(text: str, mark: str, write: Callable[[str], str]) -> str:
    """What is set above or below the line; behind a mark where nothing would tell it from what is on the line."""
    text = " ".join(text.split()).replace("∘", "°")
    written = text if " " in text else write(text)
    if written != text or not any(map(str.isalnum, text)):
        return written
    return f"{mark}{text}" if len(text) == 1 else f"{mark}({text})"


def _row(parts: Sequence[str]) -> str:
    """Parts one behind the other. Those of letters and digits are parted by blanks, but for letters that stand alone."""
    text = last = ""
    for part in filter(None, parts):
        if part in _SPACED and last and last not in _SPACED and not last.endswith(_OPENING):
            text += f" {part} "
        else:
            glued = len(last) == 1 and last.isalpha() and part[0].isalpha() and not part[1:2].isalpha()
            parted = not glued and last and all(char.isalpha() or char.isdecimal() for char in (last[-1], part[0]))
            text += f" {part}" if parted else part
        last = part
    return text
