"""From the recipe's `[data]` table to an opened data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from surrogate.errors import DataError, UsageError
from surrogate_segmentation.data import digits
from surrogate_segmentation.data.camvid import CAMVID
from surrogate_segmentation.data.check import check
from surrogate_segmentation.data.cityscapes import CITYSCAPES
from surrogate_segmentation.data.files import ImageFiles
from surrogate_segmentation.data.folder import FOLDER, FOLDER_OF_SPLITS
from surrogate_segmentation.data.layout import Layout
from surrogate_segmentation.data.samples import SegmentationData, Source, Split
from surrogate_segmentation.data.voc import VOC
from surrogate_segmentation.recipe import DataRecipe

EMBEDDED = "digits"
LAYOUTS = (VOC, CITYSCAPES, CAMVID, FOLDER, FOLDER_OF_SPLITS)
MEMORY = 5 * 2**29
"""Bytes that samples may take in memory: 2.5 GiB holds VOC 2012 at its usual size."""


def open_data(recipe: DataRecipe) -> SegmentationData:
    """Opens the data set that a recipe names, and checks it unless the recipe says not to.

    `digits` is the embedded data set; a folder of that name is written `./digits`.

    Raises:
        UsageError: the recipe asks for a layout of the embedded data set, or for scenes too small to draw in.
        DataError: there is no such folder, its layout is not plain, or a file in it is not in order.
    """
    if recipe.path == EMBEDDED:
        return _open_digits(recipe)
    layout, root = _find(recipe)
    listing = layout.read(root)
    size = recipe.size or listing.size
    notes = listing.notes + (check(listing, size) if recipe.check else ())
    return SegmentationData(
        title=listing.title,
        classes=listing.classes,
        ignore_index=listing.ignore_index,
        size=size,
        splits=_splits(
            {split: ImageFiles(listing, split, size) for split in listing.splits},
            size=size,
            ignore_index=listing.ignore_index,
            augmented=recipe.augment,
            flip=True,
        ),
        notes=notes,
    )


def _open_digits(recipe: DataRecipe) -> SegmentationData:
    if recipe.layout != "auto":
        raise UsageError(
            f"layout {recipe.layout!r} for the embedded data set 'digits'; give the folder of your data set with --data"
        )
    size = recipe.size or digits.SIZE
    return SegmentationData(
        title="digits",
        classes=digits.CLASSES,
        ignore_index=digits.IGNORE_INDEX,
        size=size,
        splits=_splits(
            {split: digits.DigitScenes(split, size) for split in digits.COUNTS},
            size=size,
            ignore_index=digits.IGNORE_INDEX,
            augmented=recipe.augment,
            flip=False,  # a mirrored digit is another sign
        ),
    )


def _splits(
    sources: Mapping[str, Source], *, size: tuple[int, int], ignore_index: int, augmented: bool, flip: bool
) -> dict[str, Split]:
    pixels = sum(len(source) for source in sources.values()) * size[0] * size[1]
    return {
        split: Split(source, ignore_index=ignore_index, augmented=augmented, flip=flip, keep=4 * pixels <= MEMORY)
        for split, source in sources.items()
    }


def _find(recipe: DataRecipe) -> tuple[Layout, Path]:
    """The layout of the recipe's folder, and where it begins."""
    root = Path(recipe.path).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one with --data, or 'digits' for the embedded data set")
    layouts = [layout for layout in LAYOUTS if recipe.layout in ("auto", layout.name)]
    found = [*{(layout.name, base): (layout, base) for layout in layouts for base in layout.find(root)}.values()]
    if not found:
        looked_for = "; ".join(f"{layout.name}: {', '.join(layout.marks)}" for layout in layouts)
        raise DataError(f"{root}: no known data set; looked for {looked_for}")
    if len(found) > 1:
        several = ", ".join(f"{layout.name} in {base}" for layout, base in found)
        raise DataError(f"{root}: several data sets ({several}); name one with --data and --layout")
    return found[0]
