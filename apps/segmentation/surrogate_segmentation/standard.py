"""Statistics and views for metrics of a label map that are plain functions: see `surrogate.from_function`.

Such a metric gives one number for an image of many classes, and may be about one of them, their mean or the worst. So
there are columns for each class, and ratios summarised over the classes, which few rows are enough to learn from.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from surrogate.errors import UsageError
from surrogate.protocols import Level, Standard, View
from surrogate_segmentation.counts import (
    Pixels,
    at_pixels,
    check_classes,
    counts,
    counts_of_all,
    pixels,
    probabilities,
)
from surrogate_segmentation.maps import StatsByClass, map_columns, map_stats
from surrogate_segmentation.objects import COLUMNS as OBJECT_COLUMNS
from surrogate_segmentation.objects import object_stats
from surrogate_segmentation.places import COLUMNS as PLACE_COLUMNS
from surrogate_segmentation.places import place_stats

_RATIOS = ("iou", "dice", "recall", "precision")
_SHARES = tuple(f"{group}_{how}" for how in ("sharp", "soft") for group in ("tp", "fp", "fn"))
_SHARPNESS = 4.0
"""Of the logits in the sharp counts; with half of it, fits are a little worse."""
_SUMMARIES = ("mean_present", "mean_seen", "rare", "root_min_present", "root_min_seen")
"""Over the classes in the truth, and in truth or prediction; "rare" is a mean in which small classes weigh more, "root"
the root of the least one."""
_FINEST = 1e-4

EXAMPLE = '''
def metric(prediction, target):
    """Mean over the classes of an image of the share of their pixels that are found; `(P,)` labels of valid pixels."""
    found = [(prediction[target == k] == k).float().mean() for k in target.unique()]
    return sum(found) / len(found)
'''


def standard(*, level: Level = "sample", num_classes: int, ignore_index: int) -> Standard:
    """Soft true positives, false positives and false negatives: of each class, and as ratios over the classes.

    Counts are of every pixel (`counts.counts_of_all`), by the probabilities and by sharper ones, of which the ratios of
    each class are made. Sorted by what was predicted, as in the measure `iou`, and with their means, they foretell the
    metric as well and may lead away from it: one number for all classes leaves most slopes free, and by that of MCC
    hits of the background cost nothing (`docs/log.md`). Ratios over the classes are of sorted ones, which are 0 where
    nothing is found; "share_found" is the share of the classes in the truth that have a hit.

    A row speaks of an image, or of a batch. What is handed maps may ask where the wrong pixels are, or which of them
    belong together: beside these are those of `surrogate_segmentation.places`, or of `surrogate_segmentation.objects`.

    Raises:
        UsageError: a level other than "sample" and "batch".
    """
    if level not in ("sample", "batch"):
        raise UsageError(f"measure.level is {level!r}; a function's measure knows sample and batch")
    of_pixels = partial(_label_stats, level, num_classes, ignore_index), _columns(num_classes)
    return Standard(
        {
            "labels": View(partial(_labels, ignore_index), *of_pixels),
            "scores": View(partial(_scores, ignore_index), *of_pixels),
            "maps": _map_view(place_stats, PLACE_COLUMNS, level, num_classes, ignore_index),
            "objects": _map_view(object_stats, OBJECT_COLUMNS, level, num_classes, ignore_index),
        },
        void=lambda labels: torch.full_like(labels, ignore_index),
    )


def _columns(num_classes: int) -> tuple[str, ...]:
    ratios = [f"{how}_{ratio}" for ratio in _RATIOS for how in _SUMMARIES]
    by_class = [f"{group}_{k}" for group in (*_RATIOS, *_SHARES, "size") for k in range(num_classes)]
    return (*ratios, "share_present", "share_seen", "share_found", "tp_sharp", "tp_soft", *by_class)


def _map_view(
    statistics: StatsByClass, names: tuple[str, ...], level: Level, num_classes: int, ignore_index: int
) -> View:
    return View(
        partial(_maps, level, ignore_index),
        partial(_map_stats, statistics, level, num_classes, ignore_index),
        (*_columns(num_classes), *map_columns(names, num_classes)),
    )


def _map_stats(
    statistics: StatsByClass, level: Level, num_classes: int, ignore_index: int, outputs: Tensor, targets: Tensor, /
) -> Tensor:
    check_classes(outputs, num_classes)
    px, p = pixels(outputs, targets, ignore_index=ignore_index), probabilities(outputs)
    sums = _stats(level, px, p, _sharper(outputs))
    found = map_stats(statistics, p, px, targets.shape, together=level == "batch")
    return torch.cat([sums, torch.where(sums[:, :1].isnan(), torch.nan, found)], 1)


def _label_stats(level: Level, num_classes: int, ignore_index: int, outputs: Tensor, targets: Tensor, /) -> Tensor:
    check_classes(outputs, num_classes)
    px = pixels(outputs, targets, ignore_index=ignore_index)
    return _stats(level, px, probabilities(outputs), _sharper(outputs))


def _sharper(outputs: Tensor) -> Tensor:
    """`(B, C, N)` probabilities, nearer to 0 and 1; of logits below 0, for four times a large one is infinite."""
    wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    return probabilities(_SHARPNESS * (wide - wide.detach().amax(1, keepdim=True)))


def _stats(level: Level, px: Pixels, p: Tensor, sharper: Tensor) -> Tensor:
    """`(R, F)`: ratios in [0, 1], and counts as shares of the valid pixels."""
    p_predicted, p_true = at_pixels(p, px)
    classes = p.shape[1]
    as_sorted = counts(px, classes, tp=p_true, fp=p_predicted, fn=1.0 - p_true)
    every = torch.stack([counts_of_all(sharper, px), counts_of_all(p, px), as_sorted, counts(px, classes).to(p)], 1)
    sharp, soft, found, hard = (every.sum(0, keepdim=True) if level == "batch" else every).unbind(1)
    present, seen, hit = hard[..., 0] + hard[..., 2], hard.sum(2) > 0, hard[..., 0] > 0
    valid = present.sum(1, keepdim=True)
    shares = torch.cat([sharp, soft], 2) / valid.clamp_min(1.0).unsqueeze(2)
    parts = (
        _summaries(_ratios(found), present.unsqueeze(1), seen.unsqueeze(1)),
        torch.stack([present > 0, seen], 1).to(sharp).mean(2),
        _divided(hit.to(sharp).sum(1, keepdim=True), (present > 0).to(sharp).sum(1, keepdim=True)),
        shares[..., ::3].sum(1),  # of all classes: what is no hit is a miss of one and a false alarm of another
        _ratios(sharp, least=1.0).flatten(1),
        shares.mT.flatten(1),
        present / valid.clamp_min(1.0),
    )
    return torch.where(valid > 0, torch.cat(parts, 1), torch.nan)


def _ratios(soft: Tensor, least: float = 0.0) -> Tensor:
    """`(R, C, 3)` sums to `(R, 4, C)` IoU, Dice, recall and precision of each class, in [0, 1]; 0 where empty.

    What is not more than `least` pixels counts as one: next to nothing by next to nothing would be any precision, with
    a slope that overflows.
    """
    tp, fp, fn = soft.unbind(2)
    pairs = (tp, tp + fp + fn), (2 * tp, 2 * tp + fp + fn), (tp, tp + fn), (tp, tp + fp)
    return torch.stack([_divided(part, whole, least) for part, whole in pairs], 1)


def _summaries(ratios: Tensor, present: Tensor, seen: Tensor) -> Tensor:
    """`(R, 4 * 5)`: each ratio over the classes, from `(R, 1, C)` pixels in the truth, and whether seen at all."""
    inside = present > 0
    rare = torch.where(inside, 1.0 / present.clamp_min(1.0), 0.0)
    summaries = (
        _mean(ratios, inside.to(ratios)),
        _mean(ratios, seen.to(ratios)),
        _mean(ratios, rare),
        _root(torch.where(inside, ratios, 1.0).amin(2)),
        _root(torch.where(seen, ratios, 1.0).amin(2)),
    )
    return torch.stack(summaries, 2).flatten(1)


def _divided(part: Tensor, whole: Tensor, least: float = 0.0) -> Tensor:
    return part / torch.where(whole > least, whole, 1.0)


def _mean(ratios: Tensor, weight: Tensor) -> Tensor:
    """`(R, 4)` means of `(R, 4, C)` ratios over the classes by `(R, 1, C)` weight; 0 where there is none."""
    return _divided((ratios * weight).sum(2), weight.sum(2))


def _root(ratio: Tensor) -> Tensor:
    """Spreads what is near 0, where the worst class often is, with a slope that stays finite."""
    return (ratio + _FINEST).sqrt()


def _labels(ignore_index: int, outputs: Tensor, targets: Tensor, /) -> tuple[Tensor, Tensor]:
    """`(P,)` predicted and true labels of the P valid pixels, int64."""
    valid = targets != ignore_index
    return outputs.argmax(1)[valid], targets[valid].long()


def _scores(ignore_index: int, outputs: Tensor, targets: Tensor, /) -> tuple[Tensor, Tensor]:
    """`(P, C)` probabilities and `(P,)` labels of the P valid pixels."""
    valid = targets != ignore_index
    return outputs.movedim(1, -1)[valid].float().softmax(1), targets[valid].long()


def _maps(level: Level, ignore_index: int, outputs: Tensor, targets: Tensor, /) -> tuple[Tensor, Tensor]:
    """`(H, W)` predicted and true labels of an image, `(B, H, W)` of a batch; both are the void label where it is."""
    valid = targets != ignore_index
    if not valid.any():
        return _labels(ignore_index, outputs, targets)
    maps = torch.where(valid, outputs.argmax(1), ignore_index), targets.long()
    return (maps[0][0], maps[1][0]) if level == "sample" else maps
