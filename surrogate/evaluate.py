"""True numbers of a model on a split."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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
) -> Stage[dict[str, Any]]:
    """The score's numbers and, under `key`, the mean of the measure over its defined rows (None when there is none).

    The model is left in evaluation mode. Batches come in the order of the data set.
    """
    model.eval()
    plan = chunks(range(len(dataset)), batch_size)
    total = torch.zeros((), dtype=torch.float64)
    rows = 0
    for step, (inputs, targets) in enumerate(engine.moved(load_batches(dataset, plan)), 1):
        outputs = model(inputs)
        score.update(outputs, targets)
        values = measure.metric(outputs, targets).double().cpu()
        total += values.nansum()
        rows += int((~values.isnan()).sum())
        yield Progress("evaluate", step, len(plan))
    return {**score.compute(), key: float(total) / rows if rows else None}


def measure_key(name: str, measure: Measure) -> str:
    """The name of a measure's mean over rows among the numbers of a score, such as `iou@sample`."""
    return f"{name}@{measure.level}"
