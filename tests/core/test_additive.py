"""Sums and what is made of them: one pass gives what two gave."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from surrogate.additive import additive_measure, observed
from surrogate.protocols import Additive, Level


@pytest.mark.parametrize("level", ["sample", "batch", "dataset"])
def test_observed_is_statistics_and_metric_and_passes_over_the_batch_once(level: Level) -> None:
    passes = []

    def sums(outputs: Tensor, targets: Tensor, /) -> Tensor:
        passes.append(len(outputs))
        present = torch.stack([targets * (outputs > 0.5), targets, targets * outputs], -1)
        return present.unsqueeze(1)

    additive = Additive(sums, metric=lambda s: s[:, 0] / s[:, 1], stats=lambda s: s[:, 2:] / s[:, 1:2].clamp_min(1.0))
    measure = additive_measure(additive, ("soft",), level=level)
    outputs, targets = torch.rand(4, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 1.0, 0.0, 1.0])
    expected = measure.stats(outputs, targets), measure.metric(outputs, targets)
    passes.clear()
    found = observed(measure, outputs, targets)
    assert len(passes) == (2 if level == "dataset" else 1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert found[1].isnan().any() == (level == "sample")
