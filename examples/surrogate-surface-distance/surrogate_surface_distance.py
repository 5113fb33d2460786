"""Average symmetric surface distance of each class of an image: how many pixels lie between two outlines.

Not a function of counts: the same number of wrong pixels costs little along an outline and much far from it. A class
whose mask is empty on one side only is as far off as can be, `cap` pixels; no distance counts for more.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from surrogate.protocols import Measure

SHARPNESS = (1.0, 5.0)
"""Of the soft masks, per unit of the logits: the second one is nearly the mask that the metric sees."""
COLUMNS = ("tp", "fp", "fn", "far_fp", "far_fn", *(f"{name}_{i}" for i in (1, 2) for name in ("off", "missed", "both")))


def surface_distance(*, num_classes: int, ignore_index: int, cap: int = 10) -> Measure:
    """A row per image and class; class 0 is background and left out. In pixels, in [0, cap], lower is better.

    Void pixels are in no mask. An outline is the pixels of a mask with one of their four neighbours outside of it;
    the distance of a pixel to an outline is Euclidean and counts as `cap` where it is greater.
    """

    def masks(share: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, C, H, W)` share of each class in a pixel, and the truth; without background and void pixels."""
        valid = (labels != ignore_index).unsqueeze(1)
        truth = one_hot(torch.where(valid[:, 0], labels, 0).long(), num_classes).movedim(-1, 1)
        return (share * valid)[:, 1:], (truth.to(share) * valid)[:, 1:]

    def metric(logits: Tensor, labels: Tensor, /) -> Tensor:
        hard = one_hot(logits.argmax(1), num_classes).movedim(-1, 1).float()
        predicted, true = map(outline, masks(hard, labels))
        off = total(predicted * distance(true, cap)) + total(true * distance(predicted, cap))
        return (off / total(predicted + true)).flatten()  # 0 / 0: NaN, the class is on neither side

    def stats(logits: Tensor, labels: Tensor, /) -> Tensor:
        margin = lead(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        soft, true = masks(margin.sigmoid(), labels)
        true_outline = outline(true)
        away = distance(true_outline, cap) / cap
        union = total(torch.maximum(soft, true)).clamp_min(1e-6)
        groups = soft * true, soft * (1 - true), (1 - soft) * true
        columns = [total(group) / union for group in (*groups, groups[1] * away, groups[2] * away)]
        for sharpness in SHARPNESS:
            soft_outline = outline(masks((sharpness * margin).sigmoid(), labels)[0])
            off = total(soft_outline * away), total(true_outline * distance(soft_outline, cap) / cap)
            size = total(soft_outline), total(true_outline)
            sides = [*zip(off, size, strict=True), (sum(off), sum(size))]
            columns += [part / whole.clamp_min(1e-6) for part, whole in sides]
        undefined = metric(logits, labels).isnan().unsqueeze(1)
        return torch.where(undefined, torch.nan, torch.stack(columns, -1).flatten(0, 1))

    return Measure(metric, stats, COLUMNS, bounds=(0.0, float(cap)), higher_is_better=False)


def lead(logits: Tensor) -> Tensor:
    """By how much the logit of each class is ahead of the highest other one; the mask of a class is where it is > 0."""
    first, second = logits.topk(2, 1).values.split(1, 1)
    return logits - torch.where(logits == first, second, first)


def outline(mask: Tensor) -> Tensor:
    """`(B, C, H, W)` in [0, 1]: what an erosion by the four neighbours takes from a mask; outside the image is 0."""
    across = pad(mask, (1, 1)).unfold(3, 3, 1).amin(-1)
    along = pad(mask, (0, 0, 1, 1)).unfold(2, 3, 1).amin(-1)
    return mask - torch.minimum(across, along)


def distance(outline: Tensor, cap: int) -> Tensor:
    """Pixels from everywhere to the nearest pixel of an outline, at most `cap`; a faint one is as good as far away.

    The least of sqrt(squared distance + cap^2 * (1 - outline)) over all pixels: exact for a hard outline and
    differentiable for a soft one, on any device. Which pixel is nearest is found first and without gradient.
    """
    height = cap**2 * (1.0 - outline)
    place, squared = nearest(height.detach(), cap)
    return (height.flatten(2).gather(2, place.flatten(2)).view_as(height) + squared).clamp_min(1e-12).sqrt()


@torch.no_grad()
def nearest(height: Tensor, cap: int) -> tuple[Tensor, Tensor]:
    """Number of the pixel with the least squared distance + height, and that distance: first by row, then by column."""
    step = torch.arange(-cap, cap + 1, device=height.device)
    rows, columns = (torch.arange(side, device=height.device) for side in height.shape[2:])
    beyond, width = 4.0 * cap**2, 2 * cap + 1
    best, right = (pad(height, (cap, cap), value=beyond).unfold(3, width, 1) + step**2).min(-1)
    down = (pad(best, (0, 0, cap, cap), value=beyond).unfold(2, width, 1) + step**2).min(-1).indices
    row = rows[:, None] + down - cap
    column = (columns + right - cap).gather(2, row)
    return row * len(columns) + column, (row - rows[:, None]) ** 2 + (column - columns) ** 2


def total(pixels: Tensor) -> Tensor:
    """`(B, C)` sums over the pixels."""
    return pixels.sum((2, 3))
