"""The networks of the paper, one a file, each after its own paper and with a `width` to make it small."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from surrogate import own
from surrogate.errors import UsageError, nearest
from surrogate_segmentation.networks.fcn8s import FCN8s
from surrogate_segmentation.networks.segnet import SegNet
from surrogate_segmentation.networks.unet import UNet

NETWORKS: Mapping[str, type[nn.Module]] = MappingProxyType({"fcn8s": FCN8s, "segnet": SegNet, "unet": UNet})
"""The built-in networks by name, called with `num_classes` and `width`."""


def build(name: str, *, num_classes: int, width: int) -> nn.Module:
    """A new network, its weights drawn from the global generator of torch.

    Args:
        name: a key of `NETWORKS`, or `pkg.mod:factory` for a network of the user's own, installed or in the
            current folder: called with `num_classes`, it returns an `nn.Module` that maps `(B, 3, H, W)`
            float images to `(B, num_classes, H, W)` logits.
        num_classes: the number of logits per pixel.
        width: channels of the first block of a built-in network; a user's own factory is not given it.

    Raises:
        UsageError: an unknown name, or a factory that cannot be imported, does not run or returns no module.
    """
    if ":" in name:
        return own.build(name, {"num_classes": num_classes}, kind="model")
    if name not in NETWORKS:
        raise UsageError(f"unknown model {name!r}; {nearest(name, NETWORKS)} (or your own, as pkg.mod:factory)")
    return NETWORKS[name](num_classes, width=width)
