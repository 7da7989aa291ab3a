"""The short way to a question's token ids gives what the tokenizer gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from mdsa_local.routing.wordpieces import MOST_CHARACTERS, WordPieces

SHIPPED = Tokenizer.from_file(str(Path(__file__).parents[2] / "models/tinybert/tokenizer.json"))
SHIPPED.no_truncation()
SHIPPED.no_padding()
PIECES = WordPieces(SHIPPED)
ASCII = st.text(st.characters(max_codepoint=127))
WORDS = st.lists(
    st.sampled_from(["Card", "reimbursemnt", "[SEP]", "[", "sep", "##s", "isn't", "$5.20", "_", "\t", "\x00", "a" * 101, "é", "北京", "👍", "ß", "İ"])
)


@given(ASCII | st.text() | WORDS.map(" ".join) | WORDS.map("".join))
def test_ids_are_those_of_the_tokenizer(text: str) -> None:
    assert PIECES.ids(text) == SHIPPED.encode(text).ids


@pytest.mark.parametrize(
    "text", ["", " ", "[SEP]", "[sep]", "x" * 101, "x " * MOST_CHARACTERS, "tab\there", "né", "don't-do_this@home.now #1", "~`^|<=>+$"]
)
def test_ids_of_what_is_at_the_edge(text: str) -> None:
    assert PIECES.ids(text) == SHIPPED.encode(text).ids


def made(**changed: Any) -> Any:
    """A tokenizer of a few words, as BERT's but for what is ``changed``."""
    vocabulary = {word: at for at, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "a", "card", "Card", "##s", "longer", "'", "foo"])}
    tokenizer = Tokenizer(changed.get("model") or models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=5))
    tokenizer.normalizer = changed.get("normalizer", normalizers.BertNormalizer())
    tokenizer.pre_tokenizer = changed.get("pre_tokenizer", pre_tokenizers.BertPreTokenizer())
    tokenizer.post_processor = changed.get("processor", processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)))
    return tokenizer


def with_own_token() -> Any:
    tokenizer = made()
    tokenizer.add_special_tokens([AddedToken("foo")])
    return tokenizer


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (made, True),
        (lambda: made(normalizer=normalizers.BertNormalizer(lowercase=False)), True),
        (lambda: made(processor=None), True),
        (lambda: made(normalizer=None), False),
        (lambda: made(normalizer=normalizers.Lowercase()), False),
        (lambda: made(pre_tokenizer=pre_tokenizers.WhitespaceSplit()), False),
        (lambda: made(model=models.BPE({"a": 0, "c": 1}, [])), False),
        (with_own_token, False),
    ],
    ids=["as BERT's", "cased", "no marks", "no normalizer", "another", "blanks only", "no WordPiece", "a token of its own"],
)
def test_other_tokenizers(make: Callable[[], Any], plain: bool) -> None:
    tokenizer = make()
    pieces = WordPieces(tokenizer)
    assert pieces._plain is plain
    for text in ("Cards, a card", "longer cards", "foo card's foo", "", "Card card CARD", "a'a"):
        assert pieces.ids(text) == tokenizer.encode(text).ids


def test_many_threads_share_one() -> None:
    texts = [f"how much is card number {at} of user{at * 7}?" for at in range(300)]
    expected, found = [SHIPPED.encode(text).ids for text in texts], dict[int, list[list[int]]]()
    pieces = WordPieces(SHIPPED)
    threads = [threading.Thread(target=lambda at=at: found.update({at: [pieces.ids(text) for text in texts]})) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ids == expected for ids in found.values()) and len(found) == 8
