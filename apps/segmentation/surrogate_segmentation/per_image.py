"""IoU of single images: of the classes of each, and the mean of the worst quarter of a batch.

The mean over the data set hides the images on which a model fails; the worst quarter is about nothing else.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from surrogate.protocols import Measure
from surrogate_segmentation.counts import check_classes
from surrogate_segmentation.kernels import soft_counts
from surrogate_segmentation.measures import COLUMNS, DIRECTIONS, columns_of, iou


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
    """IoU of each class of each image: `iou` at level "sample", judged by `image_miou`.

    The classes are rows of their own, not their mean: a class that is not found stays at IoU 0 for any small step, and
    in a row by itself the surrogate can still say which way to go (`surrogate.moves`); in a mean that is lost, and the
    class stays lost too (docs/log.md). The mean of the rows weighs an image by the number of its classes; the reported
    number is the mean of the images' means.
    """
    return replace(iou(num_classes=num_classes, ignore_index=ignore_index, level="sample"), version=2)


def worst_quartile_iou(*, num_classes: int, ignore_index: int) -> Measure:
    """Mean over the worst quarter of the images of a batch, rounded up, of their mean IoU: one row for a batch.

    Statistics are means of those of `iou` (one-vs-rest), over the classes of an image and the same images. Which images
    they are is decided by the metric and has no gradient; it changes under small moves, so that a row for each class
    would jump (6 % wrong signs on CamVid, docs/log.md). The reported number, `worst_quartile_miou`, takes the worst
    quarter of the data set.
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


def _image_columns(sums: Tensor) -> Tensor:
    """`(B, C, 6)` to `(B, 6)`: means of the columns of IoU over the classes with a pixel; 0 without one."""
    columns = columns_of(sums.flatten(0, 1)).view(len(sums), -1, len(COLUMNS))
    defined = (sums[..., 3:].sum(-1) > 0).unsqueeze(-1)
    return torch.where(defined, columns, 0.0).sum(1) / defined.sum(1).clamp_min(1)


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """`(B, F)` to `(1, F)`: the mean of the chosen ones, NaN without one."""
    total = torch.where(chosen.unsqueeze(1), values, 0.0).sum(0, keepdim=True)
    return torch.where(chosen.any(), total / chosen.sum().clamp_min(1), torch.nan)
