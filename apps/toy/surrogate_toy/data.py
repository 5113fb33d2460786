"""Points on [0, 2]: the data of the toy, made from a seed."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


class Points:
    """`count` points on [0, 2], ascending, evenly spread: each at a random place of its own equal share."""

    def __init__(self, count: int, *, seed: int) -> None:
        places = torch.rand(count, generator=Generator().manual_seed(seed), dtype=torch.float64)
        self.u = (2.0 * (torch.arange(count) + places) / count).float()

    def __len__(self) -> int:
        return len(self.u)

    def load(self, index: int, generator: Generator | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Input and target, both the point u, `(1,)` float32 in [0, 2]; there is no augmentation to draw."""
        point = self.u[index].view(1)
        return point, point

    def name(self, index: int) -> str:
        """The point itself."""
        return f"u = {self.u[index]:.6f}"
