"""Drift: what is told of it, when a surrogate is fitted again, and when training stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from surrogate.approximator import Surrogate
from surrogate.drift import KEY, Agreement, drifted
from surrogate.errors import DivergedError, QualityError, UsageError
from surrogate.progress import Progress, Stage
from surrogate.protocols import Measure
from surrogate.recipe import FinetuneRecipe
from surrogate.refresh import Refresh
from surrogate.store import StatsStore, StoreSpec, StoreWriter

GONE = {"spearman": 0.5, "mae": 0.1, "outside": 0.0, "rows": 100}
SPEC = StoreSpec(
    app="none",
    measure="accuracy",
    measure_version=1,
    level="sample",
    columns=("truth", "sure"),
    regimes=("model",),
    policies={},
)
FINE = {**GONE, "spearman": 0.99}


def scenes_of(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = 2.0 * torch.randn(6, 2, 6, 6, generator=generator)
    targets = torch.randint(2, (6, 6, 6), generator=generator)
    targets[0] = -1  # all unknown: an undefined row
    return outputs, targets


def test_one_prediction_for_rows_that_differ_is_drift(measure: Measure, surrogate: Surrogate) -> None:
    for parameter in surrogate.parameters():
        nn.init.zeros_(parameter)
    agreement = Agreement(measure, surrogate)
    for seed in range(5):
        agreement.update(*scenes_of(seed))
    found = agreement.compute()[KEY]
    assert found["spearman"] == 0.0
    assert drifted(found, least=0.8)


def test_agreement_is_that_of_the_defined_rows_of_all_batches(measure: Measure, surrogate: Surrogate) -> None:
    agreement, rows = Agreement(measure, surrogate), []
    stats = measure.stats(*scenes_of(0))[1:]
    surrogate.standardise(stats)
    for seed in range(5):
        outputs, targets = scenes_of(seed)
        agreement.update(outputs, targets)
        stats, value = measure.stats(outputs, targets)[1:], measure.loss_of(measure.metric(outputs, targets))[1:]
        rows.append(torch.stack([surrogate(stats), value, surrogate.outside(stats).float()], 1))
    predicted, true, outside = torch.cat(rows).detach().unbind(1)
    found = agreement.compute()[KEY]
    assert found["rows"] == 25
    assert found["spearman"] == pytest.approx(spearmanr(predicted, true).statistic)
    assert found["mae"] == pytest.approx(float((predicted - true).abs().mean()), rel=1e-5)
    assert found["outside"] == pytest.approx(float(outside.mean()))
    assert 0 < found["outside"] < 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"spearman": 0.95}, False),
        ({"spearman": None}, False),  # constant rows have no order
        ({"mae": 0.001}, False),  # nor have rows that are all alike
    ],
)
def test_drifted_is_a_low_correlation_that_says_something(change: dict[str, Any], expected: bool) -> None:
    assert drifted({**GONE, **change}, least=0.9) is expected


def test_a_rank_correlation_of_few_rows_is_none(measure: Measure, surrogate: Surrogate) -> None:
    agreement = Agreement(measure, surrogate)
    for seed in range(4):  # five defined rows each
        agreement.update(*scenes_of(seed))
        if seed == 2:
            assert agreement.compute()[KEY]["spearman"] is None
    found = agreement.compute()[KEY]
    assert (found["rows"], found["spearman"] is None) == (20, False)


def test_statistics_that_are_nan_beside_a_value_are_no_error(measure: Measure, surrogate: Surrogate) -> None:
    """As of a model that breaks in the last step of an epoch: the loss of the next one tells."""
    agreement = Agreement(measure, surrogate)
    for seed in range(5):
        outputs, targets = scenes_of(seed)
        outputs[1] = torch.nan
        agreement.update(outputs, targets)
    assert measure.stats(outputs, targets)[1].isnan().all()
    assert measure.metric(outputs, targets)[1].isfinite()
    found = agreement.compute()[KEY]
    assert found["rows"] == 25
    assert 0.0 <= found["mae"] <= 1.0


class Fitted:
    """A refresh whose collection and fit are counted; the scores after it are given."""

    def __init__(self, folder: Path, measure: Measure, surrogate: Surrogate, after: dict[str, Any], **settings: Any):
        self.calls: list[str] = []
        self.foreign: Path | None = None
        self.fidelity: dict[str, Any] = {"spearman": 0.99, "wrong_sign": 0.0}
        self.after = after
        recipe = FinetuneRecipe.model_validate({"epochs": 4, **settings})
        self.refresh = Refresh(
            measure,
            surrogate,
            recipe,
            folder,
            stores=None,
            collect=self.collect,
            opened=self.opened,
            fit=self.fit,
            scores=self.scores,
        )

    def collect(self, _model: nn.Module, stats: Path, moved: Path) -> Stage[None]:
        self.calls.append("collect")
        for folder in (stats, moved):
            StoreWriter(folder, SPEC).close()
        yield Progress("collect", 1, 1)

    def opened(self, stats: Path, moved: Path) -> tuple[StatsStore, StatsStore]:
        if stats.parent == self.foreign:
            raise UsageError(f"{stats}: hold statistics of another measure")
        return StatsStore.open(stats), StatsStore.open(moved)

    def fit(self, rows: list[Any], moves: list[Any], _state: Path) -> Stage[tuple[nn.Module, dict[str, Any]]]:
        self.calls.append(f"fit {len(rows)}")
        assert len(rows) == len(moves)
        yield Progress("fit", 1, 1)
        fitted = Surrogate(("truth", "sure"), depth=1, width=1)
        nn.init.constant_(fitted.layers[0].weight, 7.0)
        return fitted, self.fidelity

    def scores(self, _model: nn.Module, _agreement: Agreement) -> Stage[dict[str, Any]]:
        yield Progress("evaluate", 1, 1)
        return {KEY: self.after}

    def __call__(self, epoch: int, now: dict[str, Any]) -> list[str]:
        told = []
        for progress in self.refresh(epoch, nn.Linear(1, 1), {KEY: now}):
            told += [progress.message] if progress.message else []
        return told


def test_a_surrogate_that_follows_is_left_alone(tmp_path: Path, measure: Measure, surrogate: Surrogate) -> None:
    made = Fitted(tmp_path, measure, surrogate, FINE)
    made(1, FINE)
    assert made.calls == []


def test_one_that_drifted_is_fitted_again_with_the_rows_of_before(
    tmp_path: Path, measure: Measure, surrogate: Surrogate
) -> None:
    made = Fitted(tmp_path, measure, surrogate, FINE)
    assert "refresh after epoch 1: Spearman is 0.500 on val; collecting and fitting again" in made(1, GONE)
    made(2, GONE)
    assert made.calls == ["collect", "fit 1", "collect", "fit 2"]
    assert surrogate.layers[0].weight.eq(7.0).all()


def test_rounds_of_something_else_are_not_fitted_to(tmp_path: Path, measure: Measure, surrogate: Surrogate) -> None:
    made = Fitted(tmp_path, measure, surrogate, FINE)
    made(1, GONE)
    made.foreign = tmp_path / "refresh" / "1"
    with pytest.raises(UsageError, match="another measure"):
        made(2, GONE)
    assert made.calls == ["collect", "fit 1", "collect"]


def test_rounds_of_later_epochs_are_not_fitted_to(tmp_path: Path, measure: Measure, surrogate: Surrogate) -> None:
    """Left by a run that was killed and begins again from an earlier epoch: that run would not have had them."""
    made = Fitted(tmp_path, measure, surrogate, FINE)
    for epoch in (2, 1, 3):
        made(epoch, GONE)
    assert [call for call in made.calls if call != "collect"] == ["fit 1", "fit 1", "fit 3"]


def test_one_fitted_again_has_to_pass_the_gate_too(tmp_path: Path, measure: Measure, surrogate: Surrogate) -> None:
    made = Fitted(tmp_path, measure, surrogate, FINE)
    made.fidelity["wrong_sign"] = 0.06
    told = "6.0 % of its gradient signs are wrong"
    with pytest.raises(QualityError, match=rf"after epoch 1 \(kept: .*model.safetensors\): .*{told}.*max_wrong_sign=1"):
        made(1, GONE)
    assert json.loads((tmp_path / "refresh" / "1" / "fit.json").read_text()) == made.fidelity
    (tmp_path / "refresh" / ".DS_Store").touch()  # what is no round is left alone
    allowing = Fitted(tmp_path, measure, surrogate, FINE, max_wrong_sign=1)
    allowing.fidelity["wrong_sign"] = 0.06
    allowing(2, GONE)
    assert allowing.calls == ["collect", "fit 2"]


def test_where_drift_cannot_be_seen_it_is_told_once(tmp_path: Path, measure: Measure, surrogate: Surrogate) -> None:
    made = Fitted(tmp_path, measure, surrogate, FINE)
    blind = {**FINE, "rows": 2, "spearman": None}
    (told,) = made(1, blind)
    assert "drift is not watched: val has 2 of the 20 rows that it takes" in told
    assert "in a new run, a smaller train.batch_size" in told  # this one has its recipe
    assert made(2, blind) == made(1, FINE) == []


def test_every_second_epoch(tmp_path: Path, measure: Measure, surrogate: Surrogate) -> None:
    made = Fitted(tmp_path, measure, surrogate, FINE, refresh=2)
    for epoch in (1, 2, 3):
        made(epoch, FINE)
    assert made.calls == ["collect", "fit 1"]


@pytest.mark.parametrize(("refresh", "fix"), [("never", "--refresh auto"), ("auto", "fitted again in vain")])
def test_one_that_cannot_follow_stops_the_training(
    refresh: str, fix: str, tmp_path: Path, measure: Measure, surrogate: Surrogate
) -> None:
    made = Fitted(tmp_path, measure, surrogate, GONE, refresh=refresh)
    with pytest.raises(
        DivergedError, match=rf"does not follow .* epoch 1 \(Spearman 0.500.*model.safetensors; .*{fix}"
    ):
        made(1, GONE)
