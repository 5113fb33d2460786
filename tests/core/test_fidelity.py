"""Numbers on a fit, against scipy, scikit-learn and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score
from torch import Tensor, nn

from surrogate.approximator import Surrogate
from surrogate.fidelity import contrary, fidelity, foretold, verdict, wrong_sign


class Wave(nn.Module):
    """A smooth surrogate that anyone can differentiate: `sign * sin(a + 2 b)`."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, stats: Tensor) -> Tensor:
        return self.sign * torch.sin(stats[:, 0] + 2.0 * stats[:, 1])


@given(st.integers(0, 2**31 - 1), st.integers(3, 60), st.booleans())
def test_fidelity_is_what_scipy_and_scikit_learn_say(seed: int, rows: int, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    true = draw.random(rows).astype(np.float32)
    predicted = (true + 0.3 * draw.normal(size=rows)).astype(np.float32)
    if ties:
        true, predicted = true.round(1), predicted.round(1)
    true[0], predicted[0], true[1], predicted[1] = 0.0, 0.0, 1.0, 0.5
    found = fidelity(*map(torch.from_numpy, (predicted, true, draw.integers(0, 5, rows))))
    true, predicted = true.astype(float), predicted.astype(float)
    assert found["spearman"] == pytest.approx(spearmanr(predicted, true).statistic)
    assert found["kendall"] == pytest.approx(kendalltau(predicted, true).statistic)
    assert found["r2"] == pytest.approx(r2_score(true, predicted))
    assert found["mae"] == pytest.approx(mean_absolute_error(true, predicted))


def test_ranks_and_values_are_told_apart() -> None:
    """A monotone curve has perfect ranks and a poor value; both by hand."""
    true = torch.tensor([0.0, 0.5, 1.0])
    found = fidelity(true.square(), true, torch.tensor([3, 3, 8]))
    assert found["spearman"] == pytest.approx(1.0)
    assert found["kendall"] == pytest.approx(1.0)
    assert found["mae"] == pytest.approx(0.25 / 3)
    assert found["r2"] == pytest.approx(1 - 0.0625 / 0.5)
    assert found["n_samples"] == 2


def test_what_is_undefined_is_none_and_never_zero() -> None:
    samples = torch.arange(4)
    varied, constant = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.full((4,), 0.25)
    flat_truth = fidelity(varied, constant, samples)
    assert (flat_truth["spearman"], flat_truth["kendall"], flat_truth["r2"]) == (None, None, None)
    assert flat_truth["mae"] == pytest.approx(0.1)
    flat_fit = fidelity(constant, varied, samples)
    assert (flat_fit["spearman"], flat_fit["kendall"]) == (None, None)
    assert flat_fit["r2"] == pytest.approx(0.0, abs=1e-6)
    nearly = torch.tensor([0.1, 0.1002, 0.1001])  # as of a perfect model: R2 would be a large negative number
    assert fidelity(torch.tensor([0.11, 0.12, 0.13]), nearly, torch.arange(3))["r2"] is None
    one = fidelity(varied[:1], constant[:1], samples[:1])
    assert one == {"spearman": None, "kendall": None, "r2": None, "mae": pytest.approx(0.15), "n_samples": 1}
    nothing = {"spearman": None, "kendall": None, "r2": None, "mae": None, "n_samples": 0}
    assert fidelity(varied[:0], varied[:0], samples[:0]) == nothing


def signs(surrogate: nn.Module, stats: Tensor, velocity: Tensor, change: Tensor) -> float | None:
    return wrong_sign(foretold(surrogate, stats, velocity), change)


@given(st.integers(0, 2**31 - 1))
def test_wrong_sign_is_what_finite_differences_say(seed: int) -> None:
    stats, velocity = torch.randn(2, 30, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    change = torch.randn(30, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    change[::5] = 0.0
    wave, epsilon = Wave(), 1e-6
    slope = wave(stats + epsilon * velocity) - wave(stats - epsilon * velocity)
    wrong = [float(s) * float(c) < 0 for s, c in zip(slope, change, strict=True) if c != 0]
    assert signs(wave, stats, velocity, change) == pytest.approx(sum(wrong) / len(wrong))


def test_a_surrogate_upside_down_gets_every_sign_wrong() -> None:
    stats, velocity = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0))
    change = 1e-3 * torch.cos(stats[:, 0] + 2 * stats[:, 1]) * (velocity[:, 0] + 2 * velocity[:, 1])
    assert signs(Wave(), stats, velocity, change) == 0.0
    assert signs(Wave(-1.0), stats, velocity, change) == 1.0


def test_a_flat_surrogate_is_wrong_wherever_something_changes() -> None:
    class Flat(nn.Module):
        def forward(self, stats: Tensor) -> Tensor:
            return 0.0 * stats.sum(1)

    stats, change = torch.randn(4, 2), torch.tensor([0.1, -0.1, 0.0, 0.2])
    assert signs(Flat(), stats, torch.ones(4, 2), change) == 1.0
    resting = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    waves = signs(Wave(), torch.zeros(4, 2), resting, torch.tensor([0.1, 0.1, 0.0, 0.1]))
    assert waves == pytest.approx(1 / 3)  # the second row does not move, and yet it changed


def test_contrary_moves_are_those_that_get_worse_on_the_way_to_the_truth() -> None:
    change = torch.tensor([-0.1, -0.2, 0.1, 0.0, 0.3, -0.4])
    away = torch.tensor([False, False, False, False, True, True])
    assert contrary(change, away) == pytest.approx(2 / 5)
    assert contrary(torch.zeros(2), away[:2]) is None


def test_no_change_is_no_verdict() -> None:
    assert signs(Wave(), torch.randn(3, 2), torch.randn(3, 2), torch.zeros(3)) is None
    assert signs(Wave(), torch.empty(0, 2), torch.empty(0, 2), torch.empty(0)) is None


def test_wrong_sign_works_without_gradients_and_leaves_none_behind(surrogate: Surrogate) -> None:
    surrogate.requires_grad_(False)
    stats = torch.rand(5, 2)
    rising = torch.tensor([[1.0, 0.0]]).expand(5, 2)  # more probability of the truth, less loss
    with torch.no_grad():
        assert signs(surrogate, stats, rising, torch.full((5,), -0.1)) == 0.0
    assert not stats.requires_grad
    assert all(p.grad is None for p in surrogate.parameters())


def test_the_verdict_names_what_is_short_of_the_bars() -> None:
    good = {"spearman": 0.99, "r2": 0.97, "wrong_sign": 0.0}
    assert verdict(good) == "held out: spearman 0.990, r2 0.970, wrong_sign 0.000; good to train through"
    bad = verdict({"spearman": 0.9, "r2": None, "wrong_sign": 0.03})
    assert "NOT good enough" in bad
    assert "spearman 0.900 (above 0.95 is asked for)" in bad
    assert "wrong_sign 0.030 (below 0.02 is asked for)" in bad
    assert "r2 undefined" in bad
    assert "goes against" not in verdict({**good, "wrong_sign": 0.03, "contrary": 0.01})
    assert "the metric itself goes against the truth in 20.0 %" in verdict({**good, "wrong_sign": 0.2, "contrary": 0.2})
    assert "goes against" not in verdict({**good, "spearman": 0.5, "contrary": 0.2})
    assert "is higher_is_better right?" in verdict({**good, "wrong_sign": 0.9, "contrary": 0.9})
    lost = verdict({**good, "by_regime": {"model": {"spearman": 0.77, "mae": 0.05}}})
    assert (
        "NOT good enough to train through: spearman 0.770 on the model's own outputs (above 0.8 is asked for)" in lost
    )
    alike = {"model": {"spearman": 0.77, "mae": 0.01}}  # which no order can be asked of
    assert verdict({**good, "by_regime": alike}) == verdict(good)
    unknown = verdict({**good, "wrong_sign": None})
    assert "NOT known" in unknown
    assert "no small move changed the metric" in unknown
