"""Changed outputs, so that a fit covers where training will go and a certificate can ask which way is up.

Everything works on outputs of any shape `(B, ...)` next to the outputs of a perfect model of the same shape. Numbers
are drawn from the generator alone, on the CPU, so that every device draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor

from surrogate.errors import UsageError, nearest

Change = Callable[[Tensor, Tensor, Generator], Tensor]


def change(name: str, outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:
    """`outputs` under the regime of that name; raises `UsageError` when there is none."""
    check_regimes([name])
    return REGIMES[name](outputs, perfect, generator)


def check_regimes(names: Iterable[str]) -> None:
    """Raises `UsageError` at a name that is no regime."""
    for name in names:
        if name not in REGIMES:
            raise UsageError(f"collect.regimes: no regime {name!r}; {nearest(name, REGIMES)}")


def _model(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    return outputs


def _sharper(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    return outputs * _uniform(1.2, 4.0, outputs, generator)


def _softer(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    return outputs * _uniform(0.2, 0.9, outputs, generator)


def _noisy(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    noise = _normal(outputs.shape, outputs, generator)
    return outputs + noise * _uniform(0.1, 1.0, outputs, generator) * outputs.std(correction=0)


def _shifted(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    shift = _normal((*outputs.shape[:2], *[1] * (outputs.dim() - 2)), outputs, generator)
    return outputs + shift * _uniform(0.1, 1.0, outputs, generator) * outputs.std(correction=0)


def _towards(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:
    return torch.lerp(outputs, perfect, _uniform(0.0, 1.0, outputs, generator))


def _away(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:
    return torch.lerp(outputs, perfect, -_uniform(0.0, 0.5, outputs, generator))


REGIMES: dict[str, Change] = {
    "model": _model,
    "sharper": _sharper,
    "softer": _softer,
    "noisy": _noisy,
    "shifted": _shifted,
    "towards": _towards,
    "away": _away,
}
"""As the model gives them; more and less confident; with noise on every element; with an offset per channel; part of
the way to the perfect outputs, and away from them. Amounts are drawn for each sample."""


def _uniform(low: float, high: float, like: Tensor, generator: Generator) -> Tensor:
    amounts = torch.rand(len(like), generator=generator) * (high - low) + low
    return amounts.to(like).view(-1, *[1] * (like.dim() - 1))


def _normal(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator).to(like)
