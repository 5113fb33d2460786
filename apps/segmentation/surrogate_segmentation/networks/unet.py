"""UNet: features are pooled four times and brought back up, joined at each scale with those of the way down.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015
(Fig. 1).

What differs from the paper: the 3x3 convolutions are padded, so that the logits have the size of the input
(the paper's lose a margin of 92 pixels), and batch normalization follows each of them; the paper predates it,
and its dropout is left out. Pooling rounds sizes up, and up-convolved maps are cropped at the bottom and the
right to the maps they join, so that all scales share one grid, from the top left corner on, at any input
size.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surrogate_segmentation.networks.vgg16 import conv_bn_relu


class UNet(nn.Module):
    """UNet for RGB images; `width=64` is the paper's network.

    Args:
        num_classes: C, the number of logits per pixel.
        width: channels at the full size, doubled by each of the four poolings.
    """

    def __init__(self, num_classes: int, *, width: int = 64) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width, 16 * width]
        self.down = nn.ModuleList(conv_bn_relu([inputs, outputs, outputs]) for inputs, outputs in pairwise(channels))
        rising = list(pairwise(reversed(channels[1:])))
        self.up = nn.ModuleList(nn.ConvTranspose2d(inputs, outputs, 2, stride=2) for inputs, outputs in rising)
        # `inputs` counts two halves: what the up-convolution gives, and the skip.
        self.join = nn.ModuleList(conv_bn_relu([inputs, outputs, outputs]) for inputs, outputs in rising)
        self.score = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """`(B, 3, H, W)` float images of any size to `(B, C, H, W)` logits."""
        first, *deeper = self.down
        skips = [first(images)]
        for block in deeper:
            skips.append(block(F.max_pool2d(skips[-1], 2, ceil_mode=True)))
        features = skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            skip = skips.pop()
            raised = up(features)[..., : skip.shape[-2], : skip.shape[-1]]
            features = join(torch.cat([skip, raised], dim=1))
        logits: Tensor = self.score(features)
        return logits
