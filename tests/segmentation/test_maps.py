"""What a plain function of label maps is handed beside the counts, and that it keeps the contract."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from surrogate.from_function import measure_from_function
from surrogate.protocols import Level
from surrogate.testing import check_measure
from surrogate_segmentation.standard import standard

VOID = 255
VIEWS = ("maps", "objects")


def labels_of(*at: tuple[int, int], label: int = 1) -> Tensor:
    """`(1, 12, 16)`: a class at some places."""
    labels = torch.zeros(1, 12, 16, dtype=torch.long)
    for row, column in at:
        labels[0, row, column] = label
    return labels


def stats(view: str, predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """The statistics of three classes and a model that has next to no doubt, by name."""
    made = standard(num_classes=3, ignore_index=VOID).views[view]
    logits = 20.0 * torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float()
    return dict(zip(made.columns, made.stats(logits, labels)[0].tolist(), strict=True))


def test_foreground_is_all_classes_but_the_first() -> None:
    truth, taken_for = labels_of((5, 5), (5, 6)), labels_of((5, 5), (5, 6), label=2)
    places, objects = (stats(view, taken_for, truth) for view in VIEWS)
    assert places["outline_recall_foreground"] == 1.0
    assert places["outline_recall_mean"] == 0.0
    assert places["offset_foreground"] == pytest.approx(0.0, abs=1e-3)
    assert objects["objects_recall_foreground"] == pytest.approx(1.0)
    assert objects["objects_recall_mean"] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_there_is_a_column_for_each_value(classes: int, view: str) -> None:
    made = standard(num_classes=classes, ignore_index=VOID).views[view]
    found = made.stats(torch.randn(2, classes, 5, 5), torch.zeros(2, 5, 5, dtype=torch.long))
    assert found.shape == (2, len(made.columns))


@pytest.mark.parametrize("level", ["sample", "batch"])
def test_a_class_that_is_predicted_alone_is_not_in_the_mean(level: Level) -> None:
    truth = torch.cat([labels_of((5, 5), (5, 6)), labels_of((5, 5), (5, 6))])
    predicted = torch.cat([labels_of((5, 5), (5, 6)), labels_of((5, 5), (5, 6))])
    predicted[1, 0, 15] = 2
    made = standard(num_classes=3, ignore_index=VOID, level=level).views["maps"]
    logits = 20.0 * torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float()
    mean = made.stats(logits, truth)[:, made.columns.index("surface_fp_mean")]
    assert mean.tolist() == pytest.approx([0.0] * len(mean))


def test_where_the_truth_has_no_class_the_predicted_ones_are_the_mean() -> None:
    assert stats("maps", labels_of((5, 5), label=2), labels_of())["surface_fp_mean"] == pytest.approx(1.0)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_masked_class_leaves_the_gradient_finite(classes: int, view: str) -> None:
    logits = torch.randn(2, classes, 5, 5, generator=torch.Generator().manual_seed(0))
    logits[0, 1:, 0, 0] = -torch.inf
    labels = torch.randint(classes, (2, 5, 5), generator=torch.Generator().manual_seed(1))
    labels[0, 0, 0] = 0
    logits.requires_grad_()
    standard(num_classes=classes, ignore_index=VOID).views[view].stats(logits, labels).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def offset(prediction: Tensor, target: Tensor) -> float:
    """Between the centres of the foreground, in pixels of 8; NaN where there is none in the truth."""
    own, true = ((labels == 1).nonzero().float() for labels in (prediction, target))
    if not len(true):
        return math.nan
    return min(1.0, float((own.mean(0) - true.mean(0)).norm()) / 8) if len(own) else 1.0


@pytest.mark.parametrize("level", ["sample", "batch"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("view", VIEWS)
def test_a_plain_function_of_maps_keeps_the_contract(view: str, classes: int, level: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, classes, 9, 7, generator=generator)
    labels = torch.randint(classes, (4, 9, 7), generator=generator)
    labels[0], labels[1, :3] = VOID, VOID
    factory = measure_from_function(offset, app="segmentation", takes=view, higher_is_better=False)
    check_measure(factory(num_classes=classes, ignore_index=VOID, level=level), logits, labels)
