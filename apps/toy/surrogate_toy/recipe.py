"""The settings of a toy run: the core's tables with other defaults."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from surrogate.recipe import (
    CollectRecipe,
    FinetuneRecipe,
    FitRecipe,
    MeasureRecipe,
    ModelRecipe,
    Recipe,
    Section,
    TrainRecipe,
)


class PointsRecipe(Section):
    """How densely [0, 2] is covered."""

    train: PositiveInt = 4096
    """Points of the training split, which the statistics are recorded on."""
    test: PositiveInt = 512
    """Points of the validation split, and of the test split."""
    seed: NonNegativeInt = 0
    """Of the points' places."""


class ToyTrainRecipe(TrainRecipe):
    """A line is found in an epoch."""

    epochs: PositiveInt = 3
    batch_size: PositiveInt = 64
    lr: PositiveFloat = 0.01
    schedule: Literal["constant", "cosine"] = "cosine"


class ToyCollectRecipe(CollectRecipe):
    """The outputs as they are cover the interval already."""

    batch_size: PositiveInt = 256
    regimes: tuple[str, ...] = ("model",)


class ToyFitRecipe(FitRecipe):
    """One hidden layer (Section 4.2), fitted in seconds.

    The jump has to fit into |x - 1| < 0.05. ReLU units place their kinks there and leave straight lines
    elsewhere. Over seeds 0 to 19 (5 seeds for the others), with the rest of the defaults:

    | fit | mean error of f outside | wrong signs of f' reach |x - 1| = |
    |---|---|---|
    | relu | 0.0001 to 0.0005 | 0.020 to 0.023 |
    | relu, batch_size 1024 | 0.0014 to 0.0028 | 0.032 to 0.038 |
    | tanh | 0.003 to 0.005 | 0.040 to 0.047 |
    | silu | 0.007 to 0.012 | 0.046 to 0.051: too far |
    | softplus | 0.012 to 0.014 | 0.046 to 0.052: too far |
    """

    depth: PositiveInt = 1
    width: PositiveInt = 100
    activation: Literal["relu", "tanh", "silu", "softplus"] = "relu"
    epochs: PositiveInt = 300
    batch_size: PositiveInt = 128
    lr: PositiveFloat = 0.02
    patience: PositiveInt = 100


class ToyFinetuneRecipe(FinetuneRecipe):
    """Through f alone: squared error would hold the outputs back where they are."""

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 64
    lr: PositiveFloat = 0.01
    schedule: Literal["constant", "cosine"] = "cosine"
    ce_mix: float = Field(default=0.0, ge=0.0, le=1.0)
    min_spearman: float = Field(default=-1.0, ge=-1.0, le=1.0)
    """Never: all points gather at the jump, where their order says nothing."""


class ToyMeasureRecipe(MeasureRecipe):
    """The discontinuous function."""

    name: str = "step"


class ToyRecipe(Recipe):
    """A whole run of the toy app."""

    app: Literal["toy"] = "toy"
    measure: ToyMeasureRecipe = ToyMeasureRecipe()
    data: PointsRecipe = PointsRecipe()
    model: ModelRecipe = ModelRecipe()
    train: ToyTrainRecipe = ToyTrainRecipe()
    collect: ToyCollectRecipe = ToyCollectRecipe()
    fit: ToyFitRecipe = ToyFitRecipe()
    finetune: ToyFinetuneRecipe = ToyFinetuneRecipe()
