"""The hand-made losses against slow definitions in numpy, against libraries, and at their edges."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score, jaccard_score
from torch import Tensor

from surrogate.errors import DataError, UsageError
from surrogate_segmentation.baselines import (
    BASELINES,
    SegmentationLoss,
    baseline,
    median_frequency_weights,
)

CLASSES, VOID = 4, 255
PIXELS = torch.tensor([400, 100, 50, 10])
every_loss = pytest.mark.parametrize("name", BASELINES)


def build(name: str, *, ignore_index: int = VOID) -> SegmentationLoss:
    return baseline(name, num_classes=CLASSES, ignore_index=ignore_index, class_pixels=lambda: PIXELS)


def scene(seed: int = 0, *, size: tuple[int, int, int] = (2, 4, 5)) -> tuple[Tensor, Tensor]:
    """Logits in float64 and labels: a fifth void, class 3 in no image, class 2 in the first one alone."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size[0], CLASSES, *size[1:], dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, size, generator=generator)
    labels[1:][labels[1:] == 2] = 0
    labels[torch.rand(size, generator=generator) < 0.2] = VOID
    return logits, labels


def gradient(loss: SegmentationLoss, logits: Tensor, labels: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(logits, labels), logits)[0]


# Slow definitions: flat lists of labelled pixels, one class at a time.


def labelled_pixels(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `(N, C)` and labels `(N,)` of the pixels that are not void."""
    exp = np.exp(logits.movedim(-3, -1).numpy().reshape(-1, CLASSES))
    flat = labels.numpy().reshape(-1)
    return (exp / exp.sum(axis=1, keepdims=True))[flat != VOID], flat[flat != VOID]


def mean_over_present(loss: Callable[[np.ndarray, np.ndarray], float], probs: np.ndarray, truth: np.ndarray) -> list:
    return [loss(probs[:, c], (truth == c).astype(float)) for c in range(CLASSES) if (truth == c).any()]


def iou_appx(p: np.ndarray, y: np.ndarray) -> float:
    return 1 - sum(p * y) / sum(p + y - p * y)


def dice(p: np.ndarray, y: np.ndarray) -> float:
    return 1 - 2 * sum(p * y) / (sum(p**2) + sum(y**2))


def lovasz(p: np.ndarray, y: np.ndarray) -> float:
    """The Lovasz extension as an integral over level sets: that of the Jaccard loss of {errors >= t}, dt."""
    errors = abs(y - p)
    levels = np.unique([0.0, *errors])
    total = 0.0
    for low, high in itertools.pairwise(levels):
        wrong = errors >= high
        predicted = np.where(wrong, 1 - y, y)
        overlap, union = sum(predicted * y), sum(np.maximum(predicted, y))
        total += (high - low) * (1 - overlap / union)
    return total


def oracle(name: str, logits: Tensor, labels: Tensor) -> float:
    probs, truth = labelled_pixels(logits, labels)
    of_truth = probs[np.arange(len(truth)), truth]
    weight = np.array([75 / 400, 75 / 100, 75 / 50, 75 / 10])[truth]
    match name:
        case "ce":
            return float(np.mean(-np.log(of_truth)))
        case "weighted-ce":
            return float(np.sum(-weight * np.log(of_truth)) / np.sum(weight))
        case "focal":
            return float(np.mean(-((1 - of_truth) ** 2) * np.log(of_truth)))
        case "iou-appx":
            rows = [mean_over_present(iou_appx, *labelled_pixels(*image)) for image in zip(logits, labels, strict=True)]
            return float(np.mean([row for image in rows for row in image]))
        case "iou-appx-batch":
            return float(np.mean(mean_over_present(iou_appx, probs, truth)))
        case "dice":
            return float(np.mean(mean_over_present(dice, probs, truth)))
        case "lovasz":
            return float(np.mean(mean_over_present(lovasz, probs, truth)))
    raise AssertionError(name)


@every_loss
@pytest.mark.parametrize("seed", range(5))
def test_equals_its_slow_definition(name: str, seed: int) -> None:
    logits, labels = scene(seed)
    assert build(name)(logits, labels).item() == pytest.approx(oracle(name, logits, labels), rel=1e-10)


@every_loss
def test_gradcheck(name: str) -> None:
    logits, labels = scene(size=(2, 2, 3))
    assert torch.autograd.gradcheck(lambda x: build(name)(x, labels), logits.requires_grad_())


@pytest.mark.parametrize("name", ["ce", "weighted-ce"])
def test_cross_entropy_equals_torch(name: str) -> None:
    logits, labels = scene()
    loss = build(name)
    weight = None if name == "ce" else median_frequency_weights(PIXELS).double()
    theirs = logits.clone().requires_grad_()
    expected = F.cross_entropy(theirs, labels, weight, ignore_index=VOID)
    torch.testing.assert_close(loss(logits, labels), expected)
    torch.testing.assert_close(gradient(loss, logits, labels), torch.autograd.grad(expected, theirs)[0])


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("iou-appx", jaccard_score),
        ("iou-appx-batch", jaccard_score),
        ("lovasz", jaccard_score),
        ("dice", f1_score),
    ],
)
def test_certain_outputs_give_the_hard_metric(name: str, score: Callable[..., float]) -> None:
    """With one-hot outputs the losses of regions are 1 - mean IoU, or F1, over the classes present."""
    logits, labels = scene(7, size=(3, 6, 6))
    predicted = logits.argmax(dim=1)
    certain = 200.0 * F.one_hot(predicted, CLASSES).movedim(-1, 1)
    groups = zip(labels, predicted, strict=True) if name == "iou-appx" else [(labels, predicted)]
    expected = []
    for truth, guess in groups:
        truth, guess = truth[truth != VOID], guess[truth != VOID]
        expected += list(score(truth, guess, labels=truth.unique(), average=None, zero_division=0))
    assert build(name)(certain, labels).item() == pytest.approx(1 - np.mean(expected), abs=1e-6)


@every_loss
def test_perfect_outputs_cost_nothing_and_opposite_ones_most(name: str) -> None:
    _, labels = scene()
    truth = F.one_hot(labels.where(labels != VOID, 0), CLASSES).movedim(-1, 1).float()
    loss = build(name)
    assert loss(100 * truth, labels).item() == pytest.approx(0, abs=1e-6)
    assert loss(-100 * truth, labels).item() >= 0.999


@every_loss
def test_void_pixels_are_not_seen(name: str) -> None:
    logits, labels = scene()
    void = (labels == VOID).unsqueeze(1)
    other = torch.where(void, 30 * torch.randn_like(logits), logits)
    loss = build(name)
    assert torch.equal(loss(logits, labels), loss(other, labels))
    ours, theirs = gradient(loss, logits, labels), gradient(loss, other, labels)
    assert torch.equal(ours, theirs)
    assert ours.masked_select(void).eq(0).all()
    assert ours.masked_select(~void).ne(0).any()


@every_loss
@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 1, CLASSES, 255])
def test_any_number_may_be_void(name: str, ignore_index: int) -> None:
    """0 and 1 too, where a class has the number; pixels of that class are then not seen."""
    logits, labels = scene(3)
    void = (labels == VOID) | (labels == ignore_index)
    renumbered = torch.where(void, ignore_index, labels)
    expected = build(name)(logits, torch.where(void, VOID, labels))
    assert torch.equal(build(name, ignore_index=ignore_index)(logits, renumbered), expected)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_batch_of_void_gives_nothing(name: str, dtype: torch.dtype) -> None:
    logits = torch.randn(2, CLASSES, 3, 3, dtype=dtype, requires_grad=True)
    loss = build(name)(logits, torch.full((2, 3, 3), VOID))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


@every_loss
def test_an_image_of_void_changes_nothing(name: str) -> None:
    logits, labels = scene()
    more = (
        torch.cat([logits, torch.randn_like(logits[:1])]),
        torch.cat([labels, torch.full_like(labels[:1], VOID)]),
    )
    torch.testing.assert_close(build(name)(*more), build(name)(logits, labels))


@every_loss
def test_the_place_of_a_pixel_does_not_matter(name: str) -> None:
    logits, labels = scene()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    moved = logits.flatten(2)[..., order].view_as(logits), labels.flatten(1)[:, order].view_as(labels)
    torch.testing.assert_close(build(name)(*moved), build(name)(logits, labels))


@every_loss
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_any_integer_dtype_of_labels(name: str, dtype: torch.dtype) -> None:
    logits, labels = scene()
    assert torch.equal(build(name)(logits, labels.to(dtype)), build(name)(logits, labels))


@every_loss
def test_autocast_and_half_precision_compute_in_float32(name: str) -> None:
    logits, labels = scene()
    half = (10 * logits).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build(name)(half, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, build(name)(half.detach().float(), labels))
    assert half.grad is not None
    assert half.grad.isfinite().all()


@every_loss
def test_extreme_logits_stay_finite(name: str) -> None:
    logits, labels = scene()
    extreme = (1e4 * logits).float()
    assert build(name)(extreme, labels).isfinite()
    assert gradient(build(name), extreme, labels).isfinite().all()


def test_lovasz_gradient_keeps_its_digits_on_many_pixels() -> None:
    """In float32 the difference of two neighbouring J among 250,000 pixels is off by percents."""
    logits = torch.randn(1, CLASSES, 500, 500, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 500, 500, dtype=torch.uint8)
    ours, exact = (gradient(build("lovasz"), x, labels) for x in (logits, logits.double()))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-12)


def test_only_weighted_ce_counts_the_pixels() -> None:
    def refuse() -> Tensor:
        raise AssertionError("counted")

    for name in BASELINES:
        if name != "weighted-ce":
            baseline(name, num_classes=CLASSES, ignore_index=VOID, class_pixels=refuse)
    with pytest.raises(AssertionError, match="counted"):
        baseline("weighted-ce", num_classes=CLASSES, ignore_index=VOID, class_pixels=refuse)


def test_median_frequency_weights_of_a_class_without_pixels() -> None:
    torch.testing.assert_close(median_frequency_weights(torch.tensor([0, 8, 2])), torch.tensor([0, 5 / 8, 5 / 2]))
    with pytest.raises(DataError, match="no labelled pixel"):
        median_frequency_weights(torch.zeros(3, dtype=torch.int64))


def test_the_first_name_is_cross_entropy() -> None:
    assert BASELINES[0] == "ce"
    assert len(set(BASELINES)) == len(BASELINES) == 7


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown loss 'lovas'; did you mean 'lovasz'"):
        build("lovas")


@pytest.mark.parametrize(
    "shapes",
    [((2, 4, 3, 3), (2, 6, 6)), ((2, 5, 3, 3), (2, 3, 3)), ((2, 4, 3, 3), (2, 1, 3, 3)), ((4, 3, 3), (3, 3))],
)
def test_wrong_shapes_are_refused_in_one_line(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    logits, labels = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(UsageError, match=r"expected labels \(B, H, W\)") as refused:
        build("ce")(logits, labels.long())
    assert "\n" not in str(refused.value)
