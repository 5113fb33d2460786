"""Average symmetric surface distance of each class of an image, in pixels: how far apart two outlines lie."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from surrogate.protocols import Measure



def surface_distance(*, num_classes: int, ignore_index: int, cap: int = 10, taus=(1.0, 0.2), counts=True, outl=True) -> Measure:
    def masks(share: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        valid = (labels != ignore_index).unsqueeze(1)
        truth = one_hot(torch.where(valid[:, 0], labels, 0).long(), num_classes).movedim(-1, 1)
        return share * valid, truth.to(share) * valid

    def metric(logits: Tensor, labels: Tensor, /) -> Tensor:
        hard = one_hot(logits.argmax(1), num_classes).movedim(-1, 1).float()
        p, t = masks(hard, labels)
        sp, st = surface(p), surface(t)
        dp, dt = distance(sp, cap), distance(st, cap)
        return ((sp * dt + st * dp).sum((2, 3)) / (sp + st).sum((2, 3))).flatten()

    def stats(logits: Tensor, labels: Tensor, /) -> Tensor:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        top = wide.topk(2, 1).values
        other = torch.where(wide == top[:, :1], top[:, 1:2], top[:, :1])
        defined = ~metric(logits, labels).isnan().unsqueeze(1)
        total = lambda m: m.sum((2, 3))
        over = lambda a, b: a / b.clamp_min(1e-6)
        cols = []
        for tau in taus:
            soft = ((wide - other) / tau).sigmoid()
            p, t = masks(soft, labels)
            sp, st = surface(p), surface(t)
            dp, dt = distance(sp, cap, soft=True), distance(st, cap)
            n = total(sp + st)
            u = total(p + t - p * t)
            if outl: cols += [
                over(total(sp * dt + st * dp), n) / cap,
                over(total(sp * dt), total(sp)) / cap,
                over(total(st * dp), total(st)) / cap,
                over(total(sp), n),
            ]
            if counts: cols += [
                over(total(p * t), u),
                over(total(p * (1 - t)), u),
                over(total((1 - p) * t), u),
                over(total(p * (1 - t) * dt), u) / cap,
                over(total((1 - p) * t * dt), u) / cap,
            ]
        return torch.where(defined, torch.stack(cols, -1).flatten(0, 1), torch.nan)

    return Measure(metric, stats, tuple(f"c{i}" for i in range(len(taus)*(4*outl+5*counts))), bounds=(0.0, float(cap)), higher_is_better=False)


def surface(mask: Tensor) -> Tensor:
    lines = pad(mask, (1, 1)).unfold(-1, 3, 1).amin(-1), pad(mask, (0, 0, 1, 1)).unfold(-2, 3, 1).amin(-1)
    return mask - torch.minimum(*lines)


def distance(surface: Tensor, cap: int, soft=False) -> Tensor:
    height = cap**2 * (1 - surface)
    index, square = nearest(height.detach(), cap)
    height = height.flatten(2).gather(2, index.flatten(2)).view_as(height) + square
    if soft: height = height + 1e-6
    return height.sqrt()


@torch.no_grad()
def nearest(height: Tensor, cap: int) -> tuple[Tensor, Tensor]:
    offsets = torch.arange(-cap, cap + 1, device=height.device)
    far = 4.0 * cap**2
    rows, columns = (torch.arange(n, device=height.device) for n in height.shape[2:])
    best, right = (pad(height, (cap, cap), value=far).unfold(3, 2 * cap + 1, 1) + offsets**2).min(-1)
    column = columns + right - cap
    _, down = (pad(best, (0, 0, cap, cap), value=far).unfold(2, 2 * cap + 1, 1) + offsets**2).min(-1)
    row = rows[:, None] + down - cap
    column = column.gather(2, row)
    square = (row - rows[:, None])**2 + (column - columns)**2
    return row * height.shape[3] + column, square
