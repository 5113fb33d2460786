"""The reported numbers of binary classification, exact and at data-set level."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from surrogate.statistics import class_score
from surrogate_tabular import exact


class TabularScore:
    """Seven metrics of all scores of a data set together; None where it has one class alone or a score is NaN."""

    def __init__(self, *, beta: float, k: float) -> None:
        self.beta, self.k = beta, k
        self.spec = f"binary(dataset, threshold=0.5, beta={beta:g}, k={k:g}, one class=undefined)"
        self.scores: list[Tensor] = []
        self.positive: list[Tensor] = []

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Keeps `(B, 2)` logits against `(B,)` classes."""
        self.scores.append(class_score(outputs).cpu())
        self.positive.append((targets == 1).cpu())

    def compute(self) -> dict[str, Any]:
        """`fbeta`, `mcc`, `kappa`, `balanced_accuracy`, `auroc`, `average_precision`, `precision_at_k`."""
        scores, positive = self.collected()
        counts, ranked = _counts(scores, positive), exact.ranking(scores, positive)
        values = {
            "fbeta": exact.f_beta(counts, beta=self.beta),
            "mcc": exact.mcc(counts),
            "kappa": exact.kappa(counts),
            "balanced_accuracy": exact.balanced_accuracy(counts),
            "auroc": exact.auroc(ranked),
            "average_precision": exact.average_precision(ranked),
            "precision_at_k": exact.precision_at_k(ranked, k=self.k),
        }
        broken = bool(scores.isnan().any())
        numbers = {name: math.nan if broken else float(value) for name, value in values.items()}
        return {name: None if math.isnan(number) else number for name, number in numbers.items()}

    def collected(self) -> tuple[Tensor, Tensor]:
        """`(N,)` float scores and `(N,)` bool, of all updates so far."""
        if not self.scores:
            return torch.zeros(0), torch.zeros(0, dtype=torch.bool)
        return torch.cat(self.scores), torch.cat(self.positive)


def _counts(scores: Tensor, positive: Tensor) -> Tensor:
    """`(1, 4)` float64 TP, FP, FN, TN; a score above 0 is a prediction of the positive class."""
    predicted = scores > 0
    groups = (predicted & positive, predicted & ~positive, ~predicted & positive, ~predicted & ~positive)
    return torch.stack([group.sum() for group in groups]).double().unsqueeze(0)
