"""IoU of each class next to the soft statistics that explain it (NeuroIoU, BMVC 2018, Sections 3.1 and 3.3)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from surrogate.errors import UsageError, nearest
from surrogate.protocols import Level, Measure
from surrogate_segmentation.counts import class_probabilities, counts, hinge, pixels

COLUMNS = ("tp", "fp", "fn", "tp_mean", "fp_mean", "fn_mean")
"""Three sums, as shares of their total, and the three means of the same pixels (the paper's six inputs)."""

Statistics = Literal["one-vs-rest", "literal", "hinge"]


def iou(
    *, num_classes: int, ignore_index: int, level: Level = "sample", statistics: Statistics = "one-vs-rest"
) -> Measure:
    """Intersection over union (Eq. 1), a row per image and class (level "sample") or per class of a batch ("batch").

    Statistics, each a weight that a pixel adds to its group; P(k) is the softmax probability of class k:

    | name | TP of class y | FP of class a | FN of class y |
    |---|---|---|---|
    | one-vs-rest | P(y) | P(a) | 1 - P(y) |
    | literal (Eq. 2) | P(y) | P(a) | P(y) |
    | hinge (Sec. 3.3, made sound) | 1 - h | h | h, with h the hinge loss of the pixel |

    "literal" is Eq. 2 as printed and **destroys the model**: see `docs/gradient-sign.md`.

    The sums are given as shares of TP + FP + FN: IoU does not depend on the size of the image, so neither do they.

    Raises:
        UsageError: unknown level or statistics.
    """
    _one_of("measure.level", level, ("sample", "batch"))
    _one_of("measure.statistics", statistics, ("one-vs-rest", "literal", "hinge"))

    def pool(sums: Tensor) -> Tensor:
        return sums.sum(0) if level == "batch" else sums.flatten(0, 1)

    def metric(outputs: Tensor, targets: Tensor, /) -> Tensor:
        hard = pool(counts(pixels(outputs, targets, ignore_index=ignore_index), num_classes))
        return hard[:, 0] / hard.sum(1)  # an empty union is 0 / 0: NaN, undefined

    def stats(outputs: Tensor, targets: Tensor, /) -> Tensor:
        px = pixels(outputs, targets, ignore_index=ignore_index)
        if statistics == "hinge":
            h = hinge(outputs, px)
            soft = counts(px, num_classes, tp=1.0 - h, fp=h, fn=h)
        else:
            p_predicted, p_true = class_probabilities(outputs, px)
            missed = p_true if statistics == "literal" else 1.0 - p_true
            soft = counts(px, num_classes, tp=p_true, fp=p_predicted, fn=missed)
        return _columns(pool(soft), pool(counts(px, num_classes)))

    return Measure(metric, stats, COLUMNS, level=level)


def _columns(soft: Tensor, hard: Tensor) -> Tensor:
    """`(R, 3)` soft sums and hard counts to the `(R, 6)` statistics; NaN rows where the union is empty."""
    defined = hard.sum(1, keepdim=True) > 0
    shares = soft / torch.where(defined, soft.sum(1, keepdim=True), 1.0).clamp_min(1e-12)
    means = soft / hard.clamp_min(1.0)
    return torch.where(defined, torch.cat([shares, means], 1), torch.nan)


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{key} is {value!r}; {nearest(value, known)} (known: {', '.join(known)})")
