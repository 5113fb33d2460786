"""The hand-made losses that a learned one is compared with, by name.

All of them take logits `(B, C, H, W)` float and labels `(B, H, W)` of any integer dtype, in [0, C) or
`ignore_index` (void), and give a scalar. Below, p is the softmax over the classes, y in {0, 1} the one-hot
truth, and sums run over the labelled pixels alone: the outputs at a void pixel change no bit of the loss, and
their gradient is exactly 0. Without a labelled pixel the loss is 0, and so is its gradient. Losses of regions
(IoU-Appx, Dice, Lovasz-Softmax) are a mean over the classes present in the truth: an absent class has no
region to find.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surrogate.errors import DataError, UsageError, nearest


class SegmentationLoss(nn.Module, ABC):
    """A loss of the labelled pixels of a batch, computed in float32 or better, under autocast too.

    Raises:
        UsageError: logits that are not `(B, num_classes, H, W)` for labels `(B, H, W)`.
    """

    def __init__(self, *, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        batch, *size = labels.shape
        expected = (batch, self.num_classes, *size)
        if labels.ndim != 3 or logits.shape != expected:
            raise UsageError(
                f"logits {tuple(logits.shape)} for labels {tuple(labels.shape)}; expected labels (B, H, W) "
                f"and logits (B, {self.num_classes}, H, W): check the model's classes and output size"
            )
        # None of the operations below is one that autocast narrows: float32 in, float32 throughout.
        wide = torch.promote_types(logits.dtype, torch.float32)
        return self.loss(logits.to(wide), labels.long())

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The scalar, of checked shapes; logits are at least float32, labels int64."""

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, ignore_index={self.ignore_index}"

    def _labelled(self, labels: Tensor) -> Tensor:
        """`(B, H, W)` bool."""
        return labels != self.ignore_index

    def _regions(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and one-hot truth, both `(B, C, H, W)` float and 0 at void pixels."""
        labelled = self._labelled(labels).unsqueeze(1)
        classes = torch.arange(self.num_classes, device=labels.device).view(-1, 1, 1)
        truth = (labels.unsqueeze(1) == classes) & labelled
        return logits.softmax(dim=1) * labelled, truth.to(logits.dtype)


class CrossEntropy(SegmentationLoss):
    """Cross-entropy, weighted mean over pixels: - sum w(t) log p(t) / sum w(t), t the true class.

    `weight` holds w, `(C,)` float, not negative; without it w = 1. Equals `F.cross_entropy` but for a batch
    without a labelled pixel, where that is NaN. Classes absent from the batch ask for nothing, and none is
    skipped.
    """

    weight: Tensor | None

    def __init__(self, *, num_classes: int, ignore_index: int, weight: Tensor | None = None) -> None:
        super().__init__(num_classes=num_classes, ignore_index=ignore_index)
        self.register_buffer("weight", weight)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        labelled = self._labelled(labels)
        weight = logits.new_ones(self.num_classes) if self.weight is None else self.weight.to(logits)
        total = F.cross_entropy(logits, labels, weight, ignore_index=self.ignore_index, reduction="sum")
        weights = weight[labels.where(labelled, 0)] * labelled
        return total / weights.sum().clamp(min=torch.finfo(logits.dtype).tiny)


class Focal(SegmentationLoss):
    """Focal loss, mean over the pixels: - (1 - p_t)^2 log p_t, with p_t the probability of the true class.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 4: gamma = 2, no class weights. They
    divide by the number of boxes assigned to an object; each labelled pixel has one here.
    """

    gamma = 2.0

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        nll = F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none")
        # expm1 keeps the digits of 1 - p_t where the pixel is nearly right. A void pixel has nll 0.
        return _mean((-torch.expm1(-nll)).pow(self.gamma) * nll, self._labelled(labels))


class IoUAppx(SegmentationLoss):
    """IoU-Appx: 1 - sum p y / sum (p + y - p y), mean over the images and classes present in them.

    At level "batch" the sums run over all images of the batch, and the mean over the classes present in it.

    Rahman and Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation", ISVC
    2016, Section 3, there for one object against the background of an image; here each class is the object
    in turn. The ratio of an absent class is constantly 0: skipping it takes away no gradient.
    """

    def __init__(self, *, num_classes: int, ignore_index: int, level: Literal["sample", "batch"] = "sample") -> None:
        super().__init__(num_classes=num_classes, ignore_index=ignore_index)
        self.level = level

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        probs, truth = self._regions(logits, labels)
        pixels = (2, 3) if self.level == "sample" else (0, 2, 3)
        overlap = (probs * truth).sum(pixels)
        size = truth.sum(pixels)
        # Exact where the class is present: its union is at least its size, one pixel or more.
        union = (probs.sum(pixels) + size - overlap).clamp(min=1)
        return _mean(1 - overlap / union, size > 0)


class Dice(SegmentationLoss):
    """Soft Dice: 1 - 2 sum p y / (sum p^2 + sum y^2) over the batch, mean over the classes present in it.

    Milletari et al., "V-Net", 3DV 2016, Section 3, there for one organ; here for each class in turn, and
    absent classes skipped as in `IoUAppx`.
    """

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        probs, truth = self._regions(logits, labels)
        overlap, size = (probs * truth).sum((0, 2, 3)), truth.sum((0, 2, 3))
        total = (probs.square().sum((0, 2, 3)) + size).clamp(min=1)
        return _mean(1 - 2 * overlap / total, size > 0)


class LovaszSoftmax(SegmentationLoss):
    """Lovasz-Softmax: the Lovasz extension of the Jaccard loss of a class, at its errors |y - p|.

    With the errors of a class sorted downwards, loss = sum_i error_i (J_i - J_{i-1}), where J_i = 1 - IoU
    when the first i pixels are wrong and the others right. Mean over the classes present in the batch.

    Berman et al., "The Lovasz-Softmax loss", CVPR 2018, Algorithm 1; over the batch, classes "present".
    """

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        probs, truth = (region.transpose(0, 1).flatten(1) for region in self._regions(logits, labels))
        errors, order = (truth - probs).abs().sort(dim=1, descending=True)
        inside = truth.gather(1, order)
        outside = 1 - inside  # void pixels too: of error 0, they come behind all others and weigh nothing
        size = truth.sum(dim=1, keepdim=True)
        overlap = size - inside.cumsum(dim=1)
        union = size + outside.cumsum(dim=1)
        # J_i - J_{i-1} in closed form, because the difference of two ratios near 1 cancels: a miss takes 1
        # from the overlap, a false alarm adds 1 to the union. The clamps keep the absent classes, which are
        # skipped, finite.
        steps = inside / union.clamp(min=1) + outside * overlap / (union * (union - 1)).clamp(min=1)
        return _mean((errors * steps).sum(dim=1), size.squeeze(1) > 0)


def median_frequency_weights(class_pixels: Tensor) -> Tensor:
    """Class weights median(f) / f(c), with f the share of class c in the labelled pixels of the train split.

    `class_pixels` is `(C,)` int64; the result `(C,)` float32. The median is over the classes that occur. A
    class that does not occur weighs 0: no pixel of the split asks for its weight. As in the source, weights
    are not clipped.

    Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels", ICCV 2015, median frequency
    balancing; also SegNet (Badrinarayanan et al., 2017). f is counted over the whole split here, where Eigen
    and Fergus divide by the pixels of those images alone that contain the class.

    Raises:
        DataError: no labelled pixel at all.

    >>> median_frequency_weights(torch.tensor([400, 100, 50, 0]))
    tensor([0.2500, 1.0000, 2.0000, 0.0000])
    """
    pixels = class_pixels.double()
    occurs = pixels > 0
    if not occurs.any():
        raise DataError("the train split has no labelled pixel; weighted-ce needs some to weigh the classes by")
    return torch.where(occurs, pixels[occurs].quantile(0.5) / pixels, 0.0).float()


def _mean(values: Tensor, defined: Tensor) -> Tensor:
    """Mean of the defined values; 0 without any."""
    return (values * defined).sum() / defined.sum().clamp(min=1)


ClassPixels = Callable[[], Tensor]

_BUILDERS: Mapping[str, Callable[[int, int, ClassPixels], SegmentationLoss]] = MappingProxyType(
    {
        "ce": lambda c, void, _: CrossEntropy(num_classes=c, ignore_index=void),
        "weighted-ce": lambda c, void, class_pixels: CrossEntropy(
            num_classes=c, ignore_index=void, weight=median_frequency_weights(class_pixels())
        ),
        "iou-appx": lambda c, void, _: IoUAppx(num_classes=c, ignore_index=void),
        "iou-appx-batch": lambda c, void, _: IoUAppx(num_classes=c, ignore_index=void, level="batch"),
        "dice": lambda c, void, _: Dice(num_classes=c, ignore_index=void),
        "lovasz": lambda c, void, _: LovaszSoftmax(num_classes=c, ignore_index=void),
        "focal": lambda c, void, _: Focal(num_classes=c, ignore_index=void),
    }
)

BASELINES: tuple[str, ...] = tuple(_BUILDERS)
"""The names; the first one, cross-entropy, trains the baseline model."""


def baseline(name: str, *, num_classes: int, ignore_index: int, class_pixels: ClassPixels) -> SegmentationLoss:
    """A hand-made loss by name.

    `class_pixels()` counts the pixels of the train split by class, `(C,)` int64. It reads every label file,
    so only weighted-ce calls it.

    Raises:
        UsageError: an unknown name.
        DataError: weighted-ce without a labelled pixel in the train split.
    """
    if name not in _BUILDERS:
        raise UsageError(f"unknown loss {name!r}; {nearest(name, BASELINES)}")
    return _BUILDERS[name](num_classes, ignore_index, class_pixels)
