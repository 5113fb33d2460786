"""Where the wrong pixels are: against scipy's distances, by hand, and enough for metrics of places."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from surrogate.from_function import measure_from_function
from surrogate.testing import check_measure
from surrogate_segmentation.counts import pixels
from surrogate_segmentation.places import COLUMNS, distances, place_stats
from surrogate_segmentation.standard import standard

VOID = 255


def confident(labels: Tensor, classes: int, *, by: float = 20.0) -> Tensor:
    """Logits of a model that gives these labels, `(B, H, W)`, with next to no doubt."""
    return by * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


def found(predicted: Tensor, labels: Tensor, *, classes: int = 2, together: bool = False) -> dict[str, list[float]]:
    """The statistics of class 1, by row."""
    logits = confident(predicted, classes)
    rows = place_stats(logits, pixels(logits, labels, ignore_index=VOID), labels.shape, together=together)[:, 1]
    return dict(zip(COLUMNS, rows.T.tolist(), strict=True))


def spot(*at: tuple[int, int], size: tuple[int, int] = (12, 16)) -> Tensor:
    """`(1, H, W)`: class 1 at some places."""
    labels = torch.zeros(1, *size, dtype=torch.long)
    for row, column in at:
        labels[0, row, column] = 1
    return labels


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**20))
def test_distances_are_scipys(height: int, width: int, seed: int) -> None:
    masks = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) > 0.9
    measured = distances(masks).view(masks.shape) * math.hypot(height, width)
    for mask, own in zip(masks.flatten(0, 1).numpy(), measured.flatten(0, 1).numpy(), strict=True):
        expected = distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, math.hypot(height, width))
        np.testing.assert_allclose(own, expected, atol=1e-4)


def test_distances_in_a_large_image_are_right_but_for_the_cells() -> None:
    mask = torch.zeros(1, 1, 130, 200, dtype=torch.bool)
    mask[0, 0, 90:97, 20:31] = True
    measured = distances(mask).view(130, 200).numpy() * math.hypot(130, 200)
    cell = math.hypot(130 / 64, 200 / 64)
    assert np.abs(measured - distance_transform_edt(~mask[0, 0].numpy())).max() <= 2 * cell


def test_a_false_alarm_far_away_weighs_more_than_one_close_by() -> None:
    truth = spot((5, 5), (5, 6), (6, 5), (6, 6))
    near, far = (found(truth | spot(at), truth) for at in ((5, 7), (5, 15)))
    diagonal = math.hypot(12, 16)
    assert near["far_fp"] == pytest.approx([1 / diagonal / 5])
    assert far["far_fp"] == pytest.approx([9 / diagonal / 5])
    assert far["farthest_fp"][0] > near["farthest_fp"][0]
    assert far["offset"][0] > near["offset"][0]
    assert near["outline_precision"] == [1.0]
    assert far["outline_precision"] == pytest.approx([0.8])
    assert near["far_fn"] == far["far_fn"] == [0.0]


def test_a_miss_is_as_far_as_the_nearest_hit() -> None:
    missed = found(spot((2, 2)), spot((2, 2), (2, 12)))
    assert missed["far_fn"] == pytest.approx([10 / math.hypot(12, 16) / 2])
    assert missed["outline_recall"] == pytest.approx([0.5])


def test_the_offset_is_between_the_centres() -> None:
    for row, column in ((11, 0), (0, 11), (6, 8)):
        moved = found(spot((0, 0)), spot((row, column)))
        assert moved["offset"] == pytest.approx([math.hypot(row, column) / math.hypot(12, 16)], abs=1e-3)
    assert found(spot(), spot((3, 3)))["offset"] == [1.0]
    assert found(spot((3, 3)), spot((3, 3)))["offset"] == pytest.approx([0.0], abs=1e-3)


def test_a_batch_taken_together_is_the_mean_by_pixels_of_the_masks() -> None:
    truth = torch.cat([spot((5, 5), (5, 6)), spot((1, 1))])
    predicted = torch.cat([spot((5, 5), (5, 6), (5, 9)), spot((1, 1))])
    alone, both = found(predicted, truth), found(predicted, truth, together=True)
    assert both["far_fp"] == pytest.approx([alone["far_fp"][0] * 3 / 4])


def test_a_step_to_the_truth_makes_an_error_smaller() -> None:
    truth, predicted = spot((5, 5), (5, 6)), spot((5, 5), (9, 12))
    logits = confident(predicted, 2, by=2.0).requires_grad_()
    rows = place_stats(logits, pixels(logits, truth, ignore_index=VOID), truth.shape, together=False)[0, 1]
    for name, sign in {"far_fp": -1, "farthest_fp": -1, "far_fn": -1, "farthest_fn": -1, "offset": -1}.items():
        (gradient,) = torch.autograd.grad(rows[COLUMNS.index(name)], logits, retain_graph=True)
        way = confident(truth, 2) - logits.detach()
        assert sign * float((gradient * way * (predicted != truth).unsqueeze(1)).sum()) > 0, name


def test_foreground_is_all_classes_but_the_first() -> None:
    truth, taken_for = spot((5, 5), (5, 6)), 2 * spot((5, 5), (5, 6))
    made = standard(num_classes=3, ignore_index=VOID).views["maps"]
    stats = dict(zip(made.columns, made.stats(confident(taken_for, 3), truth)[0].tolist(), strict=True))
    assert stats["outline_recall_foreground"] == 1.0
    assert stats["outline_recall_mean"] == 0.0
    assert stats["offset_foreground"] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_masked_class_leaves_the_gradient_finite(classes: int) -> None:
    logits = torch.randn(2, classes, 5, 5, generator=torch.Generator().manual_seed(0))
    logits[0, 1:, 0, 0] = -torch.inf
    labels = torch.randint(classes, (2, 5, 5), generator=torch.Generator().manual_seed(1))
    labels[0, 0, 0] = 0
    logits.requires_grad_()
    standard(num_classes=classes, ignore_index=VOID).views["maps"].stats(logits, labels).sum().backward()
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
def test_a_plain_function_of_maps_keeps_the_contract(classes: int, level: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, classes, 9, 7, generator=generator)
    labels = torch.randint(classes, (4, 9, 7), generator=generator)
    labels[0], labels[1, :3] = VOID, VOID
    factory = measure_from_function(offset, app="segmentation", takes="maps", higher_is_better=False)
    check_measure(factory(num_classes=classes, ignore_index=VOID, level=level), logits, labels)
