"""The embedded data set: the same scenes everywhere, unbalanced, its splits apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surrogate.errors import UsageError
from surrogate_segmentation.data import SegmentationData, open_data
from surrogate_segmentation.data.digits import CLASSES, DigitScenes, _photos, _strokes
from surrogate_segmentation.recipe import DataRecipe


@pytest.fixture(scope="module")
def data() -> SegmentationData:
    return open_data(DataRecipe())


def test_it_is_what_a_recipe_without_data_opens(data: SegmentationData) -> None:
    assert {split: len(samples) for split, samples in data.splits.items()} == {
        "train": 320,
        "val": 96,
        "test": 96,
    }
    assert (data.title, data.size, data.ignore_index, data.classes) == ("digits", (96, 96), 255, CLASSES)
    image, label = data.splits["test"].load(95, None)
    assert image.shape == (3, 96, 96)
    assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
    assert data.splits["val"].name(7) == "val/007"


def test_scenes_do_not_depend_on_the_order_they_are_drawn_in() -> None:
    one, other = DigitScenes("val", (96, 96)), DigitScenes("val", (96, 96))
    forth = [one.read(i) for i in range(6)]
    back = [other.read(i) for i in reversed(range(6))][::-1]
    for (image, label), (image_again, label_again) in zip(forth, back, strict=True):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(label, label_again)
    assert len({image.tobytes() for image, _ in forth}) == 6


def test_classes_are_unbalanced_and_all_in_every_split(data: SegmentationData) -> None:
    for split in data.splits.values():
        labels = torch.stack([split.read(i)[1] for i in range(len(split))])
        pixels = torch.bincount(labels.flatten(), minlength=256)
        assert set(labels.unique().tolist()) == {*range(len(CLASSES)), 255}
        assert 0.8 < pixels[0] / pixels[: len(CLASSES)].sum() < 0.95
        assert pixels[0] > 70 * pixels[: len(CLASSES)].min()
    assert data.class_pixels()[1] > 2 * data.class_pixels()[4]


def test_void_is_a_thin_ring(data: SegmentationData) -> None:
    """No void pixel is far from an object: growing everything else by one pixel covers it."""
    labels = torch.stack([data.splits["train"].read(i)[1] for i in range(20)])
    void = (labels == 255).float()
    eroded = -torch.nn.functional.max_pool2d(-void[:, None], 3, stride=1, padding=1)
    assert 0.005 < void.mean() < 0.06
    assert eroded.sum() == 0


def test_splits_share_neither_digits_nor_photographs() -> None:
    strokes = {
        split: {glyph.tobytes() for kind in _strokes(split) for glyph in kind} for split in ("train", "val", "test")
    }
    assert sum(map(len, strokes.values())) == len(set.union(*strokes.values())) > 1700
    columns = {
        split: {column.tobytes() for photo in _photos(split) for column in np.array(photo).transpose(1, 0, 2)}
        for split in ("train", "val", "test")
    }
    assert sum(map(len, columns.values())) == len(set.union(*columns.values()))


@pytest.mark.parametrize("size", [(32, 48), (130, 100)])
def test_scenes_are_drawn_at_the_size_asked_for(size: tuple[int, int]) -> None:
    data = open_data(DataRecipe(size=size))
    image, label = data.splits["train"].load(3, None)
    assert image.shape == (3, *size)
    assert label.shape == size
    assert ((label < len(CLASSES)) | (label == 255)).all()


def test_digits_are_never_mirrored() -> None:
    """A mirrored scene would put a mark in its left half into the right half, at any magnification."""
    split = open_data(DataRecipe(size=(64, 64))).splits["train"]
    _, label = split.read(0)
    label.zero_()
    label[:, :32] = 1
    for seed in range(20):
        row = split.load(0, torch.Generator().manual_seed(seed))[1][32].tolist()
        row = [value for value in row if value != 255]
        assert row == sorted(row, reverse=True)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 32x32"):
        open_data(DataRecipe(size=(16, 96)))
    with pytest.raises(UsageError, match="layout 'voc' for the embedded data set"):
        open_data(DataRecipe(layout="voc"))
