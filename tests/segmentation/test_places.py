"""Where the wrong pixels are: by hand, and enough for metrics of places."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from surrogate_segmentation.counts import class_probabilities, pixels
from surrogate_segmentation.places import COLUMNS, place_stats

VOID = 255


def confident(labels: Tensor, classes: int, *, by: float = 20.0) -> Tensor:
    """Logits of a model that gives these labels, `(B, H, W)`, with next to no doubt."""
    return by * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


def found(logits: Tensor, labels: Tensor, *, together: bool = False) -> dict[str, Tensor]:
    """The statistics of class 1, by row."""
    px = pixels(logits, labels, ignore_index=VOID)
    probabilities = class_probabilities(logits, px)
    rows = place_stats(px, *probabilities, labels.shape, logits.shape[1], together=together)[:, 0]
    return dict(zip(COLUMNS, rows.T, strict=True))


def sure(predicted: Tensor, labels: Tensor, *, classes: int = 2, together: bool = False) -> dict[str, list[float]]:
    """The same of a model that has next to no doubt."""
    numbers = found(confident(predicted, classes), labels, together=together)
    return {name: column.tolist() for name, column in numbers.items()}


def spot(*at: tuple[int, int], size: tuple[int, int] = (12, 16)) -> Tensor:
    """`(1, H, W)`: class 1 at some places."""
    labels = torch.zeros(1, *size, dtype=torch.long)
    for row, column in at:
        labels[0, row, column] = 1
    return labels


DIAGONAL = math.hypot(12, 16)


def test_a_false_alarm_far_away_weighs_more_than_one_close_by() -> None:
    truth = spot((5, 5), (5, 6), (6, 5), (6, 6))
    near, far = (sure(truth | spot(at), truth) for at in ((5, 7), (5, 15)))
    assert near["surface_fp"] == pytest.approx([1 / DIAGONAL / 5])
    assert far["surface_fp"] == pytest.approx([9 / DIAGONAL / 5])
    assert near["farthest_fp"] == pytest.approx([1 / DIAGONAL / 5**0.25], rel=0.01)
    assert far["farthest_fp"] == pytest.approx([9 / DIAGONAL / 5**0.25], rel=0.01)
    assert far["offset"][0] > near["offset"][0]
    assert near["outline_precision"] == [1.0]
    assert far["outline_precision"] == pytest.approx([0.8])
    assert near["surface_fn"] == far["surface_fn"] == [0.0]


def test_a_miss_is_as_far_as_the_nearest_hit() -> None:
    missed = sure(spot((2, 2)), spot((2, 2), (2, 12)))
    assert missed["surface_fn"] == pytest.approx([10 / DIAGONAL / 2])
    assert missed["outline_recall"] == pytest.approx([0.5])


def test_doubt_weighs_a_false_alarm_by_the_given_class_and_a_miss_by_the_true_one() -> None:
    truth, given = spot((2, 2), (2, 12)), spot((2, 2), (9, 2))
    logits = confident(given, 3)
    logits[0, :, 9, 2] = torch.tensor([0.2, 0.5, 0.3]).log()
    logits[0, :, 2, 12] = torch.tensor([0.6, 0.1, 0.3]).log()
    weighed = found(logits, truth)
    assert float(weighed["surface_fp"]) == pytest.approx(0.5 * 7 / DIAGONAL / 2)
    assert float(weighed["surface_fn"]) == pytest.approx(0.9 * 10 / DIAGONAL / 2)
    assert float(weighed["outline_precision"]) == pytest.approx(0.75)
    assert float(weighed["farthest_fn"]) == pytest.approx((0.9 / 2) ** 0.25 * 10 / DIAGONAL, rel=1e-3)


def test_an_outline_that_is_near_counts_as_near_whatever_the_confidence() -> None:
    truth = spot(*((row, column) for row in range(3, 8) for column in range(3, 8)))
    wider = spot(*((row, column) for row in range(2, 9) for column in range(2, 9)))
    for by in (0.5, 2.0, 20.0):
        assert found(confident(wider, 2, by=by), truth)["outline_precision"].tolist() == [1.0]


def test_nothing_found_is_as_far_as_can_be_and_nothing_to_find_is_perfect() -> None:
    missed = sure(spot(), spot((3, 3)))
    assert missed["surface_fn"] == missed["farthest_fn"] == missed["offset"] == pytest.approx([1.0])
    assert missed["outline_precision"] == missed["outline_recall"] == [0.0]
    empty = sure(spot(), spot())
    assert empty["outline_precision"] == empty["outline_recall"] == [1.0]
    assert empty["surface_fn"] == empty["offset"] == [0.0]


def test_in_a_large_image_what_is_near_is_not_taken_for_nothing() -> None:
    truth = torch.zeros(1, 512, 512, dtype=torch.long)
    truth[:, :131] = 1
    wider = truth.clone()
    wider[:, :136] = 1  # in the same cells of 8 x 8
    found = sure(wider, truth)
    assert 3 * 512 <= found["surface_fp"][0] * math.hypot(512, 512) * (2 * 136 + 2 * 512) < 8 * 512
    assert found["farthest_fp"][0] > 1e-3


def test_the_offset_is_between_the_centres() -> None:
    for row, column in ((11, 0), (0, 11), (6, 8)):
        moved = sure(spot((0, 0)), spot((row, column)))
        assert moved["offset"] == pytest.approx([math.hypot(row, column) / DIAGONAL], abs=1e-3)
    assert sure(spot((3, 3)), spot((3, 3)))["offset"] == pytest.approx([0.0], abs=1e-3)


def test_a_batch_taken_together_is_the_mean_by_pixels_of_the_outlines() -> None:
    truth = torch.cat([spot((5, 5), (5, 6)), spot((1, 1))])
    predicted = torch.cat([spot((5, 5), (5, 6), (5, 9)), spot((1, 1))])
    alone, both = sure(predicted, truth), sure(predicted, truth, together=True)
    assert both["surface_fp"] == pytest.approx([alone["surface_fp"][0] * 3 / 4])


def test_a_step_to_the_truth_makes_an_error_smaller() -> None:
    truth, predicted = spot((5, 5), (5, 9)), spot((5, 5), (9, 13))
    logits = confident(predicted, 2, by=2.0).requires_grad_()
    rows = found(logits, truth)
    way = (confident(truth, 2) - logits.detach()) * (predicted != truth).unsqueeze(1)
    for name, column in rows.items():
        (gradient,) = torch.autograd.grad(column.sum(), logits, retain_graph=True)
        towards = float((gradient * way).sum())
        assert towards > 0 if name.startswith("outline") else towards < 0, name
