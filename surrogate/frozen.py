"""A frozen network on a GPU: value and slope of all rows by one launch, where torch takes forty.

A training step has some tens of rows: each of the many small operations of an MLP and of its gradient costs more to
launch than to compute. As the network is frozen, its slope is found along with its value, and going back is a product.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from surrogate.approximator import Surrogate

UNITS = 128
"""The widest layer that a program holds; narrower ones are padded to it with zeros."""
_packed: WeakKeyDictionary[Surrogate, tuple[tuple[Any, ...], tuple[Tensor, Tensor]]] = WeakKeyDictionary()
"""The padded weights of each surrogate, and the state of its parameters that they are of."""


def runs(surrogate: Surrogate, stats: Tensor) -> bool:
    """Whether `latent` can take the place of the layers for `(R, F)` statistics of the surrogate's inputs."""
    return (
        not torch.compiler.is_compiling()
        and _has_kernel(stats.device)
        and len(stats) > 0
        and (surrogate.activation, surrogate.directions, stats.dtype) == ("tanh", (), torch.float32)
        and max(surrogate.width, len(surrogate.inputs)) <= UNITS
        and not any(parameter.requires_grad or parameter.is_inference() for parameter in surrogate.parameters())
    )


def latent(surrogate: Surrogate, stats: Tensor) -> Tensor:
    """`(R,)` output of the layers for `(R, F)` statistics of the surrogate's inputs; it has no second derivatives."""
    from surrogate.frozen_triton import Latent  # a second that only a GPU should pay

    state = (stats.device, *((parameter.data_ptr(), parameter._version) for parameter in surrogate.parameters()))
    found = _packed.get(surrogate)
    if found is None or found[0] != state:
        found = _packed[surrogate] = state, _pack(surrogate.layers)
    result: Tensor = Latent.apply(stats, surrogate.mean, surrogate.scale, found[1])  # type: ignore[no-untyped-call]
    return result


@cache
def _has_kernel(device: torch.device) -> bool:
    """On Nvidia's GPUs since Ampere; where triton interprets, everywhere."""
    if find_spec("triton") is None:
        return False
    if device.type != "cuda":
        return os.environ.get("TRITON_INTERPRET") == "1"
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


@torch.no_grad()
def _pack(layers: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Weights and biases of the linear layers, `(depth + 1, UNITS, UNITS)` and `(depth + 1, UNITS)`, padded."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    weights = [F.pad(of.weight, (0, UNITS - of.in_features, 0, UNITS - of.out_features)) for of in linear]
    return torch.stack(weights), torch.stack([F.pad(of.bias, (0, UNITS - of.out_features)) for of in linear])
