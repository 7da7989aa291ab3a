"""The list of models that can be pulled, and what of it fits a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mdsa_local.errors import ConfigError, ModelNotFoundError
from mdsa_local.runtime.offers import CONTEXTS, Catalogue, find_offer, fit, read_catalogue
from mdsa_local.settings import shipped

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
