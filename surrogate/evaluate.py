"""True numbers of a model on a split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from surrogate.additive import batch_sums, sums_of
from surrogate.batches import chunks, load_batches
from surrogate.engine import Engine
from surrogate.progress import Progress, Stage
from surrogate.protocols import Dataset, Measure, Score


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

    At level "dataset" the rows are those of the sums over the whole split. `beside` may count more of the same outputs.

    The model is left in evaluation mode. Batches come in the order of the data set.
    """
    model.eval()
    plan = chunks(range(len(dataset)), batch_size)
    mean = Mean(measure, key)
    counters: tuple[Counter, ...] = (score, mean, *beside)
    for step, (inputs, targets) in enumerate(engine.moved(load_batches(dataset, plan)), 1):
        outputs = model(inputs)
        for counter in counters:
            counter.update(outputs, targets)
        yield Progress("evaluate", step, len(plan))
    return {name: value for counter in counters for name, value in counter.compute().items()}


class Counter(Protocol):
    """What sees all batches and then has numbers to tell, by name; a `Score` is one."""

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...

    def compute(self) -> dict[str, Any]: ...


class Mean:
    """Mean of a measure over its defined rows, all batches together, under a name."""

    def __init__(self, measure: Measure, key: str) -> None:
        self._measure, self._key = measure, key
        self._sums: Tensor | None = None
        self._values: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds a batch."""
        if self._measure.level == "dataset":
            sums = batch_sums(self._measure, outputs, targets).double()
            self._sums = sums if self._sums is None else self._sums + sums
        else:
            self._values.append(self._measure.metric(outputs, targets).double().cpu())

    def compute(self) -> dict[str, Any]:
        """In units of the metric; None without a defined row."""
        values = self._values if self._sums is None else [sums_of(self._measure).metric(self._sums)]
        mean = float(torch.cat(values).nanmean()) if values else math.nan
        return {self._key: mean if math.isfinite(mean) else None}


def measure_key(name: str, measure: Measure) -> str:
    """The name of a measure's mean over rows among the numbers of a score, such as `iou@sample`."""
    return f"{name}@{measure.level}"
