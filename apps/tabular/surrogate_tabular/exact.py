"""The metrics themselves: of counts, and of the ranking by score with its ties. Hard numbers, no gradient."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


def f_beta(counts: Tensor, *, beta: float) -> Tensor:
    """(1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP), in [0, 1].

    As all count metrics here: `(R, 4)` float TP, FP, FN, TN to `(R,)`; NaN where the truth has one class alone.
    """
    tp, fp, fn, _ = counts.unbind(1)
    weight = 1.0 + beta**2
    return _defined(weight * tp / (weight * tp + beta**2 * fn + fp).clamp_min(1e-12), counts)


def mcc(counts: Tensor) -> Tensor:
    """Matthews correlation coefficient, in [-1, 1]; 0 where all predictions are alike, as in scikit-learn."""
    tp, fp, fn, tn = counts.double().unbind(1)
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return _defined(((tp * tn - fp * fn) / spread.sqrt().clamp_min(1e-12)).to(counts), counts)


def kappa(counts: Tensor) -> Tensor:
    """Cohen's kappa of prediction and truth, 2 (TP TN - FP FN) / ((TP+FP)(FP+TN) + (TP+FN)(FN+TN)), in [-1, 1]."""
    tp, fp, fn, tn = counts.double().unbind(1)
    chance = (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)
    return _defined((2.0 * (tp * tn - fp * fn) / chance.clamp_min(1e-12)).to(counts), counts)


def balanced_accuracy(counts: Tensor) -> Tensor:
    """Mean of the recalls of both classes, in [0, 1]."""
    tp, fp, fn, tn = counts.unbind(1)
    return _defined(0.5 * (tp / (tp + fn) + tn / (tn + fp)), counts)


class Ranking(NamedTuple):
    """N elements by score, the highest first, all `(N,)` float64. Elements of one score are a tie."""

    positive: Tensor
    """1 or 0."""
    above: Tensor
    """How many elements score higher."""
    tied: Tensor
    """How many have the same score, itself included."""
    positives_above: Tensor
    positives_tied: Tensor


def ranking(scores: Tensor, positive: Tensor) -> Ranking:
    """Ranks `(N,)` float scores of elements that are positive or not, `(N,)` bool."""
    order = scores.detach().double().argsort(descending=True, stable=True)
    lowered, hit = -scores.detach().double()[order], positive[order].double()
    first, end = torch.searchsorted(lowered, lowered), torch.searchsorted(lowered, lowered, right=True)
    upto = torch.cat([hit.new_zeros(1), hit.cumsum(0)])
    return Ranking(hit, first.double(), (end - first).double(), upto[first], upto[end] - upto[first])


def auroc(ranked: Ranking) -> Tensor:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half; a scalar.

    As all metrics of a ranking here, NaN where one class alone is present.
    """
    negative = 1.0 - ranked.positive
    below = (negative * (ranked.positives_above + 0.5 * ranked.positives_tied)).sum()
    return below / (ranked.positive.sum() * negative.sum())


def average_precision(ranked: Ranking) -> Tensor:
    """Precision at each positive, ties taken together, averaged; in (0, 1], as scikit-learn's."""
    precision = (ranked.positives_above + ranked.positives_tied) / (ranked.above + ranked.tied)
    return _both((ranked.positive * precision).sum() / ranked.positive.sum(), ranked)


def precision_at_k(ranked: Ranking, *, k: float) -> Tensor:
    """Share of positives among the ceil(k N) highest scores, in [0, 1]; of a tie at the border, its mean over orders.

    At most share of positives / k: choose k below that share.
    """
    size = len(ranked.positive)
    top = max(1, math.ceil(k * size - 1e-9))
    taken = (top - ranked.above).clamp_min(0.0).minimum(ranked.tied)
    # Each element of a tie gives an equal part of what the tie gives.
    hits = (taken / ranked.tied * ranked.positives_tied / ranked.tied).sum()
    return _both(hits / top, ranked)


def _defined(values: Tensor, counts: Tensor) -> Tensor:
    tp, fp, fn, tn = counts.unbind(1)
    return torch.where((tp + fn > 0) & (fp + tn > 0), values, torch.nan)


def _both(value: Tensor, ranked: Ranking) -> Tensor:
    positives = ranked.positive.sum()
    return torch.where((positives > 0) & (positives < len(ranked.positive)), value, torch.nan)
