"""The networks of the paper, one a file, each after its own paper and with a `width` to make it small."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from torch import nn

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
        return _build_own(name, num_classes)
    if name not in NETWORKS:
        raise UsageError(f"unknown model {name!r}; {nearest(name, NETWORKS)} (or your own, as pkg.mod:factory)")
    return NETWORKS[name](num_classes, width=width)


def _build_own(name: str, num_classes: int) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    with _importable_from_here():
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise UsageError(f"model {name!r}: cannot import {module_name!r} ({_line(error)})") from error
        try:
            factory = getattr(module, attribute)
        except AttributeError:
            raise UsageError(f"model {name!r}: module {module_name!r} has no {attribute!r}") from None
        try:
            network = factory(num_classes=num_classes)
        except Exception as error:
            call = f"{attribute}(num_classes={num_classes})"
            raise UsageError(f"model {name!r}: {call} failed ({_line(error)})") from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"model {name!r}: returned a {type(network).__name__}; expected a torch.nn.Module")
    return network


@contextmanager
def _importable_from_here() -> Iterator[None]:
    """The current folder comes first in imports, as under `python -m`; an installed command leaves it out."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
