"""The hand-made losses against loops over samples and pairs."""

from __future__ import annotations

import math

import pytest
import torch

from surrogate.errors import UsageError
from surrogate_tabular.baselines import BASELINES, baseline

COUNTS = torch.tensor([30, 10])


def example(size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(size, 2, generator=draw, dtype=torch.float64), torch.arange(size) % 3 // 2


def by_hand(name: str, logits: torch.Tensor, labels: torch.Tensor) -> float:
    s, y = (logits[:, 1] - logits[:, 0]).tolist(), labels.tolist()
    positives, negatives = ([v for v, label in zip(s, y, strict=True) if label == k] for k in (1, 0))
    p_true = [1 / (1 + math.exp(-v if label else v)) for v, label in zip(s, y, strict=True)]
    if name == "bce":
        return sum(-math.log(p) for p in p_true) / len(y)
    if name == "weighted-bce":
        weights = [40 / (2 * 10) if label else 40 / (2 * 30) for label in y]
        return sum(-w * math.log(p) for w, p in zip(weights, p_true, strict=True)) / sum(weights)
    if name == "focal":
        return sum(-((1 - p) ** 2) * math.log(p) for p in p_true) / len(y)
    gaps = [a - b for a in positives for b in negatives]
    if name == "auc-hinge":
        return sum(max(0.0, 1 - gap) ** 2 for gap in gaps) / len(gaps)
    if name == "auc-logistic":
        return sum(math.log(1 + math.exp(-gap)) for gap in gaps) / len(gaps)
    precisions = []
    for i in range(len(y)):
        if y[i]:
            above = {j: 1 / (1 + math.exp(s[i] - s[j])) for j in range(len(y)) if j != i}
            precisions.append((1 + sum(g for j, g in above.items() if y[j])) / (1 + sum(above.values())))
    return 1 - sum(precisions) / len(precisions)


@pytest.mark.parametrize("name", BASELINES)
def test_a_loss_is_that_of_a_loop(name: str) -> None:
    logits, labels = example()
    assert float(baseline(name, class_counts=COUNTS)(logits, labels)) == pytest.approx(by_hand(name, logits, labels))


@pytest.mark.parametrize("name", BASELINES)
def test_a_step_down_a_loss_raises_the_positives_above_the_negatives(name: str) -> None:
    logits, labels = example()
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(baseline(name, class_counts=COUNTS)(leaf, labels), leaf)
    rise = -(gradient[:, 1] - gradient[:, 0])
    assert bool((rise[labels == 1] >= 0).all())
    assert bool((rise[labels == 0] <= 0).all())
    assert float(rise.abs().sum()) > 0


@pytest.mark.parametrize("name", ["auc-hinge", "auc-logistic", "smooth-ap"])
@pytest.mark.parametrize("label", [0, 1])
def test_a_ranking_of_one_class_asks_for_nothing(name: str, label: int) -> None:
    leaf = example()[0].requires_grad_()
    loss = baseline(name, class_counts=COUNTS)(leaf, torch.full((len(leaf),), label))
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert float(loss.detach()) == 0.0
    assert not gradient.any()


@pytest.mark.parametrize("name", BASELINES)
def test_half_precision_is_widened(name: str) -> None:
    logits, labels = example()
    assert baseline(name, class_counts=COUNTS)(logits.bfloat16(), labels).dtype == torch.float32


def test_an_unknown_loss_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'auc-hinge'"):
        baseline("auc-hing", class_counts=COUNTS)
