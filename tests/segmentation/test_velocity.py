"""How fast statistics change along a move: going forward and going back twice agree, in every measure and view."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from surrogate import plugins
from surrogate.moves import _going_forward
from surrogate_segmentation.standard import standard

FACTS = {"num_classes": 4, "ignore_index": 255}
MEASURES: list[tuple[str, dict[str, Any]]] = [
    ("iou", {}),
    ("iou", {"level": "sample", "kernel": "reference"}),
    ("iou", {"statistics": "hinge"}),
    ("iou", {"statistics": "literal"}),
    ("boundary-iou", {}),
    ("boundary-f1", {}),
    ("image-iou", {}),
    ("worst-quartile-iou", {}),
]


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    outputs, way = torch.randn(2, 5, 4, 12, 13, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (5, 3, 4), generator=generator).repeat_interleave(4, 1)[:, :12].repeat_interleave(4, 2)
    labels = torch.nn.functional.pad(labels[:, :, :12], (0, 1), value=255)
    outputs.scatter_add_(1, labels.clamp(max=3)[:, None], torch.full_like(outputs[:, :1], 2.0))
    return outputs, way, labels


def assert_ways_agree(stats: Any) -> None:
    outputs, way, labels = example()
    forward = _going_forward(lambda at: stats(at, labels), outputs, way)
    assert forward is not None
    found, velocity = forward
    expected, twice = torch.autograd.functional.jvp(lambda at: stats(at, labels), outputs, way)
    torch.testing.assert_close(found, expected, equal_nan=True)
    defined = ~found.isnan().any(1)
    assert velocity[defined].any()
    torch.testing.assert_close(velocity[defined], twice[defined])


@pytest.mark.parametrize(("name", "options"), MEASURES)
def test_measures(name: str, options: dict[str, Any]) -> None:
    assert_ways_agree(plugins.load_measure("segmentation", name, facts=FACTS, options=options).stats)


@pytest.mark.parametrize("view", ["labels", "scores", "maps", "objects"])
def test_views_of_plain_functions(view: str) -> None:
    assert_ways_agree(standard(**FACTS).views[view].stats)
