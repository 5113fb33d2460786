"""SegNet: an encoder and its mirror image, which puts each maximum back to where it was pooled from.

Badrinarayanan, Kendall, Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation", TPAMI 2017 (Sec. 3, Fig. 2 and 3). The encoder is VGG-16 without its fully connected layers,
with batch normalization as in the paper; here it begins with random weights, there with ImageNet's. Pooling
rounds sizes up, which changes nothing at sizes divisible by 32 and lets all others through: unpooling is told
the size to give back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surrogate_segmentation.networks.vgg16 import VGG16, conv_stages

MIRRORED = ((8, 8, 8), (8, 8, 4), (4, 4, 2), (2, 1), (1,))
"""Output channels of the decoder, as multiples of the width: VGG-16 backwards, less its first convolution."""


class SegNet(nn.Module):
    """SegNet on VGG-16; `width=64` is the paper's network.

    `encoder` and `decoder` hold five stages each, in the order in which they run: stage k of the decoder
    follows the unpooling that undoes what stage 4 - k of the encoder ended in. `score` is the 13th
    convolution of the decoder.

    Args:
        num_classes: C, the number of logits per pixel.
        width: channels of the first stage; all others grow with it.
    """

    def __init__(self, num_classes: int, *, width: int = 64) -> None:
        super().__init__()
        self.encoder = conv_stages(3, VGG16, width=width)
        self.decoder = conv_stages(8 * width, MIRRORED, width=width)
        self.score = nn.Conv2d(width, num_classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """`(B, 3, H, W)` float images of any size to `(B, C, H, W)` logits."""
        pooled_from: list[tuple[Tensor, torch.Size]] = []
        features = images
        for stage in self.encoder:
            maps = stage(features)
            features, indices = F.max_pool2d(maps, 2, ceil_mode=True, return_indices=True)
            pooled_from.append((indices, maps.shape[-2:]))
        for stage, (indices, size) in zip(self.decoder, reversed(pooled_from), strict=True):
            features = stage(F.max_unpool2d(features, indices, (2, 2), output_size=size))
        logits: Tensor = self.score(features)
        return logits
