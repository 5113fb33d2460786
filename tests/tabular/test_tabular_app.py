"""The tabular app: contracts of app and measures, perfect outputs, figures, a run from a CSV to a finetuned model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from surrogate import plugins
from surrogate.errors import UsageError
from surrogate.from_function import measure_from_function
from surrogate.protocols import Level
from surrogate.recipe import build, read_toml
from surrogate.testing import check_app, check_measure
from surrogate_tabular import app
from surrogate_tabular.app import TabularTask
from surrogate_tabular.measures import fbeta, mcc, precision_at_k, standard
from surrogate_tabular.recipe import TabularRecipe

MEASURES = tuple(TabularTask.headlines)
SMALL = {"app": "tabular", "data": {"path": "cancer"}}


@pytest.fixture(scope="module")
def task() -> TabularTask:
    return app.open(build(TabularRecipe, SMALL, where="test"))


def outputs() -> tuple[torch.Tensor, torch.Tensor]:
    """40 samples, a quarter of them positive, some on the wrong side."""
    targets = (torch.arange(40) % 4 == 0).long()
    logits = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    logits[:, 1] += 1.5 * targets - 1.0
    return logits, targets


@pytest.mark.parametrize("name", MEASURES)
def test_measures_keep_the_contract(name: str, task: TabularTask) -> None:
    logits, targets = outputs()
    measure = plugins.load_measure("tabular", name, facts=task.facts, options={})
    check_measure(measure, logits, targets, perfect=task.perfect(logits, targets))


def test_every_installed_measure_has_an_exact_number_that_checkpoints_are_chosen_by(task: TabularTask) -> None:
    assert {plugin.name for plugin in plugins.listed("surrogate.measures.tabular")} == set(MEASURES)
    logits, targets = outputs()
    score = task.score()
    score.update(logits, targets)
    found = score.compute()
    for name, key in task.headlines.items():
        measure = plugins.load_measure("tabular", name, facts=task.facts, options={})
        assert float(measure.metric(logits, targets)) == pytest.approx(found[key], abs=1e-6)


@pytest.mark.parametrize("path", ["digits", "cancer"])
def test_the_app_keeps_the_contract(path: str) -> None:
    check_app(app, build(TabularRecipe, {"app": "tabular", "data": {"path": path}}, where="test"))


def test_a_batch_of_one_class_is_undefined() -> None:
    logits, targets = outputs()
    for name in MEASURES:
        measure = plugins.load_measure("tabular", name, facts={}, options={})
        for row in (targets == 1, targets == 0):
            assert bool(measure.metric(logits[row], targets[row]).isnan().all())
            assert bool(measure.stats(logits[row], targets[row]).isnan().all())


def test_settings_of_measures_reach_the_score_and_bad_ones_are_told() -> None:
    table = {"measure": {"name": "fbeta", "beta": 0.5}, **SMALL}
    assert "beta=0.5" in app.open(build(TabularRecipe, table, where="test")).score().spec
    for wrong in (lambda: fbeta(beta=0), lambda: precision_at_k(k=2.0), lambda: mcc(level="sample")):
        with pytest.raises(UsageError, match="measure"):
            wrong()


def test_settings_of_another_measure_are_its_own() -> None:
    table = {"measure": {"name": "my-own", "beta": "balanced", "k": 10}, **SMALL}
    assert "beta=2, k=0.02" in app.open(build(TabularRecipe, table, where="test")).score().spec


def test_a_function_sees_what_it_takes_next_to_the_statistics_of_that() -> None:
    """Labels next to counts; probabilities next to curves for their order, or next to moments for their values."""
    logits, targets = outputs()
    probability = logits.softmax(1)[:, 1]
    seen = []

    def look(prediction: torch.Tensor, target: torch.Tensor) -> float:
        seen.append(prediction)
        return float((prediction - target).float().square().mean())

    made = {
        takes: measure_from_function(look, app="tabular", takes=takes)()
        for takes in ("labels", "scores", "probabilities")
    }
    values = {takes: float(measure.metric(logits, targets)) for takes, measure in made.items()}
    stats = {
        takes: dict(zip(measure.columns, measure.stats(logits, targets)[0].tolist(), strict=True))
        for takes, measure in made.items()
    }
    assert torch.equal(seen[0], logits.argmax(1))
    assert torch.equal(seen[1], seen[2])
    torch.testing.assert_close(seen[1], probability)
    errors, hits = values["labels"], float(((seen[0] == 1) & (targets == 1)).float().mean())
    assert 0 < stats["labels"]["fp_1"] + stats["labels"]["fn_1"] < 2 * errors / (errors + hits)
    assert stats["scores"]["roc_area_0.5"] == pytest.approx(roc_auc_score(targets, probability), abs=0.02)
    one = stats["probabilities"]
    negatives = (1 - one["positives"]) * one["neg_square"]
    brier = one["positives"] * (1 - 2 * one["pos_mean"] + one["pos_square"]) + negatives
    assert brier == pytest.approx(values["probabilities"], abs=2e-3)


def test_standard_statistics_have_a_finite_row_for_the_batch_or_for_each_sample() -> None:
    logits, targets = outputs()
    levels: tuple[tuple[Level, int], ...] = ("batch", 1), ("dataset", 1), ("sample", 40)
    for level, rows in levels:
        for view in standard(level=level).views.values():
            found = view.stats(logits, targets)
            assert found.shape == (rows, len(view.columns)) == (rows, len(set(view.columns)))
            assert bool(found.isfinite().all())


def test_perfect_outputs_are_right_and_never_less_sure_than_the_outputs(task: TabularTask) -> None:
    logits, targets = outputs()
    logits = 20 * logits
    gap, ideal = (z[:, 1] - z[:, 0] for z in (logits, task.perfect(logits, targets)))
    sign = torch.where(targets == 1, 1.0, -1.0)
    assert bool((sign * ideal >= 6.0).all())
    assert bool((sign * ideal >= sign * gap - 1e-4).all())


@pytest.mark.parametrize("name", sorted(app.recipes))
def test_shipped_recipes_open(name: str) -> None:
    assert app.open(build(TabularRecipe, read_toml(app.recipes[name]), where=name)).about


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="the extra [plot] is not installed")
def test_curves_are_drawn(task: TabularTask, tmp_path: Path) -> None:
    (path,) = task.figures(tmp_path, {"before": task.model(), "after": task.model()}, {"before": {}, "after": {}})
    assert path.name == "roc.png"  # `compare` has a curves.png
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").resize((200, 100)).getcolors(20000)) > 20


def test_a_csv_runs_from_the_command_line_to_a_finetuned_model(surrogate_cli, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, generator=draw)
    sick = x[:, 0] + 0.5 * torch.randn(300, generator=draw) > 0.8
    rows = [",".join(f"{v:.4f}" for v in row) + f",{int(y)}" for row, y in zip(x.tolist(), sick, strict=True)]
    path = tmp_path / "people.csv"
    path.write_text("a,b,c,sick\n" + "\n".join(rows) + "\n", encoding="utf-8")
    sets = ["data.keep=1.0", "train.epochs=2", "finetune.epochs=2", "collect.passes=4", "fit.epochs=5"]
    common = ["--app", "tabular", "--run", tmp_path / "run", "--data", path, "--target", "sick", "--json"]
    options = [option for entry in sets for option in ("--set", entry)]
    ended = surrogate_cli("finetune", *common, *options, "--measure", "auroc")
    assert ended.code == 0, ended.err
    assert ended.json["after"]["val"]["auroc"] >= ended.json["before"]["val"]["auroc"]
    other = surrogate_cli("finetune", "--run", tmp_path / "run", "--loss", "auc-logistic", "--json")
    assert other.code == 0, other.err
    assert set(other.json["losses"]) == {"surrogate", "auc-logistic"}
