"""A measure made from a metric that is a plain function, with the app's standard statistics beside it.

>>> def accuracy(prediction, target):
...     return (prediction == target).float().mean()
>>> measure = measure_from_function(accuracy, app="segmentation")  # what the entry point of a plugin names
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surrogate import plugins
from surrogate.errors import UsageError, nearest
from surrogate.protocols import Level, Measure, View

_UNDEFINED = (ArithmeticError, LookupError, RuntimeError, ValueError)
"""What a metric raises where it has no value; anything else is a mistake in it, and told."""


def measure_from_function(
    function: Callable[..., Any],
    *,
    app: str,
    level: Level | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    higher_is_better: bool = True,
    takes: str = "",
    arrays: bool = False,
    version: int = 1,
) -> FunctionMeasure:
    """The measure of a function of a prediction and a target, for an entry point to name.

    Args:
        function: one of

            - `f(prediction, target) -> float`, a plain function;
            - a function whose first parameter is called `y_true`, as those of `sklearn.metrics`: it gets the target
              first, and numpy arrays; settings of it go in by `functools.partial`;
            - a metric of torchmetrics, or its class, which is then made with the facts that it asks for
              (`num_classes`). It works on a copy and is reset before each row.
        app: whose predictions it takes.
        level: "sample" calls it once a sample, "batch" once a batch; None: what is usual for the app. `measure.level`
            of a recipe changes it.
        bounds: least and greatest value.
        higher_is_better: False for an error.
        takes: which view of the outputs it takes, by the app's name for it; empty: the usual one, labels as a rule.
        arrays: hand over numpy arrays; else it gets tensors, on the CPU.
        version: grows when the function changes its meaning.

    A row is undefined where the function gives NaN or infinity, where it raises an arithmetic, lookup, runtime or value
    error, and where there is nothing to look at (all void). The statistics know only of the last of these.
    """
    return FunctionMeasure(function, app, level, bounds, higher_is_better, takes, arrays, version)


@dataclass(frozen=True, slots=True)
class FunctionMeasure:
    """A `MeasureFactory` that asks for the facts its app's standard statistics ask for."""

    function: Callable[..., Any]
    app: str
    level: Level | None
    bounds: tuple[float, float]
    higher_is_better: bool
    takes: str
    arrays: bool
    version: int

    @property
    def __signature__(self) -> inspect.Signature:
        """What `plugins.load_measure` looks at; only now is the app loaded."""
        asked = inspect.signature(plugins.load_app(self.app).standard).parameters
        level = asked["level"].replace(default=self.level or asked["level"].default)
        return inspect.Signature(list({**asked, "level": level}.values()))

    def __call__(self, **settings: Any) -> Measure:
        """The measure, from the facts of a task; raises `UsageError` at an unknown level or view."""
        bound = self.__signature__.bind(**settings)
        bound.apply_defaults()
        settings = bound.arguments
        standard = plugins.load_app(self.app).standard(**settings)
        takes = self.takes or next(iter(standard.views))
        if takes not in standard.views:
            raise UsageError(f"takes={takes!r}: no view of app {self.app!r}; {nearest(takes, standard.views)}")
        view = standard.views[takes]
        score = _scored(_called(self.function, settings, arrays=self.arrays), _name(self.function))
        return Measure(
            functools.partial(_rows, score, view, settings["level"]),
            view.stats,
            view.columns,
            bounds=self.bounds,
            higher_is_better=self.higher_is_better,
            level=settings["level"],
            version=self.version,
            stats_know_undefined=False,
        )


@torch.no_grad()
def _rows(
    score: Callable[[Tensor, Tensor], float], view: View, level: Level, outputs: Tensor, targets: Tensor, /
) -> Tensor:
    """`(R,)` values of a batch: R = B at level "sample", else 1."""
    size = 1 if level == "sample" else len(outputs)
    parts = [slice(start, start + size) for start in range(0, len(outputs), size)]
    values = [score(*view.show(outputs[part], targets[part])) for part in parts]
    return torch.tensor(values, dtype=torch.float32, device=outputs.device)


def _scored(function: Callable[[Tensor, Tensor], Any], name: str) -> Callable[[Tensor, Tensor], float]:
    """The function with what it raises, and what it returns, made one float."""

    def score(prediction: Tensor, target: Tensor) -> float:
        if not target.numel():
            return math.nan
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a class is absent is no news here
                value = function(prediction.cpu(), target.cpu())
        except Exception as error:
            # What scikit-learn says of a setting that it does not know is a ValueError and a TypeError: a mistake.
            if isinstance(error, _UNDEFINED) and not isinstance(error, TypeError):
                return math.nan
            raise UsageError(
                f"{name} raised {type(error).__name__}: {' '.join(str(error).split())}, given a prediction of shape "
                f"{tuple(prediction.shape)} and a target of {tuple(target.shape)}; mend it, or choose another view "
                "by takes="
            ) from error
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"{name} gave {_described(value)}; expected one number, as by an average") from None
        return number if math.isfinite(number) else math.nan

    return score


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")


def _called(function: Callable[..., Any], settings: dict[str, Any], *, arrays: bool) -> Callable[[Tensor, Tensor], Any]:
    """The function as one of prediction and target, in this order, that takes tensors."""
    # Whoever hands over a metric of torchmetrics has imported it; the core need not.
    torchmetrics = sys.modules.get("torchmetrics")
    if torchmetrics is not None and isinstance(function, type) and issubclass(function, torchmetrics.Metric):
        asked = inspect.signature(function).parameters
        function = function(**{key: value for key, value in settings.items() if key in asked})
    if torchmetrics is not None and isinstance(function, torchmetrics.Metric):
        return _reset_each_time(copy.deepcopy(function).cpu())
    if next(iter(inspect.signature(function).parameters), "") == "y_true":
        return lambda prediction, target: function(target.numpy(), prediction.numpy())
    if arrays:
        return lambda prediction, target: function(prediction.numpy(), target.numpy())
    return function


def _reset_each_time(metric: Any) -> Callable[[Tensor, Tensor], Any]:
    def score(prediction: Tensor, target: Tensor) -> Any:
        metric.reset()
        metric.update(prediction, target)
        return metric.compute()

    return score


def _name(function: Callable[..., Any]) -> str:
    inner = function.func if isinstance(function, functools.partial) else function
    return getattr(inner, "__name__", type(inner).__name__)
