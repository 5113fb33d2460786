"""The two stores that a model's statistics go to, rows and moves: what they are of, and that they still are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from surrogate import collect as collecting
from surrogate.errors import UsageError
from surrogate.moves import KINDS
from surrogate.progress import Stage
from surrogate.recipe import read_toml
from surrogate.rundir import RunDir
from surrogate.store import StatsStore, StoreSpec, StoreWriter
from surrogate.work import Work


def record(work: Work, model: nn.Module, rows: Path, moves: Path) -> Stage[None]:
    """Rows and moves of a model on the training split, into two stores; what is there of them is continued."""
    settings = work.recipe.collect
    of_rows, of_moves = _specs(work)
    yield from collecting.collect(
        work.engine,
        model,
        work.task.dataset("train"),
        work.measure,
        work.task.perfect,
        rows=StoreWriter(rows, of_rows, shard_rows=settings.shard_rows),
        moves=StoreWriter(moves, of_moves, shard_rows=settings.shard_rows),
        settings=settings,
        seed=work.recipe.seed,
    )


def is_recorded(rows: Path, moves: Path) -> bool:
    """Whether both stores are complete, of whatever they are."""
    return StatsStore.is_complete(rows) and StatsStore.is_complete(moves)


def opened(work: Work, rows: Path, moves: Path) -> tuple[StatsStore, StatsStore]:
    """Both stores, to read.

    Raises:
        UsageError: one holds statistics of something else, such as an older version of the measure.
        DataError: one is damaged.
    """
    stores = StatsStore.open(rows), StatsStore.open(moves)
    if differing := _differing(work, *stores):
        raise UsageError(
            f"{rows} and {moves}: hold statistics of another {', '.join(differing)} than this run's; delete both "
            "folders to collect anew, or name a new folder with --run"
        )
    return stores


def replay(work: Work, surrogate: Path) -> tuple[Path, Path] | None:
    """The stores beside a surrogate's file, where they are of what this run's would be; None where there are none.

    Of the same samples in the same pools too: else what is held out of one store is fitted in the other.
    """
    run = RunDir(surrogate.parent)
    pair = run.stats, run.moves
    if not is_recorded(*pair) or _differing(work, *map(StatsStore.open, pair)) or not run.recipe.exists():
        return None
    theirs, ours = read_toml(run.recipe), work.recipe.model_dump(mode="json", exclude_none=True)
    alike = all(_at(theirs, key) == _at(ours, key) for key in ("seed", "data", "collect.pools"))
    return pair if alike else None


def _at(settings: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        settings = settings.get(name, {})
    return settings


def _differing(work: Work, *stores: StatsStore) -> list[str]:
    pairs = zip(_specs(work), stores, strict=True)
    return sorted({key for spec, store in pairs for key in spec.differing_keys(store.spec)})


def _specs(work: Work) -> tuple[StoreSpec, StoreSpec]:
    rows = StoreSpec(
        app=work.recipe.app,
        measure=work.recipe.measure.name,
        measure_version=work.measure.version,
        level=work.measure.level,
        columns=work.measure.columns,
        regimes=work.recipe.collect.regimes,
        policies={**work.task.facts, **work.recipe.measure.options},
    )
    return rows, dataclasses.replace(rows, columns=collecting.move_columns(work.measure), regimes=KINDS)
