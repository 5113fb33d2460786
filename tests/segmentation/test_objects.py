"""Objects: connected masks against scipy's, the statistics by brute force over objects and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from torch import Tensor

from surrogate_segmentation.counts import class_probabilities, pixels
from surrogate_segmentation.objects import COLUMNS, components, object_stats, objects, partners

VOID = 255


def drawn(*shape: int, classes: int, seed: int) -> Tensor:
    """Random labels, in which neighbours are often of one class."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(shape[0], classes, *shape[1:], generator=generator)
    return torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1).argmax(1)


def found(logits: Tensor, labels: Tensor, *, together: bool = False) -> dict[str, Tensor]:
    """The statistics of class 1, by row."""
    px = pixels(logits, labels, ignore_index=VOID)
    probabilities = class_probabilities(logits, px)
    rows = object_stats(px, *probabilities, labels.shape, logits.shape[1], together=together)[:, 0]
    return dict(zip(COLUMNS, rows.T, strict=True))


def confident(labels: Tensor, classes: int, *, by: float = 30.0) -> Tensor:
    """Logits of a model that gives these labels."""
    return by * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).double()


def squares(*corners: tuple[int, int], side: int = 3) -> Tensor:
    """`(1, 20, 20)`: squares of class 1."""
    labels = torch.zeros(1, 20, 20, dtype=torch.long)
    for row, column in corners:
        labels[0, row : row + side, column : column + side] = 1
    return labels


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**20))
def test_components_are_scipys(height: int, width: int, classes: int, seed: int) -> None:
    labels = drawn(2, height, width, classes=classes, seed=seed)
    first = components(labels.float())
    for image, own in zip(labels.numpy(), first.numpy(), strict=True):
        places = np.arange(height * width).reshape(height, width)
        for k in range(classes):
            numbered, count = label(image == k)
            for number in range(1, count + 1):
                assert (own[numbered == number] == places[numbered == number].min()).all()


def test_a_winding_mask_is_one_object() -> None:
    winding = torch.zeros(1, 41, 41)
    winding[:, ::2] = 1.0
    winding[:, 1::4, -1] = 1.0
    winding[:, 3::4, 0] = 1.0
    assert components(winding)[winding > 0].unique().tolist() == [0]


def brute(prediction: npt.NDArray[Any], truth: npt.NDArray[Any]) -> dict[str, float]:
    """Of the objects of class 1 of one image, where there is no doubt anywhere."""
    (own, n_own), (true, n_true) = label(prediction == 1), label(truth == 1)
    recall = [(prediction[true == i] == 1).mean() for i in range(1, n_true + 1)]
    precision = [(truth[own == j] == 1).mean() for j in range(1, n_own + 1)]
    best = []
    for j in range(1, n_own + 1):
        shared = [((own == j) & (true == i)).sum() for i in range(1, n_true + 1)]
        i = len(shared) - int(np.argmax(shared[::-1])) if shared else 0  # of equals the last, as by places
        best.append(max(shared, default=0) / ((own == j) | (true == i)).sum() if max(shared, default=0) else 0.0)

    def mean(values: list[float], whole: float) -> float:
        return sum(values) / whole if whole else 0.0

    def step(s: float) -> float:
        return float(s**3 / (s**3 + (1 - s) ** 3))

    return {
        "objects_recall": mean(recall, n_true),
        "objects_precision": mean(precision, n_own),
        "objects_found": mean([step(s) for s in recall], n_true),
        "objects_right": mean([step(s) for s in precision], n_own),
        "objects_matched": mean([step(s) for s in best], (n_own + n_true) / 2),
        "objects_quality": mean([s * step(s) for s in best], (n_own + n_true) / 2),
        "objects_touched": mean([max(s, 1e-6) ** 0.25 for s in recall], n_true),
        "objects_touching": mean([max(s, 1e-6) ** 0.25 for s in precision], n_own),
        "objects_more": mean([n_own], n_own + n_true),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 14), st.integers(2, 14), st.integers(2, 3), st.integers(0, 2**20))
def test_without_doubt_the_statistics_are_those_of_a_loop_over_objects(
    height: int, width: int, classes: int, seed: int
) -> None:
    predicted, labels = drawn(4, height, width, classes=classes, seed=seed).chunk(2)
    labels = torch.where(drawn(2, height, width, classes=4, seed=seed + 1) == 0, VOID, labels)
    own = found(confident(predicted, classes), labels)
    for image in range(2):
        given = torch.where(labels[image] == VOID, VOID, predicted[image])
        if not ((given == 1) | (labels[image] == 1)).any():
            continue
        for name, expected in brute(given.numpy(), labels[image].numpy()).items():
            assert float(own[name][image]) == pytest.approx(expected, abs=1e-3), name


def test_partners_share_the_most_pixels() -> None:
    predicted, true = squares((2, 2), (12, 12), side=6), squares((2, 2), (2, 6), (14, 14), side=3)
    own, others = (objects(torch.where(labels > 0, labels, -1).float()) for labels in (predicted, true))
    partner, shared = partners(own.first, others.first, ((predicted > 0) & (true > 0)).flatten(1))
    firsts = own.is_first.nonzero()[:, 1]
    assert partner[0, firsts].tolist() == [2 * 20 + 2, 14 * 20 + 14]
    assert shared[0, firsts].tolist() == [9, 9]


def test_void_pixels_belong_to_no_object() -> None:
    truth = squares((2, 2), (10, 10))
    truth[0, 10:13, 10:13] = VOID
    own = found(confident(squares((2, 2), (10, 10)), 2), truth)
    assert float(own["objects_recall"]) == pytest.approx(1.0)
    assert float(own["objects_more"]) == pytest.approx(0.5)


def test_a_touched_object_is_found_in_part() -> None:
    truth = squares((2, 2), (10, 10))
    touched = squares((2, 2))
    touched[0, 10, 10] = 1
    own = {name: float(column) for name, column in found(confident(touched, 2), truth).items()}
    assert own["objects_recall"] == pytest.approx((1 + 1 / 9) / 2)
    assert own["objects_touched"] == pytest.approx((1 + (1 / 9) ** 0.25) / 2)
    assert own["objects_found"] == pytest.approx(0.5, abs=0.01)
    assert own["objects_touching"] == pytest.approx(1.0)


def test_a_step_to_the_truth_makes_statistics_better() -> None:
    truth, predicted = squares((2, 2), (10, 10)), squares((2, 2), (2, 12))
    predicted[0, 10, 10:13] = 1
    logits = confident(predicted, 2, by=2.0).requires_grad_()
    way = (confident(truth, 2) - logits.detach()) * (predicted != truth).unsqueeze(1)
    for name, column in found(logits, truth).items():
        (gradient,) = torch.autograd.grad(column.sum(), logits, retain_graph=True)
        towards = float((gradient * way).sum())
        assert towards < 0 if name == "objects_more" else towards > 0, name


def test_a_batch_taken_together_counts_all_objects_alike() -> None:
    truth = torch.cat([squares((2, 2)), squares((2, 2), (10, 10), (10, 2))])
    predicted = torch.cat([squares(), squares((2, 2), (10, 10), (10, 2))])
    own = found(confident(predicted, 2), truth, together=True)
    assert own["objects_recall"].tolist() == pytest.approx([0.75], abs=1e-3)


def test_nothing_to_find_and_nothing_found_is_perfect() -> None:
    own = {name: float(column) for name, column in found(confident(squares(), 2), squares()).items()}
    assert own.pop("objects_more") == 0.5
    assert set(own.values()) == {1.0}
    missed = found(confident(squares(), 2), squares((2, 2)))
    assert float(missed["objects_recall"]) == pytest.approx(0.0, abs=1e-5)


def test_a_large_object_that_is_missed_keeps_its_value_and_slope_in_float32() -> None:
    truth = torch.ones(1, 256, 256, dtype=torch.long)
    noise = torch.randn(1, 2, 256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    missing = 0.3 * noise + torch.tensor([9.0, 0.0]).view(1, 2, 1, 1)
    values, slopes = [], []
    for dtype in (torch.float32, torch.float64):
        logits = missing.to(dtype).requires_grad_()
        value = found(logits, truth)["objects_touched"].sum()
        value.backward()
        assert logits.grad is not None
        values.append(value.item())
        slopes.append(logits.grad.abs().sum().item())
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-3)


def test_doubt_weighs_a_false_alarm_by_the_given_class_and_a_miss_by_the_true_one() -> None:
    truth, given = squares((2, 2)), squares((2, 2), (10, 10))
    logits = confident(given, 3)
    logits[0, :, 10:13, 10:13] = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log().view(3, 1, 1)
    logits[0, :, 2, 2] = torch.tensor([0.3, 0.1, 0.6], dtype=torch.float64).log()  # class 2 instead of 1
    own = {name: float(column) for name, column in found(logits, truth).items()}
    assert own["objects_recall"] == pytest.approx((8 + 0.1) / 9)
    assert own["objects_precision"] == pytest.approx((1 + 0.5) / 2)
    assert own["objects_more"] == pytest.approx(1.5 / 2.5)
