"""The router learns from a user's own examples, and keeps it only where it is better."""

from __future__ import annotations

import copy
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import ConfigError, InputError, StorageError, UnknownNameError
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing import fitting
from mdsa_local.routing.classifier import Classifier
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


def held(orchestrator: TinyBERTOrchestrator) -> dict[str, set[str]]:
    """What the router's file holds of each domain, and of none."""
    found = fitting.load(orchestrator.settings.router_file, orchestrator.encoder.fingerprint, stamp(orchestrator.registry))
    return {**{name: set(anchors.texts) for name, anchors in found.anchors.items()}, "none": set(found.outside.texts if found.outside else ())}


def test_an_example_that_a_mark_had_moved_is_its_domains_again(orchestrator: TinyBERTOrchestrator) -> None:
    examples = SMALL["finance"].split("|")
    moved: list[tuple[str, str | None]] = [(examples[0].upper(), "medical"), (examples[1], None), (examples[2], "finance")]
    learn(orchestrator, [*OWN, *moved], seed=1)
    before = held(orchestrator)
    assert examples[0].upper() in before["medical"] and examples[1] in before["none"]
    assert not {examples[0], examples[1]} & before["finance"]
    assert forget(orchestrator, [examples[0].upper(), examples[1]]) == "fitted"
    after = held(orchestrator)
    assert set(examples) <= after["finance"]
    assert (examples[0].upper() in after["medical"], after["none"]) == (False, set())
    assert not forget(orchestrator, examples), "what its domain holds anyway is no lesson"


def test_what_is_forgotten_goes_by_its_text_and_the_rest_is_fitted_with_the_same_seed(orchestrator: TinyBERTOrchestrator) -> None:
    path, router = orchestrator.settings.router_file, orchestrator.router
    router.fit([*OWN, ("who won the cup", None)], seed=7)
    router.save(path, orchestrator.registry)
    assert forget(orchestrator, ["Who won  the cup"]) == "fitted"
    assert "who won the cup" not in held(orchestrator)["none"]
    found = fitting.load(path, orchestrator.encoder.fingerprint, stamp(orchestrator.registry))
    assert found.seed == 7
    router.restore(path, orchestrator.registry)
    router.save(path, orchestrator.registry)
    assert fitting.load(path, orchestrator.encoder.fingerprint, stamp(orchestrator.registry)).seed == 7


def test_where_the_router_cannot_be_written_nothing_is_learned(orchestrator: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    orchestrator.settings.router_file.mkdir()
    monkeypatch.setattr("mdsa_local.routing.fitting.fit", None)
    with pytest.raises(StorageError, match=r"router\.npz"):
        learn(orchestrator, OWN)


def test_where_nothing_is_left_to_learn_from_the_file_goes(tmp_path: Path, encoder: Encoder) -> None:
    domains = [DomainConfig(name=name, description=name) for name in SMALL]
    with TinyBERTOrchestrator(settings=Settings.load({}, home=tmp_path), domains=domains) as made:
        made.__dict__["encoder"] = encoder
        made.router.fit(OWN)
        made.router.save(made.settings.router_file, made.registry)
        half = [text for text, domain in OWN if domain == "finance"]
        assert forget(made, half) == "fitted"
        assert forget(made, [text for text, _ in OWN]) == "removed"
        assert not made.settings.router_file.exists()


def test_a_trained_classifier_does_not_keep_what_is_to_be_forgotten(orchestrator: TinyBERTOrchestrator, encoder: Encoder) -> None:
    learn(orchestrator, OWN, seed=1)
    beside = copy.copy(encoder)
    beside.classifier = cast(Classifier, object())
    orchestrator.__dict__["encoder"] = beside
    assert forget(orchestrator, [text for text, domain in OWN if domain == "finance"]) == "fitted"
    assert b"gribble" not in orchestrator.settings.router_file.read_bytes()
    with pytest.raises(ConfigError, match="trained classifier"):
        learn(orchestrator, OWN)


def test_a_router_that_cannot_be_read_is_left_alone(
    orchestrator: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learn(orchestrator, OWN, seed=1)
    path = orchestrator.settings.router_file
    written, read_bytes = path.read_bytes(), Path.read_bytes

    def refused(at: Path) -> bytes:
        if at == path:
            raise OSError(errno.EMFILE, "Too many open files")
        return read_bytes(at)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refused)
        for work in (lambda: forget(orchestrator, [OWN[0][0]]), lambda: learn(orchestrator, OWN)):
            with pytest.raises(StorageError, match="Too many open files"):
                work()
        assert orchestrator.router.route("my card is lost").domain == "finance"
        assert "routing by examples alone" in caplog.text
    assert path.read_bytes() == written


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
