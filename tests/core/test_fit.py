"""Fitting: who is held out, what is reported, and that a killed fit ends in the same bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surrogate.approximator import Surrogate
from surrogate.errors import DataError, DivergedError, UsageError
from surrogate.fidelity import fidelity
from surrogate.fit import fit, split_by_sample, unseen
from surrogate.moves import KINDS
from surrogate.objective import censored_error
from surrogate.progress import Stage, finish
from surrogate.recipe import FitRecipe
from surrogate.store import StatsStore, StoreSpec, StoreWriter

SPEC = StoreSpec(
    app="none",
    measure="made",
    measure_version=1,
    level="sample",
    columns=("a", "junk", "b"),
    regimes=("model", "noisy"),
    policies={},
)
MOVED = dataclasses.replace(
    SPEC, columns=("a", "junk", "b", "d_a", "d_junk", "d_b", "change_under_noise"), regimes=KINDS
)
SETTINGS = FitRecipe(depth=2, width=16, activation="tanh", epochs=40, batch_size=64, lr=0.02)


def truth(stats: Tensor) -> Tensor:
    """A loss in (0, 1) that rises with a and falls with b."""
    return torch.sigmoid(2.0 * stats[:, 0] - stats[:, 2])


def stored(folder: Path, *, samples: int = 40, odd: Sequence[int] = ()) -> tuple[StatsStore, StatsStore]:
    """Rows of two regimes, three a sample, and a move of every sample; those of odd samples are three times as far."""
    generator = torch.Generator().manual_seed(0)
    rows, moves = StoreWriter(folder / "stats", SPEC), StoreWriter(folder / "moves", MOVED)
    far = 1.0 + 2.0 * torch.isin(torch.arange(samples), torch.tensor(odd, dtype=torch.int64)).unsqueeze(1)
    ids = torch.arange(samples).repeat_interleave(3)
    for regime in (0, 1):
        stats = torch.randn(len(ids), 3, generator=generator) * far[ids]
        rows.append(stats, truth(stats), ids, regime=regime)
    stats, velocity = torch.randn(2, samples, 3, generator=generator) * far
    change = truth(stats + 0.01 * velocity) - truth(stats)
    moves.append(torch.cat([stats, 0.01 * velocity, change.unsqueeze(1)], 1), change, torch.arange(samples), regime=0)
    for writer in (rows, moves):
        writer.mark(1)
        writer.close()
    return StatsStore.open(folder / "stats"), StatsStore.open(folder / "moves")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[StatsStore, StatsStore]:
    return stored(tmp_path_factory.mktemp("stores"))


def fitting(
    stores: tuple[StatsStore, StatsStore], folder: Path, *, seed: int = 1, **changes: Any
) -> Stage[tuple[Surrogate, dict[str, Any]]]:
    rows, moves = stores
    return fit(
        [rows],
        [moves],
        settings=SETTINGS.model_copy(update=changes),
        seed=seed,
        device=torch.device("cpu"),
        state=folder / "state.safetensors",
    )


def same(one: Surrogate, other: Surrogate) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


@given(
    st.lists(st.integers(-5, 60), min_size=5, max_size=200).filter(lambda ids: len(set(ids)) >= 5),
    st.floats(0.01, 0.5),
    st.integers(0, 2**31 - 1),
)
@settings(deadline=None)  # the first call imports scikit-learn
def test_a_sample_is_on_one_side_only(ids: list[int], share: float, seed: int) -> None:
    samples = torch.tensor(ids)
    split = split_by_sample(samples, share=share, seed=seed)
    masks = [split.fitted, split.stopping, split.heldout]
    assert (torch.stack(masks).sum(0) == 1).all()
    sides = [set(samples[mask].tolist()) for mask in masks]
    assert all(sides)
    assert sum(len(side) for side in sides) == len(set(ids))
    again = split_by_sample(samples, share=share, seed=seed)
    assert all(torch.equal(getattr(split, side), getattr(again, side)) for side in ("fitted", "stopping", "heldout"))


def test_the_share_is_of_samples_and_not_of_rows() -> None:
    samples = torch.cat([torch.arange(100), torch.full((5000,), 7)])
    split = split_by_sample(samples, share=0.2, seed=0)
    counts = [len(samples[mask].unique()) for mask in (split.fitted, split.stopping, split.heldout)]
    assert counts == [60, 20, 20]
    other = split_by_sample(samples, share=0.2, seed=1)
    assert not torch.equal(split.heldout, other.heldout)


def test_fewer_than_five_samples_are_refused() -> None:
    with pytest.raises(DataError, match="statistics of 4 samples; expected at least 5"):
        split_by_sample(torch.arange(4).repeat(100), share=0.2, seed=0)


def test_a_metric_without_any_value_is_told_as_such(tmp_path: Path) -> None:
    rows = StoreWriter(tmp_path / "stats", SPEC)
    rows.append(torch.full((7, 3), torch.nan), torch.full((7,), torch.nan), torch.arange(7), regime=0)
    rows.mark(1)
    rows.close()
    StoreWriter(tmp_path / "moves", MOVED).close()
    empty = StatsStore.open(tmp_path / "stats"), StatsStore.open(tmp_path / "moves")
    with pytest.raises(DataError, match=r"stats: all 7 rows are undefined: .* `surrogate plugins check`"):
        finish(fitting(empty, tmp_path))


def test_a_fit_follows_the_loss_on_samples_it_has_not_seen(
    stores: tuple[StatsStore, StatsStore], tmp_path: Path
) -> None:
    fitted, report = finish(fitting(stores, tmp_path))
    assert report["spearman"] > 0.95
    assert report["r2"] > 0.9
    assert report["wrong_sign"] < 0.1
    data = stores[0].read()
    heldout = split_by_sample(data.sample, share=SETTINGS.holdout, seed=1).heldout
    expected = fidelity(fitted(data.stats)[heldout], data.value[heldout], data.sample[heldout])
    assert {name: report[name] for name in expected} == expected
    assert report["n_samples"] == 8
    assert list(report["by_regime"]) == ["model", "noisy"]
    noisy = heldout & (data.regime == 1)
    assert report["by_regime"]["noisy"]["mae"] == pytest.approx(
        float((fitted(data.stats) - data.value)[noisy].abs().mean()), rel=1e-5
    )
    assert report["wrong_sign_by_move"] == {
        kind: report["wrong_sign"] if n == 0 else None for n, kind in enumerate(KINDS)
    }


def test_the_surrogate_is_frozen_and_knows_what_it_was_fitted_on(
    stores: tuple[StatsStore, StatsStore], tmp_path: Path
) -> None:
    fitted, _ = finish(fitting(stores, tmp_path, epochs=2, columns=("b", "a")))
    assert (fitted.columns, fitted.inputs) == (("a", "junk", "b"), ("b", "a"))
    assert not fitted.training
    assert not any(p.requires_grad for p in fitted.parameters())
    data = stores[0].read()
    seen = data.stats[split_by_sample(data.sample, share=SETTINGS.holdout, seed=1).fitted][:, [2, 0]]
    torch.testing.assert_close(fitted.mean, seen.mean(0))
    assert torch.equal(fitted.low, seen.amin(0))
    assert torch.equal(fitted.high, seen.amax(0))


def test_a_fit_depends_on_its_seed_alone(stores: tuple[StatsStore, StatsStore], tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, report = finish(fitting(stores, tmp_path / "a", epochs=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second, again = finish(fitting(stores, tmp_path / "b", epochs=3))
    assert same(first, second)
    assert report == again
    assert not same(first, finish(fitting(stores, tmp_path / "c", epochs=3, seed=2))[0])


def test_what_is_held_out_has_no_say_in_the_fit(stores: tuple[StatsStore, StatsStore], tmp_path: Path) -> None:
    samples = stores[0].read().sample
    split = split_by_sample(samples, share=SETTINGS.holdout, seed=1)
    found = {}
    for name, part in {"none": samples[:0], "heldout": samples[split.heldout], "fitted": samples[split.fitted]}.items():
        made = stored(tmp_path / name, odd=part.tolist())
        found[name] = finish(fitting(made, tmp_path / name, epochs=3))
    assert same(found["heldout"][0], found["none"][0])
    assert found["heldout"][1] != found["none"][1]
    assert not same(found["fitted"][0], found["none"][0])


def test_a_killed_fit_ends_in_the_same_bytes(stores: tuple[StatsStore, StatsStore], tmp_path: Path) -> None:
    whole = finish(fitting(stores, tmp_path / "whole"))
    for killed in (0, 1, 19, 20, 21, 39, 40, 41):
        folder = tmp_path / str(killed)
        stage = fitting(stores, folder)
        for _ in range(killed):
            next(stage)
        stage.close()
        found = finish(fitting(stores, folder))
        assert same(found[0], whole[0]), f"killed at {killed}"
        assert found[1] == whole[1], f"killed at {killed}"
        name = "state.safetensors"
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), f"killed at {killed}"


def test_a_killed_fit_goes_on_and_does_not_begin_anew(stores: tuple[StatsStore, StatsStore], tmp_path: Path) -> None:
    stage = fitting(stores, tmp_path)
    for _ in range(26):
        next(stage)
    stage.close()
    told, first, *_ = fitting(stores, tmp_path)
    assert "at most 40 epochs, going on after epoch 20" in told.message
    assert first.step == 21


def test_a_fit_that_gets_no_better_stops(stores: tuple[StatsStore, StatsStore], tmp_path: Path) -> None:
    seen = list(fitting(stores, tmp_path, lr=1e-30, patience=3))
    assert [p.step for p in seen] == [0, 1, 2, 3, 4, 40]
    assert "in 4 epochs" in seen[-1].message


def test_the_weights_with_the_least_error_are_kept(stores: tuple[StatsStore, StatsStore], tmp_path: Path) -> None:
    """With steps this long the error goes up and down; the fit ends with the weights of its least."""
    long = {"lr": 3.0, "epochs": 200, "patience": 6, "slope_weight": 0.0, "sign_weight": 0.0, "order_weight": 0.0}
    errors = [p.values["rmse"] for p in fitting(stores, tmp_path / "a", **long) if p.values]
    assert len(errors) == errors.index(min(errors)) + 1 + 6
    fitted, _ = finish(fitting(stores, tmp_path / "b", **long))
    data = stores[0].read()
    stopping = split_by_sample(data.sample, share=SETTINGS.holdout, seed=1).stopping
    error = float(censored_error(fitted.latent(data.stats[stopping]), data.value[stopping])) ** 0.5
    assert error == pytest.approx(min(errors), rel=1e-5)


def test_what_is_told_as_unseen_is_what_the_fit_holds_out(stores: tuple[StatsStore, StatsStore]) -> None:
    rows, moves = stores
    held = unseen([rows], [moves], settings=SETTINGS, seed=1)
    data = rows.read()
    heldout = split_by_sample(data.sample, share=SETTINGS.holdout, seed=1).heldout
    assert torch.equal(held.rows.stats, data.stats[heldout])
    assert set(held.moves.sample.tolist()) == set(data.sample[heldout].tolist())


def test_a_fit_without_moves_gives_no_verdict_on_signs(tmp_path: Path) -> None:
    rows, _ = stored(tmp_path)
    moves = StoreWriter(tmp_path / "none", MOVED)
    moves.close()
    _, report = finish(fitting((rows, StatsStore.open(tmp_path / "none")), tmp_path, epochs=1))
    assert report["wrong_sign"] is None


def test_what_cannot_be_fitted_is_told(stores: tuple[StatsStore, StatsStore], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="statistics of 3 samples"):
        finish(fitting(stored(tmp_path / "few", samples=3), tmp_path))
    with pytest.raises(UsageError, match=r"no statistic 'c'; known: a, b, junk"):
        finish(fitting(stores, tmp_path, columns=("a", "c")))
    with pytest.raises(DivergedError, match=r"fit: the error is .* in epoch 1; try a lower fit\.lr"):
        finish(fitting(stores, tmp_path, lr=1e20, activation="relu"))
