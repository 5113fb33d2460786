"""Where the wrong pixels are: soft statistics for metrics of distances, outlines and shapes.

Counts do not know whether a false alarm lies on the outline of an object or far from all of them. For each class:

| statistic | what |
|---|---|
| `outline_precision`, `outline_recall` | of the weight of the predicted (true) outline, the share near the other one |
| `far_fp`, `far_fn` | mean over the predicted (true) mask of the distance to the other one, softly |
| `farthest_fp`, `farthest_fn` | the same with the fourth power in the mean: what is farthest counts most |
| `offset` | distance between the centres of both masks |

A false alarm weighs P(given class) and a miss 1 - P(true class), as in the measure `iou`, and a pixel of an outline as
in `surrogate_segmentation.boundary`: one that is near, yet wrong, weighs little. Distances are Euclidean,
between the cells of a grid of at most 64 x 64, in diagonals of the image; to an empty mask they are 1. Where the masks
are is taken as it is: the gradient goes through the weights alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from surrogate_segmentation.boundary import soft_outlines
from surrogate_segmentation.counts import Pixels, class_probabilities, counts

COLUMNS = ("outline_precision", "outline_recall", "far_fp", "far_fn", "farthest_fp", "farthest_fn", "offset")

_GRID = 64
_POWER = 4
_LEAST = 1e-4
"""Under a fourth root: keeps its slope finite where nothing is wrong."""
_APART = 1e-8
"""The same under the root of a squared distance, whose slope is at most 1."""


def place_stats(logits: Tensor, px: Pixels, size: torch.Size, *, together: bool) -> Tensor:
    """Statistics as `COLUMNS`, from 0 to 1 (the roots from 0.1), differentiable in `(B, C, H, W)` logits.

    `px` are the pixels of labels of shape `size`, `(B, H, W)`. Returns `(R, C, 7)`: R = 1 for a batch taken `together`,
    else R = B.
    """
    classes = logits.shape[1]
    p_given, p_true = class_probabilities(logits, px)
    alarm, miss = torch.where(px.wrong, p_given, 0.0), torch.where(px.wrong, 1.0 - p_true, 0.0)
    to_true = _at(distances(_masks(px.label, px, classes, size)), px.predicted)
    to_predicted = _at(distances(_masks(px.predicted, px, classes, size)), px.label)
    parts = (
        counts(px, classes),
        soft_outlines(logits, px, size, classes),
        counts(px, classes, fp=alarm * to_true, fn=miss * to_predicted),
        counts(px, classes, fp=alarm * to_true**_POWER, fn=miss * to_predicted**_POWER),
        _moments(px, p_given, p_true, size, classes),
    )
    hard, outlines, far, farthest, moments = (part.sum(0, keepdim=True) for part in parts) if together else parts
    masks = (hard[..., :1] + hard[..., 1:]).clamp_min(1.0)  # pixels of the predicted one, of the true one
    near, whole = outlines[..., ::2], outlines.unflatten(-1, (2, 2)).sum(-1)
    columns = (
        near / whole.clamp_min(1e-12),
        far[..., 1:] / masks,
        (farthest[..., 1:] / masks + _LEAST) ** (1.0 / _POWER),
        _offset(moments),
    )
    return torch.cat(columns, -1)


@torch.no_grad()
def distances(masks: Tensor) -> Tensor:
    """`(B, C, H, W)` bool to `(B, C, H * W)` float32: from each pixel to the mask, in diagonals, at most 1.

    Exact on the grid (see above). The squared distance is the lower envelope of parabolas (Felzenszwalb and
    Huttenlocher, "Distance transforms of sampled functions", 2012), along rows and then along columns.
    """
    height, width = masks.shape[2:]
    grid = F.adaptive_max_pool2d(masks.float(), (min(height, _GRID), min(width, _GRID)))
    diagonal = float(height**2 + width**2)
    squared = torch.where(grid > 0, 0.0, diagonal)
    for dim, pixels in ((3, width), (2, height)):
        squared = _envelope(squared, dim, cell=pixels / squared.shape[dim])
    found = (squared / diagonal).sqrt().clamp_max(1.0)
    return F.interpolate(found, size=(height, width)).flatten(2)


def _envelope(values: Tensor, dim: int, *, cell: float) -> Tensor:
    """At each place along a dimension the least of: a value anywhere plus the squared distance to it, in pixels."""
    lowest, length = values.clone(), values.shape[dim]
    for shift in range(1, length):
        raised, rest = values + (shift * cell) ** 2, length - shift
        for mine, other in ((0, shift), (shift, 0)):
            part = lowest.narrow(dim, mine, rest)
            torch.minimum(part, raised.narrow(dim, other, rest), out=part)
    return lowest


def _at(maps: Tensor, index: Tensor) -> Tensor:
    """`(B, N)`: of `(B, C, N)` maps the one of the class at each pixel."""
    return maps.gather(1, index.unsqueeze(1)).squeeze(1)


def _masks(labels: Tensor, px: Pixels, classes: int, size: torch.Size) -> Tensor:
    """`(B, C, H, W)` bool masks of `(B, N)` labels; a void pixel is in none."""
    empty = torch.zeros(len(labels), classes, labels.shape[1], dtype=torch.bool, device=labels.device)
    return empty.scatter(1, labels.unsqueeze(1), (px.correct | px.wrong).unsqueeze(1)).view(
        len(labels), classes, *size[1:]
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
    """`(..., 1)` in [0, 1] from `(..., 2, 3)`: between the centres, in diagonals; 1 where a mask is empty."""
    centres = moments[..., 1:] / moments[..., :1].clamp_min(1e-6)
    apart = (centres[..., 0, :] - centres[..., 1, :]).square().sum(-1, keepdim=True)
    seen = (moments[..., 0] > 0).all(-1, keepdim=True)
    return torch.where(seen, (apart + _APART).sqrt(), 1.0)
