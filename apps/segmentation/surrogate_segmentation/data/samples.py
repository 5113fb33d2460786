"""An opened data set: samples as tensors, kept in memory where they fit."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from surrogate_segmentation.data.augment import augment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the RGB channels of ImageNet, for values in [0, 1]: what pretrained encoders expect."""


class Source(Protocol):
    """Where the samples of a split come from, all at one size."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """`(H, W, 3)` uint8 RGB and `(H, W)` uint8 label ids. Any thread may call it."""
        ...

    def name(self, index: int) -> str: ...


class Split:
    """One split of a data set: a `surrogate.protocols.Dataset` of images and label maps.

    `augmented` lets a generator given to `load` change samples, `flip` lets it mirror them, and `keep` holds
    what was read in memory, 4 bytes a pixel.
    """

    def __init__(self, source: Source, *, ignore_index: int, augmented: bool, flip: bool, keep: bool) -> None:
        self._source = source
        self._ignore_index = ignore_index
        self._augmented = augmented
        self._flip = flip
        self._kept: dict[int, tuple[Tensor, Tensor]] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self._source)

    def name(self, index: int) -> str:
        """As the source names it: of files the path of the image, relative to the data set's folder."""
        return self._source.name(index)

    def load(self, index: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """`(3, H, W)` float32 normalised image and `(H, W)` int64 label ids; exact without a generator.

        Raises:
            DataError: a file of the sample cannot be read.
        """
        pixels, ids = self.read(index)
        image, label = normalise(pixels), ids.long()
        if generator is None or not self._augmented:
            return image, label
        return augment(image, label, generator=generator, flip=self._flip, ignore_index=self._ignore_index)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """`(3, H, W)` uint8 RGB and `(H, W)` uint8 label ids, not to be written to; raises as `load`."""
        if self._kept is None:
            return self._read(index)
        # Two threads may read the same sample at once: both get equal tensors, and one pair is kept.
        if index not in self._kept:
            self._kept[index] = self._read(index)
        return self._kept[index]

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self._source.read(index)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(label)


@dataclass(frozen=True, eq=False)
class SegmentationData:
    """A data set ready to be trained on.

    `classes` are names by label id; `ignore_index` is the label of void pixels and none of them. `size` is
    the (height, width) of all samples. `splits` has `train`, `val` and, where it is labelled, `test`. `notes`
    are lines for the screen: what was assumed, which class is absent.
    """

    title: str
    classes: tuple[str, ...]
    ignore_index: int
    size: tuple[int, int]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()

    def class_pixels(self) -> Tensor:
        """`(C,)` int64, pixels of each class in the train split, as resized; void is not counted.

        The first call reads the whole split; raises `DataError` as `Split.load`.
        """
        return self._class_pixels

    @cached_property
    def _class_pixels(self) -> Tensor:
        train = self.splits["train"]

        def count(index: int) -> Tensor:
            return torch.bincount(train.read(index)[1].flatten(), minlength=256)

        with ThreadPoolExecutor() as pool:
            pixels = sum(pool.map(count, range(len(train))), torch.zeros(256, dtype=torch.int64))
        return pixels[: len(self.classes)]


def normalise(pixels: Tensor) -> Tensor:
    """`(..., 3, H, W)` uint8 RGB as float32, less ImageNet's mean and over its standard deviation."""
    mean, std = _channels(MEAN), _channels(STD)
    return pixels.float().div_(255).sub_(mean).div_(std)


def denormalise(image: Tensor) -> Tensor:
    """`(..., 3, H, W)` float, the inverse of the normalisation: RGB in [0, 1], for figures."""
    mean, std = _channels(MEAN).to(image), _channels(STD).to(image)
    return (image * std + mean).clamp(0, 1)


def _channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values)[:, None, None]
