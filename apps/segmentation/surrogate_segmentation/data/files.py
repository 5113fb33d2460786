"""Image and mask files as arrays; whatever is wrong with one is said with its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from surrogate.errors import DataError, SurrogateError
from surrogate_segmentation.data.layout import Listing

Pixels = NDArray[np.uint8]
_LYING = (5, 6, 7, 8)
"""Orientations of Exif that a quarter turn makes upright."""


@dataclass(frozen=True, eq=False, slots=True)
class ImageFiles:
    """The samples of one split of a listed data set, read from their files at one size: a `Source`."""

    listing: Listing
    split: str
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.listing.splits[self.split])

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """`(H, W, 3)` uint8 RGB, resized bilinearly, and `(H, W)` uint8 label ids, resized to the nearest."""
        pair = self.listing.splits[self.split][index]
        height, width = self.size
        with _opened(pair.image) as image:
            _check_depth(pair.image, image)
            upright = image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
            # Pillow widens the filter when it reduces, so small sizes are free of aliasing.
            colours = upright.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        label = Image.fromarray(read_label(pair.label, self.listing))
        return np.array(colours), np.array(label.resize((width, height), Image.Resampling.NEAREST))

    def name(self, index: int) -> str:
        """The image's path relative to the data set's folder."""
        return self.listing.splits[self.split][index].image.relative_to(self.listing.root).as_posix()


def image_size(path: Path) -> tuple[int, int]:
    """Height and width from the header of an image file, upright as its camera held it.

    Raises:
        DataError: there is no such header, or it is of an image that is not read.
    """
    with _opened(path) as image:
        _check_depth(path, image)
        lying = _orientation(image) in _LYING
        return (image.width, image.height) if lying else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """By Exif, 1 is upright. From the header alone: in search of it Pillow would read a whole PNG."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _check_depth(path: Path, image: Image.Image) -> None:
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{path}: image of mode {image.mode}; expected 8 bits a channel")


def read_mask(path: Path) -> Pixels:
    """`(H, W)` uint8, the values of a mask as stored; of a palette image the indices, not the colours.

    Raises:
        DataError: the file cannot be decoded, or has not one channel of 8 bits.
    """
    with _opened(path) as image:
        if image.mode not in ("L", "P", "1"):
            raise DataError(
                f"{path}: mask of mode {image.mode}; expected one channel of class ids (mode L or P, 8 bits):"
                " convert colours to ids, and say what the ids mean in dataset.toml [label_map]"
            )
        return np.array(image, dtype=np.uint8)


def read_label(path: Path, listing: Listing) -> Pixels:
    """`(H, W)` uint8 label ids of a mask: 0 to C-1, or the listing's `ignore_index`.

    Raises:
        DataError: as `read_mask`, or the mask holds a value without a meaning.
    """
    mask = read_mask(path)
    label = listing.labels[mask]
    if label.min() < 0:
        values, counts = np.unique(mask[label < 0], return_counts=True)
        more = f" and {len(values) - 1} other unknown ids" if len(values) > 1 else ""
        raise DataError(
            f"{path}: label id {values[0]} in {counts[0]} pixels{more}; expected {_known(listing)}; {listing.hint}"
        )
    return label.astype(np.uint8)


def _known(listing: Listing) -> str:
    """The values with a meaning as ranges: `0-20, 255`."""
    values = np.flatnonzero(listing.labels >= 0)
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except SurrogateError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; it was there when the data set was listed") from None
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be decoded ({reason}); expected an intact image file") from None
