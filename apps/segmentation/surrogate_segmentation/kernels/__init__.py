"""Soft and hard counts, one-vs-rest, by the fastest kernel at hand: the same numbers as `counts.soft_counts`.

Per pixel, with logits x, label y, m = max x, a its class (the first of equals), r = sum over k != a of exp(x_k - m):

    s = 1 + r,  p_a = 1 / s,  p_y = exp(x_y - m) / s
    a == y:  TP[y] += p_a                a != y:  FP[a] += p_a,  FN[y] += 1 - p_y         void: nothing

    backward, with g the gradient of (TP, FP, FN):
    a == y:  u = g_TP[y] p_a,  v = 0     a != y:  u = g_FP[a] p_a,  v = g_FN[y] p_y       void: u = v = 0
    dx_k = (v - u) p_k  for k != a;  dx_a = u r / s + v / s;  then dx_y -= v

Only logits and labels are kept for the backward pass. r / s is 1 - p_a without its cancellation: a confident pixel
keeps its gradient. Each kernel gives the same bits for any split of the batch and any number of threads. A label
that is out of range makes its pixel NaN, in the sums and in the gradient: no kernel waits for the device to find out,
and on a CPU nobody looks at the labels unless a sum is NaN.

A kernel is a module with `forward(logits, labels, ignore_index)`, `backward(grad, logits, labels, ignore_index)` and
`velocity(logits, way, labels, ignore_index)`, see `counts.soft_counts_velocity`.
"""

from __future__ import annotations

import logging
import math
import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from surrogate.errors import MissingExtraError
from surrogate_segmentation import counts

Kernel = Literal["auto", "reference", "tiled", "native", "triton"]
_DEVICES = ("cpu", "cuda") if find_spec("triton") else ("cpu",)
"""Those with a kernel."""


def soft_counts(logits: Tensor, labels: Tensor, *, ignore_index: int, kernel: Kernel = "auto") -> Tensor:
    """As `counts.soft_counts` one-vs-rest: `(B, C, 6)` soft TP, FP, FN and hard TP, FP, FN.

    Args:
        logits: `(B, C, H, W)` floats of any strides.
        labels: `(B, H, W)` of any integer dtype, in [0, C) or `ignore_index` (void).
        ignore_index: the label of void pixels.
        kernel: `auto` is `triton` on CUDA where it is installed and, on a CPU, `native`, C that is compiled at first
            use, or `tiled` where there is no compiler. One that does not run on the device of the logits gives way to
            `auto`: a surrogate may be used elsewhere than it was fitted.

    Raises:
        DataError: labels that do not go with the logits, see `counts.check_labels`. Off the CPU a label out of range
            is not looked for: its pixel is NaN, or the reference ends in the error of the device.
        MissingExtraError: `native` without a C compiler.
    """
    if kernel == "reference" or not _has_kernel(logits):
        return counts.soft_counts(logits, labels, ignore_index=ignore_index)
    counts.check_layout(labels, logits)
    call = _forward if _needs_operator(logits) else _Counts.apply  # type: ignore[no-untyped-call]
    found: Tensor = call(logits, labels, ignore_index, kernel)
    if found.device.type == "cpu" and not torch.compiler.is_compiling() and math.isnan(found.sum().item()):
        counts.check_values(labels, logits.shape[1], ignore_index=ignore_index)
    return found


def _has_kernel(logits: Tensor) -> bool:
    """On a GPU, float64 is for the reference, which it is there to check."""
    exact_gpu = logits.dtype == torch.float64 and logits.device.type != "cpu"
    return logits.device.type in _DEVICES and logits.numel() > 0 and not exact_gpu


def _needs_operator(logits: Tensor) -> bool:
    """Whether torch has to know the kernel as an operator; its wrappers take a quarter of a millisecond, and would take
    forward derivatives for 0."""
    autocast = torch.is_autocast_enabled(logits.device.type) and forward_ad._current_level < 0
    return torch.compiler.is_compiling() or autocast


def _kernel(asked: str, device: str) -> ModuleType:
    """The one that was asked for, or the fastest. Looked up within the operator, where nothing is compiled by torch."""
    runs = device == "cpu" if asked in ("tiled", "native") else os.environ.get("TRITON_INTERPRET") == "1"
    return _module(asked if asked != "auto" and runs else _fastest(device))


@cache
def _fastest(device: str) -> Literal["tiled", "native", "triton"]:
    if device == "cuda":
        return "triton"
    try:
        _module("native").library()
    except MissingExtraError as error:
        logging.getLogger("surrogate_segmentation").info("%s", error)
        return "tiled"
    return "native"


@cache
def _module(kernel: str) -> ModuleType:
    """The kernel, loaded and named in the log at its first use."""
    module = import_module(f"{__name__}.{kernel}")
    logging.getLogger("surrogate_segmentation").info("one-vs-rest counts by the kernel %s", kernel)
    return module


def _sums(logits: Tensor, labels: Tensor, ignore_index: int, kernel: str) -> Tensor:
    found: Tensor = _kernel(kernel, logits.device.type).forward(logits, labels, ignore_index)
    return found


def _gradient(grad: Tensor, logits: Tensor, labels: Tensor, ignore_index: int, kernel: str) -> Tensor:
    found: Tensor = _kernel(kernel, logits.device.type).backward(grad, logits, labels, ignore_index)
    return found


_forward = torch.library.custom_op("surrogate_segmentation::soft_counts", _sums, mutates_args=())
_backward = torch.library.custom_op("surrogate_segmentation::soft_counts_backward", _gradient, mutates_args=())


@_forward.register_fake
def _(logits: Tensor, labels: Tensor, ignore_index: int, kernel: str) -> Tensor:  # noqa: ARG001
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.new_empty(logits.shape[0], logits.shape[1], 6, dtype=dtype)


@_backward.register_fake
def _(grad: Tensor, logits: Tensor, labels: Tensor, ignore_index: int, kernel: str) -> Tensor:  # noqa: ARG001
    return torch.empty_like(logits)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor | None = None) -> None:  # noqa: ARG001
    logits, labels, ctx.ignore_index, ctx.kernel = inputs
    ctx.save_for_backward(logits, labels)


def _first(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _backward(grad, *ctx.saved_tensors, ctx.ignore_index, ctx.kernel), None, None, None


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor | None = None) -> None:  # noqa: ARG001
    grad, logits, labels, ctx.ignore_index, _ = inputs
    ctx.save_for_backward(grad, logits, labels)


def _second(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
    """Second derivatives, which `surrogate.moves` asks for, are those of the reference."""
    grad, logits, labels = ctx.saved_tensors
    with torch.enable_grad():
        grad, logits = grad.detach().requires_grad_(), logits.detach().requires_grad_()
        sums = counts.soft_counts(logits, labels, ignore_index=ctx.ignore_index)
        (first,) = torch.autograd.grad(sums, logits, grad, create_graph=True)
        d_grad, d_logits = torch.autograd.grad(first, (grad, logits), direction)
    return d_grad, d_logits, None, None, None


_forward.register_autograd(_first, setup_context=_keep)
_backward.register_autograd(_second, setup_context=_keep_gradient)


class _Counts(torch.autograd.Function):
    """`_forward`, without the operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _keep(ctx, inputs)
        ctx.save_for_forward(*inputs[:2])
        return _sums(*inputs)

    @staticmethod
    def jvp(ctx: Any, way: Tensor, *_: None) -> Tensor:
        logits, labels = ctx.saved_tensors
        found: Tensor = _kernel(ctx.kernel, logits.device.type).velocity(logits, way, labels, ctx.ignore_index)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = grad, *ctx.saved_tensors, ctx.ignore_index, ctx.kernel
        return _CountsGradient.apply(*inputs), None, None, None  # type: ignore[no-untyped-call]


class _CountsGradient(torch.autograd.Function):
    """`_backward`, without the operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _keep_gradient(ctx, inputs)
        return _gradient(*inputs)

    backward = staticmethod(_second)
