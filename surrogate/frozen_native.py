"""The kernel of `surrogate.frozen` in C, `frozen.c`, for CPUs."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from surrogate import compiled

UNITS = sys.maxsize


class Packed(NamedTuple):
    """Weights of the layers before the last, as wide as `frozen.c` goes at a time; what is more is 0."""

    there: Tensor
    """`(depth, U, U)`, from the inputs of a layer to its units."""
    back: Tensor
    """`(depth, U, U)`, from its units to its inputs."""
    biases: Tensor
    """`(depth + 1, U)`, of the last layer too."""
    last: Tensor
    """`(U,)`."""
    units: int
    """Of a layer, without what is more."""


class _Shape(ctypes.Structure):
    """As `Shape` of `frozen.c`."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("rows", "inputs", "units", "padded", "depth"))


def library() -> ctypes.CDLL:
    """Raises `MissingExtraError` where it can't be compiled."""
    return compiled.library(Path(__file__).with_name("frozen.c"))


def pack(layers: nn.Sequential) -> Packed:
    """Of an MLP."""
    *linear, last = (layer for layer in layers if isinstance(layer, nn.Linear))
    step = library().step()
    widest = max(linear[0].in_features, last.in_features)
    units = -(-widest // step) * step
    square = torch.stack([pad(of.weight, (0, units - of.in_features, 0, units - of.out_features)) for of in linear])
    biases = torch.stack([pad(of.bias, (0, units - of.out_features)) for of in (*linear, last)])
    row = pad(last.weight[0], (0, units - last.in_features))
    return Packed(square.mT.contiguous(), square, biases, row, last.in_features)


def latent(stats: Tensor, mean: Tensor, scale: Tensor, packed: Packed, sloped: bool) -> tuple[Tensor, Tensor | None]:
    """`(R,)` value, and `(R, F)` slope where it is asked for, of dense `(R, F)` float32 statistics."""
    value, slope = stats.new_empty(len(stats)), torch.empty_like(stats) if sloped else None
    shape = _Shape(*stats.shape, packed.units, len(packed.last), len(packed.there))
    tensors = stats, mean, scale, *packed[:4], value, slope
    pointers = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
    if library().latent(ctypes.byref(shape), *pointers, torch.get_num_threads()):
        raise MemoryError("frozen network: no memory for its layers")
    return value, slope
