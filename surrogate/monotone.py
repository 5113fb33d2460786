"""A network that cannot get the direction of an input wrong.

Runje and Shankaranarayana, "Constrained Monotonic Neural Networks", ICML 2023: weights of one sign, and in each layer
units that are convex, concave and bounded, for with non-negative weights and one activation a network is far from a
universal approximator of monotone functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SignedLinear(nn.Linear):
    """A linear layer whose weights have the sign of their input's direction; those of direction 0 are free."""

    directions: Tensor

    def __init__(self, directions: Sequence[int], fan_out: int) -> None:
        super().__init__(len(directions), fan_out)
        self.register_buffer("directions", torch.tensor(directions, dtype=torch.float32), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        signed = torch.where(self.directions == 0, self.weight, self.weight.abs() * self.directions)
        return F.linear(inputs, signed, self.bias)


class Mixed(nn.Module):
    """A third of the units each: softplus (convex), its mirror image (concave), tanh (bounded); all of them rise."""

    def forward(self, inputs: Tensor) -> Tensor:
        convex, concave, bounded = inputs.tensor_split(3, dim=1)
        return torch.cat([F.softplus(convex), -F.softplus(-concave), bounded.tanh()], 1)


def monotone_layers(widths: Sequence[int], directions: Sequence[int]) -> nn.Sequential:
    """From `(R, widths[0])` inputs of the given directions over hidden layers of the other widths to `(R, 1)`."""
    layers: list[nn.Module] = [SignedLinear(directions, widths[1]), Mixed()]
    for fan_in, fan_out in pairwise(widths[1:]):
        layers += [SignedLinear([1] * fan_in, fan_out), Mixed()]
    return nn.Sequential(*layers, SignedLinear([1] * widths[-1], 1))
