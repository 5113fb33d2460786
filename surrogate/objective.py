"""What the fit minimises: the error of the value, and the error of its slope along moves of the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from surrogate.approximator import Surrogate
from surrogate.recipe import FitRecipe

_BEYOND = 0.02
"""How far beyond a bound the output for a row at that bound should be, in units of the loss."""

_SLOPE = 0.05
"""Least slope along a move that changes the loss, in spreads of the loss per spread of the inputs."""

Pair = tuple[Tensor, Tensor]


def censored_error(latent: Tensor, value: Tensor) -> Tensor:
    """Mean squared error (NeuroIoU, Eq. 3) of `(R,)` latent outputs, rows at the bounds taken as censored (Tobin 1958).

    Many rows share the best or the worst value of a bounded metric. All of them should be predicted *at* the bound, not
    scattered around it, or their order is noise. So such a row asks for an output at least a margin beyond the bound
    and is content with anything further out; `Surrogate.forward` clamps.
    """
    worst, best = value >= 1.0, value <= 0.0
    short = latent - (value + _BEYOND * (worst.to(value) - best.to(value)))
    content = (worst & (short > 0)) | (best & (short < 0))
    return torch.where(content, 0.0, short).square().mean()


def objective(
    surrogate: Surrogate, rows: Pair, moves: Pair, settings: FitRecipe, *, spread: float
) -> tuple[Tensor, Tensor]:
    """The error of the value, which the fit reports, and the whole of what it minimises.

    Values and signs weigh in units of `spread`, the standard deviation of the fitted losses: else the slopes of a
    metric that hardly varies, near its best for instance, would drown its values.

    `rows` are `(R, F)` statistics and `(R,)` losses; `moves` are `(M, 2 F)` statistics and their change along the move
    to first order, and `(M,)` true changes of the loss, both in units of what a move does (see `fit.comparable`).
    """
    value = censored_error(surrogate.latent(rows[0]), rows[1])
    if not len(moves[1]) or not (settings.slope_weight or settings.sign_weight):
        return value, value / spread**2
    stats, velocity = moves[0].chunk(2, 1)
    size, sign = slope_errors(surrogate, stats, velocity, moves[1], least=_SLOPE * spread)
    return value, (value + settings.sign_weight * sign) / spread**2 + settings.slope_weight * size


def slope_errors(
    surrogate: Surrogate, stats: Tensor, velocity: Tensor, change: Tensor, *, least: float
) -> tuple[Tensor, Tensor]:
    """Mean squared errors of the change that the surrogate's slopes foretell: of its size, and of its sign.

    A fit of values alone leaves the slope free wherever statistics depend on each other: with a perfect rank
    correlation it may have the wrong sign, or next to no slope at all along the moves that training can make. So the
    slope along recorded moves is fitted to what they did on average: which elements tip over is chance, how many not.
    This is a Sobolev fit (Czarnecki et al. 2017) along the directions that exist. Small changes count for little in it,
    so the sign is asked for beside: at least `least` per unit of the standardised inputs, whatever the change. Rows
    that do not move or do not change ask for none.
    """
    stats = stats.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(surrogate.latent(stats).sum(), stats, create_graph=True)
    foretold = (gradient * velocity).sum(1)
    speed = (velocity.index_select(1, surrogate.index) / surrogate.scale).norm(dim=1)
    short = (least - change.sign() * foretold / speed.clamp_min(1e-9)).clamp_min(0.0)
    asked = (change != 0) & (speed > 1e-9)
    return (foretold - change).square().mean(), torch.where(asked, short, 0.0).square().mean()
