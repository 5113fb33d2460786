"""Any data set as two folders, `images` and `masks`, described by an optional `dataset.toml`.

```toml
classes = ["background", "cat"]    # names by label id
ignore_index = 255                 # the label of void pixels; not a class
[label_map]                        # from the value in a mask to the label id; without it, the value itself, but in
                                   # masks of two values alone, 0 and another, such as 255, which stands for 1 then
0 = 0
128 = 1
[splits]                           # names without suffix, or a text file of them; `test` may be left out
train = "train.txt"
val = ["cat_17", "cat_3"]
```

Splits may be folders instead of `[splits]`: `images/train` and `masks/train`, or `train/images` and `train/masks`, and
so for `val` (or `valid`) and `test`.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError

from surrogate.errors import DataError, nearest
from surrogate.recipe import Section
from surrogate_segmentation.data.files import image_size, read_mask
from surrogate_segmentation.data.layout import VOID, Layout, Listing, Pair, by_stem, label_table, paired, read_names

Byte = Annotated[int, Field(ge=0, le=255)]
Names = tuple[str, ...] | str


_OF_IMAGES, _OF_MASKS = "images", "masks"
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""What the folder of a split may be called."""


class Splits(Section):
    """The table `[splits]`."""

    train: Names
    val: Names
    test: Names | None = None


class Description(Section):
    """The file `dataset.toml`."""

    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    ignore_index: Byte = VOID
    label_map: dict[Byte, Byte] | None = None
    splits: Splits | None = None


def read(root: Path) -> Listing:
    """Lists the pairs of images and masks by name, and says in a note what it had to assume.

    Without splits, or with `train` alone, one image in five is val, by a hash of its name: the same everywhere, for
    every seed.

    Raises:
        DataError: `dataset.toml` is not as above, a pair is incomplete, or the masks do not tell the classes.
    """
    file = root / "dataset.toml"
    described = _described(file) if file.exists() else Description()
    splits, split_notes = _splits(described, root, file)
    found = _values(splits) if _asks_the_masks(described) else {}
    described, map_notes = _two_valued(described, found)
    classes, class_notes = _classes(described, found, root)
    if len(set(classes)) < len(classes):
        raise DataError(f"{file}: classes {', '.join(classes)}; expected different names")
    size = image_size(splits["train"][0].image)
    size_note = f"usual size {size[0]}x{size[1]}: that of {splits['train'][0].image.name}"
    return Listing(
        title=root.resolve().name,
        root=root,
        classes=classes,
        ignore_index=described.ignore_index,
        labels=label_table(_meaning(described, len(classes), file)),
        size=size,
        splits=splits,
        hint="give it a class in [label_map], or make it the ignore_index, in dataset.toml",
        notes=(*split_notes, *map_notes, *class_notes, size_note),
    )


def _described(file: Path) -> Description:
    try:
        return Description.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise DataError(f"{file}: {_complaint(error)}") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as TOML: {error}") from None


def _complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        table = Splits if first["loc"][0] == "splits" else Description
        return f"unknown key {key!r}; {nearest(str(first['loc'][-1]), table.model_fields)}"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    return f"key {key!r} is {first['input']!r}: {first['msg']}"


def _splits(described: Description, root: Path, file: Path) -> tuple[dict[str, tuple[Pair, ...]], tuple[str, ...]]:
    """The pairs of each split, and the notes on them."""
    images, labels = (by_stem(root / kind) if (root / kind).is_dir() else {} for kind in (_OF_IMAGES, _OF_MASKS))
    folders, notes = _split_folders(root)
    if folders and (images or described.splits is not None):
        if not images:
            raise DataError(f"{file}: [splits], and {folders['train'][0]} is a folder of one; expected either")
        if described.splits is None:
            raise DataError(
                f"{root / _OF_IMAGES}: images, and {folders['train'][0]} is a folder of a split; expected all images in"
                " such folders, or a [splits] in dataset.toml"
            )
    elif folders:
        splits = {split: paired(*map(by_stem, pair), where=str(pair[0])) for split, pair in folders.items()}
        if "val" in splits:
            return splits, notes
        hashed, note = _hashed_splits(splits["train"], folders["train"][0], missing="val")
        return splits | hashed, (*notes, *note)
    if not images and not labels:
        raise DataError(
            f"{root / _OF_IMAGES}: no image files; expected them there, or in folders train, val and test of it and of "
            f"{_OF_MASKS}"
        )
    if described.splits is not None:
        return _given_splits(described.splits, images, labels, file=file), ()
    return _hashed_splits(paired(images, labels, where=str(root)), root / _OF_IMAGES, missing="splits")


def _split_folders(root: Path) -> tuple[dict[str, tuple[Path, Path]], tuple[str, ...]]:
    """The folders of images and of masks of each split, where `train` has such, and a note on what is left out.

    Raises:
        DataError: a split has two, or images without masks, which only `test` may have.
    """
    found: dict[str, tuple[Path, Path]] = {}
    notes = []
    for split, names in _SPLITS.items():
        pairs = [
            (root / pattern.format(kind=_OF_IMAGES, split=name), root / pattern.format(kind=_OF_MASKS, split=name))
            for pattern in ("{kind}/{split}", "{split}/{kind}")
            for name in names
        ]
        there = [pair for pair in pairs if any(folder.is_dir() for folder in pair)]
        if split == "train" and not there:
            break
        if len(there) > 1:
            raise DataError(f"{there[0][0]} and {there[1][0]}: two folders of the split {split}; expected one")
        for images, masks in there:
            if images.is_dir() and masks.is_dir():
                found[split] = images, masks
            elif split == "test" and images.is_dir():
                notes.append(f"test left out: {images} has no {masks}")
            else:
                here, lack = (images, masks) if images.is_dir() else (masks, images)
                raise DataError(f"{here}: no {lack} to go with it; add it, or remove the folder")
    return found, tuple(notes)


def _hashed_splits(
    pairs: tuple[Pair, ...], folder: Path, *, missing: str
) -> tuple[dict[str, tuple[Pair, ...]], tuple[str, ...]]:
    if len(pairs) < 2:
        raise DataError(f"{folder}: 1 image; expected at least 2, one to train on and one to validate on")
    by_hash = sorted(pairs, key=lambda pair: hashlib.sha256(pair.image.stem.encode()).digest())
    held_out = set(by_hash[: max(1, round(len(pairs) / 5))])
    splits = {
        "train": tuple(pair for pair in pairs if pair not in held_out),
        "val": tuple(pair for pair in pairs if pair in held_out),
    }
    note = f"no {missing} given: {len(splits['train'])} train and {len(splits['val'])} val, by a hash of the names"
    return splits, (note,)


def _given_splits(
    given: Splits, images: Mapping[str, Path], labels: Mapping[str, Path], *, file: Path
) -> dict[str, tuple[Pair, ...]]:
    splits = {}
    for split in ("train", "val", "test"):
        names: Names | None = getattr(given, split)
        if names is not None:
            listed = read_names(file.parent / names) if isinstance(names, str) else names
            splits[split] = paired(images, labels, where=f"{file}, splits.{split}", names=listed)
    return splits


def _asks_the_masks(described: Description) -> bool:
    """Whether it takes their values to tell the classes, or which of two a value stands for."""
    if described.classes is None:
        return described.label_map is None
    return len(described.classes) == 2 and not described.model_fields_set & {"label_map", "ignore_index"}


def _two_valued(described: Description, found: Mapping[int, Path]) -> tuple[Description, tuple[str, ...]]:
    """With the map for masks that hold 0 and one other value, where nothing says that this one is void; and a note."""
    other = max(found, default=0)
    if set(found) != {0, other} or other < 2 or "ignore_index" in described.model_fields_set:
        return described, ()
    note = f"masks of 0 and {other} alone: {other} is class 1, and no pixel is void"
    return described.model_copy(update={"label_map": {0: 0, other: 1}}), (note,)


def _classes(described: Description, found: Mapping[int, Path], root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the classes, and the notes on them."""
    if described.classes is not None:
        return described.classes, ()
    if described.label_map is not None:
        ids, origin = set(described.label_map.values()), "[label_map]"
    else:
        ids, origin = set(found), "the values of the masks"
    ids -= {described.ignore_index}
    if ids != set(range(len(ids))) or len(ids) < 2:
        listed = ", ".join(map(str, sorted(ids)[:8])) + (", ..." if len(ids) > 8 else "")
        beyond = next((i for place, i in enumerate(sorted(ids)) if i != place and i in found), None)
        example = f" ({beyond} is in {found[beyond].relative_to(root)})" if beyond is not None else ""
        raise DataError(
            f"{root}: label ids {listed or 'none'} by {origin}{example}; expected 0 to C-1 for at least 2 classes, and"
            f" {described.ignore_index} for void: write classes and a [label_map] in dataset.toml"
        )
    return tuple(f"class {i}" for i in range(len(ids))), (f"{len(ids)} classes inferred from {origin}",)


def _values(splits: Mapping[str, tuple[Pair, ...]]) -> dict[int, Path]:
    """All values that occur in the masks, each with the first mask that has it."""
    paths = [pair.label for pairs in splits.values() for pair in pairs]
    where: dict[int, Path] = {}
    with ThreadPoolExecutor() as pool:
        for path, values in zip(paths, pool.map(lambda path: np.unique(read_mask(path)).tolist(), paths), strict=True):
            for value in values:
                where.setdefault(value, path)
    return where


def _meaning(described: Description, num_classes: int, file: Path) -> dict[int, int]:
    """From mask value to label id; void stands for itself unless it is mapped."""
    void = described.ignore_index
    if void < num_classes:
        raise DataError(
            f"{file}: ignore_index {void} is also the id of a class (0 to {num_classes - 1}); make it 255,"
            " and send void to 255 and the classes to ids from 0 on in [label_map]"
        )
    meaning = described.label_map if described.label_map is not None else {i: i for i in range(num_classes)}
    for value, label in meaning.items():
        if label >= num_classes and label != void:
            raise DataError(
                f"{file}: label_map sends {value} to {label}; expected a class, 0 to {num_classes - 1}, or"
                f" {void} (ignore_index)"
            )
    return {void: void} | meaning


FOLDER = Layout(name="folder", marks=(_OF_IMAGES, _OF_MASKS), read=read)
FOLDER_OF_SPLITS = Layout(name="folder", marks=(f"train/{_OF_IMAGES}", f"train/{_OF_MASKS}"), read=read)
