"""Pairs of a sentence and what a model made of it: told in other words, or of something else. Every paraphrase counts as near in meaning here, so
that only what the words say decides."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mdsa_local.types import Passage
from mdsa_local.validation import grounding


def alike(texts: list[str]) -> NDArray[np.float32]:
    return np.ones((len(texts), 1), dtype=np.float32)


def supported(said: str, answer: str) -> bool:
    return all(claim.by is not None for claim in grounding.check(answer, [Passage("p", "p.md", "x", "Guide", said, 0, len(said), 0.5)], alike))


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("The desk closes at 5 p.m. on weekdays.", "On weekdays the desk closes at 5 pm."),
        ("The desk opens at 9 a.m. and closes at 5 p.m. every day.", "The desk is open from 9 am to 5 pm every day."),
        ("The desk opens at 09:00.", "The desk opens at 9:00."),
        ("The desk is open 08:30-12:00.", "The desk is open from 8:30 to 12:00."),
        ("The deadline is 03 May 2024.", "The deadline is 3 May 2024."),
        ("The deadline is 2024-05-03.", "The deadline is May 3rd, 2024."),
        ("The fair is on the 3rd of May.", "The fair is on 3 May."),
        ("The hall has one hundred and twenty seats.", "The hall has 120 seats."),
        ("The hall has two thousand five hundred seats.", "The hall has 2,500 seats."),
        ("The hall has a hundred seats.", "The hall has 100 seats."),
        ("Rooms hold between one hundred and two hundred people.", "Rooms hold between 100 and 200 people."),
        ("Add ½ cup of milk.", "Add 1/2 cup of milk."),
        ("The ride takes 2 1/2 hours.", "The ride takes two and a half hours."),
        ("The rate is 5 per cent.", "The rate is 5 %."),
        ("You can withdraw $500 a day.", "You can withdraw up to $500 a day."),
        ("The limit is $500 a day for cards.", "You can withdraw up to $500 a day with cards, the limit."),
        ("Guests may stay up to 3 nights.", "Guests may stay 3 nights."),
        ("You get up to $500 back.", "You get at most $500 back."),
        ("You get up to $500 back.", "The maximum you get back is $500."),
        ("Keep the app up to date.", "Keep the app updated."),
        ("You have to wear a helmet on the track.", "You must wear a helmet on the track."),
        ("You need to bring a passport.", "You have to bring a passport."),
        ("You are required to wear a helmet.", "You must wear a helmet."),
        ("You are not allowed to smoke here.", "You must not smoke here."),
        ("You may not smoke here.", "You can't smoke here."),
        ("You don't have to pay a deposit.", "You do not need to pay a deposit."),
        ("You shouldn't eat before the test.", "You should not eat before the test."),
        ("To reset the router, you should press the red button.", "You can reset the router by pressing the red button."),
        ("Wear a helmet on the track.", "You must wear a helmet on the track."),
        ("The plan costs US$500.", "The plan costs 500 dollars."),
        ("The plan costs CHF 500.", "The plan costs 500 Swiss francs."),
        ("The plan costs ₹500 a month.", "The plan costs 500 rupees a month."),
        ("The plan costs €5/month.", "The plan costs 5 euros per month."),
        ("I paid 500 SEK 3 days ago.", "3 days ago I paid SEK 500."),
        ("You need 5 feet of cable.", "You need 5 ft of cable."),
        ("Drive at 80 km/h.", "Drive at 80 kilometers per hour."),
        ("Drive at 60 mph on the road to the lake.", "Drive at 60 miles an hour on the road to the lake."),
        ("The link runs at 5 MB/s.", "The link runs at 5 megabytes per second."),
        ("You have 5 GB per month.", "You have 5 GB a month."),
        ("You can invite 5k users.", "You can invite 5,000 users."),
        ("A tray holds 2 dozen eggs.", "A tray holds 24 eggs."),
        ("The fund holds $2 trillion.", "The fund holds 2,000 billion dollars."),
        ("Take one tablet twice a day.", "Take one tablet two times a day."),
        ("The gold plan costs 20 euros a month.", "The gold plan costs 20 euros monthly."),
        ("The gold plan costs 20 euros a month and can be left every year.", "The gold plan costs 20 euros a month."),
        ("The pool is open every day of the week.", "The pool is open daily."),
        ("You can change the name once per year.", "You can change the name once every year."),
        ("Take one tablet daily with water.", "Take one tablet once a day with water."),
        ("The trip takes 2 h 30 min.", "The trip takes two hours and thirty minutes."),
        ("It takes half an hour to the lake.", "It takes ½ hour to the lake."),
        ("You have\nto walk for half\nan hour to the lake.", "You must walk for half an hour to the lake."),
        ("Keep it at minus 18 °C.", "Keep it at -18 °C."),
        ("Log in before you open the page.", "Log on before you open the page."),
        ("Guests check in at the desk.", "Check-in is at the desk for guests."),
        ("Sign in the box below.", "Sign the box below."),
        ("Submit the form by Friday.", "Submit the form on Friday."),
        ("The pool is open from 9 am to 5 pm.", "The pool opens at 9 am and is open until 5 pm."),
        ("The archive is on the 2nd floor.", "The archive is on the second floor."),
    ],
)
def test_what_is_said_in_other_words_is_supported(said: str, answer: str) -> None:
    assert supported(said, answer)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("The gold plan costs 20 euros a month.", "The gold plan costs 20 euros a year."),
        ("The gold plan costs 20 euros a month.", "The gold plan costs 20 euros yearly."),
        ("You can withdraw $400 a day from machines.", "You can withdraw $400 a week from machines."),
        ("Take one tablet twice a day.", "Take one tablet twice a week."),
        ("The desk closes at 5 p.m.", "The desk closes at 5 a.m."),
        ("The desk closes at 5 p.m.", "The desk closes 5 m away."),
        ("The desk opens at 09:00.", "The desk opens at 9:30."),
        ("The deadline is 2024-05-03.", "The deadline is 5 March 2024."),
        ("The hall has one hundred and twenty seats.", "The hall has 100 seats."),
        ("The hall has one hundred and twenty seats.", "The hall has 20 seats."),
        ("Add 1/2 cup of milk.", "Add 2 cups of milk."),
        ("The ride takes two and a half hours.", "The ride takes two hours."),
        ("The fine for late return is $500.", "The fine for late return is up to $500."),
        ("You get up to $500 back.", "You get $500 back."),
        ("You have to wear a helmet on the track.", "You may wear a helmet on the track."),
        ("Staff can use the pool.", "Staff have to use the pool."),
        ("You should lock the door at night.", "You must lock the door at night."),
        ("You must lock the door at night.", "You should lock the door at night."),
        ("You may bring a dog into the garden.", "You should bring a dog into the garden."),
        ("You are allowed to park here.", "You are required to park here."),
        ("Visitors may have to show a passport.", "Visitors have to show a passport."),
        ("You must not wait in the hall.", "You do not have to wait in the hall."),
        ("You need not wait in the hall.", "You must not wait in the hall."),
        ("The plan costs $500.", "The plan costs ₹500."),
        ("The plan costs $500.", "The plan costs A$500."),
        ("The annual fee costs $500.", "The annual fee costs CHF 500."),
        ("The plan costs 500 SEK per month.", "The plan costs 500 CHF per month."),
        ("The plan costs 50 cents.", "The plan costs 50 dollars."),
        ("You need 5 feet of cable.", "You need 5 miles of cable."),
        ("Add 5 lb of flour.", "Add 5 oz of flour."),
        ("The link runs at 5 MB/s.", "The link runs at 5 MB."),
        ("Drive at 5 m/s.", "Drive at 5 m."),
        ("Drive at 80 km/h.", "Drive at 80 mph."),
        ("You can invite 5 users to the workspace.", "You can invite 5k users to the workspace."),
        ("You can invite 5k users to the workspace.", "You can invite 5 users to the workspace."),
        ("The fund holds $2 trillion.", "The fund holds $2."),
        ("A tray holds 2 dozen eggs.", "A tray holds 2 eggs."),
        ("Take one tablet twice a day with water.", "Take one tablet once a day with water."),
        ("Take one tablet three times a day.", "Take one tablet twice a day."),
        ("On the first Friday of each month the office is closed.", "On the third Friday of each month the office is closed."),
        ("You must pay half of the deposit.", "You must pay double the deposit."),
        ("It takes a quarter of an hour to the lake.", "It takes half an hour to the lake."),
        ("The warranty lasts a year and a half.", "The warranty lasts 1 year."),
        ("The trip takes 2 h 30 min.", "The trip takes 2 h."),
        ("Keep it at minus 18 °C.", "Keep it at 18 °C."),
        ("Check-in is at 15:00. Check-out is at 11:00.", "Check-in is at 11:00."),
        ("Log out before you close the browser.", "Log in before you close the browser."),
        ("You can opt out of sharing in the settings.", "You can opt in to sharing in the settings."),
        ("Submit the form by Friday.", "Submit the form from Friday."),
        ("Tickets are valid from 3 May.", "Tickets are valid to 3 May."),
        ("The pool is open until 5 pm.", "The pool is open from 5 pm."),
        ("You should not eat before the test.", "You must not eat before the test."),
    ],
)
def test_what_is_said_of_something_else_is_not(said: str, answer: str) -> None:
    assert not supported(said, answer)
