from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mdsa_local.routing.encoder import Encoder
from mdsa_local.sentences import LIST_MARK, sentences, spans
from mdsa_local.settings import shipped
from mdsa_local.types import Draft, Passage
from mdsa_local.validation import facts, grounding, ladder

DOSE = (
    "Adults may take 1 g up to four times a day. Do not take more than 4 g in 24 hours. Never combine it with alcohol. "
    "The review costs $30 and takes 5 days. Pay the deposit before you sign the contract. Refunds are not possible without a receipt."
)
PLANS = (
    "The Basic plan costs $5 and the Plus plan costs $9. The parcel arrives in 3 business days. It weighs 2.5 kg. "
    "The transfer takes 5 days. The refund takes 30 days. Customers are charged a fee of $1,500 under the policy. "
    "1. Open the app.\n2. Tap Cards.\n3. Wait 24 hours.\nThe bank doesn't charge for it and pays all the fees. Larkfield issued “two” cards."
)


def supported(encoder: Encoder, answer: str, passage: str, title: str = "") -> bool:
    said = grounding.check(answer, [Passage("p", "p.md", "x", title, passage, 0, 1, 0.5)], encoder.encode)
    return bool(said) and all(claim.by is not None for claim in said)


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("Take more than 4 g in 24 hours.", DOSE),
        ("Adults may take 4 mg up to four times in 24 hours.", DOSE),
        ("You may combine it with alcohol.", DOSE),
        ("The review costs $5 and takes 30 days.", DOSE),
        ("Do not take 4 g in 24 hours.", DOSE),
        ("Do not take less than 4 g in 24 hours.", DOSE),
        ("Do not take 1 g up to four times a day.", DOSE),
        ("Adults may take 1 g up to five times a day.", DOSE),
        ("Pay the deposit after you sign the contract.", DOSE),
        ("Sign the contract before you pay the deposit.", DOSE),
        ("The contract signs you before the deposit is paid.", DOSE),
        ("Refunds are possible without a receipt.", DOSE),
        ("Refunds are not possible with a receipt.", DOSE),
        ("The Basic plan costs $9 and the Plus plan costs $5.", PLANS),
        ("The parcel arrives in 3 hours.", PLANS),
        ("The transfer takes 30 days.", PLANS),
        ("Customers are charged a fee of $15 under the policy.", PLANS),
        ("Customers are charged a fee of $1,5 under the policy.", PLANS),
        ("Wait 2 hours.", PLANS),
        ("The bank charges for it and pays all the fees.", PLANS),
        ("The parcel weighs 25 kg.", PLANS),
    ],
)
def test_wrong_facts_are_not_supported(encoder: Encoder, answer: str, passage: str) -> None:
    assert not supported(encoder, answer, passage)


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("Adults may take 1g up to 4 times a day.", DOSE),
        ("Don't take more than four grams in 24 hours.", DOSE),
        ("The review costs 30 dollars and takes five days.", DOSE),
        ("Before you sign the contract, pay the deposit.", DOSE),
        ("Do not take more than 4 g in 24 hours. The review costs $30.", DOSE),
        ("The parcel arrives in three business days and weighs 2,5 kg.", PLANS),
        ("Customer is charged fees of $1500 under the policies.", PLANS),
        ("Customers are charged a fee of $1,500.00 under the policy.", PLANS),
        ("1) Open the app\n2) Tap **Cards**\n3) Wait for 24-hours.", PLANS),
        ("The bank doesn’t charge for it, and pays all fees.", PLANS),
        ('Larkfield issues "2" cards.', PLANS),
        ("The bank does\nnot charge for it and pays all the fees.", PLANS),
    ],
)
def test_light_paraphrases_are_supported(encoder: Encoder, answer: str, passage: str) -> None:
    assert supported(encoder, answer, passage)


def test_a_quotation_with_other_line_breaks_counts_in_full(encoder: Encoder) -> None:
    wrapped = Passage("p", "p.md", "x", "", "Send the form to the\nLarkfield office in\nAberwick, never by fax.", 0, 1, 0.5)
    (claim,) = grounding.check("Send the form to the Larkfield office in Aberwick, never by fax. [1]", [wrapped], encoder.encode)
    assert (claim.support, claim.by, claim.quoted) == (1.0, 0, True)


@pytest.mark.parametrize(
    "forms",
    ["charge charges charged charging", "fee fees", "day days", "issue issues issued", "policy policies", "use uses used", "stop stops stopped"],
)
def test_forms_of_a_word_meet(forms: str) -> None:
    assert len({facts.stem(word) for word in forms.split()}) == 1


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("4g", [("4", "g")]),
        ("24-hour", [("24", "hour")]),
        ("１,５００ days", [("1500", "day")]),
        ("1,5 l", [("1.5", "l")]),
        ("4 to 6 hours", [("4", "hour"), ("6", "hour")]),
        ("4–6 business days", [("4", "day"), ("6", "day")]),
        ("$5 or 5 euros or 5%", [("5", "$"), ("5", "€"), ("5", "%")]),
        ("twenty-four hours, two hundred mg", [("24", "hour"), ("200", "mg")]),
        ("one day as soon as one comes", [("1", "day")]),
        ("at -18 C and 14:00", [("-18", "c"), ("14:00", "")]),
        ("error E14 on TR-12345", [("e14", ""), ("tr-12345", "")]),
    ],
)
def test_numbers_are_bound_to_their_units(text: str, numbers: list[tuple[str, str]]) -> None:
    assert [(number.kind, number.unit) for number in facts.read(text).numbers] == numbers


SECTIONS = [
    (title, part.strip())
    for path in sorted(shipped("domains").glob("*/knowledge/*.md"))
    for title, body in [path.read_text(encoding="utf-8").removeprefix("# ").split("\n", 1)]
    for part in re.split(r"^#+ .*\n", body, flags=re.MULTILINE)
    if part.strip()
]
GIVEN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@st.composite
def quotations(draw: st.DrawFn) -> tuple[list[Passage], int, str, str]:
    """Passages, the index of one, a literal run of 1 to 3 of its sentences, and one sentence of the run."""
    chosen = draw(st.lists(st.sampled_from(SECTIONS), min_size=1, max_size=3, unique=True))
    passages = [Passage(f"{i}", f"{i}.md", "x", title, text, 0, len(text), 0.5) for i, (title, text) in enumerate(chosen)]
    index = draw(st.integers(0, len(passages) - 1))
    places = spans(passages[index].text)
    first = draw(st.integers(0, len(places) - 1))
    last = min(first + draw(st.integers(0, 2)), len(places) - 1)
    asked = passages[index].text[slice(*places[draw(st.integers(first, last))])]
    return passages, index, passages[index].text[places[first][0] : places[last][1]], asked


@GIVEN
@given(case=quotations())
def test_a_quotation_stands_unchanged(encoder: Encoder, case: tuple[list[Passage], int, str, str]) -> None:
    passages, index, run, asked = case
    text = f"{run} [{index + 1}]"
    verdict = ladder.judge(asked, Draft(text, "nano", "stop", 1, 1), passages, encoder.encode)
    assert (verdict.status, verdict.text, verdict.support) == ("success", text, 1.0)


@GIVEN
@given(case=quotations(), pick=st.integers(0, 99), digit=st.sampled_from("123456789"))
def test_a_quotation_with_one_number_altered_does_not(encoder: Encoder, case: tuple[list[Passage], int, str, str], pick: int, digit: str) -> None:
    passages, index, run, asked = case
    marks = [start + mark.end() for start, end in spans(run) if (mark := LIST_MARK.match(run[start:end]))]
    figures = [figure for figure in re.finditer(r"\d+", run) if not any(figure.end() <= end <= figure.end() + 3 for end in marks)]
    assume(figures)
    figure = figures[pick % len(figures)]
    altered = figure[0] + digit
    assume(not any(altered in re.findall(r"\d+", passage.text + passage.title) for passage in passages))
    text = f"{run[: figure.start()]}{altered}{run[figure.end() :]} [{index + 1}]"
    assert ladder.judge(asked, Draft(text, "nano", "stop", 1, 1), passages, encoder.encode).status != "success"


def test_every_article_is_its_own_source(encoder: Encoder) -> None:
    for title, text in SECTIONS:
        passage = Passage("p", "p.md", "x", title, text, 0, len(text), 0.5)
        said = grounding.check(text, [passage], encoder.encode)
        assert [claim.text for claim in said if not claim.quoted] == []
        assert len(said) == len(sentences(text))


ROWS = "\n\n".join(f"name: {name}; trade: {trade}" for name, trade in (("Bert Olm", "plumber"), ("Ida Bern", "painter"), ("Finn Roth", "plumber")))
FIELDS = "teacher: Marek Dolan"


def test_rows_without_a_full_stop_are_claims_of_their_own(encoder: Encoder) -> None:
    passages = [Passage(name, name, "x", "", text, 0, len(text), 0.5) for name, text in (("rows.csv", ROWS), ("courses.json", FIELDS))]
    first, last = ROWS.split("\n\n")[2], ROWS.split("\n\n")[0]
    found = grounding.check(f"{first} [1] teacher: Marek Dolan [2] {last} [1]", passages, encoder.encode)
    assert [(claim.text, claim.cited, claim.by, claim.quoted) for claim in found] == [
        (first, (1,), 0, True),
        ("teacher: Marek Dolan", (2,), 1, True),
        (last, (1,), 0, True),
    ]


def test_a_heading_cut_off_by_a_mark_does_not_hide_what_is_said_of_it(encoder: Encoder) -> None:
    passage = "Platinum Travel Rewards\n\nNo fee abroad.\n\nBasic card\n\nIt costs $5 a month."
    assert not supported(encoder, "Platinum Travel Rewards [1] costs $5 a month [1].", passage)
    assert supported(encoder, "Basic card [1] It costs $5 a month. [1]", passage)
