"""A frozen network: value and slope of all rows by one call, where torch takes forty.

A training step has some tens of rows: each of the many small operations of an MLP and of its gradient costs more to
launch than to compute. As the network is frozen, its slope is found along with its value, and going back is a product.

With x the standardised statistics, h_0 = x, h_l = tanh(W_l h_{l-1} + b_l), and w, b the last layer:

    value = w h_L + b     g_L = w (1 - h_L^2)     g_{l-1} = (g_l W_l) (1 - h_{l-1}^2)     slope = g_1 W_1 / scale

A kernel is a module with `UNITS`, the widest layer that it takes, `pack(layers)`, the weights as it reads them, and
`latent(stats, mean, scale, packed, sloped)`, value and slope.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd import forward_ad

from surrogate.errors import MissingExtraError

if TYPE_CHECKING:
    from surrogate.approximator import Surrogate

_packed: WeakKeyDictionary[Surrogate, tuple[tuple[Any, ...], Any, list[Tensor]]] = WeakKeyDictionary()
"""The weights of each surrogate as its kernel reads them, the state of its parameters that they are of, and those: what
is kept cannot give its address away."""


def predicted(surrogate: Surrogate, stats: Tensor) -> Tensor | None:
    """As `surrogate` of `(R, F)` statistics of its inputs; None where that is for its layers to say.

    Hooks of the layers are not called, and what is written into a parameter behind autograd's back, by `.data` or
    numpy, is not seen.
    """
    if _is_transformed():
        return None
    parameters = list(surrogate.parameters())
    if any(parameter.requires_grad or parameter.is_inference() for parameter in parameters):
        return None
    plain = (surrogate.activation, surrogate.directions, stats.dtype) == ("tanh", (), torch.float32)
    here = type(stats) is Tensor and stats.device == surrogate.mean.device
    if not plain or not here or not len(stats):
        return None
    kernel = _kernel(stats.device)
    if kernel is None or max(surrogate.width, len(surrogate.inputs)) > kernel.UNITS:
        return None
    weights = _weights(surrogate, kernel, stats.device, parameters)
    result: Tensor = _Predicted.apply(stats, surrogate, kernel, weights)  # type: ignore[no-untyped-call]
    return result


class _Predicted(torch.autograd.Function):
    """Clamped to [0, 1], with a gradient as if it were not. Second derivatives are those of the layers."""

    @staticmethod
    def forward(ctx: Any, stats: Tensor, surrogate: Surrogate, kernel: ModuleType, weights: Any) -> Tensor:
        sloped = ctx.needs_input_grad[0]
        value, slope = kernel.latent(stats.contiguous(), surrogate.mean, surrogate.scale, weights, sloped)
        ctx.surrogate = surrogate
        ctx.save_for_backward(stats, slope)
        clamped: Tensor = value.clamp_(0.0, 1.0)
        return clamped

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        stats, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            value = ctx.surrogate.through_layers(stats)
            return torch.autograd.grad(value, stats, gradient, create_graph=True)[0], None, None, None
        return gradient.unsqueeze(1) * slope, None, None, None


def _weights(surrogate: Surrogate, kernel: ModuleType, device: torch.device, parameters: Sequence[Tensor]) -> Any:
    """Packed at the first call and after a change."""
    state = (kernel, device, *((of.data_ptr(), of._version) for of in parameters))
    found = _packed.get(surrogate)
    if found is None or found[0] != state:
        with torch.no_grad():
            found = _packed[surrogate] = state, kernel.pack(surrogate.layers), [of.detach() for of in parameters]
    return found[1]


def _is_transformed() -> bool:
    """Under torch.compile, torch.func, forward mode, or what watches operators, which know the layers alone."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


@cache
def _kernel(device: torch.device) -> ModuleType | None:
    """Triton's on Nvidia's GPUs since Ampere (where it interprets, everywhere); C on a CPU where it can be compiled."""
    if find_spec("triton") is not None and _has_triton(device):
        return import_module("surrogate.frozen_triton")  # a second that only a GPU should pay
    if device.type != "cpu":
        return None
    native = import_module("surrogate.frozen_native")
    try:
        native.library()
    except MissingExtraError as error:
        logging.getLogger("surrogate").info("%s", error)
        return None
    return native


def _has_triton(device: torch.device) -> bool:
    if device.type != "cuda":
        return os.environ.get("TRITON_INTERPRET") == "1"
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
