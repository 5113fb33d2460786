"""An example of an app's own data to try a measure on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from surrogate import plugins
from surrogate.moves import direction
from surrogate.protocols import Dataset, Measure
from surrogate.recipe import build
from surrogate.regimes import change
from surrogate.testing.measures import measure_outcomes


class Example(NamedTuple):
    """A measure, and what to call it with."""

    measure: Measure
    outputs: Tensor
    """`(B, ...)` of an untrained model, partly led to the truth so that some are right; all void in the last sample."""
    targets: Tensor
    perfect: Tensor
    """Outputs of a perfect model."""


def measure_example(name: str, *, app: str) -> Example:
    """An installed measure on three samples of the app's default data, and a void one where the app knows of void.

    Raises:
        SurrogateError: app, measure or data cannot be opened.
    """
    application = plugins.load_app(app)
    recipe = build(application.recipe, {"app": app, "measure": {"name": name}}, where="recipe")
    task = application.open(recipe)
    measure = plugins.load_measure(app, name, facts=task.facts, options={})
    inputs, targets = example_of(task.dataset("val"))
    standard = application.standard(**plugins.asked(application.standard, {**task.facts, "level": "sample"}))
    if standard.void is not None:
        inputs, targets = torch.cat([inputs, inputs[:1]]), torch.cat([targets, standard.void(targets[:1])])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(recipe.seed)
        outputs = task.model().eval()(inputs)
    generator = Generator().manual_seed(recipe.seed)
    perfect = task.perfect(outputs, targets)
    outputs = change("noisy", outputs, perfect, generator)
    return Example(measure, outputs + direction("towards", outputs, perfect, generator), targets, perfect)


def check_plugin(name: str, *, app: str) -> Iterator[tuple[str, str | None]]:
    """The contracts of an installed measure by name, each with what is wrong, or None."""
    example = measure_example(name, app=app)
    return measure_outcomes(example.measure, example.outputs, example.targets, perfect=example.perfect)


def example_of(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Inputs and targets of three samples, spread over the data set: neighbours may be alike."""
    samples = [dataset.load(len(dataset) * place // 6, None) for place in (1, 3, 5)]
    return torch.stack([s[0] for s in samples]), torch.stack([s[1] for s in samples])
