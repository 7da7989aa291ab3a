"""A recipe: everything that decides what the small model becomes, but the data and the seed. ``recipes/nano.yaml`` made the shipped one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mdsa_local.errors import ConfigError, UnknownNameError
from mdsa_local.settings import expanded, explain, read_yaml

FOLDER = Path(__file__).parent / "recipes"
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Shape(Strict):
    """Sizes of the model. Below 512 tokens the alphabet of bytes leaves no room for words; the first two layers, with heads of 16 or more, hold the
    circuit that copies (:func:`~mdsa_local.training.nano.structured`)."""

    vocabulary: int = Field(4096, ge=512, le=65_536)
    width: int = Field(256, ge=48, le=4096)
    layers: int = Field(6, ge=2, le=64)
    heads: int = Field(8, ge=2, le=64)
    inner: int = Field(640, ge=32, le=16_384)
    context: int = Field(1024, ge=64, le=8192)
    rope_base: float = Field(10_000.0, gt=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads or (self.width // self.heads) % 2 or self.width // self.heads < 16:
            raise ValueError(f"width {self.width} has to be heads ({self.heads}) times an even number of at least 16")
        # Rows of weights in INT8 and INT4 are kept in blocks of 32.
        if self.width % 32 or self.inner % 32:
            raise ValueError("width and inner have to be multiples of 32")
        return self


class TokenizerRecipe(Strict):
    """What the tokenizer learns from: that many examples, and this share of the encoder's texts."""

    examples: int = Field(20_000, ge=1, le=1_000_000)
    share_of_texts: float = Field(0.3, gt=0, le=1)


class Stage(Strict):
    """What examples look like up to ``until``, a share of the training: passages, sentences each, tokens at most, the share of echoes, the share
    of the passages' tokens that count, the share of the batch size, and that of examples as :class:`~mdsa_local.training.extracts.Extracts`
    makes them, the others being whole passages. ``step``: the command that trains it."""

    step: Literal["pretrain", "ground"]
    until: Share
    passages: int = Field(ge=1, le=9)
    sentences: int = Field(ge=1, le=20)
    tokens: int = Field(ge=32)
    echoes: Share = 0.0
    counted: Share
    batch: float = Field(1.0, gt=0, le=1)
    extracts: Share = 0.0


class Recipe(Strict):
    """A whole training: ``tokens`` is its length, ``batch_tokens`` the tokens of a step, ``rate`` the highest learning rate, reached after
    ``warm_steps``."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    shape: Shape = Shape()
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    tokens: int = Field(12_200_000, ge=1)
    batch_tokens: int = Field(3072, ge=64)
    rate: float = Field(2.5e-3, gt=0, lt=1)
    warm_steps: int = Field(40, ge=1)
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        ends = [stage.until for stage in self.stages]
        if ends != sorted(set(ends)) or ends[-1] != 1.0:
            raise ValueError("key 'until' of the stages has to rise, up to 1.0")
        if [stage.step for stage in self.stages] != sorted((stage.step for stage in self.stages), reverse=True) or self.stages[-1].step != "ground":
            raise ValueError("stages of step 'pretrain' come first, then those of step 'ground', of which there has to be one")
        if longest := max((stage.tokens for stage in self.stages if stage.tokens > self.shape.context), default=0):
            raise ValueError(f"stages have examples of {longest} tokens, the context is {self.shape.context}")
        return self

    def end_of(self, step: str) -> float:
        """The share of the training at which ``step`` ends; 0 for a step without stages."""
        return max((stage.until for stage in self.stages if stage.step == step), default=0.0)


def read_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or one of a YAML file. Raises :class:`UnknownNameError` and :class:`ConfigError` that names file and key."""
    path = expanded(name)
    if not name.endswith((".yaml", ".yml")):
        path = FOLDER / f"{name}.yaml"
        if not path.is_file():
            raise UnknownNameError.among("recipe", name, [known.stem for known in FOLDER.glob("*.yaml")])
    return recipe_of(read_yaml(path), str(path))


def recipe_of(values: dict[str, Any], origin: str) -> Recipe:
    """Raises :class:`ConfigError`."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {explain(error)}", f"{FOLDER / 'nano.yaml'} is an example with every key.") from None
