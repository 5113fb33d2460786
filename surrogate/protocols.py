"""The types everything is built on. No arithmetic and no files here: read it and you know the project.

Shapes: B samples in a batch, R rows (what one value of the metric speaks of: an image, a class of an image, a
batch), F soft statistics per row. Rows are sample-major: at level "sample", R = B * k, and rows b*k to (b+1)*k - 1
belong to sample b; at levels "batch" and "dataset" all rows belong to the whole batch, or to all batches so far.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Generator, Tensor, nn

from surrogate.errors import UsageError

if TYPE_CHECKING:
    from surrogate.recipe import Recipe

Level = Literal["sample", "batch", "dataset"]


class Metric(Protocol):
    """The real measure, as it is reported. Need not be differentiable; runs without gradient."""

    def __call__(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        """`(R,)` float, one value per row; NaN where the metric is undefined (an absent class, an all-void image)."""
        ...


class StatsExtractor(Protocol):
    """Soft statistics of the outputs, differentiable in them."""

    def __call__(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        """`(R, F)` float; row r explains row r of the metric, and is NaN in every column where that is undefined."""
        ...


class Approximator(Protocol):
    """What the fit learns."""

    def __call__(self, stats: Tensor, /) -> Tensor:
        """`(R, F)` statistics to `(R,)` predicted loss, 0 is best and 1 is worst."""
        ...


@dataclass(frozen=True, slots=True)
class Additive:
    """A metric and its statistics as functions of A sums that add up over samples and batches, such as counts.

    What level "dataset" needs: a small batch then adds to the sums of the batches before it. Made into a measure of any
    level by `surrogate.additive.additive_measure`.
    """

    sums: StatsExtractor
    """Outputs and targets to `(B, k, A)` float sums of each sample, differentiable in the soft ones."""
    metric: Callable[[Tensor], Tensor]
    """`(R, A)` sums to `(R,)` values; NaN where undefined."""
    stats: Callable[[Tensor], Tensor]
    """`(R, A)` sums to `(R, F)` statistics, finite everywhere."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric next to the soft statistics that explain it: what a metric plugin exports.

    `columns` names the F statistics: the contract with the store and with the fit. `bounds` are the least and the
    greatest value of the metric. `version` grows when a column changes its meaning; older files are then refused.
    """

    metric: Metric
    stats: StatsExtractor
    columns: tuple[str, ...]
    bounds: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True
    level: Level = "sample"
    version: int = 1
    additive: Additive | None = None
    """The same as sums; level "dataset" has to have it. `metric` and `stats` then speak of one batch alone."""
    analytic: Callable[[Tensor], Tensor] | None = None
    """`(R, F)` statistics to `(R,)` values of the hand-made soft form of the metric, where there is one: what the
    learned one is reported next to."""
    directions: tuple[int, ...] = ()
    """For each column whether the loss rises (1) or falls (-1) with it, or may do either (0): for `fit.monotone`."""
    stats_know_undefined: bool = True
    """False where the metric may be undefined and the statistics cannot tell, as of a function that raises. A fit drops
    such rows; a loss goes by the statistics, and counts them in."""

    takes_half: bool = False
    """Whether `stats` reads outputs of bfloat16 and float16 as they are and computes in float32 within. Otherwise a
    loss widens them beforehand, which costs a copy of the outputs and one of their gradient."""

    def __post_init__(self) -> None:
        """Raises `UsageError` where the bounds are not two finite numbers, the lower one first."""
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UsageError(f"measure: bounds are {low, high}; expected two finite numbers, the lower one first")

    def loss_of(self, value: Tensor) -> Tensor:
        """Metric values as losses in [0, 1]: 0 at the best bound, 1 at the worst. NaN stays NaN."""
        low, high = self.bounds
        share = (value - low) / (high - low)
        return 1.0 - share if self.higher_is_better else share


MeasureFactory = Callable[..., Measure]
"""What a measure's entry point names: called with the facts it asks for by keyword (see `Task.facts`) and with the
settings of the recipe's `[measure]` table."""


@dataclass(frozen=True, slots=True)
class View:
    """What a plain function is handed of the outputs, and the statistics that explain what it can make of it.

    No more of them than that: a statistic that the metric does not depend on lends the fit a free hand.
    """

    show: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """From outputs and targets of some samples, prediction and target as the function takes them; empty if all void."""
    stats: StatsExtractor
    """A row for each sample at level "sample", one for a batch at "batch"; NaN where all is void."""
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standard:
    """What an app gives to a metric that is a plain function: see `surrogate.from_function`."""

    views: Mapping[str, View]
    """What a function may be handed, by name, the usual one first."""
    void: Callable[[Tensor], Tensor] | None = None
    """Targets made such that nothing of them counts; None where the app knows no void. For examples to check with."""


def no_views(*, level: Level = "sample") -> Standard:  # noqa: ARG001
    """Of an app that gives plain functions nothing: its measures are all written as a `Measure`."""
    return Standard({})


class Dataset(Protocol):
    """One split of a checked data set: samples by number, in a fixed order."""

    def __len__(self) -> int: ...

    def load(self, index: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Input and target of one sample, on the CPU, of the same shape for all samples.

        A generator asks for training augmentation, drawn from it alone; None asks for the sample as it is.
        """
        ...

    def name(self, index: int) -> str:
        """What to call the sample in a message: its file, as a rule."""
        ...


class Score(Protocol):
    """The reported numbers, exact and at data-set level: counts are summed first and divided once."""

    spec: str
    """How the numbers are to be read, such as `mIoU(macro, dataset, ignore=11, absent=skip)`."""

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...

    def compute(self) -> dict[str, Any]:
        """Numbers by name, ready for JSON; the task's headline is one of them. Undefined is None."""
        ...


class Task(Protocol):
    """An application bound to a recipe: its data checked, ready to be trained on.

    Derive yours from it, or write all of it: what has a body here is the default of those that do.
    """

    facts: Mapping[str, Any] = MappingProxyType({})
    """What measures may need to know of the data, ready for JSON; segmentation: num_classes, ignore_index."""
    headlines: Mapping[str, str] = MappingProxyType({})
    """Measures that have an exact data-set form in `Score.compute()`: measure name to key (segmentation: iou to miou).
    Checkpoints are chosen by it; by the measure's mean over rows where there is none. Those of the baseline are chosen
    by the first one, whatever is measured: many a metric is 0 until a model is good."""
    about: str
    """One line on the data found, for the screen: `CamVid: 367 train, 101 val, 233 test, 11 classes, 120x160`."""

    @abstractmethod
    def dataset(self, split: str) -> Dataset:
        """The split `train`, `val` or `test`; a task without test data gives the same object for test as for val."""
        ...

    @abstractmethod
    def model(self) -> nn.Module:
        """A new model; random parts from the global generator. Weights that the recipe names are loaded by the core."""
        ...

    @abstractmethod
    def baseline(self, name: str) -> nn.Module:
        """A hand-made loss by name, called with outputs and targets."""
        ...

    @abstractmethod
    def score(self) -> Score: ...

    @abstractmethod
    def perfect(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The outputs of a perfect and confident model, of the shape of `outputs`; regimes and moves head for them."""
        ...

    def report_fit(self, surrogate: nn.Module, folder: Path) -> tuple[dict[str, Any], list[Path]]:  # noqa: ARG002
        """The task's own numbers on a fitted surrogate, and figures drawn into `folder` (none without matplotlib)."""
        return {}, []

    def figures(
        self,
        folder: Path,  # noqa: ARG002
        models: Mapping[str, nn.Module],  # noqa: ARG002
        scores: Mapping[str, Mapping[str, Any]],  # noqa: ARG002
    ) -> list[Path]:
        """Draws models and their scores beside each other, by name and in order; none without matplotlib.

        Scores that are means over seeds have the standard deviations of the same names under `sd`.
        """
        return []


class App(Protocol):
    """An application: what an entry point of the group `surrogate.apps` names. Derive yours from it, as from `Task`."""

    recipe: type[Recipe]
    """The settings, with the application's own `data` and `model` tables and defaults."""
    recipes: Mapping[str, Path] = MappingProxyType({})
    """The recipes shipped with the application, by name."""
    variants: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """Learned losses by name, each as what it changes in a recipe, by dotted key: `{"fit.columns": ["tp"]}`."""
    baselines: Sequence[str]
    """The names of its hand-made losses. The first one trains the baseline model and is mixed into finetuning."""

    standard: Callable[..., Standard] = staticmethod(no_views)
    """Statistics and views for metrics that are plain functions; called with the facts it asks for and with `level`,
    whose default is the level that is usual for the app."""
    example: str = ""
    """Source of a `metric(prediction, target)` of the usual view, in [0, 1]: what `surrogate plugins new` writes."""

    @abstractmethod
    def open(self, recipe: Recipe) -> Task:
        """Binds the application to a recipe and checks its data; raises `DataError` or `UsageError`."""
        ...
