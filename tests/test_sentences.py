from __future__ import annotations

import pytest

from mdsa_local.sentences import sentences, spans, without_list_mark


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
