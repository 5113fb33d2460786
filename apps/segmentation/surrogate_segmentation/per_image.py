"""Mean IoU of single images: of each, and of the worst quarter of a batch.

The mean over the data set hides the images on which a model fails; the worst quarter is about nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surrogate.protocols import Measure
from surrogate_segmentation.counts import class_probabilities, counts, pixels

COLUMNS = ("tp", "fp", "fn", "tp_mean", "fp_mean", "fn_mean")


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
