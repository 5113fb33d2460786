"""The readers of VOC, Cityscapes and CamVid on small folders in the real layouts, and how one is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from surrogate.errors import DataError
from surrogate_segmentation.data import open_data
from surrogate_segmentation.recipe import DataRecipe

CAMVID = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "camvid"


def save(path: Path, pixels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        # Colours unlike the indices, so that reading colours cannot pass for reading indices.
        image.putpalette([(7 * i + 3) % 256 for i in range(768)])
    image.save(path)


def picture(seed: int, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def mask(seed: int, ids: list[int], size: tuple[int, int] = (12, 16)) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(ids, dtype=np.uint8), size)


def voc(root: Path) -> dict[str, np.ndarray]:
    """Two train samples and one val; a third image has no mask and is in no list, as most of VOC's."""
    masks = {name: mask(i, [0, 1, 15, 20, 255]) for i, name in enumerate(("2007_01", "2007_02", "2008_03"))}
    for i, (name, ids) in enumerate(masks.items()):
        save(root / "JPEGImages" / f"{name}.jpg", picture(i))
        save(root / "SegmentationClass" / f"{name}.png", ids, palette=True)
    save(root / "JPEGImages" / "2009_04.jpg", picture(9))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_02\n2007_01\n\n")
    (lists / "val.txt").write_text("2008_03\n")
    return masks


def cityscapes(root: Path, kind: str, ids: list[int]) -> np.ndarray:
    for i, (split, city) in enumerate((("train", "aachen"), ("train", "bochum"), ("val", "ulm"))):
        save(root / "leftImg8bit" / split / city / f"{city}_000_01_leftImg8bit.png", picture(i))
        save(root / "gtFine" / split / city / f"{city}_000_01_gtFine_{kind}.png", mask(i, ids))
        save(root / "gtFine" / split / city / f"{city}_000_01_gtFine_color.png", picture(i))
    save(root / "leftImg8bit" / "test" / "bonn" / "bonn_000_01_leftImg8bit.png", picture(7))
    return mask(0, ids)


def camvid(root: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> None:
    for i, split in enumerate(splits):
        save(root / split / "a.jpg", picture(i))
        save(root / split / "b.png", picture(i + 5))
        for name in "ab":
            save(root / f"{split}annot" / f"{name}.png", mask(i, list(range(12))))


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012", "VOCdevkit/VOC2011", "VOC2011"])
def test_voc_is_found_at_every_level_and_its_palette_indices_are_the_labels(tmp_path: Path, below: str) -> None:
    masks = voc(tmp_path / below)
    data = open_data(DataRecipe(path=str(tmp_path), size=(12, 16)))
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 2, "val": 1}
    assert (data.title, len(data.classes), data.ignore_index) == ("PASCAL VOC", 21, 255)
    assert data.classes[0] == "background"
    assert data.classes[20] == "tvmonitor"
    train = data.splits["train"]
    assert [train.name(i) for i in range(2)] == ["JPEGImages/2007_02.jpg", "JPEGImages/2007_01.jpg"]
    for i, name in enumerate(("2007_02", "2007_01")):
        image, label = train.load(i, None)
        assert image.shape == (3, 12, 16)
        assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
        np.testing.assert_array_equal(label.numpy(), masks[name])
    assert "class 'aeroplane' occurs in no label" not in data.notes
    assert "class 'bicycle' occurs in no label" in data.notes


def test_voc_default_size(tmp_path: Path) -> None:
    voc(tmp_path)
    data = open_data(DataRecipe(path=str(tmp_path)))
    assert data.size == (375, 500)
    assert data.splits["val"].load(0, None)[0].shape == (3, 375, 500)


def test_two_vocs_below_one_folder_are_not_guessed_between(tmp_path: Path) -> None:
    voc(tmp_path / "VOC2011")
    voc(tmp_path / "VOC2012")
    with pytest.raises(DataError, match=r"several data sets .*VOC2012.*VOC2011.*; name one"):
        open_data(DataRecipe(path=str(tmp_path)))


def test_cityscapes_raw_ids_become_train_ids(tmp_path: Path) -> None:
    raw = cityscapes(tmp_path, "labelIds", [0, 3, 7, 8, 11, 19, 29, 30, 33, 255])
    data = open_data(DataRecipe(path=str(tmp_path), size=(12, 16)))
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 2, "val": 1}
    assert (len(data.classes), data.classes[0], data.classes[18]) == (19, "road", "bicycle")
    wanted = {0: 255, 3: 255, 7: 0, 8: 1, 11: 2, 19: 6, 29: 255, 30: 255, 33: 18, 255: 255}
    _, label = data.splits["train"].load(0, None)
    np.testing.assert_array_equal(label.numpy(), np.vectorize(wanted.get)(raw))
    assert data.splits["val"].name(0) == "leftImg8bit/val/ulm/ulm_000_01_leftImg8bit.png"


def test_cityscapes_train_ids_are_taken_where_raw_ids_are_not_there(tmp_path: Path) -> None:
    ids = cityscapes(tmp_path, "labelTrainIds", [0, 5, 18, 255])
    data = open_data(DataRecipe(path=str(tmp_path), size=(12, 16)))
    np.testing.assert_array_equal(data.splits["train"].load(0, None)[1].numpy(), ids)
    assert open_data(DataRecipe(path=str(tmp_path), check=False)).size == (512, 1024)


def test_camvid_pairs_by_stem_and_keeps_void_at_11(tmp_path: Path) -> None:
    camvid(tmp_path)
    data = open_data(DataRecipe(path=str(tmp_path), size=(12, 16)))
    assert {split: len(samples) for split, samples in data.splits.items()} == {
        "train": 2,
        "val": 2,
        "test": 2,
    }
    assert (data.title, len(data.classes), data.ignore_index) == ("CamVid", 11, 11)
    assert [data.splits["test"].name(i) for i in range(2)] == ["test/a.jpg", "test/b.png"]
    np.testing.assert_array_equal(data.splits["val"].load(1, None)[1].numpy(), mask(1, list(range(12))))
    assert data.notes == ()


def test_camvid_without_test_has_two_splits(tmp_path: Path) -> None:
    camvid(tmp_path, ("train", "val"))
    assert set(open_data(DataRecipe(path=str(tmp_path))).splits) == {"train", "val"}


def test_labels_are_resized_to_the_nearest_and_counted_per_class(tmp_path: Path) -> None:
    camvid(tmp_path)
    data = open_data(DataRecipe(path=str(tmp_path), size=(6, 32)))
    rows, columns = (np.arange(6) * 2 + 1), ((np.arange(32) + 0.5) * 16 / 32).astype(int)
    small = mask(0, list(range(12)))[rows][:, columns]
    np.testing.assert_array_equal(data.splits["train"].load(0, None)[1].numpy(), small)
    expected = 2 * np.bincount(small.ravel(), minlength=12)[:11]
    assert data.class_pixels().dtype == torch.int64
    np.testing.assert_array_equal(data.class_pixels().numpy(), expected)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="the CamVid images are not beside the repository")
def test_real_camvid() -> None:
    data = open_data(DataRecipe(path=str(CAMVID), size=(120, 160)))
    assert {split: len(samples) for split, samples in data.splits.items()} == {
        "train": 367,
        "val": 101,
        "test": 233,
    }
    assert data.notes == ()
    image, label = data.splits["test"].load(0, None)
    assert image.shape == (3, 120, 160)
    assert label.max() <= 11


def test_what_was_looked_for_is_listed(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no known data set; looked for voc: .*cityscapes: .*camvid: .*folder: "
    ) as error:
        open_data(DataRecipe(path=str(tmp_path)))
    assert str(tmp_path) in str(error.value)
    with pytest.raises(DataError, match=r"looked for camvid: train, trainannot, val, valannot$"):
        open_data(DataRecipe(path=str(tmp_path), layout="camvid"))


def test_two_layouts_in_one_folder_need_a_name(tmp_path: Path) -> None:
    camvid(tmp_path)
    voc(tmp_path)
    with pytest.raises(DataError, match=r"several data sets \(voc in .*, camvid in "):
        open_data(DataRecipe(path=str(tmp_path)))
    assert open_data(DataRecipe(path=str(tmp_path), layout="camvid")).title == "CamVid"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder; give one with --data") as error:
        open_data(DataRecipe(path=str(tmp_path / "nowhere")))
    assert error.value.exit_code == 3
