"""Every file is looked at before the first step, so that a run does not end in the middle of an epoch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from surrogate.errors import DataError
from surrogate_segmentation.data.files import image_size, read_label
from surrogate_segmentation.data.layout import Listing, Pair

_ASPECT = 0.02
"""Change of height by width that nobody would call stretching: of a pixel that is rounded."""


def check(listing: Listing, size: tuple[int, int]) -> tuple[str, ...]:
    """Looks at each image's header and each mask's pixels; returns notes on classes that do not occur, and on images
    that are stretched where they are resized to a size (height, width).

    Raises:
        DataError: a file is damaged; an image has more than 8 bits a channel; a mask has several channels, another
            size than its image or an unknown label id; an image is in two splits. It names the first such file in the
            order of the splits.
    """
    _refuse_shared(listing)
    with ThreadPoolExecutor() as pool:
        looked = {
            split: list(pool.map(partial(_looked_at, listing=listing), pairs))
            for split, pairs in listing.splits.items()
        }
    present = {split: np.sum([pixels for pixels, _ in found], axis=0) for split, found in looked.items()}
    shapes = [shape for found in looked.values() for _, shape in found]
    return (*_absent(listing, present), *_stretched(shapes, size))


def _refuse_shared(listing: Listing) -> None:
    owner: dict[Pair, str] = {}
    for split, pairs in listing.splits.items():
        shared = [pair for pair in pairs if pair in owner]
        if shared:
            raise DataError(
                f"{shared[0].image}: in the splits {owner[shared[0]]} and {split} ({len(shared)} images);"
                " expected each in one split"
            )
        owner |= dict.fromkeys(pairs, split)


def _looked_at(pair: Pair, listing: Listing) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """`(256,)` int64 pixels of each label id, and height and width, of a pair found in order."""
    label = read_label(pair.label, listing)
    size = image_size(pair.image)
    if label.shape != size:
        raise DataError(
            f"{pair.label}: mask of {_written(label.shape)} pixels for {pair.image.name} of {_written(size)};"
            " expected the same height and width"
        )
    return np.bincount(label.ravel(), minlength=256), size


def _stretched(shapes: list[tuple[int, int]], size: tuple[int, int]) -> list[str]:
    ratio = size[0] / size[1]
    stretched = sum(abs(height / width / ratio - 1.0) > _ASPECT for height, width in shapes)
    if not stretched:
        return []
    return [f"{stretched} of {len(shapes)} images are of another shape and are stretched to {_written(size)}"]


def _written(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _absent(listing: Listing, present: dict[str, NDArray[np.int64]]) -> list[str]:
    notes = []
    for i, name in enumerate(listing.classes):
        if not any(pixels[i] for pixels in present.values()):
            notes.append(f"class {name!r} occurs in no label")
        elif not present["train"][i]:
            notes.append(f"class {name!r} occurs in no train label")
    return notes
