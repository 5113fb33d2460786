"""The hand-made losses that a learned one is compared with, by name.

All take logits `(B, 2)` float and classes `(B,)` int64 (1 is positive) to a scalar, in fp32 or wider. Below, s is the
difference of the logits, the log-odds of the positive class. Losses of the ranking are 0, and so is their gradient,
where a batch has one class alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surrogate.errors import UsageError, nearest
from surrogate.statistics import class_score, wide


class CrossEntropy(nn.Module):
    """Binary cross-entropy of the two logits, weighted mean over samples; `weight` is `(2,)` float or None."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits = wide(outputs)
        return F.cross_entropy(logits, targets, None if self.weight is None else self.weight.to(logits))


class Focal(nn.Module):
    """- (1 - p_t)^2 log p_t, mean over samples, with p_t the probability of the true class.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 4: gamma = 2, no class weights.
    """

    gamma = 2.0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        nll = F.cross_entropy(wide(outputs), targets, reduction="none")
        return ((-torch.expm1(-nll)).pow(self.gamma) * nll).mean()


class PairwiseHinge(nn.Module):
    """max(0, 1 - (s_i - s_j))^2, mean over pairs of a positive i and a negative j.

    The squared hinge as a bound of 1 - AUROC: Zhao et al., "Online AUC Maximization", ICML 2011, there not squared;
    Ying et al., "Stochastic Online AUC Maximization", NeurIPS 2016, with the square.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        gap, pair = _pairs(outputs, targets)
        return _mean((1.0 - gap).clamp_min(0.0).square(), pair)


class PairwiseLogistic(nn.Module):
    """log(1 + exp(s_j - s_i)), mean over pairs of a positive i and a negative j.

    As RankNet, Burges et al., "Learning to Rank using Gradient Descent", ICML 2005; a bound of 1 - AUROC when divided
    by log 2.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        gap, pair = _pairs(outputs, targets)
        return _mean(F.softplus(-gap), pair)


class SmoothAP(nn.Module):
    """1 - mean over positives i of (1 + sum_j pos g(s_j - s_i)) / (1 + sum_j g(s_j - s_i)), g a sigmoid, j not i.

    Brown et al., "Smooth-AP", ECCV 2020, Eq. 7; their temperature of 0.01 is one of cosines, here it is 1 of log-odds.
    """

    temperature = 1.0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        score, positive = class_score(outputs), (targets == 1).to(torch.promote_types(outputs.dtype, torch.float32))
        above = torch.sigmoid((score.unsqueeze(0) - score.unsqueeze(1)) / self.temperature)  # [i, j]: j above i
        above = above * (1.0 - torch.eye(len(score), device=score.device, dtype=score.dtype))
        hits, alarms = above @ positive, above @ (1.0 - positive)
        missed = alarms / (1.0 + hits + alarms)  # 1 - precision, and exactly 0 without a negative
        loss: Tensor = (positive * missed).sum() / positive.sum().clamp_min(1.0)
        return loss


def _pairs(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """`(B, B)` s_i - s_j, and bool: whether i is positive and j negative."""
    score, positive = class_score(outputs), targets == 1
    return score.unsqueeze(1) - score.unsqueeze(0), positive.unsqueeze(1) & ~positive.unsqueeze(0)


def _mean(values: Tensor, pair: Tensor) -> Tensor:
    return torch.where(pair, values, 0.0).sum() / pair.sum().clamp_min(1)


def balanced_weights(counts: Tensor) -> Tensor:
    """`(2,)` counts of the classes to weights N / (2 n_c), so that both classes weigh the same in all.

    >>> balanced_weights(torch.tensor([90, 10]))
    tensor([0.5556, 5.0000])
    """
    return (counts.sum() / (2.0 * counts)).float()


_BUILDERS: Mapping[str, Callable[[Tensor], nn.Module]] = MappingProxyType(
    {
        "bce": lambda _: CrossEntropy(),
        "weighted-bce": lambda counts: CrossEntropy(balanced_weights(counts)),
        "focal": lambda _: Focal(),
        "auc-hinge": lambda _: PairwiseHinge(),
        "auc-logistic": lambda _: PairwiseLogistic(),
        "smooth-ap": lambda _: SmoothAP(),
    }
)

BASELINES: tuple[str, ...] = tuple(_BUILDERS)
"""The names; the first one, cross-entropy, trains the baseline model."""


def baseline(name: str, *, class_counts: Tensor) -> nn.Module:
    """A hand-made loss by name, for `(2,)` counts of the classes in the train split; raises `UsageError`."""
    if name not in _BUILDERS:
        raise UsageError(f"unknown loss {name!r}; {nearest(name, BASELINES)}")
    return _BUILDERS[name](class_counts)
