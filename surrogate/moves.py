"""Small feasible moves of the outputs: what a surrogate's slope is fitted to and its sign checked with.

The derivatives by single statistics mean nothing where statistics move together (TP + FN is the size of the truth). So
the outputs themselves are moved a small step, and it is recorded for each row how fast the statistics change along the
move, and by how much the true loss changed after it: of the outputs as they are, which the certificate is about, and of
the outputs under noise, which the slope is fitted to. Which elements a small move tips over is chance, and a metric of
boundaries jumps with them; under noise it is smooth (Duchi et al., "Randomized smoothing for stochastic optimization",
2012), and an element that is right, but only just, counts in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.autograd import forward_ad

from surrogate.draws import uniform
from surrogate.protocols import Measure

STEPS = {"towards": 0.05, "away": 0.05, "mend": 0.05, "reach": 1.0}
"""Kinds of moves, and how long they are in units of the spread of the outputs: three are small, yet enough to tip some
of the elements over; the certificate is about them.

A random part of the elements, by random amounts, towards the perfect outputs; the same away from them; towards them
at the elements that are wrong alone, where a statistic of the errors cannot hide behind one of the successes. And the
same far enough to mend what a small step does not: where nothing is right yet (a class without a hit), the metric is
flat for a small step, and a surrogate that is right about that would never leave. So a row at the worst value is asked
by long moves alone, and those start from outputs of all regimes, not from the model's alone.

Not in isotropic random directions: what a metric makes of those is decided by which elements happen to tip over, and no
soft statistic knows (soft Jaccard itself gets 25 to 45 % of those signs wrong; see `docs/log.md`).
"""
KINDS = tuple(STEPS)
AWAY = KINDS.index("away")
LONG = 1.0
"""A step of this length is no small one."""
SMALL = tuple(number for number, step in enumerate(STEPS.values()) if step < LONG)
"""Places in KINDS, as is AWAY."""


_SAME = 1e-3
"""Of the greatest speed: derivatives that differ by no more are the same but for rounding."""


class Move(NamedTuple):
    """What a move did to each of R rows."""

    stats: Tensor
    """`(R, F)` statistics before the move."""
    velocity: Tensor
    """`(R, F)` their derivative along the move."""
    change: Tensor
    """`(R,)` change of the true loss; NaN where the row is undefined before or after, or at the worst value before a
    small move."""
    smoothed: Tensor
    """`(R,)` the same under noise, the same one before and after; NaN in the same rows."""


def direction(kind: str, outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:
    """A direction of the kind, of the shape of `outputs` `(B, ...)`, about as long as the outputs are spread.

    An element is a sample of `(B, C)` outputs and a pixel of `(B, C, H, W)` outputs. Which part of them moves is drawn
    for each sample, how far for each element.
    """
    places = (len(outputs), 1, *outputs.shape[2:])
    share = torch.rand(len(outputs), *[1] * (outputs.dim() - 1), generator=generator).to(outputs.device)
    chosen = uniform(places, outputs, generator) < share
    amount = torch.where(chosen, uniform(places, outputs, generator), 0.0).to(outputs)
    if kind in ("mend", "reach") and outputs.shape[1] > 1:
        amount = amount * (outputs.max(1, keepdim=True).indices != perfect.max(1, keepdim=True).indices)
    way = perfect - outputs  # as long as the outputs from here on: no copy more than it takes
    length = outputs.std(correction=0) / way.std(correction=0).clamp_min(1e-12)
    if outputs.shape[1] == 1:  # no classes, of which more is never too much: a value, which is not to be passed
        length = length.clamp_max(1.0 / STEPS[kind])
    return way.mul_(amount * (-length if kind == KINDS[AWAY] else length))


class Speed:
    """How fast statistics change along a move: by their forward derivatives, once these are known to be right.

    Going forward costs as much as the statistics, going back twice many times that. But an operation that has no
    forward derivative may count as one that stands still, and what is computed without gradient moves forward and not
    back. So the first move that changes something is looked at both ways, and training goes by the way back.
    """

    def __init__(self) -> None:
        self._forward: bool | None = None

    def __call__(self, stats: Callable[[Tensor], Tensor], outputs: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
        """`(R, F)` statistics and their derivative along the way."""
        found = _going_forward(stats, outputs, way) if self._forward is not False else None
        if found is not None and self._forward:
            return found
        back: tuple[Tensor, Tensor] = torch.autograd.functional.jvp(stats, outputs, way)  # type: ignore[no-untyped-call]
        size = back[1].nan_to_num().abs().max()
        if found is None:
            return back
        if not size:
            return found
        self._forward = bool((found[1] - back[1]).nan_to_num().abs().max() <= _SAME * size)
        return found if self._forward else back


def _going_forward(stats: Callable[[Tensor], Tensor], outputs: Tensor, way: Tensor) -> tuple[Tensor, Tensor] | None:
    """None where an operation says that it cannot; any other error comes again, and is told, on the way back."""
    try:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(outputs, way)  # type: ignore[no-untyped-call]
            found, velocity = forward_ad.unpack_dual(stats(dual))  # type: ignore[no-untyped-call]
    except RuntimeError:  # which NotImplementedError is
        return None
    return found, torch.zeros_like(found) if velocity is None else velocity


def move(
    measure: Measure,
    outputs: Tensor,
    targets: Tensor,
    way: Tensor,
    *,
    step: float,
    noise: Tensor | None = None,
    speed: Speed | None = None,
) -> Move:
    """Moves `outputs` by `step * way` and records what happens to each row of the measure; `noise` has their shape.
    `speed` is that of the moves before, where there were some."""
    stats, velocity = (speed or Speed())(lambda at: measure.stats(at, targets), outputs, way)
    with torch.no_grad():

        def loss(at: Tensor) -> Tensor:
            return measure.loss_of(measure.metric(at, targets))

        before, moved = loss(outputs), torch.add(outputs, way, alpha=step)
        change = torch.where((before < 1.0) | (step >= LONG), loss(moved) - before, torch.nan)
        smoothed = change if noise is None else loss(moved.add_(noise)) - loss(outputs + noise)
        change, smoothed = change + 0.0 * smoothed, smoothed + 0.0 * change  # undefined in one, so in both
    return Move(stats.detach(), velocity.detach(), change, smoothed)
