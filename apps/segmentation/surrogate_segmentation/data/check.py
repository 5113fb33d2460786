"""Every file is looked at before the first step, so that a run does not end in the middle of an epoch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from surrogate.errors import DataError
from surrogate_segmentation.data.files import image_size, read_label
from surrogate_segmentation.data.layout import Listing, Pair


def check(listing: Listing) -> tuple[str, ...]:
    """Looks at each image's header and each mask's pixels; returns notes on classes that do not occur.

    Raises:
        DataError: a file is damaged; an image has more than 8 bits a channel; a mask has several channels, another
            size than its image or an unknown label id; an image is in two splits. It names the first such file in the
            order of the splits.
    """
    _refuse_shared(listing)
    with ThreadPoolExecutor() as pool:
        present = {
            split: sum(pool.map(partial(_class_pixels, listing=listing), pairs), np.zeros(256, dtype=np.int64))
            for split, pairs in listing.splits.items()
        }
    return tuple(_absent(listing, present))


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


def _class_pixels(pair: Pair, listing: Listing) -> NDArray[np.int64]:
    """`(256,)` int64 pixels of each label id, of a pair found in order."""
    label = read_label(pair.label, listing)
    size = image_size(pair.image)
    if label.shape != size:
        raise DataError(
            f"{pair.label}: mask of {_written(label.shape)} pixels for {pair.image.name} of {_written(size)};"
            " expected the same height and width"
        )
    return np.bincount(label.ravel(), minlength=256)


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
