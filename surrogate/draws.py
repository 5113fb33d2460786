"""Random numbers by the million, drawn where they are used.

On a CPU they come from the generator itself. On a GPU they come from one of its own, seeded by the generator: drawn on
the CPU and copied, they would take longer than all else that is done with them. So devices differ in their numbers, as
they do in their rounding; each gives the same ones every time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def normal(shape: Sequence[int], like: Tensor, generator: Generator) -> Tensor:
    """Standard normal numbers, float32, on the device of `like`."""
    return torch.randn(shape, generator=_near(like, generator), device=like.device)


def uniform(shape: Sequence[int], like: Tensor, generator: Generator) -> Tensor:
    """Numbers from [0, 1), float32, on the device of `like`."""
    return torch.rand(shape, generator=_near(like, generator), device=like.device)


def _near(like: Tensor, generator: Generator) -> Generator:
    """The generator, or one on the device that is seeded by it."""
    if generator.device == like.device:
        return generator
    return Generator(like.device).manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))
