"""Small feasible moves of the outputs: what the sign of a surrogate's gradient is checked with.

The derivatives by single statistics mean nothing where statistics move together (TP + FN is the size of the truth). So
the outputs themselves are moved a small step, and two things are recorded for each row: how fast the statistics change
along the move, and by how much the true loss changed after it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from surrogate.protocols import Measure

STEPS = {"towards": 0.05, "away": 0.05, "mend": 0.05, "reach": 1.0}
"""Kinds of moves, and how long they are in units of the spread of the outputs: three are small, yet enough to tip some
of the elements over; the certificate is about them.

A random part of the elements, by random amounts, towards the perfect outputs; the same away from them; towards them
at the elements that are wrong alone, where a statistic of the errors cannot hide behind one of the successes. And the
same far enough to mend what a small step does not: where nothing is right yet (a class without a hit), the metric is
flat for a small step, and a surrogate that is right about that would never leave. So a row at the worst value is asked
by long moves alone.

Not in isotropic random directions: what a metric makes of those is decided by which elements happen to tip over, and no
soft statistic knows (soft Jaccard itself gets 25 to 45 % of those signs wrong; see `docs/log.md`).
"""
KINDS = tuple(STEPS)
LONG = 1.0
"""A step of this length is no small one."""
SMALL = tuple(number for number, step in enumerate(STEPS.values()) if step < LONG)
"""Places in KINDS."""


class Move(NamedTuple):
    """What a move did to each of R rows."""

    stats: Tensor
    """`(R, F)` statistics before the move."""
    velocity: Tensor
    """`(R, F)` their derivative along the move."""
    change: Tensor
    """`(R,)` change of the true loss; NaN where the row is undefined before or after, or at the worst value before a
    small move."""


def direction(kind: str, outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:
    """A direction of the kind, of the shape of `outputs` `(B, ...)`, about as long as the outputs are spread.

    An element is a sample of `(B, C)` outputs and a pixel of `(B, C, H, W)` outputs. Which part of them moves is drawn
    for each sample, how far for each element.
    """
    places = (len(outputs), 1, *outputs.shape[2:])
    share = torch.rand(len(outputs), *[1] * (outputs.dim() - 1), generator=generator)
    chosen = torch.rand(places, generator=generator) < share
    amount = torch.where(chosen, torch.rand(places, generator=generator), 0.0).to(outputs)
    if kind in ("mend", "reach") and outputs.shape[1] > 1:
        amount = amount * (outputs.argmax(1, keepdim=True) != perfect.argmax(1, keepdim=True))
    way = perfect - outputs
    towards = amount * way * (outputs.std(correction=0) / way.std(correction=0).clamp_min(1e-12))
    return -towards if kind == "away" else towards


def move(measure: Measure, outputs: Tensor, targets: Tensor, way: Tensor, *, step: float) -> Move:
    """Moves `outputs` by `step * way` and records what happens to each row of the measure."""
    stats, velocity = torch.autograd.functional.jvp(  # type: ignore[no-untyped-call]
        lambda o: measure.stats(o, targets), outputs, way
    )
    with torch.no_grad():
        before = measure.loss_of(measure.metric(outputs, targets))
        after = measure.loss_of(measure.metric(outputs + step * way, targets))
        asked = (before < 1.0) | (step >= LONG)
    return Move(stats.detach(), velocity.detach(), torch.where(asked, after - before, torch.nan))
