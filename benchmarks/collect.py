"""Collecting statistics against the model's own forward pass over the same samples, and what each regime adds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from benchmarks.harness import Case
from benchmarks.rows import Row, Settings, compared
from benchmarks.scene import VOID
from benchmarks.store import store_spec
from surrogate.collect import collect, move_columns
from surrogate.engine import Engine
from surrogate.moves import KINDS
from surrogate.progress import finish
from surrogate.protocols import Measure
from surrogate.recipe import MeasureRecipe, ModelRecipe, Recipe, Section
from surrogate.regimes import REGIMES
from surrogate.store import StoreWriter
from surrogate_segmentation.app import perfect_outputs
from surrogate_segmentation.measures import iou
from surrogate_segmentation.networks.unet import UNet
from surrogate_segmentation.recipe import SegmentationCollectRecipe

SUBJECT = "collect"
FORWARD = "forward pass"


@dataclass(frozen=True, slots=True)
class Images:
    """Random images and labels: a data set that costs nothing to read."""

    count: int
    classes: int
    height: int
    width: int

    def __len__(self) -> int:
        return self.count

    def load(self, index: int, generator: Generator | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return _sample(index % 8, self.classes, self.height, self.width)

    def name(self, index: int) -> str:
        return f"image {index}"


@cache
def _sample(seed: int, classes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    dice = torch.Generator().manual_seed(seed)
    return torch.randn(3, height, width, generator=dice), torch.randint(classes, (height, width), generator=dice)


@dataclass(frozen=True)
class Collection:
    """A collection over random images, ready to be run as often as one likes, each time into an empty folder."""

    images: Images
    model: nn.Module
    engine: Engine
    measure: Measure
    batch_size: int = 8

    @classmethod
    def of(cls, images: Images, *, width: int, device: torch.device) -> Collection:
        """With a UNet of the width, as it comes, and the measure `iou`."""
        torch.manual_seed(0)
        recipe = Recipe(
            app="", device=device.type, measure=MeasureRecipe(name="iou"), data=Section(), model=ModelRecipe()
        )
        measure = iou(num_classes=images.classes, ignore_index=VOID, level="sample")
        return cls(images, UNet(images.classes, width=width).eval(), Engine(recipe), measure)

    def forward(self) -> Case:
        """The model alone, on batches that are there already."""
        samples = [self.images.load(i, None)[0] for i in range(len(self.images))]
        batches = [batch.to(self.engine.device) for batch in torch.stack(samples).split(self.batch_size)]
        model = self.engine.prepare(self.model)

        @torch.no_grad()
        def run() -> None:
            for batch in batches:
                model(batch)

        return Case(run)

    def collecting(self, *regimes: str, moves: int = 0) -> Case:
        """The stage `collect`, store and all."""
        settings = SegmentationCollectRecipe(batch_size=self.batch_size, regimes=regimes, moves=moves)
        spec, moved = store_spec(self.measure.columns, regimes), store_spec(move_columns(self.measure), KINDS)

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                stage = collect(
                    self.engine,
                    self.model,
                    self.images,
                    self.measure,
                    partial(perfect_outputs, ignore_index=VOID),
                    rows=StoreWriter(Path(folder, "stats"), spec),
                    moves=StoreWriter(Path(folder, "moves"), moved),
                    settings=settings,
                    seed=0,
                )
                finish(stage)

        return Case(run)


def run(settings: Settings) -> Iterator[Row]:
    """The regime "model" alone, over a collection long enough that opening and closing the stores does not count; then,
    over a short one, with each other regime and with one move a batch."""
    gpu = settings.device.type == "cuda"
    images = Images(2, 3, 32, 32) if settings.tiny else Images(128, 21, 512, 512) if gpu else Images(64, 11, 120, 160)
    width = 2 if settings.tiny else 64 if gpu else 16
    case = f"UNet width {width}, {{}} of 3x{images.height}x{images.width}, {images.classes} classes"
    long = Collection.of(images, width=width, device=settings.device)
    cases = {FORWARD: long.forward(), "collect": long.collecting("model")}
    whats = {("collect", FORWARD): "collect, regime model"}
    yield from compared(settings, SUBJECT, case.format(len(images)), cases, whats)
    short = replace(long, images=replace(images, count=min(32, len(images))))
    cases = {"model alone": short.collecting("model")}
    cases |= {f"model and {name}": short.collecting("model", name) for name in REGIMES if name != "model"}
    cases["model and one move a batch"] = short.collecting("model", moves=1)
    whats = {(name, "model alone"): f"collect, {name}" for name in cases if name != "model alone"}
    yield from compared(settings, SUBJECT, case.format(len(short.images)), cases, whats)
