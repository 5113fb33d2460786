"""Which objects are found: soft statistics for metrics that count connected masks.

An object is a connected mask of one class; its pixels share sides. A miss weighs 1 - P(true class), a false alarm
P(given class), and the share of a true object that is found, or of a predicted one that is right, is what they leave
of it. For each class but 0:

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

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from surrogate_segmentation.bands import foreground_maps
from surrogate_segmentation.counts import Pixels, sums_by_class

COLUMNS = (
    *("objects_recall", "objects_found", "objects_touched", "objects_precision", "objects_right", "objects_touching"),
    *("objects_matched", "objects_quality", "objects_more"),
)

_LEAST = 1e-6
"""Of a share: keeps the slope of its root finite."""


class Objects(NamedTuple):
    """The objects of a label map, all `(B, N)`. What is said of an object stands at its first pixel."""

    label: Tensor
    """int64 class of each pixel; 0 where there is none."""
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

    def sums(self, weights: Sequence[Tensor], num_classes: int) -> list[Tensor]:
        """`(B, C)` each: what is said of objects, `(B, N)`, summed over those of each class."""
        said = [torch.where(self.is_first, weight, 0.0) for weight in weights]
        return list(sums_by_class(said, self.label, num_classes).unbind(-1))


def object_stats(
    px: Pixels, p_given: Tensor, p_true: Tensor, size: torch.Size, num_classes: int, *, together: bool
) -> Tensor:
    """Statistics as `COLUMNS`, from 0 to 1, of the classes but 0.

    Where there is no object to take the mean over they are 0, and where there is none on either side perfect.

    Arguments are those of `surrogate_segmentation.places.place_stats`.

    Returns:
        `(R, C - 1, 9)`, differentiable in the probabilities; R = 1 for a batch taken `together`, else R = B.
    """
    predicted, true = (objects(labels) for labels in foreground_maps(px, size))
    right, found = (torch.where(px.wrong, left, 1.0) for left in (1.0 - p_given, p_true))
    matched, quality = _matches(predicted, true, px, p_given, p_true)
    of_predicted = *_of_share(predicted, right), matched, quality, predicted.mean(p_given)
    sums = [*predicted.sums(of_predicted, num_classes - 1), *true.sums(_of_share(true, found), num_classes - 1)]
    if together:
        sums = [each.sum(0, keepdim=True) for each in sums]
    n_predicted, precision, hits, touching, matched, quality, weight, n_true, recall, finds, touched = sums
    ratios = (
        *(_ratio(part, n_true) for part in (recall, finds, touched)),
        *(_ratio(part, n_predicted) for part in (precision, hits, touching)),
        *(_ratio(part, 0.5 * (n_true + n_predicted)) for part in (matched, quality)),
    )
    none, more = n_true + n_predicted == 0, _ratio(weight, weight + n_true)
    return torch.stack([*(torch.where(none, 1.0, ratio) for ratio in ratios), torch.where(none, 0.5, more)], -1)


def objects(labels: Tensor) -> Objects:
    """The objects of a `(B, H, W)` label map, as in `surrogate_segmentation.bands`."""
    first, there = components(labels).flatten(1), (labels >= 0).flatten(1)
    own = torch.arange(first.shape[1], device=first.device)
    area = torch.zeros(first.shape, device=first.device).scatter_add_(1, first, there.float())
    return Objects(labels.flatten(1).clamp_min(0).long(), first, there & (first == own), area)


@torch.no_grad()
def components(labels: Tensor) -> Tensor:
    """`(B, H, W)` int64: of each pixel the first one that it is connected with, as a place in the flattened image.

    Each pixel points to a place of its mask that is not after it. A round hands the least place on to the neighbours
    and to what they point to, and lets all point to where that one points (after Shiloach and Vishkin, "An O(log n)
    parallel connectivity algorithm", 1982). The logarithm of the pixels is more rounds than any mask was seen to need.
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
def partners(own: Tensor, others: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """Of each object the one of another map that it shares most pixels with, and how many; 0 pixels where it has none.

    `own` and `others` are first pixels `(B, N)` as in `Objects`, `shared` `(B, N)` tells the pixels that count. The
    pairs are sorted, and the end of a run of equal ones knows its length.
    """
    places = own.shape[1]
    pair = torch.where(shared, own * places + others, -1).sort(1).values
    here = torch.arange(places, device=pair.device)
    begins = torch.cat([torch.ones_like(shared[:, :1]), pair[:, 1:] != pair[:, :-1]], 1)
    length = here - torch.where(begins, here, 0).cummax(1).values + 1
    found = torch.where(pair < 0, 0, length * places + pair % places)
    best = torch.zeros_like(pair).scatter_reduce(1, pair.clamp_min(0) // places, found, "amax")
    return best % places, best // places


def _matches(predicted: Objects, true: Objects, px: Pixels, p_given: Tensor, p_true: Tensor) -> tuple[Tensor, Tensor]:
    """`(B, N)` of predicted objects: a step of the IoU with their partners, and that times the IoU.

    Mistakes weigh what they weigh, and all other pixels 1.
    """
    partner, shared = partners(predicted.first, true.first, px.correct & (px.label > 0))
    given, missed = (torch.where(px.wrong, weight, px.correct.to(weight)) for weight in (p_given, 1.0 - p_true))
    union = predicted.total(given) + true.total(missed).gather(1, partner) - shared
    iou = shared / union.clamp_min(1.0)
    return _step(iou), _step(iou) * iou


def _of_share(these: Objects, kept: Tensor) -> tuple[Tensor, ...]:
    """`(B, N)` each: 1, the share of an object that is kept, a step of it, and its fourth root.

    By the sum of what is kept: 1 less that of what is lost would be rounding where nearly all is lost.
    """
    share = these.mean(kept).clamp_min(_LEAST)
    return torch.ones_like(share), share, _step(share), share**0.25


def _step(share: Tensor) -> Tensor:
    """From 0 at 0 to 1 at 1, steepest at one half."""
    return share**3 / (share**3 + (1.0 - share) ** 3)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Sums divided by sums; 0 where there is nothing."""
    return part / torch.where(whole > 0, whole, 1.0)
