"""How well a surrogate follows its metric, as numbers, on samples that the fit has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LEAST_SPREAD = 1e-3
"""Standard deviation of losses up to which there is nothing to explain: R2 divides by it."""


def fidelity(predicted: Tensor, true: Tensor, samples: Tensor) -> dict[str, Any]:
    """Agreement of `(R,)` predicted with `(R,)` true losses.

    Returns:
        `spearman`, `kendall` in [-1, 1] and `r2` in (-inf, 1]: None where they are undefined (constant values, for
        `r2` nearly constant ones, fewer than two rows); `mae` in units of the loss; `n_samples`, how many samples the
        rows come from.
    """
    from scipy import stats as scipy_stats  # a second or two that only a fit should pay
    from sklearn.metrics import mean_absolute_error, r2_score

    x, y = predicted.double().cpu().numpy(), true.double().cpu().numpy()
    varied = len(x) > 1 and bool(np.ptp(x) > 0) and bool(np.ptp(y) > 0)
    return {
        "spearman": float(scipy_stats.spearmanr(x, y).statistic) if varied else None,
        "kendall": float(scipy_stats.kendalltau(x, y).statistic) if varied else None,
        "r2": float(r2_score(y, x)) if len(x) > 1 and np.std(y) > _LEAST_SPREAD else None,
        "mae": float(mean_absolute_error(y, x)) if len(x) else None,
        "n_samples": int(torch.unique(samples).numel()),
    }


_SIGNS = 0.02
_START = 0.8
"""Rank correlation where training starts, below which a surrogate has drifted already (`finetune.min_spearman`)."""
NEGLIGIBLE = 0.02
"""Mean error, in units of the loss, that is no harm, whatever the order: rows that are all alike have none."""
_ASKED = (("spearman", 0.95, 1), ("r2", 0.95, 1), ("wrong_sign", _SIGNS, -1))


def shortfalls(numbers: Mapping[str, Any]) -> list[str]:
    """What of a fit's report is short of the bars of `docs/fidelity-report.md`."""
    short = [
        f"{name} {numbers[name]:.3f} ({'above' if sign > 0 else 'below'} {bar:g} is asked for)"
        for name, bar, sign in _ASKED
        if numbers[name] is not None and sign * numbers[name] < sign * bar
    ]
    if short and short[-1].startswith("wrong_sign"):
        short[-1] += against_truth(numbers)
    start = numbers.get("by_regime", {}).get("model", {})
    if start.get("spearman") is not None and start["spearman"] < _START and start["mae"] > NEGLIGIBLE:
        short.append(f"spearman {start['spearman']:.3f} on the model's own outputs (above {_START:g} is asked for)")
    return short + [f"{name} undefined" for name, _, _ in _ASKED if numbers[name] is None]


def against_truth(numbers: Mapping[str, Any]) -> str:
    """What a fit's report has to say about why its `wrong_sign` may be high; empty where that is not the metric's."""
    share = numbers.get("contrary") or 0.0
    if share > 0.5:
        return f"; the metric goes against the truth in {100 * share:.1f} % of these moves: is higher_is_better right?"
    told = f"; the metric itself goes against the truth in {100 * share:.1f} % of these moves"
    return told if share > _SIGNS else ""


def verdict(numbers: Mapping[str, Any]) -> str:
    """One line on the numbers of a fit's report."""
    short = shortfalls(numbers)
    if short == ["wrong_sign undefined"]:
        return (
            "held out: the signs of its slope are NOT known: no small move changed the metric, as where the model "
            "finds nothing yet (look at by_regime.model; a longer baseline helps); see docs/fidelity-report.md"
        )
    if short:
        return f"held out, NOT good enough to train through: {', '.join(short)}; see docs/fidelity-report.md"
    return "held out: " + ", ".join(f"{name} {numbers[name]:.3f}" for name, _, _ in _ASKED) + "; good to train through"


def foretold(surrogate: nn.Module, stats: Tensor, velocity: Tensor) -> Tensor:
    """`(R,)` change of the loss, to first order, along feasible moves (see `surrogate.moves`).

    `(R, F)` statistics, and `(R, F)` their change along the move, to first order.
    """
    stats = stats.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(surrogate(stats).sum(), stats)
    return (gradient * velocity).sum(1)


def wrong_sign(slope: Tensor, change: Tensor) -> float | None:
    """Share of moves whose true change the surrogate's directional derivative gets the sign of wrong.

    `(R,)` changes foretold (see `foretold`), and `(R,)` true changes of the loss. Moves that change nothing do not
    count; a derivative of 0 where something changes is wrong. None when nothing changes anything.
    """
    counted = change != 0
    if not counted.any():
        return None
    return float((slope.sign() != change.sign())[counted].double().mean())


def slope_size(slope: Tensor, change: Tensor) -> float | None:
    """How large the slopes are: all changes foretold together, as a share of all true ones; 1 is right.

    `(R,)` changes foretold (see `foretold`), and `(R,)` true changes of the loss, of moves that go one way. What tips
    over in a single small move is chance, in many of them together it is not. None where they change nothing together.
    """
    whole = float(change.double().sum())
    return float(slope.double().sum()) / whole if whole else None


def contrary(change: Tensor, away: Tensor) -> float | None:
    """Share of moves in which the metric itself goes against the truth; 0 where it is one-sided.

    `(R,)` true change of the loss, and whether the move was away from the truth, `(R,)` bool: the rest went towards it.
    A slope that always points to the truth has this `wrong_sign`. Moves that change nothing do not count.
    """
    counted = change != 0
    if not counted.any():
        return None
    return float(((change < 0) == away)[counted].double().mean())
