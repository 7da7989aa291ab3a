"""Fitting on examples: held-out choice of the head, thresholds, what is kept on disk, refitting in the background."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import ConfigError, InputError, StorageError
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing import fitting, words
from mdsa_local.routing.anchors import Anchors, Floats, Index
from mdsa_local.routing.calibration import Calibration, expected_calibration_error, fit_temperature
from mdsa_local.routing.encoder import Encoder
from mdsa_local.routing.fitting import WORD_SHARES, WORDY, Fit, Opinion, Thresholds, fit, mixed
from mdsa_local.routing.head import softmax, train
from mdsa_local.routing.router import IntentRouter
from mdsa_local.settings import Settings
from tests.conftest import DATA

NAMES = ("finance", "medical", "support", "technical")


def held_out(name: str) -> list[str]:
    loaded: list[str] = yaml.safe_load((DATA / f"routing/{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def outside() -> list[str]:
    loaded: list[str] = yaml.safe_load((DATA / "out_of_scope.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def domains(product: TinyBERTOrchestrator) -> list[DomainConfig]:
    return list(product.registry)


def blobs(n: int, seed: int, spread: float = 0.5) -> dict[str, Floats]:
    """``n`` unit vectors of each of three classes that overlap; each class has two clusters, so that a straight line does not part them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((6, 16))
    out = {}
    for i, name in enumerate(("a", "b", "c")):
        x = centres[rng.choice([i, i + 3], n)] + spread * 2 * rng.standard_normal((n, 16))
        out[name] = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return out


def index_of(vectors: dict[str, Floats]) -> Index:
    return Index({name: Anchors(("",) * len(v), ("example",) * len(v), v) for name, v in vectors.items()})


def beyond(vectors: Floats) -> Anchors:
    return Anchors(("",) * len(vectors), ("outside",) * len(vectors), vectors)


def test_confidence_after_a_fit_is_a_probability() -> None:
    index = index_of(blobs(400, 1))
    found = fit(index, Calibration(scope=-1.0))
    assert found.report["accuracy"] >= found.report["accuracy_nearest"]
    fresh = blobs(600, 2)
    vectors = np.concatenate(list(fresh.values()))
    labels = np.repeat(np.arange(3), 600)
    judged = found.judge.opinion([""] * len(vectors), vectors, index.names) if found.judge else None
    shares = mixed(index.evidence(vectors), judged, found.weight, found.calibration).shares
    assert expected_calibration_error(shares.max(axis=1).tolist(), (shares.argmax(axis=1) == labels).tolist()) <= 0.04


def test_classifiers_that_differ_speak_against_any_domain() -> None:
    """Both are as sure, the one by vectors and the one by words; where they name different domains nothing is sure."""
    surely_first, surely_second = np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]])
    evidence, calibration = np.array([[0.6, 0.5]]), Calibration(sureness=1.0)
    same, different = (Opinion.of(surely_first, by_words, 0.0) for by_words in (surely_first, surely_second))
    assert same.agreed == pytest.approx([0.82]) and different.agreed == pytest.approx([0.18])
    agreed, differed = (mixed(evidence, opinion, 0.5, calibration) for opinion in (same, different))
    assert (agreed.shares == differed.shares).all()
    level = evidence.max(axis=1)
    assert calibration.in_scope(level, differed.sure) < calibration.in_scope(level, agreed.sure)
    unheard = mixed(evidence, different, 0.0, calibration)
    assert (unheard.sure == unheard.shares.max(axis=1)).all()


def test_few_or_no_examples() -> None:
    few = index_of(blobs(3, 1))
    assert fit(few, Calibration()).judge is None
    one = Index({"a": Anchors(("x",), ("example",), blobs(1, 1)["a"])})
    assert fit(one, Calibration()).weight == 0.0
    with pytest.raises(ConfigError, match="none"):
        fit(Index({"a": Anchors(("x",), ("keyword",), blobs(1, 1)["a"])}), Calibration())


def test_a_fit_outlives_the_process_and_only_with_its_encoder_and_domains(encoder: Encoder, domains: list[DomainConfig], tmp_path: Path) -> None:
    path = tmp_path / "router.npz"
    router = IntentRouter(encoder, encoder.calibration)
    router.register_all(domains)
    router.fit([(text, name) for name in NAMES for text in held_out(name)] + [("what's the weather on mars", None)] * 5, per_domain=True)
    router.save(path, domains)
    again = IntentRouter(encoder, encoder.calibration)
    again.restore(path, domains)
    question = "how do i reset the hub"
    assert again.route(question).scores == pytest.approx(router.route(question).scores, abs=2e-2)
    assert again.thresholds == router.thresholds
    assert set(again.thresholds.per_domain or {}) <= set(NAMES)

    class Other:
        fingerprint = "another"
        encode = encoder.encode

    with pytest.raises(ConfigError, match="another encoder"):
        IntentRouter(Other()).restore(path, domains)
    with pytest.raises(ConfigError, match="domains have changed"):
        again.restore(path, domains[:-1])
    for damaged in (path.read_bytes()[:2000], b"junk"):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"not a fitted router, or a damaged one$"):
            again.restore(path, domains)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError):
        router.save(blocked / "router.npz", domains)


def test_the_product_uses_what_was_fitted_and_goes_on_without_it(encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.load(home=tmp_path)
    with TinyBERTOrchestrator(settings=settings) as front:
        assert front.router.fit()["threshold"] >= 0.35
        assert front.router.route("what's the weather on mars").domain is None
        front.router.fit([(text, None) for text in outside()])
        front.router.save(settings.router_file, front.registry)
        report = front.router.report
        thresholds = front.router.thresholds
    with TinyBERTOrchestrator(settings=settings) as front:
        assert front.router.report == report
        assert front.router.thresholds == thresholds
        assert thresholds.ask != 0.35
        front.register_domain("garden", "Plants", ["compost"])
        assert front.router.thresholds.ask == thresholds.ask
    with TinyBERTOrchestrator(settings=settings.changed(use_reasoning_threshold=0.6)) as front:
        assert front.router.thresholds.ask == 0.6
    settings.router_file.write_bytes(b"rubbish")
    with TinyBERTOrchestrator(settings=settings) as front:
        assert front.router.route("my card was charged twice").domain == "finance"
    assert "not a fitted router" in caplog.text


def test_a_domain_takes_effect_at_once_and_the_head_follows(encoder: Encoder, domains: list[DomainConfig]) -> None:
    router = IntentRouter(encoder, encoder.calibration, background=True)
    router.register_all(domains)
    assert router.settle(120)
    assert router.report["head_weight"] > 0
    garden = DomainConfig(
        name="garden",
        examples=(
            "when do i prune roses",
            "my tomatoes have brown spots",
            "how deep do tulip bulbs go",
            "compost smells bad",
            "slugs eat my lettuce",
            "which plants like shade",
            "how often should i water a fern",
            "is it too late to sow carrots",
        ),
    )
    router.register(garden)
    assert router.route("slugs are eating the lettuce").domain == "garden"
    assert router.settle(120)
    assert router.route("slugs are eating the lettuce").domain == "garden"
    assert router.report["head_weight"] > 0
    router.unregister("garden")
    assert router.route("slugs are eating the lettuce").domain != "garden"
    assert router.settle(120)


def test_a_domain_registered_after_a_fit_during_a_refit_is_learned(
    encoder: Encoder, domains: list[DomainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def gated(index: Index, calibration: Calibration, *_: Any, seed: int, **__: Any) -> Fit:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert go_on.wait(60)
        return Fit(None, 0.0, calibration, Thresholds(), {"examples": len(index.examples[0]), "seed": seed})

    monkeypatch.setattr("mdsa_local.routing.fitting.fit", gated)
    few = [domain.model_copy(update={"examples": domain.examples[:8]}) for domain in domains]
    router = IntentRouter(encoder, encoder.calibration, background=True)
    router.register_all(few[:-1])
    assert begun.wait(60)
    router.fit()
    router.register(few[-1])
    go_on.set()
    assert router.settle(120)
    assert router.report["examples"] == 8 * len(few)
    # A refit leaves alone what was fitted meanwhile.
    go_on.clear()
    begun.clear()
    router.unregister(few[0].name)
    assert begun.wait(60)
    told = router.fit(seed=1)
    fitted = router._now
    go_on.set()
    assert router.settle(120)
    assert router._now is fitted
    assert router.report == told


def small(domains: list[DomainConfig], n: int = 12) -> list[DomainConfig]:
    return [domain.model_copy(update={"examples": domain.examples[:n]}) for domain in domains]


GARDEN = DomainConfig(name="garden", description="Growing flowers", keywords=["roses", "compost"])
FIVE = GARDEN.model_copy(
    update={"examples": ("when do i prune roses", "slugs eat my lettuce", "sow carrots", "dig a pond", "which plants like shade")}
)


def test_thresholds_stay_as_they_were_learned(encoder: Encoder, domains: list[DomainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(index: Index, calibration: Calibration, *_: Any, per_domain: bool, **__: Any) -> Fit:
        own = dict.fromkeys(index.names, 0.3) if per_domain else None
        return Fit(None, 0.0, calibration, Thresholds(0.6 if per_domain else 0.7, 0.4, own), {"examples": len(index.examples[0])})

    monkeypatch.setattr("mdsa_local.routing.fitting.fit", told)
    few = small(domains, 4)
    fitted = IntentRouter(encoder, encoder.calibration)
    fitted.register_all(few)
    fitted.fit(per_domain=True)
    fitted.save(tmp_path / "router.npz", few)
    router = IntentRouter(encoder, encoder.calibration, background=True)
    router.restore(tmp_path / "router.npz", few)
    learned = router.thresholds
    router.register(FIVE)
    assert router.thresholds == learned
    assert router.settle(60) and router.report["examples"] == 4 * len(few) + 5
    assert router.thresholds == learned
    router.unregister(few[0].name)
    assert router.settle(60)
    assert set(router.thresholds.per_domain or {}) == {domain.name for domain in few[1:]}
    router.unregister("garden")
    router.register(few[0])
    assert router.settle(60)
    assert (router.thresholds, router.report["examples"]) == (learned, 4 * len(few)), "as it was when it was fitted"


def test_what_was_fitted_without_classifiers_goes_with_the_last_of_its_domains(
    encoder: Encoder, domains: list[DomainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = Calibration(temperature=0.01, sharpness=3.0)
    monkeypatch.setattr("mdsa_local.routing.fitting.fit", lambda *_, **__: Fit(None, 0.0, learned, Thresholds(0.7, 0.4), {"examples": 1}))
    few = small(domains, 1)
    router = IntentRouter(encoder, encoder.calibration, background=True)
    router.register_all(few, refit=False)
    router.fit()
    router.register(GARDEN)
    assert router.settle(60) and router.calibration == learned
    for domain in few[1:]:
        router.unregister(domain.name)
    assert router.settle(60) and (router.calibration, router.thresholds) == (learned, Thresholds(0.7, 0.4))
    router.unregister(few[0].name)
    assert router.settle(60) and (router.calibration, router.thresholds) == (encoder.calibration, Thresholds())
    router.unregister("garden")
    router.register_all(few)
    assert router.settle(60) and (router.calibration, router.report) == (learned, {"examples": 1})


def test_where_nothing_was_fitted_a_domain_that_goes_again_leaves_nothing(encoder: Encoder, domains: list[DomainConfig]) -> None:
    router = IntentRouter(encoder, encoder.calibration, background=True)
    router.register_all(small(domains, 4), refit=False)
    before = router._now
    router.register(FIVE)
    assert router.settle(120) and router.report["examples"] == 4 * len(domains) + 5
    router.unregister("garden")
    assert router.settle(120) and router._now is before


def test_a_domain_registered_again_with_the_same_texts_keeps_what_was_learned(
    encoder: Encoder, domains: list[DomainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdsa_local.routing.fitting.fit", lambda *given, **_: Fit(None, 0.0, given[1], Thresholds(), {"examples": 1}))
    few = small(domains, 4)
    fitted = IntentRouter(encoder, encoder.calibration)
    fitted.register_all(few)
    fitted.fit([(text, domain.name) for domain in few for text in (*domain.examples, "a zebra squeaks")])
    fitted.save(tmp_path / "router.npz", few)
    restored = IntentRouter(encoder, encoder.calibration)
    restored.restore(tmp_path / "router.npz", few)
    edited = few[0].model_copy(update={"system_prompt": "Be brief."})
    for router in (fitted, restored):
        learned = router._now
        router.register(edited)
        assert router._now is learned
        router.register(edited.model_copy(update={"examples": ("one other",)}))
        assert router.examples[edited.name] == 1
        router.register(edited)
        assert router._now is learned
        router.unregister(edited.name)
        router.register(edited)
        assert router._now is learned and router.examples[edited.name] == 5
    # Of what was never fitted nothing is kept either.
    fitted.register(GARDEN)
    fitted.register(GARDEN.model_copy(update={"keywords": ("lawn",)}))
    assert "lawn" in fitted.texts and "roses" not in fitted.texts


def test_the_head_goes_on_for_the_domains_it_knows(
    encoder: Encoder, domains: list[DomainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "WEIGHTS", (0.5,))
    few = small(domains)
    router = IntentRouter(encoder, encoder.calibration, background=True)
    router.register_all(few, refit=False)
    router.fit([(text, None) for text in outside()[::2]])
    questions = [*held_out("finance")[:20], *held_out("support")[:20], *outside()[1::2]]
    before, calibration, report = router.scores(questions)[1], router.calibration, router.report
    router.register(GARDEN)
    assert router.settle(60)
    names, beside = router.scores(questions)
    assert router.explain(questions[0]).head_weight == 0.5
    assert (beside <= 1).all() and (beside.sum(axis=1) <= 1 + 1e-6).all()
    assert router.route("compost for roses").domain == "garden"
    known = [names.index(domain.name) for domain in few]
    assert (beside[:, known].argmax(axis=1) == before.argmax(axis=1)).mean() > 0.95
    # Kept and taken up again, it knows as much.
    router.save(tmp_path / "router.npz", [*few, GARDEN])
    again = IntentRouter(encoder, encoder.calibration)
    again.restore(tmp_path / "router.npz", [*few, GARDEN])
    assert again.scores(questions)[1] == pytest.approx(beside, abs=2e-2)
    router.unregister("garden")
    assert router.settle(60)
    assert (router.scores(questions)[1] == before).all()
    assert (router.calibration, router.report) == (calibration, report)
    # Of what was learned of a domain that is another now, or gone, nothing is used.
    router.register(few[0].model_copy(update={"examples": (), "keywords": ("zymurgy",), "description": "", "title": "zymurgy"}))
    assert router.explain(questions[0]).head_weight == 0.5
    assert router.route("zymurgy").domain == few[0].name
    for domain in few:
        router.register(domain.model_copy(update={"examples": ("one other",)}))
    assert router.settle(60)
    assert router.explain(questions[0]).head_weight == 0.0
    assert (router.calibration, router.thresholds) == (encoder.calibration, Thresholds())


def test_a_domain_of_keywords_beside_a_fit_takes_little_of_what_belongs_nowhere(encoder: Encoder, domains: list[DomainConfig]) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    router.register_all(domains)
    router.fit([(text, None) for text in outside()[::2]])
    asked = outside()[1::2]
    before = sum(route.domain is None for route in router.decided(asked)[0])
    router.register(GARDEN.model_copy(update={"description": "Growing flowers and vegetables", "keywords": ("roses", "compost", "lawn")}))
    routes = router.decided(asked)[0]
    assert sum(route.domain is None for route in routes) >= before - 5
    assert sum(route.domain == "garden" for route in routes) <= 15


def test_a_domain_too_small_to_learn_keeps_none_of_the_others_from_it(encoder: Encoder, domains: list[DomainConfig]) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    router.register_all([*domains, GARDEN.model_copy(update={"description": "Growing flowers", "keywords": ("roses", "compost", "lawn")})])
    report = router.fit([(text, None) for text in outside()[::2]])
    assert report["not_learned"] == ["garden"]
    assert report["head_weight"] > 0
    routes = router.decided(outside()[1::2])[0]
    assert sum(route.domain is None for route in routes) >= 55
    assert sum(route.domain == "garden" for route in routes) <= 15
    assert router.route("when do i prune roses?").domain == "garden"


def test_a_fit_keeps_what_a_domain_is_described_by(encoder: Encoder, tmp_path: Path) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    router.register_all([GARDEN, DomainConfig(name="ships", description="Ferries and harbours")])
    router.fit([("when do hydrangeas bloom", "garden"), ("bake a cake", "kitchen")])
    assert {"garden", "Growing flowers", "roses", "compost", "when do hydrangeas bloom", "bake a cake"} <= router.texts
    assert router.examples == {"garden": 1, "ships": 0, "kitchen": 1}
    router.save(tmp_path / "router.npz", [GARDEN])
    again = IntentRouter(encoder, encoder.calibration)
    again.restore(tmp_path / "router.npz", [GARDEN])
    again.fit([(f"question {n} of a gardener", "garden") for n in range(20)])
    assert "roses" not in again.texts, "with so many examples nothing else counts"
    again.fit([("when do hydrangeas bloom", "garden")])
    assert "roses" in again.texts


def test_a_fit_that_is_refused_changes_nothing(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    router.register_all([GARDEN, DomainConfig(name="ships", description="Ferries and harbours")])
    before = router._now
    with pytest.raises(ConfigError, match="no examples"):
        router.fit([("tell me when roses bloom", None)])
    assert router._now is before
    monkeypatch.setattr("mdsa_local.routing.fitting.fit", lambda *_, **__: (_ for _ in ()).throw(ConfigError("not today")))
    with pytest.raises(ConfigError, match="not today"):
        router.fit([("when do hydrangeas bloom", "garden"), ("bake a cake", "kitchen")])
    assert router._now is before


def test_a_domain_removed_during_a_fit_stays_removed(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    router = IntentRouter(encoder, encoder.calibration, closed=True)
    router.register_all([GARDEN, DomainConfig(name="ships", description="Ferries and harbours")])

    def meanwhile(*given: Any, **options: Any) -> Fit:
        if "garden" in router.domains:
            router.unregister("garden")
        return fit(*given, **options)

    monkeypatch.setattr("mdsa_local.routing.fitting.fit", meanwhile)
    with pytest.raises(InputError, match="no domain is called 'garden'"):
        router.fit([("when do hydrangeas bloom", "garden")])
    assert router.domains == ("ships",)


def test_several_threads_may_save(encoder: Encoder, tmp_path: Path) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    router.register(FIVE)
    path = tmp_path / "router.npz"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(router.save, path) for _ in range(60)]:
            done.result()
    IntentRouter(encoder).restore(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("mark", "at", "value"),
    [
        (b"PK\x01\x02", 8, b"\x01"),  # encrypted
        (b"PK\x01\x02", 10, b"\x63"),  # a compression that there is none of
        (b"PK\x01\x02", 42, b"\xff\xff\xff\x7f"),  # beyond the end
        (b"\x93NUMPY", 6, b"\x07"),  # a version of numpy's own
        (b"\x93NUMPY", 10, b"{'descr': '<u"),
        (b"\x93NUMPY", 10, b"((((((((("),
        (b"\x93NUMPY", 10, b"{'a"),
    ],
)
def test_damage_of_any_kind_is_told_and_cached_vectors_are_made_again(mark: bytes, at: int, value: bytes, tmp_path: Path, encoder: Encoder) -> None:
    def damaged(path: Path) -> None:
        kept = path.read_bytes()
        where = kept.find(mark)
        while where >= 0:
            kept = kept[: where + at] + value + kept[where + at + len(value) :]
            where = kept.find(mark, where + 1)
        path.write_bytes(kept)

    router = IntentRouter(encoder, encoder.calibration, cache=tmp_path / "cache")
    router.register(FIVE)
    router.save(tmp_path / "router.npz")
    damaged(tmp_path / "router.npz")
    with pytest.raises(ConfigError, match="not a fitted router"):
        router.restore(tmp_path / "router.npz")
    (cached,) = (tmp_path / "cache").iterdir()
    damaged(cached)
    again = IntentRouter(encoder, encoder.calibration, cache=tmp_path / "cache")
    again.register(FIVE)
    assert again.scores(["roses"])[1] == pytest.approx(router.scores(["roses"])[1], abs=1e-6)


def test_registering_among_many_domains_is_quick(encoder: Encoder) -> None:
    rng = np.random.default_rng(0)

    class Made:
        """Vectors at random: only the router's own work is timed."""

        fingerprint = "made"

        def encode(self, texts: list[str]) -> Floats:
            x = rng.standard_normal((len(texts), encoder.width)).astype(np.float32)
            made: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
            return made

    def domain(number: int) -> DomainConfig:
        return DomainConfig(name=f"d{number}", examples=tuple(f"example {i} of {number}" for i in range(50)))

    router = IntentRouter(Made())
    router.register_all(domain(number) for number in range(100))
    times = []
    for number in range(5):
        began = time.perf_counter()
        router.register(domain(100 + number))
        router.unregister(f"d{100 + number}")
        times.append((time.perf_counter() - began) * 1000)
    assert sorted(times)[2] < 100


def test_what_is_learned_is_never_the_wrong_way_round() -> None:
    same = blobs(30, 1)["a"]
    found = fit(Index({"a": Anchors(("",) * 30, ("example",) * 30, same)}), Calibration(), beyond(same[:20]))
    assert found.calibration.slope > 0
    assert found.calibration.sureness >= 0
    few = Index({"a": Anchors(("",), ("example",), same[:1]), "b": Anchors(("",), ("example",), same[1:2])})
    assert fit(few, Calibration(), beyond(same[2:9])).calibration == Calibration()


def test_words_that_vectors_blur_are_learned() -> None:
    rng = np.random.default_rng(3)
    blurred = blobs(150, 1, spread=2.0)
    said = {name: tuple(f"tell me about the {name}-form {rng.integers(40)}" for _ in range(150)) for name in blurred}
    index = Index({name: Anchors(said[name], ("example",) * 150, v) for name, v in blurred.items()})
    found = fit(index, Calibration())
    assert found.report["word_share"] > 0
    assert found.report["accuracy"] > found.report["accuracy_nearest"] + 0.1
    assert found.judge
    fresh = blobs(20, 5, spread=2.0)["b"]
    judged = found.judge.opinion(["where is my b-form 41"] * 20, fresh, index.names).probabilities
    assert judged.mean(axis=0).argmax() == 1


@pytest.mark.parametrize(("n", "share"), [(WORDY - 1, 0.0), (WORDY, WORD_SHARES[-1])])
def test_of_many_examples_words_are_learned_whatever_held_out_ones_say(n: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out_ = fitting._held_out

    def misled(*args: Any) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        by_vector, by_word = held_out_(*args)
        return by_vector, np.roll(by_word, 1, axis=1)

    monkeypatch.setattr(fitting, "_held_out", misled)
    vectors = blobs(n, 1, spread=1.0)
    said = {name: tuple(f"tell me about {name} number {i}" for i in range(n)) for name in vectors}
    found = fit(Index({name: Anchors(said[name], ("example",) * n, v) for name, v in vectors.items()}), Calibration())
    assert found.report["word_share"] == share


def test_a_fit_with_words_is_kept(tmp_path: Path, encoder: Encoder) -> None:
    rng = random.Random(0)
    pairs: list[tuple[str, str | None]] = [
        (f"please {verb} the {noun}", verb) for verb in ("polish", "paint") for noun in rng.choices(("door", "gate"), k=40)
    ]
    router = IntentRouter(encoder, encoder.calibration)
    report = router.fit([*pairs, *((f"sing number {i}", None) for i in range(8))])
    router.save(tmp_path / "router.npz")
    again = IntentRouter(encoder, encoder.calibration)
    again.restore(tmp_path / "router.npz")
    assert again.report == report
    for text in ("paint the fence", "polish it", "sing number 9"):
        before, after = router.route(text), again.route(text)
        assert before.domain == after.domain
        assert abs(before.confidence - after.confidence) < 0.01


def test_many_examples_are_held_out_in_part() -> None:
    found = fit(index_of(blobs(1001, 1)), Calibration())
    assert found.report["held_out"] == 750
    assert found.report["head_weight"] > 0


def test_it_explains_itself(product: TinyBERTOrchestrator) -> None:
    told = product.router.explain("my card was charged twice")
    assert told.route.domain == "finance"
    assert told.near[0].domain == "finance"
    assert told.near[0].kind == "example"
    assert told.near[0].similarity >= told.near[1].similarity
    assert told.evidence["finance"] == max(told.evidence.values())
    assert told.ask <= told.accept


def test_domains_that_overlap_are_found(encoder: Encoder) -> None:
    router = IntentRouter(encoder, encoder.calibration)
    shared = ["my card was stolen", "i lost my bank card", "somebody took my debit card"]
    router.register(DomainConfig(name="bank", examples=("what is the overdraft fee", *shared)))
    router.register(DomainConfig(name="cards", examples=("block a stolen card", "bank card gone", "replace a lost debit card")))
    found = router.collisions()
    assert any(c.domain == "bank" and c.other == "cards" and "card" in c.text for c in found)
    assert all(c.own <= c.others for c in found)


def test_domains_registered_before_the_first_question_leave_what_was_fitted(
    tmp_path: Path, domains: list[DomainConfig], caplog: pytest.LogCaptureFixture
) -> None:
    settings, learned = Settings.load(home=tmp_path), "my gran wants her pocket money"
    few = [domain.model_copy(update={"examples": domain.examples[:5]}) for domain in domains]
    with TinyBERTOrchestrator(settings=settings, domains=few) as front:
        front.router.fit([(learned, "finance"), ("what's the weather on mars", None)])
        front.router.save(settings.router_file, front.registry)
    with TinyBERTOrchestrator(settings=settings, domains=few) as front:
        front.register_domain("garden", "Plants, roses and soil.", ["pruning roses"])
        front.unregister_domain("medical")
        router = front.router
        assert set(router.domains) == {domain.name for domain in few} - {"medical"} | {"garden"}
        assert {learned, "what's the weather on mars", "pruning roses"} <= router.texts
        assert router.route("pruning roses").domain == "garden"
    # What a program fitted and saved with domains of its own is taken as it is.
    with TinyBERTOrchestrator(settings=settings, domains=few) as front:
        front.register_domain("garden", "Plants, roses and soil.", ["pruning roses"])
        report = front.router.fit()
        front.router.save(settings.router_file, front.registry)
    with TinyBERTOrchestrator(settings=settings, domains=few) as front:
        front.register_domain("garden", "Plants, roses and soil.", ["pruning roses"])
        assert front.router.report == report
        assert not caplog.records


def test_what_was_said_to_belong_nowhere_is_refused(encoder: Encoder, domains: list[DomainConfig]) -> None:
    router = IntentRouter(encoder)
    router.register_all(domains)
    nowhere = "my card payment of feelings was refused by my heart"
    assert router.route(nowhere).domain == "finance"
    router.fit([(nowhere, None), *((text, None) for text in outside()[:20])])
    found = router.route(nowhere)
    assert (found.domain, found.confidence, found.reason) == (None, 0.0, f"like {nowhere!r}, which belongs to no domain")
    assert router.route("my card payment was refused").domain == "finance"


def test_the_threshold_rises_where_that_refuses_more_of_what_belongs_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = blobs(200, 1)
    away = blobs(60, 7)["c"] + blobs(60, 8)["a"]
    index, outside = index_of(vectors), beyond((away / np.linalg.norm(away, axis=1, keepdims=True)).astype(np.float32))
    weighed = fit(index, Calibration(), outside)
    monkeypatch.setattr("mdsa_local.routing.fitting.WORTH", 1e9)
    plain = fit(index, Calibration(), outside)
    assert plain.thresholds.ask <= weighed.thresholds.ask <= max(plain.thresholds.ask, fitting.DOUBTFUL + 1e-4)
    assert weighed.report["out_of_scope_refused"] >= plain.report["out_of_scope_refused"]


def test_of_few_examples_neither_scope_nor_threshold_is_read_off() -> None:
    few = fit(index_of(blobs(25, 1)), Calibration(), beyond(blobs(20, 7)["c"]))
    assert (few.report["held_out"], few.thresholds) == (75, Thresholds())
    assert (few.calibration.scope, few.calibration.slope) == (Calibration().scope, Calibration().slope)
    more = fit(index_of(blobs(40, 1)), Calibration(), beyond(blobs(20, 7)["c"][:, ::-1]))
    assert (more.calibration.scope, more.calibration.slope) != (Calibration().scope, Calibration().slope)


def test_a_few_examples_that_are_all_right_make_nothing_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    own, grid = 0.05, fitting.TEMPERATURES

    def fitted(n: int) -> float:
        evidence = np.tile([0.1, 0.05], (n, 1))
        assert fit_temperature(evidence, np.zeros(n, np.int64), grid) == grid[0]
        return fit_temperature(evidence, np.zeros(n, np.int64), grid, softmax(evidence / own))

    assert own > fitted(10) > own / 2 > fitted(100) > fitted(4000)
    monkeypatch.setattr(fitting, "WEIGHTS", (0.0,))
    found = fit(index_of(blobs(6, 1, spread=0.05)), Calibration())
    assert found.report["accuracy"] == 1
    assert found.calibration.temperature / found.calibration.sharpness > Calibration().temperature / 2


def test_a_question_that_went_astray_is_not_lost_when_it_is_refused() -> None:
    values = np.concatenate([np.full(40, 0.25), np.linspace(0.5, 1.0, 200)])
    inside = fitting._Confidence(np.zeros(240, np.int64), values)
    away = fitting._Confidence(np.zeros(40, np.int64), np.repeat([0.3, 0.6], [10, 30]))
    assert fitting._thresholds(inside, np.ones(240, bool), away, ["a"], False).ask == 0.25
    assert fitting._thresholds(inside, values >= 0.5, away, ["a"], False).ask > 0.3
    assert fitting._thresholds(inside, np.zeros(240, bool), away, ["a"], False) == Thresholds()


def test_a_domain_with_few_examples_is_not_drowned_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    known = blobs(400, 1)
    vectors = np.concatenate([known["a"][:10], known["b"], known["c"]])
    labels, fresh = ["a"] * 10 + ["b"] * 400 + ["c"] * 400, blobs(600, 2)

    def rightly(counting: float) -> list[float]:
        monkeypatch.setattr("mdsa_local.routing.head.COUNTING", counting)
        head = train(vectors, labels)
        return [float((head.probabilities(fresh[name]).argmax(axis=1) == head.domains.index(name)).mean()) for name in head.domains]

    before, now = rightly(0.0), rightly(0.75)
    assert now[0] > before[0] + 0.1 and min(now[1:]) > min(before[1:]) - 0.05


def test_words_of_a_domain_with_few_examples_count(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["where is it sold", *(f"where is it kept {n}" for n in range(60))]
    labels = ["shop", *("store" for _ in range(60))]

    def of_shop(counting: float) -> float:
        monkeypatch.setattr("mdsa_local.routing.head.COUNTING", counting)
        learned = words.train(texts, labels)
        return float(learned.probabilities(["where is it sold"])[0, learned.domains.index("shop")])

    assert of_shop(0.75) > of_shop(0.0)


def test_hardly_any_question_of_no_domain_lets_no_more_in(encoder: Encoder, domains: list[DomainConfig]) -> None:
    pairs = [(text, domain.name) for domain in domains for text in domain.examples]
    asked = outside()
    refused = {}
    for known in (0, 1, 4):
        router = IntentRouter(encoder)
        router.fit([*pairs, *((text, None) for text in asked[:known])])
        refused[known] = sum(route.domain is None for route in router.decided(asked[4:])[0])
    assert refused[0] <= refused[1] <= refused[4] + 2 and refused[0] <= refused[4]


def test_thresholds_of_single_domains_rise_for_what_belongs_nowhere_too(encoder: Encoder, domains: list[DomainConfig]) -> None:
    pairs: list[tuple[str, str | None]] = [(text, domain.name) for domain in domains for text in domain.examples]
    asked = outside()
    router = IntentRouter(encoder)
    router.fit([*pairs, *((text, None) for text in asked[::2])], per_domain=True)
    own = router.thresholds.per_domain
    assert own is not None and max(own.values()) > 0.25
    assert sum(route.domain is None for route in router.decided(asked[1::2])[0]) >= 40
