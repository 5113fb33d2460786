"""What is wrong with a file is said before the first step, in one line, with its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from surrogate.errors import DataError
from surrogate_segmentation.data import open_data
from surrogate_segmentation.recipe import DataRecipe

SHAPE = (10, 14)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound data set in CamVid's layout: three samples a split."""
    chance = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        for i in range(3):
            Image.fromarray(chance.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)).save(tmp_path / split / f"s{i}.png")
            mask = chance.integers(0, 12, SHAPE, dtype=np.uint8)
            Image.fromarray(mask).save(tmp_path / f"{split}annot" / f"s{i}.png")
    return tmp_path


def error_of(root: Path, *, check: bool = True) -> str:
    with pytest.raises(DataError) as error:
        open_data(DataRecipe(path=str(root), check=check)).splits["val"].load(1, None)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)
    return str(error.value)


def remove_label(root: Path) -> None:
    (root / "valannot" / "s1.png").unlink()


def remove_image(root: Path) -> None:
    (root / "val" / "s1.png").unlink()


def unknown_ids(root: Path) -> None:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[0, :5], mask[1, :2] = 12, 77
    Image.fromarray(mask).save(root / "valannot" / "s1.png")


def colours(root: Path) -> None:
    Image.new("RGB", SHAPE[::-1]).save(root / "valannot" / "s1.png")


def sixteen_bits(root: Path) -> None:
    Image.fromarray(np.zeros(SHAPE, dtype=np.uint16)).save(root / "valannot" / "s1.png")


def other_size(root: Path) -> None:
    Image.new("L", (7, 5)).save(root / "valannot" / "s1.png")


def damaged_mask(root: Path) -> None:
    file = root / "valannot" / "s1.png"
    file.write_bytes(file.read_bytes()[:60])


def no_image(root: Path) -> None:
    (root / "val" / "s1.png").write_bytes(b"not an image")


def twice(root: Path) -> None:
    Image.new("RGB", SHAPE[::-1]).save(root / "val" / "s1.jpg")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove_label, ["image s1.png has no label file", "1 of 3"]),
        (remove_image, ["label s1.png has no image file", "1 of 3"]),
        (
            unknown_ids,
            [
                "valannot/s1.png",
                "label id 12 in 5 pixels",
                "1 other unknown id",
                "expected 0-11;",
                "label_map",
            ],
        ),
        (colours, ["valannot/s1.png", "mode RGB", "expected one channel", "[label_map]"]),
        (sixteen_bits, ["valannot/s1.png", "mode I;16", "8 bits"]),
        (other_size, ["valannot/s1.png", "5x7", "s1.png", "10x14"]),
        (damaged_mask, ["valannot/s1.png", "cannot be decoded"]),
        (no_image, ["val/s1.png", "cannot be decoded"]),
        (twice, ["val/s1.png", "s1.jpg"]),
    ],
)
def test_a_fault_is_named_with_its_file(root: Path, damage: Callable[[Path], None], words: list[str]) -> None:
    open_data(DataRecipe(path=str(root)))
    damage(root)
    message = error_of(root)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("damage", [unknown_ids, colours, damaged_mask, no_image])
def test_an_unchecked_fault_is_named_when_the_sample_is_loaded(root: Path, damage: Callable[[Path], None]) -> None:
    damage(root)
    assert "s1.png" in error_of(root, check=False)


def test_an_image_cut_short_passes_the_check_and_is_named_when_it_is_loaded(root: Path) -> None:
    file = root / "val" / "s1.png"
    file.write_bytes(file.read_bytes()[:200])
    data = open_data(DataRecipe(path=str(root)))
    with pytest.raises(DataError, match=r"val/s1\.png: cannot be decoded"):
        data.splits["val"].load(1, None)


def test_an_empty_split_is_refused(root: Path) -> None:
    for folder in ("val", "valannot"):
        for file in (root / folder).iterdir():
            file.unlink()
    assert "val: no samples" in error_of(root)


def test_hidden_and_other_files_are_passed_over(root: Path) -> None:
    (root / "train" / ".s9.png").write_bytes(b"")
    (root / "train" / "notes.txt").write_text("")
    assert len(open_data(DataRecipe(path=str(root))).splits["train"]) == 3


@pytest.mark.parametrize("check", [True, False])
def test_an_image_of_16_bits_is_refused(root: Path, check: bool) -> None:
    Image.fromarray(np.zeros(SHAPE, dtype=np.uint16)).save(root / "val" / "s1.png")
    if check:
        with pytest.raises(DataError, match=r"val/s1\.png: image of mode I;16; expected 8 bits"):
            open_data(DataRecipe(path=str(root)))
    assert "image of mode I;16; expected 8 bits" in error_of(root, check=check)


LAID: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: np.rot90,
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, 3),
}
"""How Exif's orientations store an upright picture."""


@pytest.mark.parametrize("orientation", LAID)
def test_an_image_is_upright_as_its_mask_is(root: Path, orientation: int) -> None:
    """Labelling tools show and export what the camera held upright."""
    upright = np.zeros((*SHAPE, 3), dtype=np.uint8)
    upright[:4, :5] = 255
    label = (upright[:, :, 0] > 0).astype(np.uint8)
    stored = Image.fromarray(np.ascontiguousarray(LAID[orientation](upright)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(root / "val" / "s1.png", exif=exif)
    Image.fromarray(label).save(root / "valannot" / "s1.png")
    image, found = open_data(DataRecipe(path=str(root), size="10x14")).splits["val"].load(1, None)
    assert torch.equal(image[0] > image[0].mean(), found == 1)
