"""What the fit minimises: the errors of the value and of its rank, and of its slope along moves of the outputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from surrogate.approximator import Surrogate
from surrogate.moves import KINDS
from surrogate.recipe import FitRecipe
from surrogate.store import Rows

_BEYOND = 0.02
"""How far beyond a bound the output for a row at that bound should be, in units of the loss."""
_ROUNDING = 1e-6
"""So near to a bound a value is at it: three thirds may be a bit more or less than one."""

_SLOPE = 0.05
"""Least slope along a move that has a sign, in spreads of the loss per spread of the inputs."""
_WRONG = 2.0
"""What falls short by more than this, in units of the least slope, is plainly wrong."""
_ONE_SIDED = 0.98
"""A kind of move with a mean sign beyond this, one change in a hundred the other way, has that sign everywhere."""
_EVIDENCE = 50
"""Changes that it takes to say so: of fewer, one in twenty may well have the other sign."""

_QUANTILES = 64
_UNIFORM = 12.0
"""One by the variance of ranks that are spread evenly over [0, 1]."""
_FINEST = 1e-3
"""Losses that are alike when rounded to this have one rank: what is that near is told apart by chance."""

Pair = tuple[Tensor, Tensor]


class Asked(NamedTuple):
    """What M moves ask of the slope, in units of the mean size of what a move of their kind does."""

    stats: Tensor
    """`(M, F)` statistics before the move."""
    velocity: Tensor
    """`(M, F)` their change along the move, to first order."""
    change: Tensor
    """`(M,)` change of the loss under noise (see `surrogate.moves`)."""
    sign: Tensor
    """`(M,)` in -1, 0, 1: the way that the loss should go; 0 where nobody knows."""

    def part(self, index: Tensor) -> Asked:
        """Those at an index, or of a mask."""
        return Asked(*(field[index] for field in self))

    def to(self, device: torch.device) -> Asked:
        """On a device."""
        return Asked(*(field.to(device) for field in self))


def asked(moved: Rows, known: Tensor) -> Asked:
    """What recorded moves `(M, 2 F + 1)` ask, each kind in units of its own: long moves must not drown small ones.

    `known` is `(M,)` bool, the moves that units and signs of kinds are found from: not those that are held out.

    Most small moves change nothing, by chance: what tips over is one element or none. Where a kind is one-sided, as
    "towards" is for a metric that no mended element makes worse, those moves have its sign too.
    """
    stats, velocity, value = moved.stats.tensor_split((moved.stats.shape[1] // 2, -1), 1)
    value = value.squeeze(1)
    size, side = torch.ones(len(KINDS)), torch.zeros(len(KINDS))
    for kind in range(len(KINDS)):
        change = value[known & (moved.regime == kind)]
        if change.any():
            size[kind] = change.square().mean().sqrt()
            signs = change[change != 0].sign()
            one_sided = len(signs) >= _EVIDENCE and signs.mean().abs() >= _ONE_SIDED
            side[kind] = signs.mean().sign() if one_sided else 0.0
    kinds = moved.regime.long()
    sign = torch.where(value != 0, value.sign(), side[kinds])
    return Asked(stats, velocity / size[kinds].unsqueeze(1), value / size[kinds], sign)


def censored_error(latent: Tensor, value: Tensor) -> Tensor:
    """Mean squared error (NeuroIoU, Eq. 3) of `(R,)` latent outputs, rows at the bounds taken as censored (Tobin 1958).

    Many rows share the best or the worst value of a bounded metric. All of them should be predicted *at* the bound, not
    scattered around it, or their order is noise. So such a row asks for an output at least a margin beyond the bound
    and is content with anything further out; `Surrogate.forward` clamps.
    """
    worst, best = value >= 1.0 - _ROUNDING, value <= _ROUNDING
    short = latent - (value + _BEYOND * (worst.to(value) - best.to(value)))
    content = (worst & (short > 0)) | (best & (short < 0))
    return torch.where(content, 0.0, short).square().mean()


class Scale(NamedTuple):
    """How the fitted losses lie: their standard deviation, and their ranks."""

    spread: float
    loss: Tensor
    """`(K,)` rising, within [0, 1], from the least of them to the greatest; K = 1 where they are all alike."""
    rank: Tensor
    """`(K,)` rising, in [0, 1]: the share of them below each, and half of those that are like it."""

    def rank_of(self, loss: Tensor) -> Tensor:
        """`(R,)` ranks of losses, linear between those that are known, and flat beyond."""
        upper = torch.bucketize(loss.detach(), self.loss).clamp(1, len(self.loss) - 1)
        (x, next_x), (y, next_y) = ((of[upper - 1], of[upper]) for of in (self.loss, self.rank))
        return y + (next_y - y) / (next_x - x) * (torch.minimum(torch.maximum(loss, x), next_x) - x)


def scale_of(loss: Tensor, *, least: float) -> Scale:
    """Of `(N,)` fitted losses; a spread below `least` counts as that.

    Ranks are by quantiles, and those that are alike have one: the mean of theirs.
    """
    shares = torch.linspace(0.0, 1.0, _QUANTILES + 1, dtype=torch.float64)
    ordered = loss.clamp(0.0, 1.0).sort().values
    quantiles = ordered[(shares * (len(loss) - 1)).round().long().to(loss.device)].cpu()
    level = (quantiles / _FINEST).round().long()
    alike = torch.unique_consecutive(level, return_inverse=True)[1]
    size = torch.bincount(alike)
    found, rank = (torch.bincount(alike, of) / size for of in (quantiles.double(), shares))
    return Scale(max(float(loss.std(correction=0)), least), found.to(loss), rank.to(loss))


def objective(
    surrogate: Surrogate, rows: Pair, moves: Asked, settings: FitRecipe, *, scale: Scale
) -> tuple[Tensor, Tensor]:
    """The error of the value, which the fit reports, and the whole of what it minimises.

    `rows` are `(R, F)` statistics and `(R,)` losses. Values weigh in units of the spread of the fitted losses: else the
    slopes of a metric that hardly varies, near its best for instance, would drown its values. Ranks weigh beside: many
    losses crowd near the best or the worst one, where an error that is small beside the spread loses their order.
    """
    latent = surrogate.latent(rows[0])
    value = censored_error(latent, rows[1])
    whole = value / scale.spread**2
    if settings.order_weight and len(scale.loss) > 1:
        ranks = scale.rank_of(latent) - scale.rank_of(rows[1])  # both flat beyond 0 and 1: `forward` clamps
        whole = whole + settings.order_weight * _UNIFORM * ranks.square().mean()
    if len(moves.change) and (settings.slope_weight or settings.sign_weight):
        size, sign = slope_errors(surrogate, moves, least=_SLOPE * scale.spread)
        whole = whole + settings.slope_weight * size + settings.sign_weight * sign
    return value, whole


def slope_errors(surrogate: Surrogate, moves: Asked, *, least: float) -> tuple[Tensor, Tensor]:
    """Mean squared errors of the change that the surrogate's slopes foretell: of its size, and of its sign.

    A fit of values alone leaves the slope free wherever statistics depend on each other: with a perfect rank
    correlation it may have the wrong sign, or next to no slope at all along the moves that training can make. So the
    slope along recorded moves is fitted to what they did on average: which elements tip over is chance, how many not.
    This is a Sobolev fit (Czarnecki et al. 2017) along the directions that exist. Small changes count for little in it,
    so the sign is asked for beside, as by a hinge: the slope per unit of the standardised inputs, in units of `least`,
    should be 1 or more. What falls short counts squared, and linearly where the slope is plainly wrong (a Huber error):
    of a metric that some moves towards the truth make worse, those few would else forbid the right slope of all others.
    Moves that do not move the inputs, or have no sign, ask for none.
    """
    stats = moves.stats.detach().requires_grad_()
    fitting = torch.is_grad_enabled()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(surrogate.latent(stats).sum(), stats, create_graph=fitting)
    foretold = (gradient * moves.velocity).sum(1)
    speed = (moves.velocity.index_select(1, surrogate.index) / surrogate.scale).norm(dim=1)
    short = (1.0 - moves.sign * foretold / (least * speed.clamp_min(1e-9))).clamp_min(0.0)
    counted = (moves.sign != 0) & (speed > 1e-9)
    short = torch.where(counted, short, 0.0)
    sign = 2.0 * F.huber_loss(short, torch.zeros_like(short), delta=_WRONG)
    return (foretold - moves.change).square().mean(), sign
