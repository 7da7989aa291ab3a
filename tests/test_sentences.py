from __future__ import annotations

import time

import pytest

from mdsa_local.sentences import other_lists, overs, sentences, spans, unwrapped, without_list_mark


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The fee rose in 2024. Nobody pays it.", ["The fee rose in 2024.", "Nobody pays it."]),
        ("1. Open the app. 2. Tap Cards. 3. Choose Freeze.", ["1. Open the app.", "2. Tap Cards.", "3. Choose Freeze."]),
        ("1. Open the app.\n2. Tap Cards.", ["1. Open the app.", "2. Tap Cards."]),
        ("Which year? 24. 5 people came.", ["Which year?", "24.", "5 people came."]),
        ("Press 1. Tap Cards.", ["Press 1.", "Tap Cards."]),
        ("Dr. Ames and Mrs. Lee work here. Mr. Ode left.", ["Dr. Ames and Mrs. Lee work here.", "Mr. Ode left."]),
        ("Bring a card, e.g. Visa, i.e. Plastic. It costs approx. 5.", ["Bring a card, e.g. Visa, i.e. Plastic.", "It costs approx. 5."]),
        ("Form No. 5 is free. No. You cannot.", ["Form No. 5 is free.", "No.", "You cannot."]),
        # A saint, and a street; a name behind it, and a number.
        ("Go to 5 St. Mary's Road. Ask Lt. Ode, St. Gallen.", ["Go to 5 St. Mary's Road.", "Ask Lt. Ode, St. Gallen."]),
        ("It is in Main St. The house is red.", ["It is in Main St.", "The house is red."]),
        ("Ms. Lee, Hafenstr. 5 in Ulm. The door is red.", ["Ms. Lee, Hafenstr. 5 in Ulm.", "The door is red."]),
        # What leads the eye to a number ends nothing, what is left unsaid does.
        ("Tent ........ 13.50\nTea ... 2.20\nCake . . . . 3.10", ["Tent ........ 13.50", "Tea ... 2.20", "Cake . . . . 3.10"]),
        ("We waited... 2 people came.", ["We waited...", "2 people came."]),
        ("II. Quiet\nIV. Deposit", ["II. Quiet", "IV. Deposit"]),
        ("J. R. Smith wrote it. Call above 38 C. Then rest.", ["J. R. Smith wrote it.", "Call above 38 C.", "Then rest."]),
        (
            "Divide by 18 to get mmol/L. It is shown in mg/dL. Dr. M. L. Or asks.",
            ["Divide by 18 to get mmol/L.", "It is shown in mg/dL.", "Dr. M. L. Or asks."],
        ),
        ("Cuesta 5 euros. Él paga. ¿Quién? Ésta.", ["Cuesta 5 euros.", "Él paga.", "¿Quién?", "Ésta."]),
        ("費用は5ドルです。明日払います。", ["費用は5ドルです。", "明日払います。"]),
        ('Tap "Yes." Then wait. (It takes 5 s.) Go **now.** Stop.', ['Tap "Yes."', "Then wait.", "(It takes 5 s.)", "Go **now.**", "Stop."]),
        ("It opens at\nten each day.\nCall us.", ["It opens at\nten each day.", "Call us."]),
        # What lacks its end goes on in the next line, whatever that begins with.
        ("Please do not use\nCortisone cream that day.\nRest.", ["Please do not use\nCortisone cream that day.", "Rest."]),
        ("The lab asks: do not drink\nCoffee.", ["The lab asks: do not drink\nCoffee."]),
        ("Refunds are possible within\n14 days.", ["Refunds are possible within\n14 days."]),
        ("Bring it unless\nE-bikes are meant: these burn.", ["Bring it unless\nE-bikes are meant: these burn."]),
        ("Pets: not allowed\nParking: free", ["Pets: not allowed", "Parking: free"]),
        ("We do not serve\n- Peanuts\n# For\nYou", ["We do not serve", "- Peanuts", "# For", "You"]),
        ("Do not wait. Call us\nMonday to Friday", ["Do not wait.", "Call us", "Monday to Friday"]),
        # These lack nothing, or are titles.
        ("Pets are not allowed in rooms\nOpening hours:\n- Monday", ["Pets are not allowed in rooms", "Opening hours:", "- Monday"]),
        ("Zone A\nZone B\nOpening month: May\nIt is cold", ["Zone A", "Zone B", "Opening month: May", "It is cold"]),
        ("What we do not cover\n=====\n**Do not smoke here**\nTheft", ["What we do not cover", "=====", "**Do not smoke here**", "Theft"]),
        ("What we do\nWe repair bikes.", ["What we do", "We repair bikes."]),
        ("Run this:\n```sh\nmdsa ask. Then\nrun it\n```\nDone.", ["Run this:", "mdsa ask. Then", "run it", "Done."]),
        # What is behind the marks of a quotation goes on as all else does.
        ("> Do not let\n> children go alone.\n>\n> it is hot.", ["> Do not let\n> children go alone.", ">", "> it is hot."]),
        (
            "Ann wrote:\n> Please never use\n> Bleach.\nI do not.\n> - one\n> - two",
            ["Ann wrote:", "> Please never use\n> Bleach.", "I do not.", "> - one", "> - two"],
        ),
        (">>> len(a)\n>>> a.clear()", [">>> len(a)", ">>> a.clear()"]),
        ("> > Do not let\n> Children go.", ["> > Do not let", "> Children go."]),
        # Behind a comma too, but rows and names with values are lines.
        ("We do not take cards of Visa,\nMastercard or Diners.", ["We do not take cards of Visa,\nMastercard or Diners."]),
        ("Anna,Sales,\nBob,Support,\nCity: Rome,\nStreet: Via Po,", ["Anna,Sales,", "Bob,Support,", "City: Rome,", "Street: Via Po,"]),
        # A line that goes on in lower case behind marks, or restricts the one before.
        ("Guests may bring drones\n*only* with a permit.", ["Guests may bring drones\n*only* with a permit."]),
        ("It is free in the first year\n**but costs $60** later.", ["It is free in the first year\n**but costs $60** later."]),
        ("You may drive in the Union,\n(except Romania).", ["You may drive in the Union,\n(except Romania)."]),
        ("Pets are welcome\nNot in the breakfast room.\nOnly dogs bark.", ["Pets are welcome\nNot in the breakfast room.", "Only dogs bark."]),
        ("Students pay $3\n– not valid on weekends.", ["Students pay $3\n– not valid on weekends."]),
        ("Refunds are given for all items\n- except shoes.  ", ["Refunds are given for all items\n- except shoes."]),
        ("Refunds are possible within days\n… but not for tickets.", ["Refunds are possible within days\n… but not for tickets."]),
        ("Refunds are given for a month\n\nunless it was opened.", ["Refunds are given for a month\n\nunless it was opened."]),
        ("Not paid by the insurance\nNot paid by us at all", ["Not paid by the insurance", "Not paid by us at all"]),
        ("It is $9. <!-- not $7 --> Call. It is <b>so</b>.", ["It is $9.", "<!-- not $7 --> Call.", "It is <b>so</b>."]),
        # Items, titles and names do not.
        ("We sell many things\n- not shoes\n- not hats", ["We sell many things", "- not shoes", "- not hats"]),
        ("`a` is the name\n`b` is the age\n(a) no pets\n[x] done", ["`a` is the name", "`b` is the age", "(a) no pets", "[x] done"]),
        ("Theft and fire\nNot insured\nThe pool\nNot heated at all.", ["Theft and fire", "Not insured", "The pool", "Not heated at all."]),
        ("Refunds are given\n\nwe pay.\n\nIt is so.\n\nunless", ["Refunds are given", "we pay.", "It is so.", "unless"]),
        # Abbreviations, some only before a number, and times before a day.
        (
            "It is free after 6 p.m. Monday to Friday. We close at 6 p.m. Parking is free.",
            ["It is free after 6 p.m. Monday to Friday.", "We close at 6 p.m.", "Parking is free."],
        ),
        ("We close at 6 p.m. Monday is a holiday.", ["We close at 6 p.m.", "Monday is a holiday."]),
        ("Take max. 3 a day. That is the max. Stop.", ["Take max. 3 a day.", "That is the max.", "Stop."]),
        ("Wait 5 min. 3 people came. Stay min. 2 days.", ["Wait 5 min.", "3 people came.", "Stay min. 2 days."]),
        ("Fees apply excl. Platinum members.", ["Fees apply excl. Platinum members."]),
        ("Open until Jan. 31 each year. Call Tel. 555-0123 or ext. 4.", ["Open until Jan. 31 each year.", "Call Tel. 555-0123 or ext. 4."]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected
    assert [text[start:end] for start, end in spans(text)] == expected


@pytest.mark.parametrize(
    ("sentence", "bare"),
    [("2. Tap Cards.", "Tap Cards."), ("- Tap", "Tap"), ("**3.** Tap", "Tap"), ("Step 2: Tap", "Tap"), ("2024. Tap", "2024. Tap"), ("Tap", "Tap")],
)
def test_list_marks(sentence: str, bare: str) -> None:
    assert without_list_mark(sentence) == bare


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("Never:\n\n- a\n\n- b\n\n1. c\n2. d", ["1. c"]),
        ("1. a\n2. b\r\n- c\ngoes on\n- d\n1. e", ["- c", "1. e"]),
        ("> - a\n> 1. b", ["> 1. b"]),
        # Deeper, led in, between two steps, and of a list that begins anew.
        ("- a\n  1. b\n- Of these:\n1. c\n2. d\n- e", []),
        ("1. a\n- b\n- c\n2. d", []),
        ("- a\n- b\n\nThen:\n1. c", []),
        ("- a\nNever:\n1. b", []),
    ],
)
def test_where_another_list_begins(text: str, others: list[str]) -> None:
    assert [text[at:].splitlines()[0] for at in sorted(other_lists(text))] == others


def test_which_lines_stand_over_others() -> None:
    over = ["1. WHAT IT IS", "2.1 Fees", "§ 5 Meetings", "Art. 7 Boats", "Section 8"]
    text = "\n".join(f"{line}\n(1) It is so." for line in over)
    assert [text[at:].splitlines()[0] for at in sorted(overs(text))] == over
    # Steps and items, what goes on in the next line, and what has an end or nothing right below it.
    others = [
        "1. Eggs\n2. Milk\nBuy them.",
        "1. Send it to the\nOffice.",
        "1. Wait\nuntil it is.",
        "1. Wait.\nGo.",
        "§ 5\n\nIt is so.",
        "1. Go\n- on",
    ]
    assert not any(map(overs, others))


def test_many_lists_take_no_longer_each() -> None:
    began = time.process_time()
    other_lists("1. a\n" + "- b\n" * 50_000 + "2. c\n" + "- d\n1. e\n" * 20_000)
    assert time.process_time() - began < 5

    def took(lists: int) -> float:
        began = time.process_time()
        other_lists("1. a\n" + "- b\n" * 2 * lists + "2. c\n" + "- d\n1. e\n" * lists)
        return time.process_time() - began

    # Eight times as many: 64 times as long, if each looked at all before it.
    # Beside other work the least of several is told.
    assert min(took(8_000) for _ in range(3)) < 24 * max(took(1_000), took(1_000))


A = "Children under ten years may be in the water without a grown-up only on"
B = "It has a roof over the terrace that is made of glass and a garden behind"


@pytest.mark.parametrize(
    ("text", "breaks"),
    [
        (f"{A}\nSaturdays between two and four.", 1),
        (f"{A}\n12 days of the year. {A}\nMonday. It is deep.", 2),
        (f"It is open.\n\n{A}\nSaturdays when Mr Lee is here and in the months of July and August or\nMay when it is warm.", 2),
        (f"- {A}\n  Saturdays.\n- Dogs.", 1),
        # Lists and titles, whatever their marks, do not go on, nor what comes to no end.
        (f"{A}\n{B}", 0),
        (f"{A}\n{B}\nAll of it\nIs so\nAs we said.", 0),
        (f"{A}\n- Saturdays.", 0),
        (f"- {A}\nSaturdays are fine.", 0),
        (f"{A}\nOn Sundays: from two to four.", 0),
        (f"{A}\nNever do this:\n- Dive.", 0),
        (f"{A.upper()}\nSaturdays are fine.", 0),
        (f"**{A}**\nSaturdays are fine.", 0),
        (f"# {A}\nSaturdays are fine.", 0),
        (f"| {A} |\nSaturdays are fine.", 0),
        (f"{A}   12 euros\nSaturdays   14 euros. That is all.", 0),
        (f"Flat 7 {A}\nFlat 8 {A}\nFlat 9 is free.", 0),
        (f"2024-03-01 {A}\n2024-03-02 It is so. And so.", 0),
        (f"{A}.\nSaturdays are fine.", 0),
        (f"```\n{A}\nSaturdays are fine.\n```", 0),
        # Short beside others, whose breaks are the author's own.
        (f"{A}\nSaturdays are fine.\n\n{A}, {B}.", 0),
        ("Helen Marsh\n12 Station Road\nLeeds. England", 0),
    ],
)
def test_a_long_line_that_lacks_its_end_goes_on(text: str, breaks: int) -> None:
    bare = unwrapped(text)
    assert (len(bare), text.count("\n") - bare.count("\n")) == (len(text), breaks)
    assert bare.replace("\n", " ") == text.replace("\n", " ")
    assert spans(text) == spans(bare) and unwrapped(bare) == bare
    if breaks == 0 and "```" not in text:
        assert not any(f"{A}\n" in sentence for sentence in sentences(text))


def test_many_abbreviations_take_no_longer_each() -> None:
    began = time.process_time()
    assert len(spans("6 p.m. Monday " * 5000)) == 1
    assert time.process_time() - began < 2
