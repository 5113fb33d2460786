"""Fitting the approximator to recorded statistics (NeuroIoU, Section 3.1)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surrogate.approximator import Surrogate
from surrogate.batches import generator_of, seed_of
from surrogate.checkpoint import load_state, save_state
from surrogate.errors import DataError, DivergedError
from surrogate.heldout import Analytic, HeldOut, held_out, report
from surrogate.objective import Asked, Scale, asked, objective, scale_of
from surrogate.progress import Progress, Stage
from surrogate.recipe import FitRecipe
from surrogate.store import Rows, StatsStore

_SAVE_EVERY = 20
"""Epochs between checkpoints: an epoch is a fraction of a second, so more would cost more than it saves."""
_LEAST_SPREAD = 1e-3
"""Of the losses: rows that are all alike have none to measure errors by."""


@dataclass(frozen=True, slots=True)
class Split:
    """Row masks `(N,)`, disjoint by sample: fitted on, early stopping, and reported."""

    fitted: Tensor
    stopping: Tensor
    heldout: Tensor


def split_by_sample(samples: Tensor, *, share: float, seed: int) -> Split:
    """Cuts `(N,)` sample ids so that no sample is on two sides: `share` held out for the report, as much for stopping.

    Raises:
        DataError: fewer than five samples.
    """
    from sklearn.model_selection import GroupShuffleSplit  # more than a second that only a fit should pay

    unique = torch.unique(samples)
    if len(unique) < 5:
        raise DataError(f"statistics of {len(unique)} samples; expected at least 5 to fit on some and test on others")
    ids = unique.cpu().numpy()
    kept, heldout = next(GroupShuffleSplit(1, test_size=share, random_state=seed).split(ids, groups=ids))
    inner = GroupShuffleSplit(1, test_size=min(share / (1 - share), 0.5), random_state=seed)
    _, stopping = next(inner.split(kept, groups=kept))
    masks = [torch.isin(samples, unique[torch.as_tensor(part)]) for part in (kept[stopping], heldout)]
    return Split(~(masks[0] | masks[1]), *masks)


def fit(
    rows: Sequence[StatsStore],
    moves: Sequence[StatsStore],
    *,
    settings: FitRecipe,
    seed: int,
    device: torch.device,
    state: Path,
    analytic: Callable[[Tensor], Tensor] | None = None,
    directions: tuple[int, ...] = (),
) -> Stage[tuple[Surrogate, dict[str, Any]]]:
    """Fits a surrogate to the rows of stores of one spec, held on the device as a whole.

    `directions` of all the columns, or none, make the surrogate monotone. `analytic` gives the loss that the hand-made
    soft form of the metric sees in the statistics, for the report.

    Stops early when the error on samples set aside for it does not fall any more, and keeps the best weights. Its
    progress is saved to `state`; a killed fit continues and ends in the same bytes (on a CPU).

    Returns:
        The surrogate, and its fidelity on held-out samples (see `surrogate.heldout.report`).

    Raises:
        DataError: too few samples.
        DivergedError: the error is no longer finite.
    """
    data, moved = _read(rows), _read(moves)
    spec = rows[0].spec
    if not len(data.value):
        undefined = sum(store.undefined for store in rows)
        raise DataError(
            f"{rows[0].folder}: all {undefined} rows are undefined: the metric has no value anywhere (a plain function "
            "that raises a ValueError has none); `surrogate plugins check` may tell why"
        )
    split = split_by_sample(data.sample, share=settings.holdout, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed))
        surrogate = Surrogate(
            spec.columns,
            inputs=settings.columns,
            depth=settings.depth,
            width=settings.width,
            activation=settings.activation,
            directions=[directions[spec.columns.index(n)] for n in settings.columns or spec.columns]
            if directions
            else (),
        )
    surrogate.standardise(data.stats[split.fitted])
    surrogate.to(device)
    learned, aside = (torch.isin(moved.sample, data.sample[part]) for part in (split.fitted, split.stopping))
    slopes = asked(moved, learned).to(device)
    yield from _descend(
        surrogate,
        _on(device, data, split.fitted),
        _on(device, data, split.stopping),
        slopes.part(learned.to(device)),
        slopes.part(aside.to(device)),
        settings=settings,
        seed=seed,
        state=state,
    )
    surrogate.cpu().requires_grad_(False).eval()
    held = held_out(data, moved, split.heldout, spec.regimes)
    found = report(surrogate, held)
    if analytic is not None:
        found["analytic"] = report(Analytic(analytic), held)
    return surrogate, found


def unseen(rows: Sequence[StatsStore], moves: Sequence[StatsStore], *, settings: FitRecipe, seed: int) -> HeldOut:
    """What a fit of these stores by these settings holds out."""
    data = _read(rows)
    split = split_by_sample(data.sample, share=settings.holdout, seed=seed)
    return held_out(data, _read(moves), split.heldout, rows[0].spec.regimes)


def _read(stores: Sequence[StatsStore]) -> Rows:
    """The rows of all stores, one after the other."""
    parts = [store.read() for store in stores]
    return Rows(*(torch.cat([getattr(part, field) for part in parts]) for field in Rows.__slots__))


def _on(device: torch.device, data: Rows, mask: Tensor) -> tuple[Tensor, Tensor]:
    return data.stats[mask].to(device), data.value[mask].to(device, torch.float32)


def _descend(
    surrogate: Surrogate,
    fitted: tuple[Tensor, Tensor],
    stopping: tuple[Tensor, Tensor],
    moved: Asked,
    aside: Asked,
    *,
    settings: FitRecipe,
    seed: int,
    state: Path,
) -> Stage[None]:
    """Adam, with the learning rate falling along a half cosine; leaves the weights with the least error on what was set
    aside for stopping: rows, and moves of the same samples."""
    optimizer = torch.optim.Adam(surrogate.parameters(), lr=settings.lr, fused=True)
    notes: dict[str, Any] = {"epoch": 0, "best": math.inf, "best_rmse": math.inf, "best_epoch": 0}
    best = copy.deepcopy(surrogate)
    both = torch.nn.ModuleDict({"surrogate": surrogate, "best": best})
    scale = scale_of(fitted[1], least=_LEAST_SPREAD)
    if state.exists():
        notes = load_state(state, both, optimizer)
    begun = f", going on after epoch {notes['epoch']}" if notes["epoch"] else ""
    message = f"fit: {len(fitted[1])} rows, at most {settings.epochs} epochs{begun}"
    yield Progress("fit", notes["epoch"], settings.epochs, message=message)
    while notes["epoch"] < settings.epochs and notes["epoch"] - notes["best_epoch"] < settings.patience:
        epoch = notes["epoch"]
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
        _epoch(surrogate, optimizer, fitted, moved, settings, scale, generator_of(seed, epoch))
        with torch.no_grad():
            value, whole = map(float, objective(surrogate, stopping, aside, settings, scale=scale))
        if not math.isfinite(whole):
            raise DivergedError(f"fit: the error is {whole} in epoch {epoch + 1}; try a lower fit.lr in a new --run")
        notes["epoch"] = epoch + 1
        if whole < notes["best"]:
            notes |= {"best": whole, "best_rmse": value**0.5, "best_epoch": epoch + 1}
            best.load_state_dict(surrogate.state_dict())
        if notes["epoch"] % _SAVE_EVERY == 0:
            save_state(state, both, optimizer, notes)
        yield Progress("fit", epoch + 1, settings.epochs, values={"rmse": value**0.5})
    surrogate.load_state_dict(best.state_dict())
    found = f"fitted to {len(fitted[1])} rows in {notes['epoch']} epochs, best rmse {notes['best_rmse']:.4f}"
    yield Progress("fit", settings.epochs, settings.epochs, message=found)


def _epoch(
    surrogate: Surrogate,
    optimizer: torch.optim.Optimizer,
    fitted: tuple[Tensor, Tensor],
    moved: Asked,
    settings: FitRecipe,
    scale: Scale,
    generator: torch.Generator,
) -> None:
    """One pass over the fitted rows, each batch next to as many moves drawn at random."""
    stats, value = fitted
    order = torch.randperm(len(value), generator=generator)
    for start in range(0, len(order), settings.batch_size):
        rows = order[start : start + settings.batch_size].to(value.device)
        drawn = torch.randint(max(len(moved.change), 1), (len(rows),), generator=generator).to(value.device)
        chosen = moved.part(drawn) if len(moved.change) else moved
        _, error = objective(surrogate, (stats[rows], value[rows]), chosen, settings, scale=scale)
        optimizer.zero_grad(set_to_none=True)
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
