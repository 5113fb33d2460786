"""The kernel of `surrogate.frozen` by triton, for GPUs."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn.functional import pad

UNITS = 128
"""The widest layer that a program holds; narrower ones are padded to it with zeros."""
_THREE_STAGES = 147_456
"""Bytes of shared memory that three stages take; one takes 65,536."""
_ROWS = 16
"""Rows of a program, the least that a matrix unit takes."""


def pack(layers: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Weights and biases of the linear layers, `(depth + 1, UNITS, UNITS)` and `(depth + 1, UNITS)`, padded by 0."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    weights = [pad(of.weight, (0, UNITS - of.in_features, 0, UNITS - of.out_features)) for of in linear]
    return torch.stack(weights), torch.stack([pad(of.bias, (0, UNITS - of.out_features)) for of in linear])


def latent(
    stats: Tensor, mean: Tensor, scale: Tensor, packed: tuple[Tensor, Tensor], sloped: bool
) -> tuple[Tensor, Tensor]:
    """`(R,)` value and `(R, F)` slope, which costs little beside it, of dense `(R, F)` float32 statistics."""
    del sloped
    weights, biases = packed
    (rows, inputs), depth = stats.shape, len(weights) - 1
    value, slope = stats.new_empty(rows), stats.new_empty(rows, inputs)
    kept = stats.new_empty(triton.cdiv(rows, _ROWS), depth, _ROWS, UNITS)
    with torch.cuda.device_of(stats):
        _network[(len(kept),)](
            stats, mean, scale, weights, biases, value, slope, kept, rows, inputs, depth,
            ROWS=_ROWS, UNITS=UNITS, num_warps=8, num_stages=_stages(stats.device),
        )  # fmt: skip
    return value, slope


@cache
def _stages(device: torch.device) -> int:
    """Layers whose weights are on their way at once: three where a program has the memory, as on an A100 or an H100."""
    if device.type != "cuda":
        return 1
    memory = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return 3 if memory >= _THREE_STAGES else 1


@triton.jit
def _network(
    stats, mean, scale, weights, biases, value, slope, kept, rows, inputs, depth,
    ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row, unit = program * ROWS + tl.arange(0, ROWS), tl.arange(0, UNITS)
    at = row[:, None] * inputs + unit[None, :]
    real = (row < rows)[:, None] & (unit < inputs)[None, :]
    width = tl.load(scale + unit, mask=unit < inputs, other=1.0)[None, :]
    h = tl.load(stats + at, mask=real, other=0.0)
    h = (h - tl.load(mean + unit, mask=unit < inputs, other=0.0)[None, :]) / width
    keep = kept + program * depth * ROWS * UNITS + tl.arange(0, ROWS)[:, None] * UNITS + unit[None, :]
    there = unit[:, None] * UNITS + unit[None, :]  # of a weight, output by input
    for layer in range(depth):
        w = tl.load(weights + layer * UNITS * UNITS + tl.trans(there))
        h = tl.dot(h, w, input_precision="tf32x3") + tl.load(biases + layer * UNITS + unit)[None, :]
        h = 2.0 * tl.sigmoid(2.0 * h) - 1.0
        tl.store(keep + layer * ROWS * UNITS, h)
    last = tl.load(weights + depth * UNITS * UNITS + unit)[None, :]
    out = tl.sum(h * last, 1) + tl.load(biases + depth * UNITS)
    tl.store(value + row, out, mask=row < rows)
    tl.debug_barrier()  # what one thread has kept another may read
    g = last * (1.0 - h * h)
    for back in range(1, depth):
        w = tl.load(weights + (depth - back) * UNITS * UNITS + there)
        h = tl.load(keep + (depth - back - 1) * ROWS * UNITS)
        g = tl.dot(g, w, input_precision="tf32x3") * (1.0 - h * h)
    g = tl.dot(g, tl.load(weights + there), input_precision="tf32x3")
    tl.store(slope + at, g / width, mask=real)
