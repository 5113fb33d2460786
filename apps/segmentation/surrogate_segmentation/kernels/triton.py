"""The CUDA kernel: two launches forward, one backward. The formulas are in `__init__.py`.

A program takes BLOCK neighbouring pixels, once for the highest logit and once for the exponentials: the second read
comes from the cache. Sums go by class without atomics: a program writes the (C, 6) sums of its own tile, a second
launch adds the tiles up in fp64, in their order. So the bits depend on nothing but the image.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
"""Pixels of a tile."""


def forward(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, 6)` sums."""
    batch, classes, _, width = logits.shape
    pixels = labels[0].numel()
    tiles = triton.cdiv(pixels, BLOCK)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    parts = torch.empty(batch, tiles, classes, 6, dtype=dtype, device=logits.device)
    sums = torch.empty(batch, classes, 6, dtype=dtype, device=logits.device)
    with torch.cuda.device_of(logits):  # a launch goes to the current device, wherever its tensors are
        _tiles[(batch, tiles)](
            logits, labels, parts, *logits.stride(), *labels.stride(), classes, pixels, width, ignore_index, BLOCK=BLOCK
        )
        _add[(batch, classes)](parts, sums, classes, tiles)
    return sums


def backward(grad: Tensor, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, H, W)`, the gradient of the logits from that of the sums, `(B, C, 6)`."""
    batch, classes, _, width = logits.shape
    pixels = labels[0].numel()
    result = torch.empty_like(logits)
    with torch.cuda.device_of(logits):
        _gradient[(batch, triton.cdiv(pixels, BLOCK))](
            logits, labels, grad.contiguous(), result, *logits.stride(), *labels.stride(), *result.stride(),
            classes, pixels, width, ignore_index, BLOCK=BLOCK,
        )  # fmt: skip
    return result


@triton.jit
def _pixel(x, y, classes, x_c, known, ignore_index, wide: tl.constexpr, BLOCK: tl.constexpr):
    """m, a, r, the label (0 where void or bad), exp(x_y - m), and whether the pixel is not void."""
    m = tl.full((BLOCK,), float("-inf"), wide)
    a = tl.zeros((BLOCK,), tl.int32)
    for k in range(classes):
        value = tl.load(x + k * x_c, mask=known, other=0.0).to(wide)
        higher = (value > m) | ((k == 0) & (value == value))
        m = tl.where(higher, value, m)
        a = tl.where(higher, k, a)
    label = tl.load(y, mask=known, other=0).to(tl.int64)
    valid = known & (label != ignore_index)
    bad = valid & ((label < 0) | (label >= classes))
    label = tl.where(valid & (bad == 0), label, 0).to(tl.int32)
    r = tl.zeros((BLOCK,), wide)
    for k in range(classes):
        e = tl.exp(tl.load(x + k * x_c, mask=known, other=0.0).to(wide) - m)
        r += tl.where(a == k, e - 1.0, e)
    r = tl.where(bad, float("nan"), r)
    e_y = tl.exp(tl.load(x + label * x_c, mask=known, other=0.0).to(wide) - m)
    return m, a, r, label, e_y, valid


@triton.jit
def _tiles(x, y, parts, x_b, x_c, x_h, x_w, y_b, y_h, y_w, classes, pixels, width, ignore_index, BLOCK: tl.constexpr):
    image, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wide: tl.constexpr = parts.dtype.element_ty
    at = tile * BLOCK + tl.arange(0, BLOCK)
    known, row, column = at < pixels, at // width, at % width
    _, a, r, label, e_y, valid = _pixel(
        x + image * x_b + row * x_h + column * x_w, y + image * y_b + row * y_h + column * y_w,
        classes, x_c, known, ignore_index, wide, BLOCK,
    )  # fmt: skip
    p_a = 1.0 / (1.0 + r)
    hit = a == label
    part = parts + (image * tl.num_programs(1) + tile) * classes * 6
    for k in range(classes):
        tp, fp, fn = valid & hit & (label == k), valid & (hit == 0) & (a == k), valid & (hit == 0) & (label == k)
        tl.store(part + k * 6, tl.sum(tl.where(tp, p_a, 0.0)))
        tl.store(part + k * 6 + 1, tl.sum(tl.where(fp, p_a, 0.0)))
        tl.store(part + k * 6 + 2, tl.sum(tl.where(fn, 1.0 - e_y * p_a, 0.0)))
        tl.store(part + k * 6 + 3, tl.sum(tp.to(wide)))
        tl.store(part + k * 6 + 4, tl.sum(fp.to(wide)))
        tl.store(part + k * 6 + 5, tl.sum(fn.to(wide)))


@triton.jit
def _add(parts, sums, classes, tiles):
    """One class of one image; 8 columns hold the 6 sums."""
    image, k, column = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, 8)
    total = tl.zeros((8,), tl.float64)
    for tile in range(tiles):
        at = ((image * tiles + tile) * classes + k) * 6 + column
        total += tl.load(parts + at, mask=column < 6, other=0.0).to(tl.float64)
    tl.store(sums + (image * classes + k) * 6 + column, total.to(sums.dtype.element_ty), mask=column < 6)


@triton.jit
def _gradient(
    x, y, grad, dx, x_b, x_c, x_h, x_w, y_b, y_h, y_w, d_b, d_c, d_h, d_w, classes, pixels, width, ignore_index,
    BLOCK: tl.constexpr,
):  # fmt: skip
    image, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wide: tl.constexpr = grad.dtype.element_ty
    at = tile * BLOCK + tl.arange(0, BLOCK)
    known, row, column = at < pixels, at // width, at % width
    x += image * x_b + row * x_h + column * x_w
    dx += image * d_b + row * d_h + column * d_w
    m, a, r, label, e_y, valid = _pixel(
        x, y + image * y_b + row * y_h + column * y_w, classes, x_c, known, ignore_index, wide, BLOCK
    )
    s, hit = 1.0 + r, a == label
    g = grad + image * classes * 6
    u = tl.load(g + tl.where(hit, label * 6, a * 6 + 1)) / s
    v = tl.where(hit, 0.0, tl.load(g + label * 6 + 2) * e_y / s)
    for k in range(classes):
        e = tl.exp(tl.load(x + k * x_c, mask=known, other=0.0).to(wide) - m)
        d = tl.where(a == k, (u * r + v) / s, e * (v - u) / s) - tl.where(label == k, v, 0.0)
        tl.store(dx + k * d_c, tl.where(valid, d, 0.0).to(dx.dtype.element_ty), mask=known)
