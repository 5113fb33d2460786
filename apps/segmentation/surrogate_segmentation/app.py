"""The segmentation app: data, networks, losses and figures behind the protocols of the core."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surrogate.errors import DataError, UsageError
from surrogate.protocols import App, Dataset, Task
from surrogate.recipe import Recipe
from surrogate_segmentation import figures, networks
from surrogate_segmentation.baselines import BASELINES, baseline
from surrogate_segmentation.data import denormalise, open_data
from surrogate_segmentation.recipe import SegmentationRecipe
from surrogate_segmentation.score import SegmentationScore
from surrogate_segmentation.standard import EXAMPLE, standard

_CONFIDENT = 12.0
"""Least logit of the true class in perfect outputs, all others 0: a probability above 0.9998 with 21 classes."""
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "neuroiou-3": {"measure": {"name": "iou", "level": "sample"}, "fit.columns": ["tp", "fp", "fn"]},
    "neuroiou-6": {"measure": {"name": "iou", "level": "sample"}},
    "neuroiou-hinge": {"measure": {"name": "iou", "statistics": "hinge"}},
    "neuroiou-noint": {"measure": {"name": "iou"}, "finetune.from_scratch": True},
    "neuroiou-dataset": {"measure": {"name": "iou", "level": "dataset"}},
    "boundary-iou": {"measure": {"name": "boundary-iou"}},
    "boundary-f1": {"measure": {"name": "boundary-f1"}},
    "image-iou": {"measure": {"name": "image-iou"}},
    "worst-quartile-iou": {"measure": {"name": "worst-quartile-iou"}, "collect.passes": 6},
}
"""The paper's variants, at the levels of ours, and the losses of metrics that have no good hand-made one."""
_SHOWN = 5
"""Images in the strip."""


class SegmentationApp(App):
    """What the entry point `segmentation` names."""

    recipe = SegmentationRecipe
    recipes: Mapping[str, Path] = {
        path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))
    }
    baselines = BASELINES
    variants = VARIANTS
    standard = staticmethod(standard)
    example = EXAMPLE

    def open(self, recipe: Recipe) -> SegmentationTask:
        """Finds and checks the data of the recipe."""
        if not isinstance(recipe, SegmentationRecipe):
            raise UsageError(f"a recipe of app {recipe.app!r} was given to segmentation")
        return SegmentationTask(recipe)


class SegmentationTask(Task):
    """Segmentation of one data set by one network."""

    headlines: Mapping[str, str] = {
        "iou": "miou",
        "image-iou": "image_miou",
        "worst-quartile-iou": "worst_quartile_miou",
        "boundary-iou": "boundary_iou",
        "boundary-f1": "boundary_f1",
    }

    def __init__(self, recipe: SegmentationRecipe) -> None:
        self.recipe = recipe
        self.data = open_data(recipe.data)
        self.facts: Mapping[str, Any] = {
            "num_classes": len(self.data.classes),
            "ignore_index": self.data.ignore_index,
        }
        sizes = ", ".join(f"{len(split)} {name}" for name, split in self.data.splits.items())
        height, width = self.data.size
        self.about = f"{self.data.title}: {sizes}, {len(self.data.classes)} classes, {height}x{width}"
        if self.data.notes:
            self.about += "; " + "; ".join(self.data.notes)

    def dataset(self, split: str) -> Dataset:
        """A split by name; `test` falls back to `val` where no test labels exist."""
        if split not in ("train", "val", "test"):
            raise UsageError(f"--split {split}: expected train, val or test")
        splits = self.data.splits
        return splits["val"] if split == "test" and "test" not in splits else splits[split]

    def model(self) -> nn.Module:
        """The network of the recipe."""
        settings = self.recipe.model
        model = networks.build(settings.name, num_classes=len(self.data.classes), width=settings.width)
        self._try(model)
        return model

    def baseline(self, name: str) -> nn.Module:
        """A hand-made loss by name."""
        return baseline(
            name,
            num_classes=len(self.data.classes),
            ignore_index=self.data.ignore_index,
            class_pixels=self.data.class_pixels,
        )

    def score(self) -> SegmentationScore:
        """mIoU and its parts, of images and of boundaries too."""
        return SegmentationScore(
            self.data.classes,
            ignore_index=self.data.ignore_index,
            boundary_width=self.recipe.score.boundary_width,
        )

    def perfect(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `perfect_outputs`."""
        return perfect_outputs(outputs, targets, ignore_index=self.data.ignore_index)

    def figures(
        self, folder: Path, models: Mapping[str, nn.Module], scores: Mapping[str, Mapping[str, Any]]
    ) -> list[Path]:
        """Per-class IoU bars, and a strip of test images with the truth and each model's labels."""
        if not figures.available():
            return []
        per_class = {  # in the order of the labels, as in the legend of the images
            name: {label: score["iou"][label] for label in self.data.classes if label in score["iou"]}
            for name, score in scores.items()
        }
        spreads = {
            name: {**score["sd"].get("iou", {}), "mean": score["sd"].get("miou", 0.0)}
            for name, score in scores.items()
            if "sd" in score
        }
        bars = figures.iou_bars(
            folder / "iou.png", per_class, spec=self.score().spec.partition(";")[0], spreads=spreads
        )
        return [bars, self._strip(folder / "images.png", models)]

    @torch.no_grad()
    def _strip(self, path: Path, models: Mapping[str, nn.Module]) -> Path:
        split = self.dataset("test")
        chosen = range(0, len(split), max(1, len(split) // _SHOWN))[:_SHOWN]
        samples = [split.load(index, None) for index in chosen]
        columns: dict[str, list[Tensor]] = {
            "input": [denormalise(image) for image, _ in samples],
            "truth": [label for _, label in samples],
        }
        for name, model in models.items():
            device = next(model.parameters()).device
            labels = partial(torch.argmax, dim=0)
            columns[name] = [labels(model.eval()(image[None].to(device))[0].cpu()) for image, _ in samples]
        return figures.strip(path, columns, classes=self.data.classes, ignore_index=self.data.ignore_index)

    @torch.no_grad()
    def _try(self, model: nn.Module) -> None:
        """One image through the network before the first step: a wrong output shape is better told early."""
        image, label = self.dataset("train").load(0, None)
        was_training = model.training
        outputs = model.eval()(image[None])
        model.train(was_training)
        if not isinstance(outputs, Tensor):
            raise DataError(
                f"model {self.recipe.model.name}: gives a {type(outputs).__name__}; expected a tensor of logits "
                "(B, C, H, W): wrap it in a module that returns that, such as its entry 'out' or its field 'logits'"
            )
        found, expected = tuple(outputs.shape), (1, len(self.data.classes), *label.shape)
        if found != expected:
            raise DataError(
                f"model {self.recipe.model.name}: gives outputs of shape {found} for an image of {tuple(image.shape)}; "
                f"expected {expected}: a logit for each class and pixel"
            )


def perfect_outputs(outputs: Tensor, targets: Tensor, *, ignore_index: int) -> Tensor:
    """The true class confidently, and never less so than any is now; at void pixels the outputs as they are."""
    valid = (targets != ignore_index).unsqueeze(1)
    label = torch.where(valid, targets.unsqueeze(1), 0).long()
    margin = outputs.amax(1, keepdim=True) - outputs.amin(1, keepdim=True)
    margin = margin.nan_to_num(posinf=0.0).clamp_min(_CONFIDENT)  # -inf masks a class
    ideal = torch.zeros_like(outputs).scatter_(1, label, margin)
    return torch.where(valid, ideal, outputs)


app = SegmentationApp()
