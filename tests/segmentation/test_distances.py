"""Distances between label maps against scipy's."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from surrogate_segmentation.distances import to_nearest

CLASSES = 3


def by_scipy(labels: Tensor, others: Tensor) -> Tensor:
    """The same in pixels, class by class and image by image."""
    found = torch.zeros(labels.shape, dtype=torch.float64)
    for image in range(len(labels)):
        for k in range(CLASSES):
            mask = (others[image] == k).numpy()
            far = distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, math.hypot(*mask.shape))
            found[image] = torch.where(labels[image] == k, torch.from_numpy(far), found[image])
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**20))
def test_distances_are_scipys(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rare = torch.tensor([0.9, 0.04, 0.03, 0.03])
    drawn = rare.multinomial(4 * height * width, replacement=True, generator=generator) - 1.0
    labels, others = drawn.view(2, 2, height, width)
    own = to_nearest(labels, others, CLASSES) * math.hypot(height, width)
    np.testing.assert_allclose(own, by_scipy(labels, others), atol=1e-4)


def test_distances_in_a_large_image_are_right_but_for_two_cells() -> None:
    others = torch.full((1, 130, 200), -1.0)
    others[0, 90:97, 20:31] = 1.0
    labels = torch.ones(1, 130, 200)
    own = to_nearest(labels, others, CLASSES) * math.hypot(130, 200)
    assert float((own - by_scipy(labels, others)).abs().max()) <= 2 * math.hypot(130 / 64, 200 / 64)
