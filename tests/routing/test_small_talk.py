"""Small talk belongs to no domain, unless one is for it, and is not looked up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdsa_local.domains.config import DomainConfig
from mdsa_local.evaluation import questions
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.encoder import Encoder
from mdsa_local.routing.router import IntentRouter

DATA = Path(__file__).parents[1] / "data"
SAID = (
    "Good morning!", "goodnight", "hey, what's your name", "how's it going today", "thanks a lot!!", "lol", "you're a funny one", "r u a robot?",
    "merry christmas everyone", "this is a test", "can you tell me a joke?", "i'm so bored", "who on earth are you",
    "hi there, how's your day going", "thank you so much, bye", "hello! how are you doing?", "ok, bye, see you tomorrow", "oh no, I'm so sad today",
)  # fmt: skip


@pytest.mark.parametrize("text", SAID)
def test_small_talk_belongs_nowhere_and_is_not_looked_up(product: TinyBERTOrchestrator, text: str) -> None:
    answer = product.ask(text)
    assert (answer.domain, answer.status, answer.confidence) == (None, "abstained", 0.0)
    assert "small talk" in answer.reason
    assert "accounts" in answer.response
    assert [stage.stage for stage in answer.trace] == ["route"]


def test_no_question_is_taken_for_it(product: TinyBERTOrchestrator) -> None:
    asked = [json.loads(line)["question"] for path in (DATA / "answers").glob("*.jsonl") for line in path.read_text("utf-8").splitlines()]
    asked += [case.question for case in questions.read()]
    asked += ["Where are you located?", "how old are you?", "who owns you?", "what can I ask for?", "what do you do?"]
    assert len(asked) > 600
    assert [text for text in asked if product.router.route(text, split=False).small_talk] == []


@pytest.mark.parametrize(
    "text", ["how do they work?", "how old is it?", "do you like it?", "who makes it?", "never mind, how much is it?", "and why is that?"]
)
def test_what_is_said_of_what_was_said_before_is_no_small_talk(product: TinyBERTOrchestrator, text: str) -> None:
    route = product.router.route(text, ["What does the Glow Patch measure?"])
    assert not route.small_talk
    assert route.context == "with_previous"


def test_thanks_behind_an_answer_are(product: TinyBERTOrchestrator) -> None:
    for text in ("thank you!", "thanks, that helped a lot", "ok", "got it"):
        assert product.router.route(text, ["What does the Glow Patch measure?"]).small_talk


def test_it_is_explained_by_what_it_is_nearest_to(product: TinyBERTOrchestrator) -> None:
    explained = product.router.explain("hello there!")
    assert explained.route.small_talk
    assert explained.near[0].domain == max(explained.evidence, key=lambda name: explained.evidence[name])


def test_a_greeting_before_a_question_is_no_small_talk(product: TinyBERTOrchestrator) -> None:
    assert product.router.route("hello, my card was stolen").domain == "finance"
    assert product.router.route("good morning, how do I reset the hub?").domain == "technical"
    more = ("hi, how do I return a lamp", "thanks, but it does not work", "hello, are you hiring?", "sorry, I was charged twice", "ok, and the fee?")
    assert [text for text in more if product.router.route(text).small_talk] == []


@pytest.mark.parametrize(
    "given",
    [
        {"examples": ("hello", "how are you", "what is your name", "tell me a joke", "goodbye", "thanks")},
        {
            "keywords": (
                "greeting",
                "thank you",
                "goodbye",
                "tell joke",
                "what is your name",
                "are you a bot",
                "how old are you",
                "fun fact",
                "who made you",
            )
        },
    ],
)
def test_a_domain_that_is_for_it_gets_it(encoder: Encoder, given: dict[str, tuple[str, ...]]) -> None:
    router = IntentRouter(encoder)
    router.register(DomainConfig(name="billing", keywords=("invoice", "payment", "refund")))
    assert router.route("hello there!").reason.startswith("small talk")
    router.register(DomainConfig(name="small_talk", **given))
    route = router.route("hello there!")
    assert not route.small_talk
    assert route.domain == "small_talk"


@pytest.mark.parametrize("text", ["ok why", "alright how", "oh I see, why", "ok tell me", "ok go on", "thanks, and the next one?", "ok no"])
def test_what_goes_on_behind_an_opening_is_no_small_talk(product: TinyBERTOrchestrator, text: str) -> None:
    before = ["how much does a replacement debit card cost?"]
    assert not product.router.route(text, before).small_talk
    # Nor is anything that is asked of a domain.
    answer = product.ask(text, domain="finance", history=before)
    assert answer.domain == "finance"
    assert "replacement" in answer.response


def test_a_domain_that_knows_some_of_it_does_not_take_the_rest(product: TinyBERTOrchestrator, encoder: Encoder) -> None:
    events = DomainConfig(name="events", description="Weddings, birthdays and parties", keywords=("wedding", "birthday"))
    router = IntentRouter(encoder, encoder.calibration)
    router.register_all([*product.registry, events])
    assert [text for text in ("hello there!", "thanks", "how are you?", "tell me a joke", "bye") if not router.route(text).small_talk] == []


@pytest.mark.parametrize(("name", "description"), [("garden", "Plants, soil and pruning"), ("notes", "My notes"), ("recipes", "")])
def test_a_domain_of_hardly_any_words_does_not_take_it(product: TinyBERTOrchestrator, encoder: Encoder, name: str, description: str) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    router.register_all([*product.registry, DomainConfig(name=name, description=description)])
    assert [text for text in SAID if not router.route(text).small_talk] == []


def test_a_domain_of_greetings_alone_is_for_it(encoder: Encoder) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    router.register_all([DomainConfig(name="billing", keywords=("invoice", "payment")), DomainConfig(name="small_talk", description="greetings")])
    assert router.route("hello there!").domain == "small_talk"


def test_without_an_encoder_it_is_not_told_apart(product: TinyBERTOrchestrator, tmp_path: Path) -> None:
    settings = product.settings.changed(encoder=str(tmp_path / "nowhere"))
    with TinyBERTOrchestrator(settings=settings) as orchestrator:
        assert not orchestrator.router.route("hello").small_talk


def test_its_phrases_are_kept_with_the_anchors(encoder: Encoder, tmp_path: Path) -> None:
    for _ in range(2):
        router = IntentRouter(encoder, cache=tmp_path)
        router.register(DomainConfig(name="billing", keywords=("invoice",)))
        assert router.route("thanks!").domain is None
    assert len(list(tmp_path.glob("*.npy"))) == 2
