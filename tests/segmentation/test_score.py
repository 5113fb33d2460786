"""Reported numbers against torchmetrics and scikit-learn."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score
from torch.nn.functional import one_hot
from torchmetrics.classification import MulticlassJaccardIndex

from surrogate_segmentation.boundary import boundary_f1, boundary_iou
from surrogate_segmentation.per_image import image_iou, worst_quartile_iou
from surrogate_segmentation.score import SegmentationScore


@pytest.mark.parametrize("seed", range(5))
def test_data_set_miou_is_that_of_torchmetrics(seed):
    g = torch.Generator().manual_seed(seed)
    oracle = MulticlassJaccardIndex(4, average="none", ignore_index=255)
    score = SegmentationScore(("a", "b", "c", "d"), ignore_index=255)
    hits, labelled = [], []
    for size in (3, 1, 2):  # uneven batches: counts are summed first, so they do not matter
        logits = torch.randn(size, 4, 6, 5, generator=g)
        labels = torch.randint(4, (size, 6, 5), generator=g)
        labels[torch.rand(labels.shape, generator=g) < 0.2] = 255
        score.update(logits, labels)
        oracle.update(logits, labels)
        hits.append(logits.argmax(1)[labels != 255])
        labelled.append(labels[labels != 255])
    found, expected = score.compute(), oracle.compute()
    assert list(found["iou"].values()) == pytest.approx(expected.tolist())
    assert found["miou"] == pytest.approx(float(expected.mean()))
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(torch.cat(labelled), torch.cat(hits)))


def test_an_absent_class_has_no_iou_and_is_left_out_of_the_mean():
    score = SegmentationScore(("a", "b", "c"), ignore_index=255)
    logits = torch.tensor([5.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    score.update(logits, torch.tensor([[[0, 0], [1, 255]]]))
    found = score.compute()
    assert found["iou"] == {"a": pytest.approx(2 / 3), "b": 0.0, "c": None}
    assert found["miou"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("width", [1, 3])
def test_other_numbers_are_those_of_their_measures_over_the_data_set(width):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, 6, 5, generator=g)
    labels = torch.randint(4, (7, 6, 5), generator=g)
    labels[torch.rand(labels.shape, generator=g) < 0.2] = 255
    score = SegmentationScore(("a", "b", "c", "d"), ignore_index=255, boundary_width=width)
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        score.update(logits[part], labels[part])
    found, facts = score.compute(), {"num_classes": 4, "ignore_index": 255}
    for name, measure in {  # each of them is held against a loop in its own tests
        "boundary_iou": boundary_iou(**facts, level="batch", width=width),
        "boundary_f1": boundary_f1(**facts, level="batch", width=width),
        "worst_quartile_miou": worst_quartile_iou(**facts),
    }.items():
        assert found[name] == pytest.approx(float(measure.metric(logits, labels).nanmean())), name
    images = image_iou(**facts).metric(logits, labels).view(7, 4).nanmean(1)
    assert found["image_miou"] == pytest.approx(float(images.mean()))
    assert f"width={width}" in score.spec


def rim(mask, width):
    """Pixels of a `(B, H, W)` mask with a pixel within `width` outside of it, as (image, row, column)."""
    pixels = set(map(tuple, mask.nonzero().tolist()))
    return {pixel for pixel in pixels if not around(pixel, width) <= pixels}


def around(pixel, width):
    image, row, column = pixel
    reach = range(-width, width + 1)
    return {(image, row + down, column + right) for down in reach for right in reach}


@given(st.integers(0, 2**31), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_boundaries_and_images_of_a_data_set_by_loops(seed, width):
    g = torch.Generator().manual_seed(seed)
    size, height, breadth = torch.randint(1, 6, (3,), generator=g).tolist()
    given_, labels = (torch.randint(top, (size, height, breadth), generator=g) for top in (3, 2))  # no 2, no 3 in truth
    labels[torch.rand(labels.shape, generator=g) < 0.2] = 255
    score = SegmentationScore(("a", "b", "c", "d"), ignore_index=255, boundary_width=width)
    for part in (slice(0, 1), slice(1, size)):
        score.update(one_hot(given_, 4).movedim(-1, 1)[part].float(), labels[part])

    valid, ious, f1s = labels != 255, [], []
    for cls in range(4):
        masks = [(of == cls) & valid for of in (given_, labels)]
        p, t = (rim(mask, width) for mask in masks)
        ious += [len(p & t) / len(p | t)] if p | t else []
        p, t = (rim(mask, 1) for mask in masks)
        near = [sum(not other.isdisjoint(around(x, width)) for x in mine) for mine, other in ((p, t), (t, p))]
        precision, recall = near[0] / max(len(p), 1), near[1] / max(len(t), 1)
        f1s += [statistics.harmonic_mean([precision, recall])] if p | t else []
    images = sorted(
        statistics.mean(((one == cls) & (other == cls)).sum().item() / union for cls, union in unions.items())
        for one, other in ((given_[i][valid[i]], labels[i][valid[i]]) for i in range(size))
        if (unions := {k: n for k in range(4) if (n := ((one == k) | (other == k)).sum().item())})
    )
    expected = {
        "boundary_iou": ious,
        "boundary_f1": f1s,
        "image_miou": images,
        "worst_quartile_miou": images[: math.ceil(len(images) / 4)],
    }
    found = score.compute()
    for name, values in expected.items():
        assert found[name] == (pytest.approx(statistics.mean(values), abs=1e-6) if values else None), name


def test_a_model_that_gives_nan_has_no_numbers():
    score = SegmentationScore(("a", "b"), ignore_index=255)
    score.update(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    outputs = torch.zeros(1, 2, 2, 2)
    outputs[0, 1, 0, 0] = torch.nan
    score.update(outputs, torch.zeros(1, 2, 2, dtype=torch.int64))
    found = score.compute()
    assert found.pop("iou") == {"a": None, "b": None}
    assert set(found.values()) == {None}


def test_without_labelled_pixels_nothing_is_defined():
    score = SegmentationScore(("a", "b"), ignore_index=255)
    score.update(torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2), 255))
    found = score.compute()
    assert found.pop("iou") == {"a": None, "b": None}
    names = {"miou", "pixel_accuracy", "image_miou", "worst_quartile_miou", "boundary_iou", "boundary_f1"}
    assert found == dict.fromkeys(names)
