"""Training augmentation: a random view of a sample, the same one of its image and its label."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

SCALES = (0.75, 1.5)
"""The least and the greatest magnification."""


def augment(
    image: Tensor, label: Tensor, *, generator: Generator, flip: bool, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Magnifies, shifts and, with `flip`, mirrors half of the samples; the size stays.

    A magnified sample is cropped. A reduced one lies somewhere in the frame, and around it the image is 0 and
    the label `ignore_index`.

    Args:
        image: `(3, H, W)` float, normalised, so that 0 is the mean colour.
        label: `(H, W)` int64.
        generator: The only source of chance: four numbers are drawn, whatever `flip` is.

    Returns:
        Image and label of the same shapes and dtypes.
    """
    magnify, mirror, x, y = torch.rand(4, generator=generator).tolist()
    least, greatest = SCALES
    seen = 1 / (least * (greatest / least) ** magnify)  # share of the height and width in view; log-uniform
    slack = abs(1 - seen)
    across = -seen if flip and mirror < 0.5 else seen
    view = torch.tensor([[[across, 0.0, slack * (2 * x - 1)], [0.0, seen, slack * (2 * y - 1)]]])
    grid = F.affine_grid(view, [1, 1, *label.shape], align_corners=False)
    viewed = F.grid_sample(image[None], grid.to(image), align_corners=False)[0]
    # What lies outside is 0 to grid_sample, so labels are counted from void on. float32 holds them exactly.
    from_void = (label - ignore_index).float()[None, None]
    labelled = F.grid_sample(from_void, grid, mode="nearest", align_corners=False)[0, 0]
    return viewed, labelled.to(label.dtype) + ignore_index
