"""The reported numbers of segmentation, exact and at data-set level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class SegmentationScore:
    """mIoU, pixel accuracy and IoU per class from one confusion matrix, summed over the data set and divided once.

    A class that is neither predicted nor present has no IoU (None) and is left out of the mean.
    """

    def __init__(self, classes: Sequence[str], *, ignore_index: int) -> None:
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        self.spec = f"mIoU(macro, dataset, ignore={ignore_index}, absent=skip)"
        self.confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds `(B, C, H, W)` logits against `(B, H, W)` labels; rows of the matrix are true classes."""
        n = len(self.classes)
        valid = targets != self.ignore_index
        pairs = targets[valid].long() * n + outputs.argmax(1)[valid]
        self.confusion += torch.bincount(pairs, minlength=n * n).view(n, n).cpu()

    def compute(self) -> dict[str, Any]:
        """`miou`, `pixel_accuracy` and `iou` (class name to value or None), in [0, 1]."""
        hits = self.confusion.diagonal().double()
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        total = int(self.confusion.sum())
        iou = [float(h / u) if u > 0 else None for h, u in zip(hits, union, strict=True)]
        defined = [value for value in iou if value is not None]
        return {
            "miou": sum(defined) / len(defined) if defined else None,
            "pixel_accuracy": float(hits.sum()) / total if total else None,
            "iou": dict(zip(self.classes, iou, strict=True)),
        }
