from __future__ import annotations

import time

import pytest

from mdsa_local.knowledge.loaders.hyphens import Hyphens


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("the infor-\nmation about", "the information\nabout"),
        ("the infor-  \n  mation", "the information"),
        ("the infor\u2010\nmation.\n\nNew", "the information.\n\nNew"),
        # As the rest of the document has it.
        ("a CEN-\nTRE. The centre", "a CENTRE.\nThe centre"),
        ("a re-\nform. They re-form", "a re-form.\nThey re-form"),
        ("a step-by-\nstep guide. One step-by-step", "a step-by-step\nguide. One step-by-step"),
        ("a pool-\nside bar. The pool; the side", "a pool-side\nbar. The pool; the side"),
        ("a pool-\nside bar. The poolside", "a poolside\nbar. The poolside"),
        # Numbers, names, addresses, and what is known to keep its hyphen.
        ("a 12-\nmonth plan", "a 12-month\nplan"),
        ("Mrs Moser-\nHuber", "Mrs Moser-Huber"),
        ("see example.org/late-\nnews now", "see example.org/late-news\nnow"),
        ("a non-\nempty box", "a non-empty\nbox"),
        ("short-\nand long-term", "short-\nand long-term"),
        # No parted words.
        ("one -\ntwo", "one -\ntwo"),
        ("one-\n\ntwo", "one-\n\ntwo"),
        ("- one\n- two", "- one\n- two"),
    ],
)
def test_a_parted_word_is_put_together_as_the_document_writes_it(text: str, joined: str) -> None:
    hyphens = Hyphens()
    hyphens.learn(text)
    assert hyphens.joined(text) == joined


def test_it_takes_time_in_proportion() -> None:
    hyphens = Hyphens()
    began = time.process_time()
    for text in ("x" * 300_000, "a-" * 150_000, "a-\n" * 100_000, "a/" * 150_000 + "b-\nc"):
        hyphens.learn(text)
        hyphens.joined(text)
    assert time.process_time() - began < 20
