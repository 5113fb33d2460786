"""What the fit minimises: the error of the value, and the error of its slope along moves of the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from surrogate.approximator import Surrogate

_BEYOND = 0.02
"""How far beyond a bound the output for a row at that bound should be, in units of the loss."""


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


def slope_error(surrogate: Surrogate, stats: Tensor, velocity: Tensor, change: Tensor) -> Tensor:
    """Mean squared error of the change that the surrogate's slopes foretell, in units of the mean squared change.

    A fit of values alone leaves the slope free wherever statistics depend on each other: with a perfect rank
    correlation it may have the wrong sign, or next to no slope at all along the moves that training can make. So the
    slope along recorded moves is fitted to what they did on average: which elements tip over is chance, how many not.
    `(R, F)` statistics, `(R, F)` their change along the move, to first order, `(R,)` true change of the loss (see
    `surrogate.moves`). This is a Sobolev fit (Czarnecki et al. 2017) along the directions that exist.
    """
    stats = stats.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(surrogate.latent(stats).sum(), stats, create_graph=True)
    foretold = (gradient * velocity).sum(1)
    return (foretold - change).square().mean() / change.square().mean().clamp_min(1e-12)
