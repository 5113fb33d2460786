"""The reported numbers of segmentation, exact and at data-set level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surrogate_segmentation.boundary import f1_groups, f1_of, group_counts, iou_groups, iou_of, one_hit
from surrogate_segmentation.counts import counts, pixels
from surrogate_segmentation.per_image import mean_iou, worst_quarter


class SegmentationScore:
    """IoU of classes, images and boundaries, each from counts summed over the data set and divided once.

    A class that is neither predicted nor present has no IoU (None) and is left out of the mean; so is an image
    without a labelled pixel.
    """

    def __init__(self, classes: Sequence[str], *, ignore_index: int, boundary_width: int = 2) -> None:
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        self.boundary_width = boundary_width
        self.spec = (
            f"mIoU(macro, dataset, ignore={ignore_index}, absent=skip); image_mIoU(macro in an image, mean of images, "
            f"of their worst quarter); boundary_IoU, boundary_F1(macro, dataset, width={boundary_width})"
        )
        self.regions = torch.zeros(len(classes), 3, dtype=torch.int64)
        self.bands = torch.zeros(len(classes), 3, dtype=torch.int64)
        self.edges = torch.zeros(len(classes), 4, dtype=torch.int64)
        self.images = torch.zeros(0)
        self.broken = False

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds `(B, C, H, W)` logits against `(B, H, W)` labels; a NaN among the logits makes all numbers undefined."""
        self.broken |= bool(outputs.isnan().any())
        n, size, width = len(self.classes), targets.shape, self.boundary_width
        px = pixels(outputs, targets, ignore_index=self.ignore_index)
        regions = counts(px, n)
        bands = one_hit(group_counts(px, iou_groups(px, size, width), n))
        edges = group_counts(px, f1_groups(px, size, width), n)
        self.images = torch.cat([self.images, mean_iou(regions).cpu()])
        for total, found in ((self.regions, regions), (self.bands, bands), (self.edges, edges)):
            total += found.cpu().long().sum(0)

    def compute(self) -> dict[str, Any]:
        """Numbers in [0, 1], None where undefined.

        `miou`, `boundary_iou` and `boundary_f1`: means over the classes; `iou`: class name to value; `pixel_accuracy`;
        `image_miou` and `worst_quartile_miou`: means of the images' own mIoU, over all and over the lowest quarter.
        """
        iou = iou_of(self.regions.double())
        hits, _, missed = self.regions.sum(0).tolist()
        found = {
            "miou": _mean(iou),
            "pixel_accuracy": hits / (hits + missed) if hits + missed else None,
            "iou": {name: _number(value) for name, value in zip(self.classes, iou, strict=True)},
            "image_miou": _mean(self.images.double()),
            "worst_quartile_miou": _mean(self.images[worst_quarter(self.images)].double()),
            "boundary_iou": _mean(iou_of(self.bands.double())),
            "boundary_f1": _mean(f1_of(self.edges.double())),
        }
        return found if not self.broken else dict.fromkeys(found) | {"iou": dict.fromkeys(self.classes)}


def _mean(values: Tensor) -> float | None:
    """Of the defined ones."""
    return _number(values.nanmean())


def _number(value: Tensor) -> float | None:
    return None if math.isnan(value) else float(value)
