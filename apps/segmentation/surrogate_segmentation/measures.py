"""IoU of each class next to the soft statistics that explain it (NeuroIoU, BMVC 2018, Sections 3.1 and 3.3)."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from surrogate.additive import additive_measure
from surrogate.errors import UsageError, nearest
from surrogate.protocols import Additive, Level, Measure
from surrogate_segmentation import counts, kernels
from surrogate_segmentation.counts import Statistics
from surrogate_segmentation.kernels import Kernel

COLUMNS = ("tp", "fp", "fn", "tp_mean", "fp_mean", "fn_mean")
"""Three sums, as shares of their total, and the three means of the same pixels (the paper's six inputs)."""
DIRECTIONS = (-1, 1, 1, -1, 1, 1)
"""Which way the loss goes with each of them."""


def iou(
    *,
    num_classes: int,
    ignore_index: int,
    level: Level = "batch",
    statistics: Statistics = "one-vs-rest",
    kernel: Kernel = "auto",
) -> Measure:
    """Intersection over union (Eq. 1), a row per class of a batch (level "batch"), per image and class ("sample"), or
    per class of all batches so far ("dataset"). IoU of a batch is nearer than that of an image to what is reported, IoU
    of the data set, and trains better (docs/log.md).

    Statistics, each a weight that a pixel adds to its group; P(k) is the softmax probability of class k:

    | name | TP of class y | FP of class a | FN of class y |
    |---|---|---|---|
    | one-vs-rest | P(y) | P(a) | 1 - P(y) |
    | literal (Eq. 2) | P(y) | P(a) | P(y) |
    | hinge (Sec. 3.3, made sound) | 1 / (1 + h) | h / (1 + h) | h / (1 + h), with h the hinge loss of the pixel |

    "literal" is Eq. 2 as printed and **destroys the model**: see `docs/gradient-sign.md`.

    The sums are given as shares of TP + FP + FN: IoU does not depend on the size of the image, so neither do they.

    `kernel` says by what one-vs-rest statistics are computed, see `kernels.soft_counts`; "reference" is plain torch.
    The numbers are the same to rounding.

    Raises:
        UsageError: unknown level, statistics or kernel.
    """
    _one_of("measure.level", level, get_args(Level))
    _one_of("measure.statistics", statistics, get_args(Statistics))
    _one_of("measure.kernel", kernel, get_args(Kernel))

    def sums(outputs: Tensor, targets: Tensor, /) -> Tensor:
        counts.check_classes(outputs, num_classes)
        if statistics == "one-vs-rest":
            return kernels.soft_counts(outputs, targets, ignore_index=ignore_index, kernel=kernel)
        return counts.soft_counts(outputs, targets, ignore_index=ignore_index, statistics=statistics)

    additive = Additive(sums=sums, metric=iou_of, stats=columns_of)
    return additive_measure(
        additive,
        COLUMNS,
        level=level,
        version=2 if statistics == "hinge" else 1,
        analytic=lambda stats: stats[:, 0],
        directions=DIRECTIONS,
        takes_half=True,
    )


def iou_of(sums: Tensor) -> Tensor:
    """`(R, 6)` sums of `soft_counts` to `(R,)` TP / (TP + FP + FN) of the hard ones; an empty union is 0 / 0: NaN."""
    hard = sums[:, 3:]
    return hard[:, 0] / hard.sum(1)


def columns_of(sums: Tensor) -> Tensor:
    """`(R, 6)` sums of `soft_counts` to the `(R, 6)` statistics."""
    soft, hard = sums[:, :3], sums[:, 3:].detach()
    total = soft.sum(1, keepdim=True) + 1e-12  # of an absent class it is 0
    return torch.cat([soft / total, soft / hard.clamp_min(1.0)], 1)


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{key} is {value!r}; {nearest(value, known)} (known: {', '.join(known)})")
