"""Which objects are found: soft statistics for metrics that count connected masks.

An object is a connected mask of one class; its pixels share sides. A miss weighs 1 - P(true class), a false alarm
P(given class), and the share of a true object that is found, or of a predicted one that is right, is what they leave
of it. For each class:

| statistic | mean of |
|---|---|
| `objects_recall`, `objects_precision` | the share, over true and over predicted objects |
| `objects_found`, `objects_right` | a step of the share at one half |
| `objects_touched`, `objects_touching` | its fourth root: whether any of it is found, or right |
| `objects_matched` | a step at one half of the IoU with its partner, over predicted and true objects |
| `objects_quality` | that step times that IoU |
| `objects_more` | predicted objects as a share of both kinds; those in doubt count for less |

The partner of a predicted object is the true one that it shares most pixels with. Which pixels belong together is taken
as it is: the gradient goes through the weights alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surrogate_segmentation.bands import label_maps
from surrogate_segmentation.counts import Pixels, sums_by_class

COLUMNS = (
    *("objects_recall", "objects_found", "objects_touched", "objects_precision", "objects_right", "objects_touching"),
    *("objects_matched", "objects_quality", "objects_more"),
)

_LEAST = 1e-6
"""Of a share: keeps the slope of its root finite."""


class Objects(NamedTuple):
    """The objects of a label map, all `(B, N)`. What is said of an object stands at its first pixel."""

    first: Tensor
    """int64: of each pixel the first one of its object, as a place in the flattened image."""
    is_first: Tensor
    """bool; False where there is no class."""
    area: Tensor
    """float: pixels of the object; 0 beside its first one."""

    def total(self, weights: Tensor) -> Tensor:
        """Sums of `(B, N)` weights over the pixels of each object."""
        return torch.zeros_like(weights).scatter_add(1, self.first, weights)

    def mean(self, weights: Tensor) -> Tensor:
        """The same as a mean; 0 beside the first pixels."""
        return self.total(weights) / self.area.clamp_min(1.0)


def object_stats(
    px: Pixels, p_given: Tensor, p_true: Tensor, size: torch.Size, num_classes: int, *, together: bool
) -> Tensor:
    """Statistics as `COLUMNS`, from 0 to 1, and 0 where there is no object to take the mean over.

    Args:
        px: pixels of labels of shape `size`.
        p_given: `(B, N)` probability of the predicted class.
        p_true: `(B, N)` probability of the true class.
        size: `(B, H, W)`.
        num_classes: C.
        together: whether a row speaks of the batch.

    Returns:
        `(R, C, 9)`, differentiable in the probabilities; R = 1 for a batch taken `together`, else R = B.
    """
    predicted, true = (objects(labels) for labels in label_maps(px, size))
    alarms, misses = (torch.where(px.wrong, weight, 0.0) for weight in (p_given, 1.0 - p_true))
    iou = _iou(predicted, true, px.correct, alarms, misses)
    matched = _step(iou)
    of_true = _of_share(true, misses)
    of_predicted = (*_of_share(predicted, alarms), matched, matched * iou, predicted.mean(p_given))
    sums = [
        sums_by_class([torch.where(these.is_first, weight, 0.0) for weight in weights], index, num_classes)
        for these, weights, index in ((true, of_true, px.label), (predicted, of_predicted, px.predicted))
    ]
    found, given = (of.sum(0, keepdim=True) for of in sums) if together else sums
    n_true, n_predicted, weight = found[..., 0], given[..., 0], given[..., 6]
    columns = (
        _ratio(found[..., 1:], n_true),
        _ratio(given[..., 1:4], n_predicted),
        _ratio(given[..., 4:6], 0.5 * (n_true + n_predicted)),
        _ratio(given[..., 6:], weight + n_true),
    )
    return torch.cat(columns, -1)


def objects(labels: Tensor) -> Objects:
    """The objects of a `(B, H, W)` label map, as in `surrogate_segmentation.bands`."""
    first, there = components(labels).flatten(1), (labels >= 0).flatten(1)
    own = torch.arange(first.shape[1], device=first.device)
    area = torch.zeros(first.shape, device=first.device).scatter_add_(1, first, there.float())
    return Objects(first, there & (first == own), area)


@torch.no_grad()
def components(labels: Tensor) -> Tensor:
    """`(B, H, W)` int64: of each pixel the first one that it is connected with, as a place in the flattened image.

    Each pixel points to a place of its mask that is not after it. A round hands the least place on to the neighbours
    and to what they point to, and lets all point to where that one points, so that the logarithm of the pixels is
    enough rounds for a mask of any shape (Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", 1982).
    """
    height, width = labels.shape[1:]
    joined = [
        labels.narrow(dim, 1, length - 1) == labels.narrow(dim, 0, length - 1)
        for dim, length in ((1, height), (2, width))
    ]
    first = torch.arange(height * width, device=labels.device).expand(len(labels), -1)
    for _ in range(first.shape[1].bit_length()):
        before, least = first, first.view(labels.shape).clone()
        for dim, same in enumerate(joined, 1):
            sides = [least.narrow(dim, start, same.shape[dim]) for start in (0, 1)]
            lower = torch.where(same, torch.minimum(*sides), height * width)
            for side in sides:
                torch.minimum(side, lower, out=side)
        handed = torch.minimum(first.scatter_reduce(1, first, least.flatten(1), "amin"), least.flatten(1))
        first = handed.gather(1, handed.gather(1, handed))
        if first.is_cpu and torch.equal(first, before):  # elsewhere nobody waits for the answer
            break
    return first.view(labels.shape)


@torch.no_grad()
def partners(objects: Tensor, others: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """Of each object the one of another map that it shares most pixels with, and how many; 0 pixels where it has none.

    `objects` and `others` are first pixels `(B, N)` as in `Objects`, `shared` `(B, N)` tells the pixels that count. The
    pairs are sorted, and the end of a run of equal ones knows its length.
    """
    places = objects.shape[1]
    pair = torch.where(shared, objects * places + others, -1).sort(1).values
    here = torch.arange(places, device=pair.device)
    begins = torch.cat([torch.ones_like(shared[:, :1]), pair[:, 1:] != pair[:, :-1]], 1)
    length = here - torch.where(begins, here, 0).cummax(1).values + 1
    found = torch.where(pair < 0, 0, length * places + pair % places)
    best = torch.zeros_like(pair).scatter_reduce(1, pair.clamp_min(0) // places, found, "amax")
    return best % places, best // places


def _iou(predicted: Objects, true: Objects, correct: Tensor, alarms: Tensor, misses: Tensor) -> Tensor:
    """`(B, N)` in [0, 1]: of predicted objects with their partners; mistakes weigh what they weigh, all else 1."""
    partner, shared = partners(predicted.first, true.first, correct)
    rest = [of.total(weight + correct) for of, weight in ((predicted, alarms), (true, misses))]
    return shared / (rest[0] + rest[1].gather(1, partner) - shared).clamp_min(1.0)


def _of_share(these: Objects, mistakes: Tensor) -> tuple[Tensor, ...]:
    """`(B, N)` each: 1, the share of an object that mistakes leave, a step of it, and its fourth root."""
    share = (1.0 - these.mean(mistakes)).clamp_min(_LEAST)
    return torch.ones_like(share), share, _step(share), share**0.25


def _step(share: Tensor) -> Tensor:
    """From 0 at 0 to 1 at 1, steepest at one half."""
    return share**3 / (share**3 + (1.0 - share) ** 3)


def _ratio(parts: Tensor, whole: Tensor) -> Tensor:
    """`(R, C, K)` sums divided by `(R, C)`; 0 where that is 0."""
    return parts / torch.where(whole > 0, whole, 1.0).unsqueeze(-1)
