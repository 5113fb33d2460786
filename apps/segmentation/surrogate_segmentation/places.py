"""Where the wrong pixels are: soft statistics for metrics of distances, outlines and shapes.

Counts do not know whether a false alarm lies on the outline of an object or far from all of them. For each class but 0:

| statistic | what |
|---|---|
| `outline_precision`, `outline_recall` | share of the predicted (true) outline within 2 pixels of the other one |
| `surface_fp`, `surface_fn` | mean over the predicted (true) outline of the distance to the other one |
| `farthest_fp`, `farthest_fn` | the same over the predicted (true) mask to the other one, as a mean of fourth powers |
| `offset` | distance between the centres of both masks |

A false alarm weighs P(given class) and a miss 1 - P(true class), as in the measure `iou`, and a pixel of an outline as
one that is in no other outline does in `surrogate_segmentation.boundary`; in the shares, those near the other outline
count as they are. Distances are those of `surrogate_segmentation.distances`. Where the masks are is taken as it is: the
gradient goes through the weights alone. In a batch taken together the images lie on each other for the centres.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from surrogate_segmentation.bands import edges, foreground_maps, near
from surrogate_segmentation.boundary import mistakes
from surrogate_segmentation.counts import Pixels, counts, sums_by_class
from surrogate_segmentation.distances import to_nearest

COLUMNS = (
    *("outline_precision", "surface_fp", "farthest_fp"),
    *("outline_recall", "surface_fn", "farthest_fn"),
    "offset",
)

_NEAR = 2
_POWER = 4
_LEAST = 1e-10
"""Under a fourth root: keeps its slope finite where nothing is wrong."""
_APART = 1e-8
"""The same under the root of a squared distance, whose slope is at most 1."""


def place_stats(
    px: Pixels, p_given: Tensor, p_true: Tensor, size: torch.Size, num_classes: int, *, together: bool
) -> Tensor:
    """Statistics as `COLUMNS`, from 0 to 1, of the classes but 0.

    Args:
        px: pixels of labels of shape `size`.
        p_given: `(B, N)` probability of the predicted class.
        p_true: `(B, N)` probability of the true class.
        size: `(B, H, W)`.
        num_classes: C.
        together: whether a row speaks of the batch.

    Returns:
        `(R, C - 1, 7)`, differentiable in the probabilities; R = 1 for a batch taken `together`, else R = B.
    """
    predicted, true = foreground_maps(px, size)
    outlines = edges(predicted), edges(true)
    alarms, misses = (torch.where(px.wrong, weight, 0.0) for weight in (p_given, 1.0 - p_true))
    alone = mistakes(px, p_given, p_true, size, 1)
    sums = (
        _sums((predicted, true), outlines, alarms, alone[0], num_classes - 1),
        _sums((true, predicted), outlines[::-1], misses, alone[1], num_classes - 1),
        _moments(px, p_given, p_true, size, num_classes)[:, 1:],
    )
    of_predicted, of_true, moments = (part.sum(0, keepdim=True) for part in sums) if together else sums
    empty = (of_predicted[..., 0] + of_true[..., 0] == 0).unsqueeze(-1)
    return torch.cat([_means(of_predicted, empty), _means(of_true, empty), _offset(moments)], -1)


def _sums(
    masks: tuple[Tensor, Tensor], outlines: tuple[Tensor, Tensor], wrong: Tensor, alone: Tensor, num_classes: int
) -> Tensor:
    """`(B, C, 5)` of one side's masks and outlines and the other's: pixels of the outline and those of them that are
    far, how far they all are, pixels of the mask, and how far those are that are wrong."""
    drawn = outlines[0] >= 0
    far = (drawn & ~near(*outlines, _NEAR)).flatten(1)
    away, beyond = (to_nearest(*pair, num_classes).flatten(1) for pair in (outlines, masks))
    least = (_NEAR + 1) / math.hypot(*masks[0].shape[1:])
    weights = (
        drawn.flatten(1).to(alone),
        torch.where(far, alone, 0.0),
        alone * torch.where(far, away.clamp_min(least), away),
        (masks[0] >= 0).flatten(1).to(alone),
        wrong * beyond**_POWER,
    )
    return sums_by_class(weights, masks[0].flatten(1).clamp_min(0).long(), num_classes)


def _means(sums: Tensor, empty: Tensor) -> Tensor:
    """`(R, C, 3)` of sums as `_sums`; an outline that is on neither side is all near, one on the other side alone 0."""
    outline, far, away, mask, beyond = sums.split(1, -1)
    nearby = torch.where(empty, 1.0, (outline - far) / outline.clamp_min(1.0))
    return torch.cat(
        [nearby, away / outline.clamp_min(1.0), (beyond / mask.clamp_min(1.0) + _LEAST) ** (1.0 / _POWER)], -1
    )


def _moments(px: Pixels, p_given: Tensor, p_true: Tensor, size: torch.Size, classes: int) -> Tensor:
    """`(B, C, 2, 3)`: of the predicted mask, softly, and of the true one, weight and sums of rows and of columns.

    Rows and columns are counted in diagonals of the image.
    """
    height, width = size[1:]
    pixel = torch.tensor(1.0 / math.hypot(height, width), dtype=p_true.dtype)
    rows = (torch.arange(height, device=p_true.device) * pixel).repeat_interleave(width)
    columns = (torch.arange(width, device=p_true.device) * pixel).repeat(height)
    sums = []
    for place in (torch.ones_like(rows), rows, columns):
        found = counts(px, classes, tp=p_true * place, fp=p_given * place, fn=place.expand_as(p_true))
        hits = counts(px, classes, tp=place.expand_as(p_true))[..., 0]
        sums.append(torch.stack([found[..., 0] + found[..., 1], hits + found[..., 2]], -1))
    return torch.stack(sums, -1)


def _offset(moments: Tensor) -> Tensor:
    """`(..., 1)` in [0, 1] from `(..., 2, 3)`: between the centres, in diagonals; 1 where one of the masks is empty."""
    weight = moments[..., 0]
    centres = moments[..., 1:] / weight.unsqueeze(-1).clamp_min(1e-6)
    apart = (centres[..., 0, :] - centres[..., 1, :]).square().sum(-1, keepdim=True)
    both, neither = ((weight > 0) == there for there in (True, False))
    alone = torch.where(neither.all(-1, keepdim=True), 0.0, 1.0)
    return torch.where(both.all(-1, keepdim=True), (apart + _APART).sqrt(), alone)
