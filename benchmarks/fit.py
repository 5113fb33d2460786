"""An epoch of the fit, 8-100-100-100-100-1, against scikit-learn and against the usual DataLoader loop."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from sklearn.neural_network import MLPRegressor
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import Case, seconds, summary
from benchmarks.rows import Row, Settings, rate, row
from benchmarks.store import random_rows, write
from surrogate.approximator import Surrogate
from surrogate.fit import fit, split_by_sample
from surrogate.progress import Progress
from surrogate.recipe import FitRecipe
from surrogate.shard import Rows

SUBJECT = "fit"
COLUMNS = tuple(f"s{k}" for k in range(8))
_FOREVER = 10_000
"""Epochs: a benchmark ends before."""


def epochs(rows: Rows, folder: Path, *, device: torch.device, **changes: Any) -> tuple[Iterator[Progress], int]:
    """The stage `fit` over a store of the rows: each `next` is one epoch. And how many rows it is fitted to."""
    settings = FitRecipe(epochs=_FOREVER, patience=_FOREVER, **changes)
    moved = random_rows(len(rows.value) // 10, 2 * len(COLUMNS) + 1)
    moved.value.sub_(0.5)  # a change of the loss has both signs, and so has that under noise
    moved.stats[:, -1] -= 0.5
    stores = [write(folder / "rows", rows, COLUMNS)]
    moves = [write(folder / "moves", moved, [*COLUMNS, *(f"d_{name}" for name in COLUMNS), "change_under_noise"])]
    fitted = split_by_sample(rows.sample, share=settings.holdout, seed=0).fitted
    stage = fit(stores, moves, settings=settings, seed=0, device=device, state=folder / "state.pt")
    next(stage)  # reads, splits, standardises
    return stage, int(fitted.sum())


def run(settings: Settings) -> Iterator[Row]:
    """Rows a second of each, all in the same rounds; the values alone, as the rivals fit them, and with the slopes."""
    rows = random_rows(2_000 if settings.tiny else 100_000, len(COLUMNS))
    for batch in (1024,) if settings.tiny else (1024, 4096):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield from _by_batch(settings, rows, folder, batch)


def _by_batch(settings: Settings, rows: Rows, folder: Path, batch: int) -> Iterator[Row]:
    device = settings.device
    ours, fitted = epochs(
        rows, folder / "values", device=device, batch_size=batch, slope_weight=0.0, sign_weight=0.0, order_weight=0.0
    )
    slopes, _ = epochs(rows, folder / "slopes", device=device, batch_size=batch)
    cases = {
        "fit, values alone": Case(lambda: next(ours)),
        "fit, values and slopes": Case(lambda: next(slopes)),
        "MLPRegressor": _sklearn(rows, fitted, batch),
        "DataLoader loop": _loader(rows, fitted, batch, device),
    }
    taken = seconds(cases, settings.plan, anchor="fit, values alone")
    case = f"{fitted} rows, batch {batch}"
    for name, times in taken.items():
        yield rate(SUBJECT, name, case, times, fitted / 1e6, unit="M rows/s")
    for rival in ("MLPRegressor", "DataLoader loop"):
        for name in ("fit, values alone", "fit, values and slopes"):
            faster = summary([theirs / ours for ours, theirs in zip(taken[name], taken[rival], strict=True)])
            yield row(SUBJECT, f"{name}, times faster", case, faster, anchor=rival, unit="times")


def _sklearn(rows: Rows, count: int, batch: int) -> Case:
    regressor = MLPRegressor(
        hidden_layer_sizes=(100,) * 4, activation="tanh", batch_size=batch, learning_rate_init=2e-3, alpha=0.0
    )
    stats, value = rows.stats[:count].numpy(), rows.value[:count].float().numpy()
    return Case(lambda: regressor.partial_fit(stats, value))


def _loader(rows: Rows, count: int, batch: int, device: torch.device) -> Case:
    data = TensorDataset(rows.stats[:count], rows.value[:count].float())
    network = Surrogate(COLUMNS).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)

    def epoch() -> None:
        for stats, value in DataLoader(data, batch_size=batch, shuffle=True):
            loss = nn.functional.mse_loss(network.latent(stats.to(device)), value.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return Case(epoch)
