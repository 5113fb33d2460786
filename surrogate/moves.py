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

KINDS = ("towards", "away", "random")
"""A random part of the elements towards the perfect outputs; away from them; all elements in a random direction."""


class Move(NamedTuple):
    """What a move did to each of R rows."""

    stats: Tensor
    """`(R, F)` statistics before the move."""
    velocity: Tensor
    """`(R, F)` their derivative along the move."""
    change: Tensor
    """`(R,)` change of the true loss; NaN where the row is undefined before or after."""


def direction(kind: str, outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:
    """A direction of the kind, of the shape of `outputs` `(B, ...)`, about as long as the outputs are spread."""
    spread = outputs.std()
    if kind == "random":
        by_channel = (*outputs.shape[:2], *[1] * (outputs.dim() - 2))
        return torch.randn(by_channel, generator=generator).to(outputs).expand_as(outputs) * spread
    places = (len(outputs), 1, *outputs.shape[2:]) if outputs.dim() > 2 else outputs.shape
    share = torch.rand(len(outputs), *[1] * (len(places) - 1), generator=generator)
    chosen = (torch.rand(places, generator=generator) < share).to(outputs)
    way = perfect - outputs
    toward = chosen * way / way.std().clamp_min(1e-12) * spread
    return toward if kind == "towards" else -toward


def move(measure: Measure, outputs: Tensor, targets: Tensor, way: Tensor, *, step: float) -> Move:
    """Moves `outputs` by `step * way` and records what happens to each row of the measure."""
    stats, velocity = torch.autograd.functional.jvp(  # type: ignore[no-untyped-call]
        lambda o: measure.stats(o, targets), outputs, way
    )
    with torch.no_grad():
        before = measure.loss_of(measure.metric(outputs, targets))
        after = measure.loss_of(measure.metric(outputs + step * way, targets))
    return Move(stats.detach(), velocity.detach(), after - before)
