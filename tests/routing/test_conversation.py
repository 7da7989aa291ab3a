"""Two-turn dialogues written for this project: does reading the previous turn help, and only where it should?"""

from __future__ import annotations

import pytest
import yaml

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import InputError
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.conversation import leaning, topic
from mdsa_local.routing.encoder import Encoder
from mdsa_local.routing.router import IntentRouter
from tests.conftest import DATA

SMALL = {
    "cooking": "recipes|baking bread|boiling eggs|oven temperature|sauces|onions|freezing food",
    "taxes": "tax return|deductions|VAT|refund|filing deadline",
    "cars": "brakes|oil change|tyres|engine|diesel",
    "pets": "dog food|cat litter|vaccination|vet|puppy training",
}


@pytest.fixture(scope="module")
def dialogues() -> list[dict[str, str | None]]:
    loaded: list[dict[str, str | None]] = yaml.safe_load((DATA / "dialogues.yaml").read_text(encoding="utf-8"))
    return loaded


def test_the_previous_turn_beats_the_message_alone_and_the_whole_history(
    product: TinyBERTOrchestrator, dialogues: list[dict[str, str | None]]
) -> None:
    router = product.router
    ours = alone = whole = 0
    for turn in dialogues:
        previous, message = str(turn["previous"]), str(turn["message"])
        ours += router.route(message, [previous]).domain == turn["domain"]
        alone += router.route(message).domain == turn["domain"]
        whole += router.route(f"{previous} {message}").domain == turn["domain"]
    assert len(dialogues) >= 100
    assert ours > whole + 5
    assert ours > alone + 15


def test_only_one_previous_turn_is_read(product: TinyBERTOrchestrator) -> None:
    router = product.router
    short = router.route("and how long does that take?", ["where is my parcel"])
    assert short.context == "with_previous"
    longer = router.route("and how long does that take?", ["my head hurts", "is the hub down", "where is my parcel"])
    assert longer.scores == short.scores


def test_a_previous_turn_without_words_is_passed_over(product: TinyBERTOrchestrator) -> None:
    answer = product.ask("where is my parcel", history=["👍"])
    assert answer.domain == "support"
    assert product.ask("where is my parcel", history=["x" * 20_000]).domain == "support"
    with pytest.raises(InputError, match="history"):
        product.ask("where is my parcel", history="how are you")
    with pytest.raises(InputError, match="history"):
        product.router.route("where is my parcel", "how are you")


def test_a_change_of_topic_is_noticed(product: TinyBERTOrchestrator) -> None:
    route = product.router.route("my card was charged twice by a petrol station", ["how much paracetamol can i take in a day"])
    assert (route.domain, route.context, route.switched) == ("finance", "message", True)
    same = product.router.route("and for children?", ["how much paracetamol can i take in a day"])
    assert (same.domain, same.context, same.switched) == ("medical", "with_previous", False)


def test_a_change_to_what_belongs_nowhere_is_noticed(product: TinyBERTOrchestrator) -> None:
    turns = ("how much paracetamol can i take in a day", "where is my parcel", "how do i freeze my debit card", "the hub is blinking amber")
    asked = yaml.safe_load((DATA / "out_of_scope.yaml").read_text(encoding="utf-8"))
    routes = [product.router.route(text, [turns[at % len(turns)]]) for at, text in enumerate(asked)]
    assert sum(route.domain is None for route in routes) >= 0.7 * len(asked)
    for text in ("what is the capital of mongolia", "ok thanks. whats the capital of australia", "what caused the french revolution"):
        route = product.router.route(text, turns[:1])
        assert (route.domain, route.context, route.switched) == (None, "message", True)


def test_a_short_question_that_is_surely_of_another_domain_stands_alone(product: TinyBERTOrchestrator) -> None:
    route = product.router.route("where is my parcel", ["how much paracetamol can i take in a day"])
    assert (route.domain, route.context, route.switched) == ("support", "message", True)
    # What is no sentence may go on, and so may what is of the same domain.
    for text in ("delivery time", "tracking", "damaged"):
        assert product.router.route(text, ["what does a replacement debit card cost?"]).context == "with_previous"
    assert product.router.route("for how many days", ["how much paracetamol can i take in a day"]).context == "with_previous"


def test_what_is_surely_of_another_domain_and_unlike_the_turn_before_goes_there(encoder: Encoder) -> None:
    router = IntentRouter(encoder)
    router.register_all([DomainConfig(name=name, keywords=tuple(known.split("|"))) for name, known in SMALL.items()])
    for text, previous, domain in (
        ("brakes?", "how do I thicken a sauce", "cars"),
        ("and when is my tax return due?", "my cat does not use the litter box", "taxes"),
        ("ok, and what about cat litter?", "how often do I change the oil", "pets"),
    ):
        route = router.route(text, [previous])
        assert (route.domain, route.context, route.switched) == (domain, "message", True)
    # These go on, in words of another domain: what they are asked of is not unlike them.
    for text, previous, domain in (("onions?", "is dog food bad for cats", "pets"), ("and dog food?", "may I freeze a sauce", "cooking")):
        assert router.route(text).domain not in (None, domain)
        assert router.route(text, [previous]).domain == domain


@pytest.mark.parametrize(
    ("text", "previous", "domain"),
    [
        ("and the password?", "how do i reset the hub?", "technical"),
        ("and the warranty?", "how do i reset the hub?", "technical"),
        ("what about the fee?", "what does a video doctor visit cost?", "medical"),
        ("and for a parcel?", "which events do webhooks send?", "technical"),
        ("what about payments?", "which events do webhooks send?", "technical"),
        ("and the logs?", "the app crashes when i open it", "support"),
        ("what about the delivery?", "what does a replacement debit card cost?", "finance"),
        ("and if the parcel never came?", "how do i dispute a card payment?", "finance"),
        ("and can i change the delivery address?", "how do i order a new debit card?", "finance"),
        ("and how do i pair the bluetooth?", "how do i put on the pulse cuff?", "medical"),
    ],
)
def test_a_follow_up_in_words_of_another_domain_stays(product: TinyBERTOrchestrator, text: str, previous: str, domain: str) -> None:
    assert product.router.route(text).domain not in (None, domain)
    assert product.router.route(text, [previous]).domain == domain


def test_the_router_goes_on_from_the_turn_that_an_answer_goes_on_from(product: TinyBERTOrchestrator) -> None:
    turns = ["how much paracetamol can i take in a day", "thanks!"]
    for read in (product.router.route, lambda text, history: product.router.explain(text, history).route):
        route = read("and for children?", turns)
        assert (route.domain, route.context) == ("medical", "with_previous")
        assert route.scores == product.router.route("and for children?", turns[:1]).scores
    assert product.ask("and for children?", history=turns).domain == "medical"


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("and how long does that take?", False),
        ("what about my wife", False),
        ("why?", False),
        ("", False),
        ("ok thanks", False),
        ("how do I freeze a stolen debit card", True),
        ("ok thanks, where can I download my tax certificate", True),
    ],
)
def test_what_stands_alone(text: str, alone: bool) -> None:
    assert leaning(text).alone is alone


def test_the_topic_is_what_was_last_named() -> None:
    turns = ["how long is the warranty on a device?", "and on batteries?", "thanks"]
    assert topic(turns) == topic([*turns, "and on straps?"]) == turns[0]
    assert topic([*turns, "what does express delivery cost"]) == "what does express delivery cost"
    assert topic(["and then?", "why?"]) == "why?"
    assert topic([*turns[:2], "that was perfect"], "that was perfect".__eq__) == turns[0]
    assert topic(["nice weather", "and on batteries?", "cool"], {"nice weather", "cool"}.__contains__) == "and on batteries?"
    assert topic(["good morning", "cool"], lambda _: True) == "cool"


@pytest.mark.parametrize("said", ["awesome", "lol", "haha cool", "good morning"])
def test_small_talk_between_two_turns_is_no_topic(product: TinyBERTOrchestrator, said: str) -> None:
    before, then = "what does an overdraft cost", "and when do i have to pay it?"
    assert product.router.route(then, [before, said]).scores == product.router.route(then, [before]).scores
    assert product.ask(then, history=[before, said]).response == product.ask(then, history=[before]).response
