from __future__ import annotations

import pytest

from mdsa_local.routing.encoder import Encoder
from mdsa_local.types import Passage
from mdsa_local.validation import citations, grounding


def passage(text: str) -> Passage:
    return Passage("p#0", "p.md", "finance", "Cards", text, 0, len(text), 0.5)


PASSAGES = (
    passage("The fee is $5. It takes 4 days. The fee is paid at once."),
    passage("1. Open the app.\n2. Tap Cards.\n3. Choose Freeze.\n\nRun this:\n```sh\nmdsa ask\nmdsa route x[1]\n```"),
    passage("The limit is $400 a day. The fee is paid at once."),
)
RIGHT = [
    "The fee is $5. [1]",
    "The fee is $5 [1].",
    "**The fee is $5.**  [1]",
    "The fee [1] is $5.",
    "The fee is $5. It takes 4 days. [1]",
    "The fee is $5 [1]. The limit is $400 a day [3].",
    "The fee is $5. The limit is $400 a day. [1, 3]",
    "The fee is $5. The limit is $400 a day. [1][3]",
    "The fee is paid at once. [1][3]",
    "The fee is paid at once. [3]",
    "1. Open the app.\n2. Tap Cards.\n3. Choose Freeze. [2]",
    "1. Open the app. [2]\n2. Tap Cards.\n3. Choose Freeze.",
    "1. Open the app. [2]\n\n2. Tap Cards. [2]\n",
    "Run this: [2]\n```sh\nmdsa ask\nmdsa route x[1]\n```\n[2]",
]


def mended(encoder: Encoder, answer: str) -> str:
    answer = answer.strip()
    return citations.set_right(answer, grounding.check(answer, PASSAGES, encoder.encode))


@pytest.mark.parametrize("answer", RIGHT)
def test_right_citations_leave_the_answer_as_it_is(encoder: Encoder, answer: str) -> None:
    assert mended(encoder, answer) == answer.strip()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The fee is $5.", "The fee is $5. [1]"),
        ("The fee is $5", "The fee is $5 [1]"),
        ("The fee is $5. It takes 4 days. The limit is $400 a day.", "The fee is $5. It takes 4 days. [1] The limit is $400 a day. [3]"),
        ("The fee is $5 [3].", "The fee is $5 [1]."),
        ("The fee is $5. [9]", "The fee is $5. [1]"),
        ("The fee is $5. [1, 2]", "The fee is $5. [1]"),
        ("The fee is $5. [1][2]", "The fee is $5. [1]"),
        ("The fee is $5. The limit is $400 a day. [3]", "The fee is $5. [1] The limit is $400 a day. [3]"),
        ("[1] The fee is $5. [3] The limit is $400 a day.", "The fee is $5. [1] The limit is $400 a day. [3]"),
        ("[1] The fee is $5.\n[3] The limit is $400 a day.", "The fee is $5. [1]\nThe limit is $400 a day. [3]"),
        ("The fee is $5. [1]\nIt takes 4 days.", "The fee is $5. [1]\nIt takes 4 days. [1]"),
        ("1. Open the app.\n2. Tap Cards.\n\n3. Choose Freeze.", "1. Open the app.\n2. Tap Cards.\n\n3. Choose Freeze. [2]"),
        ("```sh\nmdsa ask\nmdsa route x[1]\n```", "```sh\nmdsa ask\nmdsa route x[1]\n```\n[2]"),
        ("```sh\nmdsa ask\nmdsa route x[1]", "```sh\nmdsa ask\nmdsa route x[1]\n```\n[2]"),
        ("Run this:\n~~~\nmdsa ask", "Run this:\n~~~\nmdsa ask\n~~~\n[2]"),
    ],
)
def test_only_the_marks_are_set_right(encoder: Encoder, answer: str, expected: str) -> None:
    assert mended(encoder, answer) == expected
    assert mended(encoder, expected) == expected


def test_marks_are_found_and_code_and_links_have_none() -> None:
    found = citations.marks("A [1] b[2, 3]. `x[4]` [5](http://x) [one] [6;7]")
    assert [mark.numbers for mark in found] == [(1,), (2, 3), (6, 7)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("The `force' option removes files. [1] The `verbose' option explains. [2]", [1, 2]),
        ("The `force' option removes files [1], the `verbose' option explains [2].", [1, 2]),
        ("Press the ` key. [1] The ` key is left. [2]", [1, 2]),
        ("Use `a[1]`, `don't[2]` and `x = f('a')[3]`. [4]", [4]),
    ],
)
def test_a_backtick_by_itself_hides_no_mark(text: str, numbers: list[int]) -> None:
    assert [number for mark in citations.marks(text) for number in mark.numbers] == numbers


CODE = (
    passage(
        "Set it up:\n```\nports = config[2]\nhosts: [80, 81]\n- grid.rows[0][1]\necho `date` > log[3]\nSee the manual [1].\n```\nUse `args[1]` first."
    ),
    passage("The fee is $5."),
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("ports = config[2] [1]", "`ports = config[2]` [1]"),
        ("ports = config[2]", "`ports = config[2]` [1]"),
        ("`ports = config[2]` [1]", "`ports = config[2]` [1]"),
        ("The ports are config[2]. [1] The fee is $5. [2]", "The ports are `config[2]`. [1] The fee is $5. [2]"),
        ("hosts: [80, 81] [1]\n- grid.rows[0][1] [1]", "`hosts: [80, 81]` [1]\n- `grid.rows[0][1]` [1]"),
        ("Use args[1] first. [1]", "Use `args[1]` first. [1]"),
        ("The fee is $5 [2].", "The fee is $5 [2]."),
        ("See the manual [1].", "See the manual [1]."),
        ("```\nports = config[2]\n```\n[1]", "```\nports = config[2]\n```\n[1]"),
    ],
)
def test_an_index_in_quoted_code_is_no_mark(encoder: Encoder, answer: str, expected: str) -> None:
    marked = citations.in_code(answer, [passage.text for passage in CODE])
    assert citations.set_right(marked, grounding.check(marked, CODE, encoder.encode)) == expected


def test_a_line_of_code_is_quoted_as_code() -> None:
    assert citations.as_code("ports = config[2]") == "`ports = config[2]`"
    assert citations.as_code("- ports[2]") == "- `ports[2]`"
    for text in ("The fee is $5.", "`ports[2]`", "a[0]\nb[1]", "[a](b)", "config[x]"):
        assert citations.as_code(text) == text


def test_a_mark_behind_a_letter_by_itself_ends_a_claim() -> None:
    found = grounding.claims("Take vitamin C. [1] Rest a day. [2] See Dr. Ames [1] at home. [2]")
    assert [(claim.text, claim.cited) for claim in found] == [("Take vitamin C.", (1,)), ("Rest a day.", (2,)), ("See Dr. Ames at home.", (1, 2))]
    for whole in ("It is open until 6 p.m. [1] on Sundays. [2]", "See Dr. [1] Ames. [2]", "1. [1] Open the app."):
        assert len(grounding.claims(whole)) == 1


def test_claims_carry_their_citations() -> None:
    found = grounding.claims("The fee is $5. [1] Delivery takes 4.5 days [2][3]. Done")
    assert [(claim.text, claim.cited) for claim in found] == [("The fee is $5.", (1,)), ("Delivery takes 4.5 days.", (2, 3)), ("Done", ())]
