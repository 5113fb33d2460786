"""The network that is fitted from soft statistics to the true loss, and its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from surrogate import frozen
from surrogate.atomic import write_atomic
from surrogate.errors import DataError, UsageError, nearest
from surrogate.monotone import monotone_layers

Activation = Literal["relu", "tanh", "silu", "softplus"]


_FEW = 20_000
"""Elements up to which four calls cost more than they save: those of the rows of a training step."""


class _FastTanh(torch.autograd.Function):
    """tanh(x) = 2 sigmoid(2x) - 1: on a CPU torch's sigmoid takes a fifth of the time of its tanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.sigmoid(2.0 * x).mul_(2.0).sub_(1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        backward: Tensor = torch.ops.aten.tanh_backward(gradient, y)  # with a derivative of its own: slopes are fitted
        return backward


class Tanh(nn.Module):
    """Elementwise tanh, to within rounding of `torch.tanh` and faster on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        if x.device.type != "cpu" or x.numel() < _FEW:
            return torch.tanh(x)
        return _FastTanh.apply(x)  # type: ignore[no-untyped-call,no-any-return]


_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": Tanh,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


class Surrogate(nn.Module):
    """An MLP from `(R, F)` statistics to `(R,)` predicted loss (NeuroIoU, Eq. 3 and 4; 4 layers of 100 units).

    Its inputs are chosen by column name and standardised inside, so it is called on a measure's statistics as they are.
    """

    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    index: Tensor

    def __init__(
        self,
        columns: Sequence[str],
        *,
        inputs: Sequence[str] = (),
        depth: int = 4,
        width: int = 100,
        activation: Activation = "tanh",
        directions: Sequence[int] = (),
    ) -> None:
        """`columns` are all the statistics of the measure; `inputs` the ones used, all of them when empty.

        `directions`, one for each input, make it monotone by construction: the loss never falls with an input of 1,
        never rises with one of -1, and is free in one of 0.

        Raises:
            UsageError: an input that is not a column.
        """
        super().__init__()
        self.columns = tuple(columns)
        self.inputs = tuple(inputs) or self.columns
        self.depth, self.width, self.activation = depth, width, activation
        check_inputs(self.inputs, self.columns)
        self.register_buffer("index", torch.tensor([self.columns.index(name) for name in self.inputs]))
        self.register_buffer("mean", torch.zeros(len(self.inputs)))
        self.register_buffer("scale", torch.ones(len(self.inputs)))
        self.register_buffer("low", torch.full((len(self.inputs),), -torch.inf))
        self.register_buffer("high", torch.full((len(self.inputs),), torch.inf))
        self.directions = tuple(directions)
        widths = [len(self.inputs), *[width] * depth]
        if self.directions:
            self.layers: nn.Sequential = monotone_layers(widths, self.directions)
        else:
            layers: list[nn.Module] = []
            for fan_in, fan_out in pairwise(widths):
                layers += [nn.Linear(fan_in, fan_out), _ACTIVATIONS[activation]()]
            self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, stats: Tensor) -> Tensor:
        """`(R, F)` float statistics, in the order of `columns`, to `(R,)` predicted loss in [0, 1]; 0 is best.

        The value is clamped to [0, 1]; the gradient passes as if it were not, so that a row at the bound can leave it.
        """
        chosen = self._chosen(stats)
        found = frozen.predicted(self, chosen)
        if found is None:
            latent = self.through_layers(chosen)
            found = latent.clamp(0.0, 1.0).detach() + (latent - latent.detach())
        return found

    def latent(self, stats: Tensor) -> Tensor:
        """`(R,)` output of the network before it is clamped: beyond [0, 1] for rows at the metric's bounds."""
        return self.through_layers(self._chosen(stats))

    def _chosen(self, stats: Tensor) -> Tensor:
        """`(R, inputs)`, those of the columns that are inputs."""
        return (stats if self.inputs == self.columns else stats.index_select(1, self.index)).to(self.mean.dtype)

    def through_layers(self, chosen: Tensor) -> Tensor:
        """As `latent`, of `(R, inputs)` statistics."""
        scaled: Tensor = (chosen - self.mean) / self.scale
        result: Tensor = self.layers(scaled).squeeze(1)
        return result

    @torch.no_grad()
    def standardise(self, stats: Tensor) -> None:
        """Sets scaler and seen ranges from `(R, F)` finite rows; a constant column is only centred."""
        chosen = stats.index_select(1, self.index.to(stats.device)).double()
        spread = chosen.std(0, correction=0)
        self.mean.copy_(chosen.mean(0))
        self.scale.copy_(torch.where(spread > 1e-9, spread, 1.0))
        self.low.copy_(chosen.amin(0))
        self.high.copy_(chosen.amax(0))

    def outside(self, stats: Tensor) -> Tensor:
        """`(R,)` bool: which rows have an input outside the range that the fit has seen."""
        chosen = stats.index_select(1, self.index)
        return ((chosen < self.low) | (chosen > self.high)).any(1)


def check_inputs(inputs: Sequence[str], columns: Sequence[str]) -> None:
    """Raises `UsageError` at an input that is no column."""
    for name in inputs:
        if name not in columns:
            raise UsageError(f"fit.columns: no statistic {name!r}; {nearest(name, columns)}")


class Card(BaseModel):
    """What a surrogate's file says of it besides the weights. Names only, never code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    app: str
    measure: str
    options: dict[str, Any]
    """Settings of the measure's factory."""
    facts: dict[str, Any]
    """Facts of the task that the measure was built with, such as num_classes and ignore_index."""
    version: int
    level: str
    columns: tuple[str, ...]
    inputs: tuple[str, ...]
    depth: int
    width: int
    activation: Activation
    directions: tuple[int, ...] = ()
    fidelity: dict[str, Any]


def save(surrogate: Surrogate, card: Card, path: Path) -> None:
    """Writes one `.safetensors` file, atomically; the same surrogate gives the same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in surrogate.state_dict().items()}
    text = json.dumps(card.model_dump(mode="json"), sort_keys=True)
    write_atomic(path, safetensors.torch.save(tensors, metadata={"surrogate": text}))


def load(path: Path) -> tuple[Surrogate, Card]:
    """Reads what `save` wrote, onto the CPU.

    Raises:
        DataError: the file is missing, damaged, or not a surrogate.
    """
    card = read_card(path)
    try:
        surrogate = Surrogate(
            card.columns,
            inputs=card.inputs,
            depth=card.depth,
            width=card.width,
            activation=card.activation,
            directions=card.directions,
        )
        surrogate.load_state_dict(safetensors.torch.load_file(path))
    except (SafetensorError, RuntimeError, OSError, UsageError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: weights do not fit their own description ({reason}); fit again") from None
    if any(tensor.isnan().any() for tensor in surrogate.state_dict().values()):
        raise DataError(f"{path}: damaged, weights that are NaN; fit again")
    return surrogate, card


def read_card(path: Path) -> Card:
    """The description of a surrogate's file, without its weights; raises `DataError` as `load` does."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a surrogate, make one with `surrogate fit`")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("surrogate")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged or not safetensors ({error}); fit again") from None
    if text is None:
        raise DataError(f"{path}: safetensors, but not of a surrogate; expected a file written by `surrogate fit`")
    try:
        return Card.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: description unreadable at {where!r} ({first['msg']}); fit again") from None
