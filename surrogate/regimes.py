"""Changed outputs, so that a fit covers where training will go and a certificate can ask which way is up.

Everything works on outputs of any shape `(B, C, ...)` next to the outputs of a perfect model of the same shape. Chance
comes from the generator alone (see `surrogate.draws`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor

from surrogate.draws import normal, uniform
from surrogate.errors import UsageError, nearest

Change = Callable[[Tensor, Tensor, Generator], Tensor]


def change(name: str, outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:
    """`outputs` under the regime of that name; raises `UsageError` when there is none."""
    check_regimes([name])
    return REGIMES[name](outputs, perfect, generator)


def check_regimes(names: Iterable[str]) -> None:
    """Raises `UsageError` at a name that is no regime or comes twice, and where there is none at all."""
    names = list(names)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"collect.regimes is {names}; expected different names, at least one of {', '.join(REGIMES)}")
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
    noise = normal(outputs.shape, outputs, generator).to(outputs)
    return noise.mul_(_uniform(0.1, 1.0, outputs, generator) * outputs.std(correction=0)).add_(outputs)


def _shifted(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    shift = normal((*outputs.shape[:2], *[1] * (outputs.dim() - 2)), outputs, generator).to(outputs)
    return outputs + shift * _uniform(0.1, 1.0, outputs, generator) * outputs.std(correction=0)


def _towards(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:
    return torch.lerp(outputs, perfect, _uniform(0.0, 1.0, outputs, generator) * _part(outputs, generator))


def _away(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:
    return torch.lerp(outputs, perfect, -_uniform(0.0, 0.5, outputs, generator) * _part(outputs, generator))


def _empty(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    batch, channels = outputs.shape[:2]
    offset = _uniform(2.0, 8.0, outputs, generator) * outputs.std(correction=0)
    if channels == 1:
        return outputs + offset * _uniform(-1.0, 1.0, outputs, generator).sign()
    chosen = torch.randint(channels, (batch,), generator=generator)
    one_hot = torch.nn.functional.one_hot(chosen, channels).to(outputs)
    return outputs + offset * one_hot.view(batch, channels, *[1] * (outputs.dim() - 2))


def _perfect(outputs: Tensor, perfect: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    return perfect


REGIMES: dict[str, Change] = {
    "model": _model,
    "sharper": _sharper,
    "softer": _softer,
    "noisy": _noisy,
    "shifted": _shifted,
    "towards": _towards,
    "away": _away,
    "empty": _empty,
    "perfect": _perfect,
}
"""As the model gives them; more and less confident; with noise on every element; with an offset per channel; a random
part of the elements some of the way to the perfect outputs, and away from them; nearly everything given to one channel
(with a single one: up or down), so that nothing is found of the others; the perfect outputs. Amounts are drawn for each
sample."""


def _uniform(low: float, high: float, like: Tensor, generator: Generator) -> Tensor:
    amounts = torch.rand(len(like), generator=generator) * (high - low) + low
    return amounts.to(like).view(-1, *[1] * (like.dim() - 1))


def _part(like: Tensor, generator: Generator) -> Tensor:
    """`(B, 1, ...)`: 1 at a random part of the elements, 0 elsewhere; how large a part is drawn for each sample."""
    share = torch.rand(len(like), *[1] * (like.dim() - 1), generator=generator).to(like.device)
    return (uniform((len(like), 1, *like.shape[2:]), like, generator) < share).to(like)
