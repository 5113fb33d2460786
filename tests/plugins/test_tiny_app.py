"""How little an app is: one in under 80 lines, as a stranger would write it, through every stage.

Is a point inside the unit circle? Judged by F1, which has no gradient.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from surrogate import pipeline, plugins
from surrogate.recipe import build
from surrogate.testing import check_app

SOURCE = """
import torch
from torch import nn

from surrogate.additive import additive_measure
from surrogate.protocols import App, Task
from surrogate.recipe import CollectRecipe, MeasureRecipe, ModelRecipe, Recipe, Section
from surrogate.statistics import CONFUSION_COLUMNS, confusion_additive, confusion_sums


def f1(counts):
    tp, fp, fn, _ = counts.unbind(1)
    return 2 * tp / (2 * tp + fp + fn)


def measure():
    return additive_measure(confusion_additive(f1, positive=1), CONFUSION_COLUMNS, level="batch")


class CircleRecipe(Recipe):
    measure: MeasureRecipe = MeasureRecipe(name="f1")
    data: Section = Section()
    model: ModelRecipe = ModelRecipe()
    collect: CollectRecipe = CollectRecipe(batch_size=32, pools=5)


class Points:
    def __init__(self, seed):
        self.points = torch.rand(200, 2, generator=torch.Generator().manual_seed(seed)) * 4 - 2

    def __len__(self):
        return len(self.points)

    def load(self, index, generator):
        point = self.points[index]
        return point, (point.norm() < 1).long()

    def name(self, index):
        return f"point {index}"


class Score:
    spec = "F1(dataset)"

    def __init__(self):
        self.counts = torch.zeros(1, 4, dtype=torch.float64)

    def update(self, outputs, targets):
        self.counts += confusion_sums(outputs, targets).sum(0)[1:, 4:]

    def compute(self):
        return {"f1": f1(self.counts).nan_to_num().item()}


class Circle(App, Task):
    recipe, baselines = CircleRecipe, ("ce",)
    headlines, about, score = {"f1": "f1"}, "points around a circle", Score

    def open(self, recipe):
        return self

    def dataset(self, split):
        return Points(["train", "val", "test"].index(split))

    def model(self):
        return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def baseline(self, name):
        return nn.CrossEntropyLoss()

    def perfect(self, outputs, targets):
        return torch.zeros_like(outputs).scatter_(1, targets[:, None], 9.0)


app = Circle()
"""
PLAIN = """

from surrogate.from_function import measure_from_function
plain = measure_from_function(lambda prediction, target: 0.5, app="circle")
"""


@pytest.fixture
def circle(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The app as an installed package: a module, and its entry points in the metadata beside it.

    A test's parameter is a pair of texts: what it replaces in the source, and by what.
    """
    source = SOURCE.replace(*getattr(request, "param", ("", "")))
    (tmp_path / "circle_app.py").write_text(source + PLAIN, encoding="utf-8")
    metadata = tmp_path / "circle_app-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: circle-app\nVersion: 1.0\n", encoding="utf-8")
    points = "[surrogate.apps]\ncircle = circle_app:app\n[surrogate.measures.circle]\nf1 = circle_app:measure\n"
    points += "plain = circle_app:plain\n"
    (metadata / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "circle"
    sys.modules.pop("circle_app", None)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("plugins new mine --app circle", "error: app 'circle' has no example of a plain function to begin with; "),
        ("plugins check plain --app circle", "error: app 'circle' gives plain functions nothing to look at; write a "),
        ("fit --app circle --measure plain", "error: app 'circle' gives plain functions nothing to look at; write a "),
    ],
)
def test_what_it_gives_plain_functions_is_nothing_and_told(
    circle: str,  # noqa: ARG001
    command: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    surrogate_cli: Callable[..., Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = surrogate_cli(*command.split())
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert ended.err.startswith(told)


def test_a_measure_of_its_own_is_checked_all_the_same(circle: str, surrogate_cli: Callable[..., Any]) -> None:
    ended = surrogate_cli("plugins", "check", "f1", "--app", circle, "--json")
    assert (ended.code, ended.json["ok"]) == (0, True)


@pytest.mark.parametrize("circle", [("nn.CrossEntropyLoss()", "nn.functional.cross_entropy")], indirect=True)
def test_a_baseline_that_is_no_module_is_told(circle: str, tmp_path: Path, surrogate_cli: Callable[..., Any]) -> None:
    ended = surrogate_cli("train", "--app", circle, "--run", tmp_path / "run", "--quiet")
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert ended.err.startswith("error: app 'circle': baseline('ce') gave a function; expected a torch.nn.Module that")


@pytest.mark.parametrize("circle", [("nn.Linear(16, 2))", "nn.Linear(16, 1), nn.Flatten(0))")], indirect=True)
def test_outputs_of_no_channel_are_told(circle: str, tmp_path: Path, surrogate_cli: Callable[..., Any]) -> None:
    weights = tmp_path / "model.pt"
    torch.save(plugins.load_app(circle).model().state_dict(), weights)
    ended = surrogate_cli("train", "--app", circle, "--run", tmp_path / "run", "--weights", weights, "--quiet")
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert ended.err.startswith("error: model: gives outputs of shape (8,); expected (B, C, ...), such as (B, 1)")


def test_a_whole_app_is_under_80_lines() -> None:
    assert len(SOURCE.strip().splitlines()) < 80


def test_it_keeps_the_contract_and_goes_through_every_stage(circle: str, tmp_path: Path) -> None:
    app = plugins.load_app(circle)
    check_app(app, build(app.recipe, {"app": circle}, where="test"))
    changes = {
        "train.epochs": 6,
        "train.lr": 0.02,
        "collect.passes": 4,
        "fit.epochs": 150,
        "finetune.epochs": 6,
        "finetune.lr": 0.01,
    }
    request = pipeline.Request(app=circle, run=tmp_path / "run", overrides=tuple(changes.items()))
    results = {}
    for stage in (pipeline.train, pipeline.collect, pipeline.fit, pipeline.finetune, pipeline.evaluate):
        steps = stage(request)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                results[stage.__name__] = end.value
                break
    assert results["collect"]["rows"] > 200
    assert results["fit"]["fidelity"]["spearman"] > 0.9
    before, after = (results["finetune"][when]["val"]["f1"] for when in ("before", "after"))
    assert after > before
    assert results["evaluate"]["metrics"]["f1"] == results["finetune"]["after"]["f1"]
