from __future__ import annotations

import pytest

from mdsa_local.validation.identifiers import Names, another, has, named, telling


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("what is queue_limit?", Names(("queue_limit",), True)),
        ("What does the `keep_alive_s` setting do?", Names(("keep_alive_s",), True)),
        ("--force", Names(("--force",), True)),
        ("what does the option --follow-deletes mean", Names(("--follow-deletes",), True)),
        ("what's BusyError?", Names(("BusyError",), True)),
        ("what is retry_after_s()?", Names(("retry_after_s",), True)),
        ("what does error E401 mean?", Names(("E401",), True)),
        ("what is readers.lock for?", Names(("readers.lock",), True)),
        ("what are max_body and max_age?", Names(("max_body", "max_age"), True)),
        ("what is the default of queue_limit?", Names(("queue_limit",), False)),
        ("who wrote --force and E401?", Names(("--force",), False)),
        ("status of order A-25014", Names(("A-25014",), False)),
        ("boiler error F.28", Names(("F.28",), False)),
        ("what is F.28?", Names(("F.28",), True)),
        ("who insures K-5520-991?", Names(("K-5520-991",), False)),
        ("is covid-19 covered?", None),
        # A brand, a vitamin or a site may stand in many sentences that tell nothing.
        ("can I pay with PayPal?", None),
        ("how much B12 should I take?", None),
        ("is there news on example.com?", None),
        ("what is a queue limit?", None),
        ("how much is 5kg of it", None),
        ("well-known facts - all of them", None),
        ("what is it?", None),
        ("", None),
    ],
)
def test_what_a_question_names(question: str, names: Names | None) -> None:
    assert named(question) == names


def test_a_text_has_a_name_letter_by_letter() -> None:
    limit, force = Names(("queue_limit",), True), Names(("--force",), True)
    assert limit.within("Set `Queue_Limit` to 8.") and limit.opens("`queue_limit` | 64 | requests")
    assert not limit.within("queue_limits, my_queue_limit and queue_limit_s") and not limit.opens("Set queue_limit to 8.")
    assert force.within("use [--force] for it") and not force.within("use --force-all or ---force")
    assert (
        Names(("F28",), True).within("shows F.28") and Names(("A-25014",), True).opens("a25014: sent") and not Names(("F.28",), True).within("F.280")
    )
    both = Names(("max_body", "max_age"), False)
    assert both.within("max_age is as max_body") and not both.within("max_age is short")


@pytest.mark.parametrize(
    ("question", "codes"),
    [
        ("Who teaches 7a at 8:00?", {"7a", "8:00"}),
        ("What did water cost in 2022?", {"2022"}),
        ("When does the last bus of line 5 leave, and N5?", {"5", "n5"}),
        ("What changed in version 3.2.0?", {"3.2.0"}),
        ("Can I carry over 5 days, or 20%, or $50, or 3 items?", set()),
        ("Is room 12-14 open from 3 to 4?", set()),
    ],
)
def test_what_tells_one_of_several_from_the_others(question: str, codes: set[str]) -> None:
    assert telling(question) == codes


def test_a_code_is_a_word_of_its_own() -> None:
    assert has("| 8:00-8:45 | 7A |", "8:00") and has("| 8:00-8:45 | 7A |", "7a") and has("5 | 23:40", "5")
    assert not any(has(text, "5") for text in ("N5", "5.5", "$5", "5 %".replace(" ", ""), "15", "5:30"))


@pytest.mark.parametrize(
    ("question", "text", "codes"),
    [
        ("How much is the Urban 400?", "Bikes > Urban 300: 499", ["400"]),
        ("Who teaches 7c?", "Class: 7b; Teacher: X", ["7c"]),
        ("Where does the N6 go?", "N5 goes to the zoo", ["n6"]),
        ("What did water cost in 2024?", "2023: 3.40", ["2024"]),
        ("May class 10 leave?", "Classes 9 may leave.", ["10"]),
        ("Who teaches 7c?", "7b | Mr X | Tuesday 10:45-11:30", ["7c"]),
        ("What is the code on the 3rd floor?", "The code on the 4th floor is 8842.", ["3rd"]),
        ("Are you open on the 3rd May?", "We close on the 4th May.", []),
        # The same, many at once, amounts and times.
        ("Who teaches 7b?", "Class: 7b; Teacher: X", []),
        ("May class 6 leave?", "Classes 5 to 8 may not leave.", []),
        ("Is 2024 covered?", "From 2020 on it is.", []),
        ("May children under 12 come?", "Children under 14 may.", []),
        ("Does it take 3 days?", "It takes 5 days.", []),
        ("Does the bag hold 3 litres?", "The bag holds 5 litres.", []),
        ("Is delivery 3 euros?", "Delivery 5 euros", []),
        ("Are you open at 8:00?", "7:00 to 21:00", []),
        ("Does it need Python 3.12.1?", "It needs Python 3.9.0.", []),
        ("Does it need Python 3?", "It needs Python 3.10.", []),
        ("When is Easter 2025?", "Holidays 2024/25", []),
        ("Are you open on May 12?", "We are closed on May 1.", []),
        ("Are you open until 10?", "We are open until 8.", []),
        ("Should I call 911?", "Call 112 for chest pain.", []),
    ],
)
def test_what_tells_of_another_than_was_asked_of(question: str, text: str, codes: list[str]) -> None:
    assert another(question, text) == codes
