"""Raised and lowered text as characters of its own: glued to a number as it is, it would make another number."""

from __future__ import annotations

import re

_SIGNS = "0123456789+-−=()"
# Of letters those that stand for numbers; the others are kept for words and ordinals ("1st", "2e", "Vmax"), which are looked for as such.
_RAISED = str.maketrans(f"{_SIGNS}ijknxy", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁱʲᵏⁿˣʸ")
_LOWERED = str.maketrans(f"{_SIGNS}ijknx", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ᵢⱼₖₙₓ")
_LETTERS = re.compile(r"[^\W\d_]")
_DASH = re.compile(r"^[–‒](?=\d)")


def raised(text: str) -> str:
    """What stands for ``text`` set above the line, behind what it is glued to: ``²``, ``⁻³``, ``¹,²``, ``st``, ``^(2a)``."""
    return _written(text, _RAISED, "^")


def lowered(text: str) -> str:
    """What stands for ``text`` set below the line, behind what it is glued to: ``₂``, ``₍₁₎``, ``max``, ``_(2a)``."""
    return _written(text, _LOWERED, "_")


def _written(text: str, forms: dict[int, int], mark: str) -> str:
    inner = text.strip()
    if not inner:
        return text
    letters = _LETTERS.findall(inner)
    if len(letters) < 2 and all(ord(letter) in forms for letter in letters):
        written = _DASH.sub("-", inner).translate(forms)
    elif not any(char.isdecimal() for char in inner):
        # An ordinal, a trade mark, a word.
        written = inner
    elif any(char.isspace() for char in inner):
        written = f" {inner}"
    else:
        written = f"{mark}({inner})"
    start = len(text) - len(text.lstrip())
    return text[:start] + written + text[start + len(inner) :]
