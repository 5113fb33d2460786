"""The seven metrics against scikit-learn, ties included, and where they are undefined."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from surrogate_tabular import exact
from surrogate_tabular.score import TabularScore


def example(seed: int, *, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """40 scores out of a few values, so that many tie, with a third of positives."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randint(-steps, steps + 1, (40,), generator=draw) / steps
    positive = torch.rand(40, generator=draw) < 0.33
    positive[0], positive[1] = True, False
    return scores, positive


def scored(scores: torch.Tensor, positive: torch.Tensor, *, beta: float = 2.0, k: float = 0.1) -> dict[str, float]:
    score = TabularScore(beta=beta, k=k)
    score.update(torch.stack([torch.zeros_like(scores), scores], 1), positive.long())
    return score.compute()


@pytest.mark.parametrize("steps", [1, 3, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed: int, steps: int) -> None:
    scores, positive = example(seed, steps=steps)
    s, y, predicted = scores.numpy(), positive.numpy(), (scores > 0).numpy()
    expected = {
        "fbeta": oracle.fbeta_score(y, predicted, beta=0.5),
        "mcc": oracle.matthews_corrcoef(y, predicted),
        "kappa": oracle.cohen_kappa_score(y, predicted),
        "balanced_accuracy": oracle.balanced_accuracy_score(y, predicted),
        "auroc": oracle.roc_auc_score(y, s),
        "average_precision": oracle.average_precision_score(y, s),
    }
    found = scored(scores, positive, beta=0.5)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_precision_at_k_is_the_mean_over_the_orders_of_a_tie() -> None:
    scores = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0])
    positive = torch.tensor([False, True, False, True, True])
    ranked = exact.ranking(scores, positive)
    for k, top in ((0.2, 1), (0.4, 2), (0.41, 3), (0.8, 4), (1.0, 5)):
        orders = [(0, *tie, 4) for tie in permutations((1, 2, 3))]
        expected = np.mean([positive[list(order[:top])].float().mean() for order in orders])
        assert float(exact.precision_at_k(ranked, k=k)) == pytest.approx(expected)


def test_a_share_of_the_samples_is_not_rounded_up_by_a_rounding_error() -> None:
    ranked = exact.ranking(torch.arange(30.0), torch.arange(30) >= 27)
    assert float(exact.precision_at_k(ranked, k=0.1)) == 1.0  # 0.1 * 30 is 3.0000000000000004


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_is_undefined_everywhere(label: int) -> None:
    found = scored(torch.tensor([-1.0, 0.5, 2.0]), torch.full((3,), label == 1))
    assert len(found) == 7
    assert set(found.values()) == {None}


def test_predictions_that_are_all_alike_have_no_correlation() -> None:
    found = scored(torch.full((4,), -1.0), torch.tensor([True, False, False, False]))
    assert (found["mcc"], found["kappa"], found["fbeta"], found["balanced_accuracy"]) == (0.0, 0.0, 0.0, 0.5)


def test_a_score_without_samples_and_one_of_a_broken_model_are_undefined() -> None:
    assert set(TabularScore(beta=1.0, k=0.1).compute().values()) == {None}
    found = scored(torch.tensor([math.nan, 1.0]), torch.tensor([True, False]))
    assert set(found.values()) == {None}
