"""The settings of a segmentation run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, NonNegativeFloat, PlainSerializer, PositiveInt

from surrogate.recipe import CollectRecipe, FitRecipe, MeasureRecipe, ModelRecipe, Recipe, Section


def _parse_size(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)x(\d+)", value.strip())
        if not match:
            raise ValueError("expected HxW in pixels, such as 120x160")
        return int(match[1]), int(match[2])
    return value


Size = Annotated[
    tuple[PositiveInt, PositiveInt],
    BeforeValidator(_parse_size),
    PlainSerializer(lambda size: f"{size[0]}x{size[1]}", return_type=str),
]
"""Height and width in pixels, written `HxW`."""


class DataRecipe(Section):
    """Which images and labels, and at which size."""

    path: str = "digits"
    """A folder, or `digits`: the embedded data set."""
    layout: Literal["auto", "voc", "cityscapes", "camvid", "folder"] = "auto"
    """How images and labels lie in the folder; `auto` finds out."""
    size: Size | None = None
    """All images are resized to it; without one, to the usual size of the layout."""
    augment: bool = True
    """Training images are flipped, scaled and cropped at random."""
    check: bool = True
    """Every label file is read once before the first step."""


class NetworkRecipe(ModelRecipe):
    """Which network. Weights are `.safetensors`, or `.pt` read with `weights_only=True`."""

    name: str = "unet"
    """`fcn8s`, `segnet`, `unet`, or `pkg.mod:factory`, called with `num_classes`."""
    width: PositiveInt = 16
    """Channels of the first block: 16 trains on a CPU, the papers' networks have 64."""


class SegmentationMeasureRecipe(MeasureRecipe):
    """IoU unless another is named."""

    name: str = "iou"


class SegmentationCollectRecipe(CollectRecipe):
    """Moves are judged under some noise: a metric of pixels, of boundaries above all, jumps from one to the other."""

    noise: NonNegativeFloat = 0.25


class SegmentationFitRecipe(FitRecipe):
    """Ranks weigh more: the losses of classes that are hardly found crowd next to the worst one."""

    order_weight: NonNegativeFloat = 10.0


class ScoreRecipe(Section):
    """How the reported numbers are counted."""

    boundary_width: PositiveInt = 2
    """Pixels: of the bands of boundary IoU, and within which boundary F1 finds a boundary. A boundary measure has a
    `width` of its own."""


class SegmentationRecipe(Recipe):
    """A whole run of the segmentation app."""

    app: Literal["segmentation"] = "segmentation"
    measure: SegmentationMeasureRecipe = SegmentationMeasureRecipe()
    data: DataRecipe = DataRecipe()
    model: NetworkRecipe = NetworkRecipe()
    collect: SegmentationCollectRecipe = SegmentationCollectRecipe()
    fit: SegmentationFitRecipe = SegmentationFitRecipe()
    score: ScoreRecipe = ScoreRecipe()
