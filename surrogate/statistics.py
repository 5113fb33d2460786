"""Standard soft statistics that explain whole families of metrics: counts, and distributions of scores.

Two families, each as sums of a sample that add up over samples and batches (see `surrogate.protocols.Additive`), and as
the statistics made of them:

| family | explains | sums | statistics |
|---|---|---|---|
| confusion | functions of TP, FP, FN, TN: F-beta, MCC, kappa, IoU | `confusion_sums` | `confusion_stats` |
| histogram | functions of scores by class: AUROC, AP, KS, calibration | `histogram_sums` | `histogram_stats` |

Outputs are logits `(B, C, ...)` and targets integer classes `(B, ...)`; an element is a sample of `(B, C)` outputs and
a pixel of `(B, C, H, W)` ones. Elements labelled `ignore_index` are in no sum. Moving an element to its true class
moves every statistic of a success up and every statistic of an error down, so that a right fit has a right gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from surrogate.protocols import Additive

CONFUSION_COLUMNS = ("tp", "fp", "fn", "tn", "tp_mean", "fp_mean", "fn_mean", "tn_mean")
"""Soft counts as shares of their total, and the mean weight of the elements of each."""

KNOTS = 64
"""Of a histogram, in all."""
_THRESHOLDS = tuple(range(4, KNOTS, 4))
"""Knots at which the share of a class above them is a statistic."""
_TOP = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of all elements, highest scores first, in which the positives found are a statistic."""

HISTOGRAM_COLUMNS = (
    "positives",
    *(f"pos_above_{knot}" for knot in _THRESHOLDS),
    *(f"neg_above_{knot}" for knot in _THRESHOLDS),
    "roc_area",
    "pr_area",
    *(f"found_in_top_{share:g}" for share in _TOP),
)
"""Share of positives; tails of the distribution of each class; areas under the curves; the cumulative gains curve."""


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
    """`(R, 8)` sums to `(R, 8)` statistics in [0, 1], as `CONFUSION_COLUMNS`; all 0 in a row without an element."""
    soft, hard = sums[:, :4], sums[:, 4:]
    return torch.cat([soft / soft.sum(1, keepdim=True).clamp_min(1e-12), soft / hard.clamp_min(1.0)], 1)


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


def histogram_stats(sums: Tensor, /) -> Tensor:
    """`(R, 2 * KNOTS)` sums to `(R, F)` statistics in [0, 1], as `HISTOGRAM_COLUMNS`; finite without a class too.

    Area under ROC: a positive counts the negatives below it, and half of those at its own knot. Area under
    precision-recall: a positive counts the precision of all at its knot and above. Found in top q: a knot counts as far
    as the share of elements above its middle is below q, softly, over about half of q.
    """
    positives, negatives = sums[:, :KNOTS], sums[:, KNOTS:]
    size = positives.sum(1, keepdim=True), negatives.sum(1, keepdim=True)
    pos, neg = positives / size[0].clamp_min(1e-12), negatives / size[1].clamp_min(1e-12)
    prior = size[0] / (size[0] + size[1]).clamp_min(1e-12)
    pos_above, neg_above = _from_above(pos), _from_above(neg)
    roc = (neg * (pos_above - 0.5 * pos)).sum(1, keepdim=True)
    hits, alarms = prior * pos_above, (1.0 - prior) * neg_above
    pr = (pos * hits / (hits + alarms).clamp_min(1e-12)).sum(1, keepdim=True)
    middle = hits + alarms - 0.5 * (prior * pos + (1.0 - prior) * neg)
    found = [(pos * torch.sigmoid((share - middle) / (0.25 * share))).sum(1, keepdim=True) for share in _TOP]
    thresholds = torch.tensor(_THRESHOLDS, device=sums.device)
    tails = pos_above.index_select(1, thresholds), neg_above.index_select(1, thresholds)
    return torch.cat([prior, *tails, roc, pr, *found], 1)


def wide(outputs: Tensor) -> Tensor:
    """As they are, or in fp32 where that is wider."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _from_above(shares: Tensor) -> Tensor:
    """`(R, KNOTS)` sums over each knot and all above it."""
    return shares.flip(1).cumsum(1).flip(1)
