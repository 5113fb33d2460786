"""Recording statistics: which samples meet in a batch, what a row says, and that a killed collection ends the same."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from surrogate.batches import generator_of
from surrogate.collect import Item, collect, move_columns, plan, sample_ids
from surrogate.engine import Engine
from surrogate.errors import DataError
from surrogate.moves import KINDS, STEPS, direction, move
from surrogate.progress import Progress, Stage, finish
from surrogate.protocols import Dataset, Measure
from surrogate.recipe import CollectRecipe
from surrogate.regimes import change
from surrogate.store import StatsStore, StoreSpec, StoreWriter

Perfect = Callable[[Tensor, Tensor], Tensor]
SIZES = st.fixed_dictionaries(
    {"batch_size": st.integers(1, 9), "passes": st.integers(1, 4), "pools": st.integers(5, 9)}
)


@given(st.integers(0, 60), SIZES, st.integers(0, 99))
def test_at_sample_level_each_pass_goes_through_every_sample(samples: int, sizes: dict[str, int], seed: int) -> None:
    items = plan(samples, CollectRecipe(**sizes), level="sample", seed=seed)
    seen = [index for item in items for index in item.indices]
    assert seen == list(range(samples)) * sizes["passes"]
    assert all(0 < len(item.indices) <= sizes["batch_size"] for item in items)


@pytest.mark.parametrize(
    ("samples", "level", "times"),
    [(20, "sample", 1), (20, "batch", 15), (20, "dataset", 15), (330, "batch", 3), (160, "batch", 8)],
)
def test_without_a_number_of_passes_the_level_decides_and_small_data_is_gone_through_often(
    samples: int, level: str, times: int
) -> None:
    items = plan(samples, CollectRecipe(), level=level, seed=0)
    assert Counter(index for item in items for index in item.indices) == dict.fromkeys(range(samples), times)
    assert level == "sample" or len(items) >= 150


@given(st.integers(0, 60), SIZES, st.integers(0, 99))
def test_at_batch_level_pools_part_the_samples_and_no_batch_mixes_them(
    samples: int, sizes: dict[str, int], seed: int
) -> None:
    settings = CollectRecipe(**sizes)
    items = plan(samples, settings, level="batch", seed=seed)
    assert items == plan(samples, settings, level="batch", seed=seed)
    assert Counter(index for item in items for index in item.indices) == dict.fromkeys(range(samples), sizes["passes"])
    pool_of: dict[int, int] = {}
    for item in items:
        assert 0 < len(item.indices) <= sizes["batch_size"]
        assert 0 <= item.pool < sizes["pools"]
        assert all(pool_of.setdefault(index, item.pool) == item.pool for index in item.indices)
    lengths: dict[int, set[int]] = {}
    for item in items:
        lengths.setdefault(item.pool, set()).add(len(item.indices))
    assert all(max(of_pool) - min(of_pool) <= 1 for of_pool in lengths.values())  # no rest of a few
    sizes_of_pools = Counter(pool_of.values()).values()
    assert max(sizes_of_pools, default=0) - min(sizes_of_pools, default=0) <= 1
    assert len(sizes_of_pools) == min(samples, sizes["pools"])


def test_at_batch_level_each_pass_draws_other_batches() -> None:
    items = plan(60, CollectRecipe(batch_size=5, passes=2, pools=5), level="batch", seed=0)
    half = len(items) // 2
    first, second = ({frozenset(item.indices) for item in part} for part in (items[:half], items[half:]))
    assert first.isdisjoint(second)
    other = plan(60, CollectRecipe(batch_size=5, passes=2, pools=5), level="batch", seed=1)
    assert items != other


def test_rows_are_of_their_samples_or_of_their_pool() -> None:
    assert sample_ids(Item([4, 9], pool=-1), 2).tolist() == [4, 9]
    assert sample_ids(Item([4, 9], pool=-1), 6).tolist() == [4, 4, 4, 9, 9, 9]
    pooled = sample_ids(Item([4, 9], pool=0), 3)
    assert pooled.tolist() == [0, 0, 0]
    assert pooled.dtype == torch.int64


def test_columns_of_moves_are_the_statistics_and_their_speeds(measure: Measure) -> None:
    assert move_columns(measure) == ("truth", "sure", "d_truth", "d_sure", "change_under_noise")


class Collection:
    """A collection in a folder, begun or gone on with at each call."""

    def __init__(self, engine: Engine, net: Callable[[], nn.Module], data: Dataset, perfect: Perfect) -> None:
        self.engine, self.net, self.data, self.perfect = engine, net, data, perfect

    def __call__(self, folder: Path, measure: Measure, **settings: Any) -> Stage[None]:
        recipe = CollectRecipe.model_validate({"batch_size": 5, "shard_rows": 9, **settings})
        spec = StoreSpec(
            app="none",
            measure="made",
            measure_version=1,
            level=measure.level,
            columns=measure.columns,
            regimes=recipe.regimes,
            policies={},
        )
        moved = dataclasses.replace(spec, columns=move_columns(measure), regimes=KINDS)
        return collect(
            self.engine,
            self.net(),
            self.data,
            measure,
            self.perfect,
            rows=StoreWriter(folder / "stats", spec, shard_rows=recipe.shard_rows),
            moves=StoreWriter(folder / "moves", moved, shard_rows=max(1, 20 - recipe.shard_rows)),
            settings=recipe,
            seed=4,
        )


class Holed:
    """A data set whose sample 3 is unknown altogether."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def load(self, index: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        inputs, targets = self.data.load(index, generator)
        return inputs, torch.full_like(targets, -1) if index == 3 else targets

    def name(self, index: int) -> str:
        return self.data.name(index)


@pytest.fixture
def collection(engine: Engine, net: Callable[[], nn.Module], scenes: Dataset, perfect: Perfect) -> Collection:
    return Collection(engine, net, Holed(scenes), perfect)


@pytest.fixture
def batch_measure(measure: Measure) -> Measure:
    """The mean over the batch of both numbers, a row for a batch."""
    return dataclasses.replace(
        measure,
        level="batch",
        metric=lambda o, t, /: measure.metric(o, t).nanmean(0, keepdim=True),
        stats=lambda o, t, /: measure.stats(o, t).nanmean(0, keepdim=True),
    )


def batches(collection: Collection) -> Iterator[tuple[int, list[int], Tensor, Tensor]]:
    """The outputs that a collection at sample level is about, by hand."""
    for number, start in enumerate(range(0, 12, 5)):
        indices = list(range(start, min(start + 5, 12)))
        yield number, indices, *outputs_of(collection, indices)


def outputs_of(collection: Collection, indices: list[int]) -> tuple[Tensor, Tensor]:
    """The model's outputs for the samples, and their targets."""
    samples = [collection.data.load(i, None) for i in indices]
    inputs, targets = (torch.stack(part) for part in zip(*samples, strict=True))
    with torch.no_grad():
        return collection.net().eval()(inputs), targets


def test_a_row_for_each_sample_and_regime_with_its_loss_and_statistics(
    collection: Collection, measure: Measure, tmp_path: Path
) -> None:
    names = ("model", "noisy", "towards")
    finish(collection(tmp_path, measure, regimes=names))
    store = StatsStore.open(tmp_path / "stats")
    found = store.read()
    assert (store.rows, store.undefined, store.complete) == (3 * 11, 3, True)
    place = 0
    for number, indices, outputs, targets in batches(collection):
        generator = generator_of(4, number)
        for regime, name in enumerate(names):
            changed = change(name, outputs, collection.perfect(outputs, targets), generator)
            defined = torch.tensor([index != 3 for index in indices])
            rows = slice(place, place := place + int(defined.sum()))
            assert found.sample[rows].tolist() == [index for index in indices if index != 3]
            assert set(found.regime[rows].tolist()) == {regime}
            assert torch.equal(found.stats[rows], measure.stats(changed, targets)[defined])
            torch.testing.assert_close(found.value[rows], 1.0 - measure.metric(changed, targets)[defined])
    assert place == store.rows


def test_a_move_of_each_sample_as_often_as_asked_for(collection: Collection, measure: Measure, tmp_path: Path) -> None:
    finish(collection(tmp_path, measure, regimes=("model",), moves=3))
    store = StatsStore.open(tmp_path / "moves")
    found = store.read()
    assert Counter(found.sample.tolist()) == dict.fromkeys(set(range(12)) - {3}, 3)
    assert set(found.regime.tolist()) == set(range(len(KINDS)))
    rows = StatsStore.open(tmp_path / "stats").read()
    for sample in (0, 7, 11):
        unmoved = rows.stats[rows.sample == sample][0]
        before = found.stats[found.sample == sample][:, :2]
        torch.testing.assert_close(before, unmoved.expand_as(before))
    towards = found.regime == KINDS.index("towards")
    assert (found.stats[towards, 2] >= 0).all()  # the probability of the truth rises
    assert (found.value[towards] <= 0).all()
    assert found.value.abs().max() < 0.5


def test_moves_are_drawn_anew_in_each_batch_and_kinds_take_turns(
    collection: Collection, measure: Measure, tmp_path: Path
) -> None:
    finish(collection(tmp_path, measure, regimes=("model", "away"), moves=2, noise=0.5))
    found = StatsStore.open(tmp_path / "moves").read()
    place = turn = 0
    for number, indices, outputs, targets in batches(collection):
        generator = generator_of(4, number, 1)
        for place_in_batch in range(2):
            kind, turn = turn % len(KINDS), turn + 1
            start, ideal = outputs, collection.perfect(outputs, targets)
            if KINDS[kind] == "reach":
                regime = ("model", "away")[int(torch.randint(2, (), generator=generator))]
                start = change(regime, outputs, ideal, generator)
            way = direction(KINDS[kind], start, ideal, generator)
            step = STEPS[KINDS[kind]]
            noise = torch.randn(outputs.shape, generator=generator_of(4, number, 3, place_in_batch))
            noise = 0.5 * start.std(correction=0) * noise
            expected = move(measure, start, targets, way, step=step, noise=noise)
            defined = torch.tensor([index != 3 for index in indices])
            rows = slice(place, place := place + int(defined.sum()))
            assert set(found.regime[rows].tolist()) == {kind}
            columns = [expected.stats, step * expected.velocity, expected.smoothed.unsqueeze(1)]
            assert torch.equal(found.stats[rows], torch.cat(columns, 1)[defined])
            assert torch.equal(found.value[rows], expected.change[defined])
    assert place == len(found.value)


def test_no_moves_are_recorded_where_none_are_asked_for(
    collection: Collection, measure: Measure, tmp_path: Path
) -> None:
    finish(collection(tmp_path, measure, moves=0))
    assert StatsStore.open(tmp_path / "moves").rows == 0
    assert StatsStore.open(tmp_path / "moves").complete


def test_at_batch_level_rows_are_of_their_pool(collection: Collection, batch_measure: Measure, tmp_path: Path) -> None:
    finish(collection(tmp_path, batch_measure, regimes=("model",), pools=5, batch_size=3, passes=2))
    store = StatsStore.open(tmp_path / "stats")
    assert store.read().sample.tolist() == [0, 1, 2, 3, 4] * 2  # 12 samples: pools of 3, 3, 2, 2, 2


def test_at_dataset_level_rows_are_of_all_batches_of_a_pass_so_far(
    collection: Collection, dataset_measure: Measure, tmp_path: Path
) -> None:
    finish(collection(tmp_path, dataset_measure, regimes=("model",), pools=5, batch_size=1, passes=1))
    rows = StatsStore.open(tmp_path / "stats").read()
    items = plan(12, CollectRecipe(pools=5, batch_size=1, passes=1), level="dataset", seed=4)
    assert [item.first for item in items] == [True, False, False] * 2 + [True, False] * 3
    expected, sums = [], torch.zeros(1, 3)
    for item in items:
        outputs, targets = outputs_of(collection, item.indices)
        sums = sums * (not item.first) + dataset_measure.additive.sums(outputs, targets).sum(0)
        if sums[0, 2] > 0:
            expected.append([sums[0, 0] / sums[0, 2], 1.0 - sums[0, 1] / sums[0, 2]])
    found = torch.cat([rows.stats, rows.value[:, None]], 1)
    assert torch.allclose(found.double(), torch.tensor(expected).double(), atol=1e-6)


def test_a_metric_that_is_out_of_its_bounds_is_told(collection: Collection, measure: Measure, tmp_path: Path) -> None:
    in_per_cent = dataclasses.replace(measure, metric=lambda o, t, /: 100.0 * measure.metric(o, t))
    with pytest.raises(DataError, match=r"metric: .*, out of its bounds \(0.0, 1.0\); set the bounds"):
        finish(collection(tmp_path, in_per_cent))


def test_progress_counts_batches(collection: Collection, measure: Measure, tmp_path: Path) -> None:
    seen = list(collection(tmp_path, measure))
    assert seen[:3] == [Progress("collect", n, 3) for n in (1, 2, 3)]
    assert [p.message for p in seen[3:]] == ["collected statistics of 3 batches"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("level", ["sample", "batch", "dataset"])
@pytest.mark.parametrize("shard_rows", [1, 14, 1000])
def test_a_killed_collection_ends_in_the_same_bytes(
    shard_rows: int,
    level: str,
    collection: Collection,
    measure: Measure,
    batch_measure: Measure,
    dataset_measure: Measure,
    tmp_path: Path,
) -> None:
    made = {"sample": measure, "batch": batch_measure, "dataset": dataset_measure}[level]
    settings = {"shard_rows": shard_rows, "passes": 2, "batch_size": 3, "pools": 5, "regimes": ("model", "noisy")}
    if level == "dataset":  # several batches to a pool: what was killed goes on with their sums
        settings |= {"passes": 1, "batch_size": 1}
    finish(collection(tmp_path / "whole", made, **settings))
    expected = contents(tmp_path / "whole")
    events = len(list(collection(tmp_path / "count", made, **settings)))
    for killed in range(events + 1):
        folder = tmp_path / str(killed)
        stage = collection(folder, made, **settings)
        for _ in range(killed):
            next(stage)
        stage.close()
        finish(collection(folder, made, **settings))
        assert contents(folder) == expected, f"killed at {killed}"


def test_killed_between_the_two_stores(
    collection: Collection, measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(collection(tmp_path / "whole", measure))
    close, calls = StoreWriter.close, []

    def killed(writer: StoreWriter) -> None:
        calls.append(writer)
        if len(calls) == 2:
            raise KeyboardInterrupt
        close(writer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StoreWriter, "close", killed)
        finish(collection(tmp_path / "torn", measure))
    finish(collection(tmp_path / "torn", measure))
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")
