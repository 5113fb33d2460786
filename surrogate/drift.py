"""Whether a surrogate still follows its metric while the model that it trains moves away from where it was fitted.

The fit knows the outputs of one model, under several regimes. So while finetuning, the rows of the validation samples
are put to the surrogate each epoch, next to their true values; when it does not follow any more it is fitted again, to
fresh rows with the old ones beside them (as in MetricGAN+ and LANCER), or training stops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surrogate.approximator import Surrogate
from surrogate.collect import Running
from surrogate.fidelity import NEGLIGIBLE, fidelity
from surrogate.protocols import Measure

KEY = "surrogate"
"""Of these numbers among the validation scores."""
FEW = 20
"""Rows, and below that many a rank correlation says nothing."""


class Agreement:
    """Predicted next to true losses, all batches together; updated as a `Score` is."""

    def __init__(self, measure: Measure, surrogate: Surrogate) -> None:
        self._measure, self._surrogate = measure, surrogate
        self._running = Running(measure, 1)
        self._rows: list[Tensor] = []

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds a batch."""
        here = self._running.measure()
        outputs = outputs.float()
        stats, true = here.stats(outputs, targets), here.loss_of(here.metric(outputs, targets))
        predicted, outside = self._surrogate(torch.nan_to_num(stats)), self._surrogate.outside(stats)
        self._rows.append(torch.stack([predicted.to(true), true, outside.to(true)], 1)[~true.isnan()].cpu())
        self._running.add(0, outputs, targets)

    def compute(self) -> dict[str, Any]:
        """`{"surrogate": {"spearman", "mae", "outside", "rows"}}`; None where there is nothing to tell, as of the order
        of few rows. Where one value is predicted for rows that differ, the rank correlation is 0.

        `outside` is the share of rows with a statistic outside of the range that the fit has seen.
        """
        predicted, true, outside = torch.cat(self._rows).unbind(1)
        found = fidelity(predicted, true, torch.arange(len(true)))
        share = float(outside.double().mean()) if len(outside) else None
        spearman = found["spearman"] if len(true) >= FEW else None
        if spearman is None and len(true) >= FEW and (true != true[0]).any():
            spearman = 0.0  # one prediction for all
        told = {"spearman": spearman, "mae": found["mae"], "outside": share, "rows": len(true)}
        return {KEY: told}


def drifted(numbers: dict[str, Any], *, least: float) -> bool:
    """Whether what `Agreement` found is a rank correlation below `least` that matters."""
    spearman, mae = numbers["spearman"], numbers["mae"]
    return spearman is not None and spearman < least and mae > NEGLIGIBLE
