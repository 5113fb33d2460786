"""The blocks that all three networks are made of: those of VGG-16, each convolution with batch normalization.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015 (Table 1,
column D).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

VGG16 = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Output channels of the 13 convolutions of VGG-16 in five stages, as multiples of the width."""


def conv_bn_relu(channels: Sequence[int]) -> nn.Sequential:
    """3x3 convolutions from `channels[0]` on through all the others, each with batch normalization and ReLU.

    They keep the size, have no bias (batch normalization brings its own) and begin as in He et al., "Delving
    Deep into Rectifiers", ICCV 2015, eq. 10.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def conv_stages(inputs: int, table: Sequence[Sequence[int]], *, width: int) -> nn.ModuleList:
    """One `conv_bn_relu` per row of a table of channels, written as multiples of the width."""
    stages = nn.ModuleList()
    for multiples in table:
        channels = [inputs, *(multiple * width for multiple in multiples)]
        stages.append(conv_bn_relu(channels))
        inputs = channels[-1]
    return stages
