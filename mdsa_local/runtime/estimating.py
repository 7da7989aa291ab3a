"""How many tokens a prompt may have, for servers without a tokenizer to ask.

Weights for each kind of piece, so that the sum is hardly below what the tokenizers of Qwen 2 and 3.5, Llama 3, Phi 3 (Llama 2's), Gemma 4 and Command
R make of it: on prose, code, JSON, tables, numbers, dates, hashes, emoji and thirteen languages 6 % at most, by 20 on lists of chemical names.
Plain English comes out 5 to 13 % above them, Asian languages up to several times above a tokenizer that was made for them: a prompt that is taken for
longer than it is loses a passage, one that is taken for shorter is refused by the server, or cut.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from mdsa_local.runtime.backend import Message

# Chat markers and the role.
TOKENS_PER_MESSAGE = 8
PIECE = re.compile(
    r"""(?P<key>(?=[A-Za-z]{0,19}[0-9])[A-Za-z0-9]{20,})|(?P<word>[A-Z]?[a-z]+)|(?P<capitals>[A-Z]+)|(?P<digit>[0-9])|(?P<line>\n)
    |(?P<mark>([!-/:-@\[-`{-~])\7*)|(?P<blanks>[ \t]+)|(?P<latin>[\u00a0-\u024f\u1e00-\u1eff])|(?P<cyrillic>[\u0400-\u04ff])|(?P<two>[\u0000-\u07ff])
    |(?P<three>[\u0800-\uffff])|(?P<four>.)""",
    re.VERBOSE | re.DOTALL,
)
# Of characters by themselves. Most tokenizers write each digit as one token; emoji are told byte by byte; with a diacritic a word is rarely one.
EACH = {"digit": 1.0, "line": 1.0, "latin": 2.0, "cyrillic": 0.5, "two": 1.1, "three": 2.0, "four": 4.0}


def estimated_tokens(messages: Sequence[Message]) -> int:
    """An estimate that errs high; see :mod:`mdsa_local.runtime.estimating`."""
    return sum(TOKENS_PER_MESSAGE + text_tokens(message.content) for message in messages)


def text_tokens(text: str) -> int:
    """Tokens of a text, estimated high."""
    return math.ceil(sum(_weight(str(piece.lastgroup), len(piece[0]), text[piece.end() : piece.end() + 1]) for piece in PIECE.finditer(text)))


def _weight(kind: str, length: int, following: str) -> float:
    match kind:
        case "word":
            # The most common words are one token however long they are, rare ones three letters a token.
            return 1.05 + max(0, min(length, 10) - 5) * 0.08 + max(0, length - 10) * 0.4
        case "capitals":
            return max(1.0, length / 2)
        case "key":
            return length * 0.9
        case "mark":
            return 1.0 + (length - 1) / 8
        case "blanks":
            # One blank belongs to the word behind it.
            return 0.0 if length == 1 and following.isascii() and not following.isdigit() else 1.0 + (length - 1) / 8
        case _:
            return EACH[kind]
