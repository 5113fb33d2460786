"""Boundaries and their measures against loops over the pixels of tiny masks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from surrogate.errors import DataError, UsageError
from surrogate.testing import check_measure
from surrogate_segmentation.bands import band, eroded, near
from surrogate_segmentation.boundary import F1_COLUMNS, IOU_COLUMNS, boundary_f1, boundary_iou

VOID = 9
CLASSES = 3
FACTORIES = [boundary_iou, boundary_f1]


@st.composite
def masks(draw):
    """Predicted and true labels of one tiny image, void pixels among the true ones, and a width."""
    height, breadth = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    cells = height * breadth
    predicted = draw(st.lists(st.integers(0, CLASSES - 1), min_size=cells, max_size=cells))
    true = draw(st.lists(st.sampled_from([0, 1, 2, VOID]), min_size=cells, max_size=cells))
    shape = (1, height, breadth)
    return torch.tensor(predicted).view(shape), torch.tensor(true).view(shape), draw(st.integers(1, 3))


def as_logits(predicted, scale=50.0):
    return one_hot(predicted, CLASSES).movedim(-1, 1) * scale


def mask_of(labels, true, cls):
    """The pixels of a class as a set of (row, column); void pixels are in none."""
    _, height, breadth = labels.shape
    return {(r, c) for r in range(height) for c in range(breadth) if labels[0, r, c] == cls and true[0, r, c] != VOID}


def square(pixel, width):
    reach = range(-width, width + 1)
    return {(pixel[0] + dr, pixel[1] + dc) for dr, dc in itertools.product(reach, reach)}


def rim(mask, width):
    return {pixel for pixel in mask if not square(pixel, width) <= mask}


def iou_by_loops(predicted, true, cls, width):
    p, t = (rim(mask_of(labels, true, cls), width) for labels in (predicted, true))
    return len(p & t) / len(p | t) if p | t else math.nan


def f1_by_loops(predicted, true, cls, width):
    p, t = (rim(mask_of(labels, true, cls), 1) for labels in (predicted, true))
    if not p | t:
        return math.nan
    precision = sum(bool(square(x, width) & t) for x in p) / max(len(p), 1)
    recall = sum(bool(square(x, width) & p) for x in t) / max(len(t), 1)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize(("factory", "oracle"), [(boundary_iou, iou_by_loops), (boundary_f1, f1_by_loops)])
@given(masks())
@settings(max_examples=100, deadline=None)
def test_values_are_those_of_a_loop_over_pixels(factory, oracle, drawn):
    predicted, true, width = drawn
    measure = factory(num_classes=CLASSES, ignore_index=VOID, width=width)
    found = measure.metric(as_logits(predicted), true)
    assert found.tolist() == pytest.approx([oracle(predicted, true, k, width) for k in range(CLASSES)], nan_ok=True)


@given(masks())
@settings(max_examples=50, deadline=None)
def test_band_is_what_an_erosion_takes_away_and_near_is_a_square(drawn):
    predicted, true, width = drawn
    labels, others = (torch.where(true == VOID, -1, of).float() for of in (predicted, true))
    for found, belongs in (
        (band(labels, width), lambda mask, _: rim(mask, width)),
        (near(labels, others, width), lambda mask, other: {x for x in mask if square(x, width) & other}),
    ):
        expected = set().union(*(belongs(mask_of(predicted, true, k), mask_of(true, true, k)) for k in range(CLASSES)))
        assert {tuple(x) for x in found[0].nonzero().tolist()} == expected


def test_an_erosion_is_a_min_pool():
    values = torch.rand(2, 7, 5, generator=torch.Generator().manual_seed(0))
    expected = -torch.nn.functional.max_pool2d(-values[:, None], 5, stride=1, padding=2)[:, 0]
    assert torch.equal(eroded(values, 2), expected)


def example(seed=0):
    """Blocks of classes with noise; an absent class, some void pixels, and an image that is all void."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (3, 3, 4), generator=g).repeat_interleave(4, 1).repeat_interleave(4, 2)
    logits = 2.0 * one_hot(labels, 4).movedim(-1, 1) + 1.5 * torch.randn(3, 4, 12, 16, generator=g)
    logits[:, 3] = -20.0  # neither predicted nor present
    labels[torch.rand(labels.shape, generator=g) < 0.1] = VOID
    labels[2] = VOID
    return logits, labels


@pytest.mark.parametrize("level", ["sample", "batch", "dataset"])
@pytest.mark.parametrize("factory", FACTORIES)
def test_contract(factory, level):
    logits, labels = example()
    perfect = one_hot(labels.where(labels != VOID, 0), 4).movedim(-1, 1) * 12.0
    measure = factory(num_classes=4, ignore_index=VOID, level=level)
    check_measure(measure, logits, labels, perfect=perfect)


@pytest.mark.parametrize("factory", FACTORIES)
def test_gradcheck(factory):
    logits, labels = (part[:1, ..., :6, :6] for part in example(1))
    measure = factory(num_classes=4, ignore_index=VOID, width=1)
    logits = logits.double().requires_grad_()
    defined = ~measure.metric(logits, labels).isnan()
    assert torch.autograd.gradcheck(lambda x: measure.stats(x, labels)[defined], logits)


def test_saturated_logits_make_the_analytic_form_the_metric():
    """Boundary IoU alone: a boundary within the tolerance is right for F1, and its soft weight asks for more."""
    logits, labels = example(2)
    measure = boundary_iou(num_classes=4, ignore_index=VOID)
    hard = 100.0 * one_hot(logits.argmax(1), 4).movedim(-1, 1)
    assert measure.analytic is not None
    torch.testing.assert_close(
        measure.analytic(measure.stats(hard, labels)), measure.metric(hard, labels), equal_nan=True
    )


@pytest.mark.parametrize(("factory", "columns"), [(boundary_iou, IOU_COLUMNS), (boundary_f1, F1_COLUMNS)])
def test_a_step_towards_the_truth_moves_every_column_the_right_way(factory, columns):
    """Where the prediction stays as it is. Shares of a sum as well as means: `directions` holds for all of them."""
    logits, labels = example(3)
    moved = one_hot(labels.roll(3, 2).where(labels.roll(3, 2) != VOID, 0), 4).movedim(-1, 1)
    logits = logits / 8.0 + 2.0 * moved  # blocks at the wrong place
    measure = factory(num_classes=4, ignore_index=VOID, width=1)
    ideal = one_hot(labels.where(labels != VOID, 0), 4).movedim(-1, 1) * 12.0
    _, slope = torch.autograd.functional.jvp(lambda x: measure.stats(x, labels), logits, ideal - logits)
    slope = slope[~measure.metric(logits, labels).isnan()]
    assert measure.columns == columns
    assert (slope * torch.tensor(measure.directions) <= 1e-6).all()
    assert (slope != 0).any(0).all()


@pytest.mark.parametrize("factory", FACTORIES)
def test_void_pixels_have_no_gradient(factory):
    logits, labels = example(4)
    logits.requires_grad_()
    measure = factory(num_classes=4, ignore_index=VOID)
    stats = measure.stats(logits, labels)
    weights = torch.rand(stats.shape, generator=torch.Generator().manual_seed(0))
    torch.where(stats.isnan(), 0.0, stats * weights).sum().backward()
    void = (labels == VOID)[:, None].expand_as(logits)
    assert (logits.grad[void] == 0).all()
    assert (logits.grad[~void] != 0).any()


@pytest.mark.parametrize("factory", FACTORIES)
def test_settings_are_checked(factory):
    with pytest.raises(UsageError, match=r"measure\.level is 'image'; expected sample, batch or dataset"):
        factory(num_classes=2, ignore_index=VOID, level="image")
    with pytest.raises(UsageError, match=r"measure\.width is 0; expected 1 or more"):
        factory(num_classes=2, ignore_index=VOID, width=0)
    with pytest.raises(DataError, match="logits have 3 classes, the data 2"):
        factory(num_classes=2, ignore_index=VOID).metric(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).long())
