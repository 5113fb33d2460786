"""Counts and IoU statistics against scikit-learn and brute force over tiny masks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from surrogate.errors import DataError, UsageError
from surrogate_segmentation import kernels
from surrogate_segmentation.counts import counts, counts_of_all, hinge, pixels, probabilities, soft_counts
from surrogate_segmentation.measures import COLUMNS, iou

VOID = 11


def batch(seed: int, *, size=(3, 4, 5, 6), void: float = 0.2, dtype=torch.float32):
    b, c, h, w = size
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, c, h, w, generator=g, dtype=dtype)
    labels = torch.randint(c, (b, h, w), generator=g)
    labels[torch.rand(b, h, w, generator=g) < void] = VOID
    return logits, labels


def brute_force(logits, labels, statistics):
    """(B, C, 3) soft sums by a loop over pixels, from the table in the docstring of `iou`."""
    b, c, h, w = logits.shape
    sums = np.zeros((b, c, 3))
    for n in range(b):
        for i in range(h):
            for j in range(w):
                y, x = int(labels[n, i, j]), logits[n, :, i, j].double().numpy()
                if y == VOID:
                    continue
                p = np.exp(x - x.max())
                p /= p.sum()
                a = int(x.argmax())
                margin = max(0.0, 1 + max(x[k] for k in range(c) if k != y) - x[y])
                if statistics == "hinge":
                    lost = margin / (1 + margin)
                    weights = (1 - lost, lost, lost)
                else:
                    weights = (p[y], p[a], p[y] if statistics == "literal" else 1 - p[y])
                if a == y:
                    sums[n, y, 0] += weights[0]
                else:
                    sums[n, a, 1] += weights[1]
                    sums[n, y, 2] += weights[2]
    return sums


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6), void=st.sampled_from([0.0, 0.2, 1.0]))
@settings(max_examples=40, deadline=None)
def test_hard_counts_are_those_of_sklearn(seed, classes, void):
    logits, labels = batch(seed, size=(2, classes, 5, 7), void=void)
    found = counts(pixels(logits, labels, ignore_index=VOID), classes)
    for n in range(2):
        kept = labels[n] != VOID
        matrix = np.zeros((classes, classes))
        if kept.any():
            matrix = confusion_matrix(labels[n][kept], logits[n].argmax(0)[kept], labels=range(classes))
        tp = matrix.diagonal()
        expected = np.stack([tp, matrix.sum(0) - tp, matrix.sum(1) - tp], 1)
        assert np.array_equal(found[n].numpy(), expected)


def test_ties_go_to_the_first_class():
    logits = torch.zeros(1, 3, 1, 2)
    px = pixels(logits, torch.tensor([[[0, 2]]]), ignore_index=VOID)
    assert px.predicted.tolist() == [[0, 0]]
    assert counts(px, 3)[0].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("statistics", ["one-vs-rest", "literal", "hinge"])
@pytest.mark.parametrize("level", ["sample", "batch"])
@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int32, torch.int64])
def test_statistics_against_a_loop_over_pixels(statistics, level, label_dtype):
    logits, labels = batch(3)
    measure = iou(num_classes=4, ignore_index=VOID, level=level, statistics=statistics)
    stats = measure.stats(logits, labels.to(label_dtype))
    soft = brute_force(logits, labels, statistics)
    hard = counts(pixels(logits, labels, ignore_index=VOID), 4).numpy()
    if level == "batch":
        soft, hard = soft.sum(0), hard.sum(0)
    soft, hard = soft.reshape(-1, 3), hard.reshape(-1, 3)
    assert (hard.sum(1) > 0).all()
    expected = np.concatenate([soft / soft.sum(1, keepdims=True), soft / np.maximum(hard, 1)], 1)
    np.testing.assert_allclose(stats.numpy(), expected, rtol=2e-5, atol=1e-6)
    metric = measure.metric(logits, labels)
    np.testing.assert_allclose(metric.numpy(), hard[:, 0] / hard.sum(1), rtol=1e-6)
    assert stats.shape == (len(metric), len(COLUMNS))


@pytest.mark.parametrize("statistics", ["one-vs-rest", "literal", "hinge"])
@pytest.mark.parametrize("level", ["sample", "batch"])
def test_gradcheck(statistics, level):
    logits, labels = batch(5, size=(2, 3, 3, 4), dtype=torch.float64)
    measure = iou(num_classes=3, ignore_index=VOID, level=level, statistics=statistics)
    assert measure.stats(logits, labels).isfinite().all()
    assert torch.autograd.gradcheck(lambda x: measure.stats(x, labels), logits.requires_grad_())


def test_counts_of_all_pixels_against_a_loop() -> None:
    logits, labels = batch(3, dtype=torch.float64)
    expected = torch.zeros(3, 4, 3, dtype=torch.float64)
    for n, i, j in itertools.product(range(3), range(5), range(6)):
        y, p = int(labels[n, i, j]), np.exp(logits[n, :, i, j].numpy())
        if y == VOID:
            continue
        for k, share in enumerate(p / p.sum()):
            expected[n, k, 0 if k == y else 1] += share
            expected[n, k, 2] += 1 - share if k == y else 0
    found = counts_of_all(probabilities(logits), pixels(logits, labels, ignore_index=VOID))
    torch.testing.assert_close(found, expected)


def test_counts_of_all_pixels_of_sure_outputs_are_the_hard_ones() -> None:
    logits, labels = batch(4, dtype=torch.float64)
    px = pixels(logits, labels, ignore_index=VOID)
    torch.testing.assert_close(counts_of_all(probabilities(1e6 * logits), px), counts(px, 4).double())


def test_gradcheck_of_counts_of_all_pixels() -> None:
    logits, labels = batch(5, size=(2, 3, 2, 2), dtype=torch.float64)
    px = pixels(logits, labels, ignore_index=VOID)
    assert torch.autograd.gradcheck(lambda x: counts_of_all(probabilities(x), px), logits.requires_grad_())


def test_what_a_large_object_misses_is_not_rounding() -> None:
    """Nine thousand pixels of next to no doubt: 1 - P and sums less sums would be 0, or noise."""
    logits = torch.tensor([20.0, 0.0])[None, :, None, None].expand(1, 2, 1, 9000)
    labels = torch.zeros(1, 1, 9000, dtype=torch.int64)
    found = counts_of_all(probabilities(logits), pixels(logits, labels, ignore_index=VOID))[0]
    missed = 9000 * math.exp(-20) / (1 + math.exp(-20))
    assert found[0, 2].item() == pytest.approx(missed, rel=1e-4)
    assert found[1, 1].item() == pytest.approx(missed, rel=1e-4)


def test_hinge_is_the_multi_class_hinge_of_torch():
    logits, labels = batch(1, size=(2, 5, 4, 4), void=0.0)
    found = hinge(logits, pixels(logits, labels, ignore_index=VOID)).flatten()
    flat = logits.movedim(1, -1).reshape(-1, 5)
    # multi_margin_loss sums over the other classes; with all but the strongest of them pushed away it is the maximum
    true = labels.flatten()
    others = flat.scatter(1, true[:, None], -math.inf)
    pair = torch.stack([flat.gather(1, true[:, None])[:, 0], others.amax(1)], 1)
    expected = 2 * torch.nn.functional.multi_margin_loss(
        pair, torch.zeros(len(pair), dtype=torch.int64), reduction="none"
    )
    torch.testing.assert_close(found, expected)


def test_saturated_logits_make_the_soft_statistics_hard():
    _, labels = batch(2)
    predicted = torch.randint(4, labels.shape, generator=torch.Generator().manual_seed(9))
    logits = torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1) * 100.0
    measure = iou(num_classes=4, ignore_index=VOID)
    torch.testing.assert_close(measure.stats(logits, labels)[:, 0], measure.metric(logits, labels))


def test_void_and_absent_classes_are_undefined_and_void_has_no_gradient():
    logits, labels = batch(4, size=(2, 3, 4, 4))
    labels[1] = VOID
    logits.requires_grad_()
    measure = iou(num_classes=3, ignore_index=VOID, level="sample")
    stats, metric = measure.stats(logits, labels), measure.metric(logits, labels)
    assert metric[3:].isnan().all()
    assert torch.equal(stats.isnan().all(1), metric.isnan())
    assert torch.equal(stats.isnan().any(1), metric.isnan())
    stats[~metric.isnan()].sum().backward()
    void = (labels == VOID)[:, None].expand_as(logits)
    assert (logits.grad[void] == 0).all()
    assert (logits.grad[~void] != 0).any()


@pytest.mark.parametrize("factor", [2, 3])
def test_statistics_do_not_depend_on_the_image_size(factor):
    logits, labels = batch(6)
    measure = iou(num_classes=4, ignore_index=VOID)
    large = logits.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    large_labels = labels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    torch.testing.assert_close(measure.stats(large, large_labels), measure.stats(logits, labels))


def test_the_sign_of_a_missed_pixel():
    """Raising the true class at a missed pixel lowers FN one-vs-rest and raises it as printed in Eq. 2."""
    logits = torch.tensor([[[[0.0, 2.0]], [[1.0, 0.0]]]], requires_grad=True)  # pixel 0: predicted 1, is 0
    labels = torch.tensor([[[0, 0]]])

    def slope(statistics: str) -> float:
        stats = iou(num_classes=2, ignore_index=VOID, statistics=statistics).stats(logits, labels)
        (gradient,) = torch.autograd.grad(stats[0, COLUMNS.index("fn_mean")], logits)
        return float(gradient[0, 0, 0, 0])

    assert slope("one-vs-rest") < 0 < slope("literal")


@pytest.mark.parametrize(("key", "value"), [("level", "image"), ("statistics", "onevsrest")])
def test_unknown_settings_are_named(key, value):
    with pytest.raises(UsageError, match=rf"measure\.{key} is '{value}'.*known"):
        iou(num_classes=2, ignore_index=VOID, **{key: value})


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 4, 3), (2, 1, 3, 4)])
def test_labels_of_another_size_are_told(shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape, dtype=torch.int64)
    for counted in (soft_counts, kernels.soft_counts):
        with pytest.raises(DataError, match=r"labels of shape .* for logits of \(2, 5, 3, 4\); expected \(B, H, W\)"):
            counted(torch.zeros(2, 5, 3, 4), labels, ignore_index=255)
