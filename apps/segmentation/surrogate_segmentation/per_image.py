"""Mean IoU of single images: of each, and of the worst quarter of a batch.

The mean over the data set hides the images on which a model fails; the worst quarter is about nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surrogate.protocols import Measure
from surrogate_segmentation.counts import check_classes
from surrogate_segmentation.kernels import soft_counts
from surrogate_segmentation.measures import COLUMNS, DIRECTIONS, columns_of


def mean_iou(regions: Tensor) -> Tensor:
    """`(B, C, 3)` TP, FP and FN counts to `(B,)` mean IoU over the classes with a pixel in any; NaN without one."""
    return (regions[..., 0] / regions.sum(-1)).nanmean(1)


def worst_quarter(values: Tensor) -> Tensor:
    """Which of `(B,)` values are the lowest quarter of the defined ones, rounded up: `(B,)` bool.

    Of equal values the first ones are taken.
    """
    order = torch.where(values.isnan(), torch.inf, values).argsort(stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return rank * 4 < (~values.isnan()).sum()


def image_iou(*, num_classes: int, ignore_index: int) -> Measure:
    """Mean over the classes of an image of their IoU, a row for each image.

    The statistics are those of `iou` (one-vs-rest), as means over the same classes: shares of TP, FP and FN, and means.
    """

    def metric(outputs: Tensor, targets: Tensor, /) -> Tensor:
        return mean_iou(_counted(outputs, targets, num_classes, ignore_index)[..., 3:])

    def stats(outputs: Tensor, targets: Tensor, /) -> Tensor:
        sums = _counted(outputs, targets, num_classes, ignore_index)
        return torch.where(_undefined(sums).unsqueeze(1), torch.nan, _image_columns(sums))

    return Measure(metric, stats, COLUMNS, analytic=lambda rows: rows[:, 0], directions=DIRECTIONS)


def worst_quartile_iou(*, num_classes: int, ignore_index: int) -> Measure:
    """Mean over the worst quarter of the images of a batch, rounded up, of their mean IoU: one row for a batch.

    Statistics are means over the same images of those of `image_iou`. Which images they are is decided by the
    metric and has no gradient. The reported number, `worst_quartile_miou`, takes the worst quarter of the data set.
    """

    def metric(outputs: Tensor, targets: Tensor, /) -> Tensor:
        values = mean_iou(_counted(outputs, targets, num_classes, ignore_index)[..., 3:])
        return _mean_of(values.unsqueeze(1), worst_quarter(values)).squeeze(1)

    def stats(outputs: Tensor, targets: Tensor, /) -> Tensor:
        sums = _counted(outputs, targets, num_classes, ignore_index)
        return _mean_of(_image_columns(sums), worst_quarter(mean_iou(sums[..., 3:].detach())))

    return Measure(metric, stats, COLUMNS, level="batch", analytic=lambda rows: rows[:, 0], directions=DIRECTIONS)


def _counted(outputs: Tensor, targets: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """`(B, C, 6)` soft and hard counts."""
    check_classes(outputs, num_classes)
    return soft_counts(outputs, targets, ignore_index=ignore_index)


def _undefined(sums: Tensor) -> Tensor:
    """`(B, C, 6)` to `(B,)`: images without a labelled pixel."""
    return sums[..., 3:].sum((1, 2)) == 0


def _image_columns(sums: Tensor) -> Tensor:
    """`(B, C, 6)` to `(B, 6)`: means of the columns of IoU over the classes with a pixel; 0 without one."""
    columns = columns_of(sums.flatten(0, 1)).view(len(sums), -1, len(COLUMNS))
    defined = (sums[..., 3:].sum(-1) > 0).unsqueeze(-1)
    return torch.where(defined, columns, 0.0).sum(1) / defined.sum(1).clamp_min(1)


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """`(B, F)` to `(1, F)`: the mean of the chosen ones, NaN without one."""
    total = torch.where(chosen.unsqueeze(1), values, 0.0).sum(0, keepdim=True)
    return torch.where(chosen.any(), total / chosen.sum().clamp_min(1), torch.nan)
