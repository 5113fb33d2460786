"""Statistics of places and of objects for a metric of whole label maps: of the classes but 0, on average and as one.

Not of each class: that many columns are more than the rows of a few hundred images tell apart (`docs/log.md`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from surrogate_segmentation.counts import Pixels, at_pixels, counts

StatsByClass = Callable[..., Tensor]
"""`place_stats` or `object_stats`: of pixels, their probabilities, size and classes, `(R, C - 1, K)`."""


def map_columns(names: tuple[str, ...], num_classes: int) -> tuple[str, ...]:
    """Names of the columns of `map_stats`, from those of one class."""
    whose = ("mean", "foreground") if num_classes > 2 else ("foreground",)
    return tuple(f"{name}_{who}" for who in whose for name in names)


def map_stats(
    statistics: StatsByClass, probabilities: Tensor, px: Pixels, size: torch.Size, *, together: bool
) -> Tensor:
    """`(R, F)` statistics of the foreground, after their mean over the classes where there are several.

    `(B, C, N)` probabilities and the pixels of labels of shape `size`. R = 1 for a batch taken `together`, else R = B.
    """
    two, foreground = torch.stack([probabilities[:, 0], probabilities[:, 1:].sum(1)], 1), _foreground(px)
    as_one = statistics(foreground, *at_pixels(two, foreground), size, 2, together=together).squeeze(1)
    classes = probabilities.shape[1]
    if classes <= 2:
        return as_one
    each = statistics(px, *at_pixels(probabilities, px), size, classes, together=together)
    weight = _counted(px, classes, together=together).to(each).unsqueeze(2)
    return torch.cat([(each * weight).sum(1) / weight.sum(1).clamp_min(1.0), as_one], 1)


def _counted(px: Pixels, num_classes: int, *, together: bool) -> Tensor:
    """`(R, C - 1)` bool: the classes but 0 to take a mean over: those of the truth, or else those predicted."""
    hard = counts(px, num_classes)[:, 1:]
    hard = hard.sum(0, keepdim=True) if together else hard
    present, seen = hard[..., ::2].sum(2) > 0, hard.sum(2) > 0
    return torch.where(present.any(1, keepdim=True), present, seen)


def _foreground(px: Pixels) -> Pixels:
    """Class 0 against all others taken as one."""
    predicted, label, valid = (px.predicted > 0).long(), (px.label > 0).long(), px.correct | px.wrong
    right = predicted == label
    return Pixels(predicted, label, valid & right, valid & ~right)
