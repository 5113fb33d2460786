"""The contract of a measure's sums, which level "dataset" lives by."""

from __future__ import annotations

import torch
from torch import Tensor

from surrogate.additive import defined_stats
from surrogate.protocols import Measure
from surrogate.testing.demands import demand, same


def check_sums(measure: Measure, outputs: Tensor, targets: Tensor) -> None:
    """Sums of parts add up to those of the whole, and metric and statistics of them are the measure's own.

    Nothing to look at where a measure has no `additive`.
    """
    additive = measure.additive
    if additive is None:
        return
    with torch.no_grad():
        sums = additive.sums(outputs, targets)
        parts = [additive.sums(outputs[b : b + 1], targets[b : b + 1]) for b in range(len(outputs))]
        demand(
            sums.ndim == 3 and len(sums) == len(outputs),
            f"additive.sums: shape {tuple(sums.shape)}; return (B, k, A), the A sums of k rows of each sample",
        )
        demand(
            bool(sums.isfinite().all()),
            "additive.sums: not finite; give 0 where there is nothing to add, and divide in metric and stats",
        )
        demand(
            same(torch.cat(parts).sum(0), sums.sum(0)),
            "additive.sums: those of the samples one by one do not add up to those of the batch; sum, do not average, "
            "and keep samples apart",
        )
        rows = sums.flatten(0, 1) if measure.level == "sample" else sums.sum(0)
        for name, found, expected in (
            ("metric", additive.metric(rows), measure.metric(outputs, targets)),
            ("stats", defined_stats(additive, rows), measure.stats(outputs, targets)),
        ):
            demand(
                same(found, expected),
                f"additive.{name}: of the sums, it differs from `{name}` of the batch; make the measure by "
                "surrogate.additive.additive_measure, which derives one from the other",
            )
