"""The CUDA kernel: two launches forward, one backward. The formulas are in `__init__.py`.

A program takes BLOCK neighbouring pixels through their classes, LANES at a time, and keeps of each pixel and lane the
highest logit so far, its class, and r relative to it (an online softmax: Milakov and Gimelshein 2018); then the lanes
are put together. Sums go by class without atomics: a program writes the (C, 6) sums of its own tile, a second launch
adds the tiles up in fp64, in a fixed order. So the bits depend on nothing but the image. A pixel that is NaN makes all
the soft sums of its tile NaN.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from surrogate_segmentation import counts

PLAIN = {"BLOCK": 256, "LANES": 1, "num_warps": 4}
"""Pixels of a tile (at most 1,023, see `_tiles`), classes at a time, and warps, where pixels lie side by side."""
CHANNELS_LAST = {"BLOCK": 128, "LANES": 4, "num_warps": 4}
"""The same where classes do."""
_CHUNK = 8
"""Classes that are summed up at a time."""
_FIXED: tl.constexpr = tl.constexpr(2.0**21)
"""One, in fixed point: a tile's sum of weights up to 1 stays below 2^31. Weights are 1 / C or more, if not 0."""
_LOWEST: tl.constexpr = tl.constexpr(-3.4e38)
"""Where the highest logit starts: below what a network gives, and -inf leaves it there."""


def forward(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, 6)` float32 sums, of logits up to float32."""
    batch, classes, _, width = logits.shape
    pixels, shape = labels[0].numel(), _shape(logits)
    tiles = triton.cdiv(pixels, shape["BLOCK"])
    parts = logits.new_empty(batch, tiles, classes * 6, dtype=torch.float32)
    sums = logits.new_empty(batch, classes, 6, dtype=torch.float32)
    with torch.cuda.device_of(logits):  # a launch goes to the current device, wherever its tensors are
        _tiles[(tiles, batch)](
            logits, labels, parts, *logits.stride(), *labels.stride(), classes, pixels, width, ignore_index,
            CHUNK=_CHUNK, FLAT=_flat(logits, labels), **shape,
        )  # fmt: skip
        _add[(triton.cdiv(classes * 6, 32), batch)](parts, sums, classes * 6, tiles)
    return sums


def backward(grad: Tensor, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, H, W)`, the gradient of the logits from that of the sums, `(B, C, 6)`."""
    batch, classes, _, width = logits.shape
    pixels, shape = labels[0].numel(), _shape(logits)
    result = torch.empty_like(logits)
    with torch.cuda.device_of(logits):
        _gradient[(triton.cdiv(pixels, shape["BLOCK"]), batch)](
            logits, labels, grad.contiguous(), result, *logits.stride(), *labels.stride(), *result.stride(),
            classes, pixels, width, ignore_index, FLAT=_flat(logits, labels, result), **shape,
        )  # fmt: skip
    return result


def velocity(logits: Tensor, way: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """`(B, C, 6)`, see `counts.soft_counts_velocity`, which it is: only collection asks for it."""
    return counts.soft_counts_velocity(logits, way, labels, ignore_index=ignore_index)


def _shape(logits: Tensor) -> dict[str, int]:
    return CHANNELS_LAST if logits.stride(1) < logits.stride(3) else PLAIN


def _flat(*tensors: Tensor) -> bool:
    """Whether the pixels of each image go on from row to row."""
    return all(tensor.stride(-2) == tensor.shape[-1] * tensor.stride(-1) for tensor in tensors)


@triton.jit
def _place(tile, pixels, width, FLAT: tl.constexpr, BLOCK: tl.constexpr):
    """Row and column of the pixels of a tile, and which of them are in the image."""
    at = tile * BLOCK + tl.arange(0, BLOCK)
    if FLAT:
        row, column = tl.zeros_like(at), at
    else:
        row, column = at // width, at % width
    return row, column, at < pixels


@triton.jit
def _pixel(x, y, classes, x_c, known, ignore_index, LANES: tl.constexpr, BLOCK: tl.constexpr):
    """m, a, r, the label (0 where void or bad), exp(x_y - m), and whether the pixel is not void."""
    label = tl.load(y, mask=known, other=0).to(tl.int64)
    valid = known & (label != ignore_index)
    bad = valid & ((label < 0) | (label >= classes))
    label = tl.where(valid & (bad == 0), label, 0).to(tl.int32)
    lane = tl.arange(0, LANES)[None, :]
    x = x[:, None] + lane * x_c
    m = tl.full((BLOCK, LANES), _LOWEST, tl.float32)
    a = tl.zeros((BLOCK, LANES), tl.int32)
    r = tl.zeros((BLOCK, LANES), tl.float32)
    x_y = tl.zeros((BLOCK, LANES), tl.float32)
    for first in range(0, classes, LANES):
        k = first + lane
        value = tl.load(x, mask=known[:, None] & (k < classes), other=float("-inf")).to(tl.float32)
        higher = value > m
        less = tl.exp(-tl.abs(value - m))
        r = tl.where(higher, (r + 1.0) * less, r + less)
        m = tl.where(higher, value, m)
        a = tl.where(higher, k, a)
        x_y = tl.where(k == label[:, None], value, x_y)
        x += LANES * x_c
    highest = tl.max(m, 1)
    first_of = tl.min(tl.where(m == highest[:, None], a, classes), 1)
    r = tl.where(a == first_of[:, None], r, (r + 1.0) * tl.exp(m - highest[:, None]))
    unsound = bad | (highest <= _LOWEST) | (highest == float("inf"))
    r = tl.where(unsound, float("nan"), tl.sum(r, 1))
    return highest, first_of, r, label, tl.exp(tl.sum(x_y, 1) - highest), valid


@triton.jit
def _tiles(
    x, y, parts, x_b, x_c, x_h, x_w, y_b, y_h, y_w, classes, pixels, width, ignore_index,
    CHUNK: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tile, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, column, known = _place(tile, pixels, width, FLAT, BLOCK)
    _, a, r, label, e_y, valid = _pixel(
        x + image * x_b + row * x_h + column * x_w, y + image * y_b + row * y_h + column * y_w,
        classes, x_c, known, ignore_index, LANES, BLOCK,
    )  # fmt: skip
    s, hit = 1.0 + r, a == label
    tp, fn = tl.where(hit, 1.0 / s, 0.0)[:, None], tl.where(hit, 0.0, 1.0 - e_y / s)[:, None]
    fp = (1.0 / s)[:, None]
    true, false = tl.where(valid, label, -1)[:, None], tl.where(valid & (hit == 0), a, -1)[:, None]
    one = tl.where(hit, 1, 1 << 10)[:, None]  # three counts to a number, ten bits each
    unit = tl.where(tl.sum((valid & (r != r)).to(tl.int32), 0) > 0, float("nan"), 1.0 / _FIXED)
    part = parts + (image * tl.num_programs(0) + tile) * classes * 6
    for first in range(0, classes, CHUNK):
        k = first + tl.arange(0, CHUNK)
        is_true, is_false = true == k[None, :], false == k[None, :]
        number = tl.sum(tl.where(is_true, one, 0) + tl.where(is_false, 1 << 20, 0), 0)
        at, real = part + k * 6, k < classes
        tl.store(at, _total(is_true, tp) * unit, mask=real)
        tl.store(at + 1, _total(is_false, fp) * unit, mask=real)
        tl.store(at + 2, _total(is_true, fn) * unit, mask=real)
        tl.store(at + 3, (number & 1023).to(tl.float32), mask=real)
        tl.store(at + 4, (number >> 20).to(tl.float32), mask=real)
        tl.store(at + 5, (number >> 10 & 1023).to(tl.float32), mask=real)


@triton.jit
def _total(of_class, weight):
    """Sums by class of weights in [0, 1], in fixed point: integers are added across threads five times as fast."""
    return tl.sum(tl.where(of_class, (weight * _FIXED + 0.5).to(tl.int32), 0), 0).to(tl.float32)


@triton.jit
def _add(parts, sums, columns, tiles):
    """32 of an image's sums, 64 tiles at a time."""
    column, image = tl.program_id(0) * 32 + tl.arange(0, 32), tl.program_id(1).to(tl.int64)
    parts += image * tiles * columns + column[None, :]
    total = tl.zeros((32,), tl.float64)
    for first in range(0, tiles, 64):
        tile = first + tl.arange(0, 64)[:, None]
        found = tl.load(parts + tile * columns, mask=(tile < tiles) & (column < columns)[None, :], other=0.0)
        total += tl.sum(found.to(tl.float64), 0)
    tl.store(sums + image * columns + column, total.to(tl.float32), mask=column < columns)


@triton.jit
def _gradient(
    x, y, grad, dx, x_b, x_c, x_h, x_w, y_b, y_h, y_w, d_b, d_c, d_h, d_w, classes, pixels, width, ignore_index,
    LANES: tl.constexpr, FLAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tile, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, column, known = _place(tile, pixels, width, FLAT, BLOCK)
    x += image * x_b + row * x_h + column * x_w
    m, a, r, label, e_y, valid = _pixel(
        x, y + image * y_b + row * y_h + column * y_w, classes, x_c, known, ignore_index, LANES, BLOCK
    )
    s, hit = 1.0 + r, a == label
    g = grad + image * classes * 6
    u = tl.load(g + tl.where(hit, label * 6, a * 6 + 1)) / s
    v = tl.where(hit, 0.0, tl.load(g + label * 6 + 2) * e_y / s)
    peak, rest = ((u * r + v) / s)[:, None], ((v - u) / s)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    x, dx = x[:, None] + lane * x_c, (dx + image * d_b + row * d_h + column * d_w)[:, None] + lane * d_c
    for first in range(0, classes, LANES):
        k = first + lane
        real = known[:, None] & (k < classes)
        e = tl.exp(tl.load(x, mask=real, other=0.0).to(tl.float32) - m[:, None])
        d = tl.where(a[:, None] == k, peak, e * rest) - tl.where(label[:, None] == k, v[:, None], 0.0)
        tl.store(dx, tl.where(valid[:, None], d, 0.0).to(dx.dtype.element_ty), mask=real)
        x, dx = x + LANES * x_c, dx + LANES * d_c
