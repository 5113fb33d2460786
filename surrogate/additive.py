"""A measure of any level from sums that add up over samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from surrogate.errors import UsageError
from surrogate.protocols import Additive, Level, Measure


def additive_measure(
    additive: Additive,
    columns: tuple[str, ...],
    *,
    level: Level = "sample",
    bounds: tuple[float, float] = (0.0, 1.0),
    higher_is_better: bool = True,
    version: int = 1,
    analytic: Callable[[Tensor], Tensor] | None = None,
    directions: tuple[int, ...] = (),
    takes_half: bool = False,
) -> Measure:
    """The measure whose rows are the sums of a sample, of a batch, or (in the running loss) of a data set.

    Statistics are made NaN where the metric is. R is B * k at level "sample" and k at the others.

    >>> correct = Additive(
    ...     sums=lambda p, y: torch.stack([p * y, (p.round() == y).float(), torch.ones_like(p)], -1)[:, None],
    ...     metric=lambda sums: sums[:, 1] / sums[:, 2],
    ...     stats=lambda sums: sums[:, :1] / sums[:, 2:],
    ... )
    >>> accuracy = additive_measure(correct, ("hits",), level="batch")
    >>> accuracy.metric(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 1.0]))
    tensor([0.5000])
    """

    def metric(outputs: Tensor, targets: Tensor, /) -> Tensor:
        return additive.metric(pooled_sums(additive, outputs, targets, level))

    def stats(outputs: Tensor, targets: Tensor, /) -> Tensor:
        return defined_stats(additive, pooled_sums(additive, outputs, targets, level))

    return Measure(
        metric,
        stats,
        columns,
        bounds=bounds,
        higher_is_better=higher_is_better,
        level=level,
        version=version,
        additive=additive,
        analytic=analytic,
        directions=directions,
        takes_half=takes_half,
    )


def observed(measure: Measure, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """`(R, F)` statistics and `(R,)` metric values of a batch, from one pass over it where the measure has sums."""
    additive = measure.additive
    if additive is None or measure.level == "dataset":  # there, only the two functions know what came before
        return measure.stats(outputs, targets), measure.metric(outputs, targets)
    sums = pooled_sums(additive, outputs, targets, measure.level)
    return defined_stats(additive, sums), additive.metric(sums)


def defined_stats(additive: Additive, sums: Tensor) -> Tensor:
    """`(R, A)` sums to `(R, F)` statistics, NaN in the rows where the metric is undefined."""
    undefined = additive.metric(sums.detach()).isnan().unsqueeze(1)
    return additive.stats(sums).masked_fill(undefined, torch.nan)


def sums_of(measure: Measure) -> Additive:
    """What a measure of level "dataset" has to have; raises `UsageError` where it has not."""
    if measure.additive is None:
        raise UsageError('a measure of level "dataset" without sums; make it with surrogate.additive.additive_measure')
    return measure.additive


def batch_sums(measure: Measure, outputs: Tensor, targets: Tensor) -> Tensor:
    """`(k, A)` sums of a batch of a measure that has them."""
    return sums_of(measure).sums(outputs, targets).sum(0)


def continued(measure: Measure, before: Tensor) -> Measure:
    """The measure of a batch together with the `(k, A)` sums of what came before it."""

    def metric(outputs: Tensor, targets: Tensor, /) -> Tensor:
        return additive.metric(before + batch_sums(measure, outputs, targets))

    def stats(outputs: Tensor, targets: Tensor, /) -> Tensor:
        return defined_stats(additive, before + batch_sums(measure, outputs, targets))

    additive = sums_of(measure)
    return dataclasses.replace(measure, metric=metric, stats=stats)


def pooled_sums(additive: Additive, outputs: Tensor, targets: Tensor, level: Level) -> Tensor:
    """`(R, A)` sums of the rows of a batch: of each sample, or of all of them."""
    sums = additive.sums(outputs, targets)
    return sums.flatten(0, 1) if level == "sample" else sums.sum(0)
