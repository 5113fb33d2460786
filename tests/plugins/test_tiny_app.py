"""How little an app is: one in under 80 lines, as a stranger would write it, through every stage.

Is a point inside the unit circle? Judged by F1, which has no gradient.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from surrogate import pipeline
from surrogate.recipe import build
from surrogate.testing import check_app

SOURCE = """
import torch
from torch import nn

from surrogate.additive import additive_measure
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


class Circle:
    recipe, recipes, variants, baselines = CircleRecipe, {}, {}, ("ce",)
    facts, headlines, about, score = {}, {"f1": "f1"}, "points around a circle", Score

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

    def report_fit(self, *_):
        return {}, []

    def figures(self, *_):
        return []


app = Circle()
"""


@pytest.fixture
def circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The app as an installed package: a module, and its entry points in the metadata beside it."""
    (tmp_path / "circle_app.py").write_text(SOURCE, encoding="utf-8")
    metadata = tmp_path / "circle_app-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: circle-app\nVersion: 1.0\n", encoding="utf-8")
    points = "[surrogate.apps]\ncircle = circle_app:app\n[surrogate.measures.circle]\nf1 = circle_app:measure\n"
    (metadata / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "circle"
    sys.modules.pop("circle_app", None)


def test_a_whole_app_is_under_80_lines() -> None:
    assert len(SOURCE.strip().splitlines()) < 80


def test_it_keeps_the_contract_and_goes_through_every_stage(circle: str, tmp_path: Path) -> None:
    from surrogate import plugins

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
