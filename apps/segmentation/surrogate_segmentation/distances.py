"""Distances between label maps: from each pixel to the nearest one of its class in another map.

Euclidean, in diagonals of the image, so at most 1; to a class that the other map does not have they are 1. Between the
cells of a grid of at most 64 x 64: exact in an image no larger than that, else right but for a cell's diagonal, and at
least a pixel where the maps differ. A label map is as in `surrogate_segmentation.bands`: a class at each pixel, -1
where there is none.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GRID = 64


@torch.no_grad()
def to_nearest(labels: Tensor, others: Tensor, num_classes: int) -> Tensor:
    """`(B, H, W)` float32 distances in [0, 1] from one `(B, H, W)` label map to another; 0 where it has no class."""
    batch, height, width = labels.shape
    rows, columns = min(height, _GRID), min(width, _GRID)
    row, column = (_cells(size, cells, labels) for size, cells in ((height, rows), (width, columns)))
    cell = (row.unsqueeze(1) * columns + column).flatten()
    mine, theirs = ((of.long().flatten(1) % (num_classes + 1)) * (rows * columns) + cell for of in (labels, others))
    there = torch.zeros(batch, (num_classes + 1) * rows * columns, dtype=torch.bool, device=labels.device)
    there = there.scatter_(1, theirs, value=True).view(batch, num_classes + 1, rows, columns)
    diagonal = float(height**2 + width**2)
    squared = torch.where(there[:, :num_classes], 0.0, diagonal)
    for dim, size in ((3, width), (2, height)):
        squared = _envelope(squared, dim, cell=size / squared.shape[dim])
    found = squared.flatten(1).gather(1, mine.clamp_max(num_classes * rows * columns - 1)).view(labels.shape)
    found = torch.maximum(found, (labels != others).to(found))  # of a cell that both maps are in
    return torch.where(labels >= 0, (found / diagonal).sqrt().clamp_max(1.0), 0.0)


def _cells(size: int, cells: int, like: Tensor) -> Tensor:
    return torch.arange(size, device=like.device) * cells // size


def _envelope(values: Tensor, dim: int, *, cell: float) -> Tensor:
    """At each place along a dimension the least of: a value anywhere plus the squared distance to it, in pixels.

    The lower envelope of parabolas (Felzenszwalb and Huttenlocher, "Distance transforms of sampled functions", 2012).
    """
    lowest, length = values.clone(), values.shape[dim]
    for shift in range(1, length):
        raised, rest = values + (shift * cell) ** 2, length - shift
        for mine, other in ((0, shift), (shift, 0)):
            part = lowest.narrow(dim, mine, rest)
            torch.minimum(part, raised.narrow(dim, other, rest), out=part)
    return lowest
