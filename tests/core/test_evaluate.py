"""True numbers of a model: the same as by hand, whatever the batch size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surrogate import evaluate as evaluating
from surrogate.engine import Engine
from surrogate.evaluate import evaluate, measure_key
from surrogate.progress import Progress, finish
from surrogate.protocols import Dataset, Measure


class PixelAccuracy:
    """Right pixels over known pixels of the whole set."""

    spec = "accuracy(dataset)"

    def __init__(self) -> None:
        self.right = self.known = 0
        self.with_gradient = False

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        known = targets >= 0
        self.right += int(((outputs.argmax(1) == targets) & known).sum())
        self.known += int(known.sum())
        self.with_gradient |= outputs.requires_grad or torch.is_grad_enabled()

    def compute(self) -> dict[str, Any]:
        return {"accuracy": self.right / self.known if self.known else None}


def scored(engine: Engine, model: nn.Module, data: Dataset, measure: Measure, *, batch_size: int = 5) -> dict[str, Any]:
    return finish(
        evaluate(engine, model, data, score=PixelAccuracy(), measure=measure, key="acc@sample", batch_size=batch_size)
    )


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_numbers_are_those_by_hand(
    batch_size: int, engine: Engine, net: Callable[[], nn.Module], scenes: Dataset, measure: Measure
) -> None:
    model = net().train()
    found = scored(engine, model, scenes, measure, batch_size=batch_size)
    assert not model.training
    inputs, targets = (torch.stack(part) for part in zip(*(scenes.load(i, None) for i in range(12)), strict=True))
    with torch.no_grad():
        right = (model(inputs).argmax(1) == targets)[:, 1:].double()  # the first row of pixels is unknown
    assert found["accuracy"] == pytest.approx(float(right.mean()))
    assert found["acc@sample"] == pytest.approx(float(right.mean((1, 2)).mean()))


def test_undefined_rows_are_left_out_of_the_mean(
    engine: Engine, net: Callable[[], nn.Module], scenes: Dataset, measure: Measure
) -> None:
    def every_third(outputs: Tensor, targets: Tensor, /) -> Tensor:  # noqa: ARG001
        return torch.tensor([0.25, torch.nan, 0.75])

    def never(outputs: Tensor, targets: Tensor, /) -> Tensor:  # noqa: ARG001
        return torch.full((3,), torch.nan)

    some = dataclasses.replace(measure, metric=every_third)
    assert scored(engine, net(), scenes, some, batch_size=3)["acc@sample"] == 0.5
    none = dataclasses.replace(measure, metric=never)
    assert scored(engine, net(), scenes, none, batch_size=3)["acc@sample"] is None


@pytest.mark.parametrize("batch_size", [1, 5, 7, 12])
def test_at_level_batch_the_whole_split_is_the_batch(
    batch_size: int,
    engine: Engine,
    net: Callable[[], nn.Module],
    scenes: Dataset,
    measure: Measure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a metric is reported. Where outputs are too many to be kept it is the mean of batches of equal size."""

    def squared(outputs: Tensor, targets: Tensor, /) -> Tensor:
        return (outputs.argmax(1) == targets)[:, 1:].double().mean().square().reshape(1)

    whole = dataclasses.replace(measure, metric=squared, level="batch")
    found = scored(engine, net(), scenes, whole, batch_size=batch_size)
    assert found["acc@sample"] == pytest.approx(found["accuracy"] ** 2)
    monkeypatch.setattr(evaluating, "_KEPT", 0)
    parts = scored(engine, net(), scenes, whole, batch_size=batch_size)["acc@sample"]
    inputs, targets = (torch.stack(part) for part in zip(*(scenes.load(i, None) for i in range(12)), strict=True))
    with torch.no_grad():
        outputs, size = net().eval()(inputs), {1: 1, 5: 4, 7: 6, 12: 12}[batch_size]
    each = [squared(o, t) for o, t in zip(outputs.split(size), targets.split(size), strict=True)]
    assert parts == pytest.approx(float(torch.cat(each).mean()))


def test_batches_of_other_shapes_are_told_one_by_one(measure: Measure) -> None:
    mean = evaluating.Mean(dataclasses.replace(measure, metric=lambda o, t, /: o.mean().reshape(1), level="batch"), "k")  # noqa: ARG005
    for value, width in ((1.0, 7), (2.0, 9), (6.0, 7)):
        mean.update(torch.full((4, width), value), torch.zeros(4, width))
    assert mean.compute()["k"] == pytest.approx(3.0)


def test_no_gradient_is_recorded_and_the_callers_mode_is_left_alone(
    engine: Engine, net: Callable[[], nn.Module], scenes: Dataset, measure: Measure
) -> None:
    score = PixelAccuracy()
    stage = evaluate(engine, net(), scenes, score=score, measure=measure, key="k", batch_size=5)
    for number, progress in enumerate(stage, 1):
        assert torch.is_grad_enabled()
        assert progress == Progress("evaluate", number, 3)
    assert not score.with_gradient


def test_weights_and_statistics_of_the_model_are_not_touched(
    engine: Engine, net: Callable[[], nn.Module], scenes: Dataset, measure: Measure
) -> None:
    model = net().train()
    scored(engine, model, scenes, measure)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), net().state_dict().values(), strict=True))


def test_the_mean_over_rows_carries_its_level(measure: Measure) -> None:
    assert measure_key("iou", measure) == "iou@sample"
    assert measure_key("iou", dataclasses.replace(measure, level="batch")) == "iou@batch"


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_at_dataset_level_sums_are_added_up_and_divided_once(
    batch_size: int, engine: Engine, net: Callable[[], nn.Module], scenes: Dataset, dataset_measure: Measure
) -> None:
    found = scored(engine, net(), scenes, dataset_measure, batch_size=batch_size)
    assert found["acc@sample"] == pytest.approx(found["accuracy"])
