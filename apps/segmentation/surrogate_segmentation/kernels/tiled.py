"""The kernel of CPUs without a C compiler: plain tensor operations on tiles that stay in the cache. The formulas:
`__init__.py`.

No `argmax`, which is 60 times slower than `amax` on a CPU: where x_y == m and s < 2 nothing equals the highest logit,
so the pixel is right. Only the others are looked at class by class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from surrogate_segmentation import counts

_PIXELS = 8192
"""In a tile: its operations are long enough to be worth their call, its logits short enough for the cache."""


class Tile(NamedTuple):
    """n pixels of one image."""

    pixels: slice
    label: Tensor
    """`(n,)` int64 in [0, C); 0 at void pixels."""
    valid: Tensor
    """`(n,)` bool, not void."""
    predicted: Tensor
    """`(n,)` int64 in [0, C)."""
    hit: Tensor
    """`(n,)` bool, label equals predicted."""
    others: Tensor
    """`(C, n)` exp(x - m) of the classes that are not predicted; 0 at the predicted one."""
    r: Tensor
    """`(n,)` sum of the others."""
    e_y: Tensor
    """`(n,)` exp(x_y - m)."""


def forward(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, 6)` sums. Pixels are added one by one in fp64, in the order of the image: no tile or thread shows."""
    classes = logits.shape[1]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    found = []
    for x, y in zip(dense(logits).flatten(2), labels.flatten(1), strict=True):
        bins = torch.empty(2, len(y), dtype=torch.int64)  # TP, FP and FN of each class, and one bin that is thrown away
        weights = torch.empty(2, len(y), dtype=torch.float64)
        for tile in _tiles(x, y, ignore_index):
            s = tile.r + 1
            missed = torch.where(tile.hit, tile.predicted, tile.predicted + classes)
            bins[0, tile.pixels] = torch.where(tile.valid, missed, 3 * classes)
            bins[1, tile.pixels] = torch.where(tile.valid & ~tile.hit, tile.label + 2 * classes, 3 * classes)
            weights[0, tile.pixels] = s.reciprocal()
            weights[1, tile.pixels] = 1 - tile.e_y / s
        bins, weights = bins.flatten(), weights.flatten()
        pair = (
            torch.bincount(bins, weights, minlength=3 * classes + 1).to(dtype),
            torch.bincount(bins, minlength=3 * classes + 1).to(dtype),
        )
        found.append(torch.cat([sums[:-1].view(3, classes) for sums in pair]).T)
    return torch.stack(found)


def backward(grad: Tensor, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, H, W)`, the gradient of the logits from that of the sums, `(B, C, 6)`."""
    strided = dense(logits)
    result = torch.empty_like(strided)
    for g, x, y, dx in zip(grad, strided.flatten(2), labels.flatten(1), result.flatten(2), strict=True):
        g_tp, g_fp, g_fn = g[:, :3].T.contiguous()
        for tile in _tiles(x, y, ignore_index):
            s = tile.r + 1
            zero = s.new_zeros(())
            u = torch.where(tile.hit, g_tp[tile.label], g_fp[tile.predicted]) / s
            v = torch.where(tile.hit, zero, g_fn[tile.label] * tile.e_y / s)
            u, v = torch.where(tile.valid, u, zero), torch.where(tile.valid, v, zero)
            part = dx[:, tile.pixels] if dx.dtype == s.dtype else tile.others
            torch.mul(tile.others, (v - u) / s, out=part)
            part.scatter_(0, tile.predicted[None], ((u * tile.r + v) / s)[None])
            part.scatter_add_(0, tile.label[None], -v[None])
            if dx.dtype != s.dtype:
                dx[:, tile.pixels] = part
    return result if strided is logits else torch.empty_like(logits).copy_(result)


def velocity(logits: Tensor, way: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, 6)`, see `counts.soft_counts_velocity`, which it is."""
    return counts.soft_counts_velocity(logits, way, labels, ignore_index=ignore_index)


def dense(logits: Tensor) -> Tensor:
    """The logits in a layout with one stride from pixel to pixel: as they are if NCHW or channels-last, else a copy."""
    return logits if logits.is_contiguous(memory_format=torch.channels_last) else logits.contiguous()


def _tiles(x: Tensor, y: Tensor, ignore_index: int) -> Iterator[Tile]:
    """The tiles of one image, of `(C, N)` logits and `(N,)` labels. Each overwrites the exponentials of the last."""
    classes, pixels = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    buffer = torch.empty(classes, min(pixels, _PIXELS), dtype=dtype)
    for start in range(0, pixels, _PIXELS):
        end = min(start + _PIXELS, pixels)
        e = buffer if end - start == buffer.shape[1] else torch.empty(classes, end - start, dtype=dtype)
        yield _tile(slice(start, end), x[:, start:end].to(dtype), y[start:end].long(), ignore_index, e)


def _tile(pixels: slice, x: Tensor, y: Tensor, ignore_index: int, e: Tensor) -> Tile:
    classes = len(x)
    valid = y != ignore_index
    known = torch.where(valid, y, 0).clamp_(0, classes - 1)
    bad = valid & (y != known)
    top = x.amax(0)
    torch.sub(x, top, out=e).exp_()
    e_y = e.gather(0, known[None])[0]
    predicted, hit = known, x.gather(0, known[None])[0] == top
    unsure = (~hit | (e.sum(0) >= 2)).nonzero()[:, 0]
    if 4 * len(unsure) > len(y):
        predicted = _first_highest(x, top)
    elif len(unsure):
        predicted = known.index_copy(0, unsure, _first_highest(x[:, unsure], top[unsure]))
    hit &= predicted == known
    e.scatter_add_(0, predicted[None], e.new_full((1, len(y)), -1))  # 1 - 1 = 0, unless it is NaN
    r = e.sum(0).masked_fill_(bad, torch.nan)
    return Tile(pixels, known, valid, predicted, hit, e, r, e_y)


def _first_highest(x: Tensor, top: Tensor) -> Tensor:
    """`(n,)` int64, the first of `(C, n)` classes whose logit is the highest; the last class where that is NaN."""
    classes = len(x)
    small = torch.uint8 if classes < 256 else torch.int32
    rank = torch.arange(classes, 0, -1, dtype=small)[:, None]  # the first class has the highest
    return (classes - (x == top).to(small).mul_(rank).amax(0).long()).clamp_(max=classes - 1)
