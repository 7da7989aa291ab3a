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


@pytest.mark.parametrize(
    ("question", "text"),
    [
        # How much or many of what someone does.
        ("Can I transfer 5000 in one day?", "You can transfer 3000 euros a day from your savings account."),
        ("Can I withdraw 500 today?", "You can withdraw 400 euros a day."),
        ("Can I deposit 5000 in cash?", "Deposit 3000 at most."),
        ("Can I add 7 more people to my booking?", "You can add 5 people to a booking."),
        ("Can I request 12 free copies?", "Schools may request 10 copies free of charge."),
        ("May I submit 4 short papers?", "Authors may submit 2 papers each."),
        ("Can we hire 3 electric bikes?", "You can hire 2 bikes per card."),
        ("Can we carry 2 small bags on board?", "You may carry 1 bag on board."),
        ("Can I bring 1 dog?", "Guests may bring 2 dogs."),
        ("Can I book 1 night?", "You must book 2 nights."),
        ("Can I invite 3?", "Invite 2 guests."),
        ("Can I also borrow 15?", "Members can borrow 10 books."),
        ("Can a member borrow 15?", "Members may still borrow 10."),
        ("Can a member borrow 15 at once?", "A member cannot borrow 10."),
        ("Does the hall seat 500?", "The hall seats 400."),
        ("Does the plan include 20?", "The plan includes 10 seats."),
        ("does plan Pro allow 3 user", "The Pro plan allows 5 users."),
        ("I turn 18 next month, can I get a card?", "When you turn 16 you can get the youth card."),
        ("I earn 3000 a month, do I get the discount?", "Members who earn 2500 a month get a discount."),
        ("We ordered 40, when does it come?", "They ordered 50 and got them the same day."),
        ("I'll hire 3 please", "Hire 2 bikes."),
        ("Am I allowed to bring 1 dog?", "You are allowed to bring 2 dogs."),
        ("Is it possible for me to upload 20 at once?", "It allows you to upload 10 at once."),
        ("I would like to invite 12", "To invite 10 you need no room."),
        ("How to withdraw 500?", "Withdraw 400 a day."),
        ("Do they ship 20 to Spain?", "We ship 10 a week."),
        ("Do you only print 5?", "We never print 3."),
        ("Must it reach 60?", "It must reach 70."),
        ("Should I call 911?", "Call 112 for chest pain."),
        ("Is the deposit 200?", "Deposit 300 euros"),
        ("Is the price 300?", "Price 400 €"),
        # A year told in passing.
        ("I joined in 2019, how do I cancel my membership?", "The cancellation form of 2024 is at the desk."),
        ("How do I cancel if I joined in 2019?", "The cancellation form of 2024 is at the desk."),
        ("how do I return the bike I bought in 2021", "Terms of 2023: bring it back within 30 days."),
        ("I bought it in 2021, is it still under guarantee?", "The guarantee lasts 5 years; new terms of 2023 are online."),
        ("my passport expires in 2027, can I travel to Norway?", "With the rules of 2024 a passport must be valid for 6 months."),
        ("Can I travel if my passport expires in 2027?", "Rules of 2024: it must be valid for 6 months."),
        ("Our house was built in 1975, do we need a permit?", "The plan of 2020 asks for a permit."),
        ("The flat was sold in 2021, who pays the tax?", "Tax rules 2024: the buyer pays."),
        ("We moved here in 2018 and lost the key, who has one?", "The caretaker, as the rules 2022 say."),
        ("When I started in 2015 there was a bus, is there still?", "The timetable of 2025 has a bus each hour."),
    ],
)
def test_how_much_is_done_and_a_year_told_in_passing_name_nothing(question: str, text: str) -> None:
    assert another(question, text) == []


@pytest.mark.parametrize(
    ("question", "text", "code"),
    [
        ("Can I hire the Urban 400?", "You can hire the Urban 300 for a day.", "400"),
        ("Have you Urban 400 in stock?", "We have the Urban 300 in stock.", "400"),
        ("What does the Urban 400 cost?", "Prices: Urban 300 costs 499 euros.", "400"),
        ("Can class 10 leave at noon?", "At noon class 9 may leave.", "10"),
        ("How long may class 10 stay?", "How long may class 9 stay? Until noon.", "10"),
        ("Are you class 7?", "Class 8 is taught by Mr X.", "7"),
        ("Is it line 5 that goes to the zoo?", "Line 6 goes to the zoo.", "5"),
        ("Isn't it line 5 that goes to the zoo?", "It is line 6 that goes to the zoo.", "5"),
        ("When will line 5 run again?", "Line 6 will run again on Monday.", "5"),
        ("On Sundays does line 5 run?", "On Sundays line 6 runs each hour.", "5"),
        ("Who do I ask if line 5 is late?", "If line 6 is late, ask the driver.", "5"),
        ("Can I take bus 5?", "You can take bus 6 to the zoo.", "5"),
        ("Can I use the lift to level 4?", "The lift to level 3 is free.", "4"),
        ("How do I get to room 12?", "To get to room 11 take the lift.", "12"),
        ("Can I book room 12?", "You can book room 11 online.", "12"),
        ("We booked room 12, is there wifi?", "There is wifi in room 11.", "12"),
        ("Is the tour going to gate 5?", "The tour goes to gate 4.", "5"),
        ("How much is the bus to zone 3?", "The bus to zone 2 costs 4 euros.", "3"),
        ("I live in zone 3, what do I pay?", "Zone 2 pays 5 euros.", "3"),
        ("Can I switch to plan 2?", "You may switch to plan 1 each month.", "2"),
        ("Do I need level 3?", "You need level 2.", "3"),
        ("I use Windows 11, can I install it?", "It needs Windows 10.", "11"),
        ("I get error 404, what do I do?", "If you get error 401, log in again.", "404"),
        ("What does error 404 mean?", "Error 401 means that you are not logged in.", "404"),
        ("What does error 404 mean?", "The API errors 429, 500 and 503 are tried again.", "404"),
        ("what is E401", "E402: the disk is full.", "e401"),
        ("Where is order 4711?", "Order 4712 was sent on Monday.", "4711"),
        ("What does form 12 ask for?", "Form 11 asks for your address.", "12"),
        ("What is in section 4?", "Section 3 is about pay.", "4"),
        ("When is room 12 open?", "Room 11 hours: 9 to 5", "12"),
        ("Who teaches 7c?", "You can meet the teacher of 7b on Tuesday.", "7c"),
        ("Where does the N6 go?", "The N5 goes to the zoo.", "n6"),
        ("I need the code on the 3rd floor", "The code on the 4th floor is 8842.", "3rd"),
        # Another year.
        ("What did water cost in 2022?", "Water cost 3.10 in 2023.", "2022"),
        ("What does milk cost in the price list of 2025?", "Price list 2024: milk 1.20", "2025"),
        ("I need the price list of 2025", "The price list of 2024 is at the desk.", "2025"),
        ("I'd like to see the prices of 2025", "Prices 2024: milk 1.20", "2025"),
        ("In 2024, what did water cost?", "2023: 3.40", "2024"),
        ("In my town, what did water cost in 2022?", "2023: 3.40", "2022"),
        ("I want to know what water cost in 2022", "2023: 3.40", "2022"),
        ("How many bikes were sold in 2022?", "2023: 340 bikes", "2022"),
        ("Were prices raised in 2022?", "Prices 2023: up by 3 %", "2022"),
        ("What did we spend in 2022?", "Spent in 2023: 500 euros", "2022"),
        ("Can I still use the tickets of 2023?", "Tickets of 2024 are valid until May.", "2023"),
        ("I joined in 2019, what do I pay?", "Members who joined in 2024 pay 5 euros.", "2019"),
    ],
)
def test_a_name_with_a_number_and_a_year_asked_of_tell_of_one(question: str, text: str, code: str) -> None:
    assert another(question, text) == [code]
