"""The settings of a tabular run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

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

BUNDLED = ("digits", "cancer")
"""Tables that need no file."""


class TableRecipe(Section):
    """Which table, which of its classes is the positive one, and how rare it is made."""

    path: str = "digits"
    """`digits`, `cancer`, or a CSV file with a line of column names."""
    target: str = ""
    """The column of a CSV that holds the class; two different values. Not of `digits` and `cancer`."""
    positive: str = Field(default="", coerce_numbers_to_str=True)
    """The value of the target that is the positive class; empty: the rarer one, on a tie the later by name."""
    digit: int = Field(default=8, ge=0, le=9)
    """Of `digits`: this one is told from the rest."""
    keep: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the positives kept, drawn at random: makes balanced data unbalanced, to try a metric on."""
    holdout: float = Field(default=0.3, gt=0.0, le=0.4)
    """Share of the samples in the validation split, and again in the test split."""
    seed: NonNegativeInt = 0
    """Of which positives are kept and which sample is in which split."""
    noise: NonNegativeFloat = 1.0
    """Spread of the noise added to the training inputs, in their standard deviations; 0 is none. By default 1 on a
    bundled table, or it is too easy to tell losses apart, and 0.1 on a CSV."""

    @model_validator(mode="before")
    @classmethod
    def _usual_noise(cls, given: Any) -> Any:
        own = isinstance(given, dict) and given.get("path", "digits") not in BUNDLED
        return {"noise": 0.1, **given} if own else given


class MlpRecipe(ModelRecipe):
    """A multilayer perceptron with ReLU."""

    width: PositiveInt = 16
    """Units of a hidden layer."""
    depth: NonNegativeInt = 1
    """Hidden layers; 0 is logistic regression."""


class TabularTrainRecipe(TrainRecipe):
    """A batch is large enough to hold some of the rare class."""

    epochs: PositiveInt = 60
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 0.01
    schedule: Literal["constant", "cosine"] = "cosine"


class TabularCollectRecipe(CollectRecipe):
    """Small data makes few batches: it is gone through often, in few pools, so that a pool fills a batch.

    With the noise of training: without it, a model that is right on all its training data shows one value alone.
    """

    batch_size: PositiveInt = 128
    augment: bool = True
    passes: PositiveInt = 50
    moves: int = Field(default=12, ge=0)
    pools: int = Field(default=5, ge=5)


class TabularFitRecipe(FitRecipe):
    """In batches small enough to take some thousand steps on some thousand rows.

    In a small batch a small move tips one sample over or none: how much it does is mostly chance and weighs little,
    which way it goes weighs more.
    """

    batch_size: PositiveInt = 256
    order_weight: NonNegativeFloat = 0.3
    slope_weight: NonNegativeFloat = 0.003
    sign_weight: NonNegativeFloat = 0.5


class TabularFinetuneRecipe(FinetuneRecipe):
    """Some hundred steps from the baseline model on."""

    epochs: PositiveInt = 60
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 5e-3


class TabularMeasureRecipe(MeasureRecipe):
    """MCC unless another is named."""

    name: str = "mcc"


class TabularRecipe(Recipe):
    """A whole run of the tabular app."""

    app: Literal["tabular"] = "tabular"
    measure: TabularMeasureRecipe = TabularMeasureRecipe()
    data: TableRecipe = TableRecipe()
    model: MlpRecipe = MlpRecipe()
    train: TabularTrainRecipe = TabularTrainRecipe()
    collect: TabularCollectRecipe = TabularCollectRecipe()
    fit: TabularFitRecipe = TabularFitRecipe()
    finetune: TabularFinetuneRecipe = TabularFinetuneRecipe()
