"""Samples as tensors: normalised, kept, and changed at random from a generator alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from surrogate_segmentation.data import SegmentationData, Split, denormalise, open_data
from surrogate_segmentation.data.augment import augment
from surrogate_segmentation.recipe import DataRecipe

SIZE = (40, 60)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def data(tmp_path: Path) -> SegmentationData:
    chance = np.random.default_rng(1)
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        for i in range(3):
            Image.fromarray(chance.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(tmp_path / split / f"{i}.png")
            mask = chance.integers(0, 12, SIZE, dtype=np.uint8)
            Image.fromarray(mask).save(tmp_path / f"{split}annot" / f"{i}.png")
    return open_data(DataRecipe(path=str(tmp_path), size=SIZE))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("seed", range(12))
def test_image_and_label_move_together(axis: int, seed: int) -> None:
    """Both hold the coordinate along an axis: wherever the label lands, the image must agree."""
    place = torch.arange(SIZE[axis]).view((-1, 1) if axis == 0 else (1, -1)).expand(SIZE)
    image, label = augment(place.float().expand(3, *SIZE), place, generator=seeded(seed), flip=True, ignore_index=255)
    assert image.shape == (3, *SIZE)
    assert (label.shape, label.dtype) == (SIZE, torch.int64)
    # In the last half pixel before its border the image fades to 0, so only the inside is compared.
    inside = (label > 0) & (label < SIZE[axis] - 1) & ~at_the_border(label)
    assert inside.float().mean() > 0.3
    assert (image[0] - label).abs()[inside].max() <= 0.5 + 1e-3
    assert (image[:, label == 255].abs() <= 0.5 * SIZE[axis]).all()


def at_the_border(label: torch.Tensor) -> torch.Tensor:
    """Pixels with void, or the frame, next to them."""
    void = torch.nn.functional.pad((label == 255).float(), (1, 1, 1, 1), value=1.0)
    return torch.nn.functional.max_pool2d(void[None], 3, stride=1)[0] > 0


def test_what_is_outside_is_mean_colour_and_void() -> None:
    ones, label = torch.ones(3, *SIZE), torch.zeros(SIZE, dtype=torch.int64)
    views = [augment(ones, label, generator=seeded(seed), flip=False, ignore_index=11) for seed in range(30)]
    assert {int(value) for _, view in views for value in view.unique()} == {0, 11}
    for image, view in views:
        far_out = torch.nn.functional.max_pool2d((view == 0).float()[None], 3, stride=1, padding=1)[0] == 0
        assert (image[:, far_out] == 0).all()
    shares = [(view == 0).float().mean().item() for _, view in views]
    assert max(shares) == 1.0
    assert 0.75**2 - 0.05 <= min(shares) < 0.9


@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_samples_are_mirrored_where_that_is_allowed(flip: bool) -> None:
    ramp = torch.arange(SIZE[1]).expand(SIZE)
    mirrored = 0
    for seed in range(60):
        _, label = augment(
            ramp[None].expand(3, *SIZE).float(), ramp, generator=seeded(seed), flip=flip, ignore_index=255
        )
        row = label[SIZE[0] // 2]
        row = row[row != 255]
        mirrored += int(row[0] > row[-1])
    assert 18 <= mirrored <= 42 if flip else mirrored == 0


def test_a_sample_is_exact_without_a_generator_and_repeatable_with_one(data: SegmentationData) -> None:
    train = data.splits["train"]
    image, label = train.load(0, None)
    again, same = train.load(0, None)
    assert torch.equal(image, again)
    assert torch.equal(label, same)
    one, two = train.load(0, seeded(5)), train.load(0, seeded(5))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], train.load(0, seeded(6))[0])
    assert not torch.equal(one[0], image)


def test_augmentation_draws_from_its_generator_alone(data: SegmentationData) -> None:
    before = torch.get_rng_state()
    generator = seeded(0)
    data.splits["train"].load(0, generator)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(generator.get_state(), seeded(0).get_state())


def test_a_recipe_without_augmentation_loads_the_sample_as_it_is(data: SegmentationData, tmp_path: Path) -> None:
    plain = open_data(DataRecipe(path=str(tmp_path), size=SIZE, augment=False)).splits["train"]
    assert torch.equal(plain.load(1, seeded(0))[0], data.splits["train"].load(1, None)[0])


def test_images_are_normalised_and_denormalised(data: SegmentationData, tmp_path: Path) -> None:
    image, _ = data.splits["train"].load(2, None)
    stored = np.array(Image.open(tmp_path / "train" / "2.png")) / 255
    expected = (stored - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(denormalise(image).permute(1, 2, 0).numpy(), stored, atol=1e-6)
    assert denormalise(torch.full((3, 2, 2), 99.0)).max() == 1


class Counting:
    """A source of two samples that counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 2

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self.reads += 1
        return np.full((4, 4, 3), index, dtype=np.uint8), np.full((4, 4), index, dtype=np.uint8)


@pytest.mark.parametrize(("keep", "reads"), [(True, 2), (False, 6)])
def test_samples_that_fit_are_read_once(keep: bool, reads: int) -> None:
    source = Counting()
    split = Split(source, ignore_index=255, augmented=True, flip=True, keep=keep)
    for index in (0, 1, 0, 1, 0, 1):
        split.load(index, None)
    assert source.reads == reads


def test_a_kept_sample_is_not_changed_by_its_users(data: SegmentationData) -> None:
    train = data.splits["train"]
    image, label = train.load(0, None)
    first, kept = image.clone(), label.clone()
    image.zero_()
    label.zero_()
    assert torch.equal(train.load(0, None)[0], first)
    assert torch.equal(train.load(0, None)[1], kept)


def test_many_threads_may_load(data: SegmentationData) -> None:
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda i: data.splits["train"].load(i % 3, None)[0], range(60)))
    assert all(torch.equal(image, images[i % 3]) for i, image in enumerate(images))
