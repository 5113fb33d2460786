"""FCN-8s: a classifier made fully convolutional, whose coarse scores are refined by two shallower ones.

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015 (Sec. 4,
Fig. 3). The encoder is VGG-16: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015 (Table 1, column D).

What differs from the paper, and why:

- Batch normalization follows each convolution of the encoder (VGG-16-BN). The paper begins with ImageNet
  weights; from random ones, VGG-16 without normalization hardly trains.
- No margin of 100 pixels around the input. The paper needs it as its `fc6` is unpadded and finds nothing to
  look at in small images. Here `fc6` is padded, and pooling rounds sizes up, so that cell i of a map at
  stride s begins at pixel s * i for any input size. Upsampling by 2 keeps that grid; what is too much at the
  bottom and the right is cropped.
- The scoring layers begin random, not at zero: behind zeros, an untrained encoder has no gradient in the
  first step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surrogate_segmentation.networks.vgg16 import VGG16, conv_stages


class FCN8s(nn.Module):
    """FCN-8s on VGG-16-BN; `width=64` is the paper's network.

    Args:
        num_classes: C, the number of logits per pixel.
        width: channels of the first stage; the others, and the 64 * width of `fc6` and `fc7`, grow with it.
    """

    def __init__(self, num_classes: int, *, width: int = 64) -> None:
        super().__init__()
        self.encoder = conv_stages(3, VGG16, width=width)
        self.classifier = _classifier(8 * width, 64 * width)
        self.score = nn.Conv2d(64 * width, num_classes, 1)
        self.score_pool4 = nn.Conv2d(8 * width, num_classes, 1)
        self.score_pool3 = nn.Conv2d(4 * width, num_classes, 1)
        self.up_to_pool4 = _twice_as_large(num_classes)
        self.up_to_pool3 = _twice_as_large(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """`(B, 3, H, W)` float images of any size to `(B, C, H, W)` logits."""
        pools = []
        features = images
        for stage in self.encoder:
            features = F.max_pool2d(stage(features), 2, ceil_mode=True)
            pools.append(features)
        _, _, pool3, pool4, pool5 = pools
        scores = self.score(self.classifier(pool5))
        scores = _crop(self.up_to_pool4(scores), like=pool4) + self.score_pool4(pool4)
        scores = _crop(self.up_to_pool3(scores), like=pool3) + self.score_pool3(pool3)
        # The paper's last transposed convolution is fixed to this, but for fading out at the edges.
        logits = F.interpolate(scores, scale_factor=8.0, mode="bilinear", align_corners=False)
        return _crop(logits, like=images)


def bilinear_kernel(size: int) -> Tensor:
    """`(size, size)` float in (0, 1]: by it, a transposed convolution of stride size / 2 is bilinear."""
    distance = torch.arange(size) - (size - 1) / 2
    profile = 1.0 - distance.abs() / (size / 2)
    return profile[:, None] * profile


def _classifier(inputs: int, hidden: int) -> nn.Sequential:
    """The fully connected layers `fc6` and `fc7` of VGG-16 as convolutions, with its dropout."""
    fc6 = nn.Conv2d(inputs, hidden, 7, padding=3)
    fc7 = nn.Conv2d(hidden, hidden, 1)
    for layer in (fc6, fc7):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(fc6, nn.ReLU(inplace=True), nn.Dropout(), fc7, nn.ReLU(inplace=True), nn.Dropout())


def _twice_as_large(classes: int) -> nn.ConvTranspose2d:
    """Upsampling of score maps by 2, learned, beginning as bilinear interpolation of each class by itself."""
    layer = nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(classes)[:, :, None, None] * bilinear_kernel(4))
    return layer


def _crop(maps: Tensor, *, like: Tensor) -> Tensor:
    return maps[..., : like.shape[-2], : like.shape[-1]]
