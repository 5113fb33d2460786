"""The fast kernel of CPUs: `native.c`, compiled at first use for this machine (see `surrogate.compiled`).

Takes float32 and bfloat16 logits, float16 by way of float32; float64 goes through `tiled`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from surrogate import compiled
from surrogate.errors import MissingExtraError
from surrogate_segmentation.kernels import tiled

_PIXELS = 4096
"""In a tile: its sums are a number of their own, so the result does not depend on who computes it."""
SOURCE = Path(__file__).with_suffix(".c")
_DTYPES = (torch.float32, torch.bfloat16)
_LABELS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Shape(ctypes.Structure):
    """As `Shape` of `native.c`."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("classes", "pixels", "tile", "x_image", "x_class", "x_pixel"),
            *("y_bytes", "y_signed", "ignore_index", "narrow"),
        )
    )


def forward(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, 6)` sums: fp64, pixel by pixel in a tile, then tile by tile."""
    if logits.dtype == torch.float16:
        return forward(logits.float(), labels, ignore_index)
    if logits.dtype not in _DTYPES:
        return tiled.forward(logits, labels, ignore_index)
    return _summed(tiled.dense(logits), None, labels, ignore_index)


def backward(grad: Tensor, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, H, W)`, the gradient of the logits from that of the sums, `(B, C, 6)`."""
    if logits.dtype == torch.float16:
        return backward(grad, logits.float(), labels, ignore_index).half()
    if logits.dtype not in _DTYPES:
        return tiled.backward(grad, logits, labels, ignore_index)
    strided, labels = tiled.dense(logits), _dense(labels)
    shape, _ = _shape(strided, labels, ignore_index)
    result = torch.empty_like(strided)
    tensors = strided, labels, pad(grad.float(), (0, 0, 0, 1)), result
    _call(library().backward, shape, tensors, len(logits))
    return result if strided is logits else torch.empty_like(logits).copy_(result)


def velocity(logits: Tensor, way: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, 6)`, see `counts.soft_counts_velocity`; summed as by `forward`."""
    if logits.dtype == torch.float16:
        return velocity(logits.float(), way, labels, ignore_index)
    if logits.dtype not in _DTYPES:
        return tiled.velocity(logits, way, labels, ignore_index)
    logits = tiled.dense(logits)
    return _summed(logits, torch.empty_like(logits, dtype=torch.float32).copy_(way), labels, ignore_index)


def _summed(logits: Tensor, way: Tensor | None, labels: Tensor, ignore_index: int) -> Tensor:
    """The sums of dense logits, or how fast they change along a `way` of the same strides."""
    shape, tiles = _shape(logits, labels := _dense(labels), ignore_index)
    images, classes = logits.shape[:2]
    sums = torch.zeros(images, tiles, classes + 1, 6, dtype=torch.float64)
    result = torch.empty(images, classes, 6)
    _call(library().forward, shape, (logits, way, labels, sums, result), images)
    return result


def _dense(labels: Tensor) -> Tensor:
    """Labels as `native.c` reads them."""
    return (labels if labels.dtype in _LABELS else labels.long()).contiguous()


def _shape(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Shape, int]:
    """The layout, and the number of tiles in an image."""
    _, classes, height, width = logits.shape
    pixels = height * width
    nchw = logits.is_contiguous()
    strides = (classes * pixels, pixels, 1) if nchw else (classes * pixels, 1, classes)
    y = labels.dtype
    narrow = logits.dtype == torch.bfloat16
    shape = Shape(classes, pixels, _PIXELS, *strides, y.itemsize, y.is_signed, ignore_index, narrow)
    return shape, -(-pixels // _PIXELS)


def _call(function: Callable[..., int], shape: Shape, tensors: tuple[Tensor | None, ...], images: int) -> None:
    pointers = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
    if function(ctypes.byref(shape), *pointers, ctypes.c_int64(images), torch.get_num_threads()):
        raise MemoryError("native kernel: no memory for the exponentials of a block")


def library() -> ctypes.CDLL:
    """Raises `MissingExtraError` where it can't be compiled."""
    try:
        return compiled.library(SOURCE)
    except MissingExtraError as error:
        raise MissingExtraError(f"measure.kernel native: {error}, or use auto") from None
