"""A measure made from a metric that is a plain function, with the app's standard statistics beside it.

>>> def accuracy(prediction, target):
...     return (prediction == target).float().mean()
>>> measure = measure_from_function(accuracy, app="segmentation")  # what the entry point of a plugin names
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surrogate import plugins
from surrogate.errors import UsageError, nearest
from surrogate.protocols import Level, Measure, View

_UNDEFINED = (ValueError, ZeroDivisionError)
"""What a metric raises where it has no value: as scikit-learn and torchmetrics do, and 0 / 0 of counts in plain Python.
Anything else is a mistake, and told: rows that are dropped unseen would hide it."""
_OF_NOTHING = "Expected reduction dim"
"""What torch says, in a RuntimeError or IndexError, of the maximum of no elements, which is a ValueError of numpy's.
torchmetrics' Hausdorff distance of an empty mask leaves it at that."""
_OF_VIEW = re.compile(r"\b(shape|size|dim|indices|axis|format|continuous|binary|multiclass|multilabel|[12]-?d\b)", re.I)
"""What an error speaks of that may be about what the function is given, not about what it does."""


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

    A row is undefined where the function gives NaN or infinity, where it raises a ValueError or a ZeroDivisionError,
    (or torch's error of a maximum of no elements), and where there is nothing to look at (all void). The statistics
    know only of the last of these. Any other exception is a mistake, and told as a `UsageError`.
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
        if "level" not in asked:
            raise UsageError(f"app {self.app!r}: `standard` takes no `level`; give it that keyword, with a default")
        level = asked["level"].replace(default=self.level or asked["level"].default)
        return inspect.Signature(list({**asked, "level": level}.values()))

    def __call__(self, **settings: Any) -> Measure:
        """The measure, from the facts of a task; raises `UsageError` at an unknown level or view, or where the app
        has none."""
        bound = self.__signature__.bind(**settings)
        bound.apply_defaults()
        settings = bound.arguments
        standard = plugins.load_app(self.app).standard(**settings)
        if not standard.views:
            raise UsageError(
                f"app {self.app!r} gives plain functions nothing to look at; write a surrogate.protocols.Measure "
                "instead, or give the app `standard`"
            )
        takes = self.takes or next(iter(standard.views))
        if takes not in standard.views:
            raise UsageError(f"takes={takes!r}: no view of app {self.app!r}; {nearest(takes, standard.views)}")
        view = standard.views[takes]
        called = _called(self.function, settings, arrays=self.arrays)
        return Measure(
            FunctionMetric(called, _name(self.function), view, settings["level"]),
            view.stats,
            view.columns,
            bounds=self.bounds,
            higher_is_better=self.higher_is_better,
            level=settings["level"],
            version=self.version,
            stats_know_undefined=False,
        )


@dataclass(frozen=True, slots=True)
class FunctionMetric:
    """The metric of such a measure, which can also be asked what is wrong with it."""

    function: Callable[[Tensor, Tensor], Any]
    name: str
    view: View
    level: Level

    @torch.no_grad()
    def __call__(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        """`(R,)` values of a batch: R = B at level "sample", else 1."""
        values = [self._value(place, *shown) for place, shown in self._shown(outputs, targets)]
        return torch.tensor(values, dtype=torch.float32, device=outputs.device)

    def why_undefined(self, outputs: Tensor, targets: Tensor) -> str:
        """What the function raised in the first row where it raised, and what to do; empty where it never did."""
        for place, (prediction, target) in self._shown(outputs, targets):
            try:
                self._run(prediction, target)
            except Exception as error:
                return f"{self._told(error, place, prediction, target)}; {_to_do(error)}"
        return ""

    def written(self, outputs: Tensor, targets: Tensor) -> str:
        """Which of its arguments the function changed in place, "prediction" or "target"; empty where none."""
        for _, shown in self._shown(outputs, targets):
            given = [part.clone() for part in shown]
            with contextlib.suppress(Exception):  # which would have been told before
                self._run(*given)
            for name, now, before in zip(("prediction", "target"), given, shown, strict=True):
                if not torch.equal(now, before):
                    return name
        return ""

    def _shown(self, outputs: Tensor, targets: Tensor) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
        """Of each row its place, in words, and what the function is given."""
        size = 1 if self.level == "sample" else max(len(outputs), 1)
        for start in range(0, len(outputs), size):
            part = slice(start, start + size)
            place = f"sample {start} of a batch of {len(outputs)}" if self.level == "sample" else "a batch"
            yield place, self.view.show(outputs[part], targets[part])

    def _value(self, place: str, prediction: Tensor, target: Tensor) -> float:
        """One float; NaN where the function has no value."""
        try:
            value = self._run(prediction, target)
        except Exception as error:
            if _means_undefined(error):
                return math.nan
            told = self._told(error, place, prediction, target)
            raise UsageError(f"{told}; {_to_do(error)} (a ValueError or NaN says that there is no value)") from error
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"{self.name} gave {_described(value)}; expected one number, as by an average") from None
        return number if math.isfinite(number) else math.nan

    def _run(self, prediction: Tensor, target: Tensor) -> Any:
        if not target.numel():
            return math.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a class is absent is no news here
            return self.function(prediction.cpu(), target.cpu())

    def _told(self, error: Exception, place: str, prediction: Tensor, target: Tensor) -> str:
        return (
            f"{self.name} raised {type(error).__name__}: {' '.join(str(error).split())}, at {place}, given a "
            f"prediction of shape {tuple(prediction.shape)} and a target of {tuple(target.shape)}"
        )


def _means_undefined(error: Exception) -> bool:
    # What scikit-learn says of a setting that it does not know is a ValueError and a TypeError: a mistake.
    if isinstance(error, TypeError):
        return False
    return isinstance(error, _UNDEFINED) or (isinstance(error, RuntimeError | IndexError) and _OF_NOTHING in str(error))


def _to_do(error: Exception) -> str:
    return "mend it" + (", or choose another view by takes=" if _OF_VIEW.search(str(error)) else "")


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
