"""The list of models that can be pulled, and what of it fits a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mdsa_local.errors import ConfigError, ModelNotFoundError
from mdsa_local.runtime.engine import KEPT_PREFIXES
from mdsa_local.runtime.offers import CONTEXTS, KEPT_BEGINNINGS, USUAL_PARALLEL, Catalogue, find_offer, fit, read_catalogue
from mdsa_local.settings import Settings, shipped

GB = 10**9


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue(shipped("models") / "catalog.yaml")


def test_the_list_covers_what_it_promises(catalogue: Catalogue) -> None:
    sizes = [offer.parameters_b for offer in catalogue.models.values()]
    assert len(sizes) >= 15
    assert min(sizes) <= 0.5
    assert 8 <= max(sizes) <= 9
    assert set(catalogue.defaults) == {8, 16, 32}
    for name, offer in catalogue.models.items():
        assert offer.licence, name
        assert len(offer.good_for) > 20, name
        for variant, file in offer.files.items():
            # A slip of the pen in either number shows; a file with a second copy of the embeddings has up to 11.2 bits a parameter.
            assert 4 < file.size_gb * 8 / offer.parameters_b < 11.5, (name, variant)
            assert variant.replace("_", "").replace("-", "") in file.file.lower().replace("_", "").replace("-", "")


def test_the_default_fits_the_machine_that_it_is_for(catalogue: Catalogue) -> None:
    for memory_gb, name in catalogue.defaults.items():
        offer = catalogue.models[name]
        found = fit(offer, offer.default_variant, memory_gb * GB // 2, memory_gb * GB // 2)
        assert found.verdict == "fits", (memory_gb, name, found)
        assert catalogue.default_for(memory_gb * 0.95) == name
    assert catalogue.default_for(4) is None
    assert catalogue.default_for(1000) == catalogue.defaults[32]


def test_fit_falls_with_the_budget_and_says_the_context(catalogue: Catalogue) -> None:
    offer, _ = find_offer(catalogue, "qwen3-4b-2507")
    last = CONTEXTS[0] + 1
    verdicts = []
    for budget in range(40 * GB, 2 * GB, -GB // 2):
        found = fit(offer, "q4_k_m", budget, 64 * GB)
        assert found.context <= last
        assert (found.memory_bytes <= budget) == (found.verdict != "no")
        assert bool(found.context) == (found.verdict != "no")
        last = found.context
        verdicts.append(found.verdict)
    order = list(dict.fromkeys(verdicts))
    assert order == ["fits", "tight", "no"]


def test_what_other_programs_hold_makes_it_tight(catalogue: Catalogue) -> None:
    offer, _ = find_offer(catalogue, "qwen2.5-0.5b")
    assert fit(offer, "q4_k_m", 8 * GB, 8 * GB).verdict == "fits"
    assert fit(offer, "q4_k_m", 8 * GB, GB // 4).verdict == "tight"


def test_states_grow_with_the_answers_at_once_and_not_with_the_context(catalogue: Catalogue) -> None:
    assert (Settings.model_fields["parallel"].default, KEPT_PREFIXES) == (USUAL_PARALLEL, KEPT_BEGINNINGS)
    offer, _ = find_offer(catalogue, "qwen3.5-0.8b")
    # 18 layers with 16 heads of keys and values, 128 numbers each, and three columns of a convolution, in float32.
    assert offer.state_mb == pytest.approx(4 * 18 * (128 * 128 * 16 + 3 * 3 * 16 * 128) / 1e6, abs=0.05)
    more = offer.memory_bytes(0, 8192, 16) - offer.memory_bytes(0, 8192, 8)
    assert more == offer.memory_bytes(0, 2048, 16) - offer.memory_bytes(0, 2048, 8) == pytest.approx(9 * 20.2e6, rel=0.01)
    # What llama.cpp 0.3.36 tells of a file of this shape, beside its weights and its vocabulary.
    assert offer.memory_bytes(0, 8192) - 600 * offer.vocabulary == pytest.approx(531e6, rel=0.05)
    budget = offer.memory_bytes(offer.files["q8_0"].size_bytes, 8192)
    assert fit(offer, "q8_0", budget, budget).verdict == "fits"
    assert fit(offer, "q8_0", budget, budget, 32).verdict == "no"
    other, _ = find_offer(catalogue, "qwen3-4b-2507")
    assert other.memory_bytes(0, 8192, 64) == other.memory_bytes(0, 8192, 1)


def test_names(catalogue: Catalogue) -> None:
    assert find_offer(catalogue, "qwen2.5-0.5b")[1] == "q4_k_m"
    assert find_offer(catalogue, "qwen2.5-0.5b:Q8_0")[1] == "q8_0"
    assert find_offer(catalogue, "smollm2-360m")[1] == "q8_0"
    for wrong, hint in (("qwen2.5-0.6b", "qwen2.5-0.5b"), ("qwen2.5-0.5b:q9", "q8_0")):
        with pytest.raises(ModelNotFoundError) as caught:
            find_offer(catalogue, wrong)
        assert hint in caught.value.hint


def test_a_wrong_list_names_file_and_key(tmp_path: Path) -> None:
    whole = yaml.safe_load((shipped("models") / "catalog.yaml").read_text())
    for change, said in (
        ({"defaults": {8: "nope"}}, "'defaults' names nope"),
        ({"models": {"x": {"repository": "no slash"}}}, "models.x"),
        ({"more": 1}, "unknown key 'more'"),
    ):
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(whole | change))
        with pytest.raises(ConfigError, match=said):
            read_catalogue(tmp_path / "catalog.yaml")
