"""The toy app: a line through the surrogate of a function that jumps (NeuroIoU, BMVC 2018, Section 4.2).

The model gives an x for each point u of [0, 2]. Trained by squared error it gives u itself, so that its
outputs cover the interval and a surrogate of f can be fitted on them. Finetuned through that surrogate, it
moves all of them to where f is least: just left of the jump.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surrogate.errors import UsageError, nearest
from surrogate.protocols import App, Task
from surrogate.recipe import Recipe
from surrogate_toy import figures
from surrogate_toy.data import Points
from surrogate_toy.measures import BAND, EXAMPLE, curve_errors, f, fitted_curves, standard
from surrogate_toy.recipe import ToyRecipe

_SPLITS = ("train", "val", "test")
_BEST = 0.999
"""Just left of the jump; f has no least value to give."""


class ToyApp(App):
    """What the entry point `toy` names."""

    recipe = ToyRecipe
    baselines = ("mse",)
    standard = staticmethod(standard)
    example = EXAMPLE

    def open(self, recipe: Recipe) -> ToyTask:
        """Makes the points of the recipe."""
        if not isinstance(recipe, ToyRecipe):
            raise UsageError(f"a recipe of app {recipe.app!r} was given to toy")
        return ToyTask(recipe)


class ToyTask(Task):
    """x from u on [0, 2], by a line."""

    headlines: Mapping[str, str] = {"step": "f"}

    def __init__(self, recipe: ToyRecipe) -> None:
        self.recipe = recipe
        points = recipe.data
        counts = zip(_SPLITS, (points.train, points.test, points.test), strict=True)
        self.splits = {
            name: Points(count, seed=len(_SPLITS) * points.seed + k) for k, (name, count) in enumerate(counts)
        }
        sizes = ", ".join(f"{len(split)} {name}" for name, split in self.splits.items())
        self.about = f"points on [0, 2]: {sizes}"

    def dataset(self, split: str) -> Points:
        """A split by name."""
        if split not in self.splits:
            raise UsageError(f"--split {split}: expected train, val or test")
        return self.splits[split]

    def model(self) -> nn.Module:
        """x = a u + b, with a and b near 1 and 0.

        Checkpoints are chosen by f, and f likes a model that has not learnt yet and gives about 1 for every
        u. So it starts close enough to be there after one epoch.
        """
        model = nn.Linear(1, 1)
        nn.init.normal_(model.weight, 1.0, 0.1)
        nn.init.normal_(model.bias, 0.0, 0.1)
        return model

    def baseline(self, name: str) -> nn.Module:
        """Squared error against u, the only one."""
        if name not in app.baselines:
            raise UsageError(f"no loss {name!r}; {nearest(name, app.baselines)}")
        return nn.MSELoss()

    def score(self) -> ToyScore:
        """Mean f."""
        return ToyScore()

    def perfect(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Just left of the jump, for every point."""
        return torch.full_like(outputs, _BEST)

    def report_fit(self, surrogate: nn.Module, folder: Path) -> tuple[dict[str, Any], list[Path]]:
        """Errors of the fitted f and of its derivative near the jump and outside, and Figure 2 of the paper.

        Near is |x - 1| < 0.05. Of a measure other than `step` there is nothing to say here.
        """
        if self.recipe.measure.name != "step":
            return {}, []
        curves = fitted_curves(surrogate)
        drawn = figures.figure2(folder, curves.x, curves.f, curves.derivative, band=BAND)
        return curve_errors(curves), drawn

    def figures(
        self, folder: Path, models: Mapping[str, nn.Module], scores: Mapping[str, Mapping[str, Any]]
    ) -> list[Path]:
        """The outputs of each model over u, and where they lie on f."""
        u = self.dataset("test").u
        labels, outputs = [], []
        for name, model in models.items():
            with torch.no_grad():
                x = model.eval()(u[:, None].to(next(model.parameters()).device))[:, 0].float().cpu()
            mean = scores[name]["f"]
            labels.append(f"{name}: " + ("f undefined" if mean is None else f"f = {mean:.3f}"))
            outputs.append(x)
        return figures.outputs(folder, u, dict(zip(labels, outputs, strict=True)))


class ToyScore:
    """Mean f of the outputs, and how far they are from u: `{"f": ..., "mae_identity": ...}`."""

    spec = "f(mean over points)"

    def __init__(self) -> None:
        self.points = 0
        self.sums = torch.zeros(2, dtype=torch.float64)

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds `(B, 1)` outputs against `(B, 1)` points u."""
        x, u = outputs.double().cpu(), targets.double().cpu()
        self.points += len(x)
        self.sums += torch.stack([f(x).sum(), (x - u).abs().sum()])

    def compute(self) -> dict[str, Any]:
        """Means over the points; None without points, and where an output was not finite."""
        means = [float(total) / self.points if self.points else math.nan for total in self.sums]
        f_mean, distance = (mean if math.isfinite(mean) else None for mean in means)
        return {"f": f_mean, "mae_identity": distance}


app = ToyApp()
