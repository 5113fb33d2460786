"""Boundary IoU and boundary F1 of each class next to soft statistics that explain them.

A pixel of a boundary may be there because of its neighbours, and then they are what would have to change. Each pixel
speaks of two classes, the one it was given and its true one, so maps of one channel are enough:

| pixel of a boundary of class c | soft weight |
|---|---|
| of both boundaries, or near the other one | probability that it is right about c |
| of the predicted one alone, wrong | P(c): it should not be c |
| of the predicted one alone, right: a neighbour was given another class | 1 - the lowest P(true class) around it |
| of the true one alone, wrong | 1 - P(c): it should be c |
| of the true one alone, right: a wrong neighbour was given c | the lowest P(given class) of the wrong around it |

So the gradient goes where the mistake is, and a step towards the truth never raises an error's weight nor lowers a
success's. The weights of each group are summed by image and class and given as shares and as means, next to shares of
the region's true positives, false positives and false negatives: none depends on the size of the image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surrogate.additive import additive_measure
from surrogate.errors import UsageError
from surrogate.protocols import Additive, Level, Measure
from surrogate_segmentation.bands import band, edges, eroded, label_maps, near
from surrogate_segmentation.counts import Pixels, check_classes, class_probabilities, counts, pixels, sums_by_class

IOU_COLUMNS = ("both", "predicted", "true", "both_mean", "predicted_mean", "true_mean", "tp", "fp", "fn")
"""Pixels of both bands, of the predicted and of the true one alone: shares and means; shares of the whole masks."""
F1_COLUMNS = (
    *("precision", "near_true", "predicted", "false_alarms"),
    *("recall", "near_predicted", "true", "misses"),
    "tp",
)
"""Share of the predicted boundary's weight that is near the true one; means of its pixels that are and that are
not; the rest of the share, spread out near 0. The same of the true boundary. Share of the whole masks that is right."""
_SPREAD = 0.02
"""Where a share spread out is halfway to 1: many boundaries are nearly right, and their order would be lost."""


class Groups(NamedTuple):
    """Which boundary pixels a metric tells apart, `(B, N)` bool each."""

    hit_predicted: Tensor
    """Predicted boundary that the true one accounts for: by its class there is a hit."""
    only_predicted: Tensor
    hit_true: Tensor
    only_true: Tensor


def boundary_iou(*, num_classes: int, ignore_index: int, level: Level = "batch", width: int = 2) -> Measure:
    """IoU of bands `width` pixels wide inside predicted and true masks, a row per class of an image, batch or data set.

    Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, Eq. 2, for bands
    by a square (see `surrogate_segmentation.bands`). A class neither predicted nor present is undefined.

    Raises:
        UsageError: unknown level, or a width below 1.
    """
    _checked(level, width)

    def sums(outputs: Tensor, targets: Tensor, /) -> Tensor:
        check_classes(outputs, num_classes)
        px = pixels(outputs, targets, ignore_index=ignore_index)
        groups = iou_groups(px, targets.shape, width)
        soft, region = _soft(outputs, px, groups, targets.shape, width, num_classes)
        hard = group_counts(px, groups, num_classes)
        return torch.cat([one_hit(hard), one_hit(soft), region], -1)

    def stats(sums: Tensor) -> Tensor:
        hard, soft, region = sums.split(3, 1)
        return torch.cat([_shares(soft), soft / hard.clamp_min(1.0), _shares(region)], 1)

    return additive_measure(
        Additive(sums, lambda sums: iou_of(sums[:, :3]), stats),
        IOU_COLUMNS,
        level=level,
        analytic=lambda rows: rows[:, 0],
        directions=(-1, 1, 1) * 3,
    )


def boundary_f1(*, num_classes: int, ignore_index: int, level: Level = "batch", width: int = 2) -> Measure:
    """F1 of boundary pixels found within `width` pixels, a row per class of an image, batch or data set.

    Precision is the share of predicted boundary pixels near the true boundary of their class, recall that of true ones
    near the predicted boundary. Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC
    2013, Section 3, with a square for their disc. A class neither predicted nor present is undefined.

    Raises:
        UsageError: unknown level, or a width below 1.
    """
    _checked(level, width)

    def sums(outputs: Tensor, targets: Tensor, /) -> Tensor:
        check_classes(outputs, num_classes)
        px = pixels(outputs, targets, ignore_index=ignore_index)
        groups = f1_groups(px, targets.shape, width)
        soft, region = _soft(outputs, px, groups, targets.shape, 1, num_classes)
        return torch.cat([group_counts(px, groups, num_classes), soft, region], -1)

    def stats(sums: Tensor) -> Tensor:
        hard, soft, region = sums.split([4, 4, 3], 1)
        means = soft / hard.clamp_min(1.0)
        precision, recall = _shares(soft[:, :2]), _shares(soft[:, 2:])
        false_alarms, misses = (rest / (rest + _SPREAD) for rest in (precision[:, 1:], recall[:, 1:]))
        of_predicted = precision[:, :1], means[:, :2], false_alarms
        of_true = recall[:, :1], means[:, 2:], misses
        return torch.cat([*of_predicted, *of_true, _shares(region)[:, :1]], 1)

    return additive_measure(
        Additive(sums, lambda sums: f1_of(sums[:, :4]), stats),
        F1_COLUMNS,
        level=level,
        analytic=lambda rows: _harmonic_mean(rows[:, 0], rows[:, 4]),
        directions=(-1, -1, 1, 1, -1, -1, 1, 1, -1),
    )


def iou_groups(px: Pixels, size: torch.Size, width: int) -> Groups:
    """Pixels of the bands by whether they are in both bands of one class."""
    predicted, true = (band(labels, width).flatten(1) for labels in label_maps(px, size))
    both = px.correct & predicted & true
    return Groups(both, predicted & ~both, both, true & ~both)


def one_hit(groups: Tensor) -> Tensor:
    """`(..., 4)` numbers of the groups to `(..., 3)`: IoU knows but one group of hits."""
    return torch.cat([groups[..., :2], groups[..., 3:]], -1)


def f1_groups(px: Pixels, size: torch.Size, width: int) -> Groups:
    """Pixels of the boundaries by whether the other boundary of their class is within `width`."""
    predicted, true = (edges(labels) for labels in label_maps(px, size))
    groups = []
    for mine, other in ((predicted, true), (true, predicted)):
        close = near(mine, other, width)
        groups += [close.flatten(1), ((mine >= 0) & ~close).flatten(1)]
    return Groups(*groups)


def group_counts(px: Pixels, groups: Groups, num_classes: int) -> Tensor:
    """`(B, C, 4)` float: the pixels of each group, by image and class."""
    return _by_class(px, [group.float() for group in groups], num_classes)


def iou_of(sums: Tensor) -> Tensor:
    """`(R, 3)` pixels of both bands, of the predicted and of the true one alone, to `(R,)` IoU; NaN where all are 0."""
    return sums[:, 0] / sums.sum(1)


def f1_of(sums: Tensor) -> Tensor:
    """`(R, 4)` counts in the order of `Groups` to `(R,)` F1; 0 where one side has none, NaN where neither has any."""
    predicted, true = sums[:, :2].sum(1), sums[:, 2:].sum(1)
    precision, recall = sums[:, 0] / predicted.clamp_min(1.0), sums[:, 2] / true.clamp_min(1.0)
    return torch.where(predicted + true > 0, _harmonic_mean(precision, recall), torch.nan)


def _harmonic_mean(one: Tensor, other: Tensor) -> Tensor:
    total = one + other
    return 2.0 * one * other / torch.where(total > 0, total, 1.0)


def mistakes(px: Pixels, p_given: Tensor, p_true: Tensor, size: torch.Size, width: int) -> tuple[Tensor, Tensor]:
    """Weights, by the module's table, of pixels of the predicted boundary alone and of the true one alone.

    Args:
        px: pixels of labels of shape `size`.
        p_given: `(B, N)` probability of the predicted class.
        p_true: `(B, N)` probability of the true class.
        size: `(B, H, W)`.
        width: how far away a neighbour may be that makes a right pixel one of a boundary.

    Returns:
        `(B, N)` twice, in [0, 1].
    """
    around_true = eroded(p_true.view(size), width).flatten(1)
    around_given = eroded(torch.where(px.wrong, p_given, 1.0).view(size), width).flatten(1)
    return torch.where(px.correct, 1.0 - around_true, p_given), torch.where(px.correct, around_given, 1.0 - p_true)


def _soft(
    logits: Tensor, px: Pixels, groups: Groups, size: torch.Size, width: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """`(B, C, 4)` sums of the weights of boundary pixels (the module's table), `(B, C, 3)` those of whole masks."""
    p_given, p_true = class_probabilities(logits, px)
    only_predicted, only_true = mistakes(px, p_given, p_true, size, width)
    weights = torch.where(px.correct, p_true, 1.0 - p_given), only_predicted, p_true, only_true
    weighed = [torch.where(group, weight, 0.0) for group, weight in zip(groups, weights, strict=True)]
    region = counts(px, num_classes, tp=p_true, fp=p_given, fn=1.0 - p_true)
    return _by_class(px, weighed, num_classes), region


def _by_class(px: Pixels, weighed: list[Tensor], num_classes: int) -> Tensor:
    """`(B, C, 4)`: four weights `(B, N)`, the first two summed by the predicted class, the last two by the true one."""
    pairs = (weighed[:2], px.predicted), (weighed[2:], px.label)
    return torch.cat([sums_by_class(weights, index, num_classes) for weights, index in pairs], -1)


def _shares(sums: Tensor) -> Tensor:
    """`(R, K)` sums as shares of their total; 0 where there is nothing."""
    return sums / sums.sum(1, keepdim=True).clamp_min(1e-12)


def _checked(level: str, width: int) -> None:
    if level not in ("sample", "batch", "dataset"):
        raise UsageError(f"measure.level is {level!r}; expected sample, batch or dataset")
    if not isinstance(width, int) or width < 1:
        raise UsageError(f"measure.width is {width!r}; expected 1 or more pixels")
