"""Sums over the true-positive, false-positive and false-negative pixels of each class, hard and soft.

Void pixels and absent classes are handled here and nowhere else. A void pixel (label `ignore_index`) is in no sum. A
class that is neither predicted nor present has an empty union and is undefined.

With a = argmax of the logits and y = label of a pixel: where a == y the pixel is a true positive of y; elsewhere it is
a false positive of a and a false negative of y. Ties go to the first class, as in `torch.argmax`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from surrogate.errors import DataError

Statistics = Literal["one-vs-rest", "literal", "hinge"]
_FEW_OPERATIONS = (torch.uint16, torch.uint32, torch.uint64)
"""Integer dtypes that torch hardly does more than convert."""


class Pixels(NamedTuple):
    """The pixels of a batch, flattened to N = H * W each, all `(B, N)`."""

    predicted: Tensor
    """int64 class of the highest logit."""
    label: Tensor
    """int64 true class; 0 at void pixels."""
    correct: Tensor
    """bool, predicted right; False at void pixels."""
    wrong: Tensor
    """bool, predicted wrong; False at void pixels."""


def pixels(logits: Tensor, labels: Tensor, *, ignore_index: int) -> Pixels:
    """Sorts the pixels of `(B, C, H, W)` logits by `(B, H, W)` integer labels. Runs without gradient.

    Raises:
        DataError: see `check_labels`.
    """
    check_labels(labels, logits, ignore_index=ignore_index)
    predicted = logits.detach().max(1).indices.flatten(1)  # the first of equals too; on a CPU a fifth of argmax's time
    label = labels.flatten(1).long()
    valid = label != ignore_index
    label = torch.where(valid, label, 0)
    hit = predicted == label
    return Pixels(predicted, label, hit & valid, ~hit & valid)


def counts(
    px: Pixels, num_classes: int, *, tp: Tensor | float = 1.0, fp: Tensor | float = 1.0, fn: Tensor | float = 1.0
) -> Tensor:
    """What each group of pixels weighs, summed by image and class.

    A weight is `(B, N)` float, or one number for all pixels: with the default weights the sums are the hard counts.

    Returns:
        `(B, C, 3)` float: TP, FP, FN.
    """

    def by_class(group: Tensor, weight: Tensor | float, index: Tensor) -> Tensor:
        weighed = torch.where(group, weight, 0.0)  # a number stays one: as a tensor it would wait for the device
        return weighed.new_zeros(len(index), num_classes).scatter_add(1, index, weighed)

    sums = (
        by_class(px.correct, tp, px.label),
        by_class(px.wrong, fp, px.predicted),
        by_class(px.wrong, fn, px.label),
    )
    return torch.stack(sums, dim=-1)


def sums_by_class(weights: Sequence[Tensor], index: Tensor, num_classes: int) -> Tensor:
    """`(B, C, K)`: K weights `(B, N)` summed by the class that `(B, N)` int64 names."""
    stacked = torch.stack(list(weights), 1)
    sums = stacked.new_zeros(*stacked.shape[:2], num_classes)
    return sums.scatter_add(2, index.unsqueeze(1).expand_as(stacked), stacked).mT


def soft_counts(logits: Tensor, labels: Tensor, *, ignore_index: int, statistics: Statistics = "one-vs-rest") -> Tensor:
    """Soft and hard counts of each image and class; the weights of the soft ones are in the table of `measures.iou`.

    Args:
        logits: `(B, C, H, W)` float.
        labels: `(B, H, W)` of any integer dtype, in [0, C) or `ignore_index` (void).
        ignore_index: the label of void pixels.
        statistics: what the pixels weigh.

    Returns:
        `(B, C, 6)` float64 for float64 logits, else float32: soft TP, FP, FN, differentiable in the logits, then hard
        TP, FP, FN, in pixels.
    """
    px = pixels(logits, labels, ignore_index=ignore_index)
    if statistics == "hinge":
        # Not cut off at a ceiling: beyond it a class that is not found would have no gradient (docs/log.md).
        tp = 1.0 / (1.0 + hinge(logits, px))
        fp = fn = 1.0 - tp
    else:
        fp, tp = class_probabilities(logits, px)
        fn = tp if statistics == "literal" else 1.0 - tp
    soft = counts(px, logits.shape[1], tp=tp, fp=fp, fn=fn)
    return torch.cat([soft, counts(px, logits.shape[1]).to(soft.dtype)], -1)


def counts_of_all(p: Tensor, px: Pixels) -> Tensor:
    """`(B, C, 3)` soft TP, FP and FN of each image and class, of every pixel whatever it was predicted as.

    By `(B, C, N)` probabilities, a pixel of class y adds P(y) to TP of y, 1 - P(y) to its FN, and P(k) to FP of every
    other class k. The surer the probabilities, the nearer to the hard counts.
    """
    p = torch.where((px.correct | px.wrong).unsqueeze(1), p, 0.0)
    own, label = _at(p, px.label), px.label.unsqueeze(1)
    others = p.scatter(1, label, 0.0)  # not 1 - P(y), nor a sum less another: what is small would be rounding
    tp, fn = sums_by_class([own, others.sum(1)], px.label, p.shape[1]).unbind(2)
    return torch.stack([tp, others.sum(2), fn], 2)


def soft_counts_velocity(logits: Tensor, way: Tensor, labels: Tensor, *, ignore_index: int) -> Tensor:
    """How fast the sums of `soft_counts`, one-vs-rest, change where the logits move along `way`, of their shape.

    With d = the sum over k != a of p_k (way_a - way_k): TP and FP by p_a d, FN by -p_y (way_y - way_a + d).
    """
    px = pixels(logits, labels, ignore_index=ignore_index)
    p, moving = probabilities(logits), _wide(way).flatten(2)
    p_a, p_y = at_pixels(p, px)
    way_a, way_y = at_pixels(moving, px)
    d = (p * (way_a.unsqueeze(1) - moving)).sum(1)
    soft = counts(px, logits.shape[1], tp=p_a * d, fp=p_a * d, fn=-p_y * (way_y - way_a + d))
    return torch.cat([soft, torch.zeros_like(soft)], -1)


def check_classes(logits: Tensor, num_classes: int) -> None:
    """Raises `DataError` where `(B, C, H, W)` logits are not of the number of classes that the data has."""
    if logits.shape[1] != num_classes:
        raise DataError(f"logits have {logits.shape[1]} classes, the data {num_classes}; give one logit per class")


def check_labels(labels: Tensor, logits: Tensor, *, ignore_index: int) -> None:
    """Raises `DataError` where labels are not whole numbers of the size and on the device of `(B, C, H, W)` logits, or
    one is neither a class nor void (see `check_values`)."""
    check_layout(labels, logits)
    check_values(labels, logits.shape[1], ignore_index=ignore_index)


def check_layout(labels: Tensor, logits: Tensor) -> None:
    """Raises `DataError` where labels are not whole numbers of the size and on the device of `(B, C, H, W)` logits."""
    if labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise DataError(
            f"labels of shape {tuple(labels.shape)} for logits of {tuple(logits.shape)}; "
            "expected (B, H, W) for (B, C, H, W)"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"labels of dtype {labels.dtype}; expected an integer dtype, such as by `labels.long()`")
    if labels.device != logits.device:
        raise DataError(f"labels on {labels.device}, logits on {logits.device}; move the labels there")


def check_values(labels: Tensor, num_classes: int, *, ignore_index: int) -> None:
    """Raises `DataError` where a label of `(B, H, W)` is neither a class nor void.

    Values are looked at on the CPU alone: no device is waited for.
    """
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if labels.dtype in _FEW_OPERATIONS:
        labels = labels.long()
    low, high = (int(bound) for bound in labels.aminmax()) if labels.numel() else (0, 0)
    if low >= 0 and high < num_classes:
        return
    bad = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if bad.any():
        image, *at = bad.nonzero()[0].tolist()
        raise DataError(
            f"label {int(labels[image, *at])} in image {image} of the batch, row {at[0]}, column {at[1]}; "
            f"expected 0 to {num_classes - 1}, or {ignore_index} for void; correct the mask or the number of classes"
        )


def class_probabilities(logits: Tensor, px: Pixels) -> tuple[Tensor, Tensor]:
    """Softmax probability of the predicted and of the true class, each `(B, N)` in fp32 or wider, in [0, 1]."""
    return at_pixels(probabilities(logits), px)


def probabilities(logits: Tensor) -> Tensor:
    """`(B, C, N)` softmax of `(B, C, H, W)` logits, in fp32 or wider."""
    return _wide(logits).softmax(1).flatten(2)


def at_pixels(values: Tensor, px: Pixels) -> tuple[Tensor, Tensor]:
    """Of `(B, C, N)` values those of the predicted and of the true class, each `(B, N)`."""
    return _at(values, px.predicted), _at(values, px.label)


def hinge(logits: Tensor, px: Pixels) -> Tensor:
    """Multi-class hinge loss of each pixel, `(B, N)`, >= 0: max(0, 1 + highest other logit - true class's logit)."""
    flat = _wide(logits).flatten(2)
    true = _at(flat, px.label)
    others = flat.scatter(1, px.label.unsqueeze(1), -torch.inf).amax(1)
    return (1.0 + others - true).clamp_min(0.0)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _at(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index.unsqueeze(1)).squeeze(1)
