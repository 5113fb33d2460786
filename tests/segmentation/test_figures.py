"""The figures as a reader gets them: PNG files, decoded again by Pillow."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("matplotlib", reason="the extra [plot] is not installed")

from surrogate_segmentation.figures import AFTER, BEFORE, PALETTE, VOID, available, iou_bars, strip

SPEC = "mIoU(macro, dataset, ignore=255, absent=skip)"


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def colours(path: Path) -> dict[tuple[int, ...], int]:
    """Pixels by colour."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        found = image.convert("RGB").getcolors(maxcolors=2**24)
    return {colour: count for count, colour in found}


def ious(count: int, *, shift: float = 0.0, **changed: float | None) -> dict[str, float | None]:
    return {f"class {k}": 0.3 + 0.5 * k / count + shift for k in range(count)} | changed


def maps(*, dtype: torch.dtype = torch.uint8, classes: int = 5, void: int = 255) -> list[Tensor]:
    """Two label maps `(20, 30)`: columns of each class, a band of void."""
    labels = (torch.arange(30) * classes // 30).expand(20, 30).clone()
    labels[8:12] = void
    return [labels.to(dtype), labels.flip(1).to(dtype)]


def test_available_finds_matplotlib() -> None:
    assert available()


@pytest.mark.parametrize("count", [1, 6, 21])
def test_bars_are_drawn_in_the_two_colours(tmp_path: Path, count: int) -> None:
    path = iou_bars(tmp_path / "iou.png", {"before": ious(count), "after": ious(count, shift=0.05)}, spec=SPEC)
    assert path == tmp_path / "iou.png"
    found = colours(path)
    assert found[rgb(AFTER)] > found[rgb(BEFORE)] > 1000  # higher bars, more ink
    with Image.open(path) as image:
        assert image.width == 1300
        assert image.getpixel((0, 0))[:3] == (255, 255, 255)


def test_spreads_are_drawn_over_the_bars(tmp_path: Path) -> None:
    plain = colours(iou_bars(tmp_path / "plain.png", {"after": ious(3)}, spec=SPEC))
    spreads = {"after": {"class 0": 0.05, "mean": 0.02}}
    whiskers = colours(iou_bars(tmp_path / "spread.png", {"after": ious(3)}, spec=SPEC, spreads=spreads))
    assert whiskers[rgb(AFTER)] < plain[rgb(AFTER)]


def test_an_undefined_class_leaves_a_gap(tmp_path: Path) -> None:
    whole = colours(iou_bars(tmp_path / "whole.png", {"after": ious(6)}, spec=SPEC))
    gap = colours(iou_bars(tmp_path / "gap.png", {"after": ious(6, **{"class 2": None})}, spec=SPEC))
    assert gap[rgb(AFTER)] < 0.95 * whole[rgb(AFTER)]


@pytest.mark.parametrize(("models", "value"), [(1, None), (2, 0.0), (6, 1.0)])
def test_extreme_scores_are_drawn_without_a_warning(tmp_path: Path, models: int, value: float | None) -> None:
    scores = {f"model {m}": ious(4, **{f"class {k}": value for k in range(4)}) for m in range(models)}
    assert len(colours(iou_bars(tmp_path / "iou.png", scores, spec=SPEC))) > 10


def test_names_are_printed_as_they_are(tmp_path: Path) -> None:
    """Neither mathematics between dollars nor a leading underscore, as labelme writes it, means anything."""
    names = ["_background_", "$x^{$", "a_b"]
    iou_bars(tmp_path / "iou.png", {"before": dict.fromkeys(names, 0.5)}, spec="$\\bad{$")
    labels = maps(classes=3)
    named = strip(tmp_path / "named.png", {"$truth$": labels}, classes=names, ignore_index=255)
    blank = strip(tmp_path / "blank.png", {"$truth$": labels}, classes=[" ", *names[1:]], ignore_index=255)
    assert named.read_bytes() != blank.read_bytes()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_strip_paints_each_class_in_its_colour(tmp_path: Path, dtype: torch.dtype) -> None:
    labels = maps(dtype=dtype)
    columns = {"input": [torch.rand(3, 20, 30)] * 2, "truth": labels, "after": labels}
    found = colours(strip(tmp_path / "strip.png", columns, classes=list("abcde"), ignore_index=255))
    painted = [found[rgb(PALETTE[k])] for k in range(5)]
    assert min(painted) > 0.9 * max(painted)  # all classes are of one size
    assert found[rgb(VOID)] > min(painted)
    assert rgb(PALETTE[5]) not in found


def test_strip_keeps_the_shape_of_the_images(tmp_path: Path) -> None:
    columns = {"truth": [torch.zeros(30, 60, dtype=torch.uint8)]}
    with Image.open(strip(tmp_path / "s.png", columns, classes=["a"], ignore_index=255)) as image:
        ink = (np.asarray(image.convert("RGB")) == rgb(PALETTE[0])).all(axis=-1)
    rows, across = ink.sum(axis=0).max(), ink.sum(axis=1).max()
    assert rows / across == pytest.approx(0.5, rel=0.05)


def test_strip_shows_the_input_as_it_is(tmp_path: Path) -> None:
    image = torch.zeros(3, 20, 30)
    image[0] = 1.0
    found = colours(strip(tmp_path / "s.png", {"input": [image]}, classes=["a"], ignore_index=255))
    assert found[(255, 0, 0)] > 1e6  # 1300 x 867 pixels


def test_void_may_have_the_number_of_a_class(tmp_path: Path) -> None:
    """ADE20K's void is 0, in front of its classes."""
    labels = torch.tensor([[0, 1, 2]]).repeat(2, 1)
    found = colours(strip(tmp_path / "s.png", {"truth": [labels]}, classes=["-", "a", "b"], ignore_index=0))
    assert rgb(VOID) in found
    assert rgb(PALETTE[0]) not in found


def test_more_classes_than_colours_begin_again(tmp_path: Path) -> None:
    classes = [f"c{k}" for k in range(30)]
    found = colours(strip(tmp_path / "s.png", {"t": maps(classes=30)}, classes=classes, ignore_index=255))
    assert all(rgb(colour) in found for colour in PALETTE)


def test_the_same_drawing_gives_the_same_bytes(tmp_path: Path) -> None:
    scores = {"before": ious(7), "after": ious(7, shift=0.03)}
    columns = {"input": [torch.linspace(0, 1, 1800).reshape(3, 20, 30)] * 2, "truth": maps()}
    for draw in (
        lambda path: iou_bars(path, scores, spec=SPEC),
        lambda path: strip(path, columns, classes=list("abcde"), ignore_index=255),
    ):
        one, two = (draw(tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
        assert one == two
        assert b"Software" not in one


def test_colours_of_the_palette_are_far_apart() -> None:
    """No two colours, void and white among them, closer than 35 of 255 steps in RGB."""
    values = np.array([rgb(colour) for colour in (*PALETTE, VOID, "#ffffff")], dtype=float)
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(values, 2)) > 35
