"""The toy app: its measure against f by hand, data, settings, the report on fits that are known, figures."""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from surrogate import plugins
from surrogate.approximator import Surrogate
from surrogate.errors import UsageError
from surrogate.recipe import Recipe, build, read_toml, to_toml
from surrogate_toy import app
from surrogate_toy.app import ToyTask
from surrogate_toy.data import Points
from surrogate_toy.measures import BAND, curve_errors, derivative, f, fitted_curves, step
from surrogate_toy.recipe import ToyRecipe

with_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="the extra [plot] is not installed"
)


def f_by_hand(x: float) -> float:
    return 2 - x if x < 1 else x + 0.1


def task(**tables: object) -> ToyTask:
    return app.open(build(ToyRecipe, tables, where="test"))


class Known(nn.Module):
    """A surrogate of `step` that knows the function it stands for."""

    def __init__(self, *, wrong_below: float = 0.0, offset: float = 0.0) -> None:
        super().__init__()
        self.wrong_below, self.offset = wrong_below, offset

    def forward(self, stats: Tensor) -> Tensor:
        x = stats[:, 0]
        true = torch.where(x < 1, 2 - x, x + 0.1)
        mirrored = torch.where(x < self.wrong_below, 4 - true, true)  # f' has the wrong sign there
        return (mirrored + self.offset - 1.0) / 1.1


# --- the measure ---


def test_metric_is_f_by_hand() -> None:
    draw = random.Random(0)
    x = [draw.uniform(-0.5, 2.5) for _ in range(500)] + [0.0, 1.0, 2.0, math.nextafter(1.0, 0.0)]
    outputs = torch.tensor(x, dtype=torch.float64)[:, None]
    found = step().metric(outputs, torch.zeros_like(outputs))
    assert found.shape == (504,)
    torch.testing.assert_close(found, torch.tensor([f_by_hand(v) for v in x], dtype=torch.float64))


def test_metric_stays_in_its_bounds_and_becomes_a_loss() -> None:
    measure = step()
    x = torch.linspace(0, 2, 10001, dtype=torch.float64)[:, None]
    value = measure.metric(x, x)
    low, high = measure.bounds
    assert low < value.min() < low + 1e-3
    assert value.max() == pytest.approx(high)
    assert measure.loss_of(torch.tensor([1.0, 2.1])).tolist() == pytest.approx([0.0, 1.0])


def test_nan_is_an_undefined_row_and_touches_no_other() -> None:
    outputs = torch.tensor([[0.5], [math.nan], [1.5]])
    for rows in (step().metric(outputs, outputs), step().stats(outputs, outputs)[:, 0]):
        assert rows.isnan().tolist() == [False, True, False]


def test_stats_are_the_outputs_with_their_gradient() -> None:
    measure = step()
    outputs = torch.randn(7, 1, dtype=torch.float64, requires_grad=True)
    stats = measure.stats(outputs, torch.zeros(7, 1))
    assert stats.shape == (7, len(measure.columns))
    assert torch.equal(stats, outputs)
    assert torch.autograd.gradcheck(lambda o: measure.stats(o, torch.zeros(7, 1)), outputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    outputs = torch.tensor([[0.25], [1.5]], dtype=dtype)
    assert step().stats(outputs, outputs).dtype == torch.float32
    assert step().metric(outputs, outputs).tolist() == pytest.approx([1.75, 1.6])


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 1, 1)])
def test_outputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    for function in (step().metric, step().stats):
        with pytest.raises(UsageError, match=r"expected \(B, 1\)"):
            function(torch.zeros(shape), torch.zeros(4, 1))


def test_derivative_is_the_slope_of_f() -> None:
    x = torch.cat([torch.linspace(0.1, 0.99, 50), torch.linspace(1.01, 1.9, 50)]).double().requires_grad_()
    (slope,) = torch.autograd.grad(f(x).sum(), x)
    assert torch.equal(slope, derivative(x.detach()))
    assert derivative(torch.tensor([1.0])).isnan().all()


# --- data ---


def test_points_cover_the_interval_and_come_from_the_seed() -> None:
    one, two, other = (Points(1000, seed=seed).u for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.dtype == torch.float32
    assert float(one.min()) >= 0.0
    assert float(one.max()) <= 2.0
    assert torch.bincount((one.double() * 500).floor().long().clamp(max=999)).tolist() == [1] * 1000


def test_samples_are_the_point_twice_with_or_without_a_generator() -> None:
    points = Points(10, seed=0)
    for index in range(10):
        plain = points.load(index, None)
        drawn = points.load(index, torch.Generator().manual_seed(index))
        assert [part.shape for part in plain] == [(1,), (1,)]
        assert all(torch.equal(part, points.u[index : index + 1]) for part in (*plain, *drawn))
        assert float(points.name(index).removeprefix("u = ")) == pytest.approx(float(points.u[index]), abs=1e-6)


def test_splits_share_no_point() -> None:
    toy = task(data={"train": 300, "test": 50})
    splits = {name: toy.dataset(name) for name in ("train", "val", "test")}
    assert {name: len(split) for name, split in splits.items()} == {"train": 300, "val": 50, "test": 50}
    assert "300 train, 50 val, 50 test" in toy.about
    for one, other in itertools.combinations(splits.values(), 2):
        assert not torch.isin(one.u, other.u).any()
    with pytest.raises(UsageError, match="expected train, val or test"):
        toy.dataset("dev")


# --- settings ---


def test_defaults_are_a_recipe_that_survives_its_file(tmp_path: Path) -> None:
    recipe = build(ToyRecipe, {}, where="test")
    (tmp_path / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    assert build(ToyRecipe, read_toml(tmp_path / "recipe.toml"), where="test") == recipe
    assert recipe.fit.depth == 1
    assert recipe.finetune.ce_mix == 0.0
    assert recipe.collect.regimes == ("model",)


def test_one_changed_key_keeps_the_other_defaults_of_its_table() -> None:
    changed = build(ToyRecipe, {"finetune": {"epochs": 1}, "fit": {"epochs": 1}}, where="test")
    assert changed.finetune.ce_mix == 0.0
    assert changed.fit.activation == ToyRecipe().fit.activation


@pytest.mark.parametrize("settings", [{"finetune": {"ce_mix": 1.5}}, {"data": {"train": 0}}, {"data": {"path": "x"}}])
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="recipe key"):
        build(ToyRecipe, settings, where="test")


def test_a_recipe_of_another_app_is_refused() -> None:
    recipe = ToyRecipe()
    other = Recipe(app="other", measure=recipe.measure, data=recipe.data, model=recipe.model)
    with pytest.raises(UsageError, match="'other' was given to toy"):
        app.open(other)


# --- the task ---


def test_app_and_measure_are_found_by_name() -> None:
    assert plugins.load_app("toy").recipe is ToyRecipe
    assert plugins.load_measure("toy", "step", facts={}, options={}).columns == ("x",)


def test_model_starts_near_the_identity() -> None:
    u = torch.linspace(0, 2, 9)[:, None]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = task().model().requires_grad_(False)
    assert float((model(u) - u).abs().max()) < 0.8


def test_baseline_is_squared_error_and_the_only_one() -> None:
    x, u = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]])
    assert float(task().baseline("mse")(x, u)) == 2.5
    with pytest.raises(UsageError, match="'mse'"):
        task().baseline("msee")


def test_perfect_is_just_left_of_the_jump() -> None:
    outputs = torch.rand(5, 1) * 2
    best = task().perfect(outputs, outputs)
    assert best.shape == outputs.shape
    assert step().metric(best, outputs).tolist() == pytest.approx([1.001] * 5)


def test_score_is_the_mean_over_points_whatever_the_batches() -> None:
    toy = task()
    x, u = torch.rand(101, 1) * 2, torch.rand(101, 1) * 2
    score = toy.score()
    for part in torch.arange(101).split(7):
        score.update(x[part], u[part])
    expected = sum(f_by_hand(v) for v in x.double().flatten().tolist()) / 101
    assert score.compute()[toy.headlines["step"]] == pytest.approx(expected)
    assert score.compute()["mae_identity"] == pytest.approx(float((x - u).abs().mean()))


def test_score_is_undefined_without_points_and_for_broken_outputs() -> None:
    score = task().score()
    assert score.compute() == {"f": None, "mae_identity": None}
    score.update(torch.tensor([[math.nan]]), torch.tensor([[1.0]]))
    assert score.compute() == {"f": None, "mae_identity": None}


# --- the report on a fit ---


def test_an_exact_fit_has_no_error() -> None:
    errors = curve_errors(fitted_curves(Known()))
    assert errors.pop("derivative_sign_right_outside") == 1.0
    assert errors == pytest.approx(dict.fromkeys(errors, 0.0), abs=1e-5)
    assert len(errors) == 4


def test_errors_are_in_units_of_f() -> None:
    errors = curve_errors(fitted_curves(Known(offset=0.3)))
    assert errors["f_mae_outside"] == pytest.approx(0.3, abs=1e-5)
    assert errors["f_mae_near"] == pytest.approx(0.3, abs=1e-5)
    assert errors["derivative_mae_outside"] == pytest.approx(0.0, abs=1e-5)


def test_wrong_signs_are_counted_outside_the_band_alone() -> None:
    errors = curve_errors(fitted_curves(Known(wrong_below=0.19)))
    assert errors["derivative_sign_right_outside"] == pytest.approx(0.9, abs=1e-3)  # 0.19 of 1.9
    assert errors["derivative_mae_outside"] == pytest.approx(0.2, abs=1e-3)
    assert errors["derivative_mae_near"] == pytest.approx(0.0, abs=1e-5)


def test_a_frozen_surrogate_has_curves_where_gradients_are_off() -> None:
    surrogate = Surrogate(("x",), depth=1, width=5, activation="tanh").requires_grad_(False)
    surrogate.layers[-1].bias.fill_(0.5)  # away from the bounds, where the value is clamped and the slope is not
    surrogate.layers[-1].weight.mul_(0.3)
    with torch.no_grad():
        curves = fitted_curves(surrogate)
    differences = curves.f.double().diff() / curves.x.double().diff()
    middles = (curves.derivative[1:] + curves.derivative[:-1]).double() / 2
    torch.testing.assert_close(middles, differences, atol=2e-3, rtol=0)


def test_of_another_measure_nothing_is_said(tmp_path: Path) -> None:
    assert task(measure={"name": "other"}).report_fit(Known(), tmp_path) == ({}, [])


def test_no_files_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    report, drawn = task().report_fit(Known(), tmp_path)
    assert report
    assert drawn == task().figures(tmp_path, {"before": nn.Linear(1, 1)}, {"before": {"f": 1.5}}) == []
    assert list(tmp_path.iterdir()) == []


# --- figures ---


def share_of(path: Path, colour: str) -> float:
    """Share of the pixels of a PNG that have the colour."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        found = {colour: n for n, colour in image.convert("RGB").getcolors(maxcolors=2**24)}
        return found.get(tuple(bytes.fromhex(colour[1:])), 0) / (image.width * image.height)


@with_matplotlib
def test_figure_2_is_drawn_twice_and_the_same_each_time(tmp_path: Path) -> None:
    from surrogate_toy.figures import FITTED, SHADE, TRUE

    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        _, drawn = task().report_fit(Known(), folder)
        assert [path.name for path in drawn] == ["figure2.png", "figure2.svg"]
    for name in ("figure2.png", "figure2.svg"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert all(share_of(folders[0] / "figure2.png", colour) > 0.001 for colour in (FITTED, SHADE, TRUE))
    assert ElementTree.parse(folders[0] / "figure2.svg").getroot().tag.endswith("svg")


@with_matplotlib
def test_a_steep_fit_is_drawn_too(tmp_path: Path) -> None:
    class Steep(nn.Module):
        def forward(self, stats: Tensor) -> Tensor:
            return torch.sigmoid(400 * (stats[:, 0] - 1))

    assert Steep()(torch.tensor([[1.0 + BAND]])) > 0.99
    report, drawn = task().report_fit(Steep(), tmp_path)
    assert all(path.stat().st_size > 1000 for path in drawn)
    assert report["f_mae_outside"] > 0.01


@with_matplotlib
@pytest.mark.parametrize("count", [1, 2, 6])
def test_outputs_of_models_are_drawn(tmp_path: Path, count: int) -> None:
    from surrogate_toy.figures import MODELS

    toy = task(data={"train": 64, "test": 64})
    models = {f"model {k}": toy.model() for k in range(count)}
    scores = {name: {"f": None if k else 1.5} for k, name in enumerate(models)}
    (path,) = toy.figures(tmp_path, models, scores)
    assert path == tmp_path / "outputs.png"
    assert all(share_of(path, colour) > 0.0005 for colour in MODELS[:count])
