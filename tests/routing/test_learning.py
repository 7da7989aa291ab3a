"""The router learns from a user's own examples, and keeps it only where it is better."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import ConfigError, InputError, UnknownNameError
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing import fitting
from mdsa_local.routing.encoder import Encoder
from mdsa_local.routing.learning import Counts, forget, learn, wins
from mdsa_local.routing.router import stamp
from mdsa_local.settings import Settings

SMALL = {
    "finance": "refund my card|what is my balance|how do I wire money|the fee of a transfer|open an account|my card is lost|interest on savings|"
    "a loan for a car|close my account|change my PIN|pay a bill late|exchange euros",
    "medical": "is 38 a fever|how much paracetamol|my head aches|a rash on my arm|when to see a doctor|a vaccine for flu|high blood pressure|"
    "treat a burn|how to sleep better|is asthma dangerous|side effects of aspirin|a cut that bleeds",
}
# In the house's own words nothing says where they belong.
TIMES = ("today", "again", "this week", "before lunch", "for Anna", "at night", "twice", "by mistake")
OWN = [(f"the {thing} went {how} {when}", domain) for thing, how, domain in
       (("gribble", "sideways", "finance"), ("plonk", "round the bend", "medical")) for when in TIMES]  # fmt: skip


@pytest.fixture
def orchestrator(tmp_path: Path, encoder: Encoder) -> Iterator[TinyBERTOrchestrator]:
    domains = [DomainConfig(name=name, examples=tuple(texts.split("|"))) for name, texts in SMALL.items()]
    with TinyBERTOrchestrator(settings=Settings.load({}, home=tmp_path), domains=domains) as made:
        made.__dict__["encoder"] = encoder
        yield made


def test_it_learns_what_it_did_not_know_and_forgets_it_again(orchestrator: TinyBERTOrchestrator) -> None:
    path = orchestrator.settings.router_file
    lesson = learn(orchestrator, OWN, seed=1)
    assert lesson.installed
    assert lesson.own.n == 4
    assert lesson.own.after > lesson.own.before
    assert lesson.known.n == 4
    assert orchestrator.router.route("the gribble went sideways yesterday").domain == "finance"
    written = path.read_bytes()
    # It knows them already, and the held-out ones are taken from both.
    assert not learn(orchestrator, OWN, seed=1).installed
    assert path.read_bytes() == written
    gone = [text for text, domain in OWN if domain == "finance"]
    assert forget(orchestrator, gone) == "fitted"
    kept = path.read_bytes()
    assert b"gribble" not in kept
    assert b"plonk" in kept
    assert not forget(orchestrator, gone)
    path.write_bytes(b"damaged gribble")
    with TinyBERTOrchestrator(settings=orchestrator.settings.changed(encoder="tinybertx")) as degraded, pytest.raises(ConfigError, match="encoder"):
        forget(degraded, gone)
    assert forget(orchestrator, gone) == "removed"
    assert not path.exists(), "what cannot be used would only keep what was to be forgotten"


def test_a_correction_moves_an_example(orchestrator: TinyBERTOrchestrator) -> None:
    moved = [(text, "medical") for text in SMALL["finance"].split("|")[:3]] + [(text, None) for text in ("best pizza", "sing a song", "who won")]
    learn(orchestrator, [*OWN, *moved], seed=1)
    found = fitting.load(orchestrator.settings.router_file, orchestrator.encoder.fingerprint, stamp(orchestrator.registry))
    assert {text for text, _ in moved[:3]} <= set(found.anchors["medical"].texts)
    assert not {text for text, _ in moved[:3]} & set(found.anchors["finance"].texts)
    assert found.outside is not None
    assert set(found.outside.texts) == {"best pizza", "sing a song", "who won"}


def test_what_teaches_nothing_is_not_installed(orchestrator: TinyBERTOrchestrator) -> None:
    # What it routes rightly without being taught.
    obvious = [(f"{text} please", name) for name, texts in SMALL.items() for text in texts.split("|")[:6]]
    lesson = learn(orchestrator, obvious)
    assert lesson.own.before == lesson.own.n
    assert not lesson.installed
    assert not orchestrator.settings.router_file.exists()


def test_too_few_and_unknown_domains_are_refused(orchestrator: TinyBERTOrchestrator) -> None:
    with pytest.raises(InputError, match="9 different"):
        learn(orchestrator, [*OWN[:9], (OWN[0][0].upper(), "finance")])
    with pytest.raises(UnknownNameError, match="astrology"):
        learn(orchestrator, [*OWN, ("what do the stars say", "astrology")])
    assert not orchestrator.settings.router_file.exists()


@pytest.mark.parametrize(
    ("own", "known", "better"),
    [
        (Counts(4, 1, 3), Counts(40, 38, 38), True),
        (Counts(4, 1, 3), Counts(40, 38, 37), True),
        (Counts(4, 1, 3), Counts(40, 38, 36), False),
        (Counts(4, 3, 3), Counts(40, 38, 40), False),
        (Counts(4, 3, 2), Counts(40, 30, 40), False),
    ],
)
def test_it_wins_by_more_than_it_loses(own: Counts, known: Counts, better: bool) -> None:
    assert wins(own, known) is better
