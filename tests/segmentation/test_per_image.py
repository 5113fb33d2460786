"""IoU of the classes of images and of the worst quarter of them, against loops and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score
from torch.nn.functional import one_hot

from surrogate.errors import DataError
from surrogate.testing import check_measure
from surrogate_segmentation.per_image import image_iou, worst_quarter, worst_quartile_iou

VOID = 9
FACTORIES = [image_iou, worst_quartile_iou]


def example(seed=0, images=6):
    """Images of growing difficulty, the last one all void; class 3 is neither predicted nor present."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (images, 5, 6), generator=g)
    noise = torch.linspace(0.3, 2.0, images).view(-1, 1, 1, 1)
    logits = 2.0 * one_hot(labels, 4).movedim(-1, 1) + noise * torch.randn(images, 4, 5, 6, generator=g)
    logits[:, 3] = -20.0
    labels[torch.rand(labels.shape, generator=g) < 0.1] = VOID
    labels[-1] = VOID
    return logits, labels


def by_scikit_learn(logits, labels):
    """`(B, 4)` IoU of each class in the truth or the prediction of an image, NaN for the others."""
    values = np.full((len(labels), 4), math.nan)
    for row, predicted, label in zip(values, logits.argmax(1), labels, strict=True):
        predicted, label = predicted[label != VOID], label[label != VOID]
        found = sorted({*predicted.tolist(), *label.tolist()})
        if found:
            row[found] = jaccard_score(label, predicted, labels=found, average=None)
    return values


def worst_images(values):
    """Indices of the lowest quarter, rounded up, of the defined images by mean IoU."""
    means = [math.nan if np.isnan(row).all() else np.nanmean(row) for row in values]
    defined = [image for image in np.argsort(means, kind="stable") if not math.isnan(means[image])]
    return sorted(defined[: math.ceil(len(defined) / 4)])


@pytest.mark.parametrize("seed", range(3))
def test_image_iou_is_that_of_scikit_learn(seed):
    logits, labels = example(seed)
    found = image_iou(num_classes=4, ignore_index=VOID).metric(logits, labels)
    assert found.tolist() == pytest.approx(by_scikit_learn(logits, labels).ravel().tolist(), nan_ok=True)


@pytest.mark.parametrize("images", [2, 5, 6, 10])
def test_worst_quartile_is_the_mean_of_the_lowest_quarter_rounded_up(images):
    logits, labels = example(images, images)
    values = by_scikit_learn(logits, labels)
    expected = np.nanmean(values[worst_images(values)], axis=1).mean()
    found = worst_quartile_iou(num_classes=4, ignore_index=VOID).metric(logits, labels)
    assert found.tolist() == pytest.approx([expected])


@given(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.7, math.nan]), min_size=1, max_size=12))
@settings(deadline=None)
def test_worst_quarter_takes_the_lowest_ones(values):
    chosen = worst_quarter(torch.tensor(values))
    defined = sorted(value for value in values if not math.isnan(value))
    taken = sorted(value for value, take in zip(values, chosen.tolist(), strict=True) if take)
    assert taken == defined[: math.ceil(len(defined) / 4)]


@pytest.mark.parametrize("factory", FACTORIES)
def test_contract(factory):
    logits, labels = example()
    perfect = one_hot(labels.where(labels != VOID, 0), 4).movedim(-1, 1) * 12.0
    check_measure(factory(num_classes=4, ignore_index=VOID), logits, labels, perfect=perfect)


@pytest.mark.parametrize("factory", FACTORIES)
def test_gradcheck(factory):
    logits, labels = example(1, images=3)
    measure = factory(num_classes=4, ignore_index=VOID)
    defined = ~measure.metric(logits, labels).isnan()
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: measure.stats(x, labels)[defined], logits)


@pytest.mark.parametrize("factory", FACTORIES)
def test_saturated_logits_make_the_analytic_form_the_metric(factory):
    logits, labels = example(2)
    measure = factory(num_classes=4, ignore_index=VOID)
    hard = 100.0 * one_hot(logits.argmax(1), 4).movedim(-1, 1)
    assert measure.analytic is not None
    torch.testing.assert_close(
        measure.analytic(measure.stats(hard, labels)), measure.metric(hard, labels), equal_nan=True
    )


def test_only_the_worst_images_have_a_gradient():
    logits, labels = example()
    logits.requires_grad_()
    worst_quartile_iou(num_classes=4, ignore_index=VOID).stats(logits, labels)[0, 0].backward()
    touched = logits.grad.abs().sum((1, 2, 3)) > 0
    assert touched.nonzero().flatten().tolist() == worst_images(by_scikit_learn(logits.detach(), labels))


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_batch_without_labels_is_undefined(factory):
    logits, labels = example()
    measure = factory(num_classes=4, ignore_index=VOID)
    void = torch.full_like(labels, VOID)
    assert measure.metric(logits, void).isnan().all()
    assert measure.stats(logits, void).isnan().all()


@pytest.mark.parametrize("factory", FACTORIES)
def test_logits_of_other_classes_are_refused(factory):
    with pytest.raises(DataError, match="logits have 4 classes, the data 2"):
        factory(num_classes=2, ignore_index=VOID).metric(*example())
