"""True numbers of a model on a split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from surrogate.additive import batch_sums, sums_of
from surrogate.batches import even_chunks, load_batches
from surrogate.engine import Engine
from surrogate.errors import UsageError
from surrogate.progress import Progress, Stage
from surrogate.protocols import Dataset, Measure, Score

_KEPT = 2**24
"""Numbers of outputs and targets that are kept to look at a split as a whole: 64 to 128 MiB."""


@torch.no_grad()
def evaluate(
    engine: Engine,
    model: nn.Module,
    dataset: Dataset,
    *,
    score: Score,
    measure: Measure,
    key: str,
    batch_size: int,
    beside: Sequence[Counter] = (),
) -> Stage[dict[str, Any]]:
    """The score's numbers and, under `key`, the mean of the measure over its defined rows (None when there is none).

    At levels "batch" and "dataset" the rows are those of the whole split (see `Mean`). `beside` may count more of the
    same outputs.

    The model is left in evaluation mode. Batches come in the order of the data set.

    Raises:
        UsageError: outputs have no dimension beside that of the samples.
    """
    model.eval()
    plan = even_chunks(range(len(dataset)), batch_size)
    mean = Mean(measure, key)
    counters: tuple[Counter, ...] = (score, mean, *beside)
    for step, (inputs, targets) in enumerate(engine.moved(load_batches(dataset, plan)), 1):
        outputs = model(inputs)
        _check_shape(outputs)
        for counter in counters:
            counter.update(outputs, targets)
        yield Progress("evaluate", step, len(plan))
    return {name: value for counter in counters for name, value in counter.compute().items()}


def _check_shape(outputs: Tensor) -> None:
    """What regimes and moves work on; a shape of `(B,)` is broadcast to `(B, B)` there."""
    if outputs.ndim < 2:
        raise UsageError(
            f"model: gives outputs of shape {tuple(outputs.shape)}; expected (B, C, ...), such as (B, 1) of one number "
            "for a sample, by unsqueeze(1)"
        )


class Counter(Protocol):
    """What sees all batches and then has numbers to tell, by name; a `Score` is one."""

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...

    def compute(self) -> dict[str, Any]: ...


class Mean:
    """Mean of a measure over its defined rows, under a name.

    At level "sample" the rows are those of all batches. Else they are those of the whole split, as a metric is
    reported: from its sums where the measure has some, from all outputs where those are few and of one shape, and from
    one batch after the other elsewhere.
    """

    def __init__(self, measure: Measure, key: str) -> None:
        self._measure, self._key = measure, key
        self._sums: Tensor | None = None
        self._values: list[Tensor] = []
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._held = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds a batch."""
        if self._measure.level == "sample":
            self._add(outputs, targets)
        elif self._measure.additive is not None:
            sums = batch_sums(self._measure, outputs, targets).double()
            self._sums = sums if self._sums is None else self._sums + sums
        elif self._held <= _KEPT and self._fits(outputs, targets):
            self._kept.append((outputs.cpu(), targets.cpu()))
            self._held += outputs.numel() + targets.numel()
        else:
            self._held = _KEPT + 1
            self._release()
            self._add(outputs, targets)

    def compute(self) -> dict[str, Any]:
        """In units of the metric; None without a defined row."""
        if self._kept and self._held <= _KEPT:
            whole = tuple(torch.cat(parts) for parts in zip(*self._kept, strict=True))
            values = [self._measure.metric(*whole).double()]
        else:
            self._release()
            values = self._values if self._sums is None else [sums_of(self._measure).metric(self._sums)]
        mean = float(torch.cat(values).nanmean()) if values else math.nan
        return {self._key: mean if math.isfinite(mean) else None}

    def _fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether samples are of the shape of those before."""
        return all(
            before.shape[1:] == now.shape[1:]
            for before, now in zip(self._kept[0] if self._kept else (), (outputs, targets), strict=False)
        )

    def _add(self, outputs: Tensor, targets: Tensor) -> None:
        self._values.append(self._measure.metric(outputs, targets).double().cpu())

    def _release(self) -> None:
        for outputs, targets in self._kept:
            self._add(outputs, targets)
        self._kept = []


def measure_key(name: str, measure: Measure) -> str:
    """The name of a measure's mean over rows among the numbers of a score, such as `iou@sample`."""
    return f"{name}@{measure.level}"
