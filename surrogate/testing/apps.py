"""The contract of an app."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from surrogate import plugins
from surrogate.moves import STEPS, direction, move
from surrogate.protocols import App, Dataset, Measure, Task
from surrogate.recipe import Recipe, build, read_toml
from surrogate.regimes import change
from surrogate.testing.demands import demand
from surrogate.testing.example import SIZES, example_of
from surrogate.testing.measures import check_measure


def check_app(app: App, recipe: Recipe) -> None:
    """Runs every contract of an app under a recipe of it, with an untrained model and the recipe's measure.

    Raises:
        AssertionError: a contract is broken.
        SurrogateError: the recipe's data or its measure cannot be opened.
    """
    _check_settings(app, recipe)
    task = app.open(recipe)
    _check_facts(task)
    _check_standard(app, task)
    for split in ("train", "val", "test"):
        _check_dataset(task.dataset(split), split)
    measure = plugins.load_measure(recipe.app, recipe.measure.name, facts=task.facts, options=recipe.measure.options)
    for size in SIZES:
        inputs, targets = example_of(task.dataset("val"), size)
        outputs = _check_model(task, inputs, seed=recipe.seed)
        if not measure.metric(outputs, targets).isnan().all():
            break
    perfect = _check_perfect(task, outputs, targets)
    check_measure(measure, outputs, targets, perfect=perfect)
    _check_changes(measure, outputs, targets, perfect, recipe)
    for name in app.baselines:
        _check_baseline(task, name, outputs, targets)
    _check_score(task, outputs, targets)


def _check_settings(app: App, recipe: Recipe) -> None:
    """Nothing is missing, the recipe is the app's, the shipped ones can be built, and there is a loss to train with."""
    _check_whole("app", app, App)
    demand(isinstance(recipe, app.recipe), f"recipe: a {type(recipe).__name__}; give a {app.recipe.__name__}")
    for path in app.recipes.values():
        build(app.recipe, {"app": recipe.app, **read_toml(path)}, where=str(path))
    demand(len(app.baselines) > 0, "baselines: name one; the first trains the baseline model")


def _check_facts(task: Task) -> None:
    """They are stored with a surrogate and compared when it is loaded."""
    _check_whole("task", task, Task)
    _check_json("facts", dict(task.facts))
    demand(bool(task.about) and "\n" not in task.about, "about: say in one line which data was found")


def _check_whole(what: str, thing: object, protocol: type) -> None:
    missing = ", ".join(plugins.lacking(thing, protocol))
    demand(not missing, f"{what}: has no {missing}; derive its class from {protocol.__name__}, and write the rest")


def _check_standard(app: App, task: Task) -> None:
    """Plain functions find what to look at, and `plugins new` a function that looks at it."""
    level = inspect.signature(app.standard).parameters.get("level")
    demand(level is not None and level.default is not level.empty, "standard: give it a keyword `level` with a default")
    views = app.standard(**plugins.asked(app.standard, task.facts)).views
    without = "standard: has no view" if app.example else "example: is empty, and standard has views"
    demand(bool(views) == bool(app.example.strip()), f"{without}; give both, for plain functions, or neither")


def _check_dataset(dataset: Dataset, split: str) -> None:
    """Samples of one shape, on the CPU, that are drawn from the given generator alone."""
    demand(len(dataset) > 0, f"{split}: has no samples; raise DataError when the task is opened")
    (inputs, targets), last = dataset.load(0, None), dataset.load(len(dataset) - 1, None)
    shapes, others = (inputs.shape, targets.shape), (last[0].shape, last[1].shape)
    demand(shapes == others, f"{split}: samples of shapes {shapes} and {others}; make them equal, as by resizing")
    demand(inputs.is_cpu and targets.is_cpu, f"{split}: sample 0 is not on the CPU; leave the device to the core")
    demand(bool(dataset.name(0)), f"{split}: sample 0 has no name; give its file or its number")
    for seed in (None, 0):
        first, second = (dataset.load(0, seed if seed is None else Generator().manual_seed(seed)) for _ in range(2))
        same = torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
        demand(same, f"{split}: sample 0 loaded twice differs; draw from the generator that `load` is given")


def _check_model(task: Task, inputs: Tensor, *, seed: int) -> Tensor:
    """Takes a batch of samples and gives finite `(B, C, ...)` outputs; these are returned."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        outputs: Tensor = task.model().eval()(inputs)
    shape = tuple(outputs.shape)
    demand(len(shape) > 1, f"model: outputs of shape {shape}; give (B, C, ...), such as (B, 1) by unsqueeze(1)")
    demand(len(outputs) == len(inputs), f"model: {len(outputs)} outputs for {len(inputs)} inputs; give one each")
    demand(bool(outputs.isfinite().all()), "model: outputs are not finite; check its initial weights")
    return outputs


def _check_perfect(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """As outputs are, so that these can be led to them; returned."""
    perfect = task.perfect(outputs, targets)
    for what in ("shape", "dtype"):
        found, expected = getattr(perfect, what), getattr(outputs, what)
        demand(found == expected, f"perfect: {what} {found} for outputs of {expected}; give it the {what} of outputs")
    demand(bool(perfect.isfinite().all()), "perfect: not finite; give outputs that a very good model might")
    return perfect


def _check_changes(measure: Measure, outputs: Tensor, targets: Tensor, perfect: Tensor, recipe: Recipe) -> None:
    """What collecting does: the recipe's regimes and every kind of move, and the measure of what they make of the
    outputs."""
    generator = Generator().manual_seed(recipe.seed)
    for name in recipe.collect.regimes:
        with _told(f"regime {name}"):
            changed = change(name, outputs, perfect, generator)
            rows = measure.stats(changed, targets), measure.metric(changed, targets)
        demand(
            changed.shape == outputs.shape, f"regime {name}: shape {tuple(changed.shape)} for {tuple(outputs.shape)}"
        )
        demand(len(rows[0]) == len(rows[1]), f"regime {name}: {len(rows[0])} rows of stats, {len(rows[1])} of metric")
    for kind, step in STEPS.items():
        with _told(f"move {kind}"):
            move(measure, outputs, targets, direction(kind, outputs, perfect, generator), step=step)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise AssertionError(f"{what}: the measure of it raised {told}; outputs of any values have to go") from error


def _check_baseline(task: Task, name: str, outputs: Tensor, targets: Tensor) -> None:
    """A module that gives a finite scalar with a finite gradient."""
    made = task.baseline(name)
    demand(isinstance(made, nn.Module), f"baseline {name}: a {type(made).__name__}; give a torch.nn.Module")
    leaf = outputs.detach().clone().requires_grad_()
    loss = made(leaf, targets)
    demand(loss.ndim == 0, f"baseline {name}: shape {tuple(loss.shape)}; return a scalar")
    demand(loss.requires_grad, f"baseline {name}: no gradient; compute it from outputs without detach")
    (gradient,) = torch.autograd.grad(loss, leaf)
    finite = bool(loss.isfinite()) and bool(gradient.isfinite().all())
    demand(finite, f"baseline {name}: loss or gradient is not finite; guard its divisions and logarithms")


def _check_score(task: Task, outputs: Tensor, targets: Tensor) -> None:
    """Ready for JSON, headlines among its numbers, and the same however the data set was cut into batches."""
    whole, parts = task.score(), task.score()
    whole.update(outputs, targets)
    for number in range(len(outputs)):
        parts.update(outputs[number : number + 1], targets[number : number + 1])
    _check_json("score", whole.compute())
    demand(bool(whole.spec), "score: spec is empty; say how the numbers are to be read")
    missing = set(task.headlines.values()) - whole.compute().keys()
    demand(not missing, f"score: {missing} not in compute(); return what `headlines` names")
    same = _rounded(whole.compute()) == _rounded(parts.compute())
    demand(same, "score: depends on the batches; sum counts in update, in integers or float64, and divide in compute")


def _check_json(what: str, value: dict[str, Any]) -> None:
    """Survives a file."""
    try:
        again = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what}: not ready for JSON ({error}); use numbers, strings, lists and None") from None
    demand(again == value, f"{what}: {value} comes back from JSON as {again}; use lists, and strings as keys")


def _rounded(value: dict[str, Any]) -> Any:
    """Sums of floats differ in their last digits with the order."""
    return json.loads(json.dumps(value), parse_float=lambda digits: round(float(digits), 6))
