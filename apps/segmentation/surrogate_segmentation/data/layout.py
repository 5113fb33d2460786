"""What a reader says of a data set: which files belong together, and what the values in its masks mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surrogate.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VOID = 255
"""The label of void pixels, where a data set has no other custom."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An image file and the mask that labels it."""

    image: Path
    label: Path


@dataclass(frozen=True, eq=False, slots=True)
class Listing:
    """A data set on disk, found but not yet read.

    `labels` is `(256,)` int16: the label id of each value a mask may hold, -1 for a value without a meaning.
    `size` is the usual (height, width). `hint` ends the error on a value without a meaning. `notes` are lines
    for the screen.
    """

    title: str
    root: Path
    classes: tuple[str, ...]
    ignore_index: int
    labels: NDArray[np.int16]
    size: tuple[int, int]
    splits: Mapping[str, tuple[Pair, ...]]
    hint: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to arrange a data set in folders: what it is recognised by, and its reader.

    `marks` are the paths that must all exist; `below` are the folders under the given one where they may lie.
    """

    name: str
    marks: tuple[str, ...]
    read: Callable[[Path], Listing]
    below: tuple[str, ...] = (".",)

    def find(self, root: Path) -> list[Path]:
        """The folders at or below `root` that have every mark."""
        bases = [root / below for below in self.below]
        return [base for base in bases if all((base / mark).exists() for mark in self.marks)]


def label_table(meaning: Mapping[int, int]) -> NDArray[np.int16]:
    """`(256,)` int16 table from mask value to label id; values that are not named get -1.

    >>> label_table({0: 0, 7: 1, 255: 255})[[0, 1, 7, 255]].tolist()
    [0, -1, 1, 255]
    """
    table = np.full(256, -1, dtype=np.int16)
    table[list(meaning)] = list(meaning.values())
    return table


def by_stem(folder: Path) -> dict[str, Path]:
    """The image files directly in a folder, by name without suffix. Hidden files are passed over.

    Raises:
        DataError: the folder is missing, or two of its files differ in the suffix alone.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one of image files")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in found:
            raise DataError(f"{path}: {found[path.stem].name} has the same name; remove one of the two")
        found[path.stem] = path
    return found


def read_names(path: Path) -> tuple[str, ...]:
    """The lines of a text file that names one sample a line; raises `DataError` where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a text file, one name a line") from None
    return tuple(line.strip() for line in lines if line.strip())


def paired(
    images: Mapping[str, Path], labels: Mapping[str, Path], *, where: str, names: Iterable[str] | None = None
) -> tuple[Pair, ...]:
    """Images and masks of the same name as pairs, in the order of `names`; without these all of them, sorted.

    Raises:
        DataError: there is no name at all, one occurs twice, or an image or a mask is missing. `where` is the
            folder or list they are from.
    """
    names = sorted(images.keys() | labels.keys()) if names is None else list(names)
    if not names:
        raise DataError(f"{where}: no samples; expected at least one image with its label")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: {twice!r} is named {names.count(twice)} times; expected once")
    missing = [name for name in names if name not in images or name not in labels]
    if missing:
        lack = _lack(missing[0], images, labels)
        raise DataError(f"{where}: {lack} (so for {len(missing)} of {len(names)} samples); add it or drop the sample")
    return tuple(Pair(images[name], labels[name]) for name in names)


def _lack(name: str, images: Mapping[str, Path], labels: Mapping[str, Path]) -> str:
    if name in images:
        return f"image {images[name].name} has no label file"
    if name in labels:
        return f"label {labels[name].name} has no image file"
    return f"{name!r} has neither image nor label file"
