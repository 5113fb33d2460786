"""Boundaries of label maps: bands inside the masks, and what lies near a boundary of its own class.

A label map is `(B, H, W)` float with a class at each pixel and -1 where there is none. A void pixel has none, in the
prediction as in the truth, so it belongs to no mask; neither does what lies beyond the border of the image. Distances
are those of a square: a pixel is within w of another when neither its row nor its column is more than w away. As the
masks of a map do not overlap, one pooled map does for all of its classes.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from surrogate_segmentation.counts import Pixels

_NONE = -1.0


def label_maps(px: Pixels, size: torch.Size) -> tuple[Tensor, Tensor]:
    """The predicted and the true label map of pixels that came from labels of shape `size`, `(B, H, W)`."""
    valid = px.correct | px.wrong
    predicted, true = (torch.where(valid, of, _NONE).float().view(size) for of in (px.predicted, px.label))
    return predicted, true


def foreground_maps(px: Pixels, size: torch.Size) -> tuple[Tensor, Tensor]:
    """The same of the classes but 0, which are numbered from 0."""
    predicted, true = label_maps(px, size)
    return (predicted - 1.0).clamp_min(_NONE), (true - 1.0).clamp_min(_NONE)


def band(labels: Tensor, width: int) -> Tensor:
    """`(B, H, W)` bool: pixels of a mask with a pixel outside of it within `width`: what an erosion takes away.

    The boundary region of Cheng et al., "Boundary IoU", CVPR 2021, with a square for their disc: the erosion is by
    (2 width + 1) x (2 width + 1) pixels.
    """
    framed = F.pad(labels, [width] * 4, value=_NONE)
    varied = -eroded(-framed, width) > eroded(framed, width)
    return varied[:, width:-width, width:-width] & (labels != _NONE)


def near(labels: Tensor, others: Tensor, width: int) -> Tensor:
    """`(B, H, W)` bool: pixels with a class that `others`, a label map too, has within `width` of them."""
    height, breadth = labels.shape[1:]
    framed = F.pad(others, [width] * 4, value=_NONE)
    found = torch.zeros_like(labels, dtype=torch.bool)
    for row in range(2 * width + 1):
        for column in range(2 * width + 1):
            found |= framed[:, row : row + height, column : column + breadth] == labels
    return found & (labels != _NONE)


def edges(labels: Tensor) -> Tensor:
    """The label map of the boundary pixels alone: those of a mask with a pixel outside of it among their neighbours."""
    return torch.where(band(labels, 1), labels, _NONE)


def eroded(values: Tensor, width: int) -> Tensor:
    """`(B, H, W)` float: the lowest value within `width` of each pixel, inside the image."""
    for dim in (1, 2):
        values = _lowest(values, width, dim)
    return values


def _lowest(values: Tensor, width: int, dim: int) -> Tensor:
    """Along one dimension. By shifted copies: pooling has no fast path on a CPU for maps of one channel."""
    sides = [0, 0, width, width] if dim == 1 else [width, width]
    framed = F.pad(values, sides, value=torch.inf)
    shifted = (framed.narrow(dim, start, values.shape[dim]) for start in range(2 * width + 1))
    return reduce(torch.minimum, shifted)
