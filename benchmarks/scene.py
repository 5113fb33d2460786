"""Logits and labels like those of a network that gets a given share of the pixels right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Case
from surrogate.approximator import Surrogate
from surrogate.loss import SurrogateLoss
from surrogate_segmentation.measures import iou

VOID = 255


@dataclass(frozen=True, slots=True)
class Scene:
    """Shape and looks of a batch of logits."""

    batch: int
    classes: int
    height: int
    width: int
    accuracy: float = 0.95
    void: float = 0.05
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.contiguous_format

    def __str__(self) -> str:
        layout = "channels_last" if self.layout is torch.channels_last else "NCHW"
        dtype = {torch.float32: "fp32", torch.bfloat16: "bf16"}[self.dtype]
        size = f"{self.batch}x{self.classes}x{self.height}x{self.width}"
        return f"{size}, {self.accuracy:.0%} right, {layout}, {dtype}" + (", no void" if not self.void else "")

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`(B, C, H, W)` logits, a leaf with gradient, and `(B, H, W)` int64 labels with `VOID`."""
        draw = {"generator": torch.Generator(device).manual_seed(0), "device": device}
        places = (self.batch, self.height, self.width)
        logits = torch.randn(self.batch, self.classes, *places[1:], **draw)
        labels = torch.randint(self.classes, places, **draw)
        right = torch.rand(places, **draw) < self.accuracy
        lead = 6.0 * torch.rand(places, **draw) + 1e-3  # from unsure to confident
        true = torch.where(right, logits.amax(1) + lead, logits.amin(1) - lead)
        logits.scatter_(1, labels.unsqueeze(1), true.unsqueeze(1))
        labels[torch.rand(places, **draw) < self.void] = VOID
        return logits.to(self.dtype).contiguous(memory_format=self.layout).requires_grad_(), labels


KERNELS = ("auto", "tiled", "reference")
"""The ways the measure `iou` can be computed; "auto" is what a user gets."""


def learned_loss(classes: int, device: torch.device, *, kernel: str = "auto") -> SurrogateLoss:
    """The learned loss of IoU with the paper's network, 6 -> 4 x 100 -> 1; its weights do not matter here."""
    options: Mapping[str, Any] = {} if kernel == "auto" else {"kernel": kernel}
    measure = iou(num_classes=classes, ignore_index=VOID, **options)
    torch.manual_seed(0)
    return SurrogateLoss(measure, Surrogate(measure.columns)).to(device)


def through(loss: Any, logits: Tensor, labels: Tensor) -> Case:
    """Forward and backward of a loss, with a fresh gradient each time."""

    def run() -> None:
        loss(logits, labels).backward()

    def reset() -> None:
        logits.grad = None

    return Case(run, reset)
