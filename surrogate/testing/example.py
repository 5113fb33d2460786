"""An example of an app's own data to try a measure on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from surrogate import plugins
from surrogate.moves import direction
from surrogate.protocols import Dataset, Measure, Task
from surrogate.recipe import build
from surrogate.regimes import change
from surrogate.testing.measures import measure_outcomes

Samples = tuple[Tensor, Tensor]
Void = Callable[[Tensor], Tensor]
SIZES = (3, 12, 48, 192)
"""Samples that are tried until a measure has a value: a rare class is not among three."""


class Example(NamedTuple):
    """A measure, and what to call it with."""

    measure: Measure
    outputs: Tensor
    """`(B, ...)` of an untrained model, partly led to the truth so that some are right; all void in the last sample."""
    targets: Tensor
    perfect: Tensor
    """Outputs of a perfect model."""


def measure_example(name: str, *, app: str) -> Example:
    """An installed measure on a few samples of the app's default data, and a void one where the app knows of void.

    They are as few as give it a value: a batch of three rows of a table may be of one class.

    Raises:
        SurrogateError: app, measure or data cannot be opened.
    """
    application = plugins.load_app(app)
    recipe = build(application.recipe, {"app": app, "measure": {"name": name}}, where="recipe")
    task = application.open(recipe)
    measure = plugins.load_measure(app, name, facts=task.facts, options={})
    void = application.standard(**plugins.asked(application.standard, task.facts)).void
    for count in SIZES:
        example = _example(measure, task, example_of(task.dataset("val"), count), void=void, seed=recipe.seed)
        if _has_value(example):
            break
    return example


def _has_value(example: Example) -> bool:
    try:
        return not example.measure.metric(example.outputs, example.targets).isnan().all()
    except Exception:
        return True  # more samples do not mend it; the contracts say what is wrong


@torch.no_grad()
def _example(measure: Measure, task: Task, samples: Samples, *, void: Void | None, seed: int) -> Example:
    inputs, targets = samples
    if void is not None:
        inputs, targets = torch.cat([inputs, inputs[:1]]), torch.cat([targets, void(targets[:1])])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        outputs = task.model().eval()(inputs)
    generator = Generator().manual_seed(seed)
    perfect = task.perfect(outputs, targets)
    outputs = change("noisy", outputs, perfect, generator)
    return Example(measure, outputs + direction("towards", outputs, perfect, generator), targets, perfect)


def check_plugin(name: str, *, app: str) -> Iterator[tuple[str, str | None]]:
    """The contracts of an installed measure by name, each with what is wrong, or None."""
    example = measure_example(name, app=app)
    return measure_outcomes(example.measure, example.outputs, example.targets, perfect=example.perfect)


def example_of(dataset: Dataset, count: int = 3) -> Samples:
    """Inputs and targets of some samples, spread over the data set: neighbours may be alike."""
    samples = [dataset.load(len(dataset) * (2 * place + 1) // (2 * count), None) for place in range(count)]
    return torch.stack([s[0] for s in samples]), torch.stack([s[1] for s in samples])
