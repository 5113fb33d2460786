"""The discontinuous function of NeuroIoU, BMVC 2018, Section 4.2, as a measure, and how a fit follows it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from surrogate.errors import UsageError
from surrogate.protocols import Level, Measure, Standard, View

JUMP = 1.0
"""Where f is not continuous: it falls to 1.0 on the left and begins at 1.1 on the right."""
BAND = 0.05
"""Half the width of the neighbourhood of the jump; a continuous fit has to err somewhere in it."""


def f(x: Tensor) -> Tensor:
    """f(x) = 2 - x for x < 1 and x + 0.1 for x >= 1, elementwise, of any shape and float dtype.

    NaN stays NaN.

    >>> f(torch.tensor([0.0, 0.5, 1.0, 2.0]))
    tensor([2.0000, 1.5000, 1.1000, 2.1000])
    """
    return torch.where(x < JUMP, 2.0 - x, x + 0.1)


def derivative(x: Tensor) -> Tensor:
    """f'(x) = -1 for x < 1 and 1 for x > 1, elementwise; NaN at x = 1, where f has none.

    >>> derivative(torch.tensor([0.5, 1.0, 1.5]))
    tensor([-1., nan,  1.])
    """
    return torch.where(x == JUMP, torch.nan, (x - JUMP).sign())


def step() -> Measure:
    """f of the outputs `(B, 1)`, a row for each; lower is better, and targets are not looked at.

    The one statistic is the output itself, so that the fit is of f and its gradient of f'. The bounds are
    those of f on [0, 2] (the lower one is neared from the left of the jump and never reached); outside of
    [0, 2], f is defined and may exceed the upper one. A NaN in the outputs is an undefined row.

    Raises:
        UsageError: on a call with outputs that are not `(B, 1)`.
    """
    return Measure(
        metric=lambda outputs, targets, /: f(_column(outputs)).squeeze(1),  # noqa: ARG005
        stats=lambda outputs, targets, /: _column(outputs),  # noqa: ARG005
        columns=("x",),
        bounds=(1.0, 2.1),
        higher_is_better=False,
    )


EXAMPLE = '''
def metric(prediction, target):
    """How close the output x `(1,)` is to 1, wherever the point u `(1,)` lies."""
    return (-(prediction - 1.0).square().mean()).exp()
'''


def standard(*, level: Level = "sample") -> Standard:
    """The output x of each point and the point u itself, for plain functions of `(1,)` x and u.

    Raises:
        UsageError: a level other than "sample": a batch of points has no fixed number of statistics.
    """
    if level != "sample":
        raise UsageError(f"measure.level is {level!r}; a point is a sample, set it to sample")

    def stats(x: Tensor, u: Tensor, /) -> Tensor:
        return torch.cat([_column(x), u.to(_column(x).dtype)], 1)

    return Standard({"points": View(lambda x, u, /: (x.flatten(), u.flatten()), stats, ("x", "u"))})


def _column(outputs: Tensor) -> Tensor:
    """`(B, 1)` in at least fp32: half precision cannot tell 0.999 from 1."""
    if outputs.ndim != 2 or outputs.shape[1] != 1:
        raise UsageError(f"outputs of shape {tuple(outputs.shape)}; expected (B, 1), the x of each point")
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


class Curves(NamedTuple):
    """A fitted f on a grid, in units of f; all `(N,)` float32."""

    x: Tensor
    f: Tensor
    derivative: Tensor


def fitted_curves(surrogate: nn.Module) -> Curves:
    """Asks a surrogate of `step`, `(N, 1)` x to `(N,)` losses, for f and f' on a dense grid on [0, 2].

    The grid spares x = 1, where f has no derivative.
    """
    low, high = step().bounds
    x = torch.linspace(0.0, 2.0, 4000).requires_grad_()
    with torch.enable_grad():
        fitted = surrogate(x[:, None]) * (high - low) + low
        (slope,) = torch.autograd.grad(fitted.sum(), x)
    return Curves(x.detach(), fitted.detach(), slope)


def curve_errors(curves: Curves) -> dict[str, float]:
    """Mean absolute errors near the jump (|x - 1| < 0.05) and outside, in units of f and of f'.

    `derivative_sign_right_outside` is the share of points outside whose fitted derivative has the right sign.
    """
    outside = (curves.x - JUMP).abs() >= BAND
    slope = derivative(curves.x)
    errors = {"f": (curves.f - f(curves.x)).abs(), "derivative": (curves.derivative - slope).abs()}
    report = {}
    for name, error in errors.items():
        report[f"{name}_mae_outside"] = float(error[outside].mean())
        report[f"{name}_mae_near"] = float(error[~outside].mean())
    right = (curves.derivative.sign() == slope)[outside]
    return {**report, "derivative_sign_right_outside": float(right.double().mean())}
