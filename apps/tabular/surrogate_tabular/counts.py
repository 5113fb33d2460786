"""Confusion counts of a batch, hard ones and the soft ones that explain them.

The soft ones are of every sample, whatever it is told as, by probabilities of log-odds sharpened several times: the
sharpest are nearly the hard counts, and their slopes are those of the samples next to the threshold, over a range as
wide as they are soft. Counts sorted by argmax, with their means, give the hard counts exactly; so a fit of the value
asks for no slope at all between two samples that tip over. Of a rare class it was a fifth of what it should be, and a
surrogate of F2 with a rank correlation of 0.99 and no wrong sign hardly moved the threshold (docs/log.md, 2026-11-29).
"""

from __future__ import annotations

import torch
from torch import Tensor

from surrogate.statistics import class_score

SHARPNESS = (1, 4, 16)
"""By what the log-odds are multiplied. The least reaches samples that are far from the threshold, too."""

COLUMNS = tuple(f"{count}_{sharpness}" for sharpness in SHARPNESS for count in ("tp", "fp", "fn", "tn_of_all"))
"""For each sharpness soft TP, FP and FN of class 1 as shares of the three, and TN as a share of all four."""


def count_sums(outputs: Tensor, targets: Tensor, /) -> Tensor:
    """`(B, 2)` logits and `(B,)` classes to `(B, 1, 16)` float: TP, FP, FN, TN for each sharpness, then hard ones."""
    score = class_score(outputs)
    told = [(sharpness * score).sigmoid() for sharpness in SHARPNESS]
    told.append((outputs.argmax(1) == 1).to(score))
    positive = (targets == 1).to(score)
    sums = [
        part for p in told for part in (p * positive, p * (1 - positive), (1 - p) * positive, (1 - p) * (1 - positive))
    ]
    return torch.stack(sums, 1).unsqueeze(1)


def count_stats(sums: Tensor, /) -> Tensor:
    """`(R, 16)` sums to `(R, 12)` statistics in [0, 1], as `COLUMNS`."""
    soft = sums[:, :-4].unflatten(1, (len(SHARPNESS), 4))
    found, rest = soft[..., :3], soft[..., 3:]
    found = found / found.sum(2, keepdim=True).clamp_min(1e-12)
    rest = rest / soft.sum(2, keepdim=True).clamp_min(1e-12)
    return torch.cat([found, rest], 2).flatten(1)


def hard_counts(sums: Tensor, /) -> Tensor:
    """`(R, 4)` TP, FP, FN, TN, as `surrogate_tabular.exact` takes them."""
    return sums[:, -4:]
