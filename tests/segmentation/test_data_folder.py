"""The folder layout: `images`, `masks` and what `dataset.toml` says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surrogate.errors import DataError
from surrogate_segmentation.data import SegmentationData, open_data
from surrogate_segmentation.recipe import DataRecipe


def write(root: Path, *, count: int = 10, ids: tuple[int, ...] = (0, 1, 2, 255)) -> np.ndarray:
    """`count` samples of 8x12 pixels, all with the same mask, which is returned."""
    chance = np.random.default_rng(3)
    mask = np.array(ids, dtype=np.uint8)[np.arange(96).reshape(8, 12) % len(ids)]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        Image.fromarray(chance.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(root / "images" / f"p{i}.jpg")
        Image.fromarray(mask).save(root / "masks" / f"p{i}.png")
    return mask


def opened(root: Path, toml: str = "") -> SegmentationData:
    if toml:
        (root / "dataset.toml").write_text(toml)
    return open_data(DataRecipe(path=str(root)))


def names(data: SegmentationData, split: str) -> list[str]:
    return [data.splits[split].name(i) for i in range(len(data.splits[split]))]


def test_without_a_description_all_is_inferred_and_said(tmp_path: Path) -> None:
    mask = write(tmp_path / "fruit")
    data = opened(tmp_path / "fruit")
    assert (data.title, data.classes, data.ignore_index) == ("fruit", ("class 0", "class 1", "class 2"), 255)
    assert data.size == (8, 12)
    assert [len(data.splits[split]) for split in ("train", "val")] == [8, 2]
    assert "test" not in data.splits
    assert sorted(names(data, "train") + names(data, "val")) == [f"images/p{i}.jpg" for i in range(10)]
    np.testing.assert_array_equal(data.splits["val"].load(0, None)[1].numpy(), mask)
    assert [note.split(" ")[:3] for note in data.notes] == [
        ["no", "splits", "given:"],
        ["3", "classes", "inferred"],
        ["usual", "size", "8x12:"],
    ]


@pytest.mark.parametrize("pattern", ["{kind}/{split}", "{split}/{kind}"])
@pytest.mark.parametrize("val", ["val", "valid"])
def test_splits_may_be_folders(tmp_path: Path, pattern: str, val: str) -> None:
    write(tmp_path / "all", count=6)
    for split, numbers in ("train", "012"), (val, "34"), ("test", "5"):
        for kind, suffix in ("images", ".jpg"), ("masks", ".png"):
            folder = tmp_path / "fruit" / pattern.format(kind=kind, split=split)
            folder.mkdir(parents=True)
            for number in numbers:
                name = f"p{number}{suffix}"
                (tmp_path / "all" / kind / name).rename(folder / name.replace("5", "0"))  # one name, two splits
    data = opened(tmp_path / "fruit")
    folders = [pattern.format(kind="images", split=split) for split in ("train", val, "test")]
    assert names(data, "train") == [f"{folders[0]}/p{i}.jpg" for i in range(3)]
    assert names(data, "val") == [f"{folders[1]}/p{i}.jpg" for i in (3, 4)]
    assert names(data, "test") == [f"{folders[2]}/p0.jpg"]
    with pytest.raises(DataError, match=r"dataset.toml: \[splits\], and .*train.* is a folder of one"):
        opened(tmp_path / "fruit", "[splits]\ntrain = ['p0']\nval = ['p1']")


def test_of_a_folder_train_alone_a_part_is_val(tmp_path: Path) -> None:
    write(tmp_path / "train")
    data = opened(tmp_path)
    assert [len(data.splits[split]) for split in ("train", "val")] == [8, 2]
    assert data.notes[0].startswith("no val given")


def moved(root: Path, *places: str) -> None:
    """Two images or masks, of those that `write` has made, in each of the places."""
    for place in places:
        kind = "images" if "images" in place else "masks"
        (root / place).mkdir(parents=True)
        for file in sorted((root / "all" / kind).iterdir())[:2]:
            (root / place / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("images/val", "images/valid"), "images/val and .*images/valid: two folders of the split val"),
        (("val/images",), "val/images: no .*val/masks to go with it"),
        (("images/val", "val/images"), "images/val and .*val/images: two folders of the split val"),
        (("images/val",), "images/val: no .*masks/val to go with it"),
        (("masks/validation",), "masks/validation: no .*images/validation to go with it"),
        (("masks/test",), "masks/test: no .*images/test to go with it"),
        (("train/images",), "images/train and .*train/images: two folders of the split train"),
    ],
)
def test_folders_of_splits_that_do_not_go_together_are_told(tmp_path: Path, more: tuple[str, ...], told: str) -> None:
    write(tmp_path / "all")
    moved(tmp_path, "images/train", "masks/train", *more)
    with pytest.raises(DataError, match=told):
        opened(tmp_path)


def test_a_test_without_masks_is_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path / "all")
    moved(tmp_path, "images/train", "masks/train", "images/test")
    data = opened(tmp_path)
    assert "test" not in data.splits
    assert data.notes[0].startswith("test left out: ")


def test_loose_images_beside_folders_of_splits_take_a_list(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "all").mkdir()
    for kind in ("images", "masks"):
        (tmp_path / "all" / kind).symlink_to(tmp_path / kind)
    moved(tmp_path, "train/images", "train/masks")
    with pytest.raises(DataError, match=r"images: images, and .*train.images is a folder of a split"):
        opened(tmp_path)
    data = opened(tmp_path, "[splits]\ntrain = ['p0', 'p1']\nval = ['p2']")
    assert names(data, "train") == ["images/p0.jpg", "images/p1.jpg"]


def test_folders_of_other_names_are_told(tmp_path: Path) -> None:
    write(tmp_path / "all")
    for kind in ("images", "masks"):
        (tmp_path / "fruit" / kind).mkdir(parents=True)
        (tmp_path / "all" / kind).rename(tmp_path / "fruit" / kind / "part1")
    with pytest.raises(DataError, match=r"images: no image files; expected them there, or in folders train, val"):
        opened(tmp_path / "fruit")


def test_the_split_by_hash_does_not_move_when_it_is_opened_again(tmp_path: Path) -> None:
    write(tmp_path)
    assert names(opened(tmp_path), "val") == names(opened(tmp_path), "val") == ["images/p0.jpg", "images/p7.jpg"]


def test_a_description_names_classes_map_void_and_splits(tmp_path: Path) -> None:
    mask = write(tmp_path, ids=(0, 50, 100, 200))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("p3\np0\n")
    data = opened(
        tmp_path,
        """
        classes = ["ground", "leaf"]
        ignore_index = 254
        [label_map]
        0 = 0
        50 = 1
        100 = 1
        200 = 254
        [splits]
        train = "lists/train.txt"
        val = ["p5"]
        test = ["p9", "p8"]
        """,
    )
    assert (data.classes, data.ignore_index) == (("ground", "leaf"), 254)
    assert names(data, "train") == ["images/p3.jpg", "images/p0.jpg"]
    assert names(data, "test") == ["images/p9.jpg", "images/p8.jpg"]
    wanted = np.vectorize({0: 0, 50: 1, 100: 1, 200: 254}.get)(mask)
    np.testing.assert_array_equal(data.splits["val"].load(0, None)[1].numpy(), wanted)
    assert data.class_pixels().tolist() == [48, 96]
    assert len(data.notes) == 1


def test_classes_that_do_not_occur_are_noted(tmp_path: Path) -> None:
    write(tmp_path, ids=(0, 1))
    Image.fromarray(np.full((8, 12), 3, dtype=np.uint8)).save(tmp_path / "masks" / "p1.png")
    toml = 'classes = ["a", "b", "c", "d"]\n[splits]\ntrain = ["p0"]\nval = ["p1"]'
    assert {"class 'c' occurs in no label", "class 'd' occurs in no train label"} <= set(opened(tmp_path, toml).notes)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("clases = ['a', 'b']", "unknown key 'clases'; did you mean 'classes'?"),
        (
            "[splits]\ntrain = ['p0']\nval = ['p1']\ntset = ['p2']",
            "unknown key 'splits.tset'; did you mean 'test'?",
        ),
        ("[splits]\ntrain = ['p0']", "key 'splits.val' is missing"),
        ("ignore_index = 300", "key 'ignore_index' is 300: Input should be less than or equal to 255"),
        ("classes = [", "cannot be read as TOML"),
        ("classes = ['a', 'a']", "classes a, a; expected different names"),
        ("classes = ['a', 'b', 'c']\nignore_index = 0", "ignore_index 0 is also the id of a class (0 to 2)"),
        (
            "classes = ['a', 'b']\n[label_map]\n0 = 7",
            "label_map sends 0 to 7; expected a class, 0 to 1, or 255",
        ),
        ("[splits]\ntrain = ['p0']\nval = ['nix']", "splits.val: 'nix' has neither image nor label file"),
        ("[splits]\ntrain = []\nval = ['p1']", "splits.train: no samples"),
        ("[splits]\ntrain = ['p0', 'p0']\nval = ['p1']", "splits.train: 'p0' is named 2 times"),
        ("[splits]\ntrain = 'no.txt'\nval = ['p1']", "no.txt: cannot be read"),
        ("[splits]\ntrain = ['p0', 'p1']\nval = ['p1']", "p1.jpg: in the splits train and val (1 images)"),
    ],
)
def test_a_wrong_description_is_refused_in_a_line(tmp_path: Path, toml: str, message: str) -> None:
    write(tmp_path)
    with pytest.raises(DataError) as error:
        opened(tmp_path, toml)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(("toml", "names_"), [("", ("class 0", "class 1")), ('classes = ["a", "b"]', ("a", "b"))])
@pytest.mark.parametrize("other", [255, 128])
def test_masks_of_two_values_are_two_classes_and_nothing_is_void(
    tmp_path: Path, other: int, toml: str, names_: tuple[str, ...]
) -> None:
    mask = write(tmp_path, ids=(0, other))
    data = opened(tmp_path, toml)
    assert data.classes == names_
    np.testing.assert_array_equal(data.splits["val"].load(0, None)[1].numpy(), mask == other)
    assert f"masks of 0 and {other} alone: {other} is class 1, and no pixel is void" in data.notes


def test_where_a_value_is_said_to_be_void_it_is(tmp_path: Path) -> None:
    mask = write(tmp_path, ids=(0, 255))
    data = opened(tmp_path, 'classes = ["a", "b"]\nignore_index = 255')
    np.testing.assert_array_equal(data.splits["val"].load(0, None)[1].numpy(), mask)


@pytest.mark.parametrize("ids", [(0, 1, 128), (0, 128, 200), (1, 2)])
def test_masks_that_do_not_tell_the_classes_ask_for_a_description(tmp_path: Path, ids: tuple[int, ...]) -> None:
    write(tmp_path, ids=ids)
    with pytest.raises(DataError, match=r"expected 0 to C-1 .*write classes and a \[label_map\] in dataset.toml"):
        opened(tmp_path)


def test_the_one_mask_with_another_value_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    odd = tmp_path / "masks" / "p3.png"
    mask = np.array(Image.open(odd))
    mask[2, 5] = 200
    Image.fromarray(mask).save(odd)
    with pytest.raises(DataError, match=r"0, 1, 2, 200 by the values of the masks \(200 is in masks/p3.png\)"):
        opened(tmp_path)


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    write(tmp_path, count=1)
    with pytest.raises(DataError, match="1 image; expected at least 2"):
        opened(tmp_path)
