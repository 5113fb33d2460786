"""The tabular app: a table, a small network, losses and metrics of two classes behind the protocols of the core."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surrogate.errors import UsageError
from surrogate.protocols import App, Task
from surrogate.recipe import Recipe
from surrogate_tabular import figures
from surrogate_tabular.baselines import BASELINES, baseline
from surrogate_tabular.data import Rows, open_table
from surrogate_tabular.measures import BETA, EXAMPLE, K, standard
from surrogate_tabular.recipe import TabularRecipe
from surrogate_tabular.score import TabularScore

_CONFIDENT = 6.0
"""Log-odds of the true class in perfect outputs, at least: a probability of 0.998."""


_OPTIONS = ("beta", BETA, "fbeta"), ("k", K, "precision-at-k")
"""Settings of the metrics that are always told, and the measure whose options set them."""


class TabularApp(App):
    """What the entry point `tabular` names."""

    recipe = TabularRecipe
    recipes: Mapping[str, Path] = {
        path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))
    }
    baselines = BASELINES
    standard = staticmethod(standard)
    example = EXAMPLE

    def open(self, recipe: Recipe) -> TabularTask:
        """Reads and checks the table of the recipe."""
        if not isinstance(recipe, TabularRecipe):
            raise UsageError(f"a recipe of app {recipe.app!r} was given to tabular")
        return TabularTask(recipe)


class TabularTask(Task):
    """Two classes of one table, told apart by one network."""

    headlines: Mapping[str, str] = {
        name: name.replace("-", "_")
        for name in ("average-precision", "auroc", "fbeta", "mcc", "kappa", "balanced-accuracy", "precision-at-k")
    }
    """The first one chooses the baseline, whatever is measured: it asks for the order, so no model that calls half of
    the table positive is the best by it, as by F2."""

    def __init__(self, recipe: TabularRecipe) -> None:
        self.recipe = recipe
        self.table = open_table(recipe.data, pools=recipe.collect.pools)
        sizes = ", ".join(
            f"{len(split)} {name} ({int(split.targets.sum())} positive)" for name, split in self.table.splits.items()
        )
        self.about = f"{self.table.title}: {sizes}, {self.table.contents}"
        if recipe.data.keep < 1.0:
            self.about += f"; data.keep={recipe.data.keep:g}: of the positives, that share"
        if recipe.data.noise:
            self.about += f"; data.noise={recipe.data.noise:g} standard deviations on training inputs"

    def dataset(self, split: str) -> Rows:
        """A split by name."""
        if split not in self.table.splits:
            raise UsageError(f"--split {split}: expected train, val or test")
        return self.table.splits[split]

    def model(self) -> nn.Module:
        """A perceptron from `(B, D)` inputs to `(B, 2)` logits."""
        settings = self.recipe.model
        layers: list[nn.Module] = []
        for number in range(settings.depth):
            layers += [nn.Linear(settings.width if number else self.table.features, settings.width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(settings.width if layers else self.table.features, 2))

    def baseline(self, name: str) -> nn.Module:
        """A hand-made loss by name."""
        return baseline(name, class_counts=self.table.class_counts())

    def score(self) -> TabularScore:
        """All seven metrics, with the beta or k of the recipe's measure where it sets one."""
        name, options = self.recipe.measure.name, self.recipe.measure.options
        beta, k = (options.get(key, usual) if name == of else usual for key, usual, of in _OPTIONS)
        return TabularScore(beta=beta, k=k)

    def perfect(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Every sample confidently right, and never less so than it is."""
        middle = outputs.mean(1)
        sign = torch.where(targets == 1, 1.0, -1.0).to(outputs)
        margin = sign * (sign * (outputs[:, 1] - outputs[:, 0])).clamp_min(_CONFIDENT)
        return torch.stack([middle - 0.5 * margin, middle + 0.5 * margin], 1)

    @torch.no_grad()
    def figures(
        self,
        folder: Path,
        models: Mapping[str, nn.Module],
        scores: Mapping[str, Mapping[str, Any]],
    ) -> list[Path]:
        """ROC and precision-recall curves of each model on the test split; of several seeds, of the first."""
        of = " (first of the seeds)" if any("sd" in numbers for numbers in scores.values()) else ""
        rows = self.dataset("test")
        curves = {}
        for name, model in models.items():
            score, device = self.score(), next(model.parameters()).device
            score.update(model.eval()(rows.inputs.to(device)), rows.targets.to(device))
            curves[name] = score.collected()[0]
        return figures.curves(folder / "roc.png", curves, rows.targets == 1, of=of)


app = TabularApp()
