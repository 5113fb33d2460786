"""Seven metrics of binary classification next to the soft statistics that explain them.

Outputs are logits `(B, 2)`, targets `(B,)` int64, class 1 the positive one. A row speaks of a batch; it is undefined
where the batch has one class alone. Metrics of counts are additive and so exist at level "dataset" as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from surrogate.additive import additive_measure
from surrogate.errors import UsageError, nearest
from surrogate.protocols import Additive, Level, Measure, Standard, View
from surrogate.statistics import (
    CURVE_COLUMNS,
    PROBABILITY_COLUMNS,
    class_score,
    curve_stats,
    histogram_sums,
    probability_stats,
)
from surrogate_tabular import exact
from surrogate_tabular.counts import COLUMNS, count_stats, count_sums, hard_counts

BETA = 2.0
"""Of F-beta: recall counts twice as much as precision."""
K = 0.02
"""Of precision at k: the share of samples that are looked at."""


def fbeta(*, beta: float = BETA, level: Level = "batch") -> Measure:
    """F-beta of the positive class; raises `UsageError` for a beta that is not above 0."""
    if not beta > 0:
        raise UsageError(f"measure.beta is {beta}; expected a number above 0")
    return _of_counts(partial(exact.f_beta, beta=beta), level)


def mcc(*, level: Level = "batch") -> Measure:
    """Matthews correlation coefficient."""
    return _of_counts(exact.mcc, level, low=-1.0)


def kappa(*, level: Level = "batch") -> Measure:
    """Cohen's kappa between prediction and truth."""
    return _of_counts(exact.kappa, level, low=-1.0)


def balanced_accuracy(*, level: Level = "batch") -> Measure:
    """Mean recall of the two classes."""
    return _of_counts(exact.balanced_accuracy, level)


def auroc() -> Measure:
    """Area under the ROC curve."""
    return _of_ranking(exact.auroc, "roc_area")


def average_precision() -> Measure:
    """Area under the precision-recall curve, in steps."""
    return _of_ranking(exact.average_precision, "positives", "pr_area")


def precision_at_k(*, k: float = K) -> Measure:
    """Precision among the share `k` of samples that score highest; raises `UsageError` for a k not in (0, 1]."""
    if not 0 < k <= 1:
        raise UsageError(f"measure.k is {k}; expected a share of the samples, in (0, 1]")
    return _of_ranking(partial(exact.precision_at_k, k=k), "positives", "found_in_top")


EXAMPLE = '''
def metric(prediction, target):
    """Share of the negatives that are told as such; prediction and target are the `(B,)` classes of a batch."""
    return float((prediction[target == 0] == 0).float().mean())
'''


def standard(*, level: Level = "batch") -> Standard:
    """For plain functions of a batch, of `(B,)` predictions and `(B,)` classes.

    | view | prediction | statistics |
    |---|---|---|
    | labels (the usual one) | classes | confusion counts |
    | scores | probabilities of class 1, of which the order matters | ROC, precision-recall and gains curves |
    | probabilities | probabilities of class 1, of which the values matter | their distribution |

    Rows are the batch, or its samples at level "sample"; all of them finite.
    """

    def pooled(sums: Tensor) -> Tensor:
        return sums.flatten(0, 1) if level == "sample" else sums.sum(0)

    def counted(outputs: Tensor, targets: Tensor, /) -> Tensor:
        return count_stats(pooled(count_sums(outputs, targets)))

    def of_histogram(stats: Callable[[Tensor], Tensor], outputs: Tensor, targets: Tensor, /) -> Tensor:
        return stats(pooled(histogram_sums(class_score(outputs), targets == 1)))

    def probabilities(outputs: Tensor, targets: Tensor, /) -> tuple[Tensor, Tensor]:
        return outputs.detach().float().softmax(1)[:, 1], targets

    return Standard(
        {
            "labels": View(lambda outputs, targets, /: (outputs.argmax(1), targets), counted, COLUMNS),
            "scores": View(probabilities, partial(of_histogram, curve_stats), CURVE_COLUMNS),
            "probabilities": View(probabilities, partial(of_histogram, probability_stats), PROBABILITY_COLUMNS),
        }
    )


def _of_counts(metric: Callable[[Tensor], Tensor], level: Level, *, low: float = 0.0) -> Measure:
    if level not in ("batch", "dataset"):
        raise UsageError(
            f"measure.level is {level!r}; {nearest(level, ('batch', 'dataset'))}: one sample has one class"
        )
    counted = Additive(sums=count_sums, metric=lambda sums: metric(hard_counts(sums)), stats=count_stats)
    return additive_measure(counted, COLUMNS, level=level, bounds=(low, 1.0), version=2)


def _of_ranking(value: Callable[[exact.Ranking], Tensor], *kinds: str) -> Measure:
    """With those of `CURVE_COLUMNS` that explain it, by what their names begin with.

    The others would only lend the fit a free hand: on digits, 8 % of the signs of AUROC are wrong with all of them.
    """
    index = [number for number, name in enumerate(CURVE_COLUMNS) if name.startswith(kinds)]

    def metric(outputs: Tensor, targets: Tensor, /) -> Tensor:
        return value(exact.ranking(class_score(outputs), targets == 1)).view(1)

    def stats(outputs: Tensor, targets: Tensor, /) -> Tensor:
        positive = targets == 1
        sums = histogram_sums(class_score(outputs), positive).sum(0)
        both = positive.any() & ~positive.all()
        curves = curve_stats(sums)
        return torch.where(both, torch.stack([curves[:, number] for number in index], 1), torch.nan)

    return Measure(metric, stats, tuple(CURVE_COLUMNS[number] for number in index), level="batch", version=2)
