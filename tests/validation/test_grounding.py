from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mdsa_local.domains import units
from mdsa_local.domains.quoting import Extract
from mdsa_local.routing.encoder import Encoder
from mdsa_local.sentences import LIST_MARK, sentences, spans
from mdsa_local.settings import shipped
from mdsa_local.types import Draft, Passage
from mdsa_local.validation import facts, grounding, ladder, vocabulary

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


PASSPORT = "Do I need a passport to open an account? No. A driving licence is enough."
PRICES = "Basic costs $3 and Plus costs $6 a month."
TIMES = "The review takes 5 days and the refund takes 30 days."
OFFICES = "Anna Meier runs the Hamburg office. Paul Weber runs the Berlin office."
TABLE = "| Plan | Price |\n|---|---|\n| Basic | $3 |\n| Plus | $6 |\n"
TIERS = "- Gold: $900\n- Silver: $500\n"
NEVER = "Never do the following:\n\n- Wash the tent in a washing machine.\n- Use bleach on the fabric.\n"
START = "If the device does not start, do this:\n1. Hold the reset button for 5 seconds.\n2. Wait.\n"


@pytest.mark.parametrize(
    ("answer", "passage", "title"),
    [
        ("You need a passport.", PASSPORT, ""),
        ("You need a passport", "**Do I need a passport?**\nA driving licence is enough.", ""),
        ("You need a passport.", "A driving licence is enough.", "Do I need a passport?"),
        ("You need a passport.", "Do I need a passport? It depends on the country.", ""),
        ("You can cancel online.", "Can I cancel online? Yes, but only in the first week.", ""),
        ("Basic costs $6 a month.", PRICES, ""),
        ("Plus costs $3 a month.", "Basic costs $3 and Plus $6 a month.", ""),
        ("The review takes 30 days.", TIMES, ""),
        ("Adults pay $5.", "Adults pay $10, children under 12 pay $5.", ""),
        ("The Basic plan costs $6 a month.", "The Basic plan costs $3 a month. The Plus plan costs $6 a month.", ""),
        ("The Berlin office has the phone number 040-2222.", "The Berlin office has the phone number 030-1111. The Hamburg one has 040-2222.", ""),
        ("The warranty on batteries is 24 months.", "The warranty on batteries is 6 months. The warranty on devices is 24 months.", ""),
        ("Anna Meier runs the Berlin office.", OFFICES, ""),
        ("Anna Meier runs the Berlin office and Paul Weber runs the Hamburg office.", OFFICES, ""),
        ("| Basic | $6 |", TABLE, ""),
        ("- Gold: $500", TIERS, ""),
        ("The Silver limit is $900.", TIERS, "Limits"),
        ("Ida Bern is a plumber.", "name: Bert Olm; trade: plumber\n\nname: Ida Bern; trade: painter", ""),
        ("The contract ends on 5 May 2024.", "The contract ends on 5 June 2024.", ""),
        ("The deadline for tax returns is May 31.", "The deadline for tax returns is July 31.", ""),
        ("The office is closed in May.", "The office is closed in July.", ""),
        ("The office is closed on Sunday.", "The office is closed on Saturday.", ""),
        ("Visitors must wear a badge.", "Visitors may wear a badge.", ""),
        ("Visitors may wear a badge.", "Visitors shall wear a badge.", ""),
        ("The deposit is refundable.", "The deposit is non-refundable.", ""),
        ("The deposit is refundable.", "The deposit is nonrefundable.", ""),
        ("The ticket is valid abroad.", "The ticket is invalid abroad.", ""),
        ("Withdrawals abroad are charged.", "Nothing is charged for withdrawals abroad.", ""),
        ("The plan covers dental care abroad.", "The plan hardly ever covers dental care abroad.", ""),
        ("Entry is free for students.", "Entry is free for everyone excluding students.", ""),
        ("Card payments are allowed in the lobby shop.", "Card payments are prohibited in the lobby shop.", ""),
        ("The maximum fee for a lost card is $5.", "The minimum fee for a lost card is $5.", ""),
        ("Do not take it with water, take it with food.", "Do not take it with food, take it with water.", ""),
        ("Use bleach on the fabric.", NEVER, "Tents"),
        ("Yes, you may use bleach on the fabric.", NEVER, "Tents"),
        ("Taxi rides inside the city are reimbursed.", "- Taxi rides inside the city.\n- Minibar drinks.\n", "Travel > Not reimbursed"),
        ("Take 11 tablets.", "Take 1½ tablets.", ""),
        ("The power is 106 W.", "The power is 10⁶ W.", ""),
        ("The dose is 5 mg.", "The dose is .5 mg.", ""),
        ("Python 3.1 or newer is required.", "Python 3.10 or newer is required.", ""),
        ("The fine is $5.", "The fine is $5m.", ""),
        ("The fine for late filing of reports is $1.5 billion.", "The fine for late filing of reports is $1.5 million.", ""),
        ("Each passenger may take one bag on board.", "Each passenger may take two bags on board.", ""),
        ("The transfer takes 4 hours.", "The transfer takes 4 to 6 hours.", ""),
        ("It costs $9.", "It costs $5-$9.", ""),
        ("No, parking is free.", "Parking is not free.", ""),
        ("Yes. Parking is free.", "Parking is not free.", ""),
    ],
)
def test_what_a_passage_says_otherwise_is_not_supported(encoder: Encoder, answer: str, passage: str, title: str) -> None:
    assert not supported(encoder, answer, passage, title)


@pytest.mark.parametrize(
    ("answer", "passage", "title"),
    [
        ("You can cancel online.", "Can I cancel online? Yes. You have 30 days.", ""),
        ("You cannot return sale items.", "Can I return sale items? No. They are final.", ""),
        ("The transfer takes 3 days.", "How long does the transfer take? It takes 3 days.", ""),
        ("A transfer takes three days.", "How long does a transfer take? Three days.", ""),
        ("Basic costs $3 a month.", PRICES, ""),
        ("Plus costs $6 per month.", PRICES, ""),
        ("Basic costs $3 a month.", "Basic costs $3 and Plus $6 a month.", ""),
        ("The review takes 5 days, the refund 30 days.", TIMES, ""),
        ("The fee rises to $9 in autumn.", "The fee is $5 in spring and rises to $9 in autumn.", ""),
        ("Guests can borrow 2 books.", "Members can borrow 5 books and guests 2.", ""),
        ("Anna Meier runs the Hamburg office and Paul Weber runs the Berlin office.", OFFICES, ""),
        ("A replacement card costs $5 and arrives in 4 days.", "A replacement card costs $5. A replacement card arrives in 4 days.", ""),
        ("Gold has a limit of $900.", TIERS, "Limits"),
        ("Bert Olm is a plumber.", "name: Bert Olm; trade: plumber\n\nname: Ida Bern; trade: painter", ""),
        ("The contract ends May 5, 2024.", "The contract ends on 5 May 2024.", ""),
        ("In March the roses are pruned.", "Roses are pruned in March.", ""),
        ("You may not smoke in the lab.", "You must not smoke in the lab.", ""),
        ("Visitors have to wear a badge.", "Visitors must wear a badge.", ""),
        ("You can order it online.", "You may order it online or by phone.", ""),
        ("Sale items cannot be returned.", "You cannot return sale items.", ""),
        ("You can't return sale items.", "Sale items cannot be returned.", ""),
        ("No fee is charged for students.", "The fee, however, is not charged for students.", ""),
        ("Withdrawals abroad are not charged.", "Nothing is charged for withdrawals abroad.", ""),
        ("The deposit is not refundable.", "The deposit is non-refundable.", ""),
        ("Never use bleach on the fabric.", NEVER, "Tents"),
        (NEVER, NEVER, "Tents"),
        ("Taxi rides inside the city are not reimbursed.", "- Taxi rides inside the city.\n- Minibar drinks.\n", "Travel > Not reimbursed"),
        ("Hold the reset button for 5 seconds.", START, ""),
        ("Press the reset button for 5 seconds.", START, "Device does not start"),
        ("Take 1.5 tablets.", "Take 1½ tablets.", ""),
        ("The dose is 0.5 mg.", "The dose is .5 mg.", ""),
        ("The app requires Android 8.0 or later.", "The app needs Android 8.0 or later.", ""),
        ("The fine is $1,500,000.", "The fine is $1.5 million.", ""),
        ("Each passenger may take 1 bag.", "Each passenger may take one bag on board.", ""),
        ("The transfer takes between 4 and 6 hours.", "The transfer takes 4-6 hours.", ""),
        ("The transfer takes up to 6 hours.", "The transfer takes 4 to 6 hours.", ""),
        ("The office opens at 9 on weekdays.", "The office is open from 9 to 17 on weekdays.", ""),
        ("No, parking is not free.", "Parking is not free.", ""),
        ("No. The watch is not waterproof.", "The watch is not waterproof.", ""),
        ("No, you can't return sale items. [1]", "You cannot return sale items.", ""),
        ("Yes. Parking is free on Sundays.", "Parking is free on Sundays.", ""),
    ],
)
def test_what_it_says_in_other_words_is(encoder: Encoder, answer: str, passage: str, title: str) -> None:
    assert supported(encoder, answer, passage, title)


def test_a_question_is_quoted_as_a_question_only(encoder: Encoder) -> None:
    passage = [Passage("p", "p.md", "x", "", PASSPORT, 0, 1, 0.5)]
    asked, answered = (
        grounding.check(text, passage, encoder.encode)[0] for text in (PASSPORT.split("No")[0].strip(), "A driving licence is enough.")
    )
    assert (asked.quoted, answered.quoted) == (True, True)
    assert not grounding.check("Do I need a passport to open an account.", passage, encoder.encode)[0].quoted


def test_a_yes_or_no_is_no_claim_of_its_own() -> None:
    found = grounding.claims("No. [1] The watch is not waterproof. [1] Yes, it is new. No. 5 is old. No.")
    assert [(claim.text, claim.cited) for claim in found] == [
        ("No. The watch is not waterproof.", (1, 1)),
        ("Yes, it is new.", ()),
        ("No. 5 is old.", ()),
        ("No.", ()),
    ]


def test_a_yes_or_no_quoted_from_another_passage_stays_apart(encoder: Encoder) -> None:
    sundays, saturdays = (
        Passage(str(at), "faq.md", "finance", f"Faq > Do you deliver on {day}s?", text, at, at + 1, 0.5)
        for at, (day, text) in enumerate([("Sunday", "No."), ("Saturday", "Yes.")])
    )
    answer = "Do you deliver on Sundays?\nNo. [1]\n\nDo you deliver on Saturdays?\nYes. [2]"
    found = grounding.check(answer, [sundays, saturdays], encoder.encode)
    assert [(claim.text, claim.by, claim.quoted) for claim in found] == [
        ("Do you deliver on Sundays?", 0, True),
        ("No.", 0, True),
        ("Do you deliver on Saturdays?", 1, True),
        ("Yes.", 1, True),
    ]
    # What the passages do not say by itself goes with what follows.
    assert [claim.text for claim in grounding.check("No. [1] We deliver on Mondays. [2]", [saturdays], encoder.encode)] == [
        "No. We deliver on Mondays."
    ]


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Faq > I lost my key. May I have another?", "No."),
        ("Faq > 3.2. May I bring a bicycle?", "Yes, at the desk."),
        ("Prices", "Not included:\n- Towels\n- Parking\nThe kitchen closes at 10 pm"),
        ("Prices", "- Not included:\nTowels\nParking"),
        ("Leaflet", "3. HOW TO TAKE IT\nOne a day. Not\n- at night\n- with milk\n§ 4 Law\n(1) None holds."),
        ("Heater", "Never do the following:\n\n- Spray it\n- Open it\n\n1. Unplug it.\n2. Wipe it."),
        ("Not insured", "Tyres. Damage to glass.\n\nWe pay for windows."),
        ("Code", "```python\nexcept KeyError:\n    retry()\n```"),
        ("Claims", "1. Call.\n\n   Never wait.\n\n2. Write to us.\n\nDo not send\nPictures by post."),
        ("Pets", "Pets are not allowed in rooms\nOpening hours:\n- Sunday 10 to 2"),
    ],
)
def test_what_can_be_quoted_is_accepted_as_a_quotation(title: str, text: str, encoder: Encoder) -> None:
    passage = [Passage("p", "p.md", "x", title, text, 0, len(text), 0.5)]
    for unit in units.quotable(text):
        answer = Extract(0, unit.text, above=unit.above, section=unit.section(title)).quoted
        assert all(claim.quoted for claim in grounding.check(answer, passage, encoder.encode)), answer


def test_what_leads_in_a_list_without_an_end_is_a_quotation_beside_its_item(encoder: Encoder) -> None:
    text = "Do not take it\n- if you are allergic\n- if you have had an ulcer"
    passage = [Passage("p", "p.md", "x", "", text, 0, len(text), 0.5)]
    found = grounding.check("Do not take it\n- if you have had an ulcer [1]", passage, encoder.encode)
    assert [(claim.text, claim.cited, claim.quoted) for claim in found] == [
        ("Do not take it", (1,), True),
        ("- if you have had an ulcer", (1,), True),
    ]
    (claim,) = grounding.check("Do not take it\n- if you have had a cold [1]", passage, encoder.encode)
    assert not claim.quoted


def test_an_item_is_not_denied_by_the_item_before_it(encoder: Encoder) -> None:
    rent = "- Not included in the rent:\n  - Snow chains\n- Included in the rent:\n  - Winter tyres\n\nNot covered:\nDamage by pets\n\nFire"
    passage = [Passage("p", "p.md", "x", "", rent, 0, len(rent), 0.5)]
    quoted = {text: grounding.check(text, passage, encoder.encode)[0].quoted for text in ("Snow chains", "Winter tyres", "Damage by pets", "Fire")}
    assert quoted == {"Snow chains": False, "Winter tyres": True, "Damage by pets": False, "Fire": True}


def test_a_quotation_with_other_line_breaks_counts_in_full(encoder: Encoder) -> None:
    wrapped = Passage("p", "p.md", "x", "", "Send the form to the\nLarkfield office in\nAberwick, never by fax.", 0, 1, 0.5)
    (claim,) = grounding.check("Send the form to the Larkfield office in Aberwick, never by fax. [1]", [wrapped], encoder.encode)
    assert (claim.support, claim.by, claim.quoted) == (1.0, 0, True)


@pytest.mark.parametrize(
    "forms",
    ["charge charges charged charging", "fee fees", "day days", "issue issues issued", "policy policies", "use uses used", "stop stops stopped"],
)
def test_forms_of_a_word_meet(forms: str) -> None:
    assert len({vocabulary.stem(word) for word in forms.split()}) == 1


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
        ("1½ tablets, 2 ¾ cups, ½", [("1.5", ""), ("2.75", ""), ("0.5", "")]),
        ("10⁶ W on 10² m", [("10^6", "w"), ("10^2", "m")]),
        (".5 mg of version.5", [("0.5", "mg"), ("5", "")]),
        ("$4.50 for Python 3.10", [("4.5", "$"), ("3.10", "")]),
        ("$5m, €1.5 billion, $2k, 5 m", [("5000000", "$"), ("1500000000", "€"), ("2000", "$"), ("5", "m")]),
        ("on 5 May 2024", [("5", ""), ("may", "date"), ("2024", "")]),
        ("You may go on Monday, in May or on Jan 3", [("monday", "date"), ("may", "date"), ("january", "date"), ("3", "")]),
        ("Children under 5 may enter. May I march? In march.", [("5", ""), ("march", "date")]),
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
