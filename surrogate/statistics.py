"""Standard soft statistics that explain whole families of metrics: counts, and distributions of scores.

Two families, each as sums of a sample that add up over samples and batches (see `surrogate.protocols.Additive`), and as
the statistics made of them:

| family | explains | sums | statistics |
|---|---|---|---|
| confusion | functions of TP, FP, FN, TN: F-beta, MCC, kappa, IoU | `confusion_sums` | `confusion_stats` |
| histogram | functions of the order of scores: AUROC, AP, KS | `histogram_sums` | `curve_stats` |
| | functions of probabilities: Brier score, calibration | the same | `probability_stats` |

Outputs are logits `(B, C, ...)` and targets integer classes `(B, ...)`; an element is a sample of `(B, C)` outputs and
a pixel of `(B, C, H, W)` ones. Elements labelled `ignore_index` are in no sum. Moving an element to its true class
moves every statistic of a success up and every statistic of an error down, so that a right fit has a right gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from surrogate.protocols import Additive

CONFUSION_COLUMNS = ("tp", "fp", "fn", "tn_of_all", "tp_mean", "fp_mean", "fn_mean", "tn_mean")
"""Soft TP, FP and FN as shares of the three, TN as a share of all four, and the mean weight of the elements of each."""

KNOTS = 128
"""Of a histogram, in all."""
_EVERY = 16
"""So many knots apart are those at which the share of a class above them is a statistic."""
_SOFTNESS = (0.5, 2.0, 8.0)
"""In knots: how far apart two scores are for the order of them to be sure. The sharp areas have the right values, the
soft ones a gradient from further away."""
_TOP = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of all elements, highest scores first, in which the positives found are a statistic."""

CURVE_COLUMNS = (
    "positives",
    *(f"roc_area_{softness:g}" for softness in _SOFTNESS),
    *(f"pr_area_{softness:g}" for softness in _SOFTNESS),
    *(f"found_in_top_{share:g}" for share in _TOP),
)
"""Share of positives, areas under the ROC and precision-recall curves, points of the cumulative gains curve."""
PROBABILITY_COLUMNS = (
    "positives",
    *(f"{side}_{moment}" for side in ("pos", "neg") for moment in ("mean", "square")),
    *(f"{side}_above_{knot}" for side in ("pos", "neg") for knot in range(_EVERY, KNOTS, _EVERY)),
)
"""Share of positives; of the probability of being one, the mean and the mean square in each class, and its distribution
there: the share of the class that lies above some knots."""


def confusion_sums(outputs: Tensor, targets: Tensor, /, *, ignore_index: int | None = None) -> Tensor:
    """Soft and hard TP, FP, FN, TN of each class against the rest.

    The argmax sorts an element into one of the four; there it weighs P(class) when the class was predicted and
    1 - P(class) when it was not (NeuroIoU, Section 3.1, read one-vs-rest; see `docs/gradient-sign.md`).

    Returns:
        `(B, C, 8)` float, in elements: the four soft counts, then the four hard ones. Ties go to the first class.
    """
    probability = wide(outputs).softmax(1).flatten(2) if outputs.ndim > 2 else wide(outputs).softmax(1)[..., None]
    label = targets.reshape(len(targets), 1, -1)
    classes = torch.arange(outputs.shape[1], device=outputs.device).view(1, -1, 1)
    known = torch.ones_like(label, dtype=torch.bool) if ignore_index is None else label != ignore_index
    predicted, true = probability.detach().argmax(1, keepdim=True) == classes, label == classes
    groups = (predicted & true, predicted & ~true, ~predicted & true, ~predicted & ~true)
    weights = (probability, probability, 1.0 - probability, 1.0 - probability)
    soft = [torch.where(group & known, weight, 0.0).sum(2) for group, weight in zip(groups, weights, strict=True)]
    hard = [(group & known).to(probability.dtype).sum(2) for group in groups]
    return torch.stack([*soft, *hard], 2)


def confusion_stats(sums: Tensor, /) -> Tensor:
    """`(R, 8)` sums to `(R, 8)` statistics in [0, 1], as `CONFUSION_COLUMNS`; all 0 in a row without an element.

    The counts of a rare class are next to nothing beside its TN: as shares of all elements they would say little of it,
    and leave the range of what was recorded as soon as the model changes.
    """
    soft, hard = sums[:, :4], sums[:, 4:]
    found, rest = soft[:, :3], soft[:, 3:]
    found = found / found.sum(1, keepdim=True).clamp_min(1e-12)
    rest = rest / soft.sum(1, keepdim=True).clamp_min(1e-12)
    return torch.cat([found, rest, soft / hard.clamp_min(1.0)], 1)


def confusion_additive(
    metric: Callable[[Tensor], Tensor], *, positive: int | None = None, ignore_index: int | None = None
) -> Additive:
    """A count metric with its statistics, ready for `surrogate.additive.additive_measure` with `CONFUSION_COLUMNS`.

    `metric` takes `(R, 4)` float counts TP, FP, FN, TN to `(R,)` values, NaN where undefined. Rows are the classes, or
    the one class `positive`.

    >>> from surrogate.additive import additive_measure
    >>> recall = confusion_additive(lambda n: n[:, 0] / (n[:, 0] + n[:, 2]), positive=1)
    >>> measure = additive_measure(recall, CONFUSION_COLUMNS, level="batch")
    >>> measure.metric(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([1, 1]))
    tensor([0.5000])
    """
    rows = slice(None) if positive is None else slice(positive, positive + 1)
    return Additive(
        sums=lambda outputs, targets: confusion_sums(outputs, targets, ignore_index=ignore_index)[:, rows],
        metric=lambda sums: metric(sums[:, 4:]),
        stats=confusion_stats,
    )


def class_score(outputs: Tensor, positive: int = 1, /) -> Tensor:
    """`(B, C, ...)` logits to the log-odds `(B, ...)` of one class against the rest; above 0.5 probability is above 0.

    In fp32 or wider. With two classes it is the difference of the logits.
    """
    logits = wide(outputs)
    others = torch.cat([logits[:, :positive], logits[:, positive + 1 :]], 1)
    return logits[:, positive] - (others[:, 0] if others.shape[1] == 1 else others.logsumexp(1))


def histogram_sums(scores: Tensor, positive: Tensor, /, *, known: Tensor | None = None) -> Tensor:
    """Soft histograms of the scores of both classes, for each sample.

    Scores s, log-odds as from `class_score`, are squeezed to s / (1 + |s|) in (-1, 1) and lie between two of the evenly
    spaced knots there; each gets a share, the nearer one the larger (linear binning; Jones and Lotwick, Applied
    Statistics 33, 1984). The squeeze spares the resolution for the scores near the decision and has no end.

    Args:
        scores: `(B, ...)` float of any range.
        positive: `(B, ...)` bool, which elements are of the positive class.
        known: `(B, ...)` bool, which elements count; all by default.

    Returns:
        `(B, 1, 2 * KNOTS)` float, in elements: positives, then negatives, by knot from the lowest score up.
    """
    score = wide(scores).reshape(len(scores), -1)
    side = torch.where(positive.reshape(len(scores), -1), 0, KNOTS)
    place = (score / (1.0 + score.abs()) + 1.0) * (0.5 * (KNOTS - 1))
    lower = place.detach().nan_to_num(0.0).floor().clamp(0, KNOTS - 2)  # a NaN stays one in its shares
    upper_share = place - lower
    shares = torch.stack([1.0 - upper_share, upper_share])
    if known is not None:
        shares = torch.where(known.reshape(len(scores), -1), shares, 0.0)
    index = side + lower.long()
    empty = score.new_zeros(len(score), 2 * KNOTS)
    return empty.scatter_add(1, index, shares[0]).scatter_add(1, index + 1, shares[1]).unsqueeze(1)


def curve_stats(sums: Tensor, /) -> Tensor:
    """`(R, 2 * KNOTS)` sums to `(R, F)` statistics in [0, 1], as `CURVE_COLUMNS`: what depends on the ranking.

    Area under ROC: a negative counts the positives above it, softly. Area under precision-recall: a positive counts the
    precision of all above it, softly. Found in top q: a positive counts as far as the share of elements above it is
    below q, softly over about half of q. Finite where a class is absent too.
    """
    pos, neg, prior = _shares(sums)
    knots = torch.arange(KNOTS, device=sums.device, dtype=sums.dtype)
    distance = knots.unsqueeze(1) - knots  # of the knot that is summed from the one it is summed for
    roc, pr, found = [], [], []
    for softness in _SOFTNESS:
        above = torch.sigmoid(distance / softness)
        pos_above, neg_above = pos @ above, neg @ above
        hits, alarms = prior * pos_above, (1.0 - prior) * neg_above
        roc.append((neg * pos_above).sum(1, keepdim=True))
        pr.append((pos * hits / (hits + alarms).clamp_min(1e-12)).sum(1, keepdim=True))
        if softness == _SOFTNESS[0]:
            found = [(pos * torch.sigmoid((q - hits - alarms) / (0.25 * q))).sum(1, keepdim=True) for q in _TOP]
    return torch.cat([prior, *roc, *pr, *found], 1)


def probability_stats(sums: Tensor, /) -> Tensor:
    """`(R, 2 * KNOTS)` sums to `(R, F)` statistics in [0, 1], as `PROBABILITY_COLUMNS`: what depends on the values."""
    pos, neg, prior = _shares(sums)
    place = torch.linspace(-1.0, 1.0, KNOTS, device=sums.device, dtype=sums.dtype)
    probability = torch.sigmoid(place / (1.0 - place.abs()))  # of the score at each knot; 0 and 1 at the ends
    powers = torch.stack([probability, probability.square()], 1)
    above = [side.flip(1).cumsum(1).flip(1)[:, _EVERY::_EVERY] for side in (pos, neg)]
    return torch.cat([prior, pos @ powers, neg @ powers, *above], 1)


def _shares(sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both histograms `(R, KNOTS)` as shares of their class, 0 where it is absent, and `(R, 1)` share of positives."""
    positives, negatives = sums[:, :KNOTS], sums[:, KNOTS:]
    size = positives.sum(1, keepdim=True), negatives.sum(1, keepdim=True)
    prior = size[0] / (size[0] + size[1]).clamp_min(1e-12)
    return positives / size[0].clamp_min(1e-12), negatives / size[1].clamp_min(1e-12), prior


def wide(outputs: Tensor) -> Tensor:
    """As they are, or in fp32 where that is wider."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
