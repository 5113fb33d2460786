"""What the fit minimises: the error of the value, and the error of the sign of its slope."""

from __future__ import annotations

import torch
from torch import Tensor

from surrogate.approximator import Surrogate

_BEYOND = 0.02
"""How far beyond a bound the output for a row at that bound should be, in units of the loss."""
_SLOPE = 0.02
"""Least slope along a move that changes the loss, per unit of the standardised inputs."""


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


def sign_error(surrogate: Surrogate, stats: Tensor, velocity: Tensor, change: Tensor) -> Tensor:
    """How much the surrogate's slopes along recorded moves fall short of the sign of the true change, squared.

    A fit of values alone leaves the slope free wherever statistics depend on each other, and gets many signs wrong with
    a perfect rank correlation. `(R, F)` statistics, `(R, F)` velocity along the move, `(R,)` change of the loss (see
    `surrogate.moves`). Rows that do not move or do not change ask for nothing.
    """
    stats = stats.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(surrogate.latent(stats).sum(), stats, create_graph=True)
    speed = (velocity.index_select(1, surrogate.index) / surrogate.scale).norm(dim=1)
    slope = (gradient * velocity).sum(1) / speed.clamp_min(1e-9)
    short = (_SLOPE - change.sign() * slope).clamp_min(0.0)
    asked = (change != 0) & (speed > 1e-9)
    return torch.where(asked, short, 0.0).square().mean()
