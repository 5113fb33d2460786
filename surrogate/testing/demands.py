"""What a contract is put in words with."""

from __future__ import annotations

import torch
from torch import Tensor


def demand(truth: bool | Tensor, otherwise: str) -> None:
    """As `assert`, which Python leaves out under -O."""
    if not truth:
        raise AssertionError(otherwise)


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal but for the order of a sum in float32; NaN equals NaN."""
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
