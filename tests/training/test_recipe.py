from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mdsa_local.errors import ConfigError, UnknownNameError
from mdsa_local.training.recipe import FOLDER, read_recipe, recipe_of
from tests.training.conftest import RECIPE


def test_the_shipped_recipe_is_the_shipped_models() -> None:
    recipe = read_recipe("nano")
    card = yaml.safe_load((FOLDER.parents[2] / "models/nano/model.yaml").read_text(encoding="utf-8"))["architecture"]
    shape = recipe.shape
    assert (shape.layers, shape.width, shape.heads, shape.inner, shape.vocabulary, shape.context) == (
        card["layers"],
        card["hidden"],
        card["heads"],
        card["intermediate"],
        card["vocabulary"],
        card["context"],
    )
    assert (recipe.end_of("pretrain"), recipe.end_of("ground")) == (0.4, 1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"rate": 2}, "'rate'"),
        ({"shape": {"width": 100}}, "multiples|heads"),
        ({"shape": {"vocabulary": 300}}, "shape.vocabulary"),
        ({"stages": []}, "'stages'"),
        ({"stages": [{**RECIPE["stages"][2], "until": 0.9}]}, "up to 1.0"),  # type: ignore[index]
        ({"stages": [{**RECIPE["stages"][0], "until": 1.0}]}, "ground"),  # type: ignore[index]
        ({"stages": [{**RECIPE["stages"][2], "tokens": 5000}]}, "context"),  # type: ignore[index]
    ],
)
def test_a_wrong_recipe_names_file_and_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        recipe_of({**RECIPE, **change}, "mine.yaml")
    assert str(raised.value).startswith("mine.yaml: ")


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as raised:
        read_recipe("nono")
    assert "nano" in raised.value.hint
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(str(tmp_path / "none.yaml"))
