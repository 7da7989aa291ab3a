"""The router on the shipped encoder and domains; held-out questions were written apart from the examples."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import ConfigError, InputError, UnknownNameError
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing import fitting, reading
from mdsa_local.routing.anchors import FEW, SOFTNESS, USUAL_FEW, WHOLE, Anchors, Index
from mdsa_local.routing.calibration import USUAL, Calibration
from mdsa_local.routing.encoder import Encoder
from mdsa_local.routing.evaluation import evaluate
from mdsa_local.routing.fitting import Fit, Thresholds
from mdsa_local.routing.learning import right
from mdsa_local.routing.making import made_router
from mdsa_local.routing.reading import Snapshot, scored
from mdsa_local.routing.router import IntentRouter
from mdsa_local.settings import Settings
from mdsa_local.types import Route
from tests.conftest import DATA

NAMES = ("finance", "medical", "support", "technical")


def held_out() -> list[tuple[str, str | None]]:
    pairs: list[tuple[str, str | None]] = []
    for name in NAMES:
        pairs += [(text, name) for text in yaml.safe_load((DATA / f"routing/{name}.yaml").read_text(encoding="utf-8"))]
    return pairs


def beyond() -> list[tuple[str, str | None]]:
    return [(text, None) for text in yaml.safe_load((DATA / "out_of_scope.yaml").read_text(encoding="utf-8"))]


def test_the_shipped_domains_are_told_apart_and_from_everything_else(product: TinyBERTOrchestrator) -> None:
    result = evaluate(product.router, held_out() + beyond())
    assert result["n"] >= 350
    assert result["accuracy"] >= 0.85
    assert result["oos_auroc"] >= 0.93
    assert result["oos_recall"] >= 0.80
    assert result["coverage"] >= 0.80
    assert result["ece"] <= 0.09


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("my card was charged twice", "finance"),
        ("whats a normal blood presure", "medical"),
        ("where is my parcel", "support"),
        ("webhook signature does not verify", "technical"),
        ("what's the weather on mars", None),
        ("who painted the mona lisa", None),
        ("asdf qwer zxcv", None),
    ],
)
def test_plain_cases(product: TinyBERTOrchestrator, text: str, domain: str | None) -> None:
    route = product.router.route(text)
    assert route.domain == domain, route
    assert route.reason
    assert 0.0 <= route.confidence <= 1.0
    assert sum(route.scores.values()) <= 1.0 + 1e-6


def test_a_domain_of_keywords_alone_works_at_once(encoder: Encoder) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    assert router.route("anything").domain is None
    router.register(DomainConfig(name="garden", description="Plants", keywords=["pruning roses", "compost", "watering tomatoes"]))
    router.register(DomainConfig(name="cars", description="Cars", keywords=["engine oil", "flat tyre", "brakes squeal"]))
    assert router.route("how do i change a flat tyre").domain == "cars"
    router.unregister("cars")
    assert "cars" not in router.route("how do i change a flat tyre").scores
    with pytest.raises(UnknownNameError):
        router.unregister("cars")


def test_a_domain_of_few_keywords_does_not_draw_questions_away(product: TinyBERTOrchestrator, encoder: Encoder) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    router.register_all(product.registry)
    before = evaluate(router, held_out())["accuracy"]
    router.register(DomainConfig(name="garden", description="Gardening and plants", keywords=["pruning roses", "compost", "watering"]))
    assert evaluate(router, held_out())["accuracy"] >= before - 0.02


def test_fit_learns_from_pairs_and_is_seeded(encoder: Encoder) -> None:
    pairs: list[tuple[str, str | None]] = [*held_out(), *beyond()[:60]]
    first, second = IntentRouter(encoder), IntentRouter(encoder)
    first.fit(pairs)
    second.fit(pairs)
    assert first.route("how do i reset the hub").scores == second.route("how do i reset the hub").scores
    assert set(first.domains) == set(NAMES)
    with pytest.raises(ConfigError):
        IntentRouter(encoder).fit([("nothing in scope", None)])


def test_fit_takes_lines_of_json_and_learns_no_domain_of_their_keys(encoder: Encoder) -> None:
    router = IntentRouter(encoder)
    router.fit([{"text": "roses in may", "domain": "garden"}, {"text": "bake a cake", "domain": "kitchen"}, {"text": "who won", "domain": None}])
    assert router.examples == {"garden": 1, "kitchen": 1}
    with pytest.raises(InputError, match="example 0: its domain is 5"):
        router.fit([("a", 5)])  # type: ignore[list-item]
    assert router.domains == ("garden", "kitchen")


def test_a_row_given_twice_is_learned_once(encoder: Encoder) -> None:
    router = IntentRouter(encoder)
    report = router.fit([("roses", "garden"), ("compost", "garden"), ("roses", "garden"), ("flu", "health"), ("flu", None), ("flu", None)])
    assert (report["examples"], report["out_of_scope"]) == (3, 1)


def test_a_closed_router_learns_no_other_names(encoder: Encoder) -> None:
    router = IntentRouter(encoder, closed=True)
    router.register(DomainConfig(name="bikes", keywords=["puncture"]))
    with pytest.raises(InputError, match="no domain is called 'bike', 'cars'") as caught:
        router.fit([("how do I mend a puncture", "bike"), ("oil", "cars"), ("who won", None)])
    assert caught.value.hint.startswith("Did you mean 'bikes'? Known: bikes.")
    assert "register_domain" in caught.value.hint
    assert router.examples == {"bikes": 0}
    assert "who won" not in router.texts


def test_an_encoder_brings_its_own_calibration(encoder: Encoder) -> None:
    assert IntentRouter(encoder).calibration == encoder.calibration
    own = replace(encoder.calibration, scope=0.3)
    assert IntentRouter(encoder, own).calibration == own


def test_a_domain_registered_while_fitting_is_not_lost(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    router = IntentRouter(encoder)
    with pytest.raises(ConfigError):
        router.fit()
    fit = fitting.fit

    late = [DomainConfig(name="late", keywords=["soup"])]

    def slow(*arguments: Any, **options: Any) -> Fit:
        if late:
            router.register(late.pop())
        return fit(*arguments, **options)

    monkeypatch.setattr(fitting, "fit", slow)
    router.fit(held_out())
    assert "late" in router.route("soup").scores


def test_a_domain_registered_while_the_router_is_made_is_told_to_it(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(settings: Settings, encoder: Encoder, domains: list[DomainConfig], configured: tuple[DomainConfig, ...]) -> IntentRouter:
        begun.set()
        assert go_on.wait(60)
        return made_router(settings, encoder, domains, configured)

    monkeypatch.setattr("mdsa_local.routing.making.made_router", slow)
    cars = DomainConfig(name="cars", keywords=["flat tyre"])
    with TinyBERTOrchestrator(settings=Settings.load({}, home=tmp_path), domains=[cars]) as front:
        front.__dict__["encoder"] = encoder
        found: list[IntentRouter] = []
        threads = [threading.Thread(target=lambda: found.append(front.router)) for _ in range(2)]
        threads.append(threading.Thread(target=lambda: front.register_domain("garden", "Growing flowers")))
        threads[0].start()
        assert begun.wait(60)
        for thread in threads[1:]:
            thread.start()
        threads[-1].join(0.5)
        go_on.set()
        for thread in threads:
            thread.join(60)
        assert front.router.domains == ("cars", "garden")
        assert found == [front.router] * 2


def test_registering_while_routing(encoder: Encoder) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    router.register(DomainConfig(name="cars", keywords=["engine oil", "flat tyre"]))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                router.route("how do i change a flat tyre")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        router.register(DomainConfig(name=f"d{number}", keywords=["soup", "bread"]))
        router.unregister(f"d{number}")
    for thread in threads:
        thread.join()
    assert failures == []


def test_vectors_are_cached_on_disk_and_only_for_this_encoder(encoder: Encoder, tmp_path: Path) -> None:
    class Counting:
        fingerprint = encoder.fingerprint
        texts = 0

        def encode(self, texts: list[str]) -> np.ndarray:
            self.texts += len(texts)
            return encoder.encode(texts)

    domain = DomainConfig(name="cars", keywords=["engine oil", "flat tyre"])
    counting = Counting()
    IntentRouter(counting, cache=tmp_path).register(domain)
    embedded = counting.texts
    IntentRouter(counting, cache=tmp_path).register(domain)
    assert counting.texts == embedded
    counting.fingerprint = "another"
    IntentRouter(counting, cache=tmp_path).register(domain)
    assert counting.texts == 2 * embedded


def test_a_changed_domain_is_embedded_only_where_it_changed(encoder: Encoder) -> None:
    asked: list[str] = []

    class Noting:
        fingerprint = encoder.fingerprint

        def encode(self, texts: list[str]) -> np.ndarray:
            asked.extend(texts)
            return encoder.encode(texts)

    first = DomainConfig(name="cars", examples=["change the engine oil", "a flat tyre", "the brakes squeal"])
    changed = DomainConfig(name="cars", examples=["the brakes squeal", "a new windscreen", "a flat tyre", "a flat tyre"])
    router, plain = IntentRouter(Noting(), encoder.calibration), IntentRouter(encoder, encoder.calibration)
    router.register(first)
    asked.clear()
    router.register(changed)
    assert asked == ["a new windscreen"]
    router.register(changed)
    assert asked == ["a new windscreen"]
    plain.register(changed)
    for text in ("my windscreen is broken", "brakes make a noise", "bread and butter"):
        assert router.route(text).scores["cars"] == pytest.approx(plain.route(text).scores["cars"], abs=0.02)


def test_the_temperature_follows_the_number_of_anchors_until_a_fit(encoder: Encoder) -> None:
    own = encoder.calibration
    assert own.crowding > 0
    assert own.among(USUAL).temperature == pytest.approx(own.temperature)
    assert own.among(10 * USUAL).temperature < own.temperature < own.among(1).temperature
    assert own.among(7).among(7) == own.among(7)
    router = IntentRouter(encoder, own)
    router.fit(held_out())
    assert router.calibration.crowding == 0
    assert router.calibration.among(3) == router.calibration


def test_a_question_alone_has_the_evidence_it_has_among_many() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = Index({name: Anchors(("",) * 8, ("example",) * 8, vectors[8 * i : 8 * i + 8]) for i, name in enumerate("abcd")})
    together = index.evidence(vectors[32:])
    assert len(vectors[32:]) > FEW
    assert np.allclose(np.concatenate([index.evidence(vectors[i : i + 1]) for i in range(32, 40)]), together, atol=1e-5)
    nearest = np.log(np.exp(vectors[32:] @ vectors[:8].T / SOFTNESS).mean(axis=1)) * SOFTNESS
    middle = vectors[:8].mean(axis=0)
    share = WHOLE * USUAL_FEW / (USUAL_FEW + 8)
    exact = (1 - share) * nearest + share * (vectors[32:] @ (middle / np.linalg.norm(middle)))
    assert np.allclose(together[:, 0], exact, atol=1e-5)


@pytest.mark.parametrize("counts", [[8], [1, 8, 40, 3], [8] * reading.FEW])
@pytest.mark.parametrize("own", [Calibration(), Calibration(sureness=0.7, sharpness=1.3), Calibration(slope=5000.0)])
def test_a_question_alone_has_the_probabilities_it_has_among_many(counts: list[int], own: Calibration) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((sum(counts) + 20, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ends = np.cumsum(counts)
    anchors = {
        f"d{i}": Anchors(("",) * count, ("example",) * count, vectors[end - count : end])
        for i, (count, end) in enumerate(zip(counts, ends, strict=True))
    }
    now = Snapshot(Index(anchors), Fit(None, 0.0, own, Thresholds(), {}), own)
    # Questions near to an anchor, and such that are near to nothing.
    asked = np.concatenate([vectors[-20:], vectors[:5] * 0.9 + vectors[-5:] * 0.1])
    together = scored(now, lambda _: asked, None, [""] * len(asked))
    for row, vector in enumerate(asked):
        alone = scored(now, lambda _, vector=vector: vector[None], None, [""])  # type: ignore[misc]
        assert alone.names == together.names and alone.scores.shape == (1, len(counts))
        assert np.allclose(alone.scores[0], together.scores[row], atol=1e-5 * max(1, own.slope / 25))
        assert np.allclose(alone.scope, together.scope[row], atol=1e-5 * max(1, own.slope / 25))


def test_an_anchor_asked_about_is_left_out_of_its_domain() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def index(first: NDArray[np.float32]) -> Index:
        return Index({name: Anchors(("",) * len(own), ("example",) * len(own), own) for name, own in (("a", first), ("b", vectors[10:]))})

    left_out = index(vectors[:10]).evidence(vectors[:10], np.arange(10))
    for row in range(10):
        others = np.delete(vectors[:10], row, axis=0)
        assert np.allclose(left_out[row], index(others).evidence(vectors[row : row + 1])[0], atol=1e-5)


def test_without_questions_nothing_is_evaluated(product: TinyBERTOrchestrator) -> None:
    with pytest.raises(InputError, match="no questions"):
        evaluate(product.router, [])


def test_a_domain_of_few_examples_stands_up_to_large_ones(product: TinyBERTOrchestrator, encoder: Encoder) -> None:
    found: list[bool] = []
    taken: list[bool] = []
    for name in NAMES:
        # Five of its examples in place of some 190.
        few = next(domain for domain in product.registry if domain.name == name)
        few = few.model_copy(update={"examples": few.examples[::40][:5], "keywords": (), "description": ""})
        router = IntentRouter(encoder, encoder.calibration)
        router.register_all([few, *(domain for domain in product.registry if domain.name != name)])
        for text, domain in held_out():
            (found if domain == name else taken).append(router.route(text).domain == name)
    assert np.mean(found) >= 0.3
    assert np.mean(taken) <= 0.04


def test_a_small_domain_of_the_users_takes_in_little_of_what_belongs_nowhere(product: TinyBERTOrchestrator, encoder: Encoder) -> None:
    def accepted(*more: DomainConfig) -> float:
        router = IntentRouter(encoder, encoder.calibration)
        router.register_all([*product.registry, *more])
        return float(np.mean([router.route(text).domain is not None for text, _ in beyond()]))

    assert accepted() <= 0.16
    for name, description, keywords in (
        ("film", "Movies and series", ("actors", "cinema", "directors")),
        ("notes", "My notes", ()),
        ("sailing", "The sailing club", ("boats", "regatta", "berth")),
    ):
        assert accepted(DomainConfig(name=name, description=description, keywords=keywords)) <= 0.24, name


def test_what_is_measured_is_what_is_decided(product: TinyBERTOrchestrator, encoder: Encoder) -> None:
    """Small talk, and what is like a question that was said to belong nowhere, are refused by the evaluation too."""
    known = ["what is the price of gold today", "how do i fix a flat bicycle tyre", "which university is best for medicine", "can i sue my landlord"]
    asked = [*known, "what's the gold price today", "hi there", "thanks a lot", "reset my router", "i was charged twice", "hi there"]
    # So low that what is like the known ones is not refused for its confidence already.
    router = IntentRouter(encoder, encoder.calibration, accept=0.5, ask=0.2)
    router.register_all(product.registry)
    router.fit([(text, None) for text in known])
    routes, likeliest = router.decided(asked)
    assert "which belongs to no domain" in routes[4].reason
    one_by_one = [router.route(text, split=False) for text in asked]

    def told(route: Route) -> tuple[str | None, bool, str]:
        # Quantised vectors, and so the figures, depend a little on what is encoded together.
        return route.domain, route.small_talk, re.sub(r"[0-9.]+", "", route.reason)

    assert list(map(told, routes)) == list(map(told, one_by_one))
    assert likeliest[7:9] == ["technical", "finance"]
    assert all(route.domain is None for route in routes[:7])
    figures = evaluate(router, [(text, None) for text in known])
    assert figures["oos_recall"] == 1.0
    assert right(router, [(text, None) for text in known]) == len(known)
    assert IntentRouter(encoder).decided(["hello"])[1] == [None]
    assert router.decided([]) == ([], [])


def test_a_figure_that_is_no_other_when_rounded_is_told_apart(encoder: Encoder) -> None:
    def routed(accept: float, ask: float = 0.0) -> tuple[float, str]:
        router = IntentRouter(encoder, None, accept, ask)
        router.register_all([DomainConfig(name="garden", keywords=("roses",)), DomainConfig(name="film", keywords=("cinema",))])
        found = router.route("is there a cinema with roses")
        return found.confidence, found.reason

    confidence, _ = routed(0.0)
    needed = confidence + 1e-4
    assert routed(needed)[1].endswith(f"; unsure, {confidence:.4f} is below {needed:.4f}")
    assert routed(needed, needed)[1].endswith(f" at {confidence:.4f}, needed {needed:.4f})")
    assert routed(1.0)[1].endswith("; unsure, below 1.00")


def test_arguments_of_the_wrong_kind_are_told(product: TinyBERTOrchestrator) -> None:
    wrong: Any
    for wrong in (None, 5, ["my card"], "\ud800"):
        for ask in (product.router.route, product.router.explain, product.router.routed, product.router.parts):
            with pytest.raises(InputError, match="the question"):
                ask(wrong)
        with pytest.raises(InputError, match="the question"):
            product.router.decided([wrong])
    for wrong in ("how do I", [None], {"a": "b"}, 5, ["\ud800"]):
        with pytest.raises(InputError, match="the history"):
            product.router.route("my card was charged twice", wrong)
    nothing: Any
    for nothing in (None, [], ()):
        assert product.router.route("my card was charged twice", nothing).domain == "finance"
    for wrong in (None, 5, "finance", {"name": "finance"}):
        for register in (product.router.register, product.registry.register):
            with pytest.raises(ConfigError, match="the domain cannot be"):
                register(wrong)
    for wrong in (None, 5, ["finance"]):
        for name in (product.router.unregister, product.registry.unregister, product.registry.get):
            with pytest.raises(InputError, match="the domain cannot be"):
                name(wrong)
    for wrong in ("x", 2.0, -1, float("nan")):
        for given in ({"accept": wrong}, {"ask": wrong}):
            with pytest.raises(ConfigError, match="cannot be"):
                IntentRouter(product.encoder, **given)


def test_without_a_domain_nothing_is_right(encoder: Encoder) -> None:
    result = evaluate(IntentRouter(encoder), [("what's the weather on mars", None), ("sing a song", None)])
    assert result["ece"] == 0.0
    assert [row["right"] for row in result["reliability"]] == [0.0]
